//! JSON patch, RFC 6902.

use serde_json::Value;

use crate::status_error::StatusError;

/// The document after all operations, or the reason why one of them failed; then none counts.
pub fn apply_json(document: &Value, patch: &Value, operations_max: usize) -> Result<Value, StatusError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > operations_max {
        let message =
            format!("The allowed maximum operations in a JSON patch is {operations_max}, got {count}");
        return Err(StatusError::new(413, "RequestEntityTooLarge", message));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| StatusError::bad_request(format!("error decoding patch: {error}")))?;
    let mut document = document.clone();
    json_patch::patch(&mut document, &patch).map_err(|_| StatusError::unprocessable_patch())?;
    Ok(document)
}
