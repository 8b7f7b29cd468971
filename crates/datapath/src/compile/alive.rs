//! The dead-man switch: the kernel answers ARP and NDP for EIPs only while an element lives that the agent renews.
//!
//! Without an agent, a gateway forwards on and answers for a while, so that a restart is not noticed. If the agent stays
//! away another gateway takes its EIPs, and this one must not answer with an old map for ever.

use std::collections::{BTreeMap, BTreeSet};

use super::Context;
use super::build::*;
use super::family::{Family, ICMP_HEADER, V4};
use super::names::*;
use crate::nft::{ChainKind, FieldType, Hook, Key, Load, Set, Statement, Table, TableFamily, Value};
use crate::state::DatapathState;
use crate::transaction::{NftCommand, TableId};

/// ARP operation "request", as the element of [`ALIVE`] in the ARP table.
const REQUEST: [u8; 2] = [0, 1];
/// ICMPv6 neighbour solicitation, as the element of [`ALIVE`] in the main table.
const SOLICITATION: u8 = 135;
/// Offset of a solicitation's target behind the ICMPv6 header.
const TARGET: u8 = ICMP_HEADER;

/// What makes the kernel answer for this long from now on.
#[must_use]
pub fn renew(state: &DatapathState, timeout_ms: u64) -> Vec<NftCommand> {
    let switches = state.tables.values().filter_map(|table| Some((table, table.sets.get(ALIVE)?)));
    switches
        .flat_map(|(table, _)| {
            let id = TableId { family: table.family, name: table.name.clone() };
            let key =
                if table.family == TableFamily::Arp { join(&[&REQUEST]) } else { join(&[&[SOLICITATION]]) };
            let elements = BTreeMap::from([(Key::Exact(key), Value::None)]);
            // Not every kernel lets the time of an element be changed.
            [
                NftCommand::FlushSet { table: id.clone(), name: ALIVE.to_owned() },
                NftCommand::AddElements {
                    table: id,
                    set: ALIVE.to_owned(),
                    elements,
                    timeout_ms: Some(timeout_ms),
                },
            ]
        })
        .collect()
}

/// The table that silences ARP; `None` where there is nothing to answer for.
pub(super) fn arp_table(context: &Context<'_>) -> Option<Table> {
    let view = context.view;
    if !view.settings.ipv4 || !view.settings.arp_filter || view.gateway_eips.is_empty() {
        return None;
    }
    let mut table = Table {
        family: TableFamily::Arp,
        name: ARP_TABLE.to_owned(),
        sets: BTreeMap::new(),
        timeouts: BTreeMap::new(),
        counters: BTreeSet::from([DROP_SILENCED.to_owned()]),
        chains: BTreeMap::new(),
    };
    let eips = view.gateway_eips.keys().filter_map(|eip| V4.eip(eip));
    add_set(&mut table, V4.name(GATEWAY_EIPS), &[FieldType::Ipv4], eips);
    add_alive(&mut table, FieldType::Port);
    let mut rules = Rules::default();
    rules.rule(
        "the agent is away for long",
        [
            is(Load::ArpOperation, REQUEST),
            within(Load::ArpTarget, V4.name(GATEWAY_EIPS)),
            without(Load::ArpOperation, ALIVE),
            counter(DROP_SILENCED),
            drop(),
        ],
    );
    rules.base(&mut table, "silence", ChainKind::Filter, Hook::Input, 0);
    Some(table)
}

/// The rule that silences NDP, for the input chain; `None` where there is nothing to answer for.
pub(super) fn solicitation(
    context: &Context<'_>,
    family: Family,
    table: &mut Table,
) -> Option<Vec<Statement>> {
    if !family.is_v6() || context.view.gateway_eips.is_empty() {
        return None;
    }
    add_alive(table, FieldType::Protocol);
    let target = Load::Transport(TARGET, 16);
    Some(vec![
        is(Load::NetworkProtocol, [family.nfproto]),
        is(Load::TransportProtocol, [family.icmp]),
        is(Load::IcmpType, [SOLICITATION]),
        within(target, family.name(GATEWAY_EIPS)),
        without(Load::IcmpType, ALIVE),
        counter(DROP_SILENCED),
        drop(),
    ])
}

fn add_alive(table: &mut Table, key: FieldType) {
    let set = Set {
        key: vec![key],
        data: None,
        interval: false,
        timeout: true,
        counting: false,
        elements: BTreeMap::new(),
    };
    table.sets.insert(ALIVE.to_owned(), set);
}
