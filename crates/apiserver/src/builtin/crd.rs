//! CustomResourceDefinitions.

use jiff::Timestamp;
use serde_json::Value;

pub(super) fn prepare_create(_crd: &mut Value) {}

pub(super) fn prepare_update(_old: &Value, _new: &mut Value) {}

pub(super) fn mark_deleting(_crd: &mut Value, _now: Timestamp) {}
