//! `pods/N/log`: plain text, sent as it comes.

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use jiff::Timestamp;

use super::{LogRequest, StreamError, pod};
use crate::http::{Answer, Call};
use crate::status_error::{FieldError, StatusError};

/// Answers a request for a log.
pub(crate) async fn answer(call: &Call, name: &str) -> Result<Answer, StatusError> {
    let found = pod::find(call, name)?;
    let container = pod::container(&found, name, call.query.text("container"))?;
    let request = request(call, name, container)?;
    if let Some(reason) = pod::waiting_reason(&found, &request.container) {
        let message =
            format!("container {:?} in pod {name:?} is waiting to start: {reason}", request.container);
        return Err(StatusError::bad_request(message));
    }
    pod::node(&found, name)?;
    let shutdown = call.state.shutdown.clone();
    let limit = request.limit_bytes;
    let log = call.state.streams.logs(request).await.map_err(|error| status_of(&error))?;
    let log = log.take_until(shutdown.cancelled_owned());
    let mut answer = Response::new(Body::from_stream(limited(log, limit)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(answer)
}

/// The same stream, ended after so many bytes.
fn limited(
    log: impl futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    limit_bytes: Option<u64>,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let mut left = limit_bytes.unwrap_or(u64::MAX);
    log.take_while(move |_| std::future::ready(true)).scan((), move |(), piece| {
        let piece = match piece {
            Ok(mut piece) if left > 0 => {
                piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                left -= piece.len() as u64;
                Some(Ok(piece))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
        std::future::ready(piece)
    })
}

fn request(call: &Call, name: &str, container: String) -> Result<LogRequest, StatusError> {
    let query = &call.query;
    let invalid = |field: &str, why: &str| {
        let value = query.text(field).unwrap_or_default().into();
        let error = FieldError::invalid(field, &value, why);
        StatusError::invalid_kind("", "PodLogOptions", name, &[error])
    };
    let count = |field: &str, min: u64| -> Result<Option<u64>, StatusError> {
        let Some(number) = query.number(field)? else {
            return Ok(None);
        };
        match u64::try_from(number) {
            Ok(number) if number >= min => Ok(Some(number)),
            _ => Err(invalid(field, &format!("must be greater than or equal to {min}"))),
        }
    };
    let since_seconds = count("sinceSeconds", 1)?;
    let since_time = match query.text("sinceTime") {
        Some(text) => {
            Some(text.parse::<Timestamp>().map_err(|_| invalid("sinceTime", "must be an RFC 3339 time"))?)
        }
        None => None,
    };
    let since = match since_seconds {
        Some(seconds) => {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            Timestamp::from_second(Timestamp::now().as_second().saturating_sub(seconds)).ok()
        }
        None => since_time,
    };
    Ok(LogRequest {
        namespace: call.namespace.clone().unwrap_or_default(),
        pod: name.to_owned(),
        container,
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        tail_lines: count("tailLines", 0)?,
        since,
        limit_bytes: count("limitBytes", 1)?,
    })
}

/// What the client sees of a stream that could not be opened.
pub(super) fn status_of(error: &StreamError) -> StatusError {
    match error {
        StreamError::BadRequest(text) => StatusError::bad_request(text.clone()),
        StreamError::NotFound(text) => StatusError::new(404, "NotFound", text.clone()),
        StreamError::Internal(text) => StatusError::internal(text),
    }
}
