//! Dropping what the schema doesn't know.

use serde_json::{Map, Value};

use crate::schema::Node;
use crate::schema::place::Place;

/// Fields of `ObjectMeta`.
const OBJECT_META: [&str; 15] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
];

/// Fields of `OwnerReference`.
const OWNER_REFERENCE: [&str; 6] = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];

pub(super) fn prune_root(root: &Node, value: &mut Value, unknown: &mut Vec<String>) {
    let mut pruner = Pruner { unknown };
    if let Some(map) = value.as_object_mut() {
        pruner.object(root, map, &Place::Root, true);
    }
}

struct Pruner<'a> {
    unknown: &'a mut Vec<String>,
}

impl Pruner<'_> {
    fn value(&mut self, node: &Node, value: &mut Value, path: &Place<'_>) {
        match value {
            Value::Object(map) => self.object(node, map, path, node.embedded),
            Value::Array(list) => {
                let Some(items) = &node.items else { return };
                for (index, item) in list.iter_mut().enumerate() {
                    self.value(items, item, &Place::Index(path, index));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, node: &Node, map: &mut Map<String, Value>, path: &Place<'_>, resource: bool) {
        if resource && let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            self.metadata(metadata, &Place::Key(path, "metadata"));
        }
        map.retain(|key, value| {
            if resource && ["apiVersion", "kind", "metadata"].contains(&key.as_str()) {
                return true;
            }
            match node.properties.get(key).or(node.additional.as_ref()) {
                Some(known) if value.is_null() => known.nullable,
                Some(known) => {
                    self.value(known, value, &Place::Key(path, key));
                    true
                }
                None if node.preserve_unknown => true,
                None => {
                    self.unknown.push(Place::Key(path, key).to_string());
                    false
                }
            }
        });
    }

    fn metadata(&mut self, metadata: &mut Map<String, Value>, path: &Place<'_>) {
        self.only(metadata, &OBJECT_META, path);
        let owners = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten();
        for (index, owner) in owners.enumerate() {
            if let Some(owner) = owner.as_object_mut() {
                self.only(
                    owner,
                    &OWNER_REFERENCE,
                    &Place::Index(&Place::Key(path, "ownerReferences"), index),
                );
            }
        }
    }

    fn only(&mut self, map: &mut Map<String, Value>, known: &[&str], path: &Place<'_>) {
        map.retain(|key, value| {
            let keep = known.contains(&key.as_str());
            if !keep {
                self.unknown.push(Place::Key(path, key).to_string());
            }
            keep && !value.is_null()
        });
    }
}
