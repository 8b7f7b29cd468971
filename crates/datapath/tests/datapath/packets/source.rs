//! What the pods of a source node send.

use super::*;

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

/// Acceptance: X-P13
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
fn without_lease_only_new_connections_wait() {
    let mut cluster = Cluster::new();
    cluster.pod_sends("node-1", 5, udp(1, 514), SERVER);
    cluster.change(|view| {
        let source = view.eips.get_mut(&eip(1)).unwrap();
        source.draining.extend(source.block.take());
    });
    let end = cluster.pod_sends("node-1", 5, udp(2, 514), SERVER);
    assert_eq!(lost(Some(end)).1, Outcome::Dropped);
    assert_eq!(cluster.counter("node-1", "hold_no_lease"), 1);
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
fn addresses_of_the_host_that_are_no_nodes_are_left_alone() {
    let bridge = Ipv4Addr::new(172, 17, 0, 1);
    let mut cluster = Cluster::new();
    cluster.carry(eip(1), None);
    cluster.network.hosts.get_mut("node-1").unwrap().addresses.insert(bridge.into());
    assert!(matches!(cluster.pod_sends("node-1", 5, tcp(1, 80), bridge), End::Process { .. }));
    let broadcast = cluster.pod_sends("node-1", 5, udp(1, 80), Ipv4Addr::new(10, 6, 255, 255));
    assert!(matches!(broadcast, End::Process { .. }), "{broadcast:?}");
    cluster.change(|view| view.policies.push(policy("named", &["a"], &["172.17.0.1/32"], Some(eip(1)))));
    let named = cluster.pod_sends("node-1", 5, tcp(2, 80), bridge);
    assert!(matches!(lost(Some(named)).1, Outcome::Rejected(_)));
}

#[test]
fn the_bits_of_a_mark_that_are_others_stay() {
    let mut cluster = Cluster::new();
    let host = cluster.network.hosts.get_mut("node-1").unwrap();
    let packet = Packet { mark: 0x4000, ..Packet::new(pod_address("node-1", 5), SERVER, tcp(1, 443)) };
    let outcome = host.receive("veth5", packet);
    assert!(
        matches!(outcome, Outcome::Sent { device, packet, .. } if device == "egress.vxlan" && packet.mark == 0x4000)
    );
}

#[test]
fn while_an_eip_is_being_chosen_new_connections_wait_and_are_refused_only_when_there_is_none() {
    let mut cluster = Cluster::new();
    for (is_young, counter) in [(true, "hold_no_lease"), (false, "refuse_no_gateway")] {
        cluster.change(|view| {
            let policy = &mut view.policies[0];
            (policy.eip, policy.is_young) = (None, is_young);
        });
        let (_, outcome) = lost(Some(cluster.pod_sends("node-1", 5, tcp(1, 443), SERVER)));
        assert_eq!((outcome == Outcome::Dropped, cluster.counter("node-1", counter)), (is_young, 1));
    }
}
