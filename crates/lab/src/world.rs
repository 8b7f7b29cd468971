//! What the controllers know of the cluster: a copy of the kinds that they deal with, kept by watches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

/// How long a broken watch waits before it is tried again.
const WATCH_RETRY: Duration = Duration::from_millis(250);

/// Namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Empty for what has no namespace.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
}

impl Key {
    /// Where an object is found.
    pub(crate) fn of<K: Resource>(object: &K) -> Self {
        Self {
            namespace: object.meta().namespace.clone().unwrap_or_default(),
            name: object.meta().name.clone().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What became of an object.
#[derive(Clone, Debug)]
pub(crate) enum Change<K> {
    /// It is there, like this.
    Set(Arc<K>),
    /// It is gone; how it was last.
    Gone(Arc<K>),
}

/// All objects of one kind.
#[derive(Debug)]
pub(crate) struct Objects<K> {
    objects: BTreeMap<Key, Arc<K>>,
    listed: Option<BTreeSet<Key>>,
    synced: bool,
}

impl<K> Default for Objects<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listed: None, synced: false }
    }
}

impl<K: Resource + Clone + PartialEq> Objects<K> {
    /// Takes in what a watch says; answers what is different now.
    pub(crate) fn absorb(&mut self, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Apply(object) => self.set(object).into_iter().collect(),
            Event::Delete(object) => self.remove(&object).into_iter().collect(),
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(Key::of(&object));
                }
                self.set(object).into_iter().collect()
            }
            Event::InitDone => {
                self.synced = true;
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<Key> =
                    self.objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
                gone.iter().filter_map(|key| self.objects.remove(key)).map(Change::Gone).collect()
            }
        }
    }

    /// Takes in the answer to a write: it may come before the watch tells of it, and the next decision must not be
    /// made without it.
    pub(crate) fn set(&mut self, object: K) -> Option<Change<K>> {
        let key = Key::of(&object);
        if let Some(known) = self.objects.get(&key) {
            let same_life = known.meta().uid == object.meta().uid;
            if same_life && version(known.as_ref()) >= version(&object) {
                return None;
            }
        }
        let object = Arc::new(object);
        self.objects.insert(key, Arc::clone(&object));
        Some(Change::Set(object))
    }

    /// Forgets an object.
    pub(crate) fn remove(&mut self, object: &K) -> Option<Change<K>> {
        let key = Key::of(object);
        // The name may belong to a newer object by now.
        if self.objects.get(&key).is_some_and(|known| known.meta().uid != object.meta().uid) {
            return None;
        }
        self.objects.remove(&key).map(Change::Gone)
    }

    /// One object.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(&Key { namespace: namespace.to_string(), name: name.to_string() })
    }

    /// All objects, in order of namespace and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    /// Objects that a controller owns.
    pub(crate) fn owned_by<'a>(
        &'a self,
        namespace: &'a str,
        uid: &'a str,
    ) -> impl Iterator<Item = &'a Arc<K>> {
        let first = Key { namespace: namespace.to_string(), name: String::new() };
        self.objects
            .range(first..)
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(_, object)| object)
            .filter(move |object| controller_uid(object.as_ref()) == Some(uid))
    }
}

/// Uid of the controller that an object belongs to.
pub(crate) fn controller_uid<K: Resource>(object: &K) -> Option<&str> {
    let owners = object.meta().owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// Everything that controllers look at.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// Pods.
    pub(crate) pods: Objects<Pod>,
    /// Nodes.
    pub(crate) nodes: Objects<Node>,
    /// Deployments.
    pub(crate) deployments: Objects<Deployment>,
    /// ReplicaSets.
    pub(crate) replica_sets: Objects<ReplicaSet>,
    /// DaemonSets.
    pub(crate) daemon_sets: Objects<DaemonSet>,
    /// StatefulSets.
    pub(crate) stateful_sets: Objects<StatefulSet>,
    /// Jobs.
    pub(crate) jobs: Objects<Job>,
    /// Services.
    pub(crate) services: Objects<Service>,
    /// EndpointSlices.
    pub(crate) endpoint_slices: Objects<EndpointSlice>,
    /// Leases of nodes.
    pub(crate) leases: Objects<Lease>,
    /// When a node was last heard of, on this clock: a node's own may be wrong.
    pub(crate) heard: BTreeMap<String, Timestamp>,
    /// What became of pods since [`World::take_pod_changes`] was last called.
    pod_changes: Vec<Change<Pod>>,
}

impl World {
    /// Whether every kind has been listed once; nothing may be decided on half a list.
    pub(crate) fn in_sync(&self) -> bool {
        self.pods.synced
            && self.nodes.synced
            && self.deployments.synced
            && self.replica_sets.synced
            && self.daemon_sets.synced
            && self.stateful_sets.synced
            && self.jobs.synced
            && self.services.synced
            && self.endpoint_slices.synced
            && self.leases.synced
    }

    /// Takes in a pod as a write left it.
    pub(crate) fn set_pod(&mut self, pod: Pod) {
        let change = self.pods.set(pod);
        self.pod_changes.extend(change);
    }

    /// Takes a pod as it surely is by now, until the watch shows it.
    pub(crate) fn assume_pod(&mut self, pod: Pod) {
        let pod = Arc::new(pod);
        self.pods.objects.insert(Key::of(pod.as_ref()), Arc::clone(&pod));
        self.pod_changes.push(Change::Set(pod));
    }

    /// Forgets a pod that a write has ended.
    pub(crate) fn remove_pod(&mut self, key: &Key) {
        let gone = self.pods.objects.remove(key).map(Change::Gone);
        self.pod_changes.extend(gone);
    }

    /// What became of pods meanwhile, however it was learnt.
    pub(crate) fn take_pod_changes(&mut self) -> Vec<Change<Pod>> {
        std::mem::take(&mut self.pod_changes)
    }

    /// Takes in an event.
    pub(crate) fn absorb(&mut self, event: WorldEvent, now: Timestamp) {
        match event {
            WorldEvent::Pod(event) => {
                let changes = self.pods.absorb(event);
                self.pod_changes.extend(changes);
            }
            WorldEvent::Node(event) => drop(self.nodes.absorb(event)),
            WorldEvent::Deployment(event) => drop(self.deployments.absorb(event)),
            WorldEvent::ReplicaSet(event) => drop(self.replica_sets.absorb(event)),
            WorldEvent::DaemonSet(event) => drop(self.daemon_sets.absorb(event)),
            WorldEvent::StatefulSet(event) => drop(self.stateful_sets.absorb(event)),
            WorldEvent::Job(event) => drop(self.jobs.absorb(event)),
            WorldEvent::Service(event) => drop(self.services.absorb(event)),
            WorldEvent::EndpointSlice(event) => drop(self.endpoint_slices.absorb(event)),
            WorldEvent::Lease(event) => {
                for change in self.leases.absorb(event) {
                    match change {
                        Change::Set(lease) => drop(self.heard.insert(lease.name_any(), now)),
                        Change::Gone(lease) => drop(self.heard.remove(&lease.name_any())),
                    }
                }
            }
            // Nobody could be heard meanwhile; silence is no sign of death.
            WorldEvent::Unreadable => self.heard.values_mut().for_each(|heard| *heard = now),
        }
    }
}

/// What a watch says.
#[derive(Debug)]
pub(crate) enum WorldEvent {
    /// About a pod.
    Pod(Event<Pod>),
    /// About a node.
    Node(Event<Node>),
    /// About a Deployment.
    Deployment(Event<Deployment>),
    /// About a ReplicaSet.
    ReplicaSet(Event<ReplicaSet>),
    /// About a DaemonSet.
    DaemonSet(Event<DaemonSet>),
    /// About a StatefulSet.
    StatefulSet(Event<StatefulSet>),
    /// About a Job.
    Job(Event<Job>),
    /// About a Service.
    Service(Event<Service>),
    /// About an EndpointSlice.
    EndpointSlice(Event<EndpointSlice>),
    /// About a node's Lease.
    Lease(Event<Lease>),
    /// The API server does not answer.
    Unreadable,
}

/// Watches all kinds and sends what happens; ends when the receiver is gone.
pub(crate) async fn watch(client: Client, events: mpsc::Sender<WorldEvent>) {
    let leases = Api::namespaced(client.clone(), "kube-node-lease");
    tokio::join!(
        watch_kind(Api::all(client.clone()), WorldEvent::Pod, &events),
        watch_kind(Api::all(client.clone()), WorldEvent::Node, &events),
        watch_kind(Api::all(client.clone()), WorldEvent::Deployment, &events),
        watch_kind(Api::all(client.clone()), WorldEvent::ReplicaSet, &events),
        watch_kind(Api::all(client.clone()), WorldEvent::DaemonSet, &events),
        watch_kind(Api::all(client.clone()), WorldEvent::StatefulSet, &events),
        watch_kind(Api::all(client.clone()), WorldEvent::Job, &events),
        watch_kind(Api::all(client.clone()), WorldEvent::Service, &events),
        watch_kind(Api::all(client), WorldEvent::EndpointSlice, &events),
        watch_kind(leases, WorldEvent::Lease, &events),
    );
}

async fn watch_kind<K>(api: Api<K>, wrap: fn(Event<K>) -> WorldEvent, events: &mpsc::Sender<WorldEvent>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut stream = watcher(api, watcher::Config::default()).boxed();
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => wrap(event),
            Err(error) => {
                tracing::debug!(%error, "a watch broke");
                tokio::time::sleep(WATCH_RETRY).await;
                WorldEvent::Unreadable
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}
