//! A kernel for tests: executes transactions on plain data, and refuses what Linux refuses.
//!
//! It knows no packets; [`trace`](crate::trace) walks them through what it holds.

use std::collections::{BTreeMap, BTreeSet};

use crate::nft::{Chain, Key, Set, Table, Value};
use crate::state::{DatapathState, Route, RouteTarget};
use crate::transaction::{Found, FoundTable, NftCommand, RouteChange, SetShape, TableId, Transaction};

mod rules;

/// The state of a made-up kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FakeKernel {
    state: DatapathState,
    tables: BTreeMap<TableId, Table>,
    devices: BTreeSet<String>,
    generation: u32,
}

/// Why the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `ENOENT`: what is named is not there.
    #[error("{0} does not exist")]
    Missing(String),
    /// `EEXIST`: something else has the name or the key.
    #[error("{0} exists and differs")]
    Exists(String),
    /// `EBUSY`: somebody refers to it.
    #[error("{0} is in use")]
    Busy(String),
    /// `EINVAL`: the kernel can't do that, wherever it comes from.
    #[error("{0}")]
    Invalid(String),
}

impl FakeKernel {
    /// A kernel with these network devices and nothing of ours.
    #[must_use]
    pub fn new(devices: impl IntoIterator<Item = String>) -> Self {
        Self { devices: devices.into_iter().collect(), ..Self::default() }
    }

    /// What a reader finds.
    #[must_use]
    pub fn found(&self) -> Found {
        let tables = self.tables.iter().map(|(id, table)| (id.clone(), FoundTable::of(table))).collect();
        Found { state: self.state.clone(), tables, generation: self.generation }
    }

    /// All that is there.
    #[must_use]
    pub fn state(&self) -> DatapathState {
        let tables = self.tables.iter().map(|(id, table)| (id.name.clone(), table.clone())).collect();
        DatapathState { tables, ..self.state.clone() }
    }

    /// Executes a transaction. A refused batch changes nothing of the tables; single steps before it stay.
    ///
    /// # Errors
    /// As Linux would.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        self.apply_observed(transaction, |_| {})
    }

    /// As [`FakeKernel::apply`], and shows every state in between.
    ///
    /// # Errors
    /// As Linux would.
    pub fn apply_observed(
        &mut self,
        transaction: &Transaction,
        mut observe: impl FnMut(&Self),
    ) -> Result<(), Refusal> {
        for change in &transaction.before {
            self.change(change)?;
            observe(self);
        }
        if !transaction.nft.is_empty() {
            let mut tables = self.tables.clone();
            for command in &transaction.nft {
                execute(&mut tables, command)?;
            }
            rules::check_jumps(&tables)?;
            self.tables = tables;
            self.generation += 1;
            observe(self);
        }
        for change in &transaction.after {
            self.change(change)?;
            observe(self);
        }
        Ok(())
    }

    /// Somebody removes all tables.
    pub fn flush_ruleset(&mut self) {
        self.tables.clear();
        self.generation += 1;
    }

    fn change(&mut self, change: &RouteChange) -> Result<(), Refusal> {
        let state = &mut self.state;
        match change {
            RouteChange::SetTunnel(tunnel) => {
                need(self.devices.contains(&tunnel.parent), || format!("device {}", tunnel.parent))?;
                if let Some(old) = &state.tunnel
                    && (&old.name, old.vni, old.port, &old.parent, old.local)
                        != (&tunnel.name, tunnel.vni, tunnel.port, &tunnel.parent, tunnel.local)
                {
                    let name = old.name.clone();
                    remove_tunnel(state, &name);
                }
                state.tunnel = Some(tunnel.clone());
            }
            RouteChange::DeleteTunnel { name } => remove_tunnel(state, name),
            RouteChange::SetPeer { device, peer } => {
                need(state.tunnel.as_ref().is_some_and(|tunnel| tunnel.name == *device), || device.clone())?;
                state.peers.retain(|old| {
                    old.mac != peer.mac
                        && (old.ipv4.is_none() || old.ipv4 != peer.ipv4)
                        && (old.ipv6.is_none() || old.ipv6 != peer.ipv6)
                });
                state.peers.insert(peer.clone());
            }
            RouteChange::DeletePeer { peer, .. } => {
                state.peers.remove(peer);
            }
            RouteChange::SetRoute(route) => {
                if let RouteTarget::Device { device, .. } = &route.target {
                    let tunnel = state.tunnel.as_ref().is_some_and(|tunnel| tunnel.name == *device);
                    need(tunnel || self.devices.contains(device), || format!("device {device}"))?;
                }
                state.routes.retain(|old| key_of(old) != key_of(route));
                state.routes.insert(route.clone());
            }
            RouteChange::DeleteRoute(route) => {
                state.routes.remove(route);
            }
            RouteChange::AddRule(rule) => {
                state.rules.insert(rule.clone());
            }
            RouteChange::DeleteRule(rule) => {
                state.rules.remove(rule);
            }
            RouteChange::AddProxyNeighbour(entry) => {
                need(self.devices.contains(&entry.device), || format!("device {}", entry.device))?;
                state.proxy_neighbours.insert(entry.clone());
            }
            RouteChange::DeleteProxyNeighbour(entry) => {
                state.proxy_neighbours.remove(entry);
            }
            RouteChange::SetSysctl { path, value } => {
                let mut parts = path.split('/').skip(1);
                if let (Some("conf" | "neigh"), Some(device)) = (parts.next(), parts.next()) {
                    let tunnel = state.tunnel.as_ref().is_some_and(|tunnel| tunnel.name == device);
                    let known = tunnel || device == "all" || self.devices.contains(device);
                    need(known, || format!("/proc/sys/net/{path}"))?;
                }
                state.sysctls.insert(path.clone(), value.clone());
            }
        }
        Ok(())
    }
}

fn need(holds: bool, what: impl FnOnce() -> String) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(Refusal::Missing(what())) }
}

fn key_of(route: &Route) -> (u32, ipnet::IpNet, u32) {
    (route.table, route.destination, route.metric)
}

fn remove_tunnel(state: &mut DatapathState, name: &str) {
    if state.tunnel.take_if(|tunnel| tunnel.name == name).is_none() {
        return;
    }
    state.peers.clear();
    state
        .routes
        .retain(|route| !matches!(&route.target, RouteTarget::Device { device, .. } if device == name));
    // The directory of a device goes with it.
    let of_device = |path: &str| path.split('/').any(|part| part == name);
    state.sysctls.retain(|path, _| !of_device(path));
}

fn execute(tables: &mut BTreeMap<TableId, Table>, command: &NftCommand) -> Result<(), Refusal> {
    let id = command.table();
    match command {
        NftCommand::AddTable(_) => {
            tables.entry(id.clone()).or_insert_with(|| Table {
                family: id.family,
                name: id.name.clone(),
                sets: BTreeMap::new(),
                counters: BTreeSet::new(),
                timeouts: BTreeMap::new(),
                chains: BTreeMap::new(),
            });
            return Ok(());
        }
        NftCommand::DeleteTable(_) => {
            return tables.remove(id).map(|_| ()).ok_or_else(|| Refusal::Missing(id.name.clone()));
        }
        _ => {}
    }
    let table = tables.get_mut(id).ok_or_else(|| Refusal::Missing(id.name.clone()))?;
    in_table(table, command)
}

fn in_table(table: &mut Table, command: &NftCommand) -> Result<(), Refusal> {
    match command {
        NftCommand::AddTable(_) | NftCommand::DeleteTable(_) => {}
        NftCommand::AddCounter { name, .. } => {
            table.counters.insert(name.clone());
        }
        NftCommand::DeleteCounter { name, .. } => {
            rules::unused(table, |used| used.counters.contains(name.as_str()), name)?;
            need(table.counters.remove(name), || name.clone())?;
        }
        NftCommand::AddTimeout { name, timeout, .. } => {
            table.timeouts.insert(name.clone(), timeout.clone());
        }
        NftCommand::DeleteTimeout { name, .. } => {
            rules::unused(table, |used| used.timeouts.contains(name.as_str()), name)?;
            need(table.timeouts.remove(name).is_some(), || name.clone())?;
        }
        NftCommand::AddSet { name, shape, .. } => add_set(table, name, shape)?,
        NftCommand::DeleteSet { name, .. } => {
            rules::unused(table, |used| used.sets.contains(name.as_str()), name)?;
            need(table.sets.remove(name).is_some(), || name.clone())?;
        }
        NftCommand::FlushSet { name, .. } => set_of(table, name)?.elements.clear(),
        NftCommand::AddElements { set, elements, .. } => add_elements(table, set, elements)?,
        NftCommand::DeleteElements { set, keys, .. } => {
            let elements = &mut set_of(table, set)?.elements;
            for key in keys {
                need(elements.remove(key).is_some(), || format!("an element of {set}"))?;
            }
        }
        NftCommand::AddChain { name, hook, .. } => match table.chains.get(name) {
            Some(chain) if chain.hook != *hook => return Err(Refusal::Exists(name.clone())),
            Some(_) => {}
            None => {
                rules::check_hook(hook.as_ref())?;
                table.chains.insert(name.clone(), Chain { hook: hook.clone(), rules: Vec::new() });
            }
        },
        NftCommand::DeleteChain { name, .. } => {
            rules::unused(table, |used| used.chains.contains(name.as_str()), name)?;
            let chain = table.chains.get(name).ok_or_else(|| Refusal::Missing(name.clone()))?;
            if !chain.rules.is_empty() {
                return Err(Refusal::Busy(name.clone()));
            }
            table.chains.remove(name);
        }
        NftCommand::FlushChain { name, .. } => chain_of(table, name)?.rules.clear(),
        NftCommand::InsertRule { chain, rule, .. } => {
            let hook = chain_of(table, chain)?.hook.clone();
            rules::check(table, hook.as_ref(), rule)?;
            chain_of(table, chain)?.rules.insert(0, rule.clone());
        }
        NftCommand::AddRule { chain, rule, .. } => {
            let hook = chain_of(table, chain)?.hook.clone();
            rules::check(table, hook.as_ref(), rule)?;
            chain_of(table, chain)?.rules.push(rule.clone());
        }
    }
    Ok(())
}

fn set_of<'a>(table: &'a mut Table, name: &str) -> Result<&'a mut Set, Refusal> {
    table.sets.get_mut(name).ok_or_else(|| Refusal::Missing(format!("set {name}")))
}

fn chain_of<'a>(table: &'a mut Table, name: &str) -> Result<&'a mut Chain, Refusal> {
    table.chains.get_mut(name).ok_or_else(|| Refusal::Missing(format!("chain {name}")))
}

fn add_set(table: &mut Table, name: &str, shape: &SetShape) -> Result<(), Refusal> {
    if let Some(old) = table.sets.get(name) {
        return if SetShape::from(old) == *shape { Ok(()) } else { Err(Refusal::Exists(name.to_owned())) };
    }
    if shape.interval && shape.key.len() != 1 {
        return Err(Refusal::Invalid(format!("{name}: old kernels know no intervals of several fields")));
    }
    let length: usize = shape.key.iter().map(|field| field.padded_len()).sum();
    if !(1..=64).contains(&length) {
        return Err(Refusal::Invalid(format!("{name}: a key of {length} bytes")));
    }
    let set = Set {
        key: shape.key.clone(),
        data: shape.data.clone(),
        interval: shape.interval,
        timeout: shape.timeout,
        counting: shape.counting,
        elements: BTreeMap::new(),
    };
    table.sets.insert(name.to_owned(), set);
    Ok(())
}

fn add_elements(table: &mut Table, name: &str, elements: &BTreeMap<Key, Value>) -> Result<(), Refusal> {
    for (key, value) in elements {
        let set = table.sets.get(name).ok_or_else(|| Refusal::Missing(format!("set {name}")))?;
        rules::check_element(table, name, set, key, value)?;
        match set.elements.get(key) {
            Some(old) if old == value => continue,
            Some(_) => return Err(Refusal::Exists(format!("an element of {name}"))),
            None => {}
        }
        if let Key::Range(first, last) = key {
            let overlaps =
                |other: &Key| matches!(other, Key::Range(start, end) if start <= last && first <= end);
            // Only neighbours can overlap what is free of overlaps.
            let before = set.elements.range(..key).next_back().is_some_and(|(other, _)| overlaps(other));
            let after = set.elements.range(key..).next().is_some_and(|(other, _)| overlaps(other));
            if before || after {
                return Err(Refusal::Exists(format!("an interval of {name}")));
            }
        }
        set_of(table, name)?.elements.insert(key.clone(), value.clone());
    }
    Ok(())
}
