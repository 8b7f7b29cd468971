//! The loop around the controllers: hear, decide, do, until there is nothing to do.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::action::{Action, Kind, perform};
use super::{decide, node_lifecycle};
use crate::pods::node_name;
use crate::world::{Change, World, WorldEvent};

/// Most events that are taken in before the next decision.
const BATCH_MAX: usize = 256;
/// After that many rounds without rest, others get a turn.
const ROUNDS_MAX: usize = 20;
/// How soon what failed is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// Something may be due without an event: availability after `minReadySeconds`, evictions.
const RESYNC: Duration = Duration::from_secs(5);

/// What the controllers can be told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// A node that was silent for that long is not ready.
    pub(crate) node_grace: Duration,
    /// Whether they decide anything; else they only tell kubelets of their pods.
    pub(crate) decides: bool,
}

/// Who hears of the pods of which node.
pub(crate) type PodListeners = BTreeMap<String, mpsc::UnboundedSender<Change<Pod>>>;

/// Runs until told to stop.
pub(crate) async fn run(
    client: Client,
    settings: Settings,
    mut events: mpsc::Receiver<WorldEvent>,
    listeners: PodListeners,
    stop: CancellationToken,
) {
    let mut world = World::default();
    let mut batch = Vec::new();
    let mut wait = RESYNC;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            received = events.recv_many(&mut batch, BATCH_MAX) => if received == 0 { return },
            () = tokio::time::sleep(wait) => {}
        }
        for event in batch.drain(..) {
            world.absorb(event, Timestamp::now());
        }
        tell(&mut world, &listeners);
        if !world.in_sync() || !settings.decides {
            continue;
        }
        let all_done = settle(&client, &mut world, &settings, &listeners, &mut events).await;
        wait = if all_done { until_deadline(&world, &settings) } else { RETRY };
    }
}

/// Decides and does, until nothing is left to do; says whether all of it worked.
async fn settle(
    client: &Client,
    world: &mut World,
    settings: &Settings,
    listeners: &PodListeners,
    events: &mut mpsc::Receiver<WorldEvent>,
) -> bool {
    for _ in 0..ROUNDS_MAX {
        let actions = decide(world, settings, Timestamp::now());
        if actions.is_empty() {
            return true;
        }
        let mut failed = false;
        for action in actions {
            let is_event = matches!(&action, Action::Create { kind: Kind::Event, .. });
            let outcome = perform(client, world, action).await;
            // A thousand writes take longer than a node may be silent: what was said meanwhile is heard meanwhile.
            while let Ok(event) = events.try_recv() {
                world.absorb(event, Timestamp::now());
            }
            // Without waiting for the watch: a kubelet may start at once.
            tell(world, listeners);
            match outcome {
                Ok(()) => {}
                Err(error) if is_event => tracing::debug!(%error, "an event was not written"),
                Err(error) => {
                    failed = true;
                    tracing::debug!(%error, "a controller's write failed; it is tried again");
                }
            }
        }
        if failed {
            return false;
        }
    }
    false
}

fn until_deadline(world: &World, settings: &Settings) -> Duration {
    let deadline = node_lifecycle::next_deadline(world, settings.node_grace);
    let left = deadline.map(|deadline| deadline.duration_since(Timestamp::now()));
    let left = left.and_then(|left| Duration::try_from(left).ok()).unwrap_or(RESYNC);
    left.clamp(Duration::from_millis(20), RESYNC)
}

fn tell(world: &mut World, listeners: &PodListeners) {
    for change in world.take_pod_changes() {
        let (Change::Set(pod) | Change::Gone(pod)) = &change;
        let listener = node_name(pod).and_then(|node| listeners.get(node));
        if let Some(listener) = listener {
            // A kubelet that ended has no use for it.
            listener.send(change).ok();
        }
    }
}
