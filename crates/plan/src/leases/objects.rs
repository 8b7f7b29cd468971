//! The objects that say who holds which ports: a node's EIPs are spread over several, so that none grows with the cluster.

use std::collections::{BTreeMap, BTreeSet};

use model::EipPair;
use model::port_lease::{EipLease, LeaseName, PortLease, parts_of};

use super::{Blocks, EipPlan, WRITE_LIFETIME_S};
use crate::snapshot::ClusterSnapshot;

/// The objects that say so: of nodes that hold or held something. One that says nothing now stays, for its generation must
/// only grow.
#[must_use]
pub fn objects(
    snapshot: &ClusterSnapshot,
    plans: &BTreeMap<EipPair, EipPlan>,
) -> BTreeMap<LeaseName, Option<PortLease>> {
    let mut held: BTreeMap<&str, Vec<EipLease>> = BTreeMap::new();
    for (eip, plan) in plans {
        for (node, blocks) in &plan.blocks {
            held.entry(node).or_default().push(lease_of(*eip, plan, blocks));
        }
    }
    let known = snapshot.leases.keys().chain(snapshot.uncertain_leases.keys());
    let nodes: BTreeSet<&str> = known.map(|name| name.node.as_str()).chain(held.keys().copied()).collect();
    let objects =
        nodes.into_iter().flat_map(|node| of_node(snapshot, node, held.remove(node).unwrap_or_default()));
    objects.collect()
}

/// The objects of a node that holds this, in the order of EIPs. An EIP stays in the object that it is in, and a new one goes to
/// the first that has room.
pub(crate) fn of_node(
    snapshot: &ClusterSnapshot,
    node: &str,
    leases: Vec<EipLease>,
) -> Vec<(LeaseName, Option<PortLease>)> {
    let mut part_of: BTreeMap<EipPair, u16> = BTreeMap::new();
    let mut parts: BTreeMap<u16, Vec<EipLease>> = BTreeMap::new();
    let recorded = parts_of(&snapshot.leases, node).map(|(name, record)| (name, &record.lease));
    for (name, lease) in recorded.chain(parts_of(&snapshot.uncertain_leases, node)) {
        parts.entry(name.part).or_default();
        for lease in &lease.leases {
            part_of.entry(lease.eip).or_insert(name.part);
        }
    }
    let (old, new): (Vec<_>, Vec<_>) = leases.into_iter().partition(|lease| part_of.contains_key(&lease.eip));
    for lease in old {
        let part = part_of.get(&lease.eip).copied().unwrap_or_default();
        parts.entry(part).or_default().push(lease);
    }
    let mut first = 0;
    for lease in new {
        let has_room = |part: &u16| {
            parts.get(part).is_none_or(|leases| leases.len() < snapshot.settings.eips_per_lease.max(1))
        };
        // More than all of the parts can hold is more than there are addresses in any cluster.
        first = (first..u16::MAX).find(has_room).unwrap_or(u16::MAX);
        parts.entry(first).or_default().push(lease);
    }
    let objects = parts.into_iter().map(|(part, mut leases)| {
        leases.sort_unstable_by_key(|lease| lease.eip);
        let name = LeaseName::new(node, part);
        let object = object(snapshot, &name, leases);
        (name, object)
    });
    objects.collect()
}

/// When the object of a node that has been gone since then may be deleted.
#[must_use]
pub fn object_ends_at_s(snapshot: &ClusterSnapshot, gone_since_s: i64) -> i64 {
    gone_since_s.saturating_add(snapshot.settings.rest_s.max(WRITE_LIFETIME_S))
}

/// What the object of a node says of an EIP.
#[must_use]
pub fn lease_of(eip: EipPair, plan: &EipPlan, blocks: &Blocks) -> EipLease {
    EipLease { gateway: plan.gateway.clone(), eip, blocks: blocks.values().copied().collect() }
}

/// The object that says this; `None`: there is to be none.
fn object(snapshot: &ClusterSnapshot, name: &LeaseName, leases: Vec<EipLease>) -> Option<PortLease> {
    let node = name.node.as_str();
    let recorded = snapshot.leases.get(name).map(|record| &record.lease);
    let uncertain = snapshot.uncertain_leases.get(name);
    // While the object is there no late creation of an earlier one can succeed.
    let gone_since_s = snapshot.gone_since_s.get(node).copied().unwrap_or(snapshot.now_s);
    let is_awaited = snapshot.now_s < object_ends_at_s(snapshot, gone_since_s);
    let stays = recorded.is_some() && (snapshot.nodes.contains_key(node) || is_awaited);
    if leases.is_empty() && !stays && uncertain.is_none() {
        return None;
    }
    let generation = match recorded {
        Some(recorded) if recorded.leases == leases && uncertain.is_none() => recorded.generation,
        // An object that is written again ends what is uncertain: no earlier write can succeed after that.
        recorded => {
            let last = recorded.into_iter().chain(uncertain).map(|lease| lease.generation).max();
            last.unwrap_or(0).saturating_add(1)
        }
    };
    Some(PortLease { generation, leases })
}
