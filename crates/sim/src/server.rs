//! The API server: the real store, its watches as logs of typed objects, and what programs ask of it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use apiserver::resource::ResourceInfo;
use apiserver::status_error::StatusError;
use apiserver::store::{
    Context, DeleteOptions, EventType, ListRequest, PatchType, Store, StoreOptions, Subresource, Target,
    WatchCursor, WatchRequest, WriteOptions,
};
use jiff::Timestamp;
use runtime::writer::{Action, Part, Write};
use serde_json::Value;

use crate::objects::{Key, Kind, Object};
use crate::random::Random;

/// When simulated time begins, in seconds since the epoch.
const EPOCH_S: i64 = 1_700_000_000;
/// Events of a watch that are read at a time.
const BATCH: usize = 10_000;

/// What happened to an object.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Namespace and name
    pub key: Key,
    /// As it is now, or was last
    pub object: Arc<Object>,
    /// Whether it is gone
    pub is_gone: bool,
}

/// An API server.
pub struct Server {
    store: Store,
    infos: BTreeMap<Kind, Arc<ResourceInfo>>,
    random: Random,
    cursors: BTreeMap<Kind, WatchCursor>,
    logs: BTreeMap<Kind, Vec<Entry>>,
    objects: BTreeMap<Kind, BTreeMap<Key, Arc<Object>>>,
    now_ms: u64,
    /// Writes that changed something, by the kind that was written
    pub writes: BTreeMap<Kind, u64>,
}

/// A store with our kinds in it is always the same: it is made once.
fn template() -> Store {
    static TEMPLATE: OnceLock<Store> = OnceLock::new();
    let make = || {
        let mut random = Random::new(0);
        let mut rng = || random.bits();
        let mut ctx = Context { now: at(0), rng: &mut rng };
        let mut store = Store::new(StoreOptions::default(), &mut ctx);
        let definitions = store
            .registry()
            .get("apiextensions.k8s.io", "v1", "customresourcedefinitions")
            .expect("definitions are built in");
        let definitions = Arc::clone(definitions);
        for crd in api::v1beta1::crds() {
            let value = serde_json::to_value(&crd).expect("our CRDs are JSON");
            store.create(&mut ctx, &definitions, None, value, &options()).expect("our CRDs are accepted");
            store.tick(&mut ctx);
        }
        store
    };
    TEMPLATE.get_or_init(make).clone()
}

fn options() -> WriteOptions {
    WriteOptions { field_manager: Some("sim".to_owned()), ..WriteOptions::default() }
}

fn at_once() -> DeleteOptions {
    DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() }
}

fn at(now_ms: u64) -> Timestamp {
    let seconds = EPOCH_S.saturating_add(i64::try_from(now_ms / 1000).unwrap_or(i64::MAX));
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

impl Server {
    /// With the kinds that there are and nothing else.
    #[must_use]
    pub fn new(random: Random) -> Self {
        let store = template();
        let info = |kind: &Kind| {
            let group = match kind {
                Kind::Node | Kind::Namespace | Kind::Pod => "",
                _ => api::names::GROUP,
            };
            let version = if group.is_empty() { "v1" } else { api::names::VERSION };
            let info = store.registry().get(group, version, kind.plural()).expect("every kind is served");
            (*kind, Arc::clone(info))
        };
        let infos: BTreeMap<Kind, Arc<ResourceInfo>> = Kind::ALL.iter().map(info).collect();
        let request = WatchRequest { resource_version: Some("0".to_owned()), ..WatchRequest::default() };
        let mut server = Self {
            infos: infos.clone(),
            random,
            cursors: BTreeMap::new(),
            logs: BTreeMap::new(),
            objects: BTreeMap::new(),
            now_ms: 0,
            writes: BTreeMap::new(),
            store,
        };
        for (kind, info) in &infos {
            let start = server.store.watch_start(info, &request).expect("every kind can be watched");
            server.cursors.extend(start.cursor.map(|cursor| (*kind, cursor)));
            for event in start.events {
                server.note(*kind, &event.object, false);
            }
        }
        server
    }

    /// Time goes on.
    pub fn advance(&mut self, now_ms: u64) {
        let is_another_second = now_ms / 1000 != self.now_ms / 1000;
        self.now_ms = now_ms;
        if is_another_second {
            self.settle();
        }
    }

    /// The wall clock of the server.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        at(self.now_ms)
    }

    /// All objects of a kind.
    #[must_use]
    pub fn all(&self, kind: Kind) -> &BTreeMap<Key, Arc<Object>> {
        static NONE: BTreeMap<Key, Arc<Object>> = BTreeMap::new();
        self.objects.get(&kind).unwrap_or(&NONE)
    }

    /// All that happened to objects of a kind.
    #[must_use]
    pub fn log(&self, kind: Kind) -> &[Entry] {
        self.logs.get(&kind).map(Vec::as_slice).unwrap_or_default()
    }

    /// Does what a program asks for.
    pub fn write(&mut self, write: &Write) -> Result<Value, kube::Error> {
        let (kind, namespace) =
            self.target_of(&write.collection).ok_or_else(|| failure(404, "no such kind"))?;
        match &write.action {
            Action::Create(object) => self.create(kind, namespace.as_deref(), object.clone()),
            Action::Patch(part, patch) => {
                self.patch(kind, namespace.as_deref(), &write.name, *part, patch.clone())
            }
            Action::Delete(only) => {
                let options = DeleteOptions {
                    uid: only.uid.clone(),
                    resource_version: only.resource_version.clone(),
                    ..at_once()
                };
                self.delete_if(kind, namespace.as_deref(), &write.name, &options).map(|()| Value::Null)
            }
        }
    }

    /// Makes an object.
    pub fn create(
        &mut self,
        kind: Kind,
        namespace: Option<&str>,
        value: Value,
    ) -> Result<Value, kube::Error> {
        let info = self.info(kind)?;
        self.change(kind, |store, ctx| {
            store.create(ctx, &info, namespace, value, &options()).map(|written| (*written.object).clone())
        })
    }

    /// Changes an object by a merge patch.
    pub fn patch(
        &mut self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
        part: Part,
        patch: Value,
    ) -> Result<Value, kube::Error> {
        let target = self.target(kind, namespace, name)?;
        let subresource = match part {
            Part::Main => Subresource::Main,
            Part::Status => Subresource::Status,
        };
        self.change(kind, |store, ctx| {
            let written = store.patch(ctx, &target, subresource, PatchType::Merge, patch, &options())?;
            Ok((*written.object).clone())
        })
    }

    /// Deletes an object, at once where nothing keeps it.
    pub fn delete(&mut self, kind: Kind, namespace: Option<&str>, name: &str) -> Result<(), kube::Error> {
        self.delete_if(kind, namespace, name, &at_once())
    }

    fn delete_if(
        &mut self,
        kind: Kind,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), kube::Error> {
        let target = self.target(kind, namespace, name)?;
        self.change(kind, |store, ctx| store.delete(ctx, &target, options).map(drop))
    }

    /// Puts a pod on a node.
    pub fn bind(&mut self, namespace: &str, name: &str, node: &str) {
        let Ok(target) = self.target(Kind::Pod, Some(namespace), name) else { return };
        let binding = serde_json::json!({"target": {"name": node}});
        let bound = self.change(Kind::Pod, |store, ctx| store.bind(ctx, &target, &binding, &options()));
        bound.expect("a pod that is on no node can be put on one");
    }

    /// An object as it is stored.
    #[must_use]
    pub fn stored(&self, kind: Kind, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        self.store.get(&self.target(kind, namespace, name).ok()?, Subresource::Main).ok()
    }

    /// All objects of a kind as they are stored.
    #[must_use]
    pub fn stored_all(&self, kind: Kind) -> Vec<Arc<Value>> {
        let listed = self.infos.get(&kind).map(|info| self.store.list(info, &ListRequest::default()));
        listed.and_then(Result::ok).map(|listed| listed.items).unwrap_or_default()
    }

    fn change<T>(
        &mut self,
        kind: Kind,
        act: impl FnOnce(&mut Store, &mut Context<'_>) -> Result<T, StatusError>,
    ) -> Result<T, kube::Error> {
        let before = self.store.resource_version();
        let random = &mut self.random;
        let mut rng = || random.bits();
        let mut ctx = Context { now: at(self.now_ms), rng: &mut rng };
        let done = act(&mut self.store, &mut ctx).map_err(|error| api_error(&error))?;
        if self.store.resource_version() != before {
            *self.writes.entry(kind).or_default() += 1;
        }
        self.settle();
        Ok(done)
    }

    /// Lets the store do what follows from what was written, and notes all that happened.
    fn settle(&mut self) {
        let random = &mut self.random;
        let mut rng = || random.bits();
        let mut ctx = Context { now: at(self.now_ms), rng: &mut rng };
        self.store.tick(&mut ctx);
        let mut cursors = std::mem::take(&mut self.cursors);
        for (kind, cursor) in &mut cursors {
            let batch = self.store.events_since(cursor, BATCH);
            for event in batch.map(|batch| batch.events).unwrap_or_default() {
                self.note(*kind, &event.object, event.kind == EventType::Deleted);
            }
        }
        self.cursors = cursors;
    }

    fn note(&mut self, kind: Kind, value: &Value, is_gone: bool) {
        let text =
            |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = (text("/metadata/namespace"), text("/metadata/name"));
        let Some(object) = kind.read(value).map(Arc::new) else { return };
        let objects = self.objects.entry(kind).or_default();
        if is_gone {
            objects.remove(&key);
        } else {
            objects.insert(key.clone(), Arc::clone(&object));
        }
        self.logs.entry(kind).or_default().push(Entry { key, object, is_gone });
    }

    fn info(&self, kind: Kind) -> Result<Arc<ResourceInfo>, kube::Error> {
        self.infos.get(&kind).cloned().ok_or_else(|| failure(404, "no such kind"))
    }

    fn target(&self, kind: Kind, namespace: Option<&str>, name: &str) -> Result<Target, kube::Error> {
        let resource = self.info(kind)?;
        let namespace = namespace.map(str::to_owned).filter(|_| resource.namespaced);
        Ok(Target { resource, namespace, name: name.to_owned() })
    }

    /// The kind and namespace of a path.
    fn target_of(&self, collection: &str) -> Option<(Kind, Option<String>)> {
        let parts: Vec<&str> = collection.split('/').collect();
        let plural = parts.last()?;
        let kind = self.infos.keys().find(|kind| kind.plural() == *plural)?;
        let namespace = parts.iter().position(|part| *part == "namespaces").and_then(|at| parts.get(at + 1));
        let namespace = namespace.filter(|_| *kind != Kind::Namespace).map(|name| (*name).to_owned());
        Some((*kind, namespace))
    }
}

fn api_error(error: &StatusError) -> kube::Error {
    let status = serde_json::from_value::<kube::core::Status>(error.to_json());
    status.map_or_else(kube::Error::SerdeError, |status| kube::Error::Api(Box::new(status)))
}

fn failure(code: u16, message: &str) -> kube::Error {
    let status = kube::core::Status { code, message: message.to_owned(), ..kube::core::Status::default() };
    kube::Error::Api(Box::new(status))
}
