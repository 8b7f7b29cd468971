//! Defaults of pods.

use serde_json::Value;

use crate::builtin::View;
use crate::store::Context;

pub(super) fn prepare_create(_pod: &mut Value, _ctx: &mut Context<'_>, _view: &View<'_>) {}

pub(super) fn prepare_update(_old: &Value, _new: &mut Value) {}
