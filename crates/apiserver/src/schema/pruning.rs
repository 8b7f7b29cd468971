//! Dropping what the schema doesn't know.

use serde_json::{Map, Value};

use crate::schema::{Node, child};

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

pub(super) fn prune_root(root: &Node, value: &mut Value, builtin: bool, unknown: &mut Vec<String>) {
    let mut pruner = Pruner { builtin, unknown };
    if let Some(map) = value.as_object_mut() {
        pruner.object(root, map, "", true);
    }
}

struct Pruner<'a> {
    builtin: bool,
    unknown: &'a mut Vec<String>,
}

impl Pruner<'_> {
    fn value(&mut self, node: &Node, value: &mut Value, path: &str) {
        match value {
            Value::Object(map) => self.object(node, map, path, node.embedded),
            Value::Array(list) => {
                let Some(items) = &node.items else { return };
                for (index, item) in list.iter_mut().enumerate() {
                    self.value(items, item, &format!("{path}[{index}]"));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, node: &Node, map: &mut Map<String, Value>, path: &str, resource: bool) {
        if resource && let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            self.metadata(metadata, &child(path, "metadata"));
        }
        let keys: Vec<String> = map.keys().cloned().collect();
        for key in keys {
            if resource && ["apiVersion", "kind", "metadata"].contains(&key.as_str()) {
                continue;
            }
            let known = node.properties.get(&key).or(node.additional.as_ref());
            match known {
                Some(known) => {
                    let Some(value) = map.get_mut(&key) else { continue };
                    if value.is_null() && !known.nullable {
                        map.remove(&key);
                    } else {
                        self.value(known, value, &child(path, &key));
                    }
                }
                None if node.preserve_unknown => {}
                None => {
                    self.unknown.push(child(path, &key));
                    map.remove(&key);
                }
            }
        }
        let _ = self.builtin;
    }

    fn metadata(&mut self, metadata: &mut Map<String, Value>, path: &str) {
        self.only(metadata, &OBJECT_META, path);
        let owners = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut).into_iter().flatten();
        for (index, owner) in owners.enumerate() {
            if let Some(owner) = owner.as_object_mut() {
                self.only(owner, &OWNER_REFERENCE, &format!("{path}.ownerReferences[{index}]"));
            }
        }
    }

    fn only(&mut self, map: &mut Map<String, Value>, known: &[&str], path: &str) {
        map.retain(|key, value| {
            let keep = known.contains(&key.as_str());
            if !keep {
                self.unknown.push(child(path, key));
            }
            keep && !value.is_null()
        });
    }
}
