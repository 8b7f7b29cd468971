//! Sets of fields out of objects: what differs between two, and what a config says.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::field_set::{FieldSet, Node, field_step, make_member};
use super::typing::Type;

/// What a write changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Fields that were added or have another value.
    pub(crate) taken: FieldSet,
    /// Fields that are gone.
    pub(crate) removed: FieldSet,
}

/// What differs between two objects of one type.
pub(super) fn changes(object: Type<'_>, old: &Value, new: &Value) -> Changes {
    let mut found = Found::default();
    compare(object, old, new, &mut found);
    Changes { taken: FieldSet::new(found.taken), removed: FieldSet::new(found.removed) }
}

/// The fields that a config owns.
pub(super) fn fields_of_config(object: Type<'_>, config: &Value) -> FieldSet {
    let mut set = FieldSet::new(config_node(object, config, false).unwrap_or_default());
    set.remove_system_fields();
    set
}

/// Steps below one node.
#[derive(Default)]
struct Found {
    taken: Node,
    removed: Node,
}

impl Found {
    /// Takes over what was found below a step.
    fn below(&mut self, step: String, inner: Found) {
        if !inner.removed.is_empty() {
            self.removed.insert(step.clone(), Value::Object(inner.removed));
        }
        if !inner.taken.is_empty() {
            self.taken.insert(step, Value::Object(inner.taken));
        }
    }

    /// The value at a step is another one, as a whole.
    fn replaced(&mut self, step: String, value: Type<'_>, old: &Value, new: &Value) {
        let gone = whole(value, old);
        if !gone.is_empty() {
            self.removed.insert(
                step.clone(),
                Value::Object(gone.into_iter().filter(|(step, _)| step != ".").collect()),
            );
        }
        self.taken.insert(step, Value::Object(whole(value, new)));
    }
}

fn compare(value: Type<'_>, old: &Value, new: &Value, found: &mut Found) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => compare_maps(value, old, new, found),
        (Value::Array(old), Value::Array(new)) => compare_lists(value, old, new, found),
        _ => {}
    }
}

/// Compares what is at one step on both sides.
fn compare_step(step: String, value: Type<'_>, old: &Value, new: &Value, found: &mut Found) {
    if old == new {
        return;
    }
    let both_granular = match (old, new) {
        (Value::Object(_), Value::Object(_)) => value.is_granular_map(),
        (Value::Array(_), Value::Array(_)) => value.is_granular_list(),
        _ => false,
    };
    if both_granular {
        let mut inner = Found::default();
        compare(value, old, new, &mut inner);
        found.below(step, inner);
    } else {
        found.replaced(step, value, old, new);
    }
}

fn compare_maps(value: Type<'_>, old: &Map<String, Value>, new: &Map<String, Value>, found: &mut Found) {
    for (key, new) in new {
        let field = value.field_or_untyped(key).value;
        match old.get(key) {
            Some(old) => compare_step(field_step(key), field, old, new, found),
            None => {
                found.taken.insert(field_step(key), Value::Object(whole(field, new)));
            }
        }
    }
    for (key, old) in old.iter().filter(|(key, _)| !new.contains_key(*key)) {
        let field = value.field_or_untyped(key).value;
        found.removed.insert(field_step(key), Value::Object(whole(field, old)));
    }
}

fn compare_lists(value: Type<'_>, old: &[Value], new: &[Value], found: &mut Found) {
    let item = value.item();
    let (mut before, after) = (by_step(value, old), by_step(value, new));
    for (step, new) in after {
        match (before.remove(&step).as_deref(), new.as_slice()) {
            (Some([old]), [new]) => compare_step(step, item, old, new, found),
            (Some(old), new) if old == new => {}
            // Items that the keys don't tell apart change together.
            (_, [new, ..]) => {
                found.taken.insert(step, Value::Object(whole(item, new)));
            }
            (_, []) => {}
        }
    }
    for (step, old) in before {
        if let Some(old) = old.first() {
            found.removed.insert(step, Value::Object(whole(item, old)));
        }
    }
}

/// The items of a list by what tells them apart.
fn by_step<'v>(value: Type<'_>, list: &'v [Value]) -> BTreeMap<String, Vec<&'v Value>> {
    let mut items: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for item in list {
        items.entry(value.item_step(item)).or_default().push(item);
    }
    items
}

/// A value with all that is in it.
fn whole(value: Type<'_>, content: &Value) -> Node {
    let parts = value.parts(content).unwrap_or_default();
    let mut node: Node = parts
        .into_iter()
        .map(|part| (part.step, Value::Object(whole(part.field.value, part.value))))
        .collect();
    make_member(&mut node);
    node
}

/// What a config owns of a value. Named fields that only hold others aren't owned themselves; items and keys of maps are.
fn config_node(value: Type<'_>, content: &Value, member: bool) -> Option<Node> {
    let Some(parts) = value.parts(content) else { return Some(Node::new()) };
    let mut node = Node::new();
    for part in parts {
        let empty = match part.value {
            Value::Null => true,
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if let Some(inner) = config_node(part.field.value, part.value, empty || !part.field.named) {
            node.insert(part.step, Value::Object(inner));
        }
    }
    match (node.is_empty(), member) {
        (true, false) => None,
        (_, true) => {
            make_member(&mut node);
            Some(node)
        }
        (false, false) => Some(node),
    }
}
