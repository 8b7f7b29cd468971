//! Our admission webhooks: `/validate` and `/mutate`, answered by every replica.
//!
//! ```text
//!   watches -> Knowledge (gateways, namespaces, nodes)
//!                  |
//!   API server -> TLS -> review -> plan::admission -> allowed, a patch, or field errors
//!                  ^
//!              certificates
//! ```
//!
//! What is known comes from the watches directly and not from the planner, which is busy while it writes. It may be some
//! milliseconds behind all the same. So nobody is refused by it alone: the gateways that a refusal rests on are read once
//! more, each by its name. Nothing is ever listed for a request.
//!
//! What can't be answered isn't: the API server then does what `failurePolicy` says.

mod draft;
mod knowledge;
mod review;
mod serve;
mod tls;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::v1beta1::EgressGateway;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use kube::api::ListParams;
use kube::{Api, Client};
use plan::snapshot::GatewayRecord;
use runtime::readiness::Guard;
use runtime::supervisor::Supervisor;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

pub(crate) use knowledge::Knowledge;
use review::{Answer, Path, Review};
pub(crate) use tls::Serving;

use crate::certificates;
use crate::metrics::AdmissionMetrics;
use crate::record;

/// A review holds an object twice, and the API server takes none that is larger than 3 MiB.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A body that takes longer to come is not one of the API server's.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// So many gateways are read again before somebody is refused.
const READ_AGAIN_MAX: usize = 3;
/// So many are read at a time for all requests; the others do without.
const READERS_MAX: usize = 8;
const READ_DEADLINE: Duration = Duration::from_secs(2);
/// A gateway that was made just before its policy is known within that.
const DEFAULT_DEADLINE: Duration = Duration::from_millis(300);

/// Where and how webhooks are served.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// Where to listen.
    pub bind: SocketAddr,
    /// A directory with `tls.crt` and `tls.key` that others issue; where they are not there we issue our own.
    pub certificate_directory: PathBuf,
    /// Where the Service and the certificates' Secret are.
    pub namespace: String,
    /// Name of the Service and of both webhook configurations.
    pub name: String,
}

impl WebhookOptions {
    /// On a port of all addresses.
    #[must_use]
    pub fn any_address(port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
    }
}

/// Starts what serves webhooks. `ready` is dropped once it does.
pub(crate) fn start(
    supervisor: &mut Supervisor,
    client: &Client,
    options: WebhookOptions,
    knowledge: Arc<Knowledge>,
    metrics: AdmissionMetrics,
    ready: Guard,
) {
    let serving = Arc::new(Serving::default());
    let webhook = Arc::new(Webhook {
        knowledge: Arc::clone(&knowledge),
        gateways: Api::all(client.clone()),
        readers: Semaphore::new(READERS_MAX),
        metrics,
    });
    let shutdown = supervisor.shutdown();
    let (listening, is_listening) = tokio::sync::oneshot::channel();
    let (published, is_published) = tokio::sync::oneshot::channel();
    supervisor.spawn(
        "webhook",
        serve::serve(options.bind, Arc::clone(&serving), routes(webhook), listening, shutdown.clone()),
    );
    supervisor.spawn(
        "certificates",
        certificates::keep(client.clone(), options, serving, published, shutdown.clone()),
    );
    supervisor.spawn("webhook's readiness", async move {
        let complete = async {
            // A sender that is gone says that its task has ended, which ends the program.
            is_listening.await.ok()?;
            is_published.await.ok()?;
            knowledge.complete().await;
            Some(())
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            complete = complete => if complete.is_some() {
                drop(ready);
                info!("webhooks are served");
            }
        }
        shutdown.cancelled().await;
        Ok(())
    });
}

struct Webhook {
    knowledge: Arc<Knowledge>,
    gateways: Api<EgressGateway>,
    readers: Semaphore,
    metrics: AdmissionMetrics,
}

fn routes(webhook: Arc<Webhook>) -> Router {
    Router::new().route("/validate", post(validate)).route("/mutate", post(mutate)).with_state(webhook)
}

async fn validate(State(webhook): State<Arc<Webhook>>, body: Body) -> Response {
    webhook.respond(Path::Validate, body).await
}

async fn mutate(State(webhook): State<Arc<Webhook>>, body: Body) -> Response {
    webhook.respond(Path::Mutate, body).await
}

impl Webhook {
    async fn respond(&self, path: Path, body: Body) -> Response {
        let start = Instant::now();
        let (response, result) = match self.review(path, body).await {
            Ok((answer, review)) => {
                let result = if answer.refusal.is_some() { "denied" } else { "allowed" };
                (axum::Json(answer.to_review(&review)).into_response(), result)
            }
            Err(problem) => (problem.into_response(), "error"),
        };
        self.metrics.answered(path.name(), result, start.elapsed());
        response
    }

    /// Reads the question and answers it; the error is an answer to who asks no proper one.
    async fn review(&self, path: Path, body: Body) -> Result<(Answer, Review), (StatusCode, String)> {
        if !self.knowledge.is_complete() {
            return Err((StatusCode::SERVICE_UNAVAILABLE, "not everything has been listed yet".to_owned()));
        }
        let bytes = match timeout(BODY_DEADLINE, axum::body::to_bytes(body, BODY_BYTES_MAX)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_)) => {
                return Err((StatusCode::PAYLOAD_TOO_LARGE, format!("more than {BODY_BYTES_MAX} bytes")));
            }
            Err(_) => return Err((StatusCode::REQUEST_TIMEOUT, "the body did not come".to_owned())),
        };
        let review = Review::read(&bytes).map_err(|problem| (StatusCode::BAD_REQUEST, problem))?;
        Ok((self.answer(path, &review).await, review))
    }

    async fn answer(&self, path: Path, review: &Review) -> Answer {
        let deadline = Instant::now() + DEFAULT_DEADLINE;
        let mut changes = self.knowledge.changes();
        loop {
            let answer = self.knowledge.with(|snapshot| review::answer(path, review, snapshot));
            if answer.misses_default && path == Path::Mutate {
                // The default gateway may have been made a moment ago.
                match timeout_at(deadline, changes.changed()).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) | Err(_) => return answer,
                }
            }
            if answer.gateways.is_empty() {
                return answer;
            }
            return self.answer_again(path, review, answer).await;
        }
    }

    /// Judges a refused request again with the gateways as they are now.
    async fn answer_again(&self, path: Path, review: &Review, refusal: Answer) -> Answer {
        let Ok(_reader) = self.readers.try_acquire() else { return refusal };
        let mut fresh: Vec<(String, Option<GatewayRecord>)> = Vec::new();
        let can_be = |name: &&String| {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        };
        for name in refusal.gateways.iter().filter(can_be).take(READ_AGAIN_MAX) {
            // By a list of one: what may be watched may be read so.
            let of_name = ListParams::default().fields(&format!("metadata.name={name}"));
            match timeout(READ_DEADLINE, self.gateways.list(&of_name)).await {
                Ok(Ok(found)) => fresh.push((name.clone(), found.items.first().map(record::gateway))),
                Ok(Err(error)) => warn!(gateway = name, error = %error, "can't read it again"),
                Err(_) => warn!(gateway = name, "can't read it again: no answer"),
            }
        }
        self.knowledge.with_fresh(fresh, |snapshot| review::answer(path, review, snapshot))
    }
}
