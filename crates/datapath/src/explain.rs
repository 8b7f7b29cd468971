//! "Why does this packet leave with that address?": what a source node does with a pod's packet, in words.
//!
//! The decision is read from the view, what happens from a trace of the compiled state: should they ever differ, both are
//! on the table.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use model::pool::Family;

use crate::class::{Selected, ranked};
use crate::numbering::Numbering;
use crate::state::{DatapathState, Route, RouteTarget, TunnelDevice};
use crate::trace::{Host, Outcome, Packet, SYN, TCP, Transport};
use crate::view::{Destinations, NodeView, Pod, PodKey, PolicyView, SourceEip, Uplink};

/// The main routing table.
const MAIN_TABLE: u32 = 254;

/// The first packet of a connection, as an answer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The pod's address
    pub source: IpAddr,
    /// Where to
    pub destination: IpAddr,
    /// Protocol number; 1 and 58 ask about a ping
    pub protocol: u8,
    /// Destination port, for protocols that have ports
    pub port: u16,
}

/// The answer: sentences under headings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Heading and text; a heading that repeats is shown once
    lines: Vec<(&'static str, String)>,
}

impl Explanation {
    fn say(&mut self, heading: &'static str, text: impl Into<String>) {
        self.lines.push((heading, text.into()));
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for (heading, text) in &self.lines {
            let shown = if *heading == last { "" } else { heading };
            writeln!(f, "{shown:<10}{text}")?;
            last = heading;
        }
        Ok(())
    }
}

/// What this node does with the first packet of a connection, and why.
#[must_use]
pub fn explain(
    view: &NodeView,
    numbering: &Numbering,
    state: &DatapathState,
    question: &Question,
) -> Explanation {
    let mut answer = Explanation::default();
    if question.source.is_ipv4() != question.destination.is_ipv4() {
        answer.say("packet", "source and destination are of different families: there is no such packet");
        return answer;
    }
    let pod = view.pods.iter().find(|(_, pod)| pod.addresses.contains(&question.source));
    let served = match Family::of(question.source) {
        Family::V4 => view.settings.ipv4,
        Family::V6 => view.settings.ipv6,
    };
    match pod {
        Some((key, _)) => answer.say("pod", format!("{key} on node {}", view.node)),
        None => answer.say(
            "pod",
            format!(
                "{} is no pod of node {} (pods with hostNetwork are the host, and are left alone)",
                question.source, view.node
            ),
        ),
    }
    if !served {
        answer.say("family", "not served here: see feature.enableIPv4 and feature.enableIPv6");
    }
    let decider = pod.and_then(|(key, _)| policies(&mut answer, view, key, question.destination));
    if let Some(policy) = decider {
        egress(&mut answer, view, numbering, policy);
    }
    happens(&mut answer, view, state, pod.map(|(_, pod)| pod), question);
    answer
}

/// Says which policies select the packet; returns the one that decides.
fn policies<'a>(
    answer: &mut Explanation,
    view: &'a NodeView,
    pod: &PodKey,
    to: IpAddr,
) -> Option<&'a PolicyView> {
    let of_pod: Vec<&PolicyView> = view.policies.iter().filter(|policy| policy.pods.contains(pod)).collect();
    if of_pod.is_empty() {
        answer.say("policy", "none selects this pod");
        return None;
    }
    let ranked = ranked(view, pod, to);
    for (place, Selected { policy, subnet }) in ranked.iter().enumerate() {
        let what = match subnet {
            Some(subnet) => format!("destSubnet {subnet}"),
            None => "everything outside the cluster".to_owned(),
        };
        let priority = policy.precedence.priority.map(|n| format!(", priority {n}")).unwrap_or_default();
        let verdict = if place == 0 { "decides" } else { "comes after it" };
        answer.say("policy", format!("{} {verdict}: {what}{priority}", policy.precedence.key));
    }
    for policy in of_pod {
        if ranked.iter().all(|selected| selected.policy.precedence.key != policy.precedence.key) {
            answer.say(
                "policy",
                format!("{} does not apply: {}", policy.precedence.key, why_not(view, policy, to)),
            );
        }
    }
    ranked.first().map(|selected| selected.policy)
}

/// Why a policy that selects the pod does not select the destination.
fn why_not(view: &NodeView, policy: &PolicyView, to: IpAddr) -> String {
    let has_family = |eip: &model::EipPair| eip.addresses().any(|a| a.is_ipv4() == to.is_ipv4());
    if policy.eip.as_ref().is_some_and(|eip| !has_family(eip)) {
        return "its EIP has no address of this family".to_owned();
    }
    if let Destinations::Subnets(subnets) = &policy.destinations
        && !subnets.iter().any(|subnet| subnet.contains(&to))
    {
        return "no destSubnet of it holds the destination".to_owned();
    }
    let nodes = view.node_addresses.iter().find(|address| **address == to);
    let cluster = view.cluster_cidrs.iter().find(|net| net.contains(&to));
    match (nodes, cluster) {
        (Some(_), _) => "the destination is a node of the cluster".to_owned(),
        (None, Some(net)) => format!("the destination is in {net}, a network of the cluster"),
        (None, None) => "the destination never leaves a link (loopback, link-local, multicast)".to_owned(),
    }
}

fn egress(answer: &mut Explanation, view: &NodeView, numbering: &Numbering, policy: &PolicyView) {
    let Some(eip) = policy.eip else {
        answer.say("EIP", "none was given yet: see the policy's status");
        return;
    };
    let Some(source) = view.eips.get(&eip) else {
        answer.say("EIP", format!("{eip}, of which this node knows nothing yet"));
        return;
    };
    let id = numbering.id(&eip).map_or_else(
        || "no egress id is left".to_owned(),
        |id| format!("connection mark {:#x}", id.ct_mark()),
    );
    if source.node_address {
        let node = source.candidates.first().map_or("a gateway", String::as_str);
        answer.say("EIP", format!("the own address of node {node} (useNodeIP), {id}"));
    } else {
        answer.say("EIP", format!("{eip}, {id}"));
        answer.say("ports", ports(source));
    }
    match &source.carrier {
        None => answer.say("gateway", "none lives"),
        Some(node) if *node == view.node => answer.say("gateway", "this node itself"),
        Some(node) => answer.say("gateway", node.clone()),
    }
}

fn ports(source: &SourceEip) -> String {
    match (source.block, source.overflow) {
        (Some(block), _) => {
            format!("{}-{}, leased to this node; any gateway can carry it", block.first(), block.last())
        }
        (None, true) => {
            "none leased to this node: the gateway's own (overflow); ends with that gateway".to_owned()
        }
        (None, false) => {
            "none leased to this node, and no gateway has any to lend: new connections wait".to_owned()
        }
    }
}

/// Says what a trace of the compiled state does with the packet.
fn happens(
    answer: &mut Explanation,
    view: &NodeView,
    state: &DatapathState,
    pod: Option<&Pod>,
    question: &Question,
) {
    let mut host = host(view, state, pod);
    let transport = match question.protocol {
        1 | 58 => Transport::Echo { reply: false, id: 40_000 },
        protocol @ (6 | 17 | 132 | 136) => Transport::Ports {
            protocol,
            source: 40_000,
            destination: question.port,
            flags: if protocol == TCP { SYN } else { 0 },
        },
        other => Transport::Other(other),
    };
    let outcome = host.receive(POD_DEVICE, Packet::new(question.source, question.destination, transport));
    let tunnel = state.tunnel.as_ref().map(|tunnel| tunnel.name.as_str());
    let text = match outcome {
        Outcome::Sent { device, packet, .. } if packet.source == question.source => {
            format!("left alone: it leaves by {device}, with whatever address the CNI gives it")
        }
        Outcome::Sent { device, next_hop, packet } if Some(device.as_str()) == tunnel => {
            format!("leaves through the tunnel to {next_hop}, from {}", packet.source)
        }
        Outcome::Sent { device, packet, .. } => format!("leaves by {device}, from {}", packet.source),
        Outcome::Delivered(_) => "is for this host itself".to_owned(),
        Outcome::Dropped => "dropped".to_owned(),
        Outcome::Rejected(_) => "refused with an ICMP answer".to_owned(),
        Outcome::Unreachable => "unreachable: no route leads there".to_owned(),
        Outcome::TooBig(_) => "too big for the tunnel".to_owned(),
        Outcome::Clash => "dropped: all ports towards this destination are in use".to_owned(),
    };
    answer.say("packet", text);
    let reason = host.counters.iter().filter(|(_, count)| **count > 0).map(|(name, _)| name.as_str());
    let meanings: BTreeMap<&str, &str> = crate::compile::names::COUNTERS.iter().copied().collect();
    for name in reason {
        let meaning = meanings.get(name).copied().unwrap_or_default();
        answer.say("counted", format!("{name}: {meaning}"));
    }
    for step in &host.steps {
        answer.say("rule", step.clone());
    }
}

const POD_DEVICE: &str = "(pod)";

/// The node as the trace sees it: our state, a device of the pod, and a default route.
fn host(view: &NodeView, state: &DatapathState, pod: Option<&Pod>) -> Host {
    let device = view.uplink.as_ref().map_or("(uplink)", |uplink| uplink.device.as_str());
    let pod_index = pod.and_then(|pod| pod.interface).unwrap_or(u32::MAX);
    let mut devices = BTreeMap::from([(POD_DEVICE.to_owned(), pod_index)]);
    devices.insert(device.to_owned(), view.uplink.as_ref().map_or(0, |uplink| uplink.index));
    let own = view.uplink.iter().flat_map(Uplink::addresses);
    let tunnel = state.tunnel.iter().flat_map(TunnelDevice::addresses);
    let default = |net: &str| -> Option<Route> {
        let target = RouteTarget::Device { device: device.to_owned(), via: None };
        Some(Route { table: MAIN_TABLE, destination: net.parse::<IpNet>().ok()?, target, metric: 0 })
    };
    Host {
        state: state.clone(),
        devices,
        mtu: u16::MAX,
        addresses: own.chain(tunnel).collect(),
        routes: ["0.0.0.0/0", "::/0"].into_iter().filter_map(default).collect(),
        ..Host::default()
    }
}
