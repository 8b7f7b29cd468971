//! Which gateway node carries which EIP.
//!
//! Nothing moves while it works. An EIP gets another node only when its own can't carry it any more, or when another
//! gateway has taken it over and says so: the gateways see one another's death long before anybody else, so what they
//! claim is what is.

use std::collections::{BTreeMap, BTreeSet};

use model::EipPair;
use model::policy::PolicyKey;
use model::tunnel::Phase;

use crate::eips::{Allocation, Grant};
use crate::gateways::{Examined, Gateways};
use crate::moves::{self, Moves};
use crate::outcome::TunnelPlan;
use crate::snapshot::ClusterSnapshot;

/// Where everything is; `None` while no node can carry it.
#[derive(Clone, Debug, Default)]
pub struct Placement<'a> {
    /// The node of each EIP in use
    pub of_eip: BTreeMap<EipPair, Option<&'a str>>,
    /// The node whose own address each policy's pods leave with, of those that ask for one
    pub lenders: BTreeMap<&'a PolicyKey, Option<&'a str>>,
    /// What became of moves that people asked for, by gateway
    pub moves: BTreeMap<&'a str, Moves>,
}

/// Places every EIP in use, and every policy that is to leave with a node's own address.
#[must_use]
pub fn place<'a>(
    snapshot: &'a ClusterSnapshot,
    gateways: &Gateways<'a>,
    tunnels: &BTreeMap<String, TunnelPlan>,
    allocation: &Allocation<'a>,
) -> Placement<'a> {
    let claims = claims(snapshot);
    let mut load: BTreeMap<&str, usize> = BTreeMap::new();
    let mut placement = Placement::default();
    let mut homeless: Vec<(EipPair, BTreeSet<&'a str>)> = Vec::new();
    let mut targets: BTreeMap<EipPair, &str> = BTreeMap::new();
    for (name, examined) in gateways.by_name.iter().filter(|(_, it)| !it.record.moves.is_empty()) {
        let (of_gateway, moves) = moves::examine(snapshot, name, examined, tunnels, allocation, &claims);
        targets.extend(of_gateway);
        placement.moves.insert(name, moves);
    }
    for (eip, (gateway, policies)) in &allocation.eips {
        let Some(examined) = gateways.by_name.get(gateway) else {
            continue;
        };
        let able = able(examined, tunnels);
        let current = current(snapshot, examined, *eip, policies).filter(|node| able.contains(node));
        let asked = targets.get(eip).copied();
        match asked.or_else(|| settle(current, claims.get(eip), &able)) {
            Some(node) => {
                *load.entry(node).or_default() += 1;
                placement.of_eip.insert(*eip, Some(node));
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
        placement.of_eip.insert(eip, node);
    }
    lend(snapshot, gateways, tunnels, allocation, &mut load, &mut placement);
    placement
}

/// Gives policies that ask for a node's own address a node: the one that they have, else the one with the fewest.
fn lend<'a>(
    snapshot: &'a ClusterSnapshot,
    gateways: &Gateways<'a>,
    tunnels: &BTreeMap<String, TunnelPlan>,
    allocation: &Allocation<'a>,
    load: &mut BTreeMap<&'a str, usize>,
    placement: &mut Placement<'a>,
) {
    let borrowers = allocation.of_policy.iter().filter(|(_, grant)| **grant == Ok(Grant::NodeAddress));
    let mut able_of: BTreeMap<&str, BTreeSet<&'a str>> = BTreeMap::new();
    let mut homeless: Vec<(&'a PolicyKey, &'a str)> = Vec::new();
    for (key, _) in borrowers {
        let Some(Ok(gateway)) = gateways.of_policy.get(key) else { continue };
        let Some(examined) = gateways.by_name.get(gateway) else { continue };
        let able = able_of.entry(gateway).or_insert_with(|| able(examined, tunnels));
        let told = snapshot.policies.get(*key).and_then(|record| record.status.node.as_deref());
        let current = told.or_else(|| {
            let mut nodes = examined.record.status.nodes.iter();
            nodes.find(|(_, node)| node.lent_to.contains(key)).map(|(name, _)| name.as_str())
        });
        match current.and_then(|node| able.get(node).copied()) {
            Some(node) => {
                *load.entry(node).or_default() += 1;
                placement.lenders.insert(key, Some(node));
            }
            None => homeless.push((key, gateway)),
        }
    }
    for (key, gateway) in homeless {
        let able = able_of.get(gateway).into_iter().flatten().copied();
        let node = able.min_by_key(|node| (load.get(node).copied().unwrap_or(0), *node));
        node.into_iter().for_each(|node| *load.entry(node).or_default() += 1);
        placement.lenders.insert(key, node);
    }
}

/// Nodes of a gateway that can carry traffic.
pub(crate) fn able<'a>(examined: &Examined<'a>, tunnels: &BTreeMap<String, TunnelPlan>) -> BTreeSet<&'a str> {
    let ready = |node: &&&str| tunnels.get(**node).is_some_and(|tunnel| tunnel.phase == Phase::Ready);
    examined.nodes.iter().filter(ready).copied().collect()
}

/// Where the gateway's status says that the EIP is, as far as that node is still one of its own. Where it does not say so yet
/// the policies that leave with the EIP do.
pub(crate) fn current<'a>(
    snapshot: &ClusterSnapshot,
    examined: &Examined<'a>,
    eip: EipPair,
    policies: &BTreeSet<&PolicyKey>,
) -> Option<&'a str> {
    let mut nodes = examined.record.status.nodes.iter();
    let listed = nodes.find(|(_, node)| node.eips.contains_key(&eip)).map(|(name, _)| name.as_str());
    let told = || {
        let statuses = policies.iter().filter_map(|key| Some(&snapshot.policies.get(*key)?.status));
        statuses.filter(|status| status.eip == Some(eip)).find_map(|status| status.node.as_deref())
    };
    examined.nodes.get(listed.or_else(told)?).copied()
}

pub(crate) type Claims<'a> = BTreeMap<EipPair, BTreeMap<&'a str, i64>>;

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
pub(crate) fn settle<'a>(
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
