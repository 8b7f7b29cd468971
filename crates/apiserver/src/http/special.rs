//! Subresources that are neither an object nor a part of one: streams, actions, tokens.

use http::StatusCode;
use http::request::Parts;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::respond::{self, Answer};
use super::{Call, Connection, Refusal, body, options};
use crate::auth::access::{Action, ResourceAction};
use crate::auth::service_account::{BoundObject, ISSUER, LIFE_SECONDS_DEFAULT, LIFE_SECONDS_MIN};
use crate::resource::split_api_version;
use crate::status_error::{FieldError, StatusError};
use crate::streams;

/// Longest life of a token, in seconds.
const LIFE_SECONDS_MAX: i64 = 1 << 32;

/// Whether the subresource is answered here.
pub(super) fn is_special(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "eviction" | "binding" | "token")
}

/// Answers such a subresource.
pub(super) async fn answer(
    call: Call,
    connection: &Connection,
    subresource: &str,
    parts: Parts,
    body: Incoming,
) -> Result<Answer, Refusal> {
    let name = call.name.clone().unwrap_or_default();
    if call.method == "GET" && matches!(subresource, "exec" | "attach" | "portforward") {
        // A stream that is opened by GET changes as much as one that is opened by POST.
        let action = ResourceAction {
            verb: "create".to_owned(),
            resource: call.resource.plural.clone(),
            subresource: subresource.to_owned(),
            namespace: call.namespace.clone().unwrap_or_default(),
            name: name.clone(),
            ..ResourceAction::default()
        };
        call.state.authorize(&call.user, &Action::Resource(action))?;
    }
    match (subresource, call.method.as_str()) {
        ("log", "GET") => Ok(streams::log::answer(&call, &name).await?),
        ("exec", "GET" | "POST") => Ok(streams::exec::answer(call, connection, &name, parts).await?),
        ("attach", "GET" | "POST") => Ok(streams::exec::attach(call, connection, &name, parts).await?),
        ("portforward", "GET" | "POST") => {
            Ok(streams::port_forward::answer(call, connection, &name, parts).await?)
        }
        ("eviction", "POST") => eviction(&call, &name, body).await,
        ("binding", "POST") => binding(&call, &name, body).await,
        ("token", "POST") => token(&call, &name, body).await,
        (_, method) => Err(StatusError::method_not_allowed(&call.resource, method).into()),
    }
}

async fn decoded(call: &Call, body: Incoming) -> Result<Value, StatusError> {
    let media_type = body::media_type(&call.headers);
    body::check_object_type(&media_type, call.resource.builtin)?;
    let bytes = body::read(body, call.state.limits.body_bytes).await?;
    Ok(body::decode_object(&bytes, &media_type)?.value)
}

async fn eviction(call: &Call, name: &str, body: Incoming) -> Result<Answer, Refusal> {
    let options = options::write(call, "CreateOptions")?;
    let eviction = decoded(call, body).await?;
    let target = call.target(name);
    let status = call.state.write(|store, context| store.evict(context, &target, &eviction, &options))?;
    Ok(respond::json_body(StatusCode::CREATED, respond::json_bytes(&status)))
}

async fn binding(call: &Call, name: &str, body: Incoming) -> Result<Answer, Refusal> {
    let options = options::write(call, "CreateOptions")?;
    let binding = decoded(call, body).await?;
    let target = call.target(name);
    let status = call.state.write(|store, context| store.bind(context, &target, &binding, &options))?;
    Ok(respond::json_body(StatusCode::CREATED, respond::json_bytes(&status)))
}

/// `serviceaccounts/N/token`: a token, in the request that asked for it.
async fn token(call: &Call, name: &str, body: Incoming) -> Result<Answer, Refusal> {
    let mut request = decoded(call, body).await?;
    let namespace = call.namespace.as_deref().unwrap_or_default();
    let spec = request.get("spec").cloned().unwrap_or_else(|| json!({}));
    let life_seconds = match spec.get("expirationSeconds") {
        None | Some(Value::Null) => LIFE_SECONDS_DEFAULT,
        Some(wanted) => check_life(wanted)?,
    };
    let listed = spec.get("audiences").and_then(Value::as_array);
    let audiences: Vec<String> =
        listed.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let bound = bound_object(&spec)?;
    let now = jiff::Timestamp::now();
    let token = call.state.issue_token(namespace, name, bound.as_ref(), &audiences, life_seconds)?;
    let expires = jiff::Timestamp::from_second(now.as_second().saturating_add(life_seconds));
    if let Some(map) = request.as_object_mut() {
        map.insert(
            "metadata".to_owned(),
            json!({ "name": name, "namespace": namespace, "creationTimestamp": null }),
        );
        let audiences = if audiences.is_empty() { vec![ISSUER.to_owned()] } else { audiences };
        let mut answered = spec;
        if let Some(spec) = answered.as_object_mut() {
            spec.insert("audiences".to_owned(), json!(audiences));
            spec.insert("expirationSeconds".to_owned(), life_seconds.into());
        }
        map.insert("spec".to_owned(), answered);
        let expires = expires.map(|at| at.to_string()).unwrap_or_default();
        map.insert("status".to_owned(), json!({ "token": token, "expirationTimestamp": expires }));
    }
    Ok(respond::json_body(StatusCode::CREATED, respond::json_bytes(&request)))
}

fn check_life(wanted: &Value) -> Result<i64, StatusError> {
    let refuse = |why: &str| {
        let error = FieldError::invalid("spec.expirationSeconds", wanted, why);
        StatusError::invalid_kind("authentication.k8s.io", "TokenRequest", "", &[error])
    };
    match wanted.as_i64() {
        Some(seconds) if seconds < LIFE_SECONDS_MIN => {
            Err(refuse("may not specify a duration less than 10 minutes"))
        }
        Some(seconds) if seconds > LIFE_SECONDS_MAX => {
            Err(refuse("may not specify a duration larger than 2^32 seconds"))
        }
        Some(seconds) => Ok(seconds),
        None => Err(refuse("must be a number of seconds")),
    }
}

/// What the token is to be bound to.
fn bound_object(spec: &Value) -> Result<Option<BoundObject>, StatusError> {
    let Some(reference) = spec.get("boundObjectRef").filter(|reference| reference.is_object()) else {
        return Ok(None);
    };
    let text = |key: &str| reference.get(key).and_then(Value::as_str).unwrap_or_default();
    if !matches!(text("kind"), "Pod" | "Node" | "Secret") || text("apiVersion") != "v1" {
        let (group, version) = split_api_version(text("apiVersion"));
        let message = format!("cannot bind token to object of type {group}/{version}, Kind={}", text("kind"));
        return Err(StatusError::bad_request(message));
    }
    let uid = Some(text("uid").to_owned()).filter(|uid| !uid.is_empty());
    Ok(Some(BoundObject { kind: text("kind").to_owned(), name: text("name").to_owned(), uid }))
}
