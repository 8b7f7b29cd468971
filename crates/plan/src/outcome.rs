//! The plan, and how it comes out of the parts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::cluster::ClusterNetworks;
use model::policy::{EgressChoice, PolicyKey};
use model::pool::Family;
use model::port_lease::{LeaseName, PortLease};
use model::tunnel::Phase;
use model::tunnel_mac::MacAddress;
use model::{EipPair, Reason};

use crate::eips::{Allocation, Grant};
use crate::gateways::{Examined, Gateways};
use crate::leases::EipPlan;
use crate::moves::Moves;
use crate::placement::{Placement, able};
use crate::selection::Selection;
use crate::snapshot::{
    ClusterSnapshot, GatewayNode, GatewayStatus, PolicyRecord, PolicyStatus, SliceKey, SliceRecord, Usage,
    Verdict,
};

/// Everything that the controller wants to be so. What is as planned is not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every gateway by name
    pub gateways: BTreeMap<String, GatewayPlan>,
    /// Every policy
    pub policies: BTreeMap<PolicyKey, PolicyPlan>,
    /// The tunnel of every node; tunnels of other names are to be deleted
    pub tunnels: BTreeMap<String, TunnelPlan>,
    /// Leases; `None`: the object is to be deleted
    pub leases: BTreeMap<LeaseName, Option<PortLease>>,
    /// Nodes that got no block of an EIP, because all its ports are leased
    pub unleased: BTreeSet<(EipPair, String)>,
    /// Status of EgressClusterInfo `default`, where that exists
    pub cluster_networks: Option<ClusterNetworks>,
    /// Every endpoint slice; others are to be deleted
    pub slices: BTreeMap<SliceKey, SliceRecord>,
    /// What to tell people about: each change once
    pub notices: Vec<Notice>,
    /// Plan again at that time though nothing has happened
    pub wake_at_s: Option<i64>,
}

/// What a gateway is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPlan {
    /// Its status
    pub status: GatewayStatus,
    /// Why it can be used, or not
    pub reason: Reason,
    /// Whether every node has ports of its EIPs; said once some had none
    pub ports: Option<Reason>,
    /// Whether all of its nodes can carry traffic; said once some could not
    pub whole: Option<Reason>,
    /// Whether our finalizer is to keep it
    pub keep: bool,
    /// What became of moves that people asked for
    pub moves: Moves,
    /// The default EIP to write where the object leaves it open
    pub fill_default_v4: Option<Ipv4Addr>,
    /// The default EIP to write where the object leaves it open
    pub fill_default_v6: Option<Ipv6Addr>,
}

/// What a policy is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPlan {
    /// Its status
    pub status: PolicyStatus,
    /// Why it is in force, or not
    pub reason: Reason,
    /// Whether it is for all of its pods; said once it was not
    pub whole: Option<Reason>,
    /// The gateway to write where the object leaves it open
    pub fill_gateway: Option<String>,
}

/// What a node's end of the tunnel is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelPlan {
    /// Tunnel address
    pub ipv4: Option<Ipv4Addr>,
    /// Tunnel address
    pub ipv6: Option<Ipv6Addr>,
    /// Inner MAC address
    pub mac: MacAddress,
    /// Packet mark; `None` if there are more nodes than marks
    pub mark: Option<u32>,
    /// State
    pub phase: Phase,
    /// Why it failed, where that is for us to say
    pub problem: Option<Reason>,
    /// Why the node can't carry traffic, and where to look; empty where it can
    pub message: String,
}

/// An object that a notice is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// An EgressGateway
    Gateway(String),
    /// An EgressPolicy or EgressClusterPolicy
    Policy(PolicyKey),
    /// An EgressTunnel
    Tunnel(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(name) => write!(f, "gateway {name}"),
            Self::Policy(key) => write!(f, "policy {key}"),
            Self::Tunnel(name) => write!(f, "tunnel {name}"),
        }
    }
}

/// Something that people should hear of, once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// What it is about
    pub subject: Subject,
    /// Whether it is bad news
    pub warning: bool,
    /// One word in CamelCase
    pub code: String,
    /// One sentence
    pub message: String,
}

/// Status of every gateway.
pub(crate) fn gateway_plans(
    snapshot: &ClusterSnapshot,
    gateways: &Gateways<'_>,
    tunnels: &BTreeMap<String, TunnelPlan>,
    allocation: &Allocation<'_>,
    placement: &Placement<'_>,
    ports: &BTreeMap<EipPair, EipPlan>,
) -> BTreeMap<String, GatewayPlan> {
    let short = ports_short(ports);
    let mut lent: BTreeMap<&str, Vec<(&PolicyKey, &str)>> = BTreeMap::new();
    for (key, node) in &placement.lenders {
        if let (Some(Ok(gateway)), Some(node)) = (gateways.of_policy.get(key), node) {
            lent.entry(gateway).or_default().push((key, node));
        }
    }
    let mut plans = BTreeMap::new();
    for (name, examined) in &gateways.by_name {
        let reason = gateway_reason(name, examined, tunnels, allocation);
        let nodes = examined.nodes.iter().map(|node| {
            let phase =
                snapshot.tunnels.get(*node).and_then(|_| tunnels.get(*node)).map(|tunnel| tunnel.phase);
            (
                (*node).to_owned(),
                GatewayNode { phase: phase.unwrap_or(Phase::Pending), ..GatewayNode::default() },
            )
        });
        let mut status = GatewayStatus {
            nodes: nodes.collect(),
            verdict: Some(Verdict::from(&reason)),
            ..GatewayStatus::default()
        };
        let own = allocation.eips.iter().filter(|(_, (gateway, _))| gateway == name);
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        for (eip, (_, policies)) in own {
            let policies = policies.iter().map(|key| (*key).clone()).collect();
            addresses.extend(eip.addresses());
            let node =
                placement.of_eip.get(eip).copied().flatten().and_then(|node| status.nodes.get_mut(node));
            match node {
                Some(node) => node.eips.insert(*eip, policies),
                None => status.unplaced.insert(*eip, policies),
            };
        }
        for (key, node) in lent.get(name).into_iter().flatten() {
            if let Some(node) = status.nodes.get_mut(*node) {
                node.lent_to.insert((*key).clone());
            }
        }
        status.usage = usage(examined, &addresses);
        let (fill_default_v4, fill_default_v6) = fill_default(name, examined, allocation);
        let keep = !examined.record.deleting || examined.used;
        let ports = match short.get(name) {
            Some(shortage) => Some(shortage.reason()),
            None => examined.record.status.ports.as_ref().map(|_| Reason::PortsAvailable),
        };
        status.ports = ports.as_ref().map(Verdict::from);
        let conflict = conflict(snapshot, &addresses);
        let whole = conflict
            .or_else(|| not_ready(&status))
            .or_else(|| examined.record.status.whole.as_ref().map(|_| Reason::NotDegraded));
        status.whole = whole.as_ref().map(Verdict::from);
        let moves = placement.moves.get(name).cloned().unwrap_or_default();
        let plan =
            GatewayPlan { status, reason, ports, whole, keep, moves, fill_default_v4, fill_default_v6 };
        plans.insert((*name).to_owned(), plan);
    }
    plans
}

/// That somebody else has an EIP of the gateway, as one of its nodes says.
fn conflict(snapshot: &ClusterSnapshot, addresses: &BTreeSet<IpAddr>) -> Option<Reason> {
    let able = snapshot.tunnels.iter().filter(|(_, record)| record.tunnel.phase == Some(Phase::Ready));
    let told =
        able.flat_map(|(node, record)| record.tunnel.conflicts.iter().map(move |conflict| (conflict, node)));
    let (conflict, node) = told.filter(|(conflict, _)| addresses.contains(&conflict.address)).min()?;
    Some(Reason::AddressConflict { address: conflict.address, mac: conflict.mac, node: node.clone() })
}

/// That some nodes of a gateway can't carry traffic, while others can: without any the gateway itself is not Ready.
fn not_ready(status: &GatewayStatus) -> Option<Reason> {
    let failed = status.nodes.iter().filter(|(_, node)| node.phase != Phase::Ready);
    let nodes: Vec<String> = failed.map(|(name, _)| name.clone()).collect();
    let of = status.nodes.len();
    (!nodes.is_empty() && nodes.len() < of).then_some(Reason::NodesNotReady { nodes, of })
}

/// The most nodes that can hold a block of one EIP.
const BLOCKS_OF_AN_EIP: usize = 752;
/// So many ports of one EIP are for blocks; the rest is for nodes to come, and for overflow.
const PORTS_OF_AN_EIP: usize = 24_064;

/// What nodes of a gateway's policies lack, each EIP counted.
#[derive(Clone, Copy, Debug, Default)]
struct Shortage {
    /// Nodes without any port
    nodes: usize,
    /// Nodes that need a larger block
    crowded: usize,
    /// Ports that these need
    ports: usize,
}

impl Shortage {
    fn reason(&self) -> Reason {
        let eips = self.nodes.div_ceil(BLOCKS_OF_AN_EIP) + self.ports.div_ceil(PORTS_OF_AN_EIP);
        Reason::PortsShort { nodes: self.nodes, crowded: self.crowded, eips }
    }
}

fn ports_short(ports: &BTreeMap<EipPair, EipPlan>) -> BTreeMap<&str, Shortage> {
    let mut short: BTreeMap<&str, Shortage> = BTreeMap::new();
    for plan in ports.values().filter(|plan| !plan.unleased.is_empty() || !plan.crowded.is_empty()) {
        let short = short.entry(plan.gateway.as_str()).or_default();
        short.nodes += plan.unleased.len();
        short.crowded += plan.crowded.len();
        short.ports += plan.crowded.values().filter_map(|ports| usize::try_from(*ports).ok()).sum::<usize>();
    }
    short
}

/// Nodes that got no block of an EIP.
pub(crate) fn unleased(ports: &BTreeMap<EipPair, EipPlan>) -> BTreeSet<(EipPair, String)> {
    let of_eip = |(eip, plan): (&EipPair, &EipPlan)| {
        let eip = *eip;
        plan.unleased.iter().map(move |node| (eip, node.clone())).collect::<Vec<_>>()
    };
    ports.iter().flat_map(of_eip).collect()
}

/// When the next block of any EIP will have rested.
pub(crate) fn wake_at_s(ports: &BTreeMap<EipPair, EipPlan>) -> Option<i64> {
    ports.values().filter_map(|plan| plan.wake_at_s).min()
}

fn gateway_reason(
    name: &str,
    examined: &Examined<'_>,
    tunnels: &BTreeMap<String, TunnelPlan>,
    allocation: &Allocation<'_>,
) -> Reason {
    if let Err(reason) = &examined.usable {
        return reason.clone();
    }
    if let Some(Err(reason @ Reason::InvalidField { .. })) = allocation.defaults.get(name) {
        return reason.clone();
    }
    if let Some(reason) = allocation.overlapping.get(name) {
        return reason.clone();
    }
    if let Some(default) = examined.other_default {
        return Reason::AnotherDefault { gateway: default.to_owned() };
    }
    let gateway = name.to_owned();
    if examined.nodes.is_empty() {
        Reason::NoGatewayNode { gateway }
    } else if able(examined, tunnels).is_empty() {
        Reason::NoReadyNode { gateway }
    } else {
        Reason::Ready
    }
}

fn usage(examined: &Examined<'_>, addresses: &BTreeSet<IpAddr>) -> Usage {
    let Ok(gateway) = &examined.record.spec else {
        return Usage::default();
    };
    let count = |family: Family| {
        let pool = gateway.pool(family);
        let used = addresses.iter().filter(|address| pool.contains(**address)).count();
        (pool.count(), pool.count().saturating_sub(used as u128))
    };
    let ((v4_total, v4_free), (v6_total, v6_free)) = (count(Family::V4), count(Family::V6));
    Usage { v4_total, v4_free, v6_total, v6_free }
}

fn fill_default(
    name: &str,
    examined: &Examined<'_>,
    allocation: &Allocation<'_>,
) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let (Ok(gateway), Some(Ok(default))) = (&examined.usable, allocation.defaults.get(name)) else {
        return (None, None);
    };
    let v4 = default.v4().filter(|_| gateway.default_v4.is_none());
    let v6 = default.v6().filter(|_| gateway.default_v6.is_none());
    (v4, v6)
}

/// Status of every policy.
pub(crate) fn policy_plans(
    snapshot: &ClusterSnapshot,
    gateways: &Gateways<'_>,
    allocation: &Allocation<'_>,
    placement: &Placement<'_>,
    selection: &Selection,
) -> BTreeMap<PolicyKey, PolicyPlan> {
    let mut plans = BTreeMap::new();
    for (key, record) in &snapshot.policies {
        let gateway = gateways.of_policy.get(key).and_then(|gateway| gateway.as_ref().ok().copied());
        let (reason, eip, node) = match allocation.of_policy.get(key) {
            Some(Ok(grant)) => {
                let (reason, eip, node) = match grant {
                    Grant::Eip(eip) => {
                        let spec = record.spec.as_ref().ok();
                        let wants_default = spec.is_some_and(|policy| policy.egress == EgressChoice::Default);
                        let default = gateway.filter(|_| wants_default);
                        let default = default.and_then(|name| allocation.defaults.get(name)?.as_ref().ok());
                        let reason = match default.filter(|default| *default != eip) {
                            Some(default) => Reason::FormerDefault { default: *default },
                            None => Reason::Assigned,
                        };
                        (reason, Some(*eip), placement.of_eip.get(eip))
                    }
                    Grant::NodeAddress => (Reason::NodeAddress, None, placement.lenders.get(key)),
                };
                match node.copied().flatten() {
                    Some(node) => (reason, eip, Some(node.to_owned())),
                    None => (no_node(gateways, gateway.unwrap_or_default()), None, None),
                }
            }
            Some(Err(reason)) => (reason.clone(), None, None),
            None => (Reason::NoDefaultGateway, None, None),
        };
        let whole = overlap(record, selection, key);
        let (verdict, told) = (Some(Verdict::from(&reason)), whole.as_ref().map(Verdict::from));
        let status = PolicyStatus { eip, node, verdict, whole: told };
        let fill_gateway = gateway.filter(|_| record.gateway.is_none() && record.spec.is_ok());
        let fill_gateway = fill_gateway.map(str::to_owned);
        plans.insert(key.clone(), PolicyPlan { status, reason, whole, fill_gateway });
    }
    plans
}

/// Whether other policies go before this one.
pub(crate) fn overlap(record: &PolicyRecord, selection: &Selection, key: &PolicyKey) -> Option<Reason> {
    if record.spec.is_ok() && selection.count(key) == 0 {
        return Some(Reason::SelectsNoPod);
    }
    let Some(overlap) = selection.overlap(key) else {
        return record.status.whole.as_ref().map(|_| Reason::NotDegraded);
    };
    let mut winners: Vec<(PolicyKey, usize)> =
        overlap.winners.iter().map(|(key, pods)| (key.clone(), *pods)).collect();
    winners.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Some(Reason::OtherPoliciesWin { pods: overlap.pods, of: selection.count(key), winners })
}

fn no_node(gateways: &Gateways<'_>, name: &str) -> Reason {
    let gateway = name.to_owned();
    let has_nodes = gateways.by_name.get(name).is_some_and(|examined| !examined.nodes.is_empty());
    if has_nodes { Reason::NoReadyNode { gateway } } else { Reason::NoGatewayNode { gateway } }
}

/// What changes, in words.
pub(crate) fn notices(snapshot: &ClusterSnapshot, plan: &Plan) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (name, gateway) in &plan.gateways {
        let before = snapshot.gateways.get(name).map(|record| record.status.clone()).unwrap_or_default();
        let after = &gateway.status;
        for (_, reason) in &gateway.moves.ended {
            let subject = Subject::Gateway(name.clone());
            notices.extend(verdict_notice(subject, None, Some(&Verdict::from(reason))));
        }
        for (before, after) in
            [(&before.verdict, &after.verdict), (&before.ports, &after.ports), (&before.whole, &after.whole)]
        {
            let subject = Subject::Gateway(name.clone());
            notices.extend(verdict_notice(subject, before.as_ref(), after.as_ref()));
        }
    }
    for (key, policy) in &plan.policies {
        notices.extend(policy_notices(snapshot, key, policy));
    }
    for (name, tunnel) in &plan.tunnels {
        let before = snapshot.tunnels.get(name).and_then(|record| record.tunnel.phase);
        // That a new tunnel becomes Init is no news; that it can't become anything is.
        let before = before.or_else(|| (tunnel.phase == Phase::Failed).then_some(Phase::Pending));
        let Some(before) = before.filter(|before| *before != tunnel.phase) else {
            continue;
        };
        let warning = tunnel.phase == Phase::Failed;
        let why = if tunnel.message.is_empty() { String::new() } else { format!(": {}", tunnel.message) };
        let message = format!("phase changed from {before} to {}{why}", tunnel.phase);
        let code = "StatusChanged".to_owned();
        notices.push(Notice { subject: Subject::Tunnel(name.clone()), warning, code, message });
    }
    notices
}

/// What changes for a policy, in words.
pub(crate) fn policy_notices(
    snapshot: &ClusterSnapshot,
    key: &PolicyKey,
    policy: &PolicyPlan,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    let Some(record) = snapshot.policies.get(key) else {
        return notices;
    };
    let subject = Subject::Policy(key.clone());
    let (before, after) = (&record.status, &policy.status);
    // Of pods that come and go while others win them nobody needs to hear.
    if before.whole.as_ref().is_none_or(|whole| whole.ok) != after.whole.as_ref().is_none_or(|whole| whole.ok)
    {
        notices.extend(verdict_notice(subject.clone(), before.whole.as_ref(), after.whole.as_ref()));
    }
    match (&before.node, &after.node, after.eip) {
        (Some(from), Some(to), Some(eip)) if from != to && before.eip == after.eip => {
            let message = format!("{eip} moved from node {from} to node {to}");
            notices.push(Notice { subject, warning: false, code: "Moved".to_owned(), message });
        }
        (Some(from), Some(to), None) if from != to && before.eip.is_none() => {
            let message = format!("pods leave with the address of node {to} instead of node {from}'s");
            notices.push(Notice { subject, warning: false, code: "Moved".to_owned(), message });
        }
        (_, Some(node), Some(eip)) if before.eip.is_some_and(|before| before != eip) => {
            let old = before.eip.map(|eip| eip.to_string()).unwrap_or_default();
            let message = format!(
                "leaves with {eip} on node {node} instead of {old}: {}",
                why_changed(snapshot, record)
            );
            notices.push(Notice { subject, warning: true, code: "EipChanged".to_owned(), message });
        }
        (_, Some(node), Some(eip)) if before.eip != after.eip => {
            let message = format!("{eip} on node {node}");
            notices.push(Notice { subject, warning: false, code: policy.reason.code().to_owned(), message });
        }
        _ => notices.extend(verdict_notice(subject, before.verdict.as_ref(), after.verdict.as_ref())),
    }
    notices
}

/// Why a policy did not keep its EIP.
fn why_changed(snapshot: &ClusterSnapshot, record: &PolicyRecord) -> &'static str {
    let spec = record.spec.as_ref().ok();
    if spec.is_some_and(|policy| matches!(policy.egress, EgressChoice::Exactly(_))) {
        return "spec.egressIP asks for it";
    }
    let gateway = record.gateway.as_ref().and_then(|name| snapshot.gateways.get(name)?.spec.as_ref().ok());
    let has = |eip: EipPair| {
        gateway.is_some_and(|gateway| eip.addresses().all(|address| gateway.contains(address)))
    };
    match record.status.eip {
        Some(eip) if !has(eip) => "the gateway's pool no longer has it",
        _ => "it is no longer free, or part of another pair",
    }
}

fn verdict_notice(subject: Subject, before: Option<&Verdict>, after: Option<&Verdict>) -> Option<Notice> {
    let after = after.filter(|after| before != Some(after))?;
    Some(Notice { subject, warning: !after.ok, code: after.code.clone(), message: after.message.clone() })
}
