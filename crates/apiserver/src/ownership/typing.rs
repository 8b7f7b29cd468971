//! What the schema says about how values merge.

use serde_json::{Map, Value};

use super::field_set::field_step;
use crate::builtin;
use crate::resource::ResourceInfo;
use crate::schema::{ListType, Node};

/// The type of a value: a place in a schema, or nothing, where maps are granular and lists atomic.
#[derive(Clone, Copy)]
pub(crate) struct Type<'a> {
    node: Option<&'a Node>,
    /// Whether the value is an object with `apiVersion`, `kind` and an `ObjectMeta`.
    resource: bool,
}

/// The type of a field of a map.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) value: Type<'a>,
    /// Whether the schema knows it by name, and not just as any key of a map.
    pub(super) named: bool,
}

const UNTYPED: Type<'static> = Type { node: None, resource: false };

impl<'a> Type<'a> {
    /// The type of a kind's objects.
    pub(crate) fn of(info: &'a ResourceInfo) -> Self {
        Self { node: info.compiled.as_ref().map(|schema| &**schema.root()), resource: true }
    }

    fn at(node: &'a Node) -> Self {
        Self { node: Some(node), resource: node.embedded }
    }

    /// The type of a field; `None` if the schema has no such field.
    pub(super) fn field(self, key: &str) -> Option<Field<'a>> {
        if self.resource && ["apiVersion", "kind", "metadata"].contains(&key) {
            let node = if key == "metadata" { builtin::schemas::object_meta() } else { None };
            return Some(Field { value: Type { node, resource: false }, named: true });
        }
        let Some(node) = self.node else { return Some(Field { value: UNTYPED, named: false }) };
        if let Some(child) = node.properties.get(key) {
            return Some(Field { value: Self::at(child), named: true });
        }
        if let Some(child) = &node.additional {
            return Some(Field { value: Self::at(child), named: false });
        }
        node.preserve_unknown.then_some(Field { value: UNTYPED, named: false })
    }

    /// The type of a field, of any kind if the schema has none.
    pub(super) fn field_or_untyped(self, key: &str) -> Field<'a> {
        self.field(key).unwrap_or(Field { value: UNTYPED, named: false })
    }

    /// The type of a list's items.
    pub(super) fn item(self) -> Self {
        self.node.and_then(|node| node.items.as_deref()).map_or(UNTYPED, Self::at)
    }

    /// Whether a map's fields have owners of their own.
    pub(super) fn is_granular_map(self) -> bool {
        self.node.is_none_or(|node| !node.atomic_map)
    }

    /// Whether a list's items have owners of their own.
    pub(super) fn is_granular_list(self) -> bool {
        self.node.is_some_and(|node| node.list_type != ListType::Atomic)
    }

    /// The keys that tell items apart, empty for sets.
    pub(super) fn keys(self) -> &'a [String] {
        match self.node.map(|node| &node.list_type) {
            Some(ListType::Map(keys)) => keys,
            _ => &[],
        }
    }

    fn default(self) -> Option<&'a Value> {
        self.node?.default.as_ref()
    }

    /// The step that leads to an item of a granular list.
    pub(super) fn item_step(self, item: &Value) -> String {
        let keys = self.keys();
        if keys.is_empty() {
            return format!("v:{item}");
        }
        let given = keys.iter().filter_map(|key| Some((key.clone(), self.key_of(item, key)?.clone())));
        format!("k:{}", Value::Object(given.collect::<Map<_, _>>()))
    }

    /// The value of one of an item's keys, given or by default.
    pub(super) fn key_of<'v>(self, item: &'v Value, key: &str) -> Option<&'v Value>
    where
        'a: 'v,
    {
        let given = item.get(key).filter(|value| !value.is_null());
        given.or_else(|| self.item().field(key)?.value.default())
    }

    /// The parts of a value that have owners of their own, if its type has such.
    pub(super) fn parts<'v>(self, value: &'v Value) -> Option<Vec<Part<'v>>>
    where
        'a: 'v,
    {
        match value {
            Value::Object(map) if self.is_granular_map() => Some(
                map.iter()
                    .map(|(key, value)| {
                        let field = self.field_or_untyped(key);
                        Part { step: field_step(key), field, value }
                    })
                    .collect(),
            ),
            Value::Array(list) if self.is_granular_list() => {
                let field = Field { value: self.item(), named: false };
                Some(
                    list.iter().map(|item| Part { step: self.item_step(item), field, value: item }).collect(),
                )
            }
            _ => None,
        }
    }
}

/// A part of a value that has an owner of its own.
pub(super) struct Part<'a> {
    pub(super) step: String,
    pub(super) field: Field<'a>,
    pub(super) value: &'a Value,
}
