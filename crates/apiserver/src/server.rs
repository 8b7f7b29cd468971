//! The server as a whole: sockets, TLS, the store behind a lock, and the tasks around it.

mod connection;
mod kubeconfig;
pub(crate) mod state;
mod ticker;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::DropGuard;

use crate::admission::call::{DirectDialer, WebhookDialer};
use crate::auth::User;
use crate::auth::audit::Asked;
use crate::auth::certificate::{Authority, CertificateAndKey, CertificateError, SubjectName};
use crate::auth::service_account::{BoundObject, TokenError};
use crate::status_error::StatusError;
use crate::store::{Context, Store, StoreOptions};
use crate::streams::{NoPodStreams, PodStreams};
use state::State;

/// How long [`ApiServerHandle::shutdown`] waits for requests under way.
const SHUTDOWN_SECONDS_MAX: u64 = 5;
/// User and group of the kubeconfig that the server itself hands out.
const ADMIN: (&str, &str) = ("kubernetes-admin", "system:masters");

/// What a server is started with.
pub struct ServerConfig {
    /// Sockets to serve, already bound; they may belong to different network namespaces.
    pub listeners: Vec<TcpListener>,
    /// Names and addresses that clients will use, besides loopback and the `kubernetes` Service's names.
    pub subject_names: Vec<SubjectName>,
    /// Bearer tokens and whose they are.
    pub tokens: Vec<(String, User)>,
    /// What runs commands in pods and reads their logs.
    pub streams: Arc<dyn PodStreams>,
    /// What connects to admission webhooks.
    pub dialer: Arc<dyn WebhookDialer>,
    /// The store's options; the certificate in `root_ca_pem` is filled in by the server.
    pub store: StoreOptions,
    /// How many connections may be open at once; more are closed at once.
    pub connections_max: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            subject_names: Vec::new(),
            tokens: Vec::new(),
            streams: Arc::new(NoPodStreams),
            dialer: Arc::new(DirectDialer),
            store: StoreOptions::default(),
            connections_max: 4096,
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No key or certificate could be made.
    #[error("the certificates cannot be made")]
    Certificate(#[from] CertificateError),
    /// No token key could be made.
    #[error("the key of service account tokens cannot be made")]
    Token(#[from] TokenError),
    /// The TLS library refused the server's own certificate.
    #[error("TLS cannot be set up")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A socket can't be used.
    #[error("a listening socket cannot be used")]
    Listener(#[source] std::io::Error),
}

/// Starts servers.
#[derive(Debug)]
pub struct ApiServer;

impl ApiServer {
    /// Starts a server in the current tokio runtime. It serves when this returns, and until
    /// [`ApiServerHandle::shutdown`] or until the last handle is dropped.
    pub async fn start(config: ServerConfig) -> Result<ApiServerHandle, StartError> {
        let authority = Authority::generate()?;
        let tls = connection::tls_config(&authority, &serving_names(&config.subject_names))?;
        let listeners = config.listeners;
        let settings = state::Settings {
            tokens: config.tokens,
            streams: config.streams,
            dialer: config.dialer,
            store: config.store,
            connections_max: config.connections_max,
        };
        let state = Arc::new(State::new(settings, authority, tls)?);
        let handle =
            ApiServerHandle { inner: Arc::new(Inner { _stop: state.shutdown.clone().drop_guard(), state }) };
        handle.state().tasks.spawn(ticker::run(Arc::clone(handle.state())));
        for listener in listeners {
            handle.add_listener(listener)?;
        }
        Ok(handle)
    }
}

/// Controls a running server. Clones control the same one.
#[derive(Clone)]
pub struct ApiServerHandle {
    inner: Arc<Inner>,
}

struct Inner {
    state: Arc<State>,
    _stop: DropGuard,
}

impl std::fmt::Debug for ApiServerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiServerHandle")
    }
}

impl ApiServerHandle {
    fn state(&self) -> &Arc<State> {
        &self.inner.state
    }

    /// Serves one more socket.
    pub fn add_listener(&self, listener: TcpListener) -> Result<(), StartError> {
        listener.set_nonblocking(true).map_err(StartError::Listener)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(StartError::Listener)?;
        self.state().tasks.spawn(connection::accept_loop(Arc::clone(self.state()), listener));
        Ok(())
    }

    /// The certificate that clients must trust, as PEM.
    pub fn ca_pem(&self) -> String {
        self.state().authority.certificate_pem()
    }

    /// A kubeconfig of a user that may do all.
    pub fn kubeconfig(&self, url: &str) -> String {
        self.kubeconfig_with_token(url, ADMIN.0, &self.state().admin_token)
    }

    /// A kubeconfig with a token of the caller's choice.
    pub fn kubeconfig_with_token(&self, url: &str, user: &str, token: &str) -> String {
        kubeconfig::render(url, &self.ca_pem(), user, &kubeconfig::Credential::Token(token))
    }

    /// A kubeconfig with a client certificate of [`ApiServerHandle::issue_client_certificate`].
    pub fn kubeconfig_with_certificate(
        &self,
        url: &str,
        user: &str,
        certificate: &CertificateAndKey,
    ) -> String {
        kubeconfig::render(url, &self.ca_pem(), user, &kubeconfig::Credential::Certificate(certificate))
    }

    /// The bearer token of a user that may do all.
    pub fn admin_token(&self) -> &str {
        &self.state().admin_token
    }

    /// A certificate that proves to this server who somebody is.
    pub fn issue_client_certificate(
        &self,
        user: &str,
        group: Option<&str>,
    ) -> Result<CertificateAndKey, CertificateError> {
        self.state().authority.issue_client(user, group)
    }

    /// A token of a service account, bound to a pod if one is named. Both must exist.
    pub fn issue_service_account_token(
        &self,
        namespace: &str,
        account: &str,
        pod: Option<&str>,
        life_seconds: i64,
    ) -> Result<String, StatusError> {
        let bound = pod.map(|name| BoundObject { kind: "Pod".to_owned(), name: name.to_owned(), uid: None });
        self.state().issue_token(namespace, account, bound.as_ref(), &[], life_seconds)
    }

    /// What service accounts have asked for so far, and whether they were let.
    pub fn asked(&self) -> BTreeSet<Asked> {
        self.state().audit.asked()
    }

    /// Reads the store. Keep it short: writers wait.
    pub fn read_store<T>(&self, read: impl FnOnce(&Store) -> T) -> T {
        self.state().read(read)
    }

    /// Writes to the store as a component inside the server; watches see it like any other write.
    pub fn write_store<T>(&self, write: impl FnOnce(&mut Store, &mut Context<'_>) -> T) -> T {
        self.state().write(write)
    }

    /// Plays an outage: all connections are cut, new ones reset, until [`ApiServerHandle::resume`]. What is stored
    /// stays.
    pub fn pause(&self) {
        self.state().outage.begin();
    }

    /// Ends an outage.
    pub fn resume(&self) {
        self.state().outage.end();
    }

    /// Whether an outage is being played.
    pub fn is_paused(&self) -> bool {
        self.state().outage.is_on()
    }

    /// Stops serving, and waits a while for requests under way.
    pub async fn shutdown(&self) {
        let state = self.state();
        state.shutdown.cancel();
        state.tasks.close();
        let waited =
            tokio::time::timeout(Duration::from_secs(SHUTDOWN_SECONDS_MAX), state.tasks.wait()).await;
        if waited.is_err() {
            tracing::warn!(tasks = state.tasks.len(), "requests were still under way at shutdown");
        }
    }
}

/// The names of a serving certificate.
fn serving_names(extra: &[SubjectName]) -> Vec<SubjectName> {
    let dns = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let mut names: Vec<SubjectName> = dns.iter().map(|name| SubjectName::Dns((*name).to_owned())).collect();
    names.push(SubjectName::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    names.push(SubjectName::Ip(IpAddr::V6(Ipv6Addr::LOCALHOST)));
    for name in extra {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}
