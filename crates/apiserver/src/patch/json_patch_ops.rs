//! JSON patch, RFC 6902.

use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation};
use serde_json::Value;

use crate::limits::{Limits, NESTING_MAX, depth};
use crate::schema::go_json_type;
use crate::status_error::StatusError;
use crate::store::encoded_length;

/// The document after all operations, or the reason why one of them failed; then none counts.
pub fn apply_json(document: &Value, patch: &Value, limits: &Limits) -> Result<Value, StatusError> {
    let count = patch.as_array().map_or(0, Vec::len);
    let max = limits.json_patch_operations;
    if count > max {
        let message = format!("The allowed maximum operations in a JSON patch is {max}, got {count}");
        return Err(StatusError::new(413, "RequestEntityTooLarge", message));
    }
    let undecodable = |found: &Value, wanted: &str| {
        let found = go_json_type(found);
        let why =
            format!("json: cannot unmarshal {found} into Go value of type {wanted}handlers.jsonPatchOp");
        StatusError::bad_request(format!("error decoding patch: {why}"))
    };
    let list = patch.as_array().ok_or_else(|| undecodable(patch, "[]"))?;
    if let Some(other) = list.iter().find(|operation| !operation.is_object()) {
        return Err(undecodable(other, ""));
    }
    let Patch(operations) =
        serde_json::from_value(patch.clone()).map_err(|_| StatusError::unprocessable_patch())?;
    let mut document = document.clone();
    let mut copied = 0;
    for operation in operations {
        copied += check_growth(&document, &operation)?;
        // Each copy may double what is there, so their sum is limited and not only their number.
        if copied > limits.body_bytes {
            return Err(StatusError::too_large(limits.body_bytes));
        }
        let operation = replacing_adds(&document, operation);
        json_patch::patch(&mut document, &[operation]).map_err(|_| StatusError::unprocessable_patch())?;
    }
    Ok(document)
}

/// Kubernetes takes the replacement of a member that isn't there for its addition.
fn replacing_adds(document: &Value, operation: PatchOperation) -> PatchOperation {
    match operation {
        PatchOperation::Replace(ReplaceOperation { path, value })
            if path.resolve(document).is_err()
                && path
                    .parent()
                    .is_some_and(|parent| parent.resolve(document).is_ok_and(Value::is_object)) =>
        {
            PatchOperation::Add(AddOperation { path, value })
        }
        other => other,
    }
}

/// Refuses what would nest too deeply; says how many bytes the operation copies.
fn check_growth(document: &Value, operation: &PatchOperation) -> Result<usize, StatusError> {
    let (value, copies) = match operation {
        PatchOperation::Add(add) => (Some(&add.value), false),
        PatchOperation::Replace(replace) => (Some(&replace.value), false),
        PatchOperation::Move(step) => (document.pointer(step.from.as_str()), false),
        PatchOperation::Copy(copy) => (document.pointer(copy.from.as_str()), true),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => (None, false),
    };
    let Some(value) = value else { return Ok(0) };
    let steps = operation.path().as_str().matches('/').count();
    if steps + depth(value) > NESTING_MAX {
        return Err(StatusError::unprocessable_patch());
    }
    Ok(if copies { encoded_length(value) } else { 0 })
}
