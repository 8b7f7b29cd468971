//! From what is there to what shall be there, with as few changes as possible.
//!
//! Order, so that no packet ever sees half a set-up:
//!
//! ```text
//! before  tunnel, peers, routes, rules, sysctls that are new: ways exist before anything is sent there
//! nft     one atomic batch: sets and chains before what refers to them, removals in the reverse order
//! after   what nothing refers to any more: rules before their routes; proxy entries, once an EIP can be carried
//! ```
//!
//! A slot's table never lacks its refusing default: it is set before all other routes and removed after them.

use std::collections::{BTreeMap, BTreeSet};

use crate::nft::Table;
use crate::state::{DatapathState, Route, RouteTarget, TunnelDevice};
use crate::transaction::{Found, FoundTable, RouteChange, TableId, Transaction};

mod table;

/// What leads from what was found to what is wanted. Found tables that are not wanted are deleted, so only our own may be
/// in `found`.
#[must_use]
pub fn diff(found: &Found, wanted: &DatapathState) -> Transaction {
    let mut transaction = Transaction::default();
    tunnel_and_peers(&found.state, wanted, &mut transaction);
    routes(&found.state, wanted, &mut transaction);
    sysctls(&found.state, wanted, &mut transaction);
    for entry in wanted.proxy_neighbours.difference(&found.state.proxy_neighbours) {
        transaction.after.push(RouteChange::AddProxyNeighbour(entry.clone()));
    }
    // First of all: who does not answer any more must not while the rest goes on.
    let stale = found.state.proxy_neighbours.difference(&wanted.proxy_neighbours);
    let stale = stale.map(|entry| RouteChange::DeleteProxyNeighbour(entry.clone()));
    transaction.before.splice(0..0, stale);

    let wanted_tables: BTreeMap<TableId, &Table> = wanted
        .tables
        .values()
        .map(|table| (TableId { family: table.family, name: table.name.clone() }, table))
        .collect();
    for id in found.tables.keys().filter(|id| !wanted_tables.contains_key(id)) {
        transaction.nft.push(crate::transaction::NftCommand::DeleteTable(id.clone()));
    }
    for (id, table) in wanted_tables {
        let nothing = FoundTable::default();
        let existing = found.tables.get(&id);
        transaction.nft.extend(table::diff(&id, existing.is_some(), existing.unwrap_or(&nothing), table));
    }
    transaction
}

fn tunnel_and_peers(found: &DatapathState, wanted: &DatapathState, transaction: &mut Transaction) {
    let Some(tunnel) = &wanted.tunnel else {
        if let Some(old) = &found.tunnel {
            let name = old.name.clone();
            // After the rules that would else send packets elsewhere.
            transaction.after.push(RouteChange::DeleteTunnel { name });
        }
        return;
    };
    if found.tunnel.as_ref() != Some(tunnel) {
        if let Some(old) = found.tunnel.as_ref().filter(|old| old.name != tunnel.name) {
            transaction.before.push(RouteChange::DeleteTunnel { name: old.name.clone() });
        }
        transaction.before.push(RouteChange::SetTunnel(tunnel.clone()));
    }
    // What a device that is made anew has lost is set again here, and not only when the next pass finds it missing.
    let nothing = BTreeSet::new();
    let kept = found.tunnel.as_ref().is_some_and(|old| keeps_entries(old, tunnel));
    let found_peers = if kept { &found.peers } else { &nothing };
    for peer in found_peers.difference(&wanted.peers) {
        transaction.before.push(RouteChange::DeletePeer { device: tunnel.name.clone(), peer: peer.clone() });
    }
    for peer in wanted.peers.difference(found_peers) {
        transaction.before.push(RouteChange::SetPeer { device: tunnel.name.clone(), peer: peer.clone() });
    }
}

/// A device that is made anew has the kernel's defaults.
fn sysctls(found: &DatapathState, wanted: &DatapathState, transaction: &mut Transaction) {
    let made_anew = match (&found.tunnel, &wanted.tunnel) {
        (Some(old), Some(new)) if keeps_entries(old, new) => None,
        (_, new) => new.as_ref().map(|tunnel| tunnel.name.as_str()),
    };
    for (path, value) in &wanted.sysctls {
        let reset = made_anew.is_some_and(|device| path.split('/').any(|part| part == device));
        if reset || found.sysctls.get(path) != Some(value) {
            transaction.before.push(RouteChange::SetSysctl { path: path.clone(), value: value.clone() });
        }
    }
}

/// Whether the kernel can change the one device into the other, so that peers and routes live on.
fn keeps_entries(old: &TunnelDevice, new: &TunnelDevice) -> bool {
    old.name == new.name
        && old.vni == new.vni
        && old.port == new.port
        && old.parent == new.parent
        && old.local == new.local
}

fn routes(found: &DatapathState, wanted: &DatapathState, transaction: &mut Transaction) {
    let kept = match (&found.tunnel, &wanted.tunnel) {
        (Some(old), Some(new)) => keeps_entries(old, new),
        (None, None) => true,
        _ => false,
    };
    let lost = |route: &&Route| !kept && matches!(route.target, RouteTarget::Device { .. });
    let found_routes: BTreeSet<&Route> = found.routes.iter().filter(|route| !lost(route)).collect();
    let refuses = |route: &Route| !matches!(route.target, RouteTarget::Device { .. });

    let missing = || wanted.routes.iter().filter(|route| !found_routes.contains(route));
    let set = |route: &Route| RouteChange::SetRoute(route.clone());
    transaction.before.extend(missing().filter(|route| refuses(route)).map(set));
    transaction.before.extend(missing().filter(|route| !refuses(route)).map(set));
    let missing_rules = wanted.rules.difference(&found.rules);
    transaction.before.extend(missing_rules.map(|rule| RouteChange::AddRule(rule.clone())));

    let stale_rules = found.rules.difference(&wanted.rules);
    let mut after: Vec<RouteChange> = stale_rules.map(|rule| RouteChange::DeleteRule(rule.clone())).collect();
    // Setting a route replaces the one with the same key, so that one is gone already.
    let replaced = |old: &Route| {
        wanted
            .routes
            .iter()
            .any(|new| (new.table, new.destination, new.metric) == (old.table, old.destination, old.metric))
    };
    let stale = || found_routes.iter().filter(|route| !wanted.routes.contains(**route) && !replaced(route));
    let delete = |route: &&Route| RouteChange::DeleteRoute((*route).clone());
    after.extend(stale().filter(|route| !refuses(route)).map(delete));
    after.extend(stale().filter(|route| refuses(route)).map(delete));
    after.append(&mut transaction.after);
    transaction.after = after;
}
