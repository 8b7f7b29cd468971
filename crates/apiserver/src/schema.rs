//! Structural schemas: compiling, pruning, defaulting, validating; and the decoding of bodies.
//!
//! One tree of nodes serves custom kinds (from their CRD) and built-in kinds (from the published definitions).
//! The root and every embedded object have `apiVersion`, `kind` and an `ObjectMeta`, whatever the schema says.

pub(crate) mod cel_rules;
mod compile;
pub mod decode;
mod defaulting;
mod formats;
mod place;
mod pruning;
mod structural;
mod types;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::status_error::FieldError;

pub use structural::structural_errors;

/// A compiled structural schema.
#[derive(Clone, Debug)]
pub struct Schema {
    root: Arc<Node>,
}

/// JSON type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Kind {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    fn accepts(self, value: &Value) -> bool {
        match self {
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.as_f64().is_some_and(is_exact_integer),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
        }
    }
}

/// Whether a number that was not written as a 64-bit integer is one nevertheless: whole, and small enough that no other
/// integer has the same floating-point form.
fn is_exact_integer(number: f64) -> bool {
    const MAX: f64 = 9_007_199_254_740_991.0;
    number.fract() == 0.0 && number.abs() <= MAX
}

/// The JSON type of a value as Go's decoder calls it.
pub(crate) fn go_json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What tells the items of a list apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// One place in a schema.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) kind: Option<Kind>,
    pub(crate) format: String,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded: bool,
    pub(crate) properties: BTreeMap<String, Arc<Node>>,
    pub(crate) additional: Option<Arc<Node>>,
    pub(crate) items: Option<Arc<Node>>,
    pub(crate) default: Option<Value>,
    pub(crate) list_type: ListType,
    /// Whether a map is owned and applied as a whole.
    pub(crate) atomic_map: bool,
    /// `x-kubernetes-patch-merge-key`.
    pub(crate) merge_key: Option<String>,
    /// Whether `x-kubernetes-patch-strategy` has `merge`.
    pub(crate) patch_merge: bool,
    /// Package and name of the Go type, such as `v1.ObjectMeta`, of the definitions of built-in kinds.
    pub(crate) type_name: String,
    pub(crate) checks: Checks,
}

/// What values have to satisfy beyond their type.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks {
    pub(crate) required: Vec<String>,
    pub(crate) choices: Vec<Value>,
    pub(crate) pattern: Option<regex::Regex>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) minimum: Option<Bound>,
    pub(crate) maximum: Option<Bound>,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) all_of: Vec<Arc<Node>>,
    pub(crate) any_of: Vec<Arc<Node>>,
    pub(crate) one_of: Vec<Arc<Node>>,
    pub(crate) not: Option<Arc<Node>>,
    pub(crate) rules: Vec<Arc<cel_rules::Rule>>,
}

/// A numeric bound, kept as it was written for messages.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) value: serde_json::Number,
    pub(crate) exclusive: bool,
}

impl Schema {
    /// Compiles the schema of a version of a CRD.
    pub fn compile(schema: &Value) -> Result<Self, Vec<FieldError>> {
        let root = compile::compile(schema)?;
        Ok(Self { root: Arc::new(root) })
    }

    /// Compiles the schema of a built-in kind out of definitions that refer to each other by `$ref`.
    pub fn compile_builtin(name: &str, definitions: &serde_json::Map<String, Value>) -> Option<Self> {
        compile::compile_definition(name, definitions).map(|root| Self { root })
    }

    /// What has another type than the schema wants, in the words of a decoder; only the first.
    pub fn wrong_type(&self, value: &Value) -> Option<String> {
        types::wrong_type(&self.root, value)
    }

    /// Drops fields that the schema doesn't know, and nulls where none may be; the answer is the unknown paths.
    pub fn prune(&self, value: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        pruning::prune_root(&self.root, value, &mut unknown);
        unknown
    }

    /// Fills in the schema's defaults.
    pub fn default(&self, value: &mut Value) {
        defaulting::default(&self.root, value);
    }

    /// What is invalid; errors in values that didn't change since `old` don't count.
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        validate::validate_root(&self.root, new, old)
    }

    /// As [`Schema::validate`], of a write to the status: nothing else of the object is judged by types and bounds.
    pub fn validate_status(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        validate::validate_status(&self.root, new, old)
    }

    pub(crate) fn root(&self) -> &Arc<Node> {
        &self.root
    }
}

/// As [`Schema::wrong_type`], of a part of an object that is decoded on its own.
pub(crate) fn wrong_type(node: &Node, value: &Value) -> Option<String> {
    types::wrong_type(node, value)
}

/// `path.key`, or only the key at the root.
pub(crate) fn child(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else if plain(key) {
        format!("{path}.{key}")
    } else {
        format!("{path}[{key}]")
    }
}

fn plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'$'))
}

#[cfg(test)]
pub(crate) mod tests;
