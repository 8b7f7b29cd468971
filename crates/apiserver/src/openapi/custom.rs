//! Schemas of custom kinds, out of their definitions.

use serde_json::{Map, Value, json};

use super::builtin::OBJECT_META;
use crate::resource::ResourceInfo;

/// The schema as the definition gives it, with what every object has.
pub(super) fn schema(info: &ResourceInfo) -> Value {
    let mut schema = info.schema.as_deref().cloned().unwrap_or_else(|| json!({ "type": "object" }));
    if let Some(map) = schema.as_object_mut() {
        map.entry("type").or_insert_with(|| "object".into());
        let properties = map.entry("properties").or_insert_with(|| Value::Object(Map::new()));
        if let Some(properties) = properties.as_object_mut() {
            properties.insert("apiVersion".to_owned(), text("Version of the schema of this object."));
            properties.insert("kind".to_owned(), text("Kind of this object."));
            // Whatever the definition says, metadata is the same in all kinds.
            let reference = json!({ "$ref": format!("#/components/schemas/{OBJECT_META}") });
            let metadata = json!({ "description": "Name, labels and what else all objects have.", "allOf": [reference] });
            properties.insert("metadata".to_owned(), metadata);
        }
    }
    schema
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}
