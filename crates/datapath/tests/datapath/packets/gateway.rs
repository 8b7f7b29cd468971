//! What gateways carry, and what they do not.

use super::*;

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
