//! OpenAPI v2: one document of all kinds, which clients from before v3 read. It is made from the v3 documents.

mod gnostic;

use serde_json::{Map, Value, json};

use crate::openapi::{KUBERNETES_VERSION, document};
use crate::resource::Registry;

pub use gnostic::encode;

/// How the protobuf form is called in answers; clients ask for it with `@` before the version as well.
pub const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];
/// What v2 has no word for.
const UNKNOWN_TO_V2: [&str; 5] = ["oneOf", "anyOf", "allOf", "not", "nullable"];

/// The document of everything that is served.
pub fn whole(registry: &Registry) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for (group, versions) in registry.groups() {
        for document in versions.iter().filter_map(|version| document(registry, &group, version)) {
            for (name, schema) in entries(document.pointer("/components/schemas")) {
                let definition = schema_of(schema);
                match definitions.get_mut(name) {
                    // A kind that several groups know, such as DeleteOptions, is listed under each of them.
                    Some(known) => join_kinds(known, &definition),
                    None => {
                        definitions.insert(name.clone(), definition);
                    }
                }
            }
            for (path, item) in entries(document.get("paths")) {
                paths.insert(path.clone(), path_item(item));
            }
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": KUBERNETES_VERSION },
        "paths": paths,
        "definitions": definitions,
    })
}

fn entries(map: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    map.and_then(Value::as_object).into_iter().flatten()
}

fn join_kinds(known: &mut Value, other: &Value) {
    const KINDS: &str = "x-kubernetes-group-version-kind";
    let others = other.get(KINDS).and_then(Value::as_array).into_iter().flatten();
    let Some(known) = known.as_object_mut() else { return };
    for kind in others {
        let list = known.entry(KINDS).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut().filter(|list| !list.contains(kind)) {
            list.push(kind.clone());
        }
    }
}

/// A schema without what v2 cannot say.
fn schema_of(schema: &Value) -> Value {
    let Some(map) = schema.as_object() else { return schema.clone() };
    let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
    let mut out: Map<String, Value> = Map::new();
    for (key, value) in map.iter().filter(|(key, _)| !UNKNOWN_TO_V2.contains(&key.as_str())) {
        let value = match key.as_str() {
            "$ref" => reference(value),
            "properties" => {
                entries(Some(value)).map(|(name, schema)| (name.clone(), schema_of(schema))).collect()
            }
            "items" | "additionalProperties" => schema_of(value),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    if let Some([only]) = map.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
        && let Some(target) = only.get("$ref")
    {
        // Next to a reference v3 needs this wrapping for a description, v2 doesn't.
        out.insert("$ref".to_owned(), reference(target));
    }
    if flag("x-kubernetes-int-or-string") {
        out.insert("type".to_owned(), "string".into());
        out.insert("format".to_owned(), "int-or-string".into());
    }
    if flag("x-kubernetes-preserve-unknown-fields") || map.get("nullable") == Some(&Value::Bool(true)) {
        // Validators of these times refuse what is not listed, and nulls.
        for key in ["type", "properties", "items", "additionalProperties"] {
            out.remove(key);
        }
    }
    Value::Object(out)
}

fn reference(target: &Value) -> Value {
    let name = target.as_str().and_then(|target| target.rsplit('/').next()).unwrap_or_default();
    Value::from(format!("#/definitions/{name}"))
}

fn path_item(item: &Value) -> Value {
    let converted = entries(Some(item)).map(|(key, value)| {
        let value = match key.as_str() {
            "parameters" => value.as_array().into_iter().flatten().map(parameter).collect(),
            method if METHODS.contains(&method) => operation(value),
            _ => value.clone(),
        };
        (key.clone(), value)
    });
    Value::Object(converted.collect())
}

/// In v2 the type of a parameter is not a schema.
fn parameter(parameter: &Value) -> Value {
    let mut out = parameter.as_object().cloned().unwrap_or_default();
    if let Some(Value::Object(schema)) = out.remove("schema") {
        out.extend(schema);
    }
    Value::Object(out)
}

fn operation(operation: &Value) -> Value {
    let mut out = operation.as_object().cloned().unwrap_or_default();
    let mut parameters: Vec<Value> =
        operation.get("parameters").and_then(Value::as_array).into_iter().flatten().map(parameter).collect();
    if let Some(body) = out.remove("requestBody") {
        let content = body.get("content");
        let schema = entries(content).next().and_then(|(_, content)| content.get("schema"));
        let schema = schema.map_or(Value::Null, schema_of);
        parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
        out.insert("consumes".to_owned(), media_types(content));
    }
    out.insert("parameters".to_owned(), parameters.into());
    let mut responses = Map::new();
    for (code, response) in entries(operation.get("responses")) {
        let mut converted = json!({ "description": response.get("description") });
        let content = response.get("content");
        let first = entries(content).next().and_then(|(_, content)| content.get("schema"));
        if let (Some(schema), Some(map)) = (first, converted.as_object_mut()) {
            map.insert("schema".to_owned(), schema_of(schema));
            out.insert("produces".to_owned(), media_types(content));
        }
        responses.insert(code.clone(), converted);
    }
    out.insert("responses".to_owned(), Value::Object(responses));
    Value::Object(out)
}

fn media_types(content: Option<&Value>) -> Value {
    entries(content).map(|(media_type, _)| Value::from(media_type.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_lose_what_v2_cannot_say() {
        for (v3, v2) in [
            (json!({"$ref": "#/components/schemas/a.B"}), json!({"$ref": "#/definitions/a.B"})),
            (
                json!({"description": "d", "allOf": [{"$ref": "#/components/schemas/a.B"}]}),
                json!({"description": "d", "$ref": "#/definitions/a.B"}),
            ),
            (
                json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
                json!({"x-kubernetes-int-or-string": true, "type": "string", "format": "int-or-string"}),
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "x-kubernetes-preserve-unknown-fields": true}),
                json!({"x-kubernetes-preserve-unknown-fields": true}),
            ),
            (
                json!({"type": "array", "items": {"$ref": "#/components/schemas/B"}}),
                json!({"type": "array", "items": {"$ref": "#/definitions/B"}}),
            ),
        ] {
            assert_eq!(schema_of(&v3), v2);
        }
    }
}
