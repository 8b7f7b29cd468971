//! JSON merge patch, RFC 7386.

use serde_json::{Map, Value};

use crate::status_error::StatusError;

/// The document with the patch merged into it.
pub fn apply_merge(document: &Value, patch: &Value) -> Result<Value, StatusError> {
    if !patch.is_object() {
        return Err(StatusError::bad_request("a merge patch has to be an object"));
    }
    let mut document = document.clone();
    merge(&mut document, patch);
    Ok(document)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
