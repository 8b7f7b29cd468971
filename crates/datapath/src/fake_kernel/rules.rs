//! What the kernel checks of rules, elements and jumps.

use std::collections::{BTreeMap, BTreeSet};

use super::Refusal;
use crate::nft::{
    BaseChain, ChainKind, DataType, FieldType, Hook, Key, Load, Operand, Rule, Set, Source, Statement, Table,
    Target, Value, Verdict,
};
use crate::transaction::TableId;

/// `NFT_JUMP_STACK_SIZE`
const MAX_DEPTH: usize = 16;

/// Names that a rule or an element uses.
#[derive(Default)]
pub(super) struct Used<'a> {
    pub(super) sets: BTreeSet<&'a str>,
    pub(super) counters: BTreeSet<&'a str>,
    pub(super) timeouts: BTreeSet<&'a str>,
    pub(super) chains: BTreeSet<&'a str>,
}

impl<'a> Used<'a> {
    fn rule(&mut self, rule: &'a Rule) {
        for statement in &rule.statements {
            match statement {
                Statement::InSet { set, .. } => {
                    self.sets.insert(set);
                }
                Statement::MapThenVerdict { map, verdicts, .. } => {
                    self.sets.insert(map);
                    self.sets.insert(verdicts);
                }
                Statement::VerdictMap { map, .. }
                | Statement::SnatMap { map, .. }
                | Statement::Set { source: Source::Map { map, .. }, .. } => {
                    self.sets.insert(map);
                }
                Statement::Counter(name) => {
                    self.counters.insert(name);
                }
                Statement::Timeout(name) => {
                    self.timeouts.insert(name);
                }
                Statement::Verdict(verdict) => self.verdict(verdict),
                _ => {}
            }
        }
    }

    fn verdict(&mut self, verdict: &'a Verdict) {
        if let Verdict::Jump(chain) | Verdict::Goto(chain) = verdict {
            self.chains.insert(chain);
        }
    }

    fn set(&mut self, set: &'a Set) {
        for value in set.elements.values() {
            if let Value::Verdict(verdict) = value {
                self.verdict(verdict);
            }
        }
    }
}

/// Refuses when anything in the table uses it.
pub(super) fn unused(table: &Table, uses: impl Fn(&Used<'_>) -> bool, name: &str) -> Result<(), Refusal> {
    let mut used = Used::default();
    table.chains.values().flat_map(|chain| &chain.rules).for_each(|rule| used.rule(rule));
    table.sets.values().for_each(|set| used.set(set));
    if uses(&used) { Err(Refusal::Busy(name.to_owned())) } else { Ok(()) }
}

pub(super) fn check_hook(hook: Option<&BaseChain>) -> Result<(), Refusal> {
    let Some(hook) = hook else { return Ok(()) };
    let fits = match hook.kind {
        ChainKind::Filter => true,
        ChainKind::Nat => hook.hook != Hook::Forward,
        ChainKind::Route => hook.hook == Hook::Output,
    };
    // The kernel refuses NAT before connection tracking.
    let late = hook.kind != ChainKind::Nat || hook.priority > -200;
    if fits && late { Ok(()) } else { Err(Refusal::Invalid(format!("a chain at {hook}"))) }
}

/// Checks a rule for a chain at this hook, or for a regular one.
pub(super) fn check(table: &Table, hook: Option<&BaseChain>, rule: &Rule) -> Result<(), Refusal> {
    let invalid = |why: &str| Err(Refusal::Invalid(format!("`{rule}`: {why}")));
    let mut used = Used::default();
    used.rule(rule);
    for chain in &used.chains {
        regular(table, chain)?;
    }
    if let Some(counter) = used.counters.iter().find(|name| !table.counters.contains(**name)) {
        return Err(Refusal::Missing(format!("counter {counter}")));
    }
    if let Some(timeout) = used.timeouts.iter().find(|name| !table.timeouts.contains_key(**name)) {
        return Err(Refusal::Missing(format!("ct timeout {timeout}")));
    }
    let set = |name: &str| table.sets.get(name).ok_or_else(|| Refusal::Missing(format!("set {name}")));
    for (n, statement) in rule.statements.iter().enumerate() {
        match statement {
            Statement::Match { operand, value, .. } => {
                if value.len() != length(operand.load) || !mask_fits(operand) {
                    return invalid("lengths differ");
                }
            }
            Statement::InSet { key, set: name, .. } => {
                let set = set(name)?;
                if set.data.is_some() {
                    return invalid("a map is no set");
                }
                key_fits(rule, key, set)?;
            }
            Statement::MapThenVerdict { key, map, verdicts } => {
                let (map, verdicts) = (set(map)?, set(verdicts)?);
                key_fits(rule, key, map)?;
                if map.data != Some(DataType::Fields(verdicts.key.clone()))
                    || verdicts.data != Some(DataType::Verdict)
                {
                    return invalid("the maps don't fit together");
                }
            }
            Statement::VerdictMap { key, map } => {
                let map = set(map)?;
                key_fits(rule, key, map)?;
                if map.data != Some(DataType::Verdict) {
                    return invalid("not a verdict map");
                }
            }
            Statement::Set { target, source } => {
                let wanted = target_type(*target);
                let fits = match source {
                    Source::Constant(bytes) => bytes.len() == wanted.len(),
                    Source::Operand(operand) => length(operand.load) == wanted.len() && mask_fits(operand),
                    Source::Bits { load, mask, xor } => {
                        length(*load) == wanted.len()
                            && mask.len() == wanted.len()
                            && xor.len() == wanted.len()
                    }
                    Source::Map { key, map } => {
                        let map = set(map)?;
                        key_fits(rule, key, map)?;
                        map.data == Some(DataType::Fields(vec![wanted]))
                    }
                };
                if !fits {
                    return invalid("the value does not fit its target");
                }
            }
            Statement::SnatMap { key, map, ipv6 } => {
                let map = set(map)?;
                key_fits(rule, key, map)?;
                let address = if *ipv6 { FieldType::Ipv6 } else { FieldType::Ipv4 };
                if map.data != Some(DataType::Fields(vec![address, FieldType::Port, FieldType::Port])) {
                    return invalid("the map holds no address and ports");
                }
                if !hook.is_some_and(|h| {
                    h.kind == ChainKind::Nat && matches!(h.hook, Hook::Postrouting | Hook::Input)
                }) {
                    return invalid("source NAT only in nat chains after routing");
                }
            }
            Statement::Masquerade => {
                if !hook.is_some_and(|h| h.kind == ChainKind::Nat && h.hook == Hook::Postrouting) {
                    return invalid("masquerade only in nat chains after routing");
                }
            }
            Statement::DnatTo { .. } => {
                if !hook.is_some_and(|h| {
                    h.kind == ChainKind::Nat && matches!(h.hook, Hook::Prerouting | Hook::Output)
                }) {
                    return invalid("destination NAT only in nat chains before routing");
                }
            }
            Statement::Reject(_) => {
                if hook.is_some_and(|h| matches!(h.hook, Hook::Prerouting | Hook::Postrouting)) {
                    return invalid("old kernels reject in input, forward and output only");
                }
            }
            Statement::Verdict(_) => {
                if n + 1 != rule.statements.len() {
                    return invalid("nothing is reached behind a verdict");
                }
            }
            Statement::Notrack
            | Statement::Counter(_)
            | Statement::Timeout(_)
            | Statement::LimitPerSecond { .. }
            | Statement::ClampMss(_) => {}
        }
    }
    Ok(())
}

fn regular(table: &Table, name: &str) -> Result<(), Refusal> {
    match table.chains.get(name) {
        None => Err(Refusal::Missing(format!("chain {name}"))),
        Some(chain) if chain.hook.is_some() => {
            Err(Refusal::Invalid(format!("{name}: a base chain can't be jumped to")))
        }
        Some(_) => Ok(()),
    }
}

fn key_fits(rule: &Rule, key: &[Operand], set: &Set) -> Result<(), Refusal> {
    let fits = key.len() == set.key.len()
        && key
            .iter()
            .zip(&set.key)
            .all(|(operand, field)| length(operand.load) == field.len() && mask_fits(operand));
    if fits { Ok(()) } else { Err(Refusal::Invalid(format!("`{rule}`: the key does not fit the set"))) }
}

fn mask_fits(operand: &Operand) -> bool {
    operand.mask.as_ref().is_none_or(|mask| mask.len() == length(operand.load))
}

/// Bytes of a loaded value.
pub(crate) fn length(load: Load) -> usize {
    match load {
        Load::NetworkProtocol
        | Load::TransportProtocol
        | Load::ConnectionDirection
        | Load::TcpFlags
        | Load::IcmpType => 1,
        Load::SourcePort | Load::DestinationPort | Load::IcmpEchoId | Load::ArpOperation => 2,
        Load::Mark
        | Load::InputInterface
        | Load::OutputInterface
        | Load::ConnectionMark
        | Load::ConnectionState
        | Load::ConnectionStatus
        | Load::OriginalSource4
        | Load::OriginalDestination4
        | Load::Source4
        | Load::Destination4
        | Load::ArpTarget
        | Load::DestinationAddressType
        | Load::SourceAddressType => 4,
        Load::EtherSource => 6,
        Load::InputInterfaceName
        | Load::OutputInterfaceName
        | Load::OriginalSource6
        | Load::Source6
        | Load::Destination6 => 16,
        Load::Transport(_, length) | Load::Network(_, length) => length.into(),
    }
}

fn target_type(target: Target) -> FieldType {
    match target {
        Target::Mark | Target::ConnectionMark => FieldType::Mark,
        Target::OriginalZone => FieldType::Zone,
        Target::Source4 | Target::Destination4 => FieldType::Ipv4,
        Target::Source6 | Target::Destination6 => FieldType::Ipv6,
    }
}

/// Checks an element for its set.
pub(super) fn check_element(
    table: &Table,
    name: &str,
    set: &Set,
    key: &Key,
    value: &Value,
) -> Result<(), Refusal> {
    let length: usize = set.key.iter().map(|field| field.padded_len()).sum();
    let key_fits = match key {
        Key::Exact(bytes) => !set.interval && bytes.len() == length,
        Key::Range(first, last) => {
            set.interval && first.len() == length && last.len() == length && first <= last
        }
    };
    let value_fits = match (value, &set.data) {
        (Value::None, None) => true,
        (Value::Data(bytes), Some(DataType::Fields(fields))) => {
            bytes.len() == fields.iter().map(|field| field.padded_len()).sum::<usize>()
        }
        (Value::Verdict(verdict), Some(DataType::Verdict)) => {
            if let Verdict::Jump(chain) | Verdict::Goto(chain) = verdict {
                regular(table, chain)?;
            }
            true
        }
        _ => false,
    };
    if key_fits && value_fits {
        Ok(())
    } else {
        Err(Refusal::Invalid(format!("{name}: an element that does not fit")))
    }
}

/// Refuses loops and jumps that are too deep, as the kernel does at the end of a batch.
pub(super) fn check_jumps(tables: &BTreeMap<TableId, Table>) -> Result<(), Refusal> {
    for table in tables.values() {
        for (name, chain) in &table.chains {
            if chain.hook.is_some() {
                descend(table, name, 0)?;
            }
        }
    }
    Ok(())
}

fn descend(table: &Table, name: &str, depth: usize) -> Result<(), Refusal> {
    if depth >= MAX_DEPTH {
        return Err(Refusal::Invalid(format!("{name}: jumps too deep, or in a circle")));
    }
    let Some(chain) = table.chains.get(name) else { return Ok(()) };
    let mut next = Used::default();
    chain.rules.iter().for_each(|rule| next.rule(rule));
    let mut verdicts = Used::default();
    next.sets.iter().filter_map(|name| table.sets.get(*name)).for_each(|set| verdicts.set(set));
    for target in next.chains.iter().chain(&verdicts.chains) {
        descend(table, target, depth + 1)?;
    }
    Ok(())
}
