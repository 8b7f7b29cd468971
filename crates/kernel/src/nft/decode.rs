//! The kernel's lists of nf_tables objects, read back. Rules are known by the content hash in their user data.

use datapath::nft::{BaseChain, ChainKind, DataType, FieldType, TableFamily};
use datapath::transaction::{CounterValue, SetShape, TableId};

use super::element::{Listed, data_len, parse_element};
use super::encode::{family_number, field_type_number, hooks, kind_name};
use super::uapi::{self, HEADER, chain, element, generation, object, rule, set, table};
use crate::wire::{self, Attribute, Message};

const FAMILIES: [TableFamily; 5] =
    [TableFamily::Inet, TableFamily::Ip, TableFamily::Ip6, TableFamily::Arp, TableFamily::Netdev];
const FIELD_TYPES: [FieldType; 8] = [
    FieldType::Ipv4,
    FieldType::Ipv6,
    FieldType::Port,
    FieldType::Mac,
    FieldType::Mark,
    FieldType::InterfaceIndex,
    FieldType::Protocol,
    FieldType::Zone,
];
const CHAIN_KINDS: [ChainKind; 3] = [ChainKind::Filter, ChainKind::Nat, ChainKind::Route];

/// A table in the kernel's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedTable {
    pub(super) id: TableId,
    pub(super) flags: u32,
}

/// A set in the kernel's list.
#[derive(Debug)]
pub(super) struct ListedSet {
    pub(super) name: String,
    /// `None` if its types are none of ours
    pub(super) shape: Option<SetShape>,
}

/// A chain in the kernel's list.
#[derive(Debug)]
pub(super) struct ListedChain {
    /// `None` where it is none that we know
    pub(super) family: Option<TableFamily>,
    pub(super) table: String,
    pub(super) name: String,
    pub(super) hook: Option<BaseChain>,
    pub(super) policy_is_drop: bool,
}

/// A rule in the kernel's list.
#[derive(Debug)]
pub(super) struct ListedRule {
    pub(super) chain: String,
    pub(super) hash: u64,
}

fn attributes<'a>(message: &Message<'a>) -> impl Iterator<Item = Attribute<'a>> {
    wire::attributes_behind(message.payload, HEADER)
}

fn family(message: &Message<'_>) -> Option<TableFamily> {
    let number = wire::u8_at(message.payload, 0)?;
    FAMILIES.into_iter().find(|family| family_number(*family) == number)
}

pub(super) fn parse_table(message: &Message<'_>) -> Option<ListedTable> {
    let (mut name, mut flags) = (None, 0);
    for attribute in attributes(message) {
        match attribute.kind {
            table::NAME => name = attribute.text(),
            table::FLAGS => flags = attribute.u32_be()?,
            _ => {}
        }
    }
    Some(ListedTable { id: TableId { family: family(message)?, name: name? }, flags })
}

/// The table that a message is about, whatever else it is about: the name always comes first.
pub(crate) fn table_of(message: &Message<'_>) -> Option<TableId> {
    (message.kind >> 8 == uapi::SUBSYSTEM).then_some(())?;
    let name = attributes(message).find(|attribute| attribute.kind == table::NAME)?.text()?;
    Some(TableId { family: family(message)?, name })
}

pub(super) fn parse_set(message: &Message<'_>) -> Option<ListedSet> {
    let (mut name, mut flags, mut key_type, mut data_type, mut len) = (None, 0, 0, 0, 0);
    let mut counting = false;
    for attribute in attributes(message) {
        match attribute.kind {
            set::NAME => name = attribute.text(),
            set::FLAGS => flags = attribute.u32_be()?,
            set::KEY_TYPE => key_type = attribute.u32_be()?,
            set::DATA_TYPE => data_type = attribute.u32_be()?,
            set::DATA_LEN => len = attribute.u32_be()?,
            set::EXPRESSION => counting = is_counter(attribute),
            _ => {}
        }
    }
    let data = if flags & set::FLAG_MAP == 0 {
        Some(None)
    } else if data_type == set::DATA_VERDICT {
        Some(Some(DataType::Verdict))
    } else {
        fields(data_type).map(|fields| Some(data_of(fields, len)))
    };
    let shape = match (fields(key_type), data) {
        (Some(key), Some(data)) => Some(SetShape {
            key,
            data,
            interval: flags & set::FLAG_INTERVAL != 0,
            timeout: flags & set::FLAG_TIMEOUT != 0,
            counting,
        }),
        _ => None,
    };
    Some(ListedSet { name: name?, shape })
}

/// Whether an expression at a set or an element is a counter.
fn is_counter(expression: Attribute<'_>) -> bool {
    let name = expression.nested().find(|field| field.kind == element::EXPRESSION_NAME);
    name.and_then(Attribute::text).as_deref() == Some("counter")
}

/// Keys and counts of the elements in one message of a list, of a set that counts.
pub(super) fn parse_element_counters(message: &Message<'_>) -> Vec<(Vec<u8>, CounterValue)> {
    let lists = attributes(message).filter(|attribute| attribute.kind == element::LIST_ELEMENTS);
    lists.flat_map(Attribute::nested).filter_map(element_counter).collect()
}

fn element_counter(item: Attribute<'_>) -> Option<(Vec<u8>, CounterValue)> {
    let part = |kind: u16| item.nested().find(|field| field.kind == kind);
    let key = part(element::KEY)?.nested().find(|field| field.kind == uapi::data::VALUE)?.payload.to_vec();
    let expression = part(element::EXPRESSION).filter(|expression| is_counter(*expression))?;
    let data = expression.nested().find(|field| field.kind == element::EXPRESSION_DATA)?;
    let mut value = CounterValue::default();
    for field in data.nested() {
        match field.kind {
            object::COUNTER_BYTES => value.bytes = field.u64_be()?,
            object::COUNTER_PACKETS => value.packets = field.u64_be()?,
            _ => {}
        }
    }
    Some((key, value))
}

/// What data of these types and this length is: twice as long, it is an interval of address and port.
fn data_of(fields: Vec<FieldType>, len: u32) -> DataType {
    if let [address, FieldType::Port] = *fields.as_slice() {
        let interval = DataType::Fields(vec![address, FieldType::Port, FieldType::Port]);
        if u32::try_from(data_len(&interval)) == Ok(len) {
            return interval;
        }
    }
    DataType::Fields(fields)
}

/// The fields of a concatenation's number: six bits each, the first one highest.
fn fields(mut number: u32) -> Option<Vec<FieldType>> {
    let mut fields = Vec::new();
    while number != 0 {
        fields.push(FIELD_TYPES.into_iter().find(|field| field_type_number(*field) == number & 0x3f)?);
        number >>= 6;
    }
    fields.reverse();
    (!fields.is_empty()).then_some(fields)
}

pub(super) fn parse_chain(message: &Message<'_>) -> Option<ListedChain> {
    let (mut table, mut name, mut place, mut priority, mut kind) = (None, None, None, None, None);
    let mut policy = None;
    for attribute in attributes(message) {
        match attribute.kind {
            chain::TABLE => table = attribute.text(),
            chain::NAME => name = attribute.text(),
            chain::TYPE => kind = attribute.text(),
            chain::POLICY => policy = attribute.u32_be(),
            chain::HOOK => {
                for field in attribute.nested() {
                    match field.kind {
                        chain::HOOK_NUMBER => place = field.u32_be(),
                        chain::HOOK_PRIORITY => priority = field.u32_be().map(u32::cast_signed),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let hook = || {
        let kind = kind?;
        Some(BaseChain {
            kind: CHAIN_KINDS.into_iter().find(|known| kind_name(*known) == kind)?,
            hook: *hooks(family(message)?).get(usize::try_from(place?).ok()?)?,
            priority: priority?,
        })
    };
    Some(ListedChain {
        family: family(message),
        table: table?,
        name: name?,
        hook: hook(),
        policy_is_drop: policy == Some(chain::POLICY_DROP),
    })
}

pub(super) fn parse_rule(message: &Message<'_>) -> Option<ListedRule> {
    let (mut chain, mut hash) = (None, 0);
    for attribute in attributes(message) {
        match attribute.kind {
            rule::CHAIN => chain = attribute.text(),
            rule::USERDATA => hash = find_hash(attribute.payload).unwrap_or_default(),
            _ => {}
        }
    }
    Some(ListedRule { chain: chain?, hash })
}

fn find_hash(mut userdata: &[u8]) -> Option<u64> {
    while let [kind, len, rest @ ..] = userdata {
        let (value, behind) = rest.split_at_checked(usize::from(*len))?;
        if *kind == rule::USERDATA_HASH {
            return value.try_into().ok().map(u64::from_be_bytes);
        }
        userdata = behind;
    }
    None
}

/// The name of an object of this type.
pub(super) fn parse_object_name(message: &Message<'_>, wanted: u32) -> Option<String> {
    let (mut name, mut kind) = (None, 0);
    for attribute in attributes(message) {
        match attribute.kind {
            object::NAME => name = attribute.text(),
            object::TYPE => kind = attribute.u32_be()?,
            _ => {}
        }
    }
    name.filter(|_| kind == wanted)
}

pub(super) fn parse_counter(message: &Message<'_>) -> Option<(String, CounterValue)> {
    let (mut name, mut kind, mut value) = (None, 0, CounterValue::default());
    for attribute in attributes(message) {
        match attribute.kind {
            object::NAME => name = attribute.text(),
            object::TYPE => kind = attribute.u32_be()?,
            object::DATA => {
                for field in attribute.nested() {
                    match field.kind {
                        object::COUNTER_BYTES => value.bytes = field.u64_be()?,
                        object::COUNTER_PACKETS => value.packets = field.u64_be()?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    (kind == object::TYPE_COUNTER).then_some((name?, value))
}

/// Who made a generation of the ruleset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Number of the generation; every commit raises it by one
    pub id: u32,
    /// Process that committed it
    pub process_id: u32,
    /// Name of that process, as `ps` shows it
    pub process_name: String,
}

pub(crate) fn parse_generation(message: &Message<'_>) -> Option<Generation> {
    if message.kind != uapi::message::NEW_GENERATION {
        return None;
    }
    let mut found = Generation::default();
    for attribute in attributes(message) {
        match attribute.kind {
            generation::ID => found.id = attribute.u32_be()?,
            generation::PROCESS_ID => found.process_id = attribute.u32_be()?,
            generation::PROCESS_NAME => found.process_name = attribute.text()?,
            _ => {}
        }
    }
    Some(found)
}

/// The elements in one message of a list.
pub(super) fn parse_elements(shape: &SetShape, message: &Message<'_>) -> Vec<Listed> {
    attributes(message)
        .filter(|attribute| attribute.kind == uapi::element::LIST_ELEMENTS)
        .flat_map(Attribute::nested)
        .filter_map(|attribute| parse_element(shape, attribute))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenations_are_read_as_they_are_written() {
        let key = vec![FieldType::Mac, FieldType::Ipv6, FieldType::Port];
        assert_eq!(fields(super::super::encode::fields_type(&key)), Some(key));
        assert_eq!(fields(0), None);
        assert_eq!(fields(0x3f), None);
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;
    use crate::wire::fuzz::any_datagram;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(fuzzing::config())]
        #[test]
        fn any_object_is_read_without_panic(datagram in any_datagram(), interval: bool) {
            for message in wire::messages(&datagram) {
                let _ = (parse_table(&message), parse_set(&message), parse_chain(&message), parse_rule(&message));
                let _ = (parse_object_name(&message, 7), parse_counter(&message), parse_generation(&message));
                let shape = SetShape { key: vec![FieldType::Mac], data: None, interval, timeout: false, counting: false };
                let _ = (parse_elements(&shape, &message), parse_element_counters(&message));
                let _ = find_hash(message.payload);
            }
        }
    }
}
