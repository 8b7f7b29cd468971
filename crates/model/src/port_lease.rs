//! Port blocks with their holder: what an EgressPortLease says.

use crate::{EipPair, PortBlock};

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockRole {
    /// The holder's own pods leave with it.
    Source,
    /// The holder, a gateway, translates into it for nodes that have no block or a full one.
    Overflow,
}

/// Whether new connections may use a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockState {
    /// They may.
    Active,
    /// Only connections that exist go on.
    Draining,
}

/// A block and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeasedBlock {
    /// The ports
    pub block: PortBlock,
    /// Whether new connections may use it
    pub state: BlockState,
    /// What it is for
    pub role: BlockRole,
}

/// A node's blocks of one EIP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EipLease {
    /// The EgressGateway whose pool the EIP is of
    pub gateway: String,
    /// The EIP
    pub eip: EipPair,
    /// The blocks, in order
    pub blocks: Vec<LeasedBlock>,
}

/// All blocks of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortLease {
    /// Grows with every change
    pub generation: i64,
    /// Leases in order of their EIPs
    pub leases: Vec<EipLease>,
}

impl PortLease {
    /// Number of all blocks.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.leases.iter().map(|lease| lease.blocks.len()).sum()
    }
}
