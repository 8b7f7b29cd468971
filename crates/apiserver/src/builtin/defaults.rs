//! Defaults of built-in kinds.

use serde_json::Value;

use crate::resource::ResourceInfo;

/// Fills in the defaults of a built-in kind.
pub fn default(_info: &ResourceInfo, _object: &mut Value) {}

pub(super) fn initial_status(_info: &ResourceInfo, _object: &mut Value) {}

pub(super) fn keep_service_addresses(_old: &Value, _new: &mut Value) {}
