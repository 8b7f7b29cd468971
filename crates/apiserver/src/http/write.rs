//! Create, update, patch and delete.

use http::StatusCode;
use hyper::body::Incoming;
use serde_json::Value;

use std::sync::Arc;

use super::accept::{Form, Offer, negotiate};
use super::admitted::{self, Repeated};
use super::respond::{self, Answer};
use super::{Call, Refusal, body, options, read, status_of_write};
use crate::auth::review;
use crate::meta;
use crate::status_error::StatusError;
use crate::store::{Body, DeleteOptions, ListRequest, PatchType, Subresource, Target, WriteOptions, Written};

/// POST on a collection.
pub(super) async fn create(call: &Call, body: Incoming) -> Result<Answer, Refusal> {
    let form = negotiate(&call.headers, Offer::Objects)?;
    let options = options::write(call, "CreateOptions")?;
    let body = object_body(call, body).await?;
    let state = &call.state;
    let kind = &call.resource.gvk.kind;
    if is_review(call) {
        let review = if kind == "TokenReview" {
            review::answer_token(body.value, &state.authenticator, &**state, jiff::Timestamp::now())
        } else {
            let answered = state.read(|store| review::answer(kind, body.value, &call.user, store.roles()));
            answered.ok_or(Refusal::PageNotFound)??
        };
        return read::object_answer(call, form, StatusCode::CREATED, &review);
    }
    let body = Repeated::new(call, body);
    let written = admitted::write(call, options.requester.as_ref(), body, |store, context, body| {
        store.create(context, &call.resource, call.namespace.as_deref(), body, &options)
    });
    written_answer(call, &options, &written.await?)
}

fn is_review(call: &Call) -> bool {
    let group = call.resource.gvk.group.as_str();
    call.resource.builtin && matches!(group, "authentication.k8s.io" | "authorization.k8s.io")
}

/// PUT of an object, its status, its scale, or a namespace's finalizers.
pub(super) async fn update(call: &Call, body: Incoming) -> Result<Answer, Refusal> {
    negotiate(&call.headers, Offer::Objects)?;
    let options = options::write(call, "UpdateOptions")?;
    let subresource = read::subresource(call)?;
    let body = object_body(call, body).await?;
    let target = call.target(call.name.as_deref().unwrap_or_default());
    let body = Repeated::new(call, body);
    let written = admitted::write(call, options.requester.as_ref(), body, |store, context, body| {
        store.update(context, &target, subresource, body, &options)
    });
    written_answer(call, &options, &written.await?)
}

/// PATCH of an object, its status or its scale.
pub(super) async fn patch(call: &Call, body: Incoming) -> Result<Answer, Refusal> {
    negotiate(&call.headers, Offer::Objects)?;
    let media_type = body::media_type(&call.headers);
    let patch_type = PatchType::of_content_type(&media_type).ok_or_else(|| {
        let custom =
            ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
        let builtin = [custom[0], custom[1], "application/strategic-merge-patch+json", custom[2]];
        StatusError::unsupported_media_type(if call.resource.builtin { &builtin } else { &custom })
    })?;
    let mut options = options::write(call, "PatchOptions")?;
    if patch_type == PatchType::Apply {
        // Only a name that was given on purpose may own fields by apply.
        options.field_manager = call.query.text("fieldManager").map(str::to_owned);
    }
    let subresource = read::subresource(call)?;
    let bytes = body::read(body, call.state.limits.body_bytes).await?;
    let patch = body::decode_patch(&bytes, patch_type, &call.state.limits)?;
    let target = call.target(call.name.as_deref().unwrap_or_default());
    let patch = Repeated::new(call, patch);
    let written = admitted::write(call, options.requester.as_ref(), patch, |store, context, patch| {
        store.patch(context, &target, subresource, patch_type, patch, &options)
    });
    written_answer(call, &options, &written.await?)
}

/// DELETE of an object.
pub(super) async fn delete(call: &Call, body: Incoming) -> Result<Answer, Refusal> {
    let form = negotiate(&call.headers, Offer::Objects)?;
    if read::subresource(call)? != Subresource::Main {
        return Err(StatusError::method_not_allowed(&call.resource, "delete").into());
    }
    let options = options::delete(call, &options_body(call, body).await?)?;
    let target = call.target(call.name.as_deref().unwrap_or_default());
    let nothing = Repeated::new(call, ());
    let outcome = admitted::write(call, options.requester.as_ref(), nothing, |store, context, ()| {
        store.delete(context, &target, &options)
    });
    let answer = outcome.await?.response(&call.resource);
    let mut answer = if answer.get("kind").and_then(Value::as_str) == Some("Status") {
        respond::json_body(StatusCode::OK, respond::json_bytes(&answer))
    } else {
        read::object_answer(call, form, StatusCode::OK, &answer)?
    };
    respond::warn(&mut answer, &options.requester.map(|requester| requester.warnings()).unwrap_or_default());
    Ok(answer)
}

/// DELETE of a collection.
pub(super) async fn delete_collection(call: &Call, body: Incoming) -> Result<Answer, Refusal> {
    let form = negotiate(&call.headers, Offer::Objects)?;
    let request = options::list(call)?;
    let options = options::delete(call, &options_body(call, body).await?)?;
    if call.state.read(|store| store.admission().has_webhooks()) {
        return delete_one_by_one(call, form, &request, &options).await;
    }
    let deleted = call
        .state
        .write(|store, context| store.delete_collection(context, &call.resource, &request, &options))?;
    read::list_answer(call, form, &deleted)
}

/// Webhooks are asked about each object of a collection.
async fn delete_one_by_one(
    call: &Call,
    form: Form,
    request: &ListRequest,
    options: &DeleteOptions,
) -> Result<Answer, Refusal> {
    let mut listed = call.state.read(|store| store.list(&call.resource, request))?;
    let mut deleted = Vec::with_capacity(listed.items.len());
    for object in std::mem::take(&mut listed.items) {
        let target = Target {
            resource: Arc::clone(&call.resource),
            namespace: call.resource.namespaced.then(|| meta::namespace(&object).to_owned()),
            name: meta::name(&object).to_owned(),
        };
        let nothing = Repeated::new(call, ());
        let outcome = admitted::write(call, options.requester.as_ref(), nothing, |store, context, ()| {
            store.delete(context, &target, options)
        });
        match outcome.await {
            Ok(outcome) => deleted.push(outcome.object),
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    listed.items = deleted;
    read::list_answer(call, form, &listed)
}

async fn object_body(call: &Call, body: Incoming) -> Result<Body, StatusError> {
    let media_type = body::media_type(&call.headers);
    body::check_object_type(&media_type, call.resource.builtin)?;
    let bytes = body::read(body, call.state.limits.body_bytes).await?;
    body::decode_resource(&bytes, &media_type, &call.resource)
}

/// The body of a delete, which may be empty.
pub(super) async fn options_body(call: &Call, body: Incoming) -> Result<Value, StatusError> {
    let bytes = body::read(body, call.state.limits.body_bytes).await?;
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let media_type = body::media_type(&call.headers);
    body::check_object_type(&media_type, true)?;
    Ok(body::decode_object(&bytes, &media_type)?.value)
}

fn written_answer(call: &Call, options: &WriteOptions, written: &Written) -> Result<Answer, Refusal> {
    let form = negotiate(&call.headers, Offer::Objects)?;
    let mut answer = if read::subresource(call)? == Subresource::Scale {
        // A scale has no columns of its own.
        respond::json_body(status_of_write(written.created), respond::json_bytes(&written.object))
    } else {
        read::object_answer(call, form, status_of_write(written.created), &written.object)?
    };
    respond::warn(&mut answer, &written.warnings);
    respond::warn(
        &mut answer,
        &options.requester.as_ref().map(|requester| requester.warnings()).unwrap_or_default(),
    );
    Ok(answer)
}
