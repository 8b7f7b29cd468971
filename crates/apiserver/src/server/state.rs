//! What all connections share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{ADMIN, StartError};
use crate::admission::call::WebhookDialer;
use crate::auth::access::{self, Action};
use crate::auth::audit::Audit;
use crate::auth::certificate::Authority;
use crate::auth::service_account::{BoundObject, ServiceAccountToken, TokenIssuer};
use crate::auth::{Authenticator, LiveObjects, MASTERS, User};
use crate::http::cache::DocumentCache;
use crate::limits::Limits;
use crate::meta;
use crate::status_error::StatusError;
use crate::store::{Context, Store, StoreOptions, Subresource, Target, new_uid};
use crate::streams::PodStreams;

/// What [`State`] is made from.
pub(crate) struct Settings {
    pub(crate) tokens: Vec<(String, User)>,
    pub(crate) streams: Arc<dyn PodStreams>,
    pub(crate) dialer: Arc<dyn WebhookDialer>,
    pub(crate) store: StoreOptions,
    pub(crate) connections_max: usize,
}

/// What all connections share.
pub(crate) struct State {
    store: RwLock<Store>,
    random: SystemRandom,
    /// The store's version after the last write; changes wake the watches.
    committed: watch::Sender<u64>,
    pub(crate) limits: Limits,
    pub(crate) authority: Authority,
    pub(crate) admin_token: String,
    pub(crate) authenticator: Authenticator,
    pub(crate) audit: Audit,
    pub(crate) streams: Arc<dyn PodStreams>,
    pub(crate) dialer: Arc<dyn WebhookDialer>,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) documents: DocumentCache,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) outage: Outage,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl State {
    pub(crate) fn new(
        settings: Settings,
        authority: Authority,
        tls: rustls::ServerConfig,
    ) -> Result<Self, StartError> {
        let random = SystemRandom::new();
        let admin_token = new_token(&random)?;
        let admin = User::new(ADMIN.0, &[ADMIN.1]);
        let tokens = settings.tokens.into_iter().chain([(admin_token.clone(), admin)]);
        let authenticator = Authenticator::new(tokens, TokenIssuer::generate()?);
        let options = StoreOptions { root_ca_pem: authority.certificate_pem(), ..settings.store };
        let limits = options.limits.clone();
        let mut draw = || draw(&random);
        let store = Store::new(options, &mut Context { now: Timestamp::now(), rng: &mut draw });
        let shutdown = CancellationToken::new();
        Ok(Self {
            committed: watch::Sender::new(store.resource_version()),
            store: RwLock::new(store),
            random,
            authority,
            admin_token,
            authenticator,
            audit: Audit::default(),
            streams: settings.streams,
            dialer: settings.dialer,
            tls: Arc::new(tls),
            documents: DocumentCache::default(),
            connections: Arc::new(Semaphore::new(settings.connections_max)),
            watches: Arc::new(Semaphore::new(limits.watches)),
            limits,
            outage: Outage::default(),
            shutdown,
            tasks: TaskTracker::new(),
        })
    }

    /// Reads the store.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Store) -> T) -> T {
        // A panic while writing would be a bug in one request; the store's own steps leave it whole.
        read(&self.store.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes to the store and wakes the watches if something changed.
    pub(crate) fn write<T>(&self, write: impl FnOnce(&mut Store, &mut Context<'_>) -> T) -> T {
        self.write_at(Timestamp::now(), &mut || self.draw(), write)
    }

    /// [`State::write`] with a time and a source of random numbers of the caller's choice.
    pub(crate) fn write_at<T>(
        &self,
        now: Timestamp,
        rng: &mut dyn FnMut() -> u64,
        write: impl FnOnce(&mut Store, &mut Context<'_>) -> T,
    ) -> T {
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        let result = write(&mut store, &mut Context { now, rng });
        let version = store.resource_version();
        drop(store);
        self.committed.send_if_modified(|last| {
            let newer = version > *last;
            *last = version.max(*last);
            newer
        });
        result
    }

    /// Refuses what the user may not do.
    pub(crate) fn authorize(&self, user: &User, action: &Action) -> Result<(), StatusError> {
        if user.is_in(MASTERS) {
            return Ok(());
        }
        self.read(|store| access::authorize(store.roles(), user, action))
    }

    /// A random number.
    pub(crate) fn draw(&self) -> u64 {
        draw(&self.random)
    }

    /// A receiver that is woken by each write.
    pub(crate) fn commits(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    /// A new token of a service account.
    pub(crate) fn issue_token(
        &self,
        namespace: &str,
        account: &str,
        bound: Option<&BoundObject>,
        audiences: &[String],
        life_seconds: i64,
    ) -> Result<String, StatusError> {
        let mut token = ServiceAccountToken {
            namespace: namespace.to_owned(),
            name: account.to_owned(),
            audiences: audiences.to_vec(),
            id: new_uid(&mut || self.draw()),
            ..ServiceAccountToken::default()
        };
        self.read(|store| {
            let object = core_object(store, "serviceaccounts", Some(namespace), account)?;
            token.uid = meta::uid(&object).to_owned();
            bound.map_or(Ok(()), |bound| bind_token(store, &mut token, bound))
        })?;
        let now = Timestamp::now();
        self.authenticator.issuer().issue(&token, now, life_seconds).map_err(StatusError::internal)
    }
}

impl LiveObjects for State {
    fn uid(&self, resource: &str, namespace: Option<&str>, name: &str) -> Option<String> {
        let object = self.read(|store| core_object(store, resource, namespace, name)).ok()?;
        Some(meta::uid(&object).to_owned())
    }
}

/// Ties a token to the life of another object.
fn bind_token(
    store: &Store,
    token: &mut ServiceAccountToken,
    bound: &BoundObject,
) -> Result<(), StatusError> {
    let (resource, namespace) = match bound.kind.as_str() {
        "Pod" => ("pods", Some(token.namespace.as_str())),
        "Secret" => ("secrets", Some(token.namespace.as_str())),
        _ => ("nodes", None),
    };
    let object = core_object(store, resource, namespace, &bound.name)?;
    let uid = meta::uid(&object);
    if bound.uid.as_deref().is_some_and(|wanted| wanted != uid) {
        let why = format!(
            "Operation cannot be fulfilled on {} {:?}: the UID in the bound object reference ({}) does not match the UID in \
             record. The object might have been deleted and then recreated",
            bound.kind,
            bound.name,
            bound.uid.as_deref().unwrap_or_default()
        );
        return Err(StatusError::new(409, "Conflict", why));
    }
    let own = Some((bound.name.clone(), uid.to_owned()));
    match bound.kind.as_str() {
        "Secret" => token.secret = own,
        "Pod" => {
            let account =
                object.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or_default();
            if account != token.name {
                return Err(StatusError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    token.name
                )));
            }
            token.pod = own;
            let node = object.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
            if !node.is_empty() {
                let found = core_object(store, "nodes", None, node);
                let uid = found.map(|object| meta::uid(&object).to_owned()).unwrap_or_default();
                token.node = Some((node.to_owned(), uid));
            }
        }
        _ => token.node = own,
    }
    Ok(())
}

/// An object of the core group.
fn core_object(
    store: &Store,
    resource: &str,
    namespace: Option<&str>,
    name: &str,
) -> Result<Arc<Value>, StatusError> {
    let info = store.registry().get("", "v1", resource).ok_or_else(StatusError::page_not_found)?;
    let target =
        Target { resource: Arc::clone(info), namespace: namespace.map(str::to_owned), name: name.to_owned() };
    store.get(&target, Subresource::Main)
}

fn draw(random: &SystemRandom) -> u64 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes).expect("the kernel's random source works once the system is up");
    u64::from_le_bytes(bytes)
}

fn new_token(random: &SystemRandom) -> Result<String, StartError> {
    let mut bytes = [0; 24];
    random.fill(&mut bytes).map_err(|_| crate::auth::service_account::TokenError::Key)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A simulated outage: a token that all connections of one up-time wait on.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    now: Mutex<OutageNow>,
}

#[derive(Debug, Default)]
struct OutageNow {
    on: bool,
    cut: CancellationToken,
}

impl Outage {
    fn lock(&self) -> MutexGuard<'_, OutageNow> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self) {
        let mut now = self.lock();
        now.on = true;
        now.cut.cancel();
    }

    pub(crate) fn end(&self) {
        let mut now = self.lock();
        if now.on {
            *now = OutageNow::default();
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.lock().on
    }

    /// What ends when the next outage begins; ended already during one.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.lock().cut.clone()
    }
}
