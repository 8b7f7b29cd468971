//! What an operator decides about selected traffic that can't, or need not yet, leave with its EIP.

/// What happens to selected traffic while no gateway lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoGatewayAction {
    /// Refused with an ICMP answer, so that the application sees at once
    #[default]
    Reject,
    /// Dropped silently
    Drop,
    /// Leaves as if no policy selected it
    Direct,
}

/// What happens to connections that are older than the policy that would select them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExistingFlows {
    /// They go on as they are
    #[default]
    Keep,
    /// They are cut: the agent deletes them from conntrack, and what they still send leaves with the EIP
    Cut,
}
