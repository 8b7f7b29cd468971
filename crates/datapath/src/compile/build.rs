//! Short forms for rules, sets and keys.

use std::collections::BTreeMap;

use model::PortBlock;
use model::mark::{BASE, BASE_MASK, PACKET_MASK};

use crate::nft::{
    BaseChain, Chain, ChainKind, Compare, DataType, FieldType, Hook, Key, Load, Operand, Rule, Set, Source,
    Statement, Table, Target, Value, Verdict,
};

/// Connection state bits of nf_tables.
pub(super) const INVALID: u32 = 1;
pub(super) const ESTABLISHED: u32 = 2;
pub(super) const RELATED: u32 = 4;
pub(super) const NEW: u32 = 8;
pub(super) const UNTRACKED: u32 = 64;
/// Connection status bit of a connection whose first packet has left.
pub(super) const CONFIRMED: u32 = 8;

/// The rules of one chain, while they are written.
#[derive(Default)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    /// Appends a rule; the comment says what it is for.
    pub(super) fn rule(
        &mut self,
        comment: &'static str,
        statements: impl IntoIterator<Item = Statement>,
    ) -> &mut Self {
        self.0.push(Rule { statements: statements.into_iter().collect(), comment });
        self
    }

    /// Adds them to the table as a chain that is jumped to.
    pub(super) fn regular(self, table: &mut Table, name: impl Into<String>) {
        table.chains.insert(name.into(), Chain { hook: None, rules: self.0 });
    }

    /// Adds them to the table as a chain at a hook.
    pub(super) fn base(self, table: &mut Table, name: &str, kind: ChainKind, hook: Hook, priority: i32) {
        let hook = Some(BaseChain { kind, hook, priority });
        table.chains.insert(name.to_owned(), Chain { hook, rules: self.0 });
    }
}

/// The whole value.
pub(super) fn whole(load: Load) -> Operand {
    Operand { load, mask: None }
}

/// The value's bits in the mask.
pub(super) fn bits(load: Load, mask: impl Into<Vec<u8>>) -> Operand {
    Operand { load, mask: Some(mask.into()) }
}

/// Goes on when equal.
pub(super) fn is(load: Load, value: impl Into<Vec<u8>>) -> Statement {
    Statement::Match { operand: whole(load), compare: Compare::Equal, value: value.into() }
}

/// Goes on when not equal.
pub(super) fn is_not(load: Load, value: impl Into<Vec<u8>>) -> Statement {
    Statement::Match { operand: whole(load), compare: Compare::NotEqual, value: value.into() }
}

/// Goes on when the bits of the mask are these.
pub(super) fn bits_are(load: Load, mask: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Statement {
    Statement::Match { operand: bits(load, mask), compare: Compare::Equal, value: value.into() }
}

/// Goes on when any of the bits is set.
pub(super) fn any_bit(load: Load, mask: impl Into<Vec<u8>>) -> Statement {
    let mask = mask.into();
    let value = vec![0; mask.len()];
    Statement::Match { operand: bits(load, mask), compare: Compare::NotEqual, value }
}

/// Goes on when the connection is in one of these states.
pub(super) fn state(states: u32) -> Statement {
    any_bit(Load::ConnectionState, states.to_ne_bytes())
}

/// Goes on for the first packet of a connection. `ct state new` alone also holds for later ones that had no answer yet.
pub(super) fn first_packet() -> [Statement; 2] {
    let confirmed = CONFIRMED.to_ne_bytes();
    let unconfirmed = bits_are(Load::ConnectionStatus, confirmed, vec![0; confirmed.len()]);
    [state(NEW), unconfirmed]
}

/// Goes on when a packet's or connection's mark is one of ours.
pub(super) fn ours(load: Load) -> Statement {
    bits_are(load, BASE_MASK.to_ne_bytes(), BASE.to_ne_bytes())
}

/// Goes on for packets in the direction of the connection's first; ends the rule where there is no connection.
pub(super) fn original_direction() -> Statement {
    is(Load::ConnectionDirection, [0])
}

/// Goes on for packets from this device.
pub(super) fn from_device(name: &str) -> Statement {
    is(Load::InputInterfaceName, interface_name(name))
}

/// Goes on for packets to this device.
pub(super) fn to_device(name: &str) -> Statement {
    is(Load::OutputInterfaceName, interface_name(name))
}

/// A name as the kernel compares it: 16 bytes, zero-padded.
pub(crate) fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = name.bytes().take(15).collect();
    bytes.resize(16, 0);
    bytes
}

/// Goes on when the value is in the set.
pub(super) fn within(load: Load, set: impl Into<String>) -> Statement {
    all_within([whole(load)], set)
}

/// Goes on when the value is not in the set.
pub(super) fn without(load: Load, set: impl Into<String>) -> Statement {
    Statement::InSet { key: vec![whole(load)], set: set.into(), negate: true }
}

/// Goes on when the joined values are in the set.
pub(super) fn all_within(key: impl IntoIterator<Item = Operand>, set: impl Into<String>) -> Statement {
    Statement::InSet { key: key.into_iter().collect(), set: set.into(), negate: false }
}

/// Writes what the map says; a miss ends the rule.
pub(super) fn set_from_map(
    target: Target,
    key: impl IntoIterator<Item = Operand>,
    map: impl Into<String>,
) -> Statement {
    Statement::Set { target, source: Source::Map { key: key.into_iter().collect(), map: map.into() } }
}

/// Sets our bits of the packet mark and leaves others' alone.
pub(super) fn set_mark(mark: u32) -> Statement {
    Statement::Set {
        target: Target::Mark,
        source: Source::Bits {
            load: Load::Mark,
            mask: (!PACKET_MASK).to_ne_bytes().to_vec(),
            xor: mark.to_ne_bytes().to_vec(),
        },
    }
}

/// Clears our bits of the packet mark: with them the outer datagram would be routed into the tunnel again.
pub(super) fn clear_mark() -> Statement {
    set_mark(0)
}

/// Sets the connection mark.
pub(super) fn set_ct_mark(mark: u32) -> Statement {
    Statement::Set { target: Target::ConnectionMark, source: Source::Constant(mark.to_ne_bytes().to_vec()) }
}

pub(super) fn counter(name: &str) -> Statement {
    Statement::Counter(name.to_owned())
}

pub(super) fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}

pub(super) fn drop() -> Statement {
    Statement::Verdict(Verdict::Drop)
}

pub(super) fn jump(chain: impl Into<String>) -> Statement {
    Statement::Verdict(Verdict::Jump(chain.into()))
}

pub(super) fn goto(chain: impl Into<String>) -> Statement {
    Statement::Verdict(Verdict::Goto(chain.into()))
}

/// Key or value of several fields: each padded to four bytes.
pub(super) fn join(fields: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::new();
    for field in fields {
        joined.extend_from_slice(field);
        joined.resize(joined.len().next_multiple_of(4), 0);
    }
    joined
}

/// First port of a block as a field.
pub(super) fn first_port(block: PortBlock) -> [u8; 2] {
    block.first().to_be_bytes()
}

/// Adds a plain set.
pub(super) fn add_set(
    table: &mut Table,
    name: impl Into<String>,
    key: &[FieldType],
    keys: impl IntoIterator<Item = Vec<u8>>,
) {
    let elements = keys.into_iter().map(|key| (Key::Exact(key), Value::None)).collect();
    add(table, name, key, None, false, elements);
}

/// Adds a map to data.
pub(super) fn add_map(
    table: &mut Table,
    name: impl Into<String>,
    key: &[FieldType],
    data: &[FieldType],
    elements: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
) {
    let elements = elements.into_iter().map(|(key, data)| (Key::Exact(key), Value::Data(data))).collect();
    add(table, name, key, Some(DataType::Fields(data.to_vec())), false, elements);
}

/// Adds a map to chains that are continued in.
pub(super) fn add_chain_map(
    table: &mut Table,
    name: impl Into<String>,
    key: &[FieldType],
    elements: impl IntoIterator<Item = (Vec<u8>, String)>,
) {
    let elements = elements
        .into_iter()
        .map(|(key, chain)| (Key::Exact(key), Value::Verdict(Verdict::Goto(chain))))
        .collect();
    add(table, name, key, Some(DataType::Verdict), false, elements);
}

/// Adds a set or map of any form.
pub(super) fn add(
    table: &mut Table,
    name: impl Into<String>,
    key: &[FieldType],
    data: Option<DataType>,
    interval: bool,
    elements: BTreeMap<Key, Value>,
) {
    let set = Set { key: key.to_vec(), data, interval, timeout: false, counting: false, elements };
    table.sets.insert(name.into(), set);
}
