//! Get, list and watch.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use super::accept::{Encoding, Form, Offer, negotiate};
use super::respond::{self, Answer};
use super::{Call, Refusal, options};
use crate::meta;
use crate::status_error::StatusError;
use crate::store::{ListResult, Subresource};
use crate::table::{IncludeObject, Printer};
use crate::watch_stream;

/// How long a list waits for a resource version that isn't there yet.
const FUTURE_VERSION_SECONDS: u64 = 3;

/// Answers one object, its status or its scale.
pub(super) fn get(call: &Call) -> Result<Answer, Refusal> {
    let form = negotiate(&call.headers, Offer::Objects)?;
    let subresource = subresource(call)?;
    let target = call.target(call.name.as_deref().unwrap_or_default());
    let object = call.state.read(|store| store.get(&target, subresource))?;
    object_answer(call, form, StatusCode::OK, &object)
}

/// The part of an object that the path names.
pub(super) fn subresource(call: &Call) -> Result<Subresource, Refusal> {
    match call.subresource.as_deref() {
        None => Ok(Subresource::Main),
        Some("status") => Ok(Subresource::Status),
        Some("scale") => Ok(Subresource::Scale),
        Some("finalize") => Ok(Subresource::Finalize),
        Some(_) => Err(Refusal::PageNotFound),
    }
}

/// One object in the form that the client asked for.
pub(super) fn object_answer(
    call: &Call,
    form: Form,
    status: StatusCode,
    object: &Value,
) -> Result<Answer, Refusal> {
    match form {
        Form::Table => {
            let metadata = json!({ "resourceVersion": meta::resource_version(object) });
            let table = Printer::of(&call.resource).table(
                metadata,
                [object],
                include_object(call)?,
                Timestamp::now(),
            );
            Ok(respond::value(status, Encoding::Json, &table))
        }
        Form::Metadata => {
            let partial = crate::table::partial_object_metadata(object);
            Ok(respond::value(status, Encoding::Json, &partial))
        }
        Form::Plain(encoding) => Ok(respond::value(status, encoding, object)),
        Form::Discovery(_) => Err(StatusError::not_acceptable(super::accept::MEDIA_TYPES).into()),
    }
}

fn include_object(call: &Call) -> Result<IncludeObject, StatusError> {
    let text = call.query.text("includeObject").unwrap_or_default();
    IncludeObject::parse(text)
        .ok_or_else(|| StatusError::bad_request(format!("unrecognized includeObject value: {text:?}")))
}

/// Answers a page of a list.
pub(super) async fn list(call: &Call) -> Result<Answer, Refusal> {
    let form = negotiate(&call.headers, Offer::Objects)?;
    let request = options::list(call)?;
    let deadline = Instant::now() + Duration::from_secs(FUTURE_VERSION_SECONDS);
    let mut commits = call.state.commits();
    let result = loop {
        match call.state.read(|store| store.list(&call.resource, &request)) {
            Err(error) if error.is_version_in_future() => {
                if timeout_at(deadline, commits.changed()).await.is_err() {
                    return Err(error.into());
                }
            }
            result => break result?,
        }
    };
    list_answer(call, form, &result)
}

/// A page of a list in the form that the client asked for.
pub(super) fn list_answer(call: &Call, form: Form, result: &ListResult) -> Result<Answer, Refusal> {
    let metadata = list_metadata(result);
    let items = result.items.iter().map(|item| &**item);
    let (kind, api_version) = match form {
        Form::Table => {
            let table =
                Printer::of(&call.resource).table(metadata, items, include_object(call)?, Timestamp::now());
            return Ok(respond::value(StatusCode::OK, Encoding::Json, &table));
        }
        Form::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        Form::Plain(_) => (call.resource.list_kind.clone(), call.resource.api_version()),
        Form::Discovery(_) => return Err(StatusError::not_acceptable(super::accept::MEDIA_TYPES).into()),
    };
    let head = json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata });
    if form == Form::Plain(Encoding::Yaml) {
        let mut list = head;
        if let Some(map) = list.as_object_mut() {
            map.insert("items".to_owned(), items.cloned().collect());
        }
        return Ok(respond::value(StatusCode::OK, Encoding::Yaml, &list));
    }
    // Written by hand, because copying ten thousand objects only to drop two fields of each is a waste.
    let mut bytes = serde_json::to_vec(&head).map_err(StatusError::internal)?;
    bytes.pop();
    bytes.extend_from_slice(b",\"items\":[");
    for (index, item) in items.enumerate() {
        if index > 0 {
            bytes.push(b',');
        }
        let written = match form {
            Form::Metadata => serde_json::to_writer(&mut bytes, &crate::table::partial_object_metadata(item)),
            // The items of built-in lists don't repeat what the list says.
            _ if call.resource.builtin => serde_json::to_writer(&mut bytes, &WithoutType(item)),
            _ => serde_json::to_writer(&mut bytes, item),
        };
        written.map_err(StatusError::internal)?;
    }
    bytes.extend_from_slice(b"]}");
    Ok(respond::json_body(StatusCode::OK, bytes.into()))
}

/// An object less its `kind` and `apiVersion`.
struct WithoutType<'a>(&'a Value);

impl serde::Serialize for WithoutType<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(map) => serializer
                .collect_map(map.iter().filter(|(key, _)| !matches!(key.as_str(), "kind" | "apiVersion"))),
            other => other.serialize(serializer),
        }
    }
}

fn list_metadata(result: &ListResult) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), result.resource_version.to_string().into());
    if let Some(token) = &result.continue_token {
        metadata.insert("continue".to_owned(), token.as_str().into());
        if let Some(remaining) = result.remaining {
            metadata.insert("remainingItemCount".to_owned(), remaining.into());
        }
    }
    Value::Object(metadata)
}

/// Opens a watch.
pub(super) fn watch(call: Call) -> Result<Answer, Refusal> {
    let rendering = match negotiate(&call.headers, Offer::Objects)? {
        Form::Table => {
            watch_stream::Rendering::Table(Box::new(Printer::of(&call.resource)), include_object(&call)?)
        }
        Form::Metadata => watch_stream::Rendering::Metadata,
        Form::Plain(Encoding::Json) => watch_stream::Rendering::Objects,
        Form::Plain(Encoding::Yaml) | Form::Discovery(_) => {
            return Err(StatusError::not_acceptable(&["application/json"]).into());
        }
    };
    let request = options::watch(&call)?;
    let timeout_seconds =
        call.query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
    let slot = Arc::clone(&call.state.watches).try_acquire_owned().map_err(|_| {
        StatusError::too_many_requests("too many watches are open, please try again later", 1)
    })?;
    let start = call.state.read(|store| store.watch_start(&call.resource, &request))?;
    let settings = watch_stream::Settings {
        rendering,
        bookmarks: request.allow_bookmarks,
        timeout: timeout_seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs),
    };
    Ok(watch_stream::open(call.state, start, settings, slot))
}
