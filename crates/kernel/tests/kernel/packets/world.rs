//! The three hosts, and the rules of the two that have some.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use datapath::nft::{
    Chain, ChainKind, Compare, DataType, FieldType, Hook, Load, Rule, Set, Source, Statement, Table,
    TableFamily, Target, Value, Verdict,
};
use kernel::link::{LinkKind, NewLink};
use kernel::route::RouteEntry;
use kernel::{Netns, NftSocket, RouteSocket, sysctl};

use crate::ruleset::{base, commands_for, equals, exact, map, masked, operand, rule};

pub(super) const EIP: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 201);
pub(super) const EIP6: Ipv6Addr = Ipv6Addr::new(0xfd06, 0, 0, 0, 0, 0, 0, 0x201);
pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 9);
/// A block of 256 ports.
pub(super) const FIRST: u16 = 0x1000;
const BLOCK_MASK: u16 = 0xff00;
const EIP_NUMBER: u32 = 0x2600_1001;
pub(super) const MARK: u32 = 0x2600_0007;
pub(super) const WAIT: Duration = Duration::from_secs(5);

pub(super) struct World {
    pub(super) source: Netns,
    pub(super) gateway: Netns,
    pub(super) outside: Netns,
    pub(super) gateway_nft: NftSocket,
    pub(super) source_nft: NftSocket,
}

pub(super) fn world() -> World {
    let (source, gateway, outside) = (Netns::new().unwrap(), Netns::new().unwrap(), Netns::new().unwrap());
    let mut routes = RouteSocket::open_in(&gateway).unwrap();
    cable(&mut routes, "inside", &source, ["10.9.0.1/24", "fd09::1/64"], ["10.9.0.2/24", "fd09::2/64"]);
    cable(&mut routes, "uplink", &outside, ["10.6.0.1/24", "fd06::1/64"], ["10.6.0.9/24", "fd06::9/64"]);
    let mut source_routes = RouteSocket::open_in(&source).unwrap();
    let device = source_routes.index_of("eth0").ok();
    for (net, via) in [("0.0.0.0/0", "10.9.0.1"), ("::/0", "fd09::1")] {
        source_routes.set_route(&RouteEntry::new(net.parse().unwrap(), device, via.parse().ok())).unwrap();
    }
    source.run(|| sysctl::write("ipv4/conf/eth0/rp_filter", "0").unwrap()).unwrap();
    gateway
        .run(|| {
            let settings = [
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv6/conf/uplink/proxy_ndp", "1"),
                ("ipv4/neigh/uplink/proxy_delay", "0"),
                ("ipv6/neigh/uplink/proxy_delay", "0"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/inside/rp_filter", "0"),
                ("ipv4/conf/uplink/rp_filter", "0"),
            ];
            settings.iter().for_each(|(path, value)| sysctl::write(path, value).unwrap());
        })
        .unwrap();
    // The gateway answers for the egress IPs and keeps the way to the source explicit: with a connected route alone it
    // would look for the restored address on the link.
    let (inside, uplink) = (routes.index_of("inside").unwrap(), routes.index_of("uplink").unwrap());
    for (eip, node) in [(IpAddr::V4(EIP), "10.9.0.2"), (IpAddr::V6(EIP6), "fd09::2")] {
        let node: IpAddr = node.parse().unwrap();
        routes.add_proxy_entry(uplink, eip).unwrap();
        routes.set_route(&RouteEntry::new(eip.into(), Some(inside), None)).unwrap();
        let way = RouteEntry { onlink: true, ..RouteEntry::new(node.into(), Some(inside), Some(node)) };
        routes.set_route(&way).unwrap();
    }
    let mut gateway_nft = NftSocket::open_in(&gateway).unwrap();
    let mut source_nft = NftSocket::open_in(&source).unwrap();
    gateway_nft.apply(&commands_for(&gateway_table())).unwrap();
    source_nft.apply(&commands_for(&source_table())).unwrap();
    World { source, gateway, outside, gateway_nft, source_nft }
}

fn cable(
    routes: &mut RouteSocket,
    name: &str,
    far: &Netns,
    near_addresses: [&str; 2],
    far_addresses: [&str; 2],
) {
    let kind = LinkKind::Veth { peer: "eth0", peer_netns: Some(far) };
    routes.add_link(&NewLink { up: true, ..NewLink::new(name, kind) }).unwrap();
    let mut far = RouteSocket::open_in(far).unwrap();
    far.set_up("eth0").unwrap();
    far.set_up("lo").unwrap();
    let (near_index, far_index) = (routes.index_of(name).unwrap(), far.index_of("eth0").unwrap());
    near_addresses.iter().for_each(|text| routes.add_address(near_index, text.parse().unwrap()).unwrap());
    far_addresses.iter().for_each(|text| far.add_address(far_index, text.parse().unwrap()).unwrap());
}

pub(super) fn chain(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { hook: base(kind, hook, priority), rules }
}

pub(super) fn table(sets: Vec<(&str, Set)>, counters: &[&str], chains: Vec<(&str, Chain)>) -> Table {
    Table {
        family: TableFamily::Inet,
        name: "t".into(),
        sets: sets.into_iter().map(|(name, set)| (name.to_owned(), set)).collect(),
        timeouts: BTreeMap::new(),
        counters: counters.iter().map(|name| (*name).to_owned()).collect(),
        chains: chains.into_iter().map(|(name, chain)| (name.to_owned(), chain)).collect(),
    }
}

fn any_of(protocols: &[u8]) -> (Set, Statement) {
    let set = Set {
        key: vec![FieldType::Protocol],
        data: None,
        interval: false,
        timeout: false,
        counting: false,
        elements: protocols.iter().map(|number| (exact(&[*number, 0, 0, 0]), Value::None)).collect(),
    };
    let key = vec![operand(Load::TransportProtocol)];
    (set, Statement::InSet { key, set: "protocols".into(), negate: false })
}

/// Every connection leaves as EIP and a port of the block, whatever its destination.
fn source_table() -> Table {
    use FieldType::{Ipv4, Ipv6, Mark, Port};
    let ports = [FIRST.to_be_bytes(), [0, 0], (FIRST | !BLOCK_MASK).to_be_bytes(), [0, 0]].concat();
    let data = |address: &[u8]| Value::Data([address, &ports].concat());
    let key = exact(&MARK.to_ne_bytes());
    let four =
        map(&[Mark], DataType::Fields(vec![Ipv4, Port, Port]), vec![(key.clone(), data(&EIP.octets()))]);
    let six = map(&[Mark], DataType::Fields(vec![Ipv6, Port, Port]), vec![(key, data(&EIP6.octets()))]);
    let mark = Statement::Set {
        target: Target::ConnectionMark,
        source: Source::Constant(MARK.to_ne_bytes().to_vec()),
    };
    let snat = |protocol: u8, map: &str, ipv6: bool| {
        let key = vec![operand(Load::ConnectionMark)];
        rule(
            "",
            vec![
                equals(Load::NetworkProtocol, &[protocol]),
                mark.clone(),
                Statement::SnatMap { key, map: map.into(), ipv6 },
            ],
        )
    };
    let (protocols, is_ours) = any_of(&[6, 17]);
    let others = rule("leave others", vec![is_ours_not(is_ours), Statement::Verdict(Verdict::Accept)]);
    let rules = vec![others, snat(2, "snat", false), snat(10, "snat6", true)];
    table(
        vec![("snat", four), ("snat6", six), ("protocols", protocols)],
        &[],
        vec![("snat", chain(ChainKind::Nat, Hook::Postrouting, 99, rules))],
    )
}

fn is_ours_not(statement: Statement) -> Statement {
    match statement {
        Statement::InSet { key, set, .. } => Statement::InSet { key, set, negate: true },
        other => other,
    }
}

/// Out: untracked as it is. Back: to the node that holds the port's block, with the egress IP restored.
fn gateway_table() -> Table {
    use FieldType::{Ipv4, Ipv6, Mark, Port};
    let block = [FIRST.to_be_bytes(), [0, 0]].concat();
    let number = || Value::Data(EIP_NUMBER.to_ne_bytes().to_vec());
    let (six, six_node): (Ipv6Addr, Ipv6Addr) = (EIP6, "fd09::2".parse().unwrap());
    let sets = vec![
        (
            "blocks",
            map(
                &[Ipv4, Port],
                DataType::Fields(vec![Ipv4]),
                vec![(exact(&[&EIP.octets()[..], &block].concat()), Value::Data(SOURCE.octets().to_vec()))],
            ),
        ),
        (
            "blocks6",
            map(
                &[Ipv6, Port],
                DataType::Fields(vec![Ipv6]),
                vec![(exact(&[&six.octets()[..], &block].concat()), Value::Data(six_node.octets().to_vec()))],
            ),
        ),
        ("numbers", map(&[Ipv4], DataType::Fields(vec![Mark]), vec![(exact(&EIP.octets()), number())])),
        ("numbers6", map(&[Ipv6], DataType::Fields(vec![Mark]), vec![(exact(&six.octets()), number())])),
        (
            "back",
            map(
                &[Mark],
                DataType::Fields(vec![Ipv4]),
                vec![(exact(&EIP_NUMBER.to_ne_bytes()), Value::Data(EIP.octets().to_vec()))],
            ),
        ),
        (
            "back6",
            map(
                &[Mark],
                DataType::Fields(vec![Ipv6]),
                vec![(exact(&EIP_NUMBER.to_ne_bytes()), Value::Data(six.octets().to_vec()))],
            ),
        ),
        ("protocols", any_of(&[6, 17]).0),
    ];
    let ours = || any_of(&[6, 17]).1;
    let set = |target, key: Vec<_>, map: &str| Statement::Set {
        target,
        source: Source::Map { key, map: map.into() },
    };
    let family = |number: u8| equals(Load::NetworkProtocol, &[number]);
    let port = || masked(Load::DestinationPort, &BLOCK_MASK.to_be_bytes());
    let to_node = |protocol, load, target, numbers: &str, blocks: &str| {
        rule(
            "to the block's node",
            vec![
                family(protocol),
                ours(),
                set(Target::Mark, vec![operand(load)], numbers),
                set(target, vec![operand(load), port()], blocks),
                Statement::Counter("back".into()),
                Statement::Notrack,
            ],
        )
    };
    let restore = |protocol, target, map: &str| {
        rule(
            "EIP again",
            vec![
                family(protocol),
                set(target, vec![operand(Load::Mark)], map),
                Statement::Set { target: Target::Mark, source: Source::Constant(vec![0; 4]) },
            ],
        )
    };
    let out = |protocol, load, address: &[u8]| {
        rule(
            "from a node",
            vec![
                family(protocol),
                equals(load, address),
                Statement::Counter("out".into()),
                Statement::Notrack,
            ],
        )
    };
    let raw = vec![
        out(2, Load::Source4, &EIP.octets()),
        out(10, Load::Source6, &six.octets()),
        to_node(2, Load::Destination4, Target::Destination4, "numbers", "blocks"),
        to_node(10, Load::Destination6, Target::Destination6, "numbers6", "blocks6"),
    ];
    let tcp_syn = Statement::Match {
        operand: masked(Load::TcpFlags, &[0x06]),
        compare: Compare::Equal,
        value: vec![0x02],
    };
    let forward = vec![
        rule("", vec![equals(Load::TransportProtocol, &[6]), tcp_syn, Statement::ClampMss(1000)]),
        // A ct expression: the kernel tracks, and puts fragments together, only where there is one.
        rule(
            "",
            vec![equals(Load::ConnectionState, &1u32.to_ne_bytes()), Statement::Counter("invalid".into())],
        ),
    ];
    let postrouting =
        vec![restore(2, Target::Destination4, "back"), restore(10, Target::Destination6, "back6")];
    table(
        sets,
        &["out", "back", "invalid"],
        vec![
            ("raw", chain(ChainKind::Filter, Hook::Prerouting, -300, raw)),
            ("forward", chain(ChainKind::Filter, Hook::Forward, 0, forward)),
            ("postrouting", chain(ChainKind::Filter, Hook::Postrouting, 300, postrouting)),
        ],
    )
}

pub(super) fn in_block(port: u16) -> bool {
    port & BLOCK_MASK == FIRST
}
