//! Calling webhooks: HTTPS to a URL, or to an endpoint of a Service.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use http::Uri;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::expression::Scope;
use super::matching::Held;
use super::review::{self, Verdict};
use super::webhook::{Place, Webhook};
use super::{Attributes, Pending, Requester, Stage};
use crate::server::state::State;
use crate::status_error::StatusError;

/// Longest answer of a webhook.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Opens connections to webhooks, from wherever the server is as far as they are concerned.
pub trait WebhookDialer: Send + Sync + 'static {
    /// Connects to an address: of a URL's host, or of a ready endpoint of a Service.
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>>;
}

/// Connects from where the process is.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectDialer;

impl WebhookDialer for DirectDialer {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(address))
    }
}

/// Asks the webhooks of a question and records what they say; the error is their refusal.
pub(crate) async fn settle(
    state: &State,
    requester: &Requester,
    pending: &Pending,
) -> Result<(), StatusError> {
    let object = match pending.stage {
        Stage::Mutating => mutated(state, requester, pending).await?,
        Stage::Validating => {
            let asked = pending.hooks.iter().map(|hook| ask(state, requester, hook, &pending.attributes));
            for verdict in join_all(asked).await {
                verdict?;
            }
            pending.attributes.object.clone()
        }
    };
    requester.record(pending.stage, &pending.attributes, object);
    Ok(())
}

/// The object after all mutating webhooks, one after the other.
async fn mutated(state: &State, requester: &Requester, pending: &Pending) -> Result<Value, StatusError> {
    let mut attributes = pending.attributes.clone();
    let mut changed_after = vec![false; pending.hooks.len()];
    for (index, hook) in pending.hooks.iter().enumerate() {
        if apply(state, requester, hook, &mut attributes).await? {
            changed_after.iter_mut().take(index).for_each(|changed| *changed = true);
        }
    }
    for (hook, changed) in pending.hooks.iter().zip(changed_after) {
        if changed && hook.reinvoked {
            apply(state, requester, hook, &mut attributes).await?;
        }
    }
    Ok(attributes.object)
}

/// Lets a webhook change the object; says whether it did.
async fn apply(
    state: &State,
    requester: &Requester,
    hook: &Webhook,
    attributes: &mut Attributes,
) -> Result<bool, StatusError> {
    let Some(verdict) = ask(state, requester, hook, attributes).await? else { return Ok(false) };
    match review::patched(&attributes.object, &verdict.patch, &state.limits) {
        Ok(object) => {
            let changed = object != attributes.object;
            attributes.object = object;
            Ok(changed)
        }
        Err(_) if hook.ignores_failure => Ok(false),
        Err(why) => Err(failed(hook, &why)),
    }
}

fn failed(hook: &Webhook, why: &str) -> StatusError {
    StatusError::internal(format!("failed calling webhook {:?}: {why}", hook.name))
}

/// Asks one webhook; `None` if it is not about the request, or failed and may be ignored.
async fn ask(
    state: &State,
    requester: &Requester,
    hook: &Webhook,
    attributes: &Attributes,
) -> Result<Option<Verdict>, StatusError> {
    if !hook.constraints.select(attributes) {
        return Ok(None);
    }
    if !hook.conditions.is_empty() {
        match hook.conditions.hold(&Scope::of(attributes)) {
            Held::Yes => {}
            Held::No => return Ok(None),
            Held::Unknown(_) if hook.ignores_failure => return Ok(None),
            Held::Unknown(why) => {
                return Err(StatusError::forbidden(&attributes.resource, &attributes.name, &why));
            }
        }
    }
    if attributes.dry_run && !hook.without_side_effects {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(StatusError::bad_request(why));
    }
    let mut shown = attributes.clone();
    let served = state.read(|store| store.served_versions(&attributes.resource));
    if let Some(version) = hook.constraints.shown_version(attributes, &served) {
        show_in(&mut shown, &version);
    }
    let uid = crate::store::new_uid(&mut || state.draw());
    let body = serde_json::to_vec(&review::review(&shown, &uid)).map_err(StatusError::internal)?;
    let limit = Duration::from_secs(hook.timeout_seconds);
    let answer = match timeout(limit, post(state, hook, body)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("Post {:?}: context deadline exceeded", hook.url())),
    };
    let verdict = answer.map_err(|why| format!("failed to call webhook: {why}")).and_then(|answer| {
        review::verdict(&hook.name, &uid, &answer)
            .map_err(|why| format!("received invalid webhook response: {why}"))
    });
    match verdict {
        Ok(verdict) => {
            verdict.warnings.iter().cloned().for_each(|warning| requester.warn(warning));
            match verdict.denied {
                Some(refusal) => Err(refusal),
                None => Ok(Some(verdict)),
            }
        }
        Err(why) if hook.ignores_failure => {
            tracing::warn!(webhook = hook.name, why, "a webhook failed and is ignored");
            Ok(None)
        }
        Err(why) => Err(failed(hook, &why)),
    }
}

/// Shows the objects in another version of the resource.
fn show_in(attributes: &mut Attributes, version: &str) {
    let mut info = (*attributes.resource).clone();
    info.gvk.version = version.to_owned();
    attributes.kind.version = version.to_owned();
    let api_version = Value::from(info.api_version());
    for object in [&mut attributes.object, &mut attributes.old] {
        if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion".to_owned(), api_version.clone());
        }
    }
    attributes.resource = Arc::new(info);
}

/// Posts a review and reads the answer; the error is what a client is told.
async fn post(state: &State, hook: &Webhook, body: Vec<u8>) -> Result<Value, String> {
    let url = hook.url();
    let posted = |why: String| format!("Post {url:?}: {why}");
    let uri: Uri = url.parse().map_err(|error| posted(format!("{error}")))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let addresses = addresses(state, hook, &host, uri.port_u16().unwrap_or(443)).await.map_err(&posted)?;
    let stream = connect(state, &addresses).await.map_err(&posted)?;
    let name = ServerName::try_from(host.clone()).map_err(|error| posted(error.to_string()))?;
    let tls = tls_config(&hook.ca_bundle).map_err(&posted)?;
    let connected = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await;
    let stream = connected.map_err(|error| posted(tls_problem(&error)))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| posted(error.to_string()))?;
    let request = http::Request::post(uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str))
        .header(http::header::HOST, uri.authority().map_or(host.as_str(), |authority| authority.as_str()))
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| posted(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| posted(error.to_string()))?;
        let (parts, body) = response.into_parts();
        let bytes = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let bytes = bytes.map_err(|error| posted(error.to_string()))?.to_bytes();
        if !parts.status.is_success() {
            return Err(refusal(parts.status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("could not decode the answer: {error}"))
    };
    // The connection ends with this call, answered or not.
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(posted(error.to_string())),
        },
    }
}

fn refusal(status: http::StatusCode, body: &[u8]) -> String {
    match status.as_u16() {
        404 => "the server could not find the requested resource".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        code if code >= 500 => {
            let text = String::from_utf8_lossy(body).trim().to_owned();
            format!("an error on the server ({text:?}) has prevented the request from succeeding")
        }
        _ => "the server rejected our request for an unknown reason".to_owned(),
    }
}

async fn addresses(state: &State, hook: &Webhook, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match &hook.place {
        Place::Url(_) => {
            let found = tokio::net::lookup_host((host, port)).await;
            Ok(found.map_err(|error| format!("dial tcp: lookup {host}: {error}"))?.collect())
        }
        Place::Service { namespace, name, port, .. } => {
            state.read(|store| store.ready_endpoints(namespace, name, *port))
        }
    }
}

async fn connect(state: &State, addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut problem = "no endpoints available".to_owned();
    for address in addresses {
        match state.dialer.dial(*address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                let why = if error.kind() == io::ErrorKind::ConnectionRefused {
                    "connection refused".to_owned()
                } else {
                    error.to_string()
                };
                problem = format!("dial tcp {address}: connect: {why}");
            }
        }
    }
    Err(problem)
}

fn tls_config(ca_bundle: &[u8]) -> Result<Arc<rustls::ClientConfig>, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_bundle) {
        let certificate = certificate.map_err(|error| format!("the CA bundle cannot be read: {error}"))?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What is wrong with a webhook's certificate, in the words that people look up.
fn tls_problem(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(problem)) = cause else { return error.to_string() };
    let why = match problem {
        rustls::CertificateError::UnknownIssuer => "certificate signed by unknown authority".to_owned(),
        rustls::CertificateError::BadSignature => {
            "certificate signed by unknown authority (one of the same name did not sign it)".to_owned()
        }
        rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        other => other.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}
