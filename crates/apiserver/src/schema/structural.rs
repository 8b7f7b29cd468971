//! Whether a schema is structural: only then its kind can be pruned and defaulted.

use serde_json::Value;

use crate::schema::Schema;
use crate::status_error::FieldError;

/// Keys that say what a value is, and so may not be used where schemas only narrow.
const DEFINING: [&str; 9] = [
    "type",
    "default",
    "title",
    "description",
    "nullable",
    "additionalProperties",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
];

/// What is wrong with the `openAPIV3Schema` of a CRD's version; `path` is where it is.
pub fn structural_errors(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        match schema.get("type") {
            None => {
                errors.push(FieldError::required(format!("{path}.type"), "must not be empty at the root"))
            }
            Some(other) => {
                errors.push(FieldError::invalid(format!("{path}.type"), other, "must be object at the root"));
            }
        }
    }
    visit(schema, path, true, &mut errors);
    if errors.is_empty()
        && let Err(found) = Schema::compile(schema)
    {
        errors.extend(
            found.into_iter().map(|error| FieldError { field: format!("{path}{}", error.field), ..error }),
        );
    }
    errors
}

fn visit(schema: &Value, path: &str, root: bool, errors: &mut Vec<FieldError>) {
    let at = |key: &str| format!("{path}.{key}");
    let flag = |key: &str| schema.get(key).and_then(Value::as_bool).unwrap_or(false);
    let typed = schema.get("type").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    if !root && !typed && !flag("x-kubernetes-int-or-string") && !flag("x-kubernetes-preserve-unknown-fields")
    {
        errors.push(FieldError::required(at("type"), "must not be empty for specified object fields"));
    }
    forbid(schema, path, errors);
    if flag("x-kubernetes-int-or-string") && typed {
        errors.push(FieldError::forbidden(at("type"), "must be empty if x-kubernetes-int-or-string is true"));
    }
    let (properties, additional) = (schema.get("properties"), schema.get("additionalProperties"));
    if properties.and_then(Value::as_object).is_some_and(|map| !map.is_empty())
        && additional.is_some_and(|value| *value != Value::Bool(false))
    {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(at("additionalProperties"), why));
    }
    for (key, property) in properties.and_then(Value::as_object).into_iter().flatten() {
        if root && key == "metadata" {
            continue;
        }
        visit(property, &format!("{path}.properties[{key}]"), false, errors);
    }
    if let Some(additional) = additional.filter(|value| value.is_object()) {
        visit(additional, &at("additionalProperties"), false, errors);
    }
    match schema.get("items") {
        Some(items @ Value::Object(_)) => visit(items, &at("items"), false, errors),
        Some(Value::Array(_)) => {
            errors.push(FieldError::forbidden(at("items"), "items must be a schema object and not an array"))
        }
        _ => {}
    }
    if schema.get("type").and_then(Value::as_str) == Some("array") && schema.get("items").is_none() {
        errors.push(FieldError::required(at("items"), "must be specified"));
    }
    list_map_keys(schema, path, errors);
    narrowing(schema, path, errors);
}

fn forbid(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if schema.get("$ref").is_some() {
        errors.push(FieldError::forbidden(format!("{path}.$ref"), "$ref is not supported"));
    }
    if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(format!("{path}.uniqueItems"), why));
    }
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        let why = "additionalProperties cannot be set to false";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), why));
    }
    for key in ["definitions", "dependencies", "patternProperties", "id"] {
        if schema.get(key).is_some() {
            errors.push(FieldError::forbidden(format!("{path}.{key}"), format!("{key} is not supported")));
        }
    }
}

fn list_map_keys(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if schema.get("x-kubernetes-list-type").and_then(Value::as_str) != Some("map") {
        return;
    }
    let field = format!("{path}.x-kubernetes-list-map-keys");
    let keys =
        schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).cloned().unwrap_or_default();
    if keys.is_empty() {
        errors.push(FieldError::required(field, "must not be empty if x-kubernetes-list-type is map"));
        return;
    }
    let required = schema.pointer("/items/required").and_then(Value::as_array).cloned().unwrap_or_default();
    for (index, key) in keys.iter().enumerate() {
        let property =
            schema.pointer("/items/properties").zip(key.as_str()).and_then(|(map, key)| map.get(key));
        match property {
            None => {
                let why = "entries must all be names of item properties";
                errors.push(FieldError::invalid(format!("{field}[{index}]"), key, why));
            }
            Some(property) if property.get("default").is_none() && !required.contains(key) => {
                let name = key.as_str().unwrap_or_default();
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                errors.push(FieldError::required(format!("{path}.items.properties[{name}].default"), why));
            }
            Some(_) => {}
        }
    }
}

/// Checks the schemas that may only narrow what is defined outside of them.
fn narrowing(schema: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let int_or_string = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in schema.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
            // `anyOf: [{type: integer}, {type: string}]` is how int-or-string is customarily spelled out.
            narrows(inner, &format!("{path}.{key}[{index}]"), int_or_string, errors);
        }
    }
    if let Some(inner) = schema.get("not") {
        narrows(inner, &format!("{path}.not"), false, errors);
    }
}

fn narrows(schema: &Value, path: &str, type_allowed: bool, errors: &mut Vec<FieldError>) {
    for key in DEFINING {
        let allowed = type_allowed && key == "type";
        if schema.get(key).is_some() && !allowed {
            errors.push(FieldError::forbidden(format!("{path}.{key}"), "must be empty to be structural"));
        }
    }
    for (key, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        narrows(property, &format!("{path}.properties[{key}]"), false, errors);
    }
    if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
        narrows(items, &format!("{path}.items"), false, errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in schema.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
            narrows(inner, &format!("{path}.{key}[{index}]"), type_allowed, errors);
        }
    }
}
