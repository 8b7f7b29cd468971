//! Rules, as the kernel evaluates them.

use std::net::IpAddr;

use super::conntrack::Flow;
use super::{Counters, Packet};
use crate::compile::build::interface_name;
use crate::nft::{
    ChainKind, Compare, DataType, FieldType, Key, Load, Operand, Reject, Rule, Set, Source, Statement, Table,
    Target, Value, Verdict,
};

/// What connection tracking says about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    /// Not asked yet
    Pending,
    /// A rule said not to
    Untracked,
    /// Makes no sense
    Invalid,
    /// Belongs to a flow
    Tracked {
        flow: Box<Flow>,
        is_reply: bool,
        /// An error about a packet of the flow
        related: bool,
    },
}

/// A packet on its way through one node.
pub(super) struct Passage<'a> {
    pub(super) packet: Packet,
    pub(super) input: Option<(&'a str, u32)>,
    pub(super) output: Option<(String, u32)>,
    pub(super) connection: Connection,
    /// Zone that its connection begins in
    pub(super) zone: u16,
    /// Types of addresses by the routing table
    pub(super) address_type: &'a dyn Fn(IpAddr) -> u32,
    pub(super) counters: &'a mut Counters,
    pub(super) steps: &'a mut Vec<String>,
    /// What a NAT rule asked for
    pub(super) nat: Option<Nat>,
}

/// What a NAT rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Nat {
    Source { address: IpAddr, ports: (u16, u16) },
    Masquerade,
    Destination { address: IpAddr },
}

/// How a chain ends a packet's evaluation at a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Accept,
    Drop,
    Reject(Reject),
}

enum Step {
    Next,
    /// The rule does not match
    Break,
    End(End),
    Return,
    Jump(String),
    Goto(String),
}

impl Passage<'_> {
    /// Runs a chain; `None` when it ends without a verdict.
    pub(super) fn chain(&mut self, table: &Table, name: &str, depth: usize) -> Option<End> {
        let chain = table.chains.get(name).filter(|_| depth < 16)?;
        for rule in &chain.rules {
            match self.rule(table, rule) {
                Step::Next | Step::Break => {}
                step => {
                    self.steps.push(format!("{name}: {rule}"));
                    match step {
                        Step::End(end) => return Some(end),
                        Step::Return => return None,
                        Step::Goto(next) => return self.chain(table, &next, depth + 1),
                        Step::Jump(next) => {
                            if let Some(end) = self.chain(table, &next, depth + 1) {
                                return Some(end);
                            }
                        }
                        Step::Next | Step::Break => {}
                    }
                }
            }
        }
        None
    }

    fn rule(&mut self, table: &Table, rule: &Rule) -> Step {
        for statement in &rule.statements {
            match self.statement(table, statement) {
                Step::Next => {}
                other => return other,
            }
        }
        Step::Next
    }

    fn statement(&mut self, table: &Table, statement: &Statement) -> Step {
        let goes_on = |holds: bool| if holds { Step::Next } else { Step::Break };
        match statement {
            Statement::Match { operand, compare, value } => {
                let Some(loaded) = self.operand(operand) else { return Step::Break };
                goes_on(match compare {
                    Compare::Equal => loaded == *value,
                    Compare::NotEqual => loaded != *value,
                    Compare::Greater => loaded > *value,
                })
            }
            Statement::InSet { key, set, negate } => {
                let Some(key) = self.key(key) else { return Step::Break };
                goes_on(lookup(table, set, &key).is_some() != *negate)
            }
            Statement::MapThenVerdict { key, map, verdicts } => {
                let found = self.key(key).and_then(|key| match lookup(table, map, &key)? {
                    Value::Data(data) => lookup(table, verdicts, data),
                    _ => None,
                });
                follow(found)
            }
            Statement::VerdictMap { key, map } => {
                follow(self.key(key).and_then(|key| lookup(table, map, &key)))
            }
            Statement::Set { target, source } => {
                let Some(value) = self.source(table, source) else { return Step::Break };
                self.write(*target, &value);
                Step::Next
            }
            Statement::SnatMap { key, map, .. } => {
                let Some(Value::Data(data)) = self.key(key).and_then(|key| lookup(table, map, &key)) else {
                    return Step::Break;
                };
                let Some((address, ports)) = address_and_ports(table, map, data) else { return Step::Break };
                self.nat = Some(Nat::Source { address, ports });
                Step::End(End::Accept)
            }
            Statement::Masquerade => {
                self.nat = Some(Nat::Masquerade);
                Step::End(End::Accept)
            }
            Statement::DnatTo { address } => match address_of(address) {
                Some(address) => {
                    self.nat = Some(Nat::Destination { address });
                    Step::End(End::Accept)
                }
                None => Step::Break,
            },
            Statement::Notrack => {
                if self.connection == Connection::Pending {
                    self.connection = Connection::Untracked;
                }
                Step::Next
            }
            Statement::Counter(name) => {
                *self.counters.entry(name.clone()).or_default() += 1;
                Step::Next
            }
            // One packet at a time exceeds no limit; sizes of segments and time are not traced.
            Statement::LimitPerSecond { .. } | Statement::ClampMss(_) | Statement::Timeout(_) => Step::Next,
            Statement::Reject(reject) => Step::End(End::Reject(*reject)),
            Statement::Verdict(verdict) => step_of(verdict),
        }
    }

    fn source(&self, table: &Table, source: &Source) -> Option<Vec<u8>> {
        match source {
            Source::Constant(bytes) => Some(bytes.clone()),
            Source::Operand(operand) => self.operand(operand),
            Source::Bits { load, mask, xor } => {
                let value = masked(self.load(*load)?, mask);
                Some(value.iter().zip(xor).map(|(value, xor)| value ^ xor).collect())
            }
            Source::Map { key, map } => match lookup(table, map, &self.key(key)?)? {
                Value::Data(data) => Some(data.clone()),
                _ => None,
            },
        }
    }

    fn write(&mut self, target: Target, value: &[u8]) {
        match target {
            Target::Mark => self.packet.mark = host_order(value),
            Target::ConnectionMark => {
                if let Connection::Tracked { flow, .. } = &mut self.connection {
                    flow.mark = host_order(value);
                }
            }
            Target::OriginalZone => {
                self.zone =
                    value.get(..2).and_then(|zone| zone.try_into().ok()).map_or(0, u16::from_ne_bytes);
            }
            Target::Source4 | Target::Source6 => {
                if let Some(address) = address_of(value) {
                    self.packet.source = address;
                }
            }
            Target::Destination4 | Target::Destination6 => {
                if let Some(address) = address_of(value) {
                    self.packet.destination = address;
                }
            }
        }
    }

    fn key(&self, key: &[Operand]) -> Option<Vec<u8>> {
        let mut joined = Vec::new();
        for operand in key {
            joined.extend(self.operand(operand)?);
            joined.resize(joined.len().next_multiple_of(4), 0);
        }
        Some(joined)
    }

    fn operand(&self, operand: &Operand) -> Option<Vec<u8>> {
        let value = self.load(operand.load)?;
        Some(match &operand.mask {
            Some(mask) => masked(value, mask),
            None => value,
        })
    }

    /// The value, or `None` where the kernel's expression ends the rule.
    fn load(&self, load: Load) -> Option<Vec<u8>> {
        let packet = &self.packet;
        let tracked = match &self.connection {
            Connection::Tracked { flow, is_reply, related } => Some((flow, *is_reply, *related)),
            _ => None,
        };
        let number = |value: u32| value.to_ne_bytes().to_vec();
        Some(match load {
            Load::Mark => number(packet.mark),
            Load::InputInterface => number(self.input?.1),
            Load::OutputInterface => number(self.output.as_ref()?.1),
            Load::InputInterfaceName => interface_name(self.input?.0),
            Load::OutputInterfaceName => interface_name(&self.output.as_ref()?.0),
            Load::NetworkProtocol => vec![if packet.source.is_ipv4() { 2 } else { 10 }],
            Load::TransportProtocol => vec![packet.protocol()],
            Load::ConnectionMark => number(tracked?.0.mark),
            Load::ConnectionState => number(match (&self.connection, tracked) {
                (Connection::Untracked, _) => 64,
                (_, Some((_, _, true))) => 4,
                (_, Some((flow, is_reply, _))) if is_reply || flow.replied => 2,
                (_, Some(_)) => 8,
                _ => 1,
            }),
            Load::ConnectionStatus => {
                let (flow, ..) = tracked?;
                number(if flow.replied { 2 } else { 0 } | if flow.confirmed { 8 } else { 0 })
            }
            Load::ConnectionDirection => vec![u8::from(tracked?.1)],
            Load::OriginalSource4 | Load::OriginalSource6 => bytes_of(tracked?.0.original.source),
            Load::OriginalDestination4 => bytes_of(tracked?.0.original.destination),
            Load::EtherSource => packet.ether_source?.0.to_vec(),
            Load::Source4 | Load::Source6 => bytes_of(packet.source),
            Load::Destination4 | Load::Destination6 => bytes_of(packet.destination),
            Load::SourcePort => part(&packet.transport_bytes(), 0, 2)?,
            Load::DestinationPort => part(&packet.transport_bytes(), 2, 2)?,
            Load::TcpFlags => part(&packet.transport_bytes(), 13, 1)?,
            Load::IcmpType => part(&packet.transport_bytes(), 0, 1)?,
            Load::IcmpEchoId => part(&packet.transport_bytes(), 4, 2)?,
            Load::Transport(offset, length) => part(&packet.transport_bytes(), offset, length)?,
            Load::Network(offset, length) => part(&packet.network_bytes(), offset, length)?,
            Load::ArpTarget | Load::ArpOperation => return None,
            Load::DestinationAddressType => number((self.address_type)(packet.destination)),
            Load::SourceAddressType => number((self.address_type)(packet.source)),
        })
    }
}

/// Base chains of a hook that are no NAT, by priority.
pub(super) fn filters(table: &Table, hook: crate::nft::Hook) -> Vec<(i32, &str)> {
    base_chains(table, hook, |kind| kind != ChainKind::Nat)
}

/// NAT chains of a hook, by priority.
pub(super) fn nats(table: &Table, hook: crate::nft::Hook) -> Vec<(i32, &str)> {
    base_chains(table, hook, |kind| kind == ChainKind::Nat)
}

fn base_chains(table: &Table, hook: crate::nft::Hook, kind: impl Fn(ChainKind) -> bool) -> Vec<(i32, &str)> {
    let mut chains: Vec<(i32, &str)> = table
        .chains
        .iter()
        .filter_map(|(name, chain)| {
            let base = chain.hook.as_ref().filter(|base| base.hook == hook && kind(base.kind))?;
            Some((base.priority, name.as_str()))
        })
        .collect();
    chains.sort();
    chains
}

fn lookup<'a>(table: &'a Table, name: &str, key: &[u8]) -> Option<&'a Value> {
    let set: &Set = table.sets.get(name)?;
    if !set.interval {
        return set.elements.get(&Key::Exact(key.to_vec()));
    }
    set.elements.iter().find_map(|(range, value)| match range {
        Key::Range(first, last) if first.as_slice() <= key && key <= last.as_slice() => Some(value),
        _ => None,
    })
}

fn follow(value: Option<&Value>) -> Step {
    match value {
        Some(Value::Verdict(verdict)) => step_of(verdict),
        _ => Step::Break,
    }
}

fn step_of(verdict: &Verdict) -> Step {
    match verdict {
        Verdict::Accept => Step::End(End::Accept),
        Verdict::Drop => Step::End(End::Drop),
        Verdict::Return => Step::Return,
        Verdict::Jump(chain) => Step::Jump(chain.clone()),
        Verdict::Goto(chain) => Step::Goto(chain.clone()),
    }
}

fn address_and_ports(table: &Table, map: &str, data: &[u8]) -> Option<(IpAddr, (u16, u16))> {
    let Some(DataType::Fields(fields)) = &table.sets.get(map)?.data else { return None };
    let length = fields.first().copied().map(FieldType::padded_len)?;
    let (address, ports) = data.split_at_checked(length)?;
    let port = |offset| Some(u16::from_be_bytes(part(ports, offset, 2)?.try_into().ok()?));
    Some((address_of(address)?, (port(0)?, port(4)?)))
}

fn part(bytes: &[u8], offset: u8, length: u8) -> Option<Vec<u8>> {
    let start = usize::from(offset);
    bytes.get(start..start + usize::from(length)).map(<[u8]>::to_vec)
}

fn masked(value: Vec<u8>, mask: &[u8]) -> Vec<u8> {
    value.iter().zip(mask).map(|(value, mask)| value & mask).collect()
}

fn host_order(value: &[u8]) -> u32 {
    value.try_into().map(u32::from_ne_bytes).unwrap_or_default()
}

fn bytes_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
