//! Request bodies.

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;
use tokio::time::{Duration, timeout};

use crate::limits::Limits;
use crate::protobuf;
use crate::status_error::StatusError;
use crate::store::{Body, PatchType};

/// How long a client may take to send a body.
const READ_SECONDS_MAX: u64 = 60;
/// What object bodies may be, as error messages list it.
const OBJECT_TYPES: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// Reads a whole body, but no more than the limit.
pub(crate) async fn read<B>(body: B, limit: usize) -> Result<Bytes, StatusError>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let read = timeout(Duration::from_secs(READ_SECONDS_MAX), Limited::new(body, limit).collect());
    match read.await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(StatusError::too_large(limit)),
        Ok(Err(error)) => Err(StatusError::bad_request(format!("the body cannot be read: {error}"))),
        Err(_) => Err(StatusError::new(408, "Timeout", "the body did not arrive in time")),
    }
}

/// The media type of a body without its parameters, `application/json` if there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let header = headers.get(http::header::CONTENT_TYPE).and_then(|header| header.to_str().ok());
    let media_type = header.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if media_type.is_empty() { "application/json".to_owned() } else { media_type.to_ascii_lowercase() }
}

/// Refuses unknown formats. Custom kinds have no protobuf form, which is the last one.
pub(crate) fn check_object_type(media_type: &str, builtin: bool) -> Result<(), StatusError> {
    let known = OBJECT_TYPES.get(..if builtin { 3 } else { 2 }).unwrap_or_default();
    if known.contains(&media_type) { Ok(()) } else { Err(StatusError::unsupported_media_type(known)) }
}

/// Decodes an object in one of the known formats.
pub(crate) fn decode_object(bytes: &[u8], media_type: &str) -> Result<Body, StatusError> {
    if media_type == protobuf::MEDIA_TYPE {
        return protobuf::decode(bytes).map(Body::from);
    }
    Body::decode(bytes, media_type)
}

/// Decodes a patch: a list of operations, an object, or for apply an object as YAML.
pub(crate) fn decode_patch(
    bytes: &[u8],
    patch_type: PatchType,
    limits: &Limits,
) -> Result<Body, StatusError> {
    match patch_type {
        PatchType::Json => {
            let value: Value = serde_json::from_slice(bytes)
                .map_err(|error| StatusError::bad_request(format!("error decoding patch: {error}")))?;
            let operations = value.as_array().map_or(0, Vec::len);
            if operations > limits.json_patch_operations {
                let message = format!(
                    "The allowed maximum operations in a JSON patch is {}, got {operations}",
                    limits.json_patch_operations
                );
                return Err(StatusError::new(413, "RequestEntityTooLarge", message));
            }
            Ok(value.into())
        }
        PatchType::Merge | PatchType::Strategic => Body::decode(bytes, "application/json"),
        PatchType::Apply => Body::decode(bytes, "application/yaml"),
    }
}
