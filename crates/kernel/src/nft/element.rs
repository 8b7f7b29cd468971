//! Elements of sets and maps, there and back.
//!
//! An interval set is a list of borders: one element where an interval begins, and one, flagged, at the first key behind
//! it, unless there is none. Keys of one field are as long as the field; those of several are padded field by field.

use std::collections::BTreeMap;

use datapath::nft::{DataType, FieldType, Key, Value, Verdict};
use datapath::transaction::SetShape;

use super::uapi::{data, element};
use crate::wire::{Attribute, Writer};

/// Length of a value of these fields in the kernel.
pub(super) fn fields_len(fields: &[FieldType]) -> usize {
    match fields {
        [field] => field.len(),
        fields => fields.iter().map(|field| field.padded_len()).sum(),
    }
}

/// Address and port type of a map for source NAT. The kernel's rule takes four registers: address, first port, address,
/// last port; and the nft tool knows a map of that form as an interval of address and port.
pub(super) fn nat_fields(data: &DataType) -> Option<&[FieldType]> {
    match data {
        DataType::Fields(fields) => match fields.as_slice() {
            [FieldType::Ipv4 | FieldType::Ipv6, FieldType::Port, FieldType::Port] => fields.get(..2),
            _ => None,
        },
        DataType::Verdict => None,
    }
}

/// Length of a map's data in the kernel.
pub(super) fn data_len(data: &DataType) -> usize {
    match (nat_fields(data), data) {
        (Some(fields), _) => 2 * fields_len(fields),
        (None, DataType::Fields(fields)) => fields_len(fields),
        (None, DataType::Verdict) => 0,
    }
}

fn to_kernel(shape: &SetShape, bytes: &[u8]) -> Vec<u8> {
    let Some(data) = &shape.data else { return bytes.to_vec() };
    match (nat_fields(data), bytes.split_last_chunk::<8>()) {
        (Some(_), Some((address, [a, b, c, d, last @ ..]))) => {
            [address, &[*a, *b, *c, *d], address, last].concat()
        }
        _ => cut(bytes, data_len(data)).to_vec(),
    }
}

fn from_kernel(shape: &SetShape, bytes: &[u8]) -> Vec<u8> {
    let nat = shape.data.as_ref().and_then(nat_fields).is_some() && bytes.len().is_multiple_of(2);
    match (nat, bytes.split_at(bytes.len() / 2), bytes.split_last_chunk::<4>()) {
        (true, (first, _), Some((_, last))) => [first, last].concat(),
        _ => pad(bytes.to_vec()),
    }
}

/// Writes one element with its value.
pub(super) fn put_element(
    w: &mut Writer,
    shape: &SetShape,
    key: &Key,
    value: &Value,
    timeout_ms: Option<u64>,
) {
    put_start(w, shape, key, |w| {
        match value {
            Value::None => {}
            Value::Data(bytes) => {
                w.nest(element::DATA, |w| w.bytes(data::VALUE, &to_kernel(shape, bytes)));
            }
            Value::Verdict(verdict) => w.nest(element::DATA, |w| put_verdict(w, verdict)),
        }
        if let Some(timeout) = timeout_ms {
            w.u64_be(element::TIMEOUT, timeout);
        }
    });
    put_end(w, shape, key);
}

/// Writes one element's key only.
pub(super) fn put_key(w: &mut Writer, shape: &SetShape, key: &Key) {
    put_start(w, shape, key, |_| {});
    put_end(w, shape, key);
}

pub(super) fn put_verdict(w: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (data::ACCEPT, None),
        Verdict::Drop => (data::DROP, None),
        Verdict::Return => (data::RETURN, None),
        Verdict::Jump(chain) => (data::JUMP, Some(chain)),
        Verdict::Goto(chain) => (data::GOTO, Some(chain)),
    };
    w.nest(data::VERDICT, |w| {
        w.u32_be(data::VERDICT_CODE, code.cast_unsigned());
        if let Some(chain) = chain {
            w.text(data::VERDICT_CHAIN, chain);
        }
    });
}

fn put_start(w: &mut Writer, shape: &SetShape, key: &Key, rest: impl FnOnce(&mut Writer)) {
    let (Key::Exact(first) | Key::Range(first, _)) = key;
    w.nest(element::LIST_ELEMENT, |w| {
        put_key_bytes(w, cut(first, fields_len(&shape.key)));
        rest(w);
    });
}

fn put_end(w: &mut Writer, shape: &SetShape, key: &Key) {
    let last = match key {
        Key::Range(_, last) => last,
        Key::Exact(value) if shape.interval => value,
        Key::Exact(_) => return,
    };
    if let Some(border) = successor(cut(last, fields_len(&shape.key))) {
        w.nest(element::LIST_ELEMENT, |w| {
            put_key_bytes(w, &border);
            w.u32_be(element::FLAGS, element::FLAG_INTERVAL_END);
        });
    }
}

fn put_key_bytes(w: &mut Writer, key: &[u8]) {
    w.nest(element::KEY, |w| w.bytes(data::VALUE, key));
}

fn cut(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(..len).unwrap_or(bytes)
}

fn pad(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The next key; `None` behind the last one.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

/// The key before; `None` before the first one.
fn predecessor(key: &[u8]) -> Option<Vec<u8>> {
    let mut previous = key.to_vec();
    for byte in previous.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            return Some(previous);
        }
    }
    None
}

/// An element as the kernel lists it.
#[derive(Debug)]
pub(super) struct Listed {
    key: Vec<u8>,
    end: bool,
    value: Value,
}

/// Reads one element; `None` if it has no form of ours.
pub(super) fn parse_element(shape: &SetShape, attribute: Attribute<'_>) -> Option<Listed> {
    let mut key = None;
    let mut end = false;
    let mut value = Value::None;
    for field in attribute.nested() {
        match field.kind {
            element::KEY => {
                key = field.nested().find(|a| a.kind == data::VALUE).map(|a| a.payload.to_vec());
            }
            element::FLAGS => end = field.u32_be()? & element::FLAG_INTERVAL_END != 0,
            element::DATA => value = parse_value(shape, field)?,
            _ => {}
        }
    }
    Some(Listed { key: key?, end, value })
}

fn parse_value(shape: &SetShape, attribute: Attribute<'_>) -> Option<Value> {
    let value = attribute.nested().next()?;
    if value.kind == data::VALUE {
        return Some(Value::Data(from_kernel(shape, value.payload)));
    }
    let code = value.nested().find(|a| a.kind == data::VERDICT_CODE)?.u32_be()?.cast_signed();
    let chain = || value.nested().find(|a| a.kind == data::VERDICT_CHAIN).and_then(Attribute::text);
    Some(Value::Verdict(match code {
        data::ACCEPT => Verdict::Accept,
        data::DROP => Verdict::Drop,
        data::RETURN => Verdict::Return,
        data::JUMP => Verdict::Jump(chain()?),
        data::GOTO => Verdict::Goto(chain()?),
        _ => return None,
    }))
}

/// Puts listed elements together to those of a set.
pub(super) fn collect(interval: bool, mut listed: Vec<Listed>) -> BTreeMap<Key, Value> {
    if !interval {
        return listed.into_iter().map(|item| (Key::Exact(pad(item.key)), item.value)).collect();
    }
    // Where one interval ends another may begin: the end comes first.
    listed.sort_by(|a, b| a.key.cmp(&b.key).then(b.end.cmp(&a.end)));
    let mut elements = BTreeMap::new();
    let mut open: Option<Listed> = None;
    for item in listed {
        if let (Some(start), Some(last)) = (open.take(), predecessor(&item.key)) {
            elements.insert(Key::Range(pad(start.key), pad(last)), start.value);
        }
        if !item.end {
            open = Some(item);
        }
    }
    if let Some(start) = open {
        let last = vec![0xff; start.key.len()];
        elements.insert(Key::Range(pad(start.key), pad(last)), start.value);
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;
    use proptest::prelude::*;

    fn shape(interval: bool) -> SetShape {
        SetShape { key: vec![FieldType::Ipv4], data: None, interval, timeout: false, counting: false }
    }

    fn round_trip(shape: &SetShape, elements: &BTreeMap<Key, Value>) -> BTreeMap<Key, Value> {
        let mut writer = Writer::new();
        for (key, value) in elements {
            put_element(&mut writer, shape, key, value, None);
        }
        let bytes = writer.finish().unwrap();
        collect(shape.interval, wire::attributes(&bytes).filter_map(|a| parse_element(shape, a)).collect())
    }

    #[test]
    fn adjacent_intervals_and_the_end_of_the_space_survive() {
        let range = |a: u32, b: u32| Key::Range(a.to_be_bytes().to_vec(), b.to_be_bytes().to_vec());
        let data = |n: u8| Value::Data(vec![n, 0, 0, 0]);
        let shape = SetShape { data: Some(DataType::Fields(vec![FieldType::Mark])), ..shape(true) };
        let elements = BTreeMap::from([
            (range(0, 9), data(1)),
            (range(10, 10), data(2)),
            (range(11, 4_000), data(3)),
            (range(0xffff_ff00, u32::MAX), data(4)),
        ]);
        assert_eq!(round_trip(&shape, &elements), elements);
    }

    #[test]
    fn a_single_field_is_not_padded_in_the_kernel() {
        assert_eq!(fields_len(&[FieldType::Mac]), 6);
        assert_eq!(fields_len(&[FieldType::Mac, FieldType::Port]), 12);
        let shape = SetShape { key: vec![FieldType::Port], ..shape(false) };
        let elements = BTreeMap::from([(Key::Exact(vec![0, 80, 0, 0]), Value::None)]);
        assert_eq!(round_trip(&shape, &elements), elements);
    }

    #[test]
    fn data_for_source_nat_is_doubled_in_the_kernel_only() {
        for (address, len) in [(FieldType::Ipv4, 16), (FieldType::Ipv6, 40)] {
            let data = DataType::Fields(vec![address, FieldType::Port, FieldType::Port]);
            assert_eq!(data_len(&data), len);
            let shape = SetShape { data: Some(data), ..shape(false) };
            let value: Vec<u8> =
                (0..address.len()).map(|n| n as u8).chain([4, 0, 0, 0, 5, 0, 0, 0]).collect();
            let elements = BTreeMap::from([(Key::Exact(vec![1, 2, 3, 4]), Value::Data(value))]);
            assert_eq!(round_trip(&shape, &elements), elements);
        }
    }

    proptest! {
        #[test]
        fn any_disjoint_intervals_survive(borders in proptest::collection::btree_set(any::<u32>(), 0..40)) {
            let borders: Vec<u32> = borders.into_iter().collect();
            let elements = borders
                .chunks_exact(2)
                .map(|ends| (Key::Range(ends[0].to_be_bytes().to_vec(), ends[1].to_be_bytes().to_vec()), Value::None))
                .collect();
            prop_assert_eq!(round_trip(&shape(true), &elements), elements);
        }
    }

    mod fuzz {
        use super::*;

        /// Elements as they are written.
        fn corpus() -> Vec<Vec<u8>> {
            let written = [false, true].map(|interval| {
                let shape =
                    SetShape { data: Some(DataType::Fields(vec![FieldType::Mark])), ..shape(interval) };
                let mut writer = Writer::new();
                for n in 0..4u8 {
                    let key = Key::Exact(vec![10, 0, 0, n]);
                    put_element(&mut writer, &shape, &key, &Value::Data(vec![n, 0, 0, 0]), None);
                }
                writer.finish().unwrap()
            });
            written.into()
        }

        proptest! {
            #![proptest_config(fuzzing::config())]
            #[test]
            fn any_elements_are_read_without_panic(bytes in fuzzing::mutated(corpus()), interval: bool) {
                let data = if interval { vec![FieldType::Ipv4, FieldType::Port, FieldType::Port] } else { vec![FieldType::Mark] };
                let shape = SetShape { data: Some(DataType::Fields(data)), ..shape(interval) };
                let _ = collect(interval, wire::attributes(&bytes).filter_map(|a| parse_element(&shape, a)).collect());
            }
        }
    }
}
