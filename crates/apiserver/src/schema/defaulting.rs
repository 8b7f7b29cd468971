//! Filling in defaults.

use serde_json::Value;

use crate::schema::Node;

pub(super) fn default(node: &Node, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, property) in &node.properties {
                if let Some(default) = &property.default
                    && map.get(key).is_none_or(|value| value.is_null() && !property.nullable)
                {
                    map.insert(key.clone(), default.clone());
                }
                if let Some(value) = map.get_mut(key) {
                    self::default(property, value);
                }
            }
            if let Some(additional) = &node.additional {
                for (_, value) in map.iter_mut().filter(|(key, _)| !node.properties.contains_key(*key)) {
                    if let Some(default) =
                        additional.default.as_ref().filter(|_| value.is_null() && !additional.nullable)
                    {
                        *value = default.clone();
                    }
                    self::default(additional, value);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &node.items {
                for item in list {
                    self::default(items, item);
                }
            }
        }
        _ => {}
    }
}
