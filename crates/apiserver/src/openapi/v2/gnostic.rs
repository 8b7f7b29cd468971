//! The protobuf form of a v2 document, as gnostic defines it; old kubectl reads no other.
//!
//! Field numbers are those of `openapi.v2.Document` and the messages in it.

use serde_json::Value;

use super::{METHODS, entries};

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] & 0x7f | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// A text, unless there is none.
    fn text(&mut self, field: u64, text: Option<&Value>) {
        if let Some(text) = text.and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, list: Option<&Value>) {
        for text in list.and_then(Value::as_array).into_iter().flatten() {
            self.text(field, Some(text));
        }
    }

    fn flag(&mut self, field: u64, flag: Option<&Value>) {
        if flag == Some(&Value::Bool(true)) {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    /// A list of names with a message each.
    fn named(&mut self, field: u64, name: &str, value: &Self) {
        let mut pair = Self::default();
        pair.bytes(1, name.as_bytes());
        pair.message(2, value);
        self.message(field, &pair);
    }

    /// `x-..` keys with their values as YAML, which JSON is.
    fn extensions(&mut self, field: u64, map: &Value) {
        for (key, value) in entries(Some(map)).filter(|(key, _)| key.starts_with("x-")) {
            self.named(field, key, &any(value));
        }
    }
}

fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, format!("{value}\n").as_bytes());
    out
}

/// A message whose only field is this one.
fn wrapped(field: u64, inner: &Message) -> Message {
    let mut out = Message::default();
    out.message(field, inner);
    out
}

/// The bytes of a document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    let mut info = Message::default();
    info.text(1, document.pointer("/info/title"));
    info.text(2, document.pointer("/info/version"));
    out.message(2, &info);
    let mut paths = Message::default();
    for (path, item) in entries(document.get("paths")) {
        paths.named(2, path, &path_item(item));
    }
    out.message(8, &paths);
    let mut definitions = Message::default();
    for (name, definition) in entries(document.get("definitions")) {
        definitions.named(1, name, &schema(definition));
    }
    out.message(9, &definitions);
    out.0
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    for (field, key) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
        out.text(field, value.get(key));
    }
    if let Some(default) = value.get("default") {
        out.message(5, &any(default));
    }
    out.texts(19, value.get("required"));
    for choice in value.get("enum").and_then(Value::as_array).into_iter().flatten() {
        out.message(20, &any(choice));
    }
    match value.get("additionalProperties") {
        Some(inner @ Value::Object(_)) => out.message(21, &wrapped(1, &schema(inner))),
        Some(flag @ Value::Bool(true)) => {
            let mut item = Message::default();
            item.flag(2, Some(flag));
            out.message(21, &item);
        }
        _ => {}
    }
    if let Some(kind) = value.get("type").and_then(Value::as_str) {
        let mut item = Message::default();
        item.bytes(1, kind.as_bytes());
        out.message(22, &item);
    }
    if let Some(items) = value.get("items") {
        out.message(23, &wrapped(1, &schema(items)));
    }
    if let Some(map) = value.get("properties") {
        let mut properties = Message::default();
        for (name, property) in entries(Some(map)) {
            properties.named(1, name, &schema(property));
        }
        out.message(25, &properties);
    }
    out.extensions(31, value);
    out
}

fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    for (field, method) in (2..).zip(METHODS) {
        if let Some(value) = item.get(method) {
            out.message(field, &operation(value));
        }
    }
    parameters(&mut out, 9, item.get("parameters"));
    out.extensions(10, item);
    out
}

fn operation(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(3, value.get("description"));
    out.text(5, value.get("operationId"));
    out.texts(6, value.get("produces"));
    out.texts(7, value.get("consumes"));
    parameters(&mut out, 8, value.get("parameters"));
    let mut responses = Message::default();
    for (code, response) in entries(value.get("responses")) {
        let mut inner = Message::default();
        inner.text(1, response.get("description"));
        if let Some(body) = response.get("schema") {
            inner.message(2, &wrapped(1, &schema(body)));
        }
        responses.named(1, code, &wrapped(1, &inner));
    }
    out.message(9, &responses);
    out.extensions(13, value);
    out
}

fn parameters(out: &mut Message, field: u64, list: Option<&Value>) {
    for parameter in list.and_then(Value::as_array).into_iter().flatten() {
        out.message(field, &wrapped(1, &parameter_of(parameter)));
    }
}

fn parameter_of(value: &Value) -> Message {
    let mut inner = Message::default();
    if value.get("in").and_then(Value::as_str) == Some("body") {
        inner.text(1, value.get("description"));
        inner.text(2, value.get("name"));
        inner.text(3, value.get("in"));
        inner.flag(4, value.get("required"));
        inner.message(5, &schema(value.get("schema").unwrap_or(&Value::Null)));
        return wrapped(1, &inner);
    }
    let in_query = value.get("in").and_then(Value::as_str) == Some("query");
    inner.flag(1, value.get("required"));
    inner.text(2, value.get("in"));
    inner.text(3, value.get("description"));
    inner.text(4, value.get("name"));
    // Those of queries have `allowEmptyValue` in between, so all that follows is one further.
    let shift = u64::from(in_query);
    inner.text(5 + shift, value.get("type"));
    inner.flag(19 + shift, value.get("uniqueItems"));
    wrapped(2, &wrapped(if in_query { 3 } else { 4 }, &inner))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_have_gnostics_field_numbers() {
        let encoded = schema(&json!({"$ref": "r", "type": "t", "x-a": 1}));
        // 1: "r"; 22: {1: "t"}; 31: {1: "x-a", 2: {2: "1\n"}}
        let expected: &[u8] = b"\x0a\x01r\xb2\x01\x03\x0a\x01t\xfa\x01\x0b\x0a\x03x-a\x12\x04\x12\x021\n";
        assert_eq!(encoded.0, expected);
    }

    #[test]
    fn long_texts_have_their_length_in_several_bytes() {
        let mut out = Message::default();
        out.bytes(1, &[b'x'; 300]);
        assert_eq!(out.0.get(..3), Some(&[0x0a, 0xac, 0x02][..]));
    }
}
