//! Types of built-in kinds' fields, judged as a decoder does: the first mismatch ends it.

use serde_json::Value;

use crate::schema::place::Place;
use crate::schema::{Kind, Node};

/// A field as Go's decoder names it: the type of the innermost struct that has it, and its path from the root.
#[derive(Clone, Copy)]
struct Field<'a> {
    owner: &'a str,
    path: &'a Place<'a>,
}

/// The first field whose JSON type doesn't fit, in the words of Go's decoder, which kubectl users know.
pub(super) fn wrong_type(root: &Node, value: &Value) -> Option<String> {
    find(root, value, Field { owner: struct_name(root), path: &Place::Root })
}

fn find(node: &Node, value: &Value, field: Field<'_>) -> Option<String> {
    if value.is_null() {
        return None;
    }
    if node.int_or_string {
        let fits = value.is_string() || value.is_number();
        return (!fits).then(|| mismatch(node, value, field));
    }
    match node.kind {
        Some(Kind::Object) => {
            let Some(map) = value.as_object() else {
                return Some(mismatch(node, value, field));
            };
            let owner = if node.properties.is_empty() { field.owner } else { struct_name(node) };
            map.iter().find_map(|(key, value)| {
                if let Some(property) = node.properties.get(key) {
                    return find(property, value, Field { owner, path: &Place::Key(field.path, key) });
                }
                // Entries of a map have no name of their own.
                find(node.additional.as_ref()?, value, Field { owner, ..field })
            })
        }
        Some(Kind::Array) => {
            let Some(list) = value.as_array() else {
                return Some(mismatch(node, value, field));
            };
            let items = node.items.as_ref()?;
            list.iter().find_map(|item| find(items, item, field))
        }
        Some(Kind::Integer) if value.is_number() => {
            let fits = if node.format == "int32" { in_i32(value) } else { value.is_i64() };
            (!fits).then(|| cannot_unmarshal(&format!("number {value}"), field, &go_type(node)))
        }
        Some(kind) if !kind.accepts(value) => Some(mismatch(node, value, field)),
        Some(Kind::String) if node.format == "date-time" => {
            let text = value.as_str().unwrap_or_default();
            let fine = text.parse::<jiff::Timestamp>().is_ok();
            (!fine).then(|| {
                format!(
                    "parsing time {value} as \"2006-01-02T15:04:05Z07:00\": cannot parse {value} as \"2006\""
                )
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

/// `v1.ObjectMeta` without its package.
fn struct_name(node: &Node) -> &str {
    node.type_name.rsplit('.').next().unwrap_or_default()
}

/// The Go type of what a node describes.
fn go_type(node: &Node) -> String {
    if node.int_or_string {
        return "int32".to_owned();
    }
    let inner = |node: Option<&std::sync::Arc<Node>>| {
        node.map_or_else(|| "interface {}".to_owned(), |node| go_type(node))
    };
    match node.kind {
        Some(Kind::Object) if !node.type_name.is_empty() => node.type_name.clone(),
        Some(Kind::Object) => format!("map[string]{}", inner(node.additional.as_ref())),
        Some(Kind::Array) => format!("[]{}", inner(node.items.as_ref())),
        Some(Kind::Integer) if node.format == "int32" => "int32".to_owned(),
        Some(Kind::Integer) => "int64".to_owned(),
        Some(Kind::Number) => "float64".to_owned(),
        Some(Kind::Boolean) => "bool".to_owned(),
        Some(Kind::String) if node.format == "byte" => "[]uint8".to_owned(),
        Some(Kind::String) => "string".to_owned(),
        None => "interface {}".to_owned(),
    }
}

fn mismatch(node: &Node, value: &Value, field: Field<'_>) -> String {
    cannot_unmarshal(crate::schema::go_json_type(value), field, &go_type(node))
}

fn cannot_unmarshal(found: &str, field: Field<'_>, wanted: &str) -> String {
    if field.path.is_root() {
        return format!("json: cannot unmarshal {found} into Go value of type {wanted}");
    }
    let Field { owner, path } = field;
    format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}")
}
