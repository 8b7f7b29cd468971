//! From the JSON form of a schema to its tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Number, Value};

use crate::schema::{Bound, Checks, Kind, ListType, Node, cel_rules};
use crate::status_error::FieldError;

/// Schemas deeper than this are refused, so that no recursion over them can exhaust the stack.
const DEPTH_MAX: usize = 64;

/// Definitions that hold arbitrary JSON, or that refer to themselves.
const OPAQUE: [&str; 3] = ["JSONSchemaProps", "RawExtension", "JSON"];

struct Definitions<'a> {
    schemas: &'a Map<String, Value>,
    done: BTreeMap<String, Arc<Node>>,
}

/// Compiles the schema of a custom kind. The paths of errors start at the schema.
pub(super) fn compile(schema: &Value) -> Result<Node, Vec<FieldError>> {
    let mut errors = Vec::new();
    let node = Compiler { definitions: None, errors: &mut errors }.node(schema, "", 0);
    if errors.is_empty() { Ok(node) } else { Err(errors) }
}

/// Compiles one of a set of definitions.
pub(super) fn compile_definition(name: &str, schemas: &Map<String, Value>) -> Option<Arc<Node>> {
    let mut definitions = Definitions { schemas, done: BTreeMap::new() };
    let mut errors = Vec::new();
    let schema = schemas.get(name)?;
    let node = Compiler { definitions: Some(&mut definitions), errors: &mut errors }.node(schema, "", 0);
    Some(Arc::new(Node { type_name: type_name(name), ..node }))
}

/// `v1.PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn type_name(definition: &str) -> String {
    let package = definition.rmatch_indices('.').nth(1).map_or(0, |(dot, _)| dot + 1);
    definition.get(package..).unwrap_or_default().to_owned()
}

struct Compiler<'a, 'b> {
    definitions: Option<&'a mut Definitions<'b>>,
    errors: &'a mut Vec<FieldError>,
}

impl Compiler<'_, '_> {
    fn node(&mut self, schema: &Value, path: &str, depth: usize) -> Node {
        if depth > DEPTH_MAX {
            self.errors.push(FieldError::forbidden(path, "nested too deeply"));
            return Node::default();
        }
        if let Some(mut node) = self.referred(schema, depth) {
            read_patch_strategy(schema, &mut node);
            node.atomic_map |= is_atomic_map(schema);
            return node;
        }
        let flag = |key: &str| schema.get(key).and_then(Value::as_bool).unwrap_or(false);
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or_default();
        let mut node = Node {
            kind: Kind::parse(text("type")),
            format: text("format").to_owned(),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            default: schema.get("default").filter(|value| !value.is_null()).cloned(),
            list_type: list_type(schema),
            atomic_map: is_atomic_map(schema),
            ..Node::default()
        };
        read_patch_strategy(schema, &mut node);
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (key, property) in properties {
                let child = self.node(property, &format!("{path}.properties[{key}]"), depth + 1);
                node.properties.insert(key.clone(), Arc::new(child));
            }
        }
        match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => {
                node.additional =
                    Some(Arc::new(Node { preserve_unknown: true, nullable: true, ..Node::default() }));
            }
            Some(additional @ Value::Object(_)) => {
                let child = self.node(additional, &format!("{path}.additionalProperties"), depth + 1);
                node.additional = Some(Arc::new(child));
            }
            _ => {}
        }
        if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
            node.items = Some(Arc::new(self.node(items, &format!("{path}.items"), depth + 1)));
        }
        let opaque = self.definitions.is_some()
            && node.kind.is_none_or(|kind| kind == Kind::Object)
            && node.properties.is_empty()
            && node.additional.is_none()
            && !node.int_or_string;
        if opaque {
            return Node { preserve_unknown: true, nullable: true, kind: None, ..node };
        }
        // Built-in kinds have rules of their own instead of checks in schemas.
        if self.definitions.is_none() {
            node.checks = self.checks(schema, path, depth);
        }
        node
    }

    /// The definition that a schema consists of, or refers to as the only member of `allOf`.
    fn referred(&mut self, schema: &Value, depth: usize) -> Option<Node> {
        let all_of = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice);
        let target = match (schema.get("$ref"), all_of) {
            (Some(Value::String(target)), _) => target,
            (None, Some([only])) => only.get("$ref")?.as_str()?,
            _ => return None,
        };
        let definitions = self.definitions.as_mut()?;
        let name = target.rsplit('/').next()?;
        if OPAQUE.iter().any(|opaque| name.rsplit('.').next() == Some(opaque)) {
            return Some(Node { preserve_unknown: true, nullable: true, ..Node::default() });
        }
        if let Some(done) = definitions.done.get(name) {
            return Some((**done).clone());
        }
        let schema = definitions.schemas.get(name)?;
        let node = Node { type_name: type_name(name), ..self.node(schema, "", depth + 1) };
        if let Some(definitions) = self.definitions.as_mut() {
            definitions.done.insert(name.to_owned(), Arc::new(node.clone()));
        }
        Some(node)
    }

    fn checks(&mut self, schema: &Value, path: &str, depth: usize) -> Checks {
        let count = |key: &str| schema.get(key).and_then(Value::as_u64);
        let number = |key: &str| schema.get(key).and_then(Value::as_number).cloned();
        let flag = |key: &str| schema.get(key).and_then(Value::as_bool).unwrap_or(false);
        let bound = |value: Option<Number>, exclusive: bool| value.map(|value| Bound { value, exclusive });
        let pattern =
            schema.get("pattern").and_then(Value::as_str).and_then(|text| match regex::Regex::new(text) {
                Ok(pattern) => Some(pattern),
                Err(error) => {
                    let why = format!("must be a valid regular expression, but isn't: {error}");
                    self.errors.push(FieldError::invalid(format!("{path}.pattern"), &Value::from(text), why));
                    None
                }
            });
        let mut several = |key: &str| -> Vec<Arc<Node>> {
            let list = schema.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let nodes = list.iter().enumerate();
            nodes
                .map(|(i, schema)| Arc::new(self.node(schema, &format!("{path}.{key}[{i}]"), depth + 1)))
                .collect()
        };
        let (all_of, any_of, one_of) = (several("allOf"), several("anyOf"), several("oneOf"));
        let not = schema.get("not").filter(|not| not.is_object());
        let not = not.map(|not| Arc::new(self.node(not, &format!("{path}.not"), depth + 1)));
        Checks {
            required: texts(schema.get("required")),
            choices: schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            pattern,
            min_length: count("minLength"),
            max_length: count("maxLength"),
            minimum: bound(number("minimum"), flag("exclusiveMinimum")),
            maximum: bound(number("maximum"), flag("exclusiveMaximum")),
            multiple_of: schema.get("multipleOf").and_then(Value::as_f64).filter(|step| *step > 0.0),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            all_of,
            any_of,
            one_of,
            not,
            rules: cel_rules::compile(schema, path, self.errors),
        }
    }
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn list_type(schema: &Value) -> ListType {
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(texts(schema.get("x-kubernetes-list-map-keys"))),
        _ => ListType::Atomic,
    }
}

fn is_atomic_map(schema: &Value) -> bool {
    schema.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic")
}

fn read_patch_strategy(schema: &Value, node: &mut Node) {
    if let Some(key) = schema.get("x-kubernetes-patch-merge-key").and_then(Value::as_str) {
        node.merge_key = Some(key.to_owned());
    }
    if let Some(strategy) = schema.get("x-kubernetes-patch-strategy").and_then(Value::as_str) {
        node.patch_merge = strategy.split(',').any(|word| word == "merge");
    }
}
