//! Tables: written, read back, refused.

use std::collections::{BTreeMap, BTreeSet};

use datapath::nft::{
    BaseChain, Chain, ChainKind, Compare, DataType, FieldType, Hook, Key, Load, Operand, Reject, Rule, Set,
    Source, Statement, Table, TableFamily, Target, Value, Verdict,
};
use datapath::transaction::{FoundTable, NftCommand, SetShape, TableId};
use kernel::nft::{BatchError, Refusal};
use kernel::{Netns, NftSocket};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "a_table_with_every_statement_is_read_back_as_written",
        a_table_with_every_statement_is_read_back_as_written,
    ),
    ("elements_come_and_go", elements_come_and_go),
    (
        "a_refused_batch_names_the_command_and_changes_nothing",
        a_refused_batch_names_the_command_and_changes_nothing,
    ),
    ("a_checked_batch_changes_nothing", a_checked_batch_changes_nothing),
    ("a_batch_at_an_old_generation_is_refused", a_batch_at_an_old_generation_is_refused),
    ("a_table_outlives_its_owner_and_is_adopted", a_table_outlives_its_owner_and_is_adopted),
    ("fifty_thousand_elements_load_at_once", fifty_thousand_elements_load_at_once),
];

pub(crate) fn table_id(name: &str) -> TableId {
    TableId { family: TableFamily::Inet, name: name.to_owned() }
}

/// Everything that makes a table anew.
pub(crate) fn commands_for(table: &Table) -> Vec<NftCommand> {
    let id = TableId { family: table.family, name: table.name.clone() };
    let mut commands = vec![NftCommand::AddTable(id.clone())];
    for name in &table.counters {
        commands.push(NftCommand::AddCounter { table: id.clone(), name: name.clone() });
    }
    for (name, set) in &table.sets {
        commands.push(NftCommand::AddSet {
            table: id.clone(),
            name: name.clone(),
            shape: SetShape::from(set),
        });
    }
    for (name, chain) in &table.chains {
        commands.push(NftCommand::AddChain {
            table: id.clone(),
            name: name.clone(),
            hook: chain.hook.clone(),
        });
    }
    for (name, set) in &table.sets {
        commands.push(NftCommand::AddElements {
            table: id.clone(),
            set: name.clone(),
            elements: set.elements.clone(),
            timeout_ms: set.timeout.then_some(60_000),
        });
    }
    for (name, chain) in &table.chains {
        for rule in &chain.rules {
            commands.push(NftCommand::AddRule { table: id.clone(), chain: name.clone(), rule: rule.clone() });
        }
    }
    commands
}

/// A table as it should be found.
fn expected(table: &Table, owned: bool) -> FoundTable {
    FoundTable {
        owned,
        sets: table.sets.clone(),
        counters: table.counters.iter().map(|name| (name.clone(), Default::default())).collect(),
        chains: table
            .chains
            .iter()
            .map(|(name, chain)| {
                let rules = chain.rules.iter().map(Rule::content_hash).collect();
                (name.clone(), datapath::transaction::FoundChain { hook: chain.hook.clone(), rules })
            })
            .collect(),
    }
}

pub(crate) fn operand(load: Load) -> Operand {
    Operand { load, mask: None }
}

pub(crate) fn masked(load: Load, mask: &[u8]) -> Operand {
    Operand { load, mask: Some(mask.to_vec()) }
}

pub(crate) fn equals(load: Load, value: &[u8]) -> Statement {
    Statement::Match { operand: operand(load), compare: Compare::Equal, value: value.to_vec() }
}

pub(crate) fn base(kind: ChainKind, hook: Hook, priority: i32) -> Option<BaseChain> {
    Some(BaseChain { kind, hook, priority })
}

pub(crate) fn rule(comment: &'static str, statements: Vec<Statement>) -> Rule {
    Rule { statements, comment }
}

pub(crate) fn map(key: &[FieldType], data: DataType, elements: Vec<(Key, Value)>) -> Set {
    let interval = elements.iter().any(|(key, _)| matches!(key, Key::Range(..)));
    Set {
        key: key.to_vec(),
        data: Some(data),
        interval,
        timeout: false,
        elements: elements.into_iter().collect(),
    }
}

pub(crate) fn exact(bytes: &[u8]) -> Key {
    Key::Exact(bytes.to_vec())
}

const IPV4: [u8; 1] = [2];
const TCP: [u8; 1] = [6];

fn sets() -> BTreeMap<String, Set> {
    use FieldType::{InterfaceIndex, Ipv4, Ipv6, Mac, Mark, Port, Protocol};
    let plain = |key: &[FieldType], keys: &[&[u8]]| Set {
        key: key.to_vec(),
        data: None,
        interval: false,
        timeout: false,
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
        ("devices".into(), plain(&[InterfaceIndex, Protocol], &[&[1, 0, 0, 0, 6, 0, 0, 0]])),
        ("answerable".into(), Set { timeout: true, ..plain(&[Ipv4], &[&[10, 6, 168, 201]]) }),
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

fn every_statement() -> Table {
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

fn a_table_with_every_statement_is_read_back_as_written() {
    let netns = Netns::new().unwrap();
    let mut nft = NftSocket::open_in(&netns).unwrap();
    let table = every_statement();
    nft.apply(&commands_for(&table)).unwrap();
    let id = table_id("egress-test");
    show(&netns);
    let found = nft.read(&id).unwrap().unwrap();
    assert_eq!(found, expected(&table, found.owned));
    // What is there already does no harm.
    let again: Vec<NftCommand> =
        commands_for(&table).into_iter().filter(|c| !matches!(c, NftCommand::AddRule { .. })).collect();
    nft.apply(&again).unwrap();
    assert_eq!(nft.read(&id).unwrap(), Some(found));
    nft.apply(&[NftCommand::DeleteTable(id.clone())]).unwrap();
    assert_eq!(nft.read(&id).unwrap(), None);

    // ARP and single-family tables.
    for (family, hook, load) in [
        (TableFamily::Arp, Hook::Input, Load::ArpTarget),
        (TableFamily::Ip, Hook::Forward, Load::Destination4),
        (TableFamily::Ip6, Hook::Forward, Load::Mark),
    ] {
        let mut rules =
            vec![rule("here", vec![equals(load, &[10, 0, 0, 1]), Statement::Verdict(Verdict::Drop)])];
        if family == TableFamily::Arp {
            rules.push(rule("op", vec![equals(Load::ArpOperation, &[0, 1])]));
        } else {
            rules.push(rule("", vec![Statement::Reject(Reject::AdminProhibited)]));
            rules.push(rule("", vec![Statement::Reject(Reject::Unreachable)]));
        }
        let chain = Chain { hook: base(ChainKind::Filter, hook, 0), rules };
        let table = Table {
            family,
            name: "other".into(),
            sets: BTreeMap::new(),
            counters: BTreeSet::new(),
            chains: BTreeMap::from([("chain".to_owned(), chain)]),
        };
        nft.apply(&commands_for(&table)).unwrap();
        let id = TableId { family, name: "other".into() };
        let found = nft.read(&id).unwrap().unwrap();
        assert_eq!(found, expected(&table, found.owned));
    }
    assert_eq!(nft.tables().unwrap().len(), 3);
}

/// Prints what the nft tool makes of the ruleset, for people who look.
fn show(netns: &Netns) {
    if std::env::var_os("SHOW_RULESET").is_some() {
        netns
            .run(|| std::process::Command::new("nft").args(["-y", "list", "ruleset"]).status())
            .unwrap()
            .unwrap();
    }
}

fn elements_come_and_go() {
    let netns = Netns::new().unwrap();
    let table = every_statement();
    let id = table_id("egress-test");
    NftSocket::open_in(&netns).unwrap().apply(&commands_for(&table)).unwrap();
    // Another socket: it must find out the shapes by itself.
    let mut nft = NftSocket::open_in(&netns).unwrap();
    let sets = [
        ("ports", exact(&[1, 187, 0, 0]), Value::None),
        ("macs", exact(&[1, 2, 3, 4, 5, 6, 0, 0]), Value::None),
        ("pods", exact(&[10, 1, 0, 9]), Value::Data(vec![9, 0, 0, 0])),
        (
            "class-7-ids",
            Key::Range(vec![10, 0, 0, 0], vec![10, 255, 255, 255]),
            Value::Data(vec![9, 0, 0, 0]),
        ),
    ];
    for (name, key, value) in sets {
        let element = BTreeMap::from([(key.clone(), value.clone())]);
        let add = NftCommand::AddElements {
            table: id.clone(),
            set: name.into(),
            elements: element,
            timeout_ms: None,
        };
        let delete = NftCommand::DeleteElements {
            table: id.clone(),
            set: name.into(),
            keys: BTreeSet::from([key.clone()]),
        };
        nft.apply(std::slice::from_ref(&add)).unwrap();
        assert_eq!(nft.read(&id).unwrap().unwrap().sets[name].elements.get(&key), Some(&value), "{name}");
        // Moved in one batch.
        nft.apply(&[delete.clone(), add]).unwrap();
        nft.apply(std::slice::from_ref(&delete)).unwrap();
        assert_eq!(nft.read(&id).unwrap().unwrap().sets[name], table.sets[name], "{name}");
        assert_eq!(nft.apply(&[delete]).unwrap_err().refusal(), Refusal::NotFound);
        nft.apply(&[NftCommand::FlushSet { table: id.clone(), name: name.into() }]).unwrap();
        assert!(nft.read(&id).unwrap().unwrap().sets[name].elements.is_empty(), "{name}");
    }
    nft.apply(&[NftCommand::FlushChain { table: id.clone(), name: "raw".into() }]).unwrap();
    assert!(nft.read(&id).unwrap().unwrap().chains["raw"].rules.is_empty());
}

fn a_refused_batch_names_the_command_and_changes_nothing() {
    let netns = Netns::new().unwrap();
    let mut nft = NftSocket::open_in(&netns).unwrap();
    let id = table_id("t");
    let chain = |name: &str| NftCommand::AddChain { table: id.clone(), name: name.into(), hook: None };
    let jump = |to: &str| NftCommand::AddRule {
        table: id.clone(),
        chain: "a".into(),
        rule: rule("jump", vec![Statement::Verdict(Verdict::Jump(to.into()))]),
    };
    let error =
        nft.apply(&[NftCommand::AddTable(id.clone()), chain("a"), jump("nowhere"), chain("b")]).unwrap_err();
    let BatchError::Refused { command: Some((index, _)), .. } = &error else { panic!("{error}") };
    assert_eq!((*index, error.refusal()), (2, Refusal::NotFound));
    assert!(error.to_string().contains("add rule t a \"jump\""), "{error}");
    assert!(nft.tables().unwrap().is_empty());

    nft.apply(&[NftCommand::AddTable(id.clone()), chain("a"), chain("b"), jump("b")]).unwrap();
    let error = nft.apply(&[NftCommand::DeleteChain { table: id.clone(), name: "b".into() }]).unwrap_err();
    assert_eq!(error.refusal(), Refusal::Busy);
    let missing = table_id("missing");
    let error = nft.apply(&[NftCommand::FlushChain { table: missing, name: "x".into() }]).unwrap_err();
    assert_eq!(error.refusal(), Refusal::NotFound);
}

fn a_checked_batch_changes_nothing() {
    let netns = Netns::new().unwrap();
    let mut nft = NftSocket::open_in(&netns).unwrap();
    let commands = commands_for(&every_statement());
    let before = nft.generation().unwrap();
    nft.check(&commands).unwrap();
    assert!(nft.tables().unwrap().is_empty());
    assert!(nft.check(&commands[1..2]).is_err());
    assert_eq!(nft.generation().unwrap(), before);
}

fn a_batch_at_an_old_generation_is_refused() {
    let netns = Netns::new().unwrap();
    let mut nft = NftSocket::open_in(&netns).unwrap();
    let old = nft.generation().unwrap();
    nft.apply_at(&[NftCommand::AddTable(table_id("a"))], old).unwrap();
    let error = nft.apply_at(&[NftCommand::AddTable(table_id("b"))], old).unwrap_err();
    assert!(matches!(error, BatchError::Stale), "{error}");
    assert_eq!(nft.tables().unwrap(), BTreeSet::from([table_id("a")]));
}

fn a_table_outlives_its_owner_and_is_adopted() {
    let netns = Netns::new().unwrap();
    let mut first = NftSocket::open_in(&netns).unwrap();
    let id = table_id("t");
    first.apply(&[NftCommand::AddTable(id.clone())]).unwrap();
    if !first.read(&id).unwrap().unwrap().owned {
        println!("SKIP: this kernel has no tables that outlive their owner");
        return;
    }
    let chain = |name: &str| NftCommand::AddChain { table: id.clone(), name: name.into(), hook: None };
    let mut second = NftSocket::open_in(&netns).unwrap();
    assert_eq!(second.apply(&[chain("a")]).unwrap_err().refusal(), Refusal::NotAllowed);
    assert!(second.read(&id).unwrap().is_some(), "others may read");
    first.apply(&[NftCommand::AddTable(id.clone()), chain("a")]).unwrap();

    drop(first);
    let orphan = second.read(&id).unwrap().unwrap();
    assert!(!orphan.owned && orphan.chains.contains_key("a"), "{orphan:?}");
    // The first change adopts it; so does asking for that alone.
    second.apply(&[chain("b")]).unwrap();
    assert!(second.read(&id).unwrap().unwrap().owned);
    drop(second);
    let mut third = NftSocket::open_in(&netns).unwrap();
    third.adopt(&id).unwrap();
    third.adopt(&id).unwrap();
    assert!(third.read(&id).unwrap().unwrap().owned);
    third
        .apply(&[NftCommand::DeleteTable(id.clone()), NftCommand::AddTable(id.clone()), chain("c")])
        .unwrap();
    assert!(third.read(&id).unwrap().unwrap().owned);
    third.apply(&[NftCommand::DeleteTable(id.clone())]).unwrap();
    assert!(third.tables().unwrap().is_empty());
}

/// Also a benchmark: run it alone with `--release` to see the times.
fn fifty_thousand_elements_load_at_once() {
    let netns = Netns::new().unwrap();
    let mut nft = NftSocket::open_in(&netns).unwrap();
    let id = table_id("t");
    let shape = SetShape {
        key: vec![FieldType::Ipv4, FieldType::Port],
        data: Some(DataType::Fields(vec![FieldType::Ipv4])),
        interval: false,
        timeout: false,
    };
    let elements: BTreeMap<Key, Value> = (0..50_000u32)
        .map(|n| {
            (Key::Exact((u64::from(n) << 16).to_be_bytes().to_vec()), Value::Data(n.to_be_bytes().to_vec()))
        })
        .collect();
    let commands = [
        NftCommand::AddTable(id.clone()),
        NftCommand::AddSet { table: id.clone(), name: "m".into(), shape },
        NftCommand::AddElements {
            table: id.clone(),
            set: "m".into(),
            elements: elements.clone(),
            timeout_ms: None,
        },
    ];
    let start = std::time::Instant::now();
    match nft.apply(&commands) {
        Err(BatchError::TooLarge { bytes }) => {
            println!("SKIP: an unprivileged process may not send {bytes} bytes at once");
            return;
        }
        outcome => outcome.unwrap(),
    }
    let loaded = start.elapsed();
    let found = nft.read(&id).unwrap().unwrap();
    println!("50,000 elements: loaded in {loaded:?}, read in {:?}", start.elapsed() - loaded);
    assert!(found.sets["m"].elements == elements, "{} are found", found.sets["m"].elements.len());
}
