//! HTTPS, with a limit to everything that a client could make us hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::tls::Serving;

/// Others wait until one has ended; API servers keep a few each.
const CONNECTIONS_MAX: usize = 256;
const STREAMS_MAX: u32 = 64;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// A peer that does not answer for that long is gone.
const PING: Duration = Duration::from_secs(30);
/// After an accept that failed, mostly for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the shutdown; tells `listening` the address once it does.
pub(super) async fn serve(
    bind: SocketAddr,
    serving: Arc<Serving>,
    routes: Router,
    listening: oneshot::Sender<SocketAddr>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(serving.config()?));
    let listener = listen(bind).await.with_context(|| format!("listen on {bind}"))?;
    let address = listener.local_addr().context("find out where it listens")?;
    info!(%address, "serving webhooks");
    // Nobody need want to know.
    listening.send(address).ok();
    let limit = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let permit = Arc::clone(&limit).acquire_owned().await?;
            anyhow::Ok((listener.accept().await, permit))
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = accept => match accepted? {
                (Ok((stream, _)), permit) => {
                    let connection = connection(acceptor.clone(), stream, routes.clone(), shutdown.clone(), permit);
                    connections.spawn(connection);
                }
                (Err(error), _) => {
                    warn!(error = %error, "can't accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn listen(bind: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(bind).await {
        // A host without IPv6 has no unspecified IPv6 address either.
        Err(_) if bind.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            TcpListener::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), bind.port())).await
        }
        bound => bound,
    }
}

async fn connection(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    routes: Router,
    shutdown: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    // An answer is small, and the API server waits for it.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(error = %error, "can't set TCP_NODELAY");
    }
    let tls = match timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return debug!(error = %error, "TLS handshake failed"),
        Err(_) => return debug!("no TLS handshake"),
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let served = builder.serve_connection(TokioIo::new(tls), TowerToHyperService::new(routes));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        debug!(error = %error, "connection ended");
    }
}
