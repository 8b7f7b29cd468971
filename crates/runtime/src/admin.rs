//! `/healthz`, `/readyz` and `/metrics` over plain HTTP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::readiness::{Heartbeat, Readiness};

/// Where to listen; `None`: nowhere.
pub type Bind = Option<SocketAddr>;

/// Reads `:5820`, `127.0.0.1:5820`, `[::1]:5820`, or `0` and nothing for nowhere. Without an address it is all of them.
pub fn parse_bind(text: &str) -> Option<Bind> {
    if text.is_empty() || text == "0" {
        return Some(None);
    }
    match text.strip_prefix(':') {
        Some(port) => Some(Some(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.parse().ok()?))),
        None => Some(Some(text.parse().ok()?)),
    }
}

/// What the endpoints answer from.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// What is still waited for
    pub readiness: Readiness,
    /// Loops that must go on
    pub heartbeats: Vec<(&'static str, Heartbeat)>,
}

/// Serves health and metrics until the shutdown. Both on one port where they have the same address.
pub async fn serve(
    health_bind: Bind,
    metrics_bind: Bind,
    health: Health,
    registry: Arc<Registry>,
    shutdown: CancellationToken,
) -> Result<()> {
    let health_routes = health_routes(health);
    let metrics_routes = metrics_routes(registry);
    if health_bind == metrics_bind {
        return listen(health_bind, health_routes.merge(metrics_routes), shutdown).await;
    }
    tokio::try_join!(
        listen(health_bind, health_routes, shutdown.clone()),
        listen(metrics_bind, metrics_routes, shutdown),
    )?;
    Ok(())
}

async fn listen(bind: Bind, routes: Router, shutdown: CancellationToken) -> Result<()> {
    let Some(address) = bind else {
        shutdown.cancelled().await;
        return Ok(());
    };
    let listener = match TcpListener::bind(address).await {
        // A host without IPv6 has no unspecified IPv6 address either.
        Err(_) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            TcpListener::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port())).await
        }
        bound => bound,
    };
    let listener = listener.with_context(|| format!("listen on {address}"))?;
    info!(%address, "serving health or metrics");
    let server =
        axum::serve(listener, routes).with_graceful_shutdown(async move { shutdown.cancelled().await });
    server.await.context("serve health or metrics")
}

fn health_routes(health: Health) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/healthz/{check}", get(healthz))
        .route("/readyz", get(readyz))
        .route("/readyz/{check}", get(readyz))
        .with_state(health)
}

async fn healthz(State(health): State<Health>) -> (StatusCode, String) {
    let stuck = health.heartbeats.iter().filter_map(|(name, heartbeat)| {
        heartbeat.silent_for().map(|silent| format!("{name}: silent for {} s\n", silent.as_secs()))
    });
    let stuck: String = stuck.collect();
    if stuck.is_empty() {
        (StatusCode::OK, "ok".to_owned())
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, stuck)
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let waiting = health.readiness.waiting_for();
    if waiting.is_empty() {
        return (StatusCode::OK, "ok".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", waiting.join(", ")))
}

fn metrics_routes(registry: Arc<Registry>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(registry)
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text)
        }
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            "metrics can't be encoded\n".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn addresses_are_read_as_go_programs_write_them() {
        assert_eq!(parse_bind("0"), Some(None));
        assert_eq!(parse_bind(""), Some(None));
        assert_eq!(parse_bind(":5820"), Some(Some("[::]:5820".parse().unwrap())));
        assert_eq!(parse_bind("127.0.0.1:80"), Some(Some("127.0.0.1:80".parse().unwrap())));
        for text in [":", ":x", "localhost:80", "5820", ":99999"] {
            assert_eq!(parse_bind(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn readiness_names_what_is_waited_for() {
        let health = Health::default();
        let guard = health.readiness.guard("caches");
        assert_eq!(
            readyz(State(health.clone())).await,
            (StatusCode::SERVICE_UNAVAILABLE, "waiting for: caches\n".to_owned())
        );
        drop(guard);
        assert_eq!(readyz(State(health)).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_stuck_loop_is_not_healthy() {
        let stuck = Heartbeat::new(Duration::ZERO);
        while stuck.silent_for().is_none() {}
        let health = Health { heartbeats: vec![("plan", stuck)], ..Health::default() };
        let (status, text) = healthz(State(health)).await;
        assert_eq!((status, text.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, "plan: silent for 0 s\n"));
    }
}
