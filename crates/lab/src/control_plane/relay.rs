//! From the host's loopback to an address in another network namespace: a process listens in only one.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::netns::NetNs;

/// Connections that are passed on at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 512;

/// Passes on what comes to `listener`, for as long as it is polled.
pub(super) async fn relay(
    listener: TcpListener,
    namespace: NetNs,
    target: SocketAddr,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let namespace = Arc::new(namespace);
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        let Ok((near, _)) = listener.accept().await else { continue };
        let namespace = Arc::clone(&namespace);
        connections.spawn(async move {
            if let Err(error) = pass_on(near, namespace, target).await {
                tracing::debug!(%error, "a relayed connection ended");
            }
        });
    }
}

async fn pass_on(mut near: TcpStream, namespace: Arc<NetNs>, target: SocketAddr) -> std::io::Result<()> {
    // A socket belongs to the namespace of the thread that makes it.
    let connect = move || namespace.run(|| std::net::TcpStream::connect(target));
    let far = tokio::task::spawn_blocking(connect).await.map_err(std::io::Error::other)??;
    far.set_nonblocking(true)?;
    let mut far = TcpStream::from_std(far)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await.map(drop)
}
