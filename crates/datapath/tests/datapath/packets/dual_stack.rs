//! IPv6 takes the same way.

use std::net::Ipv6Addr;

use super::*;

const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0xfd06, 0, 0, 0, 0, 0, 0, 0x63);

fn pod6(node: &str, n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, number(node).into(), 0, 0, 0, n.into())
}

fn underlay6(node: &str) -> Ipv6Addr {
    Ipv6Addr::new(0xfd06, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(number(node)))
}

fn pair() -> EipPair {
    "10.6.168.201+fd06::201".parse().unwrap()
}

/// The cluster with a pair of addresses as its EIP.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    for (name, host) in &mut cluster.network.hosts {
        host.addresses.extend([IpAddr::from(underlay6(name)), tunnel6(name).into()]);
        host.routes.push(route(&format!("{}/128", pod6(name, 5)), &veth(5)));
        host.routes.push(route("fd06::/64", "eth0"));
        host.routes.push(route("::/0", "eth0"));
        host.masquerade.push("fd00::/48".parse().unwrap());
    }
    cluster.change(|view| {
        view.settings.ipv6 = true;
        view.uplink.as_mut().unwrap().ipv6 = Some(underlay6(&view.node));
        view.node_addresses.extend(NODES.map(|node| IpAddr::from(underlay6(node))));
        let pod = pod6(&view.node, 5);
        view.pods.get_mut(&pod_key("a")).unwrap().addresses.insert(pod.into());
        view.policies = vec![policy("test", &["a", "b"], &[], Some(pair()))];
        view.all_eips = BTreeSet::from([pair()]);
        let source = view.eips.remove(&eip(1)).unwrap();
        view.eips.insert(pair(), source);
        if let Some(own) = view.gateway_eips.remove(&eip(1)) {
            view.gateway_eips.insert(pair(), own);
        }
    });
    cluster
}

#[test]
fn both_families_leave_with_their_address_of_the_pair_and_come_back() {
    for node in NODES {
        for transport in [tcp(40000, 443), udp(40000, 53), ping(7)] {
            let mut cluster = cluster();
            let sent = Packet::new(pod6(node, 5), OUTSIDE, transport.clone());
            let out = outside(&cluster.pod_sends_packet(node, 5, sent.clone()));
            assert_eq!(Some(out.source), pair().v6().map(IpAddr::from));
            assert!(block(4096 * u16::from(number(node)), 4096).contains(out.source_port().unwrap()));
            let back = cluster.network.send_from_outside(out.reply());
            let Some(End::Behind { packet, .. }) = back else { panic!("{back:?}") };
            assert_eq!((packet.destination, packet.transport), (sent.source, sent.reply().transport));
            assert_eq!(cluster.round_trip(node, 5, transport).source, address(eip(1)));
        }
    }
}

#[test]
fn errors_reach_the_pod_and_a_big_reply_is_answered() {
    let mut cluster = cluster();
    let out =
        outside(&cluster.pod_sends_packet("node-1", 5, Packet::new(pod6("node-1", 5), OUTSIDE, udp(1, 53))));
    let back = cluster.network.send_from_outside(out.error(Ipv6Addr::LOCALHOST, 1));
    assert!(matches!(back, Some(End::Behind { node, .. }) if node == "node-1"));
    let reply = Packet { length: 1480, ..out.reply() };
    assert_eq!(lost(cluster.network.send_from_outside(reply.clone())).1, Outcome::TooBig(reply));
}

/// Acceptance: X-P12
#[test]
fn a_family_that_the_eip_lacks_is_left_alone() {
    let mut cluster = cluster();
    cluster.change(|view| {
        view.eips.insert(eip(2), view.eips[&pair()].clone());
        view.policies = vec![policy("test", &["a"], &[], Some(eip(2)))];
    });
    let out =
        outside(&cluster.pod_sends_packet("node-1", 5, Packet::new(pod6("node-1", 5), OUTSIDE, tcp(1, 443))));
    assert_eq!(out.source, IpAddr::from(underlay6("node-1")));
}
