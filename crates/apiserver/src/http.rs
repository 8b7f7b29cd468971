//! Requests: who asks, what for, and which part of the server answers.

mod accept;
mod admitted;
mod body;
pub(crate) mod cache;
mod documents;
mod options;
mod path;
mod query;
mod read;
mod respond;
mod special;
mod write;

use std::sync::Arc;

use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;

use crate::auth::User;
use crate::auth::access::{Action, ResourceAction};
use crate::auth::impersonation::Impersonation;
use crate::resource::ResourceInfo;
use crate::selector::FieldSelector;
use crate::server::state::State;
use crate::status_error::StatusError;
use crate::store::Target;
use path::{ResourcePath, Route};

pub(crate) use query::{Query, percent_decode};
pub(crate) use respond::Answer;

/// What requests know of their connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The user that the client's certificate names.
    pub(crate) certificate_user: Option<User>,
    /// Ended when the connection is cut; upgraded streams outlive the connection's own task.
    pub(crate) cut: tokio_util::sync::CancellationToken,
}

/// Why a request has no ordinary answer.
pub(crate) enum Refusal {
    /// A `Status`.
    Status(StatusError),
    /// Plain `404 page not found`, for what isn't served at all.
    PageNotFound,
}

impl From<StatusError> for Refusal {
    fn from(error: StatusError) -> Self {
        Self::Status(error)
    }
}

/// A request about a resource, as far as it is understood before its body is read.
pub(crate) struct Call {
    pub(crate) state: Arc<State>,
    pub(crate) user: Arc<User>,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    pub(crate) resource: Arc<ResourceInfo>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Call {
    /// The object that the path names.
    pub(crate) fn target(&self, name: &str) -> Target {
        Target {
            resource: Arc::clone(&self.resource),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        }
    }
}

/// Answers a request.
pub(crate) async fn handle(state: Arc<State>, connection: &Connection, request: Request<Incoming>) -> Answer {
    let method = request.method().clone();
    let uri = request.uri().clone();
    let answer = match answer(state, connection, request).await {
        Ok(answer) => answer,
        Err(Refusal::Status(error)) => respond::failure(&error),
        Err(Refusal::PageNotFound) => respond::page_not_found(),
    };
    tracing::debug!(%method, %uri, code = answer.status().as_u16(), "answered");
    answer
}

async fn answer(
    state: Arc<State>,
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let certificate_user = connection.certificate_user.as_ref();
    let authenticator = &state.authenticator;
    let user =
        authenticator.authenticate(request.headers(), certificate_user, &*state, jiff::Timestamp::now())?;
    let user = impersonated(&state, user, request.headers())?;
    let route = Route::parse(request.uri().path());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let action = action(&route, request.method(), request.uri().path(), &query);
    if let Err(error) = state.authorize(&user, &action) {
        state.audit.note(&user, &action, true);
        return Err(error.into());
    }
    match route {
        Route::Resource(path) => {
            let (server, asks) = (Arc::clone(&state), user.clone());
            let answered = resource(state, connection, user, path, query, request).await;
            server.audit.note(&asks, &action, is_forbidden(&answered));
            answered
        }
        Route::Unknown => Err(Refusal::PageNotFound),
        other if request.method() == Method::GET || request.method() == Method::HEAD => {
            documents::answer(&state, &other, request.headers(), &query)
        }
        _ => {
            let message = "the server does not allow this method on the requested resource";
            Err(StatusError::new(405, "MethodNotAllowed", message).into())
        }
    }
}

fn is_forbidden(answered: &Result<Answer, Refusal>) -> bool {
    match answered {
        Ok(answer) => answer.status() == StatusCode::FORBIDDEN,
        Err(Refusal::Status(error)) => error.code == StatusCode::FORBIDDEN.as_u16(),
        Err(Refusal::PageNotFound) => false,
    }
}

/// What the request wants to do, in the terms of access rules.
fn action(route: &Route, method: &Method, path: &str, query: &Query) -> Action {
    let Route::Resource(resource) = route else {
        return Action::Path { path: path.to_owned(), verb: method.as_str().to_lowercase() };
    };
    let named = resource.name.is_some();
    let verb = match method.as_str() {
        "GET" | "HEAD" if query.flag("watch") => "watch",
        "GET" | "HEAD" if named => "get",
        "GET" | "HEAD" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if named => "delete",
        "DELETE" => "deletecollection",
        other => other,
    };
    let namespace = match (&resource.namespace, resource.resource.as_str(), &resource.name) {
        (Some(namespace), ..) => namespace.clone(),
        // A namespace is in itself as far as access is concerned.
        (None, "namespaces", Some(name)) if resource.group.is_empty() => name.clone(),
        _ => String::new(),
    };
    // Whoever selects one name asks for no more than that.
    let selected = || {
        let selector = FieldSelector::parse(query.text("fieldSelector")?).ok()?;
        selector.exact_name().map(str::to_owned)
    };
    let of_many = matches!(verb, "list" | "watch" | "deletecollection");
    Action::Resource(ResourceAction {
        verb: verb.to_lowercase(),
        group: resource.group.clone(),
        resource: resource.resource.clone(),
        subresource: resource.subresource.clone().unwrap_or_default(),
        namespace,
        name: resource.name.clone().or_else(|| of_many.then(selected)?).unwrap_or_default(),
    })
}

/// The user that the request wants to act as.
fn impersonated(state: &State, user: User, headers: &HeaderMap) -> Result<User, StatusError> {
    let Some(wanted) = Impersonation::requested(headers)? else { return Ok(user) };
    wanted.needed.iter().try_for_each(|action| state.authorize(&user, action))?;
    Ok(wanted.user)
}

/// Answers a request about a resource.
async fn resource(
    state: Arc<State>,
    connection: &Connection,
    user: User,
    path: ResourcePath,
    query: Query,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let found = state.read(|store| {
        let registry = store.registry();
        registry.get(&path.group, &path.version, &path.resource).cloned().ok_or_else(|| {
            // Built-in groups tell what they don't have by a Status.
            let builtin = registry.all().any(|info| info.builtin && info.gvk.group == path.group);
            if builtin { StatusError::page_not_found().into() } else { Refusal::PageNotFound }
        })
    });
    let resource = found?;
    let misplaced = if resource.namespaced {
        path.name.is_some() && path.namespace.is_none()
    } else {
        path.namespace.is_some()
    };
    if misplaced {
        return Err(Refusal::PageNotFound);
    }
    let (parts, body) = request.into_parts();
    let call = Call {
        state,
        user: Arc::new(user),
        method: parts.method.clone(),
        headers: parts.headers.clone(),
        query,
        resource,
        namespace: path.namespace,
        name: path.name,
        subresource: path.subresource,
    };
    let deprecation = call.resource.deprecation_warning.clone();
    let mut answer = dispatch(call, connection, parts, body).await?;
    if let Some(warning) = deprecation {
        respond::warn(&mut answer, &[warning]);
    }
    Ok(answer)
}

async fn dispatch(
    call: Call,
    connection: &Connection,
    parts: http::request::Parts,
    body: Incoming,
) -> Result<Answer, Refusal> {
    if let Some(subresource) = call.subresource.clone() {
        let served = call.resource.subresource(&subresource).is_some();
        if !served {
            return Err(missing_subresource(&call));
        }
        if special::is_special(&subresource) {
            return special::answer(call, connection, &subresource, parts, body).await;
        }
    }
    let verb = match (call.method.as_str(), call.name.is_some()) {
        ("GET" | "HEAD", _) if call.query.flag("watch") && call.subresource.is_none() => "watch",
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) => "list",
        ("POST", false) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        ("PUT" | "PATCH", false) if !call.resource.builtin => {
            return Err(StatusError::bad_request("name must be provided").into());
        }
        _ => return Err(StatusError::method_not_allowed(&call.resource, call.method.as_str()).into()),
    };
    let served = match &call.subresource {
        Some(name) => {
            call.resource.subresource(name).is_some_and(|part| part.verbs.iter().any(|own| own == verb))
        }
        None => call.resource.serves(verb),
    };
    // Objects are created in a namespace; only reading goes across all of them.
    let nowhere = verb == "create" && call.resource.namespaced && call.namespace.is_none();
    if !served || nowhere {
        return Err(StatusError::method_not_allowed(&call.resource, verb).into());
    }
    match verb {
        "watch" => read::watch(call),
        "get" => read::get(&call),
        "list" => read::list(&call).await,
        "create" => write::create(&call, body).await,
        "update" => write::update(&call, body).await,
        "patch" => write::patch(&call, body).await,
        "delete" => write::delete(&call, body).await,
        _ => write::delete_collection(&call, body).await,
    }
}

fn missing_subresource(call: &Call) -> Refusal {
    match &call.name {
        // Custom kinds answer with the object's own error, built-in ones have no such path.
        Some(name) if !call.resource.builtin => StatusError::not_found(&call.resource, name).into(),
        _ => Refusal::PageNotFound,
    }
}

/// 200, or 201 for what was created.
fn status_of_write(created: bool) -> StatusCode {
    if created { StatusCode::CREATED } else { StatusCode::OK }
}

#[cfg(test)]
mod tests;
