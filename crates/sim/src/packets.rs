//! What packets do in the kernels of the nodes, as they are at the moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use datapath::class::selects;
use datapath::trace::{End, Network, Packet, SYN, TCP, Transport};
use datapath::view::{NodeView, PodKey};
use model::EipPair;
use model::policy::{EgressChoice, PodSelection};

use crate::machine::{UPLINK, veth};
use crate::nodes::Nodes;
use crate::objects::{Kind, Object};
use crate::people::node_address;
use crate::random::Random;
use crate::server::Server;

/// Where packets go: what policies name, and what only those that name nothing select.
const DESTINATIONS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(203, 0, 113, 7),
    Ipv4Addr::new(203, 0, 113, 200),
    Ipv4Addr::new(198, 51, 100, 5),
    Ipv4Addr::new(9, 9, 9, 9),
];

/// What became of packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Left with an EIP
    pub with_eip: u64,
    /// Left with the address of a node that lends it
    pub with_lent_address: u64,
    /// Of selected pods, and did not leave
    pub held: u64,
    /// Of other pods
    pub others: u64,
    /// All that were sent: no two of them have the same port
    sent: u64,
}

impl Counts {
    /// Adds others to these.
    pub fn add(&mut self, more: &Self) {
        self.with_eip += more.with_eip;
        self.with_lent_address += more.with_lent_address;
        self.held += more.held;
        self.others += more.others;
        self.sent += more.sent;
    }
}

/// A running pod.
struct Pod {
    key: PodKey,
    node: String,
    address: IpAddr,
}

fn pods(server: &Server) -> Vec<Pod> {
    let pods = server.all(Kind::Pod).iter().filter_map(|((namespace, name), object)| match &**object {
        Object::Pod(pod) => Some(Pod {
            key: PodKey::new(namespace, name),
            node: pod.spec.node_name.clone(),
            address: pod.status.pod_ip.parse().ok()?,
        }),
        _ => None,
    });
    pods.collect()
}

/// The nodes on their wire. Those that are dead are not there, and of those that are cut off only `node` itself, or all others.
fn network(nodes: &Nodes, node: &str, now_ms: u64) -> Network {
    let is_cut = |name: &str| nodes.nodes.get(name).is_some_and(|node| now_ms < node.cut_until_ms);
    let is_there = |name: &str| name == node || !(is_cut(name) || is_cut(node));
    let alive = nodes.nodes.iter().filter(|(name, node)| node.agent.is_some() && is_there(name));
    let hosts = alive.map(|(name, node)| (name.clone(), node.machine.take_host()));
    Network { hosts: hosts.collect(), uplink: UPLINK.to_owned(), ..Network::default() }
}

fn put_back(nodes: &Nodes, network: Network) {
    for (name, host) in network.hosts {
        if let Some(node) = nodes.nodes.get(&name) {
            node.machine.put_host(host);
        }
    }
}

fn connect(address: IpAddr, destination: Ipv4Addr, port: u16) -> Packet {
    let transport = Transport::Ports { protocol: TCP, source: port, destination: 443, flags: SYN };
    Packet::new(address, destination, transport)
}

/// Some pods begin connections, and none of those that a policy selects leaves with another source than its EIP.
pub fn probe(
    server: &Server,
    nodes: &Nodes,
    random: &mut Random,
    now_ms: u64,
    counts: &mut Counts,
) -> Result<(), String> {
    let pods = pods(server);
    for _ in 0..2 {
        let (Some(pod), Some(destination)) = (random.pick(&pods), random.pick(&DESTINATIONS)) else {
            continue;
        };
        let agent = nodes.nodes.get(&pod.node).and_then(|node| node.agent.as_ref());
        // What others have flushed is put back in the next pass; what leaves before is not ours to hold.
        let Some(agent) = agent.filter(|agent| !agent.is_behind) else { continue };
        let Some(view) = agent.view() else { continue };
        counts.sent += 1;
        let port = u16::try_from(32_768 + counts.sent % 28_000).unwrap_or_default();
        let mut network = network(nodes, &pod.node, now_ms);
        let end = network.receive(&pod.node, &veth(pod.address), connect(pod.address, *destination, port));
        let steps: Vec<String> = network
            .hosts
            .iter()
            .filter(|(name, _)| {
                **name == pod.node || matches!(&end, End::Outside { node, .. } if node == *name)
            })
            .map(|(name, host)| format!("{name}: {}", host.steps.join(", ")))
            .collect();
        put_back(nodes, network);
        // So is it with what the gateway lets out whose rules were flushed.
        let is_behind = |name: &String| {
            nodes.nodes.get(name).and_then(|node| node.agent.as_ref()).is_some_and(|agent| agent.is_behind)
        };
        if matches!(&end, End::Outside { node, .. } if is_behind(node)) {
            continue;
        }
        judge(view, pod, *destination, &end, counts)
            .map_err(|error| format!("{error}; pod on {}; {}", pod.node, steps.join("; ")))?;
    }
    Ok(())
}

fn judge(
    view: &NodeView,
    pod: &Pod,
    destination: Ipv4Addr,
    end: &End,
    counts: &mut Counts,
) -> Result<(), String> {
    let is_known = view.pods.get(&pod.key).is_some_and(|known| known.addresses.contains(&pod.address));
    if !is_known && view.pods.values().any(|other| other.addresses.contains(&pod.address)) {
        // The node takes it for the pod that had the address before.
        return Ok(());
    }
    let selecting = view
        .policies
        .iter()
        .filter(|policy| policy.pods.contains(&pod.key) && selects(view, policy, destination.into()));
    let eips: Vec<Option<EipPair>> = selecting.map(|policy| policy.eip).collect();
    if is_known && eips.is_empty() {
        counts.others += 1;
        return Ok(());
    }
    let End::Outside { node, packet } = end else {
        counts.held += 1;
        return Ok(());
    };
    if !is_known {
        // Held until it is known whether a policy selects it, where there is any.
        return if view.policies.is_empty() {
            counts.others += 1;
            Ok(())
        } else {
            Err(format!(
                "pod {} at {} is not known and left from {node} as {}",
                pod.key, pod.address, packet.source
            ))
        };
    }
    let is_eip = eips.iter().flatten().any(|eip| eip.contains(packet.source));
    let tunnels: BTreeMap<IpAddr, &str> = view
        .peers
        .iter()
        .flat_map(|(name, peer)| peer.addresses().map(move |address| (address, name.as_str())))
        .chain(
            view.tunnel.iter().flat_map(|own| own.addresses().map(|address| (address, view.node.as_str()))),
        )
        .collect();
    let is_lent = eips.iter().flatten().flat_map(EipPair::addresses).any(|own| {
        tunnels.get(&own).is_some_and(|lender| IpAddr::from(node_address(lender)) == packet.source)
    });
    counts.with_eip += u64::from(is_eip);
    counts.with_lent_address += u64::from(is_lent);
    if is_eip || is_lent {
        return Ok(());
    }
    Err(format!(
        "pod {} to {destination} left from {node} as {}, not as one of {eips:?}",
        pod.key, packet.source
    ))
}

/// What a policy in force gives to the pods that it selects.
#[derive(Debug)]
struct InForce {
    pods: PodSelection,
    destinations: BTreeSet<ipnet::IpNet>,
    eip: Option<EipPair>,
    /// Nodes whose own address they may leave with, those that are not Ready as well: their agents may know better
    lenders: BTreeSet<String>,
    is_ready: bool,
}

fn in_force(server: &Server) -> Vec<InForce> {
    let objects = server.all(Kind::Policy).values().chain(server.all(Kind::ClusterPolicy).values());
    let policies = objects.filter_map(|object| {
        let (policy, status) = match &**object {
            Object::Policy(policy) => (api::convert::policy(policy), policy.status.clone()),
            Object::ClusterPolicy(policy) => (api::convert::cluster_policy(policy), policy.status.clone()),
            _ => return None,
        };
        let (policy, status) = (policy.ok()?, status.unwrap_or_default());
        let borrows = policy.egress == EgressChoice::NodeAddress;
        let gateway = policy.gateway.clone().filter(|_| borrows).map(|name| (String::new(), name));
        let lenders =
            match gateway.and_then(|key| server.all(Kind::Gateway).get(&key)).map(|object| &**object) {
                Some(Object::Gateway(gateway)) => gateway.status.clone().unwrap_or_default().node_list,
                _ => Vec::new(),
            };
        let ready = api::v1beta1::condition(&status.conditions, api::names::CONDITION_READY);
        Some(InForce {
            pods: policy.pods,
            destinations: policy.destinations,
            eip: EipPair::new(status.eip.ipv4.parse().ok(), status.eip.ipv6.parse().ok()),
            is_ready: ready.is_some_and(|ready| ready.status == "True"),
            lenders: lenders.into_iter().map(|node| node.name).collect(),
        })
    });
    policies.collect()
}

/// Once all is quiet every selected pod leaves with what the status of a policy that selects it says, and gets its answer;
/// or it does not leave, where none of them is in force.
pub fn at_rest(server: &Server, nodes: &Nodes, now_ms: u64, counts: &mut Counts) -> Result<(), String> {
    let policies = in_force(server);
    for pod in pods(server) {
        let key = (pod.key.namespace.clone(), pod.key.name.clone());
        let labels = match server.all(Kind::Pod).get(&key).map(|object| &**object) {
            Some(Object::Pod(pod)) => pod.metadata.labels.clone().unwrap_or_default(),
            _ => continue,
        };
        let namespace = server.all(Kind::Namespace).get(&(String::new(), pod.key.namespace.clone()));
        let of_namespace = match namespace.map(|object| &**object) {
            Some(Object::Namespace(namespace)) => namespace.metadata.labels.clone().unwrap_or_default(),
            _ => continue,
        };
        for (destination, port) in DESTINATIONS.into_iter().zip(20_000..) {
            let selects = |policy: &&InForce| {
                let of_pod = match &policy.pods {
                    PodSelection::Labels(namespaces, selector) => {
                        namespaces.contain(&pod.key.namespace, Some(&of_namespace))
                            && selector.matches(&labels)
                    }
                    PodSelection::Subnets(namespaces, subnets) => {
                        namespaces.contain(&pod.key.namespace, Some(&of_namespace))
                            && subnets.iter().any(|net| net.contains(&pod.address))
                    }
                };
                let is_meant = policy.destinations.iter().any(|net| net.contains(&IpAddr::from(destination)));
                of_pod && (policy.destinations.is_empty() || is_meant)
            };
            let selecting: Vec<&InForce> = policies.iter().filter(selects).collect();
            let mut network = network(nodes, &pod.node, now_ms);
            // An earlier connection of the same ports would go on as it began.
            network.hosts.values_mut().for_each(|host| host.flows.clear());
            let end = network.receive(&pod.node, &veth(pod.address), connect(pod.address, destination, port));
            let answer = match &end {
                End::Outside { packet, .. } => network.send_from_outside(packet.reply()),
                _ => None,
            };
            put_back(nodes, network);
            let what = || format!("pod {} on {} to {destination}", pod.key, pod.node);
            if selecting.is_empty() {
                counts.others += 1;
                if !matches!(&end, End::Outside { packet, .. } if packet.source == IpAddr::from(node_address(&pod.node)))
                {
                    return Err(format!("{}, which no policy selects, ends as {end:?}", what()));
                }
                continue;
            }
            let End::Outside { packet, .. } = &end else {
                if selecting.iter().all(|policy| policy.is_ready) {
                    return Err(format!(
                        "{} does not leave, with all its policies in force: {end:?}",
                        what()
                    ));
                }
                counts.held += 1;
                continue;
            };
            let gives = |policy: &&&InForce| match policy.eip {
                Some(eip) => eip.contains(packet.source),
                None => policy.lenders.iter().any(|node| packet.source == IpAddr::from(node_address(node))),
            };
            let Some(policy) = selecting.iter().find(gives) else {
                return Err(format!(
                    "{} leaves as {}, as no policy's status says: {selecting:?}",
                    what(),
                    packet.source
                ));
            };
            counts.with_eip += u64::from(policy.eip.is_some());
            counts.with_lent_address += u64::from(policy.eip.is_none());
            match &answer {
                Some(End::Behind { node, packet, .. })
                    if *node == pod.node && packet.destination == pod.address => {}
                other => {
                    return Err(format!("the answer to {} as {} ends as {other:?}", what(), packet.source));
                }
            }
        }
    }
    Ok(())
}
