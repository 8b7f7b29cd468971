//! What is broken or bypassed, and does not leave all the same.

use super::*;

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
fn the_guard_stops_what_is_not_tracked_either() {
    let mut cluster = Cluster::new();
    let host = cluster.network.hosts.get_mut("node-1").unwrap();
    host.strict = true;
    let table = host.state.tables.get_mut("egressgateway").unwrap();
    table.chains.get_mut("source").unwrap().rules.clear();
    assert_eq!(lost(Some(cluster.pod_sends("node-1", 5, tcp_data(1, 443), SERVER))).1, Outcome::Dropped);
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

#[test]
fn a_pod_that_is_not_known_yet_is_held_until_it_is() {
    let mut cluster = Cluster::new();
    let known = cluster.views["node-1"].pods[&pod_key("a")].clone();
    let of_node = |view: &mut NodeView| view.node == "node-1";
    cluster.change(|view| drop(of_node(view).then(|| view.pods.remove(&pod_key("a")))));
    for transport in [tcp(1, 443), udp(2, 53), ping(3)] {
        assert_eq!(lost(Some(cluster.pod_sends("node-1", 5, transport, SERVER))).1, Outcome::Dropped);
    }
    assert_eq!(cluster.counter("node-1", "drop_unknown_pod"), 3);
    // Inside the cluster, and in answer to others, it may talk.
    let inside = cluster.pod_sends("node-1", 5, tcp(1, 443), pod_address("node-1", 7));
    assert!(matches!(inside, End::Behind { .. }), "{inside:?}");
    let inbound = Packet::new(SERVER, pod_address("node-1", 5), tcp(5555, 80));
    let End::Behind { packet, .. } = cluster.network.receive("node-1", "eth0", inbound) else { panic!() };
    outside(&cluster.pod_sends_packet("node-1", 5, packet.reply()));
    // What it sends again when it is known leaves with the EIP.
    cluster.change(|view| {
        if view.node == "node-1" {
            view.pods.insert(pod_key("a"), known.clone());
        }
    });
    assert_eq!(cluster.round_trip("node-1", 5, tcp(1, 443)).source, address(eip(1)));
}

#[test]
fn without_policies_nobody_is_held() {
    let mut cluster = Cluster::new();
    cluster.change(|view| {
        view.pods.clear();
        view.policies.clear();
    });
    let out = outside(&cluster.pod_sends("node-1", 5, tcp(1, 443), SERVER));
    assert_eq!(out.source, IpAddr::from(underlay("node-1")));
    cluster.change(|view| {
        view.policies = vec![policy("test", &["a"], &[], Some(eip(1)))];
        view.settings.start_guard = false;
    });
    outside(&cluster.pod_sends("node-1", 6, tcp(1, 443), SERVER));
}
