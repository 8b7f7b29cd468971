//! Strategic merge patch: a merge patch that merges lists by key where the kind's schema says so.
//!
//! Directives: `$patch: replace|delete|merge` in a map or list item, `$retainKeys` in a map, and beside a list `L`
//! `$deleteFromPrimitiveList/L` and `$setElementOrder/L`.

use serde_json::{Map, Value};

use crate::resource::ResourceInfo;
use crate::schema::Node;
use crate::status_error::StatusError;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// The document with the patch merged into it.
pub fn apply_strategic(info: &ResourceInfo, document: &Value, patch: &Value) -> Result<Value, StatusError> {
    let Some(patch) = patch.as_object() else {
        return Err(StatusError::bad_request("a strategic merge patch has to be an object"));
    };
    let document = document.as_object().cloned().unwrap_or_default();
    let root = info.compiled.as_ref().map(|schema| &**schema.root());
    merge_map(root, document, patch).map(Value::Object)
}

/// What the schema says about a field, if it is known.
fn field<'a>(node: Option<&'a Node>, key: &str) -> Option<&'a Node> {
    let node = node?;
    node.properties.get(key).or(node.additional.as_ref()).map(|child| &**child)
}

fn malformed(why: &str) -> StatusError {
    StatusError::bad_request(format!("invalid strategic merge patch: {why}"))
}

fn merge_map(
    node: Option<&Node>,
    mut target: Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, StatusError> {
    match patch.get(DIRECTIVE).map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => return Ok(plain_map(patch)),
        Some(Some("delete")) => return Ok(Map::new()),
        Some(_) => return Err(malformed("unknown $patch directive")),
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let retained = retained.as_array().ok_or_else(|| malformed("$retainKeys is not a list"))?;
        target.retain(|key, _| retained.iter().any(|retained| retained.as_str() == Some(key)));
    }
    delete_primitives(&mut target, patch)?;
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        if value.is_null() {
            target.remove(key);
            continue;
        }
        let old = target.remove(key);
        target.insert(key.clone(), merge_value(field(node, key), old, value)?);
    }
    for (key, order) in patch {
        let Some(list) = key.strip_prefix(ORDER_PREFIX) else { continue };
        let order = order.as_array().ok_or_else(|| malformed("$setElementOrder is not a list"))?;
        let merge_key = field(node, list).and_then(|node| node.merge_key.as_deref());
        let patched = patch.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if let Some(items) = target.get_mut(list).and_then(Value::as_array_mut) {
            sort_by_order(items, order, patched, merge_key);
        }
    }
    Ok(target)
}

fn merge_value(node: Option<&Node>, old: Option<Value>, patch: &Value) -> Result<Value, StatusError> {
    match (old, patch) {
        (Some(Value::Object(old)), Value::Object(patch)) => merge_map(node, old, patch).map(Value::Object),
        (_, Value::Object(patch)) => merge_map(node, Map::new(), patch).map(Value::Object),
        (old, Value::Array(patch)) => {
            let merged = node.filter(|node| node.patch_merge);
            let Some(node) = merged else { return Ok(Value::Array(plain_list(patch))) };
            let old = match old {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            };
            merge_list(node, old, patch).map(Value::Array)
        }
        (_, patch) => Ok(patch.clone()),
    }
}

fn directive(item: &Value) -> Option<&str> {
    item.get(DIRECTIVE).and_then(Value::as_str)
}

fn merge_list(node: &Node, old: Vec<Value>, patch: &[Value]) -> Result<Vec<Value>, StatusError> {
    if patch.iter().any(|item| directive(item) == Some("replace") && is_only_directive(item)) {
        let kept: Vec<Value> =
            patch.iter().filter(|item| directive(item) != Some("replace")).cloned().collect();
        return Ok(plain_list(&kept));
    }
    let Some(merge_key) = node.merge_key.as_deref() else { return Ok(union(old, patch)) };
    let items = node.items.as_deref();
    let mut merged = old;
    for item in patch {
        let Some(map) = item.as_object() else {
            return Err(malformed("an item of a keyed list is not a map"));
        };
        let key = map
            .get(merge_key)
            .ok_or_else(|| malformed(&format!("map does not contain declared merge key: {merge_key}")))?;
        let same = |candidate: &Value| candidate.get(merge_key) == Some(key);
        match directive(item) {
            Some("delete") => merged.retain(|candidate| !same(candidate)),
            _ => match merged.iter().position(same) {
                Some(index) => {
                    let Some(slot) = merged.get_mut(index) else { continue };
                    let old = slot.as_object().cloned().unwrap_or_default();
                    *slot = Value::Object(merge_map(items, old, map)?);
                }
                None => merged.push(Value::Object(merge_map(items, Map::new(), map)?)),
            },
        }
    }
    Ok(merged)
}

fn is_only_directive(item: &Value) -> bool {
    item.as_object().is_some_and(|map| map.len() == 1)
}

/// A list of plain values with those of the patch that it lacks.
fn union(mut old: Vec<Value>, patch: &[Value]) -> Vec<Value> {
    for item in patch {
        if !old.contains(item) {
            old.push(item.clone());
        }
    }
    old
}

fn delete_primitives(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), StatusError> {
    for (key, values) in patch {
        let Some(list) = key.strip_prefix(DELETE_PREFIX) else { continue };
        let values = values.as_array().ok_or_else(|| malformed("$deleteFromPrimitiveList is not a list"))?;
        if let Some(items) = target.get_mut(list).and_then(Value::as_array_mut) {
            items.retain(|item| !values.contains(item));
        }
    }
    Ok(())
}

/// Puts items in the wanted order. Items that the order doesn't name keep their place behind the one that they followed.
fn sort_by_order(items: &mut Vec<Value>, order: &[Value], _patched: &[Value], merge_key: Option<&str>) {
    let rank = |item: &Value| {
        order.iter().position(|wanted| match merge_key {
            Some(key) => wanted.get(key).is_some() && wanted.get(key) == item.get(key),
            None => wanted == item,
        })
    };
    // Each item gets the rank of the named item before it, so that unnamed ones stay where they were.
    let mut ordered: Vec<(i64, usize, Value)> = Vec::with_capacity(items.len());
    let named_first = items.iter().position(|item| rank(item).is_some()).unwrap_or(0);
    let mut current = if named_first == 0 { 0 } else { -1 };
    for (index, item) in std::mem::take(items).into_iter().enumerate() {
        if let Some(rank) = rank(&item) {
            current = i64::try_from(rank).unwrap_or(i64::MAX);
        }
        ordered.push((current, index, item));
    }
    ordered.sort_by_key(|(rank, index, _)| (*rank, *index));
    items.extend(ordered.into_iter().map(|(_, _, item)| item));
}

/// The patch as content: without its directives, at any depth.
fn plain_map(patch: &Map<String, Value>) -> Map<String, Value> {
    let is_content = |key: &str| {
        key != DIRECTIVE
            && key != RETAIN_KEYS
            && !key.starts_with(DELETE_PREFIX)
            && !key.starts_with(ORDER_PREFIX)
    };
    patch
        .iter()
        .filter(|(key, value)| is_content(key) && !value.is_null())
        .map(|(key, value)| (key.clone(), plain(value)))
        .collect()
}

fn plain_list(list: &[Value]) -> Vec<Value> {
    list.iter().filter(|item| !(is_only_directive(item) && directive(item).is_some())).map(plain).collect()
}

fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(plain_map(map)),
        Value::Array(list) => Value::Array(plain_list(list)),
        other => other.clone(),
    }
}
