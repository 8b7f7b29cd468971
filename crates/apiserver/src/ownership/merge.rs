//! Merging a config into a live object, and removing what the last config had and this one hasn't.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::field_set::{FieldSet, Node, field_step, is_member};
use super::typing::Type;

/// The live value with the config's laid over it.
pub(super) fn merge(value: Type<'_>, live: Value, config: &Value) -> Value {
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if value.is_granular_map() => {
            Value::Object(merge_maps(value, live, config))
        }
        (Value::Array(live), Value::Array(config)) if value.is_granular_list() => {
            Value::Array(merge_lists(value, live, config))
        }
        (_, config) => config.clone(),
    }
}

fn merge_maps(
    value: Type<'_>,
    mut live: Map<String, Value>,
    config: &Map<String, Value>,
) -> Map<String, Value> {
    for (key, wanted) in config {
        let merged = match live.remove(key) {
            Some(old) => merge(value.field_or_untyped(key).value, old, wanted),
            None => wanted.clone(),
        };
        live.insert(key.clone(), merged);
    }
    live
}

/// The config's items in its order; the others stay behind the one that they followed.
fn merge_lists(value: Type<'_>, live: Vec<Value>, config: &[Value]) -> Vec<Value> {
    let item = value.item();
    let wanted: Vec<(String, &Value)> = config.iter().map(|item| (value.item_step(item), item)).collect();
    let named: BTreeSet<&str> = wanted.iter().map(|(step, _)| step.as_str()).collect();
    let mut shared: BTreeMap<String, Value> = BTreeMap::new();
    let mut order: Vec<Result<Value, String>> = Vec::with_capacity(live.len());
    for old in live {
        let step = value.item_step(&old);
        if named.contains(step.as_str()) {
            order.push(Err(step.clone()));
            shared.entry(step).or_insert(old);
        } else {
            order.push(Ok(old));
        }
    }
    let mut merged = Vec::with_capacity(order.len() + wanted.len());
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut wanted = wanted.iter().peekable();
    let place =
        |step: &str, content: &Value, merged: &mut Vec<Value>, shared: &mut BTreeMap<String, Value>| {
            merged.push(match shared.remove(step) {
                Some(old) => merge(item, old, content),
                None => content.clone(),
            });
        };
    for slot in order {
        match slot {
            Ok(old) => merged.push(old),
            Err(step) => {
                // Everything that the config has up to this item comes first.
                while !done.contains(step.as_str())
                    && let Some((next, content)) = wanted.next()
                {
                    done.insert(next);
                    place(next, content, &mut merged, &mut shared);
                }
            }
        }
    }
    for (next, content) in wanted {
        place(next, content, &mut merged, &mut shared);
    }
    merged
}

/// Removes what `last` has and nobody's set in `kept` has any more.
pub(super) fn prune(value: Type<'_>, object: &mut Value, last: &FieldSet, kept: &FieldSet) {
    prune_steps(value, object, last.root(), kept.root());
}

fn prune_steps(value: Type<'_>, content: &mut Value, last: &Node, kept: &Node) {
    match content {
        Value::Object(map) if value.is_granular_map() => {
            map.retain(|key, inner| {
                let field = value.field_or_untyped(key);
                keep(field.value, field.named, &field_step(key), inner, last, kept)
            });
        }
        Value::Array(list) if value.is_granular_list() => {
            list.retain_mut(|inner| {
                let step = value.item_step(inner);
                keep(value.item(), false, &step, inner, last, kept)
            });
        }
        _ => {}
    }
}

fn keep(value: Type<'_>, named: bool, step: &str, inner: &mut Value, last: &Node, kept: &Node) -> bool {
    let Some(last) = last.get(step).and_then(Value::as_object) else { return true };
    let kept = kept.get(step).and_then(Value::as_object);
    // A named field counts as owned by whoever owns something in it; items and keys of maps are owned themselves.
    let was_owned = named || is_member(last);
    let is_owned = kept.is_some_and(|kept| named || is_member(kept));
    if was_owned && !is_owned {
        return false;
    }
    prune_steps(value, inner, last, kept.unwrap_or(&Node::new()));
    true
}
