//! A kubelet: registers its node, renews its Lease, and makes the pods that are bound to it run.
//!
//! ```text
//!   changes of pods -> Kubelet -> one worker per pod -> one runner per container -> process
//!                                        |                      |
//!                                        +<----- reports -------+
//!                                        +-> status of the pod
//! ```
//!
//! A kubelet of a cut node neither hears nor says anything; its pods go on, as on a machine whose cable is
//! pulled.

pub(crate) mod environment;
pub(crate) mod log;
mod node_object;
mod pod_worker;
mod probe;
pub(crate) mod registry;
mod runner;
mod status;
pub(crate) mod streams;
mod volumes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::controllers::event_object;
use crate::kubelet::registry::Registry;
use crate::node::Node;
use crate::world::{Change, Key};

/// How soon what the API server refused or missed is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// What a kubelet works with.
pub(crate) struct Kubelet {
    /// The node.
    pub(crate) node: Arc<Node>,
    /// The API server, as everybody sees it.
    pub(crate) client: Client,
    /// The certificate that pods must trust, as PEM.
    pub(crate) ca_pem: String,
    /// Where pods' files are.
    pub(crate) directory: PathBuf,
    /// An empty directory to build containers' root directories on.
    pub(crate) root: PathBuf,
    /// What runs, for everybody to see.
    pub(crate) registry: Registry,
    /// Whether the node's cable is in.
    pub(crate) connected: watch::Receiver<bool>,
    /// How often the Lease is renewed.
    pub(crate) heartbeat: Duration,
}

impl Kubelet {
    /// The node's name.
    pub(crate) fn name(&self) -> String {
        self.node.number().name()
    }

    /// Runs until told to stop; then all pods of the node are killed.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut changes: mpsc::UnboundedReceiver<Change<Pod>>,
        stop: CancellationToken,
    ) {
        let mut workers = Workers::default();
        let mut held: BTreeMap<String, Change<Pod>> = BTreeMap::new();
        let mut connected = self.connected.clone();
        let heartbeat = Arc::clone(&self).beat();
        tokio::pin!(heartbeat);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = &mut heartbeat => break,
                _ = connected.changed() => {
                    if *connected.borrow_and_update() {
                        for change in std::mem::take(&mut held).into_values() {
                            workers.pass_on(&self, change);
                        }
                    }
                }
                change = changes.recv() => match change {
                    None => break,
                    Some(change) if *connected.borrow() => workers.pass_on(&self, change),
                    // Of what happens while the cable is out, only the last state will be seen.
                    Some(change) => {
                        let (Change::Set(pod) | Change::Gone(pod)) = &change;
                        held.insert(pod.uid().unwrap_or_default(), change);
                    }
                },
                Some(_) = workers.tasks.join_next(), if !workers.tasks.is_empty() => {}
            }
        }
        workers.tasks.shutdown().await;
    }

    /// Registers the node, then says for ever that it is alive.
    async fn beat(self: Arc<Self>) {
        let mut ready_told = false;
        loop {
            let mut connected = self.connected.clone();
            if connected.wait_for(|connected| *connected).await.is_err() {
                return;
            }
            let outcome = if ready_told {
                node_object::renew(&self.client, &self.name(), self.heartbeat).await
            } else {
                node_object::register(&self.client, &self.node, self.heartbeat).await
            };
            match outcome {
                Ok(still_known) => {
                    // Whoever declared the node dead, or deleted it, learns better.
                    ready_told = still_known;
                    if still_known {
                        tokio::time::sleep(self.heartbeat).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(node = self.name(), %error, "no heartbeat");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits until the node can talk.
    pub(crate) async fn reachable(&self) {
        let mut connected = self.connected.clone();
        connected.wait_for(|connected| *connected).await.ok();
    }

    /// Writes an event about a pod; if that fails, so be it.
    pub(crate) async fn event(&self, pod: &Pod, level: &str, reason: &str, message: &str) {
        if !*self.connected.borrow() {
            return;
        }
        let object = event_object(("v1", "Pod"), pod, (level, reason, message), "kubelet", Timestamp::now());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        if let Ok(event) = serde_json::from_value(object)
            && let Err(error) = api.create(&PostParams::default(), &event).await
        {
            tracing::debug!(%error, "an event was not written");
        }
    }
}

/// What a worker is to make of its pod.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// The pod as the API server has it.
    pub(crate) pod: Arc<Pod>,
    /// Whether the API server has forgotten it.
    pub(crate) gone: bool,
}

#[derive(Default)]
struct Workers {
    wishes: BTreeMap<String, watch::Sender<Wish>>,
    tasks: JoinSet<()>,
}

impl Workers {
    fn pass_on(&mut self, kubelet: &Arc<Kubelet>, change: Change<Pod>) {
        self.wishes.retain(|_, wish| !wish.is_closed());
        let (pod, gone) = match change {
            Change::Set(pod) => (pod, false),
            Change::Gone(pod) => (pod, true),
        };
        let uid = pod.uid().unwrap_or_default();
        if let Some(wish) = self.wishes.get(&uid) {
            wish.send_replace(Wish { pod, gone });
            return;
        }
        if gone || crate::pods::is_finished(&pod) {
            return;
        }
        tracing::debug!(node = kubelet.name(), pod = %Key::of(pod.as_ref()), "starting a pod");
        let (sender, receiver) = watch::channel(Wish { pod, gone });
        self.wishes.insert(uid, sender);
        self.tasks.spawn(pod_worker::run(Arc::clone(kubelet), receiver));
    }
}
