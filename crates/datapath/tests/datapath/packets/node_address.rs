//! Pods that leave with the address of a gateway node.

use super::*;

/// What stands for a node's own address: its tunnel address.
fn own_address(node: &str) -> EipPair {
    EipPair::new(Some(tunnel4(node)), None).unwrap()
}

/// Pods a and b of all nodes leave with node-3's address.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.change(|view| {
        view.lends_address = number(&view.node) >= 3;
        leave_with(view, "node-3");
    });
    cluster
}

fn leave_with(view: &mut NodeView, node: &str) {
    let source = SourceEip {
        carrier: Some(node.to_owned()),
        candidates: BTreeSet::from([node.to_owned()]),
        node_address: true,
        ..SourceEip::default()
    };
    view.eips.insert(own_address(node), source);
    view.policies = vec![policy("test", &["a", "b"], &[], Some(own_address(node)))];
}

/// Acceptance: P00015
#[test]
fn pods_of_all_nodes_leave_with_the_address_of_the_gateway_node() {
    for node in NODES {
        for transport in [tcp(40000, 443), udp(5000, 53), ping(9000)] {
            let mut cluster = cluster();
            let out = cluster.round_trip(node, 5, transport.clone());
            assert_eq!(out.source, IpAddr::from(underlay("node-3")), "{node} {transport:?}");
            cluster.round_trip(node, 5, transport);
            assert_eq!(cluster.counter("node-3", "lent"), u64::from(node != "node-3"));
        }
    }
}

#[test]
fn two_nodes_with_the_same_ports_both_get_their_answers() {
    let mut cluster = cluster();
    let first = cluster.round_trip("node-1", 5, udp(5000, 53));
    let second = cluster.round_trip("node-2", 5, udp(5000, 53));
    assert_ne!(first.source_port(), second.source_port());
    cluster.round_trip("node-1", 5, udp(5000, 53));
}

#[test]
fn connections_stay_with_their_node_when_new_ones_go_elsewhere() {
    let mut cluster = cluster();
    cluster.round_trip("node-1", 5, tcp(40000, 443));
    cluster.change(|view| leave_with(view, "node-4"));
    let old = cluster.round_trip("node-1", 5, tcp_data(40000, 443));
    let new = cluster.round_trip("node-1", 5, tcp(40001, 443));
    assert_eq!([old.source, new.source], ["node-3", "node-4"].map(|node| IpAddr::from(underlay(node))));
}

#[test]
fn errors_about_such_a_flow_reach_its_pod() {
    for node in NODES {
        let mut cluster = cluster();
        let transport = udp(5000, 33434);
        let out = outside(&cluster.pod_sends(node, 5, transport.clone(), SERVER));
        let back = cluster.network.send_from_outside(out.error(Ipv4Addr::new(10, 6, 99, 1), 3));
        let Some(End::Behind { packet, .. }) = back else { panic!("{node} {back:?}") };
        let Transport::Error { quoted, .. } = &packet.transport else { panic!("{packet:?}") };
        assert_eq!((quoted.source, &quoted.transport), (pod_address(node, 5).into(), &transport));
    }
}

#[test]
fn while_the_node_is_away_they_are_refused() {
    let mut cluster = cluster();
    cluster.change(|view| view.eips.get_mut(&own_address("node-3")).unwrap().carrier = None);
    let end = cluster.pod_sends("node-1", 5, tcp(40000, 443), SERVER);
    assert!(matches!(lost(Some(end)).1, Outcome::Rejected(_)));
    assert_eq!(cluster.counter("node-1", "refuse_no_gateway"), 1);
}

#[test]
fn a_gateway_lends_its_address_to_nobody_but_its_peers_and_lets_no_tunnel_address_out() {
    let mut cluster = cluster();
    let from_tunnel = |mac_of: &str, source: Ipv4Addr| {
        let mut packet = Packet::new(source, SERVER, udp(5000, 53));
        packet.ether_source = Some(mac(mac_of));
        packet
    };
    // Another's tunnel address; a pod's address; a stranger's MAC address; and a node that lends nothing.
    for (node, packet) in [
        ("node-3", from_tunnel("node-1", tunnel4("node-2"))),
        ("node-3", from_tunnel("node-1", pod_address("node-1", 5))),
        ("node-3", from_tunnel("node-9", tunnel4("node-1"))),
        ("node-2", from_tunnel("node-1", tunnel4("node-1"))),
    ] {
        let before = cluster.counter(node, "drop_tunnel");
        let end = cluster.network.receive(node, "egress.vxlan", packet);
        assert_eq!(lost(Some(end)).1, Outcome::Dropped);
        assert_eq!(cluster.counter(node, "drop_tunnel"), before + 1);
    }
    let mut invalid = from_tunnel("node-1", tunnel4("node-1"));
    invalid.out_of_window = true;
    let end = cluster.network.receive("node-3", "egress.vxlan", invalid);
    assert_eq!(lost(Some(end)).1, Outcome::Dropped);
    assert_eq!(cluster.counter("node-3", "drop_guard"), 1);
}
