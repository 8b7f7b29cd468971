//! Commands as messages of a batch.

use std::collections::HashMap;

use datapath::nft::{BaseChain, ChainKind, DataType, FieldType, Hook, Rule, TableFamily, Timeout};
use datapath::transaction::{NftCommand, SetShape, TableId};

use super::element::{self, data_len, fields_len, nat_fields};
use super::expression::put_statement;
use super::uapi::{self, chain, message, object, rule, set, table};
use crate::error::{Error, Result};
use crate::wire::{ACK, APPEND, CREATE, REQUEST, Writer};

/// An attribute ends at 64 KiB; a list of elements is closed well before.
const ELEMENTS_MAX: usize = 48 << 10;
/// The kernel's limit is 255 bytes for all user data of a rule; the nft tool's for a comment is 128.
const COMMENT_MAX: usize = 127;

/// Shapes of sets by table and name: they say how long keys and values are.
pub(super) type Shapes = HashMap<(TableId, String), SetShape>;

/// A batch under construction: messages, and which command each belongs to.
pub(super) struct Batch<'a> {
    pub(super) writer: Writer,
    /// Index of the command of each message, counted from the first sequence number.
    pub(super) owners: Vec<usize>,
    pub(super) first_sequence: u32,
    last_start: usize,
    shapes: &'a Shapes,
    table_flags: &'a dyn Fn(&TableId) -> Option<u32>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        first_sequence: u32,
        shapes: &'a Shapes,
        table_flags: &'a dyn Fn(&TableId) -> Option<u32>,
    ) -> Self {
        Self { writer: Writer::new(), owners: Vec::new(), first_sequence, last_start: 0, shapes, table_flags }
    }

    /// The sequence number of the next message.
    pub(super) fn next_sequence(&self) -> u32 {
        self.first_sequence.wrapping_add(u32::try_from(self.owners.len()).unwrap_or(u32::MAX))
    }

    /// Opens the batch. With a generation, the kernel refuses it if anybody changed the ruleset since.
    pub(super) fn begin(&mut self, generation: Option<u32>) {
        self.writer.message(uapi::BATCH_BEGIN, REQUEST, 0, |w| {
            put_batch_header(w);
            if let Some(generation) = generation {
                w.u32_be(uapi::BATCH_GENERATION, generation);
            }
        });
    }

    /// Closes the batch; without this, the kernel checks it and changes nothing.
    pub(super) fn end(&mut self) {
        self.writer.message(uapi::BATCH_END, REQUEST, 0, put_batch_header);
    }

    /// Makes the last message ask for an acknowledgement; gives its sequence number.
    pub(super) fn acknowledge_last(&mut self) -> u32 {
        self.writer.add_flags(self.last_start, ACK);
        self.next_sequence().wrapping_sub(1)
    }

    /// Writes one command.
    pub(super) fn push(&mut self, index: usize, command: &NftCommand) -> Result<()> {
        let family = command.table().family;
        let name = command.table().name.as_str();
        match command {
            NftCommand::AddTable(id) => {
                let flags = (self.table_flags)(id);
                self.message(index, message::NEW_TABLE, CREATE, family, |w| {
                    w.text(table::NAME, name);
                    if let Some(flags) = flags {
                        w.u32_be(table::FLAGS, flags);
                    }
                });
            }
            NftCommand::DeleteTable(_) => {
                self.message(index, message::DEL_TABLE, 0, family, |w| w.text(table::NAME, name));
            }
            NftCommand::AddCounter { name: counter, .. } => {
                self.message(index, message::NEW_OBJECT, CREATE, family, |w| {
                    put_object(w, name, counter, object::TYPE_COUNTER);
                    w.nest(object::DATA, |_| {});
                });
            }
            NftCommand::DeleteCounter { name: counter, .. } => {
                self.message(index, message::DEL_OBJECT, 0, family, |w| {
                    put_object(w, name, counter, object::TYPE_COUNTER)
                });
            }
            NftCommand::AddTimeout { name: timeout_name, timeout, .. } => {
                self.message(index, message::NEW_OBJECT, CREATE, family, |w| {
                    put_object(w, name, timeout_name, object::TYPE_TIMEOUT);
                    w.nest(object::DATA, |w| put_timeout(w, timeout));
                });
            }
            NftCommand::DeleteTimeout { name: timeout, .. } => {
                self.message(index, message::DEL_OBJECT, 0, family, |w| {
                    put_object(w, name, timeout, object::TYPE_TIMEOUT);
                });
            }
            NftCommand::AddSet { name: set, shape, .. } => {
                let id = self.next_sequence();
                self.message(index, message::NEW_SET, CREATE, family, |w| put_set(w, name, set, shape, id));
            }
            NftCommand::DeleteSet { name: set, .. } => {
                self.message(index, message::DEL_SET, 0, family, |w| {
                    w.text(set::TABLE, name);
                    w.text(set::NAME, set);
                });
            }
            NftCommand::FlushSet { name: set, .. } => {
                self.message(index, message::DEL_ELEMENT, 0, family, |w| put_element_list(w, name, set));
            }
            NftCommand::AddElements { table, set, elements, timeout_ms } => {
                let shape = self.shape(table, set)?;
                let elements = elements.iter();
                self.elements(
                    index,
                    message::NEW_ELEMENT,
                    CREATE,
                    table,
                    set,
                    elements,
                    |w, (key, value)| {
                        element::put_element(w, shape, key, value, *timeout_ms);
                    },
                );
            }
            NftCommand::DeleteElements { table, set, keys } => {
                let shape = self.shape(table, set)?;
                self.elements(index, message::DEL_ELEMENT, 0, table, set, keys.iter(), |w, key| {
                    element::put_key(w, shape, key);
                });
            }
            NftCommand::AddChain { name: chain, hook, .. } => {
                let place = hook.as_ref().map(|base| hook_number(family, base)).transpose()?;
                self.message(index, message::NEW_CHAIN, CREATE, family, |w| {
                    put_chain(w, name, chain);
                    if let (Some(base), Some(place)) = (hook, place) {
                        put_hook(w, base, place);
                    }
                });
            }
            NftCommand::DeleteChain { name: chain, .. } => {
                self.message(index, message::DEL_CHAIN, 0, family, |w| put_chain(w, name, chain));
            }
            NftCommand::FlushChain { name: chain, .. } => {
                self.message(index, message::DEL_RULE, 0, family, |w| {
                    w.text(rule::TABLE, name);
                    w.text(rule::CHAIN, chain);
                });
            }
            NftCommand::InsertRule { chain, rule, .. } => {
                self.message(index, message::NEW_RULE, CREATE, family, |w| {
                    put_rule(w, family, name, chain, rule);
                });
            }
            NftCommand::AddRule { chain, rule, .. } => {
                self.message(index, message::NEW_RULE, CREATE | APPEND, family, |w| {
                    put_rule(w, family, name, chain, rule);
                });
            }
        }
        Ok(())
    }

    fn shape(&self, table: &TableId, set: &str) -> Result<&'a SetShape> {
        self.shapes.get(&(table.clone(), set.to_owned())).ok_or_else(|| Error::Unsupported {
            what: format!("elements of the set {set}"),
            why: "there is no such set, or its types are not ours",
        })
    }

    fn message(
        &mut self,
        index: usize,
        kind: u16,
        flags: u16,
        family: TableFamily,
        body: impl FnOnce(&mut Writer),
    ) {
        let sequence = self.next_sequence();
        self.owners.push(index);
        self.last_start = self.writer.len();
        self.writer.message(kind, REQUEST | flags, sequence, |w| {
            w.raw(&[family_number(family), 0, 0, 0]);
            body(w);
        });
    }

    /// Writes elements in as many messages as they need.
    #[expect(clippy::too_many_arguments, reason = "one call says what the messages have in common")]
    fn elements<T>(
        &mut self,
        index: usize,
        kind: u16,
        flags: u16,
        table: &TableId,
        set: &str,
        elements: impl Iterator<Item = T>,
        put: impl Fn(&mut Writer, T),
    ) {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            self.message(index, kind, flags, table.family, |w| {
                put_element_list(w, &table.name, set);
                w.nest(uapi::element::LIST_ELEMENTS, |w| {
                    let start = w.len();
                    while w.len() - start < ELEMENTS_MAX {
                        let Some(element) = elements.next() else { break };
                        put(w, element);
                    }
                });
            });
        }
    }
}

/// `struct nfgenmsg` of a batch's first and last message.
fn put_batch_header(w: &mut Writer) {
    let [high, low] = uapi::SUBSYSTEM.to_be_bytes();
    w.raw(&[0, 0, high, low]);
}

pub(super) fn family_number(family: TableFamily) -> u8 {
    match family {
        TableFamily::Inet => 1,
        TableFamily::Ip => 2,
        TableFamily::Arp => 3,
        TableFamily::Netdev => 5,
        TableFamily::Ip6 => 10,
    }
}

fn put_object(w: &mut Writer, table: &str, name: &str, kind: u32) {
    w.text(object::TABLE, table);
    w.text(object::NAME, name);
    w.u32_be(object::TYPE, kind);
}

/// The kernel asks only for the transport protocol when it gives a connection these timeouts; the other it wants to be told.
fn put_timeout(w: &mut Writer, timeout: &Timeout) {
    const IPV4: u16 = 2;
    w.u16_be(object::TIMEOUT_NETWORK_PROTOCOL, IPV4);
    w.u8(object::TIMEOUT_PROTOCOL, timeout.protocol);
    w.nest(object::TIMEOUT_SECONDS, |w| {
        for (state, seconds) in &timeout.seconds {
            w.u32_be(*state, *seconds);
        }
    });
}

fn put_element_list(w: &mut Writer, table: &str, set: &str) {
    w.text(uapi::element::LIST_TABLE, table);
    w.text(uapi::element::LIST_SET, set);
}

fn put_chain(w: &mut Writer, table: &str, name: &str) {
    w.text(chain::TABLE, table);
    w.text(chain::NAME, name);
}

fn put_hook(w: &mut Writer, base: &BaseChain, place: u32) {
    w.nest(chain::HOOK, |w| {
        w.u32_be(chain::HOOK_NUMBER, place);
        w.u32_be(chain::HOOK_PRIORITY, base.priority.cast_unsigned());
    });
    w.u32_be(chain::POLICY, chain::POLICY_ACCEPT);
    w.text(chain::TYPE, kind_name(base.kind));
}

pub(super) fn kind_name(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    }
}

fn hook_number(family: TableFamily, base: &BaseChain) -> Result<u32> {
    let hooks = hooks(family);
    hooks.iter().position(|hook| *hook == base.hook).and_then(|place| u32::try_from(place).ok()).ok_or_else(
        || Error::Unsupported {
            what: format!("hook {:?}", base.hook),
            why: "the table's family doesn't have it",
        },
    )
}

/// The hooks of a family in the order of their numbers.
pub(super) fn hooks(family: TableFamily) -> &'static [Hook] {
    match family {
        TableFamily::Inet | TableFamily::Ip | TableFamily::Ip6 => {
            &[Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting]
        }
        TableFamily::Arp => &[Hook::Input, Hook::Output],
        TableFamily::Netdev => &[],
    }
}

fn put_set(w: &mut Writer, table: &str, name: &str, shape: &SetShape, id: u32) {
    let mut flags = 0;
    if shape.interval {
        flags |= set::FLAG_INTERVAL;
    }
    if shape.timeout {
        flags |= set::FLAG_TIMEOUT;
    }
    if shape.data.is_some() {
        flags |= set::FLAG_MAP;
    }
    w.text(set::TABLE, table);
    w.text(set::NAME, name);
    w.u32_be(set::FLAGS, flags);
    w.u32_be(set::KEY_TYPE, fields_type(&shape.key));
    w.u32_be(set::KEY_LEN, u32::try_from(fields_len(&shape.key)).unwrap_or(u32::MAX));
    w.u32_be(set::ID, id);
    match &shape.data {
        None => {}
        Some(DataType::Verdict) => w.u32_be(set::DATA_TYPE, set::DATA_VERDICT),
        Some(data @ DataType::Fields(fields)) => {
            w.u32_be(set::DATA_TYPE, fields_type(nat_fields(data).unwrap_or(fields)));
            w.u32_be(set::DATA_LEN, u32::try_from(data_len(data)).unwrap_or(u32::MAX));
        }
    }
    w.bytes(set::USERDATA, &set_userdata(shape));
    if shape.counting {
        // Each element gets a counter of its own, which begins at nothing.
        w.nest(set::EXPRESSION, |w| {
            w.text(uapi::element::EXPRESSION_NAME, "counter");
            w.nest(uapi::element::EXPRESSION_DATA, |_| {});
        });
    }
}

/// What the nft tool wants to know to print elements as they are meant: the order of bytes of key and data, and whether
/// the data is an interval. Types and lengths of one byte, then the value in the host's order.
fn set_userdata(shape: &SetShape) -> Vec<u8> {
    const KEY_BYTE_ORDER: u8 = 0;
    const DATA_BYTE_ORDER: u8 = 1;
    const DATA_INTERVAL: u8 = 6;
    let mut bytes = Vec::new();
    let mut put = |kind: u8, value: u32| {
        bytes.extend([kind, 4]);
        bytes.extend(value.to_ne_bytes());
    };
    put(KEY_BYTE_ORDER, byte_order(&shape.key));
    if let Some(data @ DataType::Fields(fields)) = &shape.data {
        put(DATA_BYTE_ORDER, byte_order(fields));
        if nat_fields(data).is_some() {
            put(DATA_INTERVAL, 1);
        }
    }
    bytes
}

/// 1 for the host's order of bytes, 2 for the network's, 0 for several fields, each of which has its own.
fn byte_order(fields: &[FieldType]) -> u32 {
    match fields {
        [FieldType::Mark | FieldType::InterfaceIndex | FieldType::Zone] => 1,
        [_] => 2,
        _ => 0,
    }
}

/// The nft tool's number of a field type. The kernel only keeps it.
pub(super) fn field_type_number(field: FieldType) -> u32 {
    match field {
        FieldType::Zone => 4,
        FieldType::Ipv4 => 7,
        FieldType::Ipv6 => 8,
        FieldType::Mac => 9,
        FieldType::Protocol => 12,
        FieldType::Port => 13,
        FieldType::Mark => 19,
        FieldType::InterfaceIndex => 20,
    }
}

/// The nft tool's number of a concatenation: six bits for each field.
pub(super) fn fields_type(fields: &[FieldType]) -> u32 {
    fields.iter().fold(0, |number, field| number << 6 | field_type_number(*field))
}

fn put_rule(w: &mut Writer, family: TableFamily, table: &str, chain: &str, rule: &Rule) {
    w.text(rule::TABLE, table);
    w.text(rule::CHAIN, chain);
    w.nest(rule::EXPRESSIONS, |w| {
        for statement in &rule.statements {
            put_statement(w, family, statement);
        }
    });
    w.bytes(rule::USERDATA, &userdata(rule));
}

/// Type, length and value of each: the comment as the nft tool writes it, and our hash.
fn userdata(rule: &Rule) -> Vec<u8> {
    let hash = rule.content_hash().to_be_bytes();
    let mut bytes = vec![rule::USERDATA_HASH, 8];
    bytes.extend(hash);
    if !rule.comment.is_empty() {
        let text: Vec<u8> = rule.comment.bytes().take(COMMENT_MAX).chain([0]).collect();
        bytes.extend([rule::USERDATA_COMMENT, u8::try_from(text.len()).unwrap_or(u8::MAX)]);
        bytes.extend(text);
    }
    bytes
}
