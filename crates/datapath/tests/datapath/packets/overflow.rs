//! Nodes without ports of their own: their gateway translates once more.

use super::*;

/// The n-th kilobyte of the range that belongs to gateways.
fn overflow(node: &str, n: u16) -> Lease {
    Lease { role: LeaseRole::Overflow, ..lease(node, 49152 + 1024 * n, 1024) }
}

/// Gateways 3 and 4 hold a block each, and no source but node-2 holds any.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.change(|view| {
        let own = view.eips.get_mut(&eip(1)).unwrap();
        own.overflow = true;
        if view.node != "node-2" {
            own.block = None;
        }
        if let Some(own) = view.gateway_eips.get_mut(&eip(1)) {
            own.leases.retain(|lease| lease.node == "node-2");
            own.leases.extend([overflow("node-3", 0), overflow("node-4", 1)]);
        }
    });
    cluster
}

#[test]
fn a_node_without_a_block_leaves_with_a_port_of_its_gateway_and_gets_its_answers() {
    for transport in [tcp(40000, 443), tcp(50000, 443), udp(5000, 53), ping(9)] {
        let mut cluster = cluster();
        let out = cluster.round_trip("node-1", 5, transport.clone());
        assert_eq!(out.source, address(eip(1)));
        assert!((49152..50176).contains(&out.source_port().unwrap()), "{out:?}");
        assert_eq!(cluster.counter("node-1", "overflow"), 1);
        assert_eq!(cluster.counter("node-3", "overflow"), 1);
        // And what follows.
        let again = cluster.round_trip("node-1", 5, transport);
        assert_eq!(again.source_port(), out.source_port());
        assert_eq!(cluster.counter("node-3", "overflow"), 1);
    }
}

#[test]
fn two_nodes_with_the_same_ports_both_get_their_answers() {
    let mut cluster = cluster();
    cluster.change(|view| {
        if view.node == "node-2" {
            view.eips.get_mut(&eip(1)).unwrap().block = None;
        }
    });
    let first = cluster.round_trip("node-1", 5, udp(50000, 53));
    let second = cluster.round_trip("node-2", 5, udp(50000, 53));
    assert_ne!(first.source_port(), second.source_port());
    let first_again = cluster.round_trip("node-1", 5, udp(50000, 53));
    assert_eq!(first.source_port(), first_again.source_port());
}

#[test]
fn a_gateway_without_a_block_leaves_with_its_overflow_block_and_survives_a_move() {
    let mut cluster = cluster();
    let at_home = cluster.round_trip("node-3", 5, tcp(40000, 443));
    assert!((49152..50176).contains(&at_home.source_port().unwrap()));
    assert_eq!(cluster.counter("node-3", "overflow"), 1);
    cluster.carry(eip(1), Some("node-4"));
    let moved = cluster.round_trip("node-3", 5, tcp_data(40000, 443));
    assert_eq!(at_home.source_port(), moved.source_port());
    // The other gateway's own pods use the same destination at the same time.
    let other = cluster.round_trip("node-4", 5, tcp(40000, 443));
    assert!((50176..51200).contains(&other.source_port().unwrap()));
}

#[test]
fn answers_that_come_to_another_gateway_are_passed_on() {
    let mut cluster = cluster();
    let out = outside(&cluster.pod_sends("node-1", 5, udp(5000, 53), SERVER));
    cluster.carry(eip(1), Some("node-4"));
    let back = cluster.network.send_from_outside(out.reply());
    assert!(matches!(back, Some(End::Behind { ref node, .. }) if node == "node-1"), "{back:?}");
}

#[test]
fn errors_about_an_overflowing_flow_reach_its_pod() {
    for transport in [udp(5000, 33434), ping(9)] {
        let mut cluster = cluster();
        let out = outside(&cluster.pod_sends("node-1", 5, transport.clone(), SERVER));
        let back = cluster.network.send_from_outside(out.error(Ipv4Addr::new(10, 6, 99, 1), 3));
        let Some(End::Behind { node, packet, .. }) = back else { panic!("{transport:?} {back:?}") };
        let Transport::Error { quoted, .. } = &packet.transport else { panic!("{packet:?}") };
        assert_eq!((node.as_str(), quoted.source), ("node-1", IpAddr::from(pod_address("node-1", 5))));
        assert_eq!(quoted.transport, transport);
    }
}

#[test]
fn a_gateway_lets_nobody_use_what_it_does_not_translate() {
    let mut cluster = cluster();
    // A port below the range that nobody holds; one of the range for an EIP without overflow; a stranger's.
    let from_tunnel = |node: &str, port: u16, of: EipPair| {
        let mut packet = Packet::new(address(of), SERVER, udp(port, 53));
        packet.ether_source = Some(mac(node));
        packet
    };
    for packet in [
        from_tunnel("node-1", 4096, eip(1)),
        from_tunnel("node-1", 50000, eip(2)),
        from_tunnel("node-9", 50000, eip(1)),
    ] {
        let end = cluster.network.receive("node-3", "egress.vxlan", packet);
        assert_eq!(lost(Some(end)), ("node-3".to_owned(), Outcome::Dropped));
    }
    assert_eq!(cluster.counter("node-3", "drop_not_leased"), 3);
    // In mid stream and out of window: it would leave with a port that is another's.
    let mut invalid = from_tunnel("node-1", 50000, eip(1));
    invalid.out_of_window = true;
    let end = cluster.network.receive("node-3", "egress.vxlan", invalid);
    assert_eq!(lost(Some(end)), ("node-3".to_owned(), Outcome::Dropped));
}

#[test]
fn a_draining_overflow_block_keeps_its_flows_and_takes_no_new_ones() {
    let mut cluster = cluster();
    let before = cluster.round_trip("node-1", 5, tcp(40000, 443));
    cluster.change(|view| {
        if let Some(own) = view.gateway_eips.get_mut(&eip(1)) {
            let drained = own.leases.iter().map(|lease| Lease {
                draining: lease.role == LeaseRole::Overflow && lease.node == "node-3",
                ..lease.clone()
            });
            own.leases = drained.collect();
        }
    });
    let after = cluster.round_trip("node-1", 5, tcp_data(40000, 443));
    assert_eq!(before.source_port(), after.source_port());
    let new = cluster.pod_sends("node-1", 5, tcp(40001, 443), SERVER);
    assert_eq!(lost(Some(new)).1, Outcome::Dropped);
    assert_eq!(cluster.counter("node-3", "hold_no_lease"), 1);
}

#[test]
fn without_a_block_and_without_overflow_new_connections_wait() {
    let mut cluster = cluster();
    cluster.change(|view| view.eips.get_mut(&eip(1)).unwrap().overflow = false);
    let end = cluster.pod_sends("node-1", 5, udp(5000, 53), SERVER);
    assert_eq!(lost(Some(end)), ("node-1".to_owned(), Outcome::Dropped));
    assert_eq!(cluster.counter("node-1", "hold_no_lease"), 1);
}
