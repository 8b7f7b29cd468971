//! Structural schemas: pruning, defaulting, validation; and the decoding of bodies.

pub mod decode;

use serde_json::Value;

use crate::status_error::FieldError;

/// A compiled structural schema.
#[derive(Clone, Debug, Default)]
pub struct Schema {}

impl Schema {
    /// What has another type than the schema wants, in words; only the first.
    pub fn wrong_type(&self, _value: &Value) -> Option<String> {
        None
    }

    /// Drops fields that the schema doesn't know; the answer is their paths.
    pub fn prune(&self, _value: &mut Value) -> Vec<String> {
        Vec::new()
    }

    /// Fills in defaults.
    pub fn default(&self, _value: &mut Value) {}

    /// What is invalid; errors in values that didn't change since `old` don't count.
    pub fn validate(&self, _new: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        Vec::new()
    }
}
