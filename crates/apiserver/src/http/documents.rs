//! Answers that are about the server and not about objects: version, health, discovery, OpenAPI.

use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;

use super::accept::{Form, Offer, negotiate};
use super::cache::Document;
use super::path::Route;
use super::respond::{self, Answer};
use super::{Query, Refusal};
use crate::resource::Registry;
use crate::server::state::State;
use crate::{discovery, openapi};

/// The checks behind `/healthz`, `/livez` and `/readyz`.
const CHECKS: &[&str] = &["ping", "log", "store"];

/// Answers a GET of such a path.
pub(super) fn answer(
    state: &State,
    route: &Route,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Answer, Refusal> {
    match route {
        Route::Index => index(state),
        Route::Version => Ok(respond::json_body(StatusCode::OK, respond::json_bytes(&version()))),
        Route::Health { endpoint, check } => health(endpoint, check.as_deref(), query),
        Route::CoreVersions => discovery_root(state, headers, true),
        Route::Groups => discovery_root(state, headers, false),
        Route::Group(name) => {
            plain(state, headers, &format!("group {name}"), |registry| discovery::group(registry, name))
        }
        Route::Resources { group, version } => {
            plain(state, headers, &format!("resources {group}/{version}"), |registry| {
                discovery::resources(registry, group, version)
            })
        }
        Route::OpenApiIndex => plain(state, headers, "openapi", |registry| Some(openapi::index(registry))),
        Route::OpenApiV2 => openapi_v2(state, headers),
        Route::OpenApiDocument(path) => openapi_document(state, headers, path, query),
        Route::Resource(_) | Route::Unknown => Err(Refusal::PageNotFound),
    }
}

fn version() -> serde_json::Value {
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": openapi::KUBERNETES_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "rust",
        "compiler": "rustc",
        "platform": concat!("linux/", env!("CARGO_PKG_NAME")),
    })
}

fn health(endpoint: &str, check: Option<&str>, query: &Query) -> Result<Answer, Refusal> {
    if check.is_some_and(|check| !CHECKS.contains(&check)) {
        return Err(Refusal::PageNotFound);
    }
    if !query.flag("verbose") {
        return Ok(respond::text(StatusCode::OK, "ok"));
    }
    let checks = CHECKS.iter().filter(|name| check.is_none_or(|check| check == **name));
    let mut text: String = checks.map(|name| format!("[+]{name} ok\n")).collect();
    text.push_str(&format!("{endpoint} check passed\n"));
    Ok(respond::text(StatusCode::OK, text))
}

/// `/`: what there is to ask for.
fn index(state: &State) -> Result<Answer, Refusal> {
    let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
    for (group, versions) in state.read(|store| store.registry().groups()) {
        if group.is_empty() {
            paths.extend(versions.iter().map(|version| format!("/api/{version}")));
            continue;
        }
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.extend(
        ["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(str::to_owned),
    );
    Ok(respond::json_body(StatusCode::OK, respond::json_bytes(&json!({ "paths": paths }))))
}

/// `/api` and `/apis`, in the form that the client prefers.
fn discovery_root(state: &State, headers: &HeaderMap, core: bool) -> Result<Answer, Refusal> {
    let Form::Discovery(format) = negotiate(headers, Offer::Discovery)? else {
        let key = if core { "core versions" } else { "groups" };
        return plain(state, headers, key, |registry| {
            Some(if core {
                discovery::core_versions("kubernetes.default.svc:443")
            } else {
                discovery::groups(registry)
            })
        });
    };
    let key = format!("aggregated {core} {format}");
    let document = rendered(state, &key, |registry| Some(discovery::aggregated(registry, core, format)))?;
    let mut answer = with_etag(headers, &document);
    // Clients tell the aggregated form by these very parameters.
    let content_type = format!("application/json;g=apidiscovery.k8s.io;v={format};as=APIGroupDiscoveryList");
    if let Ok(content_type) = HeaderValue::try_from(content_type) {
        answer.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    Ok(answer)
}

fn openapi_document(
    state: &State,
    headers: &HeaderMap,
    path: &str,
    query: &Query,
) -> Result<Answer, Refusal> {
    let (group, version) = openapi::parse_document_path(path).ok_or(Refusal::PageNotFound)?;
    let key = format!("openapi {path}");
    let document = rendered(state, &key, |registry| openapi::document(registry, &group, &version))?;
    let mut answer = with_etag(headers, &document);
    let current = state.read(|store| openapi::hash(store.registry(), &group, &version));
    let caching = match query.text("hash") {
        Some(hash) if hash == current => HeaderValue::from_static("public, immutable"),
        _ => HeaderValue::from_static("no-cache, private"),
    };
    answer.headers_mut().insert(CACHE_CONTROL, caching);
    Ok(answer)
}

/// The v2 document, in protobuf for those who ask for it.
fn openapi_v2(state: &State, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|header| header.to_str().ok());
    let protobuf = accepted.flat_map(|header| header.split(',')).any(|entry| {
        let media_type = entry.split(';').next().unwrap_or_default().trim();
        media_type.replace('@', ".") == openapi::v2::PROTOBUF
    });
    if !protobuf {
        negotiate(headers, Offer::PlainOnly)?;
        let document = rendered(state, "openapi v2", |registry| Some(openapi::v2::whole(registry)))?;
        return Ok(with_etag(headers, &document));
    }
    let registry = state.read(|store| store.registry().clone());
    let render = |registry: &Registry| Some(openapi::v2::encode(&openapi::v2::whole(registry)).into());
    let document = state.documents.get_bytes("openapi v2 protobuf", &registry, render);
    let mut answer = with_etag(headers, &document.ok_or(Refusal::PageNotFound)?);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(openapi::v2::PROTOBUF));
    Ok(answer)
}

fn plain(
    state: &State,
    headers: &HeaderMap,
    key: &str,
    render: impl FnOnce(&Registry) -> Option<serde_json::Value>,
) -> Result<Answer, Refusal> {
    negotiate(headers, Offer::PlainOnly)?;
    let document = rendered(state, key, render)?;
    Ok(respond::json_body(StatusCode::OK, document.bytes))
}

fn rendered(
    state: &State,
    key: &str,
    render: impl FnOnce(&Registry) -> Option<serde_json::Value>,
) -> Result<Document, Refusal> {
    // The registry shares its entries, so a copy is cheap, and rendering keeps no writer waiting.
    let registry = state.read(|store| store.registry().clone());
    state.documents.get(key, &registry, render).ok_or(Refusal::PageNotFound)
}

fn with_etag(headers: &HeaderMap, document: &Document) -> Answer {
    let known = headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == document.etag.as_bytes());
    let mut answer = if known {
        respond::json_body(StatusCode::NOT_MODIFIED, bytes::Bytes::new())
    } else {
        respond::json_body(StatusCode::OK, document.bytes.clone())
    };
    if let Ok(etag) = HeaderValue::try_from(&document.etag) {
        answer.headers_mut().insert(ETAG, etag);
    }
    answer
}
