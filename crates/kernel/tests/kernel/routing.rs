//! Links, addresses, routes, neighbours, rules, sysctls.

use std::net::{IpAddr, Ipv4Addr};

use datapath::state::RoutingRule;
use kernel::link::{Link, LinkChange, LinkKind, NewLink, Vxlan};
use kernel::neighbour::FdbEntry;
use kernel::route::{RouteEntry, RouteKind};
use kernel::{Netns, RouteSocket, sysctl};
use model::tunnel_mac::MacAddress;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_cable_joins_two_namespaces", a_cable_joins_two_namespaces),
    ("a_link_is_found_as_it_was_made", a_link_is_found_as_it_was_made),
    ("a_link_moves_to_another_namespace", a_link_moves_to_another_namespace),
    ("what_is_set_twice_or_removed_twice_is_no_error", what_is_set_twice_or_removed_twice_is_no_error),
    ("a_foreign_route_is_never_replaced", a_foreign_route_is_never_replaced),
    ("a_sysctl_belongs_to_its_namespace", a_sysctl_belongs_to_its_namespace),
    ("errors_carry_the_kernels_words", errors_carry_the_kernels_words),
];

fn mac(last: u8) -> MacAddress {
    MacAddress([0x66, 0, 0, 0, 0, last])
}

fn find(socket: &mut RouteSocket, name: &str) -> Link {
    socket.link(name).unwrap().unwrap_or_else(|| panic!("no device {name}"))
}

fn a_cable_joins_two_namespaces() {
    let (left, right) = (Netns::new().unwrap(), Netns::new().unwrap());
    let mut here = RouteSocket::open_in(&left).unwrap();
    let mut there = RouteSocket::open_in(&right).unwrap();
    let kind = LinkKind::Veth { peer: "eth0", peer_netns: Some(&right) };
    here.add_link(&NewLink { up: true, mac: Some(mac(1)), mtu: Some(1400), ..NewLink::new("left", kind) })
        .unwrap();
    there.set_up("eth0").unwrap();
    let (a, b) = (find(&mut here, "left"), find(&mut there, "eth0"));
    assert_eq!((a.kind.as_deref(), a.mtu, a.mac, a.up), (Some("veth"), 1400, Some(mac(1)), true));
    assert!(a.carrier && b.carrier, "{a:?} {b:?}");
    here.add_address(a.index, "10.1.0.1/24".parse().unwrap()).unwrap();
    there.add_address(b.index, "10.1.0.2/24".parse().unwrap()).unwrap();
    here.add_address(a.index, "fd00::1/64".parse().unwrap()).unwrap();
    let has = |address: &str| here_has(&left, a.index, address);
    assert!(has("10.1.0.1/24") && has("fd00::1/64") && !has("10.1.0.2/24"));

    // A datagram gets across.
    let receiver = right.run(|| std::net::UdpSocket::bind("10.1.0.2:9").unwrap()).unwrap();
    receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let sender = left.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    sender.send_to(b"hello", "10.1.0.2:9").unwrap();
    let mut buffer = [0; 16];
    let (len, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from.ip()), (&b"hello"[..], IpAddr::from([10, 1, 0, 1])));

    here.delete_link("left").unwrap();
    assert_eq!(there.link("eth0").unwrap(), None, "the other end goes with it");
}

fn here_has(netns: &Netns, index: u32, address: &str) -> bool {
    let address = address.parse().unwrap();
    let all = RouteSocket::open_in(netns).unwrap().addresses().unwrap();
    all.iter().any(|found| found.index == index && found.address == address)
}

fn a_link_is_found_as_it_was_made() {
    let netns = Netns::new().unwrap();
    let mut socket = RouteSocket::open_in(&netns).unwrap();
    socket.add_link(&NewLink::new("br0", LinkKind::Bridge)).unwrap();
    let cable = LinkKind::Veth { peer: "port", peer_netns: None };
    socket.add_link(&NewLink::new("uplink", cable)).unwrap();
    let (bridge, port, uplink) =
        (find(&mut socket, "br0"), find(&mut socket, "port"), find(&mut socket, "uplink"));
    socket
        .change_link(port.index, &LinkChange { master: Some(bridge.index), ..LinkChange::default() })
        .unwrap();
    assert_eq!(find(&mut socket, "port").master, Some(bridge.index));
    assert_eq!(bridge.kind.as_deref(), Some("bridge"));

    let vxlan = Vxlan {
        vni: 100,
        port: 7789,
        parent: Some(uplink.index),
        local: Some("10.0.0.1".parse().unwrap()),
        learning: false,
    };
    let new = NewLink {
        mac: Some(mac(9)),
        mtu: Some(1350),
        ..NewLink::new("egress.vxlan", LinkKind::Vxlan(vxlan))
    };
    socket.add_link(&new).unwrap();
    let found = find(&mut socket, "egress.vxlan");
    assert_eq!((found.vxlan, found.mac, found.mtu), (Some(vxlan), Some(mac(9)), 1350));
    assert_eq!(socket.link_by_index(found.index).unwrap(), Some(found.clone()));
    assert!(socket.links().unwrap().contains(&found));
    assert_eq!(socket.link("nothing").unwrap(), None);
    assert!(socket.link("a-name-that-is-too-long").is_err());
}

fn a_link_moves_to_another_namespace() {
    let (first, second) = (Netns::new().unwrap(), Netns::new().unwrap());
    assert_ne!(first.identity().unwrap(), second.identity().unwrap());
    let mut socket = RouteSocket::open_in(&first).unwrap();
    socket.add_link(&NewLink::new("a", LinkKind::Veth { peer: "b", peer_netns: None })).unwrap();
    socket.move_link("b", &second).unwrap();
    assert_eq!(socket.link("b").unwrap(), None);
    assert!(RouteSocket::open_in(&second).unwrap().link("b").unwrap().is_some());
    assert_eq!(
        second.run(|| Netns::current().unwrap().identity().unwrap()).unwrap(),
        second.identity().unwrap()
    );
}

fn what_is_set_twice_or_removed_twice_is_no_error() {
    let netns = Netns::new().unwrap();
    let mut socket = RouteSocket::open_in(&netns).unwrap();
    let cable = LinkKind::Veth { peer: "peer", peer_netns: None };
    socket.add_link(&NewLink { up: true, ..NewLink::new("dev", cable) }).unwrap();
    socket.set_up("peer").unwrap();
    let index = socket.index_of("dev").unwrap();
    let vxlan = Vxlan { vni: 1, port: 7789, parent: Some(index), local: None, learning: false };
    socket.add_link(&NewLink { up: true, ..NewLink::new("vx", LinkKind::Vxlan(vxlan)) }).unwrap();
    let tunnel = socket.index_of("vx").unwrap();
    let peer: IpAddr = "10.9.0.2".parse().unwrap();
    let six: IpAddr = "fd09::2".parse().unwrap();
    let fdb = FdbEntry { index: tunnel, mac: mac(2), destination: "10.0.0.2".parse().unwrap() };
    let moved = FdbEntry { destination: "10.0.0.3".parse().unwrap(), ..fdb };
    let rule = RoutingRule { ipv6: false, priority: 99, mark: 0x2600_0001, mask: 0xff00_00ff, table: 3001 };
    let rule6 = RoutingRule { ipv6: true, ..rule.clone() };
    let route = RouteEntry {
        table: 3001,
        onlink: true,
        protocol: 149,
        ..RouteEntry::new("0.0.0.0/0".parse().unwrap(), Some(tunnel), Some(peer))
    };
    let unreachable = RouteEntry {
        table: 3001,
        kind: RouteKind::Unreachable,
        metric: 4_000_000,
        protocol: 149,
        ..RouteEntry::new("0.0.0.0/0".parse().unwrap(), None, None)
    };
    for _ in 0..2 {
        socket.add_address(index, "10.0.0.1/24".parse().unwrap()).unwrap();
        socket.set_neighbour(tunnel, peer, mac(2)).unwrap();
        socket.set_neighbour(tunnel, six, mac(2)).unwrap();
        socket.set_fdb(fdb).unwrap();
        socket.set_fdb(moved).unwrap();
        socket.add_proxy_entry(index, peer).unwrap();
        socket.add_proxy_entry(index, six).unwrap();
        socket.add_rule(&rule).unwrap();
        socket.add_rule(&rule6).unwrap();
        socket.set_route(&route).unwrap();
        socket.set_route(&unreachable).unwrap();
    }
    assert_eq!(socket.fdb(tunnel).unwrap(), [moved]);
    assert_eq!(socket.rules().unwrap(), [rule.clone(), rule6.clone()]);
    let neighbours = socket.neighbours().unwrap();
    let permanent: Vec<_> =
        neighbours.iter().filter(|n| n.index == tunnel && n.permanent).map(|n| (n.address, n.mac)).collect();
    assert!(
        permanent.contains(&(peer, Some(mac(2)))) && permanent.contains(&(six, Some(mac(2)))),
        "{neighbours:?}"
    );
    let proxies = socket.proxy_entries().unwrap();
    assert_eq!(proxies.len(), 2, "{proxies:?}");
    assert!(proxies.iter().all(|entry| entry.ours && entry.index == index));
    let routes = socket.routes_of(149).unwrap();
    assert!(routes.contains(&route) && routes.contains(&unreachable) && routes.len() == 2, "{routes:?}");

    // Replaced in place.
    let other = RouteEntry { gateway: Some("10.9.0.7".parse().unwrap()), ..route.clone() };
    socket.set_route(&other).unwrap();
    let routes = socket.routes_of(149).unwrap();
    assert!(routes.contains(&other) && !routes.contains(&route), "{routes:?}");

    for _ in 0..2 {
        socket.delete_route(&other).unwrap();
        socket.delete_route(&unreachable).unwrap();
        socket.delete_rule(&rule).unwrap();
        socket.delete_rule(&rule6).unwrap();
        socket.delete_proxy_entry(index, peer).unwrap();
        socket.delete_proxy_entry(index, six).unwrap();
        socket.delete_fdb(moved).unwrap();
        socket.delete_neighbour(tunnel, peer).unwrap();
        socket.delete_address(index, "10.0.0.1/24".parse().unwrap()).unwrap();
        socket.delete_link("vx").unwrap();
    }
    assert!(socket.routes_of(149).unwrap().is_empty());
    assert!(socket.rules().unwrap().is_empty());
    assert!(socket.proxy_entries().unwrap().is_empty());
}

fn a_foreign_route_is_never_replaced() {
    let netns = Netns::new().unwrap();
    let mut socket = RouteSocket::open_in(&netns).unwrap();
    let cable = LinkKind::Veth { peer: "peer", peer_netns: None };
    socket.add_link(&NewLink { up: true, ..NewLink::new("dev", cable) }).unwrap();
    socket.set_up("peer").unwrap();
    let index = socket.index_of("dev").ok();
    for destination in ["10.7.0.1/32", "fd07::1/128"] {
        let foreign = RouteEntry::new(destination.parse().unwrap(), index, None);
        socket.set_route(&foreign).unwrap();
        let ours = RouteEntry { protocol: 149, kind: RouteKind::Blackhole, device: None, ..foreign.clone() };
        assert!(socket.set_route(&ours).unwrap_err().is_exists());
        socket.delete_route(&ours).unwrap();
        let metric = if foreign.destination.addr().is_ipv4() { 0 } else { 1024 };
        let there = socket.routes().unwrap();
        assert!(there.contains(&RouteEntry { metric, ..foreign }), "{there:?}");
    }
}

fn a_sysctl_belongs_to_its_namespace() {
    let (first, second) = (Netns::new().unwrap(), Netns::new().unwrap());
    first.run(|| sysctl::write("ipv4/ip_forward", "1").unwrap()).unwrap();
    second.run(|| sysctl::write("ipv4/ip_forward", "0").unwrap()).unwrap();
    assert_eq!(first.run(|| sysctl::read("ipv4/ip_forward").unwrap()).unwrap(), "1");
    assert_eq!(second.run(|| sysctl::read("ipv4/ip_forward").unwrap()).unwrap(), "0");
    assert!(first.run(|| sysctl::read("ipv4/conf/nothing/forwarding")).unwrap().unwrap_err().is_not_found());
}

fn errors_carry_the_kernels_words() {
    let netns = Netns::new().unwrap();
    let mut socket = RouteSocket::open_in(&netns).unwrap();
    let lo = socket.index_of("lo").unwrap();
    let gateway = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
    socket.set_up("lo").unwrap();
    let error =
        socket.set_route(&RouteEntry::new("10.3.0.0/16".parse().unwrap(), Some(lo), gateway)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("10.3.0.0/16") && text.contains("Nexthop has invalid gateway"), "{text}");
    assert!(socket.set_up("nothing").unwrap_err().is_not_found());
}
