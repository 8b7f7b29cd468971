//! The difference of one table, as one batch.
//!
//! Elements change one by one, chains as a whole: a chain whose rules differ is emptied and written anew in the same batch.
//! A set that changes its shape goes with every chain that uses it.

use std::collections::{BTreeMap, BTreeSet};

use crate::nft::{Chain, Key, Rule, Set, Source, Statement, Table, Value, Verdict};
use crate::transaction::{FoundTable, NftCommand, SetShape, TableId};

/// Commands that turn the found table into the wanted one.
pub(super) fn diff(id: &TableId, exists: bool, found: &FoundTable, wanted: &Table) -> Vec<NftCommand> {
    let mut batch = Batch { id, commands: Vec::new() };
    if !exists {
        batch.push(NftCommand::AddTable(id.clone()));
    }
    let reshaped: BTreeSet<&str> = wanted
        .sets
        .iter()
        .filter(|(name, set)| {
            found.sets.get(*name).is_some_and(|old| SetShape::from(old) != SetShape::from(*set))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    let rehooked: BTreeSet<&str> = wanted
        .chains
        .iter()
        .filter(|(name, chain)| found.chains.get(*name).is_some_and(|old| old.hook != chain.hook))
        .map(|(name, _)| name.as_str())
        .collect();
    let rewritten: BTreeSet<&str> = wanted
        .chains
        .iter()
        .filter(|(name, chain)| {
            rehooked.contains(name.as_str())
                || chain.rules.iter().any(|rule| refers(rule, &reshaped, &rehooked))
                || found.chains.get(*name).is_none_or(|old| !same_rules(&old.rules, chain))
        })
        .map(|(name, _)| name.as_str())
        .collect();

    // Nothing refers to what is about to go once the changed chains are empty.
    for (name, old) in &found.chains {
        let empty = old.rules.is_empty();
        if !empty && (rewritten.contains(name.as_str()) || !wanted.chains.contains_key(name)) {
            batch.push(NftCommand::FlushChain { table: id.clone(), name: name.clone() });
        }
    }
    for (name, old) in &found.sets {
        match wanted.sets.get(name) {
            Some(set) if !reshaped.contains(name.as_str()) => {
                batch.delete_elements(name, old, set, &rehooked)
            }
            Some(_) => batch.push(NftCommand::DeleteSet { table: id.clone(), name: name.clone() }),
            None => {
                // Verdicts hold chains that may go as well.
                if !old.elements.is_empty() {
                    batch.push(NftCommand::FlushSet { table: id.clone(), name: name.clone() });
                }
                batch.push(NftCommand::DeleteSet { table: id.clone(), name: name.clone() });
            }
        }
    }
    for name in found.chains.keys() {
        if !wanted.chains.contains_key(name) || rehooked.contains(name.as_str()) {
            batch.push(NftCommand::DeleteChain { table: id.clone(), name: name.clone() });
        }
    }
    for name in found.counters.keys().filter(|name| !wanted.counters.contains(*name)) {
        batch.push(NftCommand::DeleteCounter { table: id.clone(), name: name.clone() });
    }
    for name in found.timeouts.iter().filter(|name| !wanted.timeouts.contains_key(*name)) {
        batch.push(NftCommand::DeleteTimeout { table: id.clone(), name: name.clone() });
    }

    for (name, timeout) in wanted.timeouts.iter().filter(|(name, _)| !found.timeouts.contains(*name)) {
        let (table, name, timeout) = (id.clone(), name.clone(), timeout.clone());
        batch.push(NftCommand::AddTimeout { table, name, timeout });
    }
    for name in wanted.counters.iter().filter(|name| !found.counters.contains_key(*name)) {
        batch.push(NftCommand::AddCounter { table: id.clone(), name: name.clone() });
    }
    for (name, set) in &wanted.sets {
        if !found.sets.contains_key(name) || reshaped.contains(name.as_str()) {
            batch.push(NftCommand::AddSet {
                table: id.clone(),
                name: name.clone(),
                shape: SetShape::from(set),
            });
        }
    }
    // Regular chains first is not needed: a batch may jump to any chain that it has made.
    for (name, chain) in &wanted.chains {
        if !found.chains.contains_key(name) || rehooked.contains(name.as_str()) {
            let hook = chain.hook.clone();
            batch.push(NftCommand::AddChain { table: id.clone(), name: name.clone(), hook });
        }
    }
    for (name, set) in &wanted.sets {
        let old = found.sets.get(name).filter(|_| !reshaped.contains(name.as_str()));
        batch.add_elements(name, old, set, &rehooked);
    }
    for (name, chain) in wanted.chains.iter().filter(|(name, _)| rewritten.contains(name.as_str())) {
        for rule in &chain.rules {
            batch.push(NftCommand::AddRule { table: id.clone(), chain: name.clone(), rule: rule.clone() });
        }
    }
    batch.commands
}

fn same_rules(found: &[u64], chain: &Chain) -> bool {
    found.len() == chain.rules.len()
        && found.iter().zip(&chain.rules).all(|(hash, rule)| *hash == rule.content_hash())
}

struct Batch<'a> {
    id: &'a TableId,
    commands: Vec<NftCommand>,
}

impl Batch<'_> {
    fn push(&mut self, command: NftCommand) {
        self.commands.push(command);
    }

    fn delete_elements(&mut self, name: &str, old: &Set, new: &Set, rehooked: &BTreeSet<&str>) {
        // What expires is renewed by others.
        if new.timeout {
            return;
        }
        let stale = |(key, value): &(&Key, &Value)| {
            new.elements.get(*key) != Some(*value) || leads_to(value, rehooked)
        };
        let keys: BTreeSet<Key> = old.elements.iter().filter(stale).map(|(key, _)| key.clone()).collect();
        if !keys.is_empty() {
            self.push(NftCommand::DeleteElements { table: self.id.clone(), set: name.to_owned(), keys });
        }
    }

    fn add_elements(&mut self, name: &str, old: Option<&Set>, new: &Set, rehooked: &BTreeSet<&str>) {
        if new.timeout {
            return;
        }
        let missing = |(key, value): &(&Key, &Value)| {
            old.and_then(|old| old.elements.get(*key)) != Some(*value) || leads_to(value, rehooked)
        };
        let elements: BTreeMap<Key, Value> =
            new.elements.iter().filter(missing).map(|(key, value)| (key.clone(), value.clone())).collect();
        if !elements.is_empty() {
            let (table, set) = (self.id.clone(), name.to_owned());
            self.push(NftCommand::AddElements { table, set, elements, timeout_ms: None });
        }
    }
}

fn leads_to(value: &Value, chains: &BTreeSet<&str>) -> bool {
    matches!(value, Value::Verdict(Verdict::Jump(name) | Verdict::Goto(name)) if chains.contains(name.as_str()))
}

/// Whether the rule uses one of these sets or chains.
fn refers(rule: &Rule, sets: &BTreeSet<&str>, chains: &BTreeSet<&str>) -> bool {
    rule.statements.iter().any(|statement| match statement {
        Statement::InSet { set, .. } => sets.contains(set.as_str()),
        Statement::MapThenVerdict { map, verdicts, .. } => {
            sets.contains(map.as_str()) || sets.contains(verdicts.as_str())
        }
        Statement::VerdictMap { map, .. } | Statement::SnatMap { map, .. } => sets.contains(map.as_str()),
        Statement::Set { source: Source::Map { map, .. }, .. } => sets.contains(map.as_str()),
        Statement::Verdict(Verdict::Jump(name) | Verdict::Goto(name)) => chains.contains(name.as_str()),
        _ => false,
    })
}
