//! `status.conditions`.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::meta;

/// The condition of that type.
pub fn get<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(kind))
}

/// Whether the condition of that type is `True`.
pub fn is_true(object: &Value, kind: &str) -> bool {
    get(object, kind).and_then(|condition| condition.get("status")).and_then(Value::as_str) == Some("True")
}

/// Sets a condition in a status map; the transition time moves only when its status does.
pub fn set(status: &mut Map<String, Value>, mut condition: Value, now: Timestamp) {
    let conditions = status.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    if !conditions.is_array() {
        *conditions = Value::Array(Vec::new());
    }
    let Some(conditions) = conditions.as_array_mut() else {
        return;
    };
    let kind = condition.get("type").cloned();
    let old = conditions.iter_mut().find(|old| old.get("type") == kind.as_ref());
    let kept = old.as_ref().filter(|old| old.get("status") == condition.get("status"));
    let time = kept.and_then(|old| old.get("lastTransitionTime")).cloned();
    let time = time.unwrap_or_else(|| Value::from(meta::timestamp(now)));
    meta::map_of(&mut condition).insert("lastTransitionTime".to_owned(), time);
    match old {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}
