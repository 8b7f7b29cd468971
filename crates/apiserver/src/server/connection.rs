//! Connections: accepting, TLS, and HTTP/1.1 or HTTP/2 on top.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::state::State;
use crate::auth::certificate::{Authority, SubjectName, user_of_certificate};
use crate::http::Connection;

/// How long a client may take for the TLS handshake.
const HANDSHAKE_SECONDS_MAX: u64 = 10;
/// How long a client may take to send the head of a request.
const HEAD_SECONDS_MAX: u64 = 30;
/// How often an HTTP/2 client is asked whether it is there, and how long it may take to say so.
const PING_SECONDS: u64 = 30;
/// Requests at once on one HTTP/2 connection; a client holds one per watch.
const STREAMS_MAX: u32 = 1000;
/// Bytes of an answer that wait for one client's socket; a client that does not read holds no more than this, what its
/// watches have in their channels, and the kernel's buffers.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Pause after an accept that failed, as it does when file descriptors run out.
const ACCEPT_RETRY_MS: u64 = 50;

/// TLS with a new serving certificate, and client certificates of the same authority if a client shows one.
pub(super) fn tls_config(
    authority: &Authority,
    names: &[SubjectName],
) -> Result<rustls::ServerConfig, StartError> {
    fn tls(error: impl std::error::Error + Send + Sync + 'static) -> StartError {
        StartError::Tls(Box::new(error))
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate()).map_err(tls)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(tls)?;
    let (certificate, key) = authority.issue_server(names)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .map_err(tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts connections until the server stops.
pub(super) async fn accept_loop(state: Arc<State>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = state.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
                continue;
            }
        };
        let slot = Arc::clone(&state.connections).try_acquire_owned();
        let cut = state.outage.cut();
        let (Ok(slot), false) = (slot, cut.is_cancelled()) else {
            reset(&stream);
            continue;
        };
        let connection_state = Arc::clone(&state);
        state.tasks.spawn(async move {
            serve(connection_state, stream, cut).await;
            drop(slot);
        });
    }
}

/// Makes the socket's end a reset, as if nobody listened.
fn reset(stream: &TcpStream) {
    // Fails only on sockets that are closed already.
    let _ = stream.set_zero_linger();
}

async fn serve(state: Arc<State>, stream: TcpStream, cut: CancellationToken) {
    // Watch events are small and late ones are useless.
    let _ = stream.set_nodelay(true);
    let acceptor = TlsAcceptor::from(Arc::clone(&state.tls));
    let handshake = timeout(Duration::from_secs(HANDSHAKE_SECONDS_MAX), acceptor.accept(stream));
    let tls = tokio::select! {
        () = cut.cancelled() => return,
        () = state.shutdown.cancelled() => return,
        handshake = handshake => match handshake {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
            Err(_) => return,
        },
    };
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let connection = Arc::new(Connection {
        certificate_user: certificate.and_then(user_of_certificate),
        cut: cut.clone(),
    });
    let service_state = Arc::clone(&state);
    let service = service_fn(move |request| {
        let (state, connection) = (Arc::clone(&service_state), Arc::clone(&connection));
        async move { Ok::<_, Infallible>(crate::http::handle(state, &connection, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_SECONDS_MAX))
        .max_buf_size(SEND_BUFFER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(Duration::from_secs(PING_SECONDS))
        .keep_alive_timeout(Duration::from_secs(PING_SECONDS));
    let served = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    let mut served = std::pin::pin!(served);
    let outcome = tokio::select! {
        () = cut.cancelled() => return,
        outcome = served.as_mut() => outcome,
        () = state.shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}
