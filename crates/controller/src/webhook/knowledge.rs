//! What webhooks know: the kinds that answers depend on, as the watches tell.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use api::slim::{SlimNamespace, SlimNode};
use api::v1beta1::EgressGateway;
use kube::ResourceExt;
use plan::snapshot::GatewayRecord;
use plan::{ClusterSnapshot, Event, Settings};
use runtime::watch::Change;
use tokio::sync::watch;

use crate::record;

/// What webhooks know.
pub(crate) struct Knowledge {
    known: RwLock<Known>,
    changes: watch::Sender<u64>,
}

struct Known {
    snapshot: ClusterSnapshot,
    listed: BTreeSet<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Gateway,
    Namespace,
    Node,
}

impl Knowledge {
    pub(crate) fn new(settings: Settings) -> Self {
        let known = Known { snapshot: ClusterSnapshot::new(settings), listed: BTreeSet::new() };
        Self { known: RwLock::new(known), changes: watch::Sender::new(0) }
    }

    pub(crate) fn gateways(&self, change: &Change<EgressGateway>) {
        let known = |snapshot: &ClusterSnapshot| snapshot.gateways.keys().cloned().collect();
        self.absorb(
            Kind::Gateway,
            change,
            known,
            |object| (object.name_any(), record::gateway(object)),
            Event::Gateway,
        );
    }

    pub(crate) fn namespaces(&self, change: &Change<SlimNamespace>) {
        let known = |snapshot: &ClusterSnapshot| snapshot.namespaces.keys().cloned().collect();
        let read = |object: &SlimNamespace| (object.name_any(), object.labels().clone());
        self.absorb(Kind::Namespace, change, known, read, Event::Namespace);
    }

    pub(crate) fn nodes(&self, change: &Change<SlimNode>) {
        let known = |snapshot: &ClusterSnapshot| snapshot.nodes.keys().cloned().collect();
        let read = |object: &SlimNode| (object.name_any(), api::convert::node(object));
        self.absorb(Kind::Node, change, known, read, Event::Node);
    }

    fn absorb<K, T>(
        &self,
        kind: Kind,
        change: &Change<K>,
        known: impl Fn(&ClusterSnapshot) -> BTreeSet<String>,
        read: impl Fn(&K) -> (String, T),
        event: impl Fn(String, Option<T>) -> Event,
    ) {
        let mut now = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        match change {
            Change::Applied(object) => {
                let (name, value) = read(object);
                changed |= now.snapshot.absorb(event(name, Some(value)));
            }
            Change::Deleted(object) => changed |= now.snapshot.absorb(event(read(object).0, None)),
            Change::Replaced(objects) => {
                let mut gone = known(&now.snapshot);
                for object in objects {
                    let (name, value) = read(object);
                    gone.remove(&name);
                    changed |= now.snapshot.absorb(event(name, Some(value)));
                }
                for name in gone {
                    changed |= now.snapshot.absorb(event(name, None));
                }
                changed |= now.listed.insert(kind);
            }
        }
        drop(now);
        if changed {
            self.changes.send_modify(|version| *version = version.wrapping_add(1));
        }
    }

    /// Sees every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether every kind has been listed.
    pub(crate) fn is_complete(&self) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).listed.len() == 3
    }

    /// Waits until every kind has been listed.
    pub(crate) async fn complete(&self) {
        let mut changes = self.changes();
        while !self.is_complete() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Answers from what is known.
    pub(crate) fn with<T>(&self, answer: impl FnOnce(&ClusterSnapshot) -> T) -> T {
        answer(&self.known.read().unwrap_or_else(PoisonError::into_inner).snapshot)
    }

    /// Answers from what is known, but for some gateways. What the watches tell of them later counts again: it may be newer
    /// than what was read, and there is no telling here.
    pub(crate) fn with_fresh<T>(
        &self,
        fresh: Vec<(String, Option<GatewayRecord>)>,
        answer: impl FnOnce(&ClusterSnapshot) -> T,
    ) -> T {
        let mut now = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let gateways = &mut now.snapshot.gateways;
        let mut exchange = |name: String, record: Option<GatewayRecord>| match record {
            Some(record) => gateways.insert(name, record),
            None => gateways.remove(&name),
        };
        let known: Vec<_> =
            fresh.into_iter().map(|(name, record)| (name.clone(), exchange(name, record))).collect();
        let answer = answer(&now.snapshot);
        for (name, record) in known {
            match record {
                Some(record) => now.snapshot.gateways.insert(name, record),
                None => now.snapshot.gateways.remove(&name),
            };
        }
        answer
    }
}
