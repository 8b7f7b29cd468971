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
//! [`Planner`] keeps a plan up to date event by event; what it gives is always what [`plan()`] gives.
//!
//! Start reading at [`snapshot`], then [`plan()`], then [`incremental`].

pub mod admission;
pub mod cluster_networks;
pub mod eips;
pub mod endpoint_slices;
pub mod gateways;
mod heartbeats;
pub mod incremental;
pub mod leases;
pub mod moves;
pub mod outcome;
pub mod placement;
pub mod selection;
pub mod settings;
pub mod snapshot;
pub mod tunnels;
pub mod violations;

pub use incremental::{Changed, Parts, Planner};
pub use outcome::Plan;
pub use selection::Selection;
pub use settings::{Failover, Settings};
pub use snapshot::{ClusterSnapshot, Event};
pub use violations::violations;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::policy::PolicyKey;
use model::{EipPair, IpPool};

use crate::leases::{EipPlan, EipUses, Former};

#[cfg(test)]
mod tests;

/// Decides everything that the controller decides.
#[must_use]
pub fn plan(snapshot: &ClusterSnapshot) -> Plan {
    compute(snapshot, &Selection::of(snapshot), &leases::holders(snapshot), Former::default()).0
}

/// What a plan was made from, kept to plan parts of it again.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Workings {
    /// Who uses each EIP
    pub(crate) uses: EipUses,
    /// The EIP of each policy that has one
    pub(crate) eip_of: BTreeMap<PolicyKey, EipPair>,
    /// Whether every node gets ports before it needs them
    pub(crate) eager: bool,
    /// Nodes that there were
    pub(crate) nodes: BTreeSet<String>,
    /// Who holds which ports of each EIP
    pub(crate) ports: BTreeMap<EipPair, EipPlan>,
    /// All addresses of all pools
    pub(crate) pools: [Option<IpPool>; 2],
    /// When the next move will have failed
    pub(crate) moves_wake_at_s: Option<i64>,
}

impl Workings {
    /// Whether any pool has this address.
    pub(crate) fn is_in_a_pool(&self, address: IpAddr) -> bool {
        self.pools.iter().flatten().any(|pool| pool.contains(address))
    }
}

pub(crate) fn compute(
    snapshot: &ClusterSnapshot,
    selection: &Selection,
    holders: &leases::Holders,
    former: Former<'_>,
) -> (Plan, Workings) {
    let tunnels = tunnels::plan(snapshot);
    let gateways = gateways::examine(snapshot);
    let allocation = eips::allocate(snapshot, &gateways, &tunnels);
    let placement = placement::place(snapshot, &gateways, &tunnels, &allocation);
    let policy_plans = outcome::policy_plans(snapshot, &gateways, &allocation, &placement, selection);
    let uses = leases::uses(&gateways, &allocation);
    let ports = leases::plan(snapshot, &uses, holders, selection, former);
    let gateway_plans =
        outcome::gateway_plans(snapshot, &gateways, &tunnels, &allocation, &placement, &ports);
    let moves_wake_at_s = moves::wake_at_s(snapshot, &gateways);
    let mut plan = Plan {
        gateways: gateway_plans,
        policies: policy_plans,
        tunnels,
        leases: leases::objects(snapshot, &ports),
        unleased: outcome::unleased(&ports),
        wake_at_s: [outcome::wake_at_s(&ports), moves_wake_at_s].into_iter().flatten().min(),
        cluster_networks: cluster_networks::plan(snapshot),
        slices: endpoint_slices::plan(snapshot, selection),
        notices: Vec::new(),
    };
    plan.notices = outcome::notices(snapshot, &plan);
    let eip_of = uses.iter().flat_map(|(eip, usage)| usage.policies.iter().map(|key| (key.clone(), *eip)));
    let eip_of = eip_of.collect();
    let (eager, pools) = (leases::is_eager(snapshot, &uses), [gateways.all_v4, gateways.all_v6]);
    let nodes = snapshot.nodes.keys().cloned().collect();
    (plan, Workings { uses, eip_of, eager, nodes, ports, pools, moves_wake_at_s })
}
