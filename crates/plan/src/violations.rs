//! The judge: looks at a plan without knowing how it was made.
//!
//! Empty for every snapshot and its plan. The shell asks before it writes; a plan with a violation is not written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use model::policy::{EgressChoice, PolicyKey};
use model::port_lease::{BlockRole, BlockState, LeaseName, parts_of};
use model::tunnel::Phase;
use model::{EipPair, PortBlock};

use crate::outcome::Plan;
use crate::snapshot::{ClusterSnapshot, SliceKey, SliceRecord};

/// Something that must never be planned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// An address is part of two EIPs, of two gateways or on two nodes
    EipTwice(IpAddr),
    /// An EIP is not in its gateway's pool
    EipOutsidePool(EipPair, String),
    /// An EIP is an address of a node
    EipIsNodeAddress(EipPair, String),
    /// An EIP is on a node that is not Ready or not the gateway's
    EipOnWrongNode(EipPair, String),
    /// An EIP leaves a node that could keep it, and nobody has claimed it
    EipMovedWithoutCause(EipPair, String),
    /// A policy's pods are to leave with the address of a node that is not Ready
    LenderNotReady(PolicyKey, String),
    /// A policy's status differs from what its gateway's says
    PolicyAndGatewayDiffer(PolicyKey),
    /// A policy is in force without what it asks for, or has it and is not
    PolicyHalfInForce(PolicyKey),
    /// Two nodes hold the same port of an EIP
    PortTwice(EipPair, PortBlock, String),
    /// A block is not among the ports of its role
    PortOfOtherRole(EipPair, PortBlock, String),
    /// A node that lives loses a block that is active, of an EIP that is in use
    LeaseTakenAway(EipPair, PortBlock, String),
    /// A block is another node's in the same plan that takes it from its holder
    LeaseGivenBeforeTaken(EipPair, PortBlock, String),
    /// A block changes hands before it has rested
    LeaseWithoutRest(EipPair, PortBlock, String),
    /// A lease differs from the recorded one under the same generation
    GenerationNotRaised(String),
    /// Two nodes have the same tunnel address
    TunnelAddressTwice(IpAddr),
    /// A tunnel address is outside of the subnet, or its first or last one
    TunnelAddressOutside(IpAddr),
    /// Two nodes have the same mark
    MarkTwice(u32),
    /// A pool has more free addresses than addresses
    UsageImpossible(String),
    /// An endpoint slice has too many entries, or lists a pod twice
    SliceWrong(PolicyKey),
    /// An endpoint is a pod of the host's network, or one that has finished
    EndpointWrong(PolicyKey),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// All that is wrong with a plan.
#[must_use]
pub fn violations(snapshot: &ClusterSnapshot, plan: &Plan) -> Vec<Violation> {
    let mut found = BTreeSet::new();
    eips(snapshot, plan, &mut found);
    moves(snapshot, plan, &mut found);
    policies(snapshot, plan, &mut found);
    let eips = plan.gateways.values().flat_map(|gateway| gateway.status.eips().map(|(eip, _, _)| eip));
    let in_use: BTreeSet<EipPair> = eips.collect();
    leases(snapshot, plan, None, &|eip| in_use.contains(&eip), &mut found);
    tunnels(snapshot, plan, &mut found);
    slices(snapshot, plan.slices.iter(), &mut found);
    found.into_iter().collect()
}

/// A part of a plan.
pub(crate) struct Part<'a> {
    /// Everybody who holds or held one of these EIPs
    pub(crate) nodes: BTreeSet<&'a str>,
    /// The EIPs whose ports are looked at
    pub(crate) eips: &'a BTreeSet<EipPair>,
    /// The slices that are looked at
    pub(crate) slices: &'a BTreeSet<SliceKey>,
    /// Whether an EIP is in use
    pub(crate) in_use: &'a dyn Fn(EipPair) -> bool,
}

/// All that is wrong with a part of a plan.
#[must_use]
pub(crate) fn of_part(snapshot: &ClusterSnapshot, plan: &Plan, part: &Part<'_>) -> Vec<Violation> {
    let mut found = BTreeSet::new();
    leases(snapshot, plan, Some(part), part.in_use, &mut found);
    slices(snapshot, part.slices.iter().filter_map(|key| plan.slices.get_key_value(key)), &mut found);
    found.into_iter().collect()
}

/// The entries of these nodes, or of all.
fn of_nodes<'a, T>(
    all: &'a BTreeMap<LeaseName, T>,
    part: Option<&Part<'_>>,
) -> Box<dyn Iterator<Item = (&'a LeaseName, &'a T)> + 'a> {
    match part {
        None => Box::new(all.iter()),
        Some(part) => {
            let known: Vec<_> = part.nodes.iter().flat_map(|node| parts_of(all, node)).collect();
            Box::new(known.into_iter())
        }
    }
}

/// Whether an EIP is looked at.
fn concerns(part: Option<&Part<'_>>, eip: EipPair) -> bool {
    part.is_none_or(|part| part.eips.contains(&eip))
}

fn eips(snapshot: &ClusterSnapshot, plan: &Plan, found: &mut BTreeSet<Violation>) {
    let mut seen = BTreeSet::new();
    let nodes = snapshot.nodes.iter();
    let of_nodes: BTreeMap<IpAddr, &str> =
        nodes.flat_map(|(name, node)| node.addresses.iter().map(move |it| (*it, name.as_str()))).collect();
    for (name, gateway) in &plan.gateways {
        let spec = snapshot.gateways.get(name).and_then(|record| record.spec.as_ref().ok());
        for (eip, node, _) in gateway.status.eips() {
            for address in eip.addresses() {
                if !seen.insert(address) {
                    found.insert(Violation::EipTwice(address));
                }
                if !spec.is_some_and(|spec| spec.contains(address)) {
                    found.insert(Violation::EipOutsidePool(eip, name.clone()));
                }
                if let Some(node) = of_nodes.get(&address) {
                    found.insert(Violation::EipIsNodeAddress(eip, (*node).to_owned()));
                }
            }
            let Some(node) = node else { continue };
            let ready = plan.tunnels.get(node).is_some_and(|tunnel| tunnel.phase == Phase::Ready);
            let labels = snapshot.nodes.get(node).map(|node| &node.labels);
            let matches = spec.zip(labels).is_some_and(|(spec, labels)| spec.nodes.matches(labels));
            if !ready || !matches {
                found.insert(Violation::EipOnWrongNode(eip, node.to_owned()));
            }
        }
        let usage = gateway.status.usage;
        if usage.v4_free > usage.v4_total || usage.v6_free > usage.v6_total {
            found.insert(Violation::UsageImpossible(name.clone()));
        }
    }
}

fn moves(snapshot: &ClusterSnapshot, plan: &Plan, found: &mut BTreeSet<Violation>) {
    let claimed: BTreeSet<(EipPair, &str)> = snapshot
        .tunnels
        .iter()
        .flat_map(|(node, record)| record.tunnel.claims.iter().map(move |claim| (claim.eip, node.as_str())))
        .collect();
    // Where policies say that an EIP is that they keep.
    let told = |eip: EipPair, policies: &BTreeSet<PolicyKey>| {
        let statuses = policies.iter().filter_map(|key| Some(&snapshot.policies.get(key)?.status));
        let nodes =
            statuses.filter(|status| status.eip == Some(eip)).filter_map(|status| status.node.as_deref());
        let nodes: BTreeSet<&str> = nodes.collect();
        nodes.first().copied().filter(|_| nodes.len() == 1)
    };
    for (name, planned) in &plan.gateways {
        let Some(record) = snapshot.gateways.get(name) else { continue };
        let mut listed: BTreeMap<EipPair, Vec<Option<&str>>> = BTreeMap::new();
        for (eip, node, _) in record.status.eips() {
            listed.entry(eip).or_default().push(node);
        }
        for (eip, after, policies) in planned.status.eips() {
            // A status that has the EIP twice can't be kept whole; what is not listed yet is where its policies say.
            let before = match listed.get(&eip).map(Vec::as_slice) {
                Some([before]) => *before,
                Some(_) => None,
                None => told(eip, policies),
            };
            let (Some(before), Some(after)) = (before, after) else {
                continue;
            };
            let could_stay = planned.status.nodes.get(before).is_some_and(|node| node.phase == Phase::Ready);
            let is_asked_for = record.moves.iter().any(|request| {
                let wanted = request.wanted.as_ref();
                wanted.is_ok_and(|(address, node)| {
                    eip.contains(*address) && [before, after].contains(&node.as_str())
                })
            });
            if before != after && could_stay && !claimed.contains(&(eip, after)) && !is_asked_for {
                found.insert(Violation::EipMovedWithoutCause(eip, before.to_owned()));
            }
        }
    }
}

fn policies(snapshot: &ClusterSnapshot, plan: &Plan, found: &mut BTreeSet<Violation>) {
    // Without an EIP: the node's own address.
    let mut carried: BTreeMap<&PolicyKey, Vec<(Option<EipPair>, &str)>> = BTreeMap::new();
    for gateway in plan.gateways.values() {
        for (eip, node, policies) in gateway.status.eips() {
            for key in policies {
                carried.entry(key).or_default().extend(node.map(|node| (Some(eip), node)));
            }
        }
        for (name, node) in &gateway.status.nodes {
            for key in &node.lent_to {
                carried.entry(key).or_default().push((None, name));
                if node.phase != Phase::Ready {
                    found.insert(Violation::LenderNotReady(key.clone(), name.clone()));
                }
            }
        }
    }
    for (key, policy) in &plan.policies {
        let status = &policy.status;
        let spec = snapshot.policies.get(key).and_then(|record| record.spec.as_ref().ok());
        let borrows = spec.is_some_and(|policy| policy.egress == EgressChoice::NodeAddress);
        let own = status.node.as_deref().map(|node| (status.eip, node));
        let listed = carried.get(key).map(Vec::as_slice).unwrap_or_default();
        if own.as_slice() != listed {
            found.insert(Violation::PolicyAndGatewayDiffer(key.clone()));
        }
        let ok = status.verdict.as_ref().is_some_and(|verdict| verdict.ok);
        let is_whole = status.eip.is_some() == (status.node.is_some() && !borrows);
        if ok != own.is_some() || !is_whole {
            found.insert(Violation::PolicyHalfInForce(key.clone()));
        }
    }
}

/// Blocks of an EIP with their holders, by their first port.
type Holders<'a> = BTreeMap<EipPair, BTreeMap<(u16, &'a str), PortBlock>>;

fn leases(
    snapshot: &ClusterSnapshot,
    plan: &Plan,
    part: Option<&Part<'_>>,
    in_use: &dyn Fn(EipPair) -> bool,
    found: &mut BTreeSet<Violation>,
) {
    let mut holders = Holders::new();
    for (name, lease) in of_nodes(&plan.leases, part) {
        let node = name.node.as_str();
        let concerned =
            lease.iter().flat_map(|lease| &lease.leases).filter(|lease| concerns(part, lease.eip));
        for lease in concerned {
            for leased in &lease.blocks {
                if leased.block.is_overflow() != (leased.role == BlockRole::Overflow) {
                    found.insert(Violation::PortOfOtherRole(lease.eip, leased.block, node.to_owned()));
                }
                holders.entry(lease.eip).or_default().insert((leased.block.first(), node), leased.block);
            }
        }
        let recorded = snapshot.leases.get(name).map(|record| &record.lease);
        if let (Some(recorded), Some(lease)) = (recorded, lease)
            && recorded.leases != lease.leases
            && recorded.generation >= lease.generation
        {
            found.insert(Violation::GenerationNotRaised(name.object()));
        }
    }
    for (eip, blocks) in &holders {
        let mut last = None;
        for ((first, node), block) in blocks {
            if last.is_some_and(|last| last >= *first) {
                found.insert(Violation::PortTwice(*eip, *block, (*node).to_owned()));
            }
            last = last.max(Some(block.last()));
        }
    }
    losses(snapshot, part, in_use, &holders, found);
}

/// Ports that nodes hold and would lose.
fn losses(
    snapshot: &ClusterSnapshot,
    part: Option<&Part<'_>>,
    in_use: &dyn Fn(EipPair) -> bool,
    holders: &Holders<'_>,
    found: &mut BTreeSet<Violation>,
) {
    let uncertain = uncertain(snapshot);
    for (eip, node, block) in &uncertain {
        let planned = holders.get(eip).into_iter().flatten();
        let mut others = planned.filter(|((_, holder), _)| holder != node);
        if others.any(|(_, other)| other.overlaps(block)) {
            found.insert(Violation::LeaseWithoutRest(*eip, *block, (*node).to_owned()));
        }
    }
    let (now_s, settings) = (snapshot.now_s, &snapshot.settings);
    for (eip, block, state, name) in undisputed(snapshot, part) {
        let node = name.node.as_str();
        let planned = holders.get(&eip).map(|blocks| blocks.range((block.first(), "")..));
        let inside = planned.into_iter().flatten().take_while(|((first, _), _)| *first <= block.last());
        let kept: u32 =
            inside.filter(|((_, holder), _)| *holder == node).map(|(_, block)| block.size()).sum();
        if kept >= block.size() {
            continue;
        }
        let now = holders.get(&eip).into_iter().flatten();
        if now.filter(|((_, holder), _)| *holder != node).any(|(_, other)| other.overlaps(&block)) {
            found.insert(Violation::LeaseGivenBeforeTaken(eip, block, node.to_owned()));
        }
        let is_there = snapshot.nodes.contains_key(node);
        if is_there && state == BlockState::Active && in_use(eip) {
            found.insert(Violation::LeaseTakenAway(eip, block, node.to_owned()));
        }
        let (since_s, rest_s) = if is_there {
            let key = (name.clone(), eip, block);
            (snapshot.draining_since_s.get(&key), settings.rest_s.min(settings.drain_s))
        } else {
            (snapshot.gone_since_s.get(node), settings.rest_s)
        };
        if now_s.saturating_sub(since_s.copied().unwrap_or(now_s)) < rest_s {
            found.insert(Violation::LeaseWithoutRest(eip, block, node.to_owned()));
        }
    }
}

/// Blocks that a node may hold or not, as nobody knows how a write ended, and that no other one is known to hold.
fn uncertain(snapshot: &ClusterSnapshot) -> Vec<(EipPair, &str, PortBlock)> {
    let mut blocks = Vec::new();
    for (name, lease) in &snapshot.uncertain_leases {
        let node = name.node.as_str();
        for lease in &lease.leases {
            for leased in &lease.blocks {
                let is_anothers =
                    snapshot.leases.iter().filter(|(other, _)| other.node != node).any(|(_, record)| {
                        let same = record.lease.leases.iter().filter(|other| other.eip == lease.eip);
                        same.flat_map(|other| &other.blocks).any(|other| other.block.overlaps(&leased.block))
                    });
                if !is_anothers {
                    blocks.push((lease.eip, node, leased.block));
                }
            }
        }
    }
    blocks
}

/// Recorded blocks whose ports no other recorded block has; of others somebody has to lose.
fn undisputed<'a>(
    snapshot: &'a ClusterSnapshot,
    part: Option<&Part<'_>>,
) -> Vec<(EipPair, PortBlock, BlockState, &'a LeaseName)> {
    let mut blocks: Vec<(EipPair, PortBlock, BlockState, &'a LeaseName)> = Vec::new();
    for (name, record) in of_nodes(&snapshot.leases, part) {
        for lease in record.lease.leases.iter().filter(|lease| concerns(part, lease.eip)) {
            let blocks_of = lease.blocks.iter();
            blocks.extend(blocks_of.map(|leased| (lease.eip, leased.block, leased.state, name)));
        }
    }
    blocks.sort_unstable();
    let mut last: Option<(EipPair, u16)> = None;
    let mut undisputed = Vec::new();
    let mut next = blocks.iter().skip(1);
    for block in &blocks {
        let after_last = last.is_none_or(|(eip, last)| eip != block.0 || last < block.1.first());
        let before_next = next.next().is_none_or(|next| next.0 != block.0 || next.1.first() > block.1.last());
        if after_last && before_next {
            undisputed.push(*block);
        }
        let reaches = last.filter(|(eip, _)| *eip == block.0).map_or(0, |(_, last)| last);
        last = Some((block.0, reaches.max(block.1.last())));
    }
    undisputed
}

fn tunnels(snapshot: &ClusterSnapshot, plan: &Plan, found: &mut BTreeSet<Violation>) {
    let (mut addresses, mut marks) = (BTreeSet::new(), BTreeSet::new());
    let (v4, v6) = (snapshot.settings.tunnel_subnet_v4, snapshot.settings.tunnel_subnet_v6);
    for tunnel in plan.tunnels.values() {
        if let Some(address) = tunnel.ipv4 {
            let edge = address == v4.network() || address == v4.broadcast();
            if !v4.contains(&address) || edge {
                found.insert(Violation::TunnelAddressOutside(address.into()));
            }
            if !addresses.insert(IpAddr::from(address)) {
                found.insert(Violation::TunnelAddressTwice(address.into()));
            }
        }
        if let Some(address) = tunnel.ipv6 {
            let edge = address == v6.network() || address == v6.broadcast();
            if !v6.contains(&address) || edge {
                found.insert(Violation::TunnelAddressOutside(address.into()));
            }
            if !addresses.insert(IpAddr::from(address)) {
                found.insert(Violation::TunnelAddressTwice(address.into()));
            }
        }
        if let Some(mark) = tunnel.mark.filter(|mark| !marks.insert(*mark)) {
            found.insert(Violation::MarkTwice(mark));
        }
    }
}

fn slices<'a>(
    snapshot: &ClusterSnapshot,
    slices: impl Iterator<Item = (&'a SliceKey, &'a SliceRecord)>,
    found: &mut BTreeSet<Violation>,
) {
    let mut listed = BTreeSet::new();
    for (key, slice) in slices {
        let too_many = slice.endpoints.len() > snapshot.settings.max_endpoints_per_slice.max(1);
        let foreign = key.namespace != slice.policy.namespace;
        if too_many || foreign || slice.endpoints.is_empty() {
            found.insert(Violation::SliceWrong(slice.policy.clone()));
        }
        for endpoint in &slice.endpoints {
            if !listed.insert((&slice.policy, &endpoint.pod)) {
                found.insert(Violation::SliceWrong(slice.policy.clone()));
            }
            let pod = snapshot.pods.get(&endpoint.pod);
            if !pod.is_some_and(|pod| {
                !pod.host_network && !pod.finished && pod.addresses.iter().eq(&endpoint.addresses)
            }) {
                found.insert(Violation::EndpointWrong(slice.policy.clone()));
            }
        }
    }
}
