//! Which gateway node carries which EIP.
//!
//! Nothing moves while it works. An EIP gets another node only when its own can't carry it any more, or when another
//! gateway has taken it over and says so: the gateways see one another's death long before anybody else, so what they
//! claim is what is.

use std::collections::{BTreeMap, BTreeSet};

use model::EipPair;
use model::tunnel::Phase;

use crate::eips::Allocation;
use crate::gateways::{Examined, Gateways};
use crate::outcome::TunnelPlan;
use crate::snapshot::ClusterSnapshot;

/// The node of each EIP in use; `None` while no node can carry it.
pub type Placement<'a> = BTreeMap<EipPair, Option<&'a str>>;

/// Places every EIP in use.
#[must_use]
pub fn place<'a>(
    snapshot: &'a ClusterSnapshot,
    gateways: &Gateways<'a>,
    tunnels: &BTreeMap<String, TunnelPlan>,
    allocation: &Allocation<'a>,
) -> Placement<'a> {
    let claims = claims(snapshot);
    let mut load: BTreeMap<&str, usize> = BTreeMap::new();
    let mut placement = Placement::new();
    let mut homeless: Vec<(EipPair, BTreeSet<&'a str>)> = Vec::new();
    for (eip, (gateway, _)) in &allocation.eips {
        let Some(examined) = gateways.by_name.get(gateway) else {
            continue;
        };
        let able = able(examined, tunnels);
        let current = current(examined, *eip).filter(|node| able.contains(node));
        match settle(current, claims.get(eip), &able) {
            Some(node) => {
                *load.entry(node).or_default() += 1;
                placement.insert(*eip, Some(node));
            }
            None => homeless.push((*eip, able)),
        }
    }
    // One by one, each to the node with the fewest, so that a dead gateway's EIPs spread over the others.
    for (eip, able) in homeless {
        let node = able.into_iter().min_by_key(|node| (load.get(node).copied().unwrap_or(0), *node));
        if let Some(node) = node {
            *load.entry(node).or_default() += 1;
        }
        placement.insert(eip, node);
    }
    placement
}

/// Nodes of a gateway that can carry traffic.
pub(crate) fn able<'a>(examined: &Examined<'a>, tunnels: &BTreeMap<String, TunnelPlan>) -> BTreeSet<&'a str> {
    let ready = |node: &&&str| tunnels.get(**node).is_some_and(|tunnel| tunnel.phase == Phase::Ready);
    examined.nodes.iter().filter(ready).copied().collect()
}

/// Where the gateway's status says that the EIP is, as far as that node is still one of its own.
fn current<'a>(examined: &Examined<'a>, eip: EipPair) -> Option<&'a str> {
    let mut nodes = examined.record.status.nodes.iter();
    let (name, _) = nodes.find(|(_, node)| node.eips.contains_key(&eip))?;
    examined.nodes.get(name.as_str()).copied()
}

type Claims<'a> = BTreeMap<EipPair, BTreeMap<&'a str, i64>>;

/// Who says that it answers for which EIP, and with which epoch.
fn claims(snapshot: &ClusterSnapshot) -> Claims<'_> {
    let mut claims = Claims::new();
    for (node, record) in &snapshot.tunnels {
        for claim in &record.tunnel.claims {
            let epoch = claims.entry(claim.eip).or_default().entry(node.as_str()).or_insert(claim.epoch);
            *epoch = claim.epoch.max(*epoch);
        }
    }
    claims
}

/// The node that has the EIP: the newest claimant, unless the current one's claim is as new.
fn settle<'a>(
    current: Option<&'a str>,
    claims: Option<&BTreeMap<&'a str, i64>>,
    able: &BTreeSet<&'a str>,
) -> Option<&'a str> {
    let Some(claims) = claims else { return current };
    let able = claims.iter().filter(|(node, _)| able.contains(*node));
    let Some((claimant, epoch)) = able.max_by_key(|(node, epoch)| (**epoch, std::cmp::Reverse(**node)))
    else {
        return current;
    };
    match current {
        Some(node) if claims.get(node).is_some_and(|own| own >= epoch) => Some(node),
        _ => Some(claimant),
    }
}
