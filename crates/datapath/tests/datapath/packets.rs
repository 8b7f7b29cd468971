//! What packets do in compiled states, from the pod to the outside and back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use datapath::compile::compile;
use datapath::numbering::Numbering;
use datapath::state::{Route, RouteTarget};
use datapath::trace::{End, Host, Network, Outcome, Packet, SYN, TCP, Transport, UDP};
use datapath::view::*;
use model::EipPair;
use model::tunnel_mac::MacAddress;
use proptest::prelude::*;

use crate::worlds::*;

mod dual_stack;
mod gateway;
mod guard;
mod node_address;
mod oracle;
mod overflow;
mod random;
mod source;

pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 6, 168, 63);
const GUARD: [&str; 2] = ["drop_guard", "drop_guard_way"];

/// The device of the n-th pod of a node; its index is n + 10.
fn veth(n: u8) -> String {
    format!("veth{n}")
}

fn route(net: &str, device: &str) -> Route {
    let target = RouteTarget::Device { device: device.to_owned(), via: None };
    Route { table: 254, destination: net.parse().unwrap(), target, metric: 0 }
}

pub(crate) fn host(view: &NodeView) -> Host {
    let number = number(&view.node);
    let pods = 0u8..8;
    let mut routes: Vec<Route> =
        pods.clone().map(|n| route(&format!("{}/32", pod_address(&view.node, n)), &veth(n))).collect();
    routes.push(route("10.6.0.0/16", "eth0"));
    routes.push(Route {
        target: RouteTarget::Device { device: "eth0".to_owned(), via: Some(SERVER.into()) },
        ..route("0.0.0.0/0", "eth0")
    });
    let devices = pods.map(|n| (veth(n), u32::from(n) + 10));
    let devices = devices.chain([("eth0".to_owned(), 2), ("egress.vxlan".to_owned(), 3)]).collect();
    Host {
        devices,
        mtu: 1500,
        addresses: BTreeSet::from([underlay(&view.node).into(), tunnel4(&view.node).into()]),
        routes,
        masquerade: vec![format!("10.244.{number}.0/24").parse().unwrap(), "10.244.0.0/16".parse().unwrap()],
        ..Host::default()
    }
}

/// A cluster of four: node-1 and node-2 sources, node-3 and node-4 gateways, node-3 also a source.
pub(crate) struct Cluster {
    pub(crate) views: BTreeMap<String, NodeView>,
    pub(crate) network: Network,
    numbers: BTreeMap<String, Numbering>,
}

impl Cluster {
    /// One policy for pods a and b of each node, EIP 1, carried by node-3.
    pub(crate) fn new() -> Self {
        let views = NODES.map(|name| {
            let mut view = if number(name) >= 3 { gateway(name) } else { node(name) };
            view.pods = BTreeMap::from([
                (pod_key("a"), pod(name, 5, Some(15))),
                (pod_key("b"), pod(name, 6, None)),
                (pod_key("c"), pod(name, 7, None)),
            ]);
            view.policies = vec![policy("test", &["a", "b"], &[], Some(eip(1)))];
            view.all_eips = BTreeSet::from([eip(1), eip(2), eip(3)]);
            let source = SourceEip {
                carrier: Some("node-3".to_owned()),
                candidates: BTreeSet::from(["node-3".to_owned(), "node-4".to_owned()]),
                block: Some(block(4096 * u16::from(number(name)), 4096)),
                draining: BTreeSet::new(),
                overflow: false,
                node_address: false,
            };
            view.eips = BTreeMap::from([(eip(1), source)]);
            (name.to_owned(), view)
        });
        let mut cluster = Self {
            views: views.into(),
            network: Network { uplink: "eth0".to_owned(), ..Network::default() },
            numbers: BTreeMap::new(),
        };
        cluster.carry(eip(1), Some("node-3"));
        cluster
    }

    /// Compiles all nodes anew; connections live on.
    pub(crate) fn apply(&mut self) {
        for (name, view) in &self.views {
            let numbering = self.numbers.entry(name.clone()).or_default();
            numbering.update(view, &BTreeSet::new());
            let state = compile(view, numbering);
            assert_eq!(datapath::violations::violations(view, &state), []);
            self.network.hosts.entry(name.clone()).or_insert_with(|| host(view)).state = state;
        }
    }

    /// Changes every view and applies.
    pub(crate) fn change(&mut self, change: impl Fn(&mut NodeView)) {
        self.views.values_mut().for_each(change);
        self.apply();
    }

    /// The EIP moves.
    pub(crate) fn carry(&mut self, eip: EipPair, carrier: Option<&str>) {
        self.change(|view| {
            if let Some(source) = view.eips.get_mut(&eip) {
                source.carrier = carrier.map(str::to_owned);
            }
            if let Some(own) = view.gateway_eips.get_mut(&eip) {
                own.answers = carrier == Some(&view.node);
            }
        });
    }

    /// The n-th pod of a node sends.
    pub(crate) fn pod_sends(&mut self, node: &str, n: u8, transport: Transport, to: Ipv4Addr) -> End {
        self.pod_sends_packet(node, n, Packet::new(pod_address(node, n), to, transport))
    }

    fn pod_sends_packet(&mut self, node: &str, n: u8, packet: Packet) -> End {
        let end = self.network.receive(node, &veth(n), packet);
        self.nobody_leaks(&end);
        end
    }

    /// Nothing that leaves has a selected pod's address, and no guard had to act.
    fn nobody_leaks(&self, end: &End) {
        assert_ne!(*end, End::Loop);
        if let End::Outside { packet, .. } = end {
            assert!(packet.mark & model::mark::FOREIGN_MASK == packet.mark, "{packet:?}");
        }
    }

    pub(crate) fn counter(&self, node: &str, name: &str) -> u64 {
        self.network.hosts.get(node).and_then(|host| host.counters.get(name)).copied().unwrap_or_default()
    }

    /// A request leaves with this source, and its answer comes back to the pod.
    #[track_caller]
    fn round_trip(&mut self, node: &str, n: u8, transport: Transport) -> Packet {
        let sent = Packet::new(pod_address(node, n), SERVER, transport);
        let out = outside(&self.pod_sends_packet(node, n, sent.clone()));
        let back = self.network.send_from_outside(out.reply());
        let Some(End::Behind { node: at, device, packet }) = back else { panic!("{back:?}") };
        assert_eq!((at.as_str(), device), (node, veth(n)));
        assert_eq!((packet.source, packet.destination), (SERVER.into(), sent.source));
        assert_eq!(packet.transport, sent.reply().transport);
        out
    }
}

#[track_caller]
fn outside(end: &End) -> Packet {
    match end {
        End::Outside { packet, .. } => packet.clone(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn lost(end: Option<End>) -> (String, Outcome) {
    match end {
        Some(End::Lost { node, outcome }) => (node, outcome),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn tcp(source: u16, destination: u16) -> Transport {
    Transport::Ports { protocol: TCP, source, destination, flags: SYN }
}

fn tcp_data(source: u16, destination: u16) -> Transport {
    Transport::Ports { protocol: TCP, source, destination, flags: 0x18 }
}

fn udp(source: u16, destination: u16) -> Transport {
    Transport::Ports { protocol: UDP, source, destination, flags: 0 }
}

fn ping(id: u16) -> Transport {
    Transport::Echo { reply: false, id }
}

fn address(eip: EipPair) -> IpAddr {
    eip.v4().unwrap().into()
}
