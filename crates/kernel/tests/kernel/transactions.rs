//! Whole transactions, and what is seen of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use datapath::nft::{ChainKind, Hook, Statement, TableFamily};
use datapath::state::{
    DatapathState, ProxyNeighbour, Route, RouteTarget, RoutingRule, TunnelDevice, TunnelPeer,
};
use datapath::transaction::{Interest, NftCommand, RouteChange, Transaction};
use kernel::announce::Announcer;
use kernel::link::{LinkKind, NewLink};
use kernel::monitor::{Commit, RouteEvent, RouteMonitor, RulesetEvent, RulesetMonitor};
use kernel::route::RouteEntry;
use kernel::uplink::UplinkChoice;
use kernel::{Failure, Kernel, Netns, NftSocket, RouteSocket, sysctl};
use model::tunnel_mac::MacAddress;

use crate::Test;
use crate::ruleset::{base, rule, table_id};

pub(crate) const TESTS: &[Test] = &[
    ("a_whole_state_is_applied_and_read_back", a_whole_state_is_applied_and_read_back),
    ("a_broken_tunnel_is_repaired", a_broken_tunnel_is_repaired),
    ("a_failed_step_holds_up_no_other", a_failed_step_holds_up_no_other),
    ("a_commit_is_heard_with_its_tables_and_its_sender", a_commit_is_heard_with_its_tables_and_its_sender),
    ("changes_of_the_routing_state_are_heard", changes_of_the_routing_state_are_heard),
    ("the_uplink_is_found", the_uplink_is_found),
    ("an_announcement_moves_an_address", an_announcement_moves_an_address),
];

const WAIT: Duration = Duration::from_secs(5);

fn mac(last: u8) -> MacAddress {
    MacAddress([0x66, 0, 0, 0, 0, last])
}

/// A namespace with an uplink, whose far end is in the other one.
fn node() -> (Netns, Netns) {
    let (node, outside) = (Netns::new().unwrap(), Netns::new().unwrap());
    let mut routes = RouteSocket::open_in(&node).unwrap();
    let kind = LinkKind::Veth { peer: "far", peer_netns: Some(&outside) };
    routes.add_link(&NewLink { up: true, mac: Some(mac(0xaa)), ..NewLink::new("eth0", kind) }).unwrap();
    let index = routes.index_of("eth0").unwrap();
    routes.add_address(index, "10.6.0.1/24".parse().unwrap()).unwrap();
    let mut far = RouteSocket::open_in(&outside).unwrap();
    far.set_up("far").unwrap();
    let index = far.index_of("far").unwrap();
    far.add_address(index, "10.6.0.9/24".parse().unwrap()).unwrap();
    (node, outside)
}

fn wanted() -> DatapathState {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let device = |via: Option<&str>| RouteTarget::Device { device: "egress.vxlan".into(), via: via.map(ip) };
    let route = |table, net: &str, target| {
        // The kernel makes 1024 of an IPv6 route's metric 0.
        let metric = if net.contains(':') { 1024 } else { 0 };
        Route { table, destination: net.parse().unwrap(), target, metric }
    };
    let peer = |last: u8| TunnelPeer {
        mac: mac(last),
        underlay: IpAddr::from([10, 6, 0, last]),
        ipv4: Some(Ipv4Addr::new(10, 9, 0, last)),
        ipv6: Some(format!("fd09::{last}").parse().unwrap()),
    };
    let unreachable =
        |net: &str| Route { metric: 4_000_000_000, ..route(3001, net, RouteTarget::Unreachable) };
    let rule = |ipv6| RoutingRule { ipv6, priority: 99, mark: 0x2600_0001, mask: 0xfff0_10ff, table: 3001 };
    DatapathState {
        tunnel: Some(TunnelDevice {
            name: "egress.vxlan".into(),
            vni: 100,
            port: 7789,
            parent: "eth0".into(),
            local: ip("10.6.0.1"),
            mac: mac(1),
            mtu: 1450,
            ipv4: Some(Ipv4Addr::new(10, 9, 0, 1)),
            ipv6: "fd09::1".parse().ok(),
        }),
        peers: BTreeSet::from([peer(2), peer(3)]),
        routes: BTreeSet::from([
            route(254, "10.9.0.2/32", device(Some("10.9.0.2"))),
            route(254, "fd09::2/128", device(Some("fd09::2"))),
            route(254, "10.6.0.201/32", device(None)),
            route(254, "10.250.0.0/16", RouteTarget::Blackhole),
            route(3001, "0.0.0.0/0", device(Some("10.9.0.2"))),
            route(3001, "::/0", device(Some("fd09::2"))),
            unreachable("0.0.0.0/0"),
            unreachable("::/0"),
        ]),
        rules: BTreeSet::from([rule(false), rule(true)]),
        proxy_neighbours: BTreeSet::from([
            ProxyNeighbour { device: "eth0".into(), address: ip("10.6.0.201") },
            ProxyNeighbour { device: "eth0".into(), address: ip("fd06::201") },
        ]),
        sysctls: BTreeMap::from([("ipv4/ip_forward".into(), "1".into())]),
        tables: BTreeMap::new(),
    }
}

fn additions(state: &DatapathState) -> Vec<RouteChange> {
    let device = || "egress.vxlan".to_owned();
    let mut changes: Vec<RouteChange> = state.tunnel.iter().cloned().map(RouteChange::SetTunnel).collect();
    changes.extend(
        state
            .sysctls
            .iter()
            .map(|(path, value)| RouteChange::SetSysctl { path: path.clone(), value: value.clone() }),
    );
    changes.extend(state.peers.iter().cloned().map(|peer| RouteChange::SetPeer { device: device(), peer }));
    changes.extend(state.routes.iter().cloned().map(RouteChange::SetRoute));
    changes.extend(state.rules.iter().cloned().map(RouteChange::AddRule));
    changes.extend(state.proxy_neighbours.iter().cloned().map(RouteChange::AddProxyNeighbour));
    changes
}

fn removals(state: &DatapathState) -> Vec<RouteChange> {
    let device = || "egress.vxlan".to_owned();
    let mut changes: Vec<RouteChange> =
        state.proxy_neighbours.iter().cloned().map(RouteChange::DeleteProxyNeighbour).collect();
    changes.extend(state.rules.iter().cloned().map(RouteChange::DeleteRule));
    changes.extend(state.routes.iter().cloned().map(RouteChange::DeleteRoute));
    changes
        .extend(state.peers.iter().cloned().map(|peer| RouteChange::DeletePeer { device: device(), peer }));
    changes.push(RouteChange::DeleteTunnel { name: device() });
    changes
}

fn interest() -> Interest {
    Interest {
        tables: BTreeSet::from([table_id("egressgateway")]),
        tunnel: Some("egress.vxlan".into()),
        sysctls: BTreeSet::from(["ipv4/ip_forward".to_owned(), "ipv4/no/such/value".to_owned()]),
    }
}

fn small_table() -> Vec<NftCommand> {
    let id = table_id("egressgateway");
    let chain = || "c".to_owned();
    vec![
        NftCommand::AddTable(id.clone()),
        NftCommand::AddChain {
            table: id.clone(),
            name: chain(),
            hook: base(ChainKind::Filter, Hook::Forward, 0),
        },
        NftCommand::AddRule { table: id, chain: chain(), rule: rule("nothing", vec![Statement::Notrack]) },
    ]
}

fn a_whole_state_is_applied_and_read_back() {
    let (node, _outside) = node();
    let mut kernel = Kernel::open_in(&node).unwrap();
    let before = kernel.read(&interest()).unwrap();
    assert!(before.tables.is_empty() && before.state.tunnel.is_none() && before.state.routes.is_empty());
    let wanted = wanted();
    let mut transaction = Transaction { before: additions(&wanted), nft: Vec::new(), after: Vec::new() };
    for _ in 0..2 {
        kernel.apply(&transaction).unwrap();
        assert_eq!(kernel.read(&interest()).unwrap().state, wanted);
    }
    // A rule may stand in a chain of the raw kind only where the kernel checks that; here it is just a rule.
    transaction = Transaction {
        before: vec![],
        nft: small_table(),
        after: vec![RouteChange::SetSysctl { path: "ipv4/ip_forward".into(), value: "0".into() }],
    };
    kernel.apply(&transaction).unwrap();
    let found = kernel.read(&interest()).unwrap();
    assert_eq!(found.tables[&table_id("egressgateway")].chains["c"].rules.len(), 1);
    assert!(found.generation > before.generation);
    assert_eq!(found.state.sysctls["ipv4/ip_forward"], "0");

    let cleanup = Transaction {
        before: removals(&wanted),
        nft: vec![NftCommand::DeleteTable(table_id("egressgateway"))],
        after: removals(&wanted),
    };
    kernel.apply(&cleanup).unwrap();
    let mut after = kernel.read(&interest()).unwrap();
    after.generation = before.generation;
    assert_eq!(after.state, DatapathState { sysctls: after.state.sysctls.clone(), ..before.state });
    assert!(after.tables.is_empty());
}

fn a_broken_tunnel_is_repaired() {
    let (node, _outside) = node();
    let mut kernel = Kernel::open_in(&node).unwrap();
    let mut routes = RouteSocket::open_in(&node).unwrap();
    let wanted = wanted();
    let set = RouteChange::SetTunnel(wanted.tunnel.clone().unwrap());
    kernel.apply_route(&set).unwrap();
    let first = routes.index_of("egress.vxlan").unwrap();
    let is_right = |kernel: &mut Kernel| kernel.read(&interest()).unwrap().state.tunnel == wanted.tunnel;
    assert!(is_right(&mut kernel));

    routes.set_down("egress.vxlan").unwrap();
    assert!(!is_right(&mut kernel));
    kernel.apply_route(&set).unwrap();
    assert!(is_right(&mut kernel));
    routes.add_address(first, "10.99.0.1/32".parse().unwrap()).unwrap();
    assert!(!is_right(&mut kernel));
    kernel.apply_route(&set).unwrap();
    assert!(is_right(&mut kernel));
    assert_eq!(routes.index_of("egress.vxlan").unwrap(), first, "changed in place");

    let moved = TunnelDevice { mtu: 1400, mac: mac(7), ipv6: None, ..wanted.tunnel.clone().unwrap() };
    kernel.apply_route(&RouteChange::SetTunnel(moved.clone())).unwrap();
    assert_eq!(kernel.read(&interest()).unwrap().state.tunnel.as_ref(), Some(&moved));
    assert_eq!(routes.index_of("egress.vxlan").unwrap(), first, "changed in place");

    // Another port needs another device.
    let other = TunnelDevice { port: 4789, ..moved };
    kernel.apply_route(&RouteChange::SetTunnel(other.clone())).unwrap();
    assert_eq!(kernel.read(&interest()).unwrap().state.tunnel.as_ref(), Some(&other));

    // A device of another kind has our name.
    routes.delete_link("egress.vxlan").unwrap();
    routes.add_link(&NewLink::new("egress.vxlan", LinkKind::Bridge)).unwrap();
    kernel.apply_route(&set).unwrap();
    assert!(is_right(&mut kernel));
}

fn a_failed_step_holds_up_no_other() {
    let (node, _outside) = node();
    let mut kernel = Kernel::open_in(&node).unwrap();
    let address = "10.6.0.201".parse().unwrap();
    let proxy = |device: &str| ProxyNeighbour { device: device.into(), address };
    let transaction = Transaction {
        before: vec![
            RouteChange::AddProxyNeighbour(proxy("nothing")),
            RouteChange::AddProxyNeighbour(proxy("eth0")),
        ],
        nft: small_table(),
        after: vec![],
    };
    let error = kernel.apply(&transaction).unwrap_err();
    assert!(matches!(error.failures.as_slice(), [Failure::Route { .. }]), "{error}");
    assert!(error.to_string().contains("`nothing`"), "{error}");
    let found = kernel.read(&interest()).unwrap();
    assert_eq!(found.state.proxy_neighbours, BTreeSet::from([proxy("eth0")]));
    assert!(found.tables.contains_key(&table_id("egressgateway")));

    // What comes after the rules relies on them.
    let broken = vec![NftCommand::DeleteChain { table: table_id("egressgateway"), name: "nothing".into() }];
    let after = vec![RouteChange::DeleteProxyNeighbour(proxy("eth0"))];
    let error = kernel.apply(&Transaction { before: vec![], nft: broken, after }).unwrap_err();
    assert!(matches!(error.failures.as_slice(), [Failure::Nft(_)]), "{error}");
    assert_eq!(kernel.read(&interest()).unwrap().state.proxy_neighbours.len(), 1);
}

fn a_commit_is_heard_with_its_tables_and_its_sender() {
    let netns = Netns::new().unwrap();
    let mut monitor = RulesetMonitor::open_in(&netns).unwrap();
    let (mut ours, mut theirs) = (NftSocket::open_in(&netns).unwrap(), NftSocket::open_in(&netns).unwrap());
    assert!(!monitor.wait(Some(Duration::ZERO)).unwrap());
    assert!(monitor.drain().unwrap().is_empty());
    ours.apply(&small_table()).unwrap();
    let foreign = datapath::transaction::TableId { family: TableFamily::Ip, name: "foreign".into() };
    theirs.apply(&[NftCommand::AddTable(foreign.clone())]).unwrap();
    let mut commits: Vec<Commit> = Vec::new();
    while commits.len() < 2 {
        assert!(monitor.wait(Some(WAIT)).unwrap());
        commits.extend(monitor.drain().unwrap().into_iter().map(|event| match event {
            RulesetEvent::Commit(commit) => commit,
            RulesetEvent::Lost => panic!("events were lost"),
        }));
    }
    assert_eq!((commits[0].port, commits[1].port), (ours.port().unwrap(), theirs.port().unwrap()));
    assert_eq!(commits[0].tables, BTreeSet::from([table_id("egressgateway")]));
    assert_eq!(commits[1].tables, BTreeSet::from([foreign]));
    assert_eq!(commits[1].generation.id, ours.generation().unwrap());
    assert!(!commits[1].generation.process_name.is_empty());
}

fn changes_of_the_routing_state_are_heard() {
    let (node, _outside) = node();
    let mut monitor = RouteMonitor::open_in(&node).unwrap();
    let mut routes = RouteSocket::open_in(&node).unwrap();
    let index = routes.index_of("eth0").unwrap();
    let route = RouteEntry::new("10.77.0.0/16".parse().unwrap(), Some(index), None);
    let neighbour: IpAddr = "10.6.0.77".parse().unwrap();
    let rule = wanted().rules.first().cloned().unwrap();
    routes.set_route(&route).unwrap();
    routes.delete_route(&route).unwrap();
    routes.add_address(index, "10.78.0.1/24".parse().unwrap()).unwrap();
    routes.set_neighbour(index, neighbour, mac(3)).unwrap();
    routes.add_rule(&rule).unwrap();
    routes.set_down("eth0").unwrap();
    let mut events = Vec::new();
    let down = |event: &RouteEvent| matches!(event, RouteEvent::Link { link, removed: false } if !link.up);
    while !events.iter().any(down) {
        assert!(monitor.wait(Some(WAIT)).unwrap(), "{events:?}");
        events.extend(monitor.drain().unwrap());
    }
    let heard = |wanted: &dyn Fn(&RouteEvent) -> bool| assert!(events.iter().any(wanted), "{events:?}");
    heard(&|event| matches!(event, RouteEvent::Route { route: r, removed: false } if *r == route));
    heard(&|event| matches!(event, RouteEvent::Route { route: r, removed: true } if *r == route));
    heard(
        &|event| matches!(event, RouteEvent::Address { address, removed: false } if address.index == index),
    );
    heard(
        &|event| matches!(event, RouteEvent::Neighbour { neighbour: n, removed: false } if n.address == neighbour),
    );
    heard(&|event| *event == RouteEvent::Rules);
}

fn the_uplink_is_found() {
    let (node, _outside) = node();
    let mut routes = RouteSocket::open_in(&node).unwrap();
    assert_eq!(routes.uplink(UplinkChoice::DefaultRoute).unwrap(), None);
    let index = routes.index_of("eth0").unwrap();
    routes
        .add_link(&NewLink {
            up: true,
            ..NewLink::new("veth1", LinkKind::Veth { peer: "pod1", peer_netns: None })
        })
        .unwrap();
    routes.set_up("pod1").unwrap();
    let veth = routes.index_of("veth1").unwrap();
    let next_hop: IpAddr = "10.6.0.9".parse().unwrap();
    let default = RouteEntry {
        metric: 100,
        ..RouteEntry::new("0.0.0.0/0".parse().unwrap(), Some(index), Some(next_hop))
    };
    let worse = RouteEntry { metric: 200, ..RouteEntry::new("0.0.0.0/0".parse().unwrap(), Some(veth), None) };
    routes.set_route(&worse).unwrap();
    routes.set_route(&default).unwrap();
    let uplink = routes.uplink(UplinkChoice::DefaultRoute).unwrap().unwrap();
    assert_eq!((uplink.name.as_str(), uplink.index, uplink.mac), ("eth0", index, Some(mac(0xaa))));
    assert_eq!((uplink.next_hop4, uplink.next_hop6, uplink.carrier), (Some(next_hop), None, true));
    assert_eq!(uplink.addresses, ["10.6.0.1/24".parse().unwrap()]);
    assert_eq!(routes.uplink(UplinkChoice::Interface("veth1")).unwrap().unwrap().index, veth);
    assert_eq!(routes.uplink(UplinkChoice::Interface("nothing")).unwrap(), None);

    routes.set_route(&RouteEntry::new("10.1.0.7/32".parse().unwrap(), Some(veth), None)).unwrap();
    routes.set_route(&RouteEntry::new("fd01::7/128".parse().unwrap(), Some(veth), None)).unwrap();
    let pods: BTreeMap<IpAddr, String> =
        routes.host_routes().unwrap().into_iter().map(|(address, link)| (address, link.name)).collect();
    for pod in ["10.1.0.7", "fd01::7"] {
        assert_eq!(pods.get(&pod.parse().unwrap()).map(String::as_str), Some("veth1"), "{pods:?}");
    }
    assert!(!pods.contains_key(&"10.6.0.1".parse().unwrap()));
}

fn an_announcement_moves_an_address() {
    let (node, outside) = node();
    let index = RouteSocket::open_in(&node).unwrap().index_of("eth0").unwrap();
    let mut far = RouteSocket::open_in(&outside).unwrap();
    let far_index = far.index_of("far").unwrap();
    outside.run(|| sysctl::write("ipv4/conf/far/arp_accept", "1").unwrap()).unwrap();
    let announcer = Announcer::open_in(&node).unwrap();
    let (four, other): (Ipv4Addr, IpAddr) = (Ipv4Addr::new(10, 6, 0, 201), "10.6.0.202".parse().unwrap());
    let mut known = |address: IpAddr| {
        let all = far.neighbours().unwrap();
        all.iter().find(|n| n.index == far_index && n.address == address).and_then(|n| n.mac)
    };
    announcer.announce(index, mac(1), four.into()).unwrap();
    wait_for(|| known(four.into()) == Some(mac(1)));
    announcer.ask_next_hop(index, mac(2), Ipv4Addr::new(10, 6, 0, 202), Ipv4Addr::new(10, 6, 0, 9)).unwrap();
    wait_for(|| known(other) == Some(mac(2)));
    // An advertisement updates what a host knows already.
    let six: IpAddr = "fd06::201".parse().unwrap();
    let mut there = RouteSocket::open_in(&outside).unwrap();
    there.add_address(far_index, "fd06::9/64".parse().unwrap()).unwrap();
    outside
        .run(|| {
            let socket = std::net::UdpSocket::bind("[::]:0").unwrap();
            socket.send_to(b"x", (six, 9)).unwrap();
        })
        .unwrap();
    announcer.announce(index, mac(3), six).unwrap();
    wait_for(|| known(six) == Some(mac(3)));
}

/// Looks again until it is so; packets cross a virtual cable in microseconds, so there is no need to pause.
#[track_caller]
fn wait_for(mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + WAIT;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it does not come");
        std::thread::yield_now();
    }
}
