//! From Rust types to structural schemas: the subset of OpenAPI v3 that a CRD may use.
//!
//! What a derive makes of a type is JSON Schema 2020-12. A kube-apiserver takes no `$ref`, no list of types, no
//! `const`, no number formats of other widths, and whatever is optional here is absent and never `null`. The patterns
//! that several kinds share are here too.

mod rules;

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

pub use rules::Rule;
pub(crate) use rules::{
    CLUSTER_INFO, applied_to, egress_ip, ip_pools, policy_spec, port_lease_spec, selector, written,
};

/// An IPv4 address, or nothing.
pub const OPTIONAL_IPV4: &str =
    r"^$|^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])$";
/// What may be in an IPv6 address, or nothing; the rest is checked when it is parsed.
pub const OPTIONAL_IPV6: &str = r"^$|^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*$";
/// `10.6.1.55`, `10.6.1.60-10.6.1.65` or `10.6.1.64/28`.
pub const IPV4_POOL_ENTRY: &str = r"^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(-((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])|/(3[0-2]|[12]?[0-9]))?$";
/// `fd00::55`, `fd00::60-fd00::65` or `fd00::/124`.
pub const IPV6_POOL_ENTRY: &str =
    r"^[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(-[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*|/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?$";
/// A CIDR of either family; a plain address is none.
pub const CIDR: &str = r"^[0-9A-Fa-f:.]+/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$";
/// A CIDR or a plain address of either family.
pub const CIDR_OR_ADDRESS: &str = r"^[0-9A-Fa-f:.]+(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?$";
/// A lower-case name as Kubernetes wants them, or nothing.
pub const OPTIONAL_NAME: &str = r"^$|^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$";

/// Runs `fields` with a generator that inlines everything, and makes its result structural.
pub fn structural(fields: fn(&mut SchemaGenerator) -> Map<String, Value>) -> Map<String, Value> {
    let mut generator =
        SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true).into_generator();
    let mut properties = fields(&mut generator);
    properties.values_mut().for_each(make_structural);
    properties
}

/// Rewrites one schema and all below it in place.
fn make_structural(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    collapse_optional(object);
    single_type(object);
    for unsupported in ["nullable", "$schema", "title", "$defs", "definitions", "examples", "$comment"] {
        object.remove(unsupported);
    }
    // `required: []` and `additionalProperties: false` are refused, and closed structs are the API server's pruning.
    if object.get("required").is_some_and(|required| required.as_array().is_some_and(Vec::is_empty)) {
        object.remove("required");
    }
    if object.get("additionalProperties").is_some_and(Value::is_boolean) {
        object.remove("additionalProperties");
    }
    // Serde's defaults are for reading; what is to be stored is asked for by name.
    object.remove("default");
    if let Some(default) = object.remove("x-default") {
        object.insert("default".to_owned(), default);
    }
    known_format(object);
    require_marked(object);
    closed_operator(object);
    if let Some(Value::String(description)) = object.get_mut("description") {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(make_structural);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = object.get_mut(below) {
            make_structural(schema);
        }
    }
}

/// `anyOf: [X, null]`, as an `Option` comes out, and `allOf: [X]`, as a described reference does, become X with the
/// outer description.
fn collapse_optional(object: &mut Map<String, Value>) {
    for union in ["anyOf", "allOf"] {
        let Some(Value::Array(variants)) = object.get(union) else {
            continue;
        };
        let mut schemas = variants.iter().filter(|variant| !is_null_schema(variant));
        let (Some(Value::Object(only)), None) = (schemas.next(), schemas.next()) else {
            continue;
        };
        // A constraint of ours, like "one of these is required", has no type and stays.
        if !only.contains_key("type") && !only.contains_key("properties") && !only.contains_key("enum") {
            continue;
        }
        let only = only.clone();
        object.remove(union);
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
    }
}

/// A field that is marked `x-required` is optional for whoever reads the object and required for who writes it.
fn require_marked(object: &mut Map<String, Value>) {
    let Some(Value::Object(properties)) = object.get_mut("properties") else {
        return;
    };
    let mut required = Vec::new();
    for (name, property) in properties.iter_mut() {
        if property.as_object_mut().and_then(|property| property.remove("x-required")).is_some() {
            required.push(Value::from(name.as_str()));
        }
    }
    if required.is_empty() {
        return;
    }
    if let Some(Value::Array(already)) = object.get("required") {
        required.extend(already.iter().filter(|name| !required.contains(name)).cloned().collect::<Vec<_>>());
    }
    object.insert("required".to_owned(), required.into());
}

/// The operator of a label selector's requirement is one of four; Kubernetes itself checks that in code.
fn closed_operator(object: &mut Map<String, Value>) {
    let Some(Value::Object(properties)) = object.get_mut("properties") else {
        return;
    };
    if !["key", "operator", "values"].iter().all(|name| properties.contains_key(*name)) {
        return;
    }
    if let Some(Value::Object(operator)) = properties.get_mut("operator") {
        operator.insert("enum".to_owned(), json!(["In", "NotIn", "Exists", "DoesNotExist"]));
    }
}

fn is_null_schema(schema: &Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "null")
        || schema
            .get("enum")
            .and_then(Value::as_array)
            .is_some_and(|values| values.iter().all(Value::is_null))
}

fn single_type(object: &mut Map<String, Value>) {
    let Some(Value::Array(types)) = object.get("type") else {
        return;
    };
    let first = types.iter().find(|kind| *kind != "null").cloned();
    match first {
        Some(kind) => object.insert("type".to_owned(), kind),
        None => object.remove("type"),
    };
}

/// Keeps the formats that OpenAPI knows and widens the others.
fn known_format(object: &mut Map<String, Value>) {
    let Some(format) = object.get("format").and_then(Value::as_str) else {
        return;
    };
    let known = match format {
        "int8" | "int16" | "int32" | "uint8" | "uint16" => "int32",
        "int64" | "uint32" | "uint64" | "int" | "uint" => "int64",
        "float" | "double" | "date-time" | "byte" => return,
        _ => {
            object.remove("format");
            return;
        }
    };
    object.insert("format".to_owned(), known.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mut given: Value, expected: Value) {
        make_structural(&mut given);
        assert_eq!(given, expected);
    }

    #[test]
    fn optional_fields_are_absent_and_never_null() {
        check(
            json!({"type": ["string", "null"], "description": "d"}),
            json!({"type": "string", "description": "d"}),
        );
        check(json!({"type": "string", "nullable": true}), json!({"type": "string"}));
        check(
            json!({"anyOf": [{"type": "object", "description": "inner"}, {"type": "null"}], "description": "outer"}),
            json!({"type": "object", "description": "outer"}),
        );
    }

    #[test]
    fn number_formats_are_those_of_openapi() {
        check(json!({"type": "integer", "format": "uint16"}), json!({"type": "integer", "format": "int32"}));
        check(json!({"type": "integer", "format": "uint32"}), json!({"type": "integer", "format": "int64"}));
        check(json!({"type": "string", "format": "ipv4-ish"}), json!({"type": "string"}));
    }

    #[test]
    fn marked_fields_are_required() {
        check(
            json!({"type": "object", "properties": {"a": {"x-required": true}, "b": {}}, "required": ["b"]}),
            json!({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]}),
        );
    }

    #[test]
    fn defaults_are_those_asked_for_by_name() {
        check(json!({"type": "string", "default": ""}), json!({"type": "string"}));
        check(
            json!({"type": "string", "default": "", "x-default": "a"}),
            json!({"type": "string", "default": "a"}),
        );
    }

    #[test]
    fn constraints_without_a_type_stay() {
        let schema = json!({"type": "object", "anyOf": [{"required": ["a"]}]});
        check(schema.clone(), schema);
    }

    #[test]
    fn schemas_below_are_rewritten_too() {
        check(
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": ["string", "null"]}}}}),
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}}),
        );
    }
}
