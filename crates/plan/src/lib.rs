//! The controller's mind: one snapshot of the cluster in, one plan out.
//!
//! ```text
//!   Event -> ClusterSnapshot::absorb -> changed?
//!                 |
//!                 v
//!   plan(&ClusterSnapshot) -> Plan      statuses, leases, slices, notices, each with its reason
//!                 |
//!                 v
//!   violations(&ClusterSnapshot, &Plan) an independent judge: empty, or the plan must not be written
//! ```
//!
//! Invariants: the same objects give the same plan, in whatever order they came; the plan of an applied plan changes
//! nothing; what works is never moved; a bad object harms only itself and is told why.
//!
//! Deliberately absent: wire types, clients, clocks (the time is in the snapshot), randomness, async. Writing the plan is
//! the shell's work, and leaves it no meaningful choice.
//!
//! Start reading at [`snapshot`], then [`plan()`].

pub mod cluster_networks;
pub mod eips;
pub mod endpoint_slices;
pub mod gateways;
pub mod leases;
pub mod outcome;
pub mod placement;
pub mod selection;
pub mod settings;
pub mod snapshot;
pub mod tunnels;
pub mod violations;

pub use outcome::Plan;
pub use selection::Selection;
pub use settings::Settings;
pub use snapshot::{ClusterSnapshot, Event};
pub use violations::violations;

#[cfg(test)]
mod tests;

/// Decides everything that the controller decides.
#[must_use]
pub fn plan(snapshot: &ClusterSnapshot) -> Plan {
    let tunnels = tunnels::plan(snapshot);
    let gateways = gateways::examine(snapshot);
    let allocation = eips::allocate(snapshot, &gateways, &tunnels);
    let placement = placement::place(snapshot, &gateways, &tunnels, &allocation);
    let selection = Selection::of(snapshot);
    let policy_plans = outcome::policy_plans(snapshot, &gateways, &allocation, &placement, &selection);
    let leases = leases::plan(snapshot, &allocation, &selection);
    let gateway_plans =
        outcome::gateway_plans(snapshot, &gateways, &tunnels, &allocation, &placement, &leases.unleased);
    let mut plan = Plan {
        gateways: gateway_plans,
        policies: policy_plans,
        tunnels,
        leases: leases.by_node,
        unleased: leases.unleased,
        wake_at_s: leases.wake_at_s,
        cluster_networks: cluster_networks::plan(snapshot),
        slices: endpoint_slices::plan(snapshot, &selection),
        notices: Vec::new(),
    };
    plan.notices = outcome::notices(snapshot, &plan);
    plan
}
