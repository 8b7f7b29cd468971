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
            };
            view.eips = BTreeMap::from([(eip(1), source)]);
            (name.to_owned(), view)
        });
        let mut cluster = Self {
            views: views.into(),
            network: Network { hosts: BTreeMap::new(), uplink: "eth0".to_owned() },
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

#[test]
fn a_selected_pod_leaves_with_its_eip_and_gets_its_answers() {
    for node in NODES {
        for transport in [tcp(40000, 443), udp(40000, 53), ping(7)] {
            let mut cluster = Cluster::new();
            let out = cluster.round_trip(node, 5, transport);
            assert_eq!(out.source, address(eip(1)));
            assert!(block(4096 * u16::from(number(node)), 4096).contains(out.source_port().unwrap()));
        }
    }
}

#[test]
fn two_nodes_with_the_same_ports_of_two_eips_both_get_their_answers() {
    let mut cluster = Cluster::new();
    cluster.change(|view| {
        if let Some(own) = view.gateway_eips.get_mut(&eip(2)) {
            own.leases = BTreeSet::from([lease("node-1", 4096, 4096)]);
            own.answers = view.node == "node-3";
        }
        if view.node == "node-1" {
            view.eips.insert(eip(2), view.eips[&eip(1)].clone());
            view.policies.push(policy("second", &["c"], &[], Some(eip(2))));
        }
    });
    let first = cluster.round_trip("node-1", 5, udp(5000, 53));
    let second = cluster.round_trip("node-1", 7, udp(5000, 53));
    assert_eq!((first.source, second.source), (address(eip(1)), address(eip(2))));
    assert_eq!(first.source_port(), second.source_port());
}

#[test]
fn other_traffic_is_as_if_we_were_not_there() {
    let mut cluster = Cluster::new();
    let unselected = outside(&cluster.pod_sends("node-1", 7, tcp(1, 443), SERVER));
    assert_eq!(unselected.source, IpAddr::from(underlay("node-1")));
    let inside = cluster.pod_sends("node-1", 5, tcp(1, 443), pod_address("node-1", 7));
    assert!(
        matches!(inside, End::Behind { packet, .. } if packet.source == IpAddr::from(pod_address("node-1", 5)))
    );
    let host = Packet::new(underlay("node-1"), SERVER, tcp(9, 443));
    assert_eq!(outside(&cluster.network.send("node-1", host.clone())), host);
    let agent = Packet::new(tunnel4("node-1"), tunnel4("node-3"), udp(9, 5800));
    assert!(matches!(cluster.network.send("node-1", agent), End::Process { node, .. } if node == "node-3"));
    // A reply of an inbound connection.
    let inbound = Packet::new(SERVER, pod_address("node-1", 5), tcp(5555, 80));
    let arrived = cluster.network.receive("node-1", "eth0", inbound);
    let End::Behind { packet, .. } = arrived else { panic!("{arrived:?}") };
    let answer = outside(&cluster.pod_sends_packet("node-1", 5, packet.reply()));
    assert_eq!(answer.source, IpAddr::from(pod_address("node-1", 5)));
}

#[test]
fn connections_survive_the_move_of_their_eip() {
    for node in NODES {
        let mut cluster = Cluster::new();
        let before = cluster.round_trip(node, 5, tcp(40000, 443));
        for carrier in ["node-4", "node-3", "node-4"] {
            cluster.carry(eip(1), Some(carrier));
            let after = cluster.round_trip(node, 5, tcp_data(40000, 443));
            assert_eq!((before.source, before.source_port()), (after.source, after.source_port()));
            let end = cluster.pod_sends(node, 5, tcp_data(40000, 443), SERVER);
            assert!(matches!(end, End::Outside { node, .. } if node == carrier));
        }
    }
}

#[test]
fn a_flow_keeps_its_eip_when_its_policy_changes_or_goes() {
    let mut cluster = Cluster::new();
    let before = cluster.round_trip("node-1", 5, udp(5000, 53));
    cluster.change(|view| view.policies.clear());
    let after = cluster.round_trip("node-1", 5, udp(5000, 53));
    assert_eq!((before.source, before.source_port()), (after.source, after.source_port()));
    let new = outside(&cluster.pod_sends("node-1", 5, udp(5001, 53), SERVER));
    assert_eq!(new.source, IpAddr::from(underlay("node-1")));
}

#[test]
fn a_flow_that_is_older_than_its_policy_keeps_its_way() {
    let mut cluster = Cluster::new();
    cluster.change(|view| view.policies.clear());
    // One was answered, the other never.
    let answered = outside(&cluster.pod_sends("node-1", 5, udp(1, 53), SERVER));
    cluster.network.send_from_outside(answered.reply());
    cluster.pod_sends("node-1", 5, udp(2, 53), SERVER);
    cluster.change(|view| view.policies = vec![policy("test", &["a"], &[], Some(eip(1)))]);
    for port in [1, 2] {
        let out = outside(&cluster.pod_sends("node-1", 5, udp(port, 53), SERVER));
        assert_eq!(out.source, IpAddr::from(underlay("node-1")), "port {port}");
    }
    assert_eq!(outside(&cluster.pod_sends("node-1", 5, udp(3, 53), SERVER)).source, address(eip(1)));
}

#[test]
fn without_gateway_it_is_refused_by_reason() {
    let mut cluster = Cluster::new();
    let known = cluster.round_trip("node-1", 5, tcp(1, 443));
    cluster.carry(eip(1), None);
    for transport in [tcp(2, 443), tcp_data(1, 443)] {
        let end = cluster.pod_sends("node-1", 5, transport, SERVER);
        assert!(matches!(lost(Some(end)).1, Outcome::Rejected(_)));
    }
    assert_eq!(cluster.counter("node-1", "refuse_no_gateway"), 2);
    cluster.change(|view| view.settings.no_gateway_action = NoGatewayAction::Drop);
    assert_eq!(lost(Some(cluster.pod_sends("node-1", 5, tcp(3, 443), SERVER))).1, Outcome::Dropped);
    cluster.carry(eip(1), Some("node-4"));
    assert_eq!(cluster.round_trip("node-1", 5, tcp_data(1, 443)).source_port(), known.source_port());
}

#[test]
fn without_gateway_new_connections_leave_directly_where_that_is_asked_for_and_stay_so() {
    let mut cluster = Cluster::new();
    cluster.round_trip("node-1", 5, tcp(1, 443));
    cluster.change(|view| view.settings.no_gateway_action = NoGatewayAction::Direct);
    cluster.carry(eip(1), None);
    let direct = outside(&cluster.pod_sends("node-1", 5, tcp(2, 443), SERVER));
    assert_eq!(direct.source, IpAddr::from(underlay("node-1")));
    // A flow with an EIP can't leave from here.
    let end = cluster.pod_sends("node-1", 5, tcp_data(1, 443), SERVER);
    assert!(matches!(lost(Some(end)).1, Outcome::Rejected(_)));
    cluster.carry(eip(1), Some("node-3"));
    let same = outside(&cluster.pod_sends("node-1", 5, tcp_data(2, 443), SERVER));
    assert_eq!((same.source, same.source_port()), (direct.source, direct.source_port()));
    assert_eq!(outside(&cluster.pod_sends("node-1", 5, tcp(3, 443), SERVER)).source, address(eip(1)));
}

#[test]
fn without_lease_only_new_connections_are_refused() {
    let mut cluster = Cluster::new();
    cluster.pod_sends("node-1", 5, udp(1, 514), SERVER);
    cluster.change(|view| {
        let source = view.eips.get_mut(&eip(1)).unwrap();
        source.draining.extend(source.block.take());
    });
    let end = cluster.pod_sends("node-1", 5, udp(2, 514), SERVER);
    assert!(matches!(lost(Some(end)).1, Outcome::Rejected(_)));
    assert_eq!(cluster.counter("node-1", "refuse_no_lease"), 1);
    let old = outside(&cluster.pod_sends("node-1", 5, udp(1, 514), SERVER));
    assert_eq!(old.source, address(eip(1)));
}

#[test]
fn what_cant_be_translated_is_refused() {
    let mut cluster = Cluster::new();
    let end = cluster.pod_sends("node-1", 5, Transport::Other(47), SERVER);
    assert!(matches!(lost(Some(end)).1, Outcome::Rejected(_)));
    assert_eq!(cluster.counter("node-1", "refuse_protocol"), 1);
    let packet =
        Packet { out_of_window: true, ..Packet::new(pod_address("node-1", 5), SERVER, tcp_data(1, 2)) };
    let end = cluster.pod_sends_packet("node-1", 5, packet.clone());
    assert_eq!(lost(Some(end)).1, Outcome::Dropped);
    assert_eq!(cluster.counter("node-1", "drop_untracked"), 1);
    // To where no policy selects it is none of our business.
    let inside = Packet { destination: pod_address("node-1", 7).into(), ..packet };
    assert!(matches!(cluster.pod_sends_packet("node-1", 5, inside), End::Behind { .. }));
}

#[test]
fn a_pod_does_not_reach_an_eip() {
    for (node, pod) in [("node-1", 5), ("node-3", 5)] {
        let mut cluster = Cluster::new();
        for to in [eip(1), eip(3)] {
            let end = cluster.pod_sends(node, pod, tcp(1, 5000), to.v4().unwrap());
            assert!(matches!(lost(Some(end)).1, Outcome::Rejected(_)));
        }
        assert_eq!(cluster.counter(node, "refuse_to_eip"), 2);
    }
}

#[test]
fn an_address_from_another_pods_interface_is_dropped() {
    let mut cluster = Cluster::new();
    let stolen = Packet::new(pod_address("node-1", 5), SERVER, tcp(1, 443));
    assert_eq!(lost(Some(cluster.pod_sends_packet("node-1", 6, stolen))).1, Outcome::Dropped);
    assert_eq!(cluster.counter("node-1", "drop_spoofed"), 1);
}

#[test]
fn link_local_and_node_addresses_are_selected_only_by_name() {
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let mut cluster = Cluster::new();
    let out = outside(&cluster.pod_sends("node-1", 5, tcp(1, 80), metadata));
    assert_eq!(out.source, IpAddr::from(underlay("node-1")));
    let node = cluster.pod_sends("node-1", 5, tcp(1, 80), underlay("node-2"));
    assert!(matches!(node, End::Process { packet, .. } if packet.source == IpAddr::from(underlay("node-1"))));
    cluster.change(|view| view.policies.push(policy("named", &["a"], &["169.254.169.254/32"], Some(eip(1)))));
    assert_eq!(outside(&cluster.pod_sends("node-1", 5, tcp(2, 80), metadata)).source, address(eip(1)));
}

#[test]
fn a_service_that_leads_outside_is_classified_by_where_it_leads() {
    let service = Ipv4Addr::new(10, 96, 0, 77);
    let mut cluster = Cluster::new();
    let host = cluster.network.hosts.get_mut("node-1").unwrap();
    host.services.insert((service.into(), 80), (SERVER.into(), 8080));
    host.services.insert((Ipv4Addr::new(10, 6, 99, 9).into(), 80), (pod_address("node-1", 7).into(), 80));
    let out = outside(&cluster.pod_sends("node-1", 5, tcp(1, 80), service));
    assert_eq!((out.source, out.destination), (address(eip(1)), SERVER.into()));
    let back = cluster.network.send_from_outside(out.reply());
    assert!(matches!(back, Some(End::Behind { packet, .. }) if packet.source == IpAddr::from(service)));
    // A load balancer's address that leads inside.
    let inside = cluster.pod_sends("node-1", 5, tcp(2, 80), Ipv4Addr::new(10, 6, 99, 9));
    assert!(matches!(inside, End::Behind { .. }));
}

#[test]
fn errors_about_a_flow_reach_its_pod() {
    for node in NODES {
        for transport in [udp(5000, 33434), ping(9)] {
            let mut cluster = Cluster::new();
            let out = outside(&cluster.pod_sends(node, 5, transport.clone(), SERVER));
            let error = out.error(Ipv4Addr::new(10, 6, 99, 1), 3);
            let back = cluster.network.send_from_outside(error);
            let Some(End::Behind { packet, .. }) = back else { panic!("{node} {transport:?} {back:?}") };
            let Transport::Error { quoted, .. } = &packet.transport else { panic!("{packet:?}") };
            assert_eq!(quoted.source, IpAddr::from(pod_address(node, 5)));
            assert_eq!(quoted.transport, transport);
        }
    }
}

#[test]
fn errors_of_a_pod_about_a_reply_leave_with_its_eip() {
    for node in NODES {
        let mut cluster = Cluster::new();
        let out = outside(&cluster.pod_sends(node, 5, udp(5000, 53), SERVER));
        let Some(End::Behind { packet, .. }) = cluster.network.send_from_outside(out.reply()) else {
            panic!()
        };
        let error = packet.error(pod_address(node, 5), 3);
        let error = outside(&cluster.pod_sends_packet(node, 5, error));
        assert_eq!(error.source, address(eip(1)));
        let Transport::Error { quoted, .. } = &error.transport else { panic!("{error:?}") };
        assert_eq!(**quoted, Packet { ether_source: quoted.ether_source, ..out.reply() });
    }
}

#[test]
fn strays_vanish_are_counted_and_never_loop() {
    let mut cluster = Cluster::new();
    let to_eip = |port| Packet::new(SERVER, eip(1).v4().unwrap(), tcp(443, port));
    // To a block that nobody holds: no reset.
    assert_eq!(
        lost(cluster.network.send_from_outside(to_eip(60000))),
        ("node-3".to_owned(), Outcome::Dropped)
    );
    assert_eq!(cluster.counter("node-3", "drop_no_holder"), 1);
    // To a held block, but of no connection.
    assert_eq!(
        lost(cluster.network.send_from_outside(to_eip(4100))),
        ("node-1".to_owned(), Outcome::Dropped)
    );
    assert_eq!(cluster.counter("node-1", "drop_stray"), 1);
    // To the gateway's own block.
    assert_eq!(
        lost(cluster.network.send_from_outside(to_eip(12300))),
        ("node-3".to_owned(), Outcome::Dropped)
    );
    assert_eq!(cluster.counter("node-3", "drop_stray"), 1);
    let ping = Packet::new(SERVER, eip(1).v4().unwrap(), Transport::Other(47));
    assert_eq!(lost(cluster.network.send_from_outside(ping)).1, Outcome::Dropped);
}

#[test]
fn a_node_uses_only_the_ports_that_it_holds() {
    let mut cluster = Cluster::new();
    let from = |mac: &str, port| {
        let packet = Packet::new(eip(1).v4().unwrap(), SERVER, udp(port, 53));
        Packet { ether_source: Some(MacAddress::of_tunnel(mac)), ..packet }
    };
    let mut end = |packet| cluster.network.receive("node-3", "egress.vxlan", packet);
    assert!(matches!(end(from("node-1", 4096)), End::Outside { .. }));
    assert!(matches!(end(from("node-1", 8191)), End::Outside { .. }));
    for (mac, port) in
        [("node-2", 4096), ("node-1", 4095), ("node-1", 8192), ("node-9", 4096), ("node-1", 12288)]
    {
        assert!(matches!(end(from(mac, port)), End::Lost { .. }), "{mac} {port}");
    }
    assert_eq!(cluster.counter("node-3", "drop_not_leased"), 5);
    // From and to elsewhere than EIPs: no router for whoever reaches the tunnel.
    let foreign = Packet::new(pod_address("node-1", 5), SERVER, udp(1, 53));
    assert!(matches!(cluster.network.receive("node-3", "egress.vxlan", foreign), End::Lost { .. }));
    assert_eq!(cluster.counter("node-3", "drop_tunnel"), 1);
}

#[test]
fn a_pod_forges_no_tunnel_datagram() {
    let mut cluster = Cluster::new();
    for (n, to) in [(7, underlay("node-3")), (5, underlay("node-1"))] {
        let end = cluster.pod_sends("node-1", n, udp(9999, 7789), to);
        assert_eq!(lost(Some(end)).1, Outcome::Dropped);
    }
    assert_eq!(cluster.counter("node-1", "drop_forged"), 2);
    // That port elsewhere is nobody's business.
    assert!(matches!(cluster.pod_sends("node-1", 7, udp(9999, 7789), SERVER), End::Outside { .. }));
    // Nor does it reach agents through the tunnel.
    let end = cluster.pod_sends("node-1", 7, udp(9999, 5800), tunnel4("node-3"));
    assert_eq!(lost(Some(end)).1, Outcome::Dropped);
    assert_eq!(cluster.counter("node-1", "drop_tunnel_entry"), 1);
}

#[test]
fn outer_datagrams_are_not_tracked() {
    let mut cluster = Cluster::new();
    let outer = Packet::new(underlay("node-1"), underlay("node-3"), udp(51000, 7789));
    assert!(matches!(cluster.network.send("node-1", outer), End::Process { .. }));
    for node in ["node-1", "node-3"] {
        assert_eq!(cluster.network.hosts[node].flows, [], "{node}");
    }
    // Gateways track nothing of what they carry.
    cluster.round_trip("node-1", 5, tcp(1, 443));
    assert_eq!(cluster.network.hosts["node-3"].flows, []);
}

#[test]
fn a_process_on_a_gateway_answers_an_eip() {
    let mut cluster = Cluster::new();
    let end = cluster.pod_sends("node-1", 5, tcp(1, 9000), Ipv4Addr::new(10, 6, 0, 13));
    // Node addresses are not outside; by name they are.
    assert!(matches!(end, End::Process { .. }));
    cluster.change(|view| view.policies.push(policy("named", &["a"], &["10.6.0.13/32"], Some(eip(1)))));
    let end = cluster.pod_sends("node-1", 5, tcp(2, 9000), Ipv4Addr::new(10, 6, 0, 13));
    let End::Process { node, packet } = end else { panic!("{end:?}") };
    assert_eq!((node.as_str(), packet.source), ("node-3", address(eip(1))));
    let back = cluster.network.send("node-3", packet.reply());
    assert!(matches!(back, End::Behind { node, .. } if node == "node-1"));
}

#[test]
fn an_eip_is_pinged_in_its_gateways_name() {
    let mut cluster = Cluster::new();
    let ping = Packet::new(SERVER, eip(1).v4().unwrap(), ping(3));
    let end = cluster.network.send_from_outside(ping.clone());
    let Some(End::Process { node, packet }) = end else { panic!("{end:?}") };
    assert_eq!((node.as_str(), packet.destination), ("node-3", underlay("node-3").into()));
    let answer = outside(&cluster.network.send("node-3", packet.reply()));
    assert_eq!((answer.source, answer.transport), (ping.destination, ping.reply().transport));
}

#[test]
fn a_reply_that_exceeds_the_tunnel_is_answered_about_the_eip() {
    let mut cluster = Cluster::new();
    let out = outside(&cluster.pod_sends("node-1", 5, udp(5000, 53), SERVER));
    let reply = Packet { length: 1480, dont_fragment: true, ..out.reply() };
    let (node, outcome) = lost(cluster.network.send_from_outside(reply.clone()));
    assert_eq!((node.as_str(), outcome), ("node-3", Outcome::TooBig(reply)));
    assert_eq!(cluster.counter("node-3", "too_big"), 1);
}

#[test]
fn the_guard_stops_what_lost_its_connection() {
    for strict in [false, true] {
        let mut cluster = Cluster::new();
        cluster.round_trip("node-1", 5, tcp(1, 443));
        let host = cluster.network.hosts.get_mut("node-1").unwrap();
        host.flows.clear();
        host.strict = strict;
        match cluster.pod_sends("node-1", 5, tcp_data(1, 443), SERVER) {
            End::Outside { packet, .. } => assert_eq!((packet.source, strict), (address(eip(1)), false)),
            End::Lost { outcome, .. } => assert_eq!((outcome, strict), (Outcome::Dropped, true)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_guard_stops_what_was_not_classified_before_routing() {
    // As with IPVS, which changes the destination later: nothing marks the connection.
    let mut cluster = Cluster::new();
    let host = cluster.network.hosts.get_mut("node-1").unwrap();
    let table = host.state.tables.get_mut("egressgateway").unwrap();
    table.chains.get_mut("source").unwrap().rules.clear();
    assert_eq!(lost(Some(cluster.pod_sends("node-1", 5, tcp(1, 443), SERVER))).1, Outcome::Dropped);
    assert_eq!(cluster.counter("node-1", "drop_guard"), 1);
}

#[test]
fn the_guard_stops_what_others_have_translated() {
    let mut cluster = Cluster::new();
    let host = cluster.network.hosts.get_mut("node-1").unwrap();
    let table = host.state.tables.get_mut("egressgateway").unwrap();
    table.sets.get_mut("snat4").unwrap().elements.clear();
    assert_eq!(lost(Some(cluster.pod_sends("node-1", 5, tcp(1, 443), SERVER))).1, Outcome::Dropped);
    assert_eq!(cluster.counter("node-1", "drop_guard"), 1);
}

#[test]
fn without_rule_route_or_tunnel_nothing_leaves_past_the_gateway() {
    let mut cluster = Cluster::new();
    let state = cluster.network.hosts["node-1"].state.clone();
    let mut send = |change: fn(&mut Host)| {
        let host = cluster.network.hosts.get_mut("node-1").unwrap();
        host.state = state.clone();
        change(host);
        lost(Some(cluster.pod_sends("node-1", 5, tcp(1, 443), SERVER))).1
    };
    let device = |route: &Route| matches!(route.target, RouteTarget::Device { .. });
    assert_eq!(send(|host| host.state.rules.clear()), Outcome::Dropped);
    assert_eq!(
        send(|host| host.state.routes.retain(|route| matches!(route.target, RouteTarget::Unreachable))),
        Outcome::Unreachable
    );
    assert_eq!(send(|host| host.state.peers.clear()), Outcome::Unreachable);
    assert!(state.routes.iter().any(device));
    assert_eq!(cluster.counter("node-1", GUARD[1]), 1);
}

/// What a policy says about a destination, by asking one after the other.
fn naive<'a>(view: &'a NodeView, pod: &PodKey, to: Ipv4Addr) -> Option<&'a PolicyView> {
    let never: [&str; 5] =
        ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"];
    let to = IpAddr::from(to);
    let inside = view.cluster_cidrs.iter().any(|net| net.contains(&to))
        || view.node_addresses.contains(&to)
        || never.iter().any(|net| net.parse::<ipnet::IpNet>().unwrap().contains(&to));
    let specific = |policy: &PolicyView| match &policy.destinations {
        Destinations::Outside => (!inside).then_some(0),
        Destinations::Subnets(nets) => {
            nets.iter().filter(|net| net.contains(&to)).map(|net| net.prefix_len()).max()
        }
    };
    view.policies
        .iter()
        .filter(|policy| policy.pods.contains(pod))
        .filter(|policy| policy.eip.is_none_or(|eip| eip.v4().is_some()))
        .filter_map(|policy| Some((specific(policy)?, policy)))
        .min_by(|(a, p), (b, q)| {
            let priority = |p: &PolicyView| (p.precedence.priority.is_none(), p.precedence.priority);
            priority(p).cmp(&priority(q)).then(b.cmp(a)).then(p.precedence.cmp(&q.precedence))
        })
        .map(|(_, policy)| policy)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_packet_of_any_pod_leaves_as_the_policies_say(
        view in any_view(),
        pod in 1u8..5,
        to in prop_oneof![
            Just(Ipv4Addr::new(1, 1, 1, 1)), Just(Ipv4Addr::new(1, 1, 2, 2)), Just(Ipv4Addr::new(1, 2, 3, 4)),
            Just(Ipv4Addr::new(9, 9, 9, 9)), Just(SERVER), Just(Ipv4Addr::new(169, 254, 169, 254)),
            any::<u32>().prop_map(Ipv4Addr::from),
        ],
        transport in prop_oneof![Just(tcp(5000, 443)), Just(udp(5000, 53)), Just(ping(5)), Just(Transport::Other(47))],
    ) {
        let addresses: BTreeSet<_> = view.pods.values().map(|pod| &pod.addresses).collect();
        prop_assume!(addresses.len() == view.pods.len());
        prop_assume!(!view.all_eips.iter().any(|eip| eip.contains(to.into())));
        let state = compile(&view, &numbered(&view));
        prop_assert_eq!(datapath::violations::violations(&view, &state), []);
        let mut host = host(&view);
        host.state = state;
        let from = IpAddr::from(pod_address("node-1", pod));
        prop_assume!(!host.addresses.contains(&to.into()) && !to.is_broadcast());
        let owner = view.pods.iter().find(|(_, pod)| pod.addresses.contains(&from));
        let device = match owner.and_then(|(_, pod)| pod.interface) {
            // The same index as the pod says.
            Some(index) => { host.devices.insert("own".to_owned(), index); "own".to_owned() }
            None => veth(pod),
        };
        let packet = Packet::new(from, to, transport.clone());
        let outcome = host.receive(&device, packet);
        let chosen = owner.and_then(|(key, _)| naive(&view, key, to));
        let Some(policy) = chosen else {
            // As if we were not there.
            if let Outcome::Sent { packet, .. } = &outcome {
                prop_assert!(packet.source == from || view.node_addresses.contains(&packet.source));
                return Ok(());
            }
            prop_assert!(false, "{:?}", outcome);
            return Ok(());
        };
        let source = policy.eip.and_then(|eip| Some((eip, view.eips.get(&eip)?)));
        let way = source.and_then(|(eip, source)| {
            let carrier = source.carrier.as_ref()?;
            let own = *carrier == view.node;
            let reachable = if own { view.gateway_eips.contains_key(&eip) } else { true };
            (source.block.is_some() && reachable).then_some((eip, source, own))
        });
        let translatable = !matches!(transport, Transport::Other(_));
        match (way, translatable, &outcome) {
            (Some((eip, source, own)), true, Outcome::Sent { device, packet, next_hop }) => {
                prop_assert_eq!(packet.source, IpAddr::from(eip.v4().unwrap()));
                prop_assert!(source.block.unwrap().contains(packet.source_port().unwrap()));
                prop_assert_eq!(device.as_str(), if own { "eth0" } else { "egress.vxlan" });
                prop_assert_eq!(packet.mark, 0);
                if !own {
                    prop_assert_eq!(*next_hop, IpAddr::from(tunnel4(source.carrier.as_ref().unwrap())));
                }
            }
            (Some((_, _, false)), true, Outcome::Unreachable) => {
                prop_assert!(view.tunnel.is_none() || view.uplink.is_none());
            }
            (_, _, Outcome::Sent { packet, .. }) => {
                prop_assert_eq!(view.settings.no_gateway_action, NoGatewayAction::Direct);
                prop_assert!(way.is_none() || !translatable);
                prop_assert!(view.node_addresses.contains(&packet.source));
            }
            (None, ..) | (_, false, _) => match view.settings.no_gateway_action {
                NoGatewayAction::Reject => prop_assert!(matches!(outcome, Outcome::Rejected(_))),
                NoGatewayAction::Drop => prop_assert_eq!(outcome, Outcome::Dropped),
                NoGatewayAction::Direct => prop_assert!(false, "{:?}", outcome),
            },
            (_, _, outcome) => prop_assert!(false, "{:?}", outcome),
        }
        let guarded: u64 = GUARD.iter().filter_map(|name| host.counters.get(*name)).sum();
        prop_assert_eq!(guarded, 0, "the guard is never needed");
    }
}
