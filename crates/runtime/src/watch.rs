//! A kind of objects as a channel of changes, for ever.
//!
//! The watch begins with everything that there is ([`Change::Replaced`]) and does so again whenever it has lost its place.
//! While the API server is away nothing is sent: what was known stays known. An object that can't be read is logged and
//! counts as not there, and keeps no other from being read.

use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// What happened to objects of a kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<K> {
    /// This is there, perhaps changed
    Applied(K),
    /// This is gone
    Deleted(K),
    /// Exactly these are there
    Replaced(Vec<K>),
}

/// What to do where the API server does not know the kind at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Go on asking; it will come
    Wait,
    /// There are none; ask again now and then
    Empty,
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const PAUSE_WHERE_ABSENT: Duration = Duration::from_secs(60);

/// Sends every change of a kind to the channel, until the shutdown or until nobody listens any more.
pub async fn watch<K, T>(
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    absent: Absent,
    wrap: impl Fn(Change<K>) -> T,
    events: mpsc::Sender<T>,
    shutdown: CancellationToken,
) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let kind = K::kind(&());
    let stream = watcher(api, config);
    pin_mut!(stream);
    let mut listed: Vec<K> = Vec::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let next = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            next = stream.next() => next,
        };
        let change = match next {
            None => return Ok(()),
            Some(Ok(event)) => {
                // The beginning of a list says nothing yet of the server.
                if pause > FIRST_PAUSE && !matches!(event, Event::Init) {
                    info!(%kind, "watching again");
                    pause = FIRST_PAUSE;
                }
                step(event, &mut listed, &kind)
            }
            Some(Err(error)) => {
                let is_absent = absent == Absent::Empty && is_not_found(&error);
                let (change, wait) = if is_absent {
                    debug!(%kind, error = %error, "there are none of this kind for us");
                    (Some(Change::Replaced(Vec::new())), PAUSE_WHERE_ABSENT)
                } else {
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if is_expired(&error) {
                        debug!(%kind, "the watch is too far behind; listing again");
                    } else {
                        warn!(%kind, error = %error, retry_in = ?wait, "can't watch");
                    }
                    (None, wait)
                };
                if let Some(change) = change
                    && send(&events, wrap(change), &shutdown).await.is_err()
                {
                    return Ok(());
                }
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = tokio::time::sleep(wait) => {}
                }
                None
            }
        };
        if let Some(change) = change
            && send(&events, wrap(change), &shutdown).await.is_err()
        {
            return Ok(());
        }
    }
}

/// The receiver is gone, or the program stops.
struct Stopped;

/// A full channel holds the watch up: nothing is lost, the server keeps what is not read yet.
async fn send<T>(events: &mpsc::Sender<T>, event: T, shutdown: &CancellationToken) -> Result<(), Stopped> {
    tokio::select! {
        () = shutdown.cancelled() => Err(Stopped),
        sent = events.send(event) => sent.map_err(|_| Stopped),
    }
}

fn step<K: Resource + Clone>(
    event: Event<DeserializeGuard<K>>,
    listed: &mut Vec<K>,
    kind: &str,
) -> Option<Change<K>> {
    match event {
        Event::Init => {
            listed.clear();
            None
        }
        Event::InitApply(DeserializeGuard(object)) => {
            match object {
                Ok(object) => listed.push(object),
                Err(invalid) => {
                    warn!(kind, name = ?invalid.metadata.name, error = invalid.error, "object left out")
                }
            }
            None
        }
        Event::InitDone => Some(Change::Replaced(std::mem::take(listed))),
        Event::Apply(DeserializeGuard(Ok(object))) => Some(Change::Applied(object)),
        Event::Delete(DeserializeGuard(Ok(object))) => Some(Change::Deleted(object)),
        Event::Apply(guard) | Event::Delete(guard) => {
            let name = guard.name_any();
            if let DeserializeGuard(Err(invalid)) = guard {
                warn!(kind, name, error = invalid.error, "object ignored: it can't be read");
            }
            None
        }
    }
}

fn status_code(error: &watcher::Error) -> Option<u16> {
    use watcher::Error;
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// Not known, or not for us to see: either way it will not come soon.
fn is_not_found(error: &watcher::Error) -> bool {
    matches!(status_code(error), Some(403 | 404))
}

fn is_expired(error: &watcher::Error) -> bool {
    status_code(error) == Some(410)
}
