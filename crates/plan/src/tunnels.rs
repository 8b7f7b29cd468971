//! Addresses, mark and phase of every node's end of the tunnel.
//!
//! What a node has it keeps, as long as it is valid and no other has it; what it lacks is the lowest that is free.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::Reason;
use model::cluster::Node;
use model::pool::{Family, from_number, to_number};
use model::tunnel::{Phase, Tunnel};
use model::tunnel_mac::MacAddress;

use crate::outcome::TunnelPlan;
use crate::snapshot::ClusterSnapshot;

/// Plans the tunnel of every node. Objects of other names are to be deleted.
#[must_use]
pub fn plan(snapshot: &ClusterSnapshot) -> BTreeMap<String, TunnelPlan> {
    let settings = &snapshot.settings;
    let v4 = addresses(snapshot, settings.ipv4, settings.tunnel_subnet_v4.into(), |tunnel| {
        tunnel.ipv4.map(IpAddr::V4)
    });
    let v6 = addresses(snapshot, settings.ipv6, settings.tunnel_subnet_v6.into(), |tunnel| {
        tunnel.ipv6.map(IpAddr::V6)
    });
    let marks = marks(snapshot);
    let plans = snapshot.nodes.iter().map(|(name, node)| {
        let recorded = snapshot.tunnels.get(name).map(|record| record.tunnel.clone()).unwrap_or_default();
        let ipv4 = v4
            .get(name.as_str())
            .and_then(|address| if let IpAddr::V4(v4) = address { Some(*v4) } else { None });
        let ipv6 = v6
            .get(name.as_str())
            .and_then(|address| if let IpAddr::V6(v6) = address { Some(*v6) } else { None });
        let mark = marks.get(name.as_str()).copied();
        let missing = if settings.ipv4 && ipv4.is_none() {
            Some(Family::V4)
        } else if settings.ipv6 && ipv6.is_none() {
            Some(Family::V6)
        } else {
            None
        };
        let phase = if missing.is_some() || mark.is_none() {
            Phase::Failed
        } else {
            phase(node, &recorded, snapshot.heartbeats.is_silent(name))
        };
        let problem = missing.map(|family| Reason::TunnelSubnetExhausted { family });
        let plan = TunnelPlan {
            message: message(phase, problem.as_ref(), recorded.parent.is_some()),
            ipv4,
            ipv6,
            mac: MacAddress::of_tunnel(name),
            mark,
            phase,
            problem,
        };
        (name.clone(), plan)
    });
    plans.collect()
}

/// Why a node can't carry traffic, and where to look.
fn message(phase: Phase, problem: Option<&Reason>, is_reported: bool) -> String {
    match (phase, problem) {
        (_, Some(problem)) => problem.to_string(),
        (Phase::Ready, None) => String::new(),
        (Phase::Pending | Phase::Init, None) if is_reported => {
            "the agent of this node has not programmed it yet; if that lasts, look at the agent's log"
                .to_owned()
        }
        (Phase::Pending | Phase::Init, None) => {
            "the agent of this node has not reported yet; if that lasts, look at the agent's pod on this node"
                .to_owned()
        }
        (Phase::HeartbeatTimeout, None) => {
            "its agent no longer renews its Lease; look at the agent's pod on this node".to_owned()
        }
        (Phase::NodeNotReady, None) => "the Node is not Ready; look at the conditions of the Node".to_owned(),
        (Phase::Failed, None) => {
            "the agent could not program this node; the condition Ready says why".to_owned()
        }
    }
}

/// Who is ready, from what Kubernetes says of the node and what its agent says of itself.
fn phase(node: &Node, recorded: &Tunnel, silent: bool) -> Phase {
    if recorded.parent.is_none() {
        return Phase::Init;
    }
    if !node.ready {
        return Phase::NodeNotReady;
    }
    if silent {
        return Phase::HeartbeatTimeout;
    }
    match (recorded.programmed, recorded.phase) {
        (Some(false), _) => Phase::Failed,
        (Some(true), _) => Phase::Ready,
        // An agent that says nothing by condition says it by the phase alone, and not again when its node comes back.
        (None, Some(Phase::Ready | Phase::NodeNotReady | Phase::HeartbeatTimeout)) => Phase::Ready,
        (None, _) => Phase::Init,
    }
}

/// An address of the subnet for every node, without the first and the last one.
fn addresses(
    snapshot: &ClusterSnapshot,
    enabled: bool,
    subnet: ipnet::IpNet,
    recorded: impl Fn(&Tunnel) -> Option<IpAddr>,
) -> BTreeMap<&str, IpAddr> {
    if !enabled {
        return BTreeMap::new();
    }
    let family = Family::of(subnet.addr());
    let first = to_number(subnet.network()).saturating_add(1);
    let last = to_number(subnet.broadcast()).saturating_sub(1);
    let valid =
        |address: &IpAddr| Family::of(*address) == family && (first..=last).contains(&to_number(*address));
    let kept = snapshot.nodes.keys().filter_map(|name| {
        let address = recorded(&snapshot.tunnels.get(name)?.tunnel).filter(valid)?;
        Some((name.as_str(), to_number(address)))
    });
    let numbers = share_out(snapshot, kept, first..=last);
    numbers.into_iter().map(|(name, number)| (name, from_number(family, number))).collect()
}

/// A mark for every node.
fn marks(snapshot: &ClusterSnapshot) -> BTreeMap<&str, u32> {
    let base = u128::from(snapshot.settings.mark_base);
    let range = base + 1..=base + 0x00ff_fffe;
    let kept = snapshot.nodes.keys().filter_map(|name| {
        let mark = u128::from(snapshot.tunnels.get(name)?.tunnel.mark?);
        range.contains(&mark).then_some((name.as_str(), mark))
    });
    let numbers = share_out(snapshot, kept, range.clone());
    numbers.into_iter().filter_map(|(name, number)| Some((name, u32::try_from(number).ok()?))).collect()
}

/// Gives every node a number: its own where no node before it has the same, else the lowest free one.
fn share_out<'a>(
    snapshot: &'a ClusterSnapshot,
    kept: impl Iterator<Item = (&'a str, u128)>,
    range: std::ops::RangeInclusive<u128>,
) -> BTreeMap<&'a str, u128> {
    let mut taken = BTreeSet::new();
    let mut numbers: BTreeMap<&str, u128> = kept.filter(|(_, number)| taken.insert(*number)).collect();
    let mut free = range.filter(|number| !taken.contains(number));
    for name in snapshot.nodes.keys() {
        if numbers.contains_key(name.as_str()) {
            continue;
        }
        let Some(number) = free.next() else { break };
        numbers.insert(name, number);
    }
    numbers
}
