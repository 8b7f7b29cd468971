//! Rules of built-in kinds.

use serde_json::Value;

use crate::limits::Limits;
use crate::resource::{Registry, ResourceInfo};
use crate::status_error::FieldError;

/// What is invalid in an object of a built-in kind.
pub fn validate(
    _info: &ResourceInfo,
    _new: &Value,
    _old: Option<&Value>,
    _limits: &Limits,
    _registry: &Registry,
) -> Vec<FieldError> {
    Vec::new()
}
