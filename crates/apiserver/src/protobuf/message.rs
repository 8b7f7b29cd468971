//! From messages to JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::DecodeError;
use super::table::{Count, Field, Message, Special, Table, Type};
use super::wire::{Fields, Wire, packed, text};
use crate::limits::NESTING_MAX;

/// Decodes messages of a table, down to a depth.
#[derive(Clone, Copy)]
pub(super) struct Decoder<'t> {
    table: &'t Table,
    levels_left: usize,
}

impl<'t> Decoder<'t> {
    pub(super) fn new(table: &'t Table) -> Self {
        Self { table, levels_left: NESTING_MAX }
    }

    /// Puts the fields of a message into a map. Unknown ones are passed over, as newer clients may send them.
    pub(super) fn fields(
        self,
        message: &Message,
        bytes: &[u8],
        into: &mut Map<String, Value>,
    ) -> Result<(), DecodeError> {
        for field in Fields::of(bytes) {
            let (number, wire) = field?;
            if let Some(field) = message.get(&number) {
                self.field(field, wire, into)?;
            }
        }
        Ok(())
    }

    fn field(self, field: &Field, wire: Wire<'_>, into: &mut Map<String, Value>) -> Result<(), DecodeError> {
        match field.count {
            Count::Inline => {
                let Type::Message(name) = field.value else { return Ok(()) };
                self.message(name, wire, into)
            }
            Count::List => {
                let items = self.items(field, wire)?;
                let list = into.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Some(list) = list.as_array_mut() {
                    list.extend(items);
                }
                Ok(())
            }
            Count::Map => {
                let (key, value) = self.map_entry(field, wire)?;
                let map = into.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, value);
                }
                Ok(())
            }
            Count::One => {
                let Some(value) = self.value(&field.value, wire)? else { return Ok(()) };
                if field.keeps_zero || !is_zero(&value) {
                    into.insert(field.name.to_owned(), value);
                } else {
                    into.remove(field.name);
                }
                Ok(())
            }
        }
    }

    fn items(self, field: &Field, wire: Wire<'_>) -> Result<Vec<Value>, DecodeError> {
        if let (Type::Int, Wire::Bytes(bytes)) = (&field.value, wire) {
            return Ok(packed(bytes)?.into_iter().map(int).collect());
        }
        Ok(self.value(&field.value, wire)?.into_iter().collect())
    }

    /// A map's entry is a message of its key and its value; either may be left out.
    fn map_entry(self, field: &Field, wire: Wire<'_>) -> Result<(String, Value), DecodeError> {
        let Wire::Bytes(bytes) = wire else { return Err(mismatch(field.name)) };
        let (mut key, mut value) = (String::new(), None);
        for entry in Fields::of(bytes) {
            match entry? {
                (1, Wire::Bytes(bytes)) => key = text(bytes)?.to_owned(),
                (2, wire) => value = self.value(&field.value, wire)?,
                _ => {}
            }
        }
        let value = match value {
            Some(value) => value,
            None => self.value(&field.value, Wire::Bytes(&[])).ok().flatten().unwrap_or(Value::Null),
        };
        Ok((key, value))
    }

    fn message(self, name: &str, wire: Wire<'_>, into: &mut Map<String, Value>) -> Result<(), DecodeError> {
        let Wire::Bytes(bytes) = wire else { return Err(mismatch(name)) };
        let message = self.table.message(name).ok_or_else(|| mismatch(name))?;
        let levels_left = self.levels_left.checked_sub(1);
        let levels_left = levels_left.ok_or_else(|| DecodeError::Value("nested too deeply".to_owned()))?;
        Self { levels_left, ..self }.fields(message, bytes, into)
    }

    /// One value; `None` if it stands for nothing.
    fn value(self, value_type: &Type, wire: Wire<'_>) -> Result<Option<Value>, DecodeError> {
        Ok(Some(match (value_type, wire) {
            (Type::String, Wire::Bytes(bytes)) => Value::from(text(bytes)?),
            (Type::Bytes, Wire::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
            (Type::Int, Wire::Varint(number)) => int(number),
            (Type::Bool, Wire::Varint(number)) => Value::from(number != 0),
            (Type::Float, Wire::Fixed64(bits)) => {
                Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)
            }
            (Type::Message(name), wire) => {
                let mut map = Map::new();
                self.message(name, wire, &mut map)?;
                Value::Object(map)
            }
            (Type::Special(special), Wire::Bytes(bytes)) => return special_value(*special, bytes),
            _ => {
                return Err(DecodeError::Value("a protobuf field has another type than expected".to_owned()));
            }
        }))
    }
}

fn mismatch(name: &str) -> DecodeError {
    DecodeError::Value(format!("protobuf field {name:?} has another type than expected"))
}

fn int(bits: u64) -> Value {
    Value::from(bits.cast_signed())
}

/// Whether a value is the one that a field has without being set.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn special_value(special: Special, bytes: &[u8]) -> Result<Option<Value>, DecodeError> {
    match special {
        Special::Quantity => {
            let quantity = last_bytes(bytes, 1)?.unwrap_or_default();
            Ok(Some(Value::from(text(quantity)?)))
        }
        Special::IntOrString => {
            let number = last_varint(bytes, 2)?.unwrap_or(0);
            let is_text = last_varint(bytes, 1)?.unwrap_or(0) == 1;
            let string = last_bytes(bytes, 3)?.unwrap_or_default();
            Ok(Some(if is_text { Value::from(text(string)?) } else { int(number) }))
        }
        Special::Time => time(bytes, "%Y-%m-%dT%H:%M:%SZ"),
        Special::MicroTime => time(bytes, "%Y-%m-%dT%H:%M:%S.%6fZ"),
        Special::Json => {
            let raw = last_bytes(bytes, 1)?.unwrap_or_default();
            if raw.is_empty() {
                return Ok(None);
            }
            let value = serde_json::from_slice(raw);
            value.map(Some).map_err(|error| DecodeError::Value(format!("raw JSON in protobuf: {error}")))
        }
        Special::Duration => {
            let nanoseconds = last_varint(bytes, 1)?.unwrap_or(0).cast_signed();
            Ok(Some(Value::from(duration_text(nanoseconds))))
        }
        Special::Items => {
            let mut items = Vec::new();
            for field in Fields::of(bytes) {
                if let (1, Wire::Bytes(bytes)) = field? {
                    items.push(Value::from(text(bytes)?));
                }
            }
            Ok(Some(Value::Array(items)))
        }
    }
}

fn last_bytes(message: &[u8], wanted: u32) -> Result<Option<&[u8]>, DecodeError> {
    let mut last = None;
    for field in Fields::of(message) {
        match field? {
            (number, Wire::Bytes(bytes)) if number == wanted => last = Some(bytes),
            _ => {}
        }
    }
    Ok(last)
}

fn last_varint(message: &[u8], wanted: u32) -> Result<Option<u64>, DecodeError> {
    let mut last = None;
    for field in Fields::of(message) {
        match field? {
            (number, Wire::Varint(value)) if number == wanted => last = Some(value),
            _ => {}
        }
    }
    Ok(last)
}

/// A point in time; an empty message is none.
fn time(bytes: &[u8], format: &str) -> Result<Option<Value>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let seconds = last_varint(bytes, 1)?.unwrap_or(0).cast_signed();
    let nanoseconds = i32::try_from(last_varint(bytes, 2)?.unwrap_or(0).cast_signed()).unwrap_or(0);
    let time = jiff::Timestamp::new(seconds, nanoseconds.clamp(0, 999_999_999));
    let time = time.map_err(|_| DecodeError::Value("a time in protobuf is out of range".to_owned()))?;
    Ok(Some(Value::from(time.strftime(format).to_string())))
}

/// A duration as Go prints it, such as `1m30s` or `1.5s`.
fn duration_text(nanoseconds: i64) -> String {
    const SECOND: u64 = 1_000_000_000;
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let (seconds, fraction) = (total / SECOND, total % SECOND);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = sign.to_owned();
    if hours > 0 {
        text.push_str(&format!("{hours}h"));
    }
    if hours > 0 || minutes > 0 {
        text.push_str(&format!("{minutes}m"));
    }
    let fraction = format!("{fraction:09}");
    match fraction.trim_end_matches('0') {
        "" => text.push_str(&format!("{seconds}s")),
        fraction => text.push_str(&format!("{seconds}.{fraction}s")),
    }
    text
}
