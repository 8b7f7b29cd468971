//! How the embedded API server reaches webhooks: from the switch, where a real one would be.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use apiserver::admission::call::WebhookDialer;
use futures::future::BoxFuture;
use tokio::net::TcpStream;

use crate::netns::NetNs;

/// No webhook may take longer to answer, so none needs longer to be connected to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects from the switch's network namespace.
pub(super) struct FabricDialer {
    namespace: NetNs,
}

impl FabricDialer {
    pub(super) fn new(namespace: NetNs) -> Self {
        Self { namespace }
    }
}

impl WebhookDialer for FabricDialer {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        let namespace = self.namespace.try_clone();
        Box::pin(async move {
            let namespace = namespace?;
            // A socket belongs to the namespace of the thread that makes it.
            let connect =
                move || namespace.run(|| std::net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT));
            let stream = tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)??;
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream)
        })
    }
}
