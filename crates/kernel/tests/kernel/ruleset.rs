//! Tables: written, read back, refused.

use std::collections::{BTreeMap, BTreeSet};

use datapath::nft::{
    BaseChain, Chain, ChainKind, Compare, DataType, FieldType, Hook, Key, Load, Operand, Reject, Rule, Set,
    Statement, Table, TableFamily, Value, Verdict,
};
use datapath::transaction::{FoundTable, NftCommand, SetShape, TableId};
use kernel::nft::{BatchError, Refusal};
use kernel::{Netns, NftSocket};

use crate::Test;
use crate::every_statement::every_statement;

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
    for (name, timeout) in &table.timeouts {
        let (table, name, timeout) = (id.clone(), name.clone(), timeout.clone());
        commands.push(NftCommand::AddTimeout { table, name, timeout });
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
        timeouts: table.timeouts.keys().cloned().collect(),
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
        counting: false,
        elements: elements.into_iter().collect(),
    }
}

pub(crate) fn exact(bytes: &[u8]) -> Key {
    Key::Exact(bytes.to_vec())
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
            timeouts: BTreeMap::new(),
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
        counting: false,
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
