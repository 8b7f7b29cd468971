//! A table that uses everything that there is.

use std::collections::{BTreeMap, BTreeSet};

use datapath::nft::{
    Chain, ChainKind, Compare, DataType, FieldType, Hook, Key, Load, Reject, Rule, Set, Source, Statement,
    Table, TableFamily, Target, Timeout, Value, Verdict,
};

use crate::ruleset::{base, equals, exact, map, masked, operand, rule};

const IPV4: [u8; 1] = [2];
const TCP: [u8; 1] = [6];

fn sets() -> BTreeMap<String, Set> {
    use FieldType::{InterfaceIndex, Ipv4, Ipv6, Mac, Mark, Port, Protocol};
    let plain = |key: &[FieldType], keys: &[&[u8]]| Set {
        key: key.to_vec(),
        data: None,
        interval: false,
        timeout: false,
        counting: false,
        elements: keys.iter().map(|key| (exact(key), Value::None)).collect(),
    };
    let range = |a: [u8; 4], b: [u8; 4]| Key::Range(a.to_vec(), b.to_vec());
    let mark = |n: u32| Value::Data(n.to_ne_bytes().to_vec());
    let leased = [0x66, 1, 2, 3, 4, 5, 0, 0, 10, 6, 168, 201, 0x10, 0, 0, 0];
    let snat4 = [10, 6, 168, 201, 0x10, 0, 0, 0, 0x1f, 0xff, 0, 0];
    let snat6 = [[0xfd, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].as_slice(), &snat4[4..]].concat();
    let jump = |chain: &str| Value::Verdict(Verdict::Jump(chain.to_owned()));
    let goto = |chain: &str| Value::Verdict(Verdict::Goto(chain.to_owned()));
    BTreeMap::from([
        ("pods".into(), map(&[Ipv4], DataType::Fields(vec![Mark]), vec![(exact(&[10, 1, 0, 1]), mark(7))])),
        (
            "classes".into(),
            map(
                &[Mark],
                DataType::Verdict,
                vec![
                    (exact(&7u32.to_ne_bytes()), jump("class-7")),
                    (exact(&8u32.to_ne_bytes()), goto("class-7")),
                    (exact(&9u32.to_ne_bytes()), Value::Verdict(Verdict::Drop)),
                    (exact(&10u32.to_ne_bytes()), Value::Verdict(Verdict::Accept)),
                    (exact(&11u32.to_ne_bytes()), Value::Verdict(Verdict::Return)),
                ],
            ),
        ),
        (
            "class-7-ids".into(),
            map(
                &[Ipv4],
                DataType::Fields(vec![Mark]),
                vec![
                    (range([0, 0, 0, 0], [9, 255, 255, 255]), mark(1)),
                    (range([11, 0, 0, 0], [11, 0, 0, 0]), mark(2)),
                    (range([11, 0, 0, 1], [255, 255, 255, 255]), mark(3)),
                ],
            ),
        ),
        (
            "gateways".into(),
            map(&[Mark], DataType::Fields(vec![Mark]), vec![(exact(&1u32.to_ne_bytes()), mark(1))]),
        ),
        (
            "blocks".into(),
            map(
                &[Ipv4, Port],
                DataType::Fields(vec![Ipv4]),
                vec![(exact(&[10, 6, 168, 201, 0x10, 0, 0, 0]), Value::Data(vec![10, 9, 0, 2]))],
            ),
        ),
        (
            "snat".into(),
            map(
                &[Mark],
                DataType::Fields(vec![Ipv4, Port, Port]),
                vec![(exact(&1u32.to_ne_bytes()), Value::Data(snat4.to_vec()))],
            ),
        ),
        (
            "snat6".into(),
            map(
                &[Mark],
                DataType::Fields(vec![Ipv6, Port, Port]),
                vec![(exact(&1u32.to_ne_bytes()), Value::Data(snat6))],
            ),
        ),
        ("leased".into(), plain(&[Mac, Ipv4, Port], &[&leased])),
        ("local".into(), plain(&[Ipv6], &[&[0; 16], &[1; 16]])),
        ("macs".into(), plain(&[Mac], &[&[0x66, 1, 2, 3, 4, 5, 0, 0]])),
        ("ports".into(), plain(&[Port], &[&[0, 80, 0, 0]])),
        (
            "zones".into(),
            map(
                &[Mac],
                DataType::Fields(vec![FieldType::Zone]),
                vec![(
                    exact(&[0x66, 1, 2, 3, 4, 5, 0, 0]),
                    Value::Data([&9729u16.to_ne_bytes()[..], &[0, 0]].concat()),
                )],
            ),
        ),
        ("devices".into(), plain(&[InterfaceIndex, Protocol], &[&[1, 0, 0, 0, 6, 0, 0, 0]])),
        ("answerable".into(), Set { timeout: true, ..plain(&[Ipv4], &[&[10, 6, 168, 201]]) }),
        ("counted".into(), Set { counting: true, ..plain(&[Ipv4], &[&[10, 6, 168, 201]]) }),
        ("empty".into(), Set { interval: true, ..plain(&[Ipv4], &[]) }),
    ])
}

fn loads() -> Vec<Rule> {
    let mut name = [0; 16];
    name[..4].copy_from_slice(b"eth0");
    let values: Vec<(Load, Vec<u8>)> = vec![
        (Load::Mark, vec![1, 0, 0, 0]),
        (Load::InputInterface, vec![1, 0, 0, 0]),
        (Load::InputInterfaceName, name.to_vec()),
        (Load::TransportProtocol, vec![17]),
        (Load::ConnectionMark, vec![1, 0, 0, 0]),
        (Load::ConnectionState, vec![8, 0, 0, 0]),
        (Load::ConnectionStatus, vec![8, 0, 0, 0]),
        (Load::ConnectionDirection, vec![1]),
        (Load::OriginalSource4, vec![10, 0, 0, 1]),
        (Load::OriginalDestination4, vec![10, 0, 0, 1]),
        (Load::OriginalSource6, vec![1; 16]),
        (Load::EtherSource, vec![1, 2, 3, 4, 5, 6]),
        (Load::DestinationAddressType, vec![2, 0, 0, 0]),
        (Load::SourceAddressType, vec![2, 0, 0, 0]),
    ];
    values
        .into_iter()
        .map(|(load, value)| rule("", vec![equals(load, &value), Statement::Counter("seen".into())]))
        .collect()
}

pub(crate) fn every_statement() -> Table {
    let key = |load: Load| vec![operand(load)];
    let name = |text: &str| text.to_owned();
    let four = equals(Load::NetworkProtocol, &IPV4);
    let six = equals(Load::NetworkProtocol, &[10]);
    let tcp = equals(Load::TransportProtocol, &TCP);
    let set = |target, source| Statement::Set { target, source };
    let mut prerouting = loads();
    prerouting.push(rule(
        "classify by pod and destination",
        vec![
            four.clone(),
            Statement::MapThenVerdict {
                key: key(Load::Source4),
                map: name("pods"),
                verdicts: name("classes"),
            },
        ],
    ));
    prerouting.push(rule(
        "mark of the flow's gateway",
        vec![set(
            Target::Mark,
            Source::Map {
                key: vec![masked(Load::ConnectionMark, &0x00ff_ffffu32.to_ne_bytes())],
                map: name("gateways"),
            },
        )],
    ));
    prerouting.push(rule(
        "timeouts",
        vec![equals(Load::TransportProtocol, &[17]), Statement::Timeout(name("short"))],
    ));
    prerouting.push(rule(
        "verdict by mark",
        vec![Statement::VerdictMap { key: key(Load::Mark), map: name("classes") }],
    ));
    let raw = vec![
        rule(
            "tunnel",
            vec![
                four.clone(),
                tcp.clone(),
                Statement::InSet {
                    key: vec![
                        operand(Load::EtherSource),
                        operand(Load::Source4),
                        masked(Load::SourcePort, &[0xf0, 0]),
                    ],
                    set: name("leased"),
                    negate: false,
                },
                Statement::Notrack,
                Statement::Verdict(Verdict::Accept),
            ],
        ),
        rule(
            "uplink",
            vec![
                four.clone(),
                tcp.clone(),
                set(
                    Target::Destination4,
                    Source::Map {
                        key: vec![operand(Load::Destination4), masked(Load::DestinationPort, &[0xf0, 0])],
                        map: name("blocks"),
                    },
                ),
            ],
        ),
        rule(
            "ports above",
            vec![
                tcp.clone(),
                Statement::Match {
                    operand: operand(Load::DestinationPort),
                    compare: Compare::Greater,
                    value: vec![4, 0],
                },
            ],
        ),
        rule(
            "zone of the peer",
            vec![set(Target::OriginalZone, Source::Map { key: key(Load::EtherSource), map: name("zones") })],
        ),
        rule("mac", vec![Statement::InSet { key: key(Load::EtherSource), set: name("macs"), negate: true }]),
        rule(
            "port",
            vec![
                tcp.clone(),
                Statement::InSet { key: key(Load::DestinationPort), set: name("ports"), negate: false },
            ],
        ),
        rule(
            "device and protocol",
            vec![Statement::InSet {
                key: vec![operand(Load::InputInterface), operand(Load::TransportProtocol)],
                set: name("devices"),
                negate: false,
            }],
        ),
        rule(
            "echo",
            vec![
                four.clone(),
                equals(Load::TransportProtocol, &[1]),
                equals(Load::IcmpType, &[8]),
                equals(Load::IcmpEchoId, &[1, 2]),
            ],
        ),
        rule(
            "quoted",
            vec![
                four.clone(),
                equals(Load::TransportProtocol, &[1]),
                equals(Load::Transport(28, 2), &[1, 2]),
                equals(Load::Network(9, 1), &[1]),
            ],
        ),
        rule(
            "six",
            vec![
                six.clone(),
                set(Target::Destination6, Source::Constant(vec![1; 16])),
                set(Target::Source6, Source::Operand(operand(Load::Destination6))),
            ],
        ),
        rule(
            "six sources",
            vec![
                six.clone(),
                Statement::InSet { key: key(Load::Source6), set: name("local"), negate: false },
                Statement::Verdict(Verdict::Drop),
            ],
        ),
    ];
    let forward = vec![
        rule(
            "",
            vec![
                tcp.clone(),
                Statement::Match {
                    operand: masked(Load::TcpFlags, &[6]),
                    compare: Compare::Equal,
                    value: vec![2],
                },
                Statement::ClampMss(1360),
            ],
        ),
        rule(
            "",
            vec![
                Statement::LimitPerSecond { rate: 10, burst: 5 },
                Statement::Reject(Reject::AdminProhibited),
            ],
        ),
        rule("", vec![Statement::Reject(Reject::Unreachable)]),
        rule("", vec![tcp, Statement::Reject(Reject::TcpReset)]),
        rule(
            "",
            vec![
                equals(Load::OutputInterface, &[1, 0, 0, 0]),
                Statement::Verdict(Verdict::Jump(name("class-7"))),
            ],
        ),
    ];
    let snat = vec![
        rule(
            "",
            vec![
                four.clone(),
                Statement::SnatMap { key: key(Load::ConnectionMark), map: name("snat"), ipv6: false },
            ],
        ),
        rule(
            "",
            vec![six, Statement::SnatMap { key: key(Load::ConnectionMark), map: name("snat6"), ipv6: true }],
        ),
        rule("", vec![Statement::Masquerade]),
    ];
    let class = vec![
        rule(
            "",
            vec![
                four.clone(),
                set(
                    Target::ConnectionMark,
                    Source::Map { key: key(Load::Destination4), map: name("class-7-ids") },
                ),
            ],
        ),
        rule(
            "",
            vec![
                set(
                    Target::ConnectionMark,
                    Source::Bits {
                        load: Load::ConnectionMark,
                        mask: 0x00ff_ffffu32.to_ne_bytes().to_vec(),
                        xor: 0x2600_0000u32.to_ne_bytes().to_vec(),
                    },
                ),
                set(Target::Mark, Source::Constant(vec![0; 4])),
                set(Target::Source4, Source::Constant(vec![10, 0, 0, 1])),
                Statement::Verdict(Verdict::Return),
            ],
        ),
    ];
    let chain = |hook, rules| Chain { hook, rules };
    use ChainKind::{Filter, Nat, Route};
    Table {
        family: TableFamily::Inet,
        name: "egress-test".into(),
        sets: sets(),
        timeouts: BTreeMap::from([(
            "short".to_owned(),
            Timeout { protocol: 17, seconds: BTreeMap::from([(1, 5), (2, 3)]) },
        )]),
        counters: BTreeSet::from(["seen".to_owned()]),
        chains: BTreeMap::from([
            ("class-7".into(), chain(None, class)),
            ("prerouting".into(), chain(base(Filter, Hook::Prerouting, -95), prerouting)),
            ("raw".into(), chain(base(Filter, Hook::Prerouting, -300), raw)),
            ("forward".into(), chain(base(Filter, Hook::Forward, 0), forward)),
            (
                "output".into(),
                chain(
                    base(Route, Hook::Output, -150),
                    vec![rule("", vec![Statement::Verdict(Verdict::Goto(name("class-7")))])],
                ),
            ),
            ("input".into(), chain(base(Filter, Hook::Input, 0), vec![])),
            (
                "dnat".into(),
                chain(
                    base(Nat, Hook::Prerouting, -100),
                    vec![rule("", vec![four, Statement::DnatTo { address: vec![10, 0, 0, 1] }])],
                ),
            ),
            ("srcnat".into(), chain(base(Nat, Hook::Postrouting, 99), snat)),
        ]),
    }
}
