//! Types of built-in kinds' fields, judged as a decoder does: the first mismatch ends it.

use serde_json::Value;

use crate::schema::place::Place;
use crate::schema::{Kind, Node};

/// The first field whose JSON type doesn't fit, in the words of Go's decoder, which kubectl users know.
pub(super) fn wrong_type(root: &Node, value: &Value) -> Option<String> {
    let root_kind = value.get("kind").and_then(Value::as_str).unwrap_or("Object");
    find(root, value, &Place::Named(root_kind))
}

fn find(node: &Node, value: &Value, path: &Place<'_>) -> Option<String> {
    if value.is_null() {
        return None;
    }
    if node.int_or_string {
        let fits = value.is_string() || value.is_number();
        return (!fits).then(|| mismatch(value, path, "intstr.IntOrString"));
    }
    match node.kind {
        Some(Kind::Object) => {
            let Some(map) = value.as_object() else {
                return Some(mismatch(value, path, "map[string]interface {}"));
            };
            map.iter().find_map(|(key, value)| {
                let child = node.properties.get(key).or(node.additional.as_ref())?;
                find(child, value, &Place::Key(path, key))
            })
        }
        Some(Kind::Array) => {
            let Some(list) = value.as_array() else {
                return Some(mismatch(value, path, "[]interface {}"));
            };
            let items = node.items.as_ref()?;
            list.iter().find_map(|item| find(items, item, path))
        }
        Some(kind) if !kind.accepts(value) => Some(mismatch(value, path, go_type(kind, &node.format))),
        Some(Kind::Integer) if node.format == "int32" && !in_i32(value) => {
            Some(format!("json: cannot unmarshal number {value} into Go struct field {path} of type int32"))
        }
        Some(Kind::String) if node.format == "date-time" => {
            let text = value.as_str().unwrap_or_default();
            let fine = text.parse::<jiff::Timestamp>().is_ok();
            (!fine).then(|| {
                format!("parsing time {value} as \"2006-01-02T15:04:05Z07:00\": cannot parse {value}")
            })
        }
        Some(Kind::String) if node.format == "byte" => {
            use base64::Engine as _;
            let text = value.as_str().unwrap_or_default();
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            decoded.err().map(|_| "illegal base64 data at input byte 0".to_owned())
        }
        _ => None,
    }
}

fn in_i32(value: &Value) -> bool {
    value.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
}

fn go_type(kind: Kind, format: &str) -> &'static str {
    match (kind, format) {
        (Kind::Integer, "int32") => "int32",
        (Kind::Integer, _) => "int64",
        (Kind::Number, _) => "float64",
        (Kind::Boolean, _) => "bool",
        _ => "string",
    }
}

fn mismatch(value: &Value, path: &Place<'_>, wanted: &str) -> String {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {found} into Go struct field {path} of type {wanted}")
}
