//! Request bodies.

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tokio::time::{Duration, timeout};

use crate::limits::Limits;
use crate::protobuf;
use crate::resource::ResourceInfo;
use crate::schema::decode::syntax::syntax_error;
use crate::schema::go_json_type;
use crate::status_error::StatusError;
use crate::store::{Body, PatchType};

/// How long a client may take to send a body.
const READ_SECONDS_MAX: u64 = 60;
const JSON: &str = "application/json";
/// What the decoder reads first, as Go names such a type.
const TYPE_META: &str =
    r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
/// What object bodies may be, as error messages list it.
const OBJECT_TYPES: [&str; 3] = [JSON, "application/yaml", protobuf::MEDIA_TYPE];

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

/// Refuses unknown formats. Custom kinds have no protobuf form, though Kubernetes lists it for them as well.
pub(crate) fn check_object_type(media_type: &str, builtin: bool) -> Result<(), StatusError> {
    let known = OBJECT_TYPES.contains(&media_type) && (builtin || media_type != protobuf::MEDIA_TYPE);
    if known { Ok(()) } else { Err(StatusError::unsupported_media_type(&OBJECT_TYPES)) }
}

/// Decodes an object in one of the known formats.
pub(crate) fn decode_object(bytes: &[u8], media_type: &str) -> Result<Body, StatusError> {
    if media_type == protobuf::MEDIA_TYPE {
        return protobuf::decode(bytes).map(Body::from);
    }
    Body::decode(bytes, media_type)
}

/// Decodes an object that is to be stored; what can't be one is refused in the words of Kubernetes' decoder.
pub(crate) fn decode_resource(
    bytes: &[u8],
    media_type: &str,
    info: &ResourceInfo,
) -> Result<Body, StatusError> {
    let unrecognized = |why: &str| {
        let (kind, summary) = (&info.gvk.kind, summary(bytes));
        let message =
            format!("the object provided is unrecognized (must be of type {kind}): {why} ({summary})");
        StatusError::bad_request(message)
    };
    let no_kind = |why: &str| unrecognized(&format!("couldn't get version/kind; json parse error: {why}"));
    let body = match decode_object(bytes, media_type) {
        Err(error) if media_type == JSON => {
            return Err(syntax_error(bytes).map_or(error, |why| no_kind(&why)));
        }
        decoded => decoded?,
    };
    let Some(map) = body.value.as_object() else {
        let found = go_json_type(&body.value);
        return Err(no_kind(&format!("json: cannot unmarshal {found} into Go value of type {TYPE_META}")));
    };
    for key in ["apiVersion", "kind"] {
        if let Some(other) = map.get(key).filter(|value| !value.is_string() && !value.is_null()) {
            let found = go_json_type(other);
            return Err(no_kind(&format!(
                "json: cannot unmarshal {found} into Go struct field .{key} of type string"
            )));
        }
    }
    // Custom objects have to say themselves what they are.
    let lacks = |key: &str| !info.builtin && map.get(key).and_then(Value::as_str).is_none_or(str::is_empty);
    if lacks("kind") {
        let text = String::from_utf8_lossy(bytes);
        return Err(unrecognized(&format!("Object 'Kind' is missing in '{text}'")));
    }
    if lacks("apiVersion") {
        return Err(StatusError::other_version("", &info.api_version()));
    }
    Ok(body)
}

/// The beginning of a body, in hexadecimal if it isn't that of an object.
fn summary(bytes: &[u8]) -> String {
    const BYTES_MAX: usize = 30;
    let (shown, rest) = bytes.split_at(bytes.len().min(BYTES_MAX));
    let text = match shown.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if rest.is_empty() { text } else { format!("{text} ...") }
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
                .map_err(|error| undecodable_patch(&syntax_error(bytes).unwrap_or(error.to_string())))?;
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
        PatchType::Merge => {
            let body = Body::decode(bytes, JSON)
                .map_err(|error| syntax_error(bytes).map_or(error, |why| undecodable_patch(&why)))?;
            match &body.value {
                Value::Null => Err(StatusError::bad_request("Invalid JSON Patch")),
                Value::Object(_) => Ok(body),
                other => Err(undecodable_patch(&not_a_map(other))),
            }
        }
        PatchType::Strategic => {
            let body = Body::decode(bytes, JSON)
                .map_err(|error| syntax_error(bytes).map_or(error, StatusError::bad_request))?;
            match &body.value {
                Value::Null => Ok(Value::Object(Map::new()).into()),
                Value::Object(_) => Ok(body),
                other => Err(StatusError::bad_request(not_a_map(other))),
            }
        }
        PatchType::Apply => Body::decode(bytes, "application/yaml"),
    }
}

fn undecodable_patch(why: &str) -> StatusError {
    StatusError::bad_request(format!("error decoding patch: {why}"))
}

fn not_a_map(value: &Value) -> String {
    format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", go_json_type(value))
}
