//! Answers: bodies, headers, and `Status` objects for failures.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WARNING};
use http::{HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::accept::Encoding;
use crate::status_error::StatusError;

/// An answer on its way out.
pub(crate) type Answer = Response<Body>;

/// Bytes of a JSON value; values built here always have text keys, so writing can't fail.
pub(crate) fn json_bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}

/// A JSON answer out of bytes that are JSON already.
pub(crate) fn json_body(status: StatusCode, bytes: Bytes) -> Answer {
    with_type(status, "application/json", bytes)
}

/// An answer out of a value.
pub(crate) fn value(status: StatusCode, encoding: Encoding, value: &Value) -> Answer {
    match encoding {
        Encoding::Json => json_body(status, json_bytes(value)),
        Encoding::Yaml => match serde_saphyr::to_string(value) {
            Ok(text) => with_type(status, "application/yaml", text.into()),
            Err(error) => failure(&StatusError::internal(error)),
        },
    }
}

/// A plain text answer.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", text.into())
}

/// What Kubernetes answers on paths that nobody serves.
pub(crate) fn page_not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// A failure as `Status`.
pub(crate) fn failure(error: &StatusError) -> Answer {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json_body(status, json_bytes(&error.to_json()));
    if let Some(seconds) = error.details.as_ref().and_then(|details| details.retry_after_seconds) {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// Adds one `Warning` header per text.
pub(crate) fn warn(answer: &mut Answer, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(header) = HeaderValue::try_from(format!("299 - \"{quoted}\"")) {
            answer.headers_mut().append(WARNING, header);
        }
    }
}

fn with_type(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Answer {
    let mut answer = Response::new(Body::from(bytes));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer
}
