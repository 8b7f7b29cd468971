//! What the server does by itself: garbage collection, ends of namespaces, custom resource definitions.
//!
//! Each write marks what it may have made due; [`Store::tick`] works that off. Nothing scans all objects.

mod aggregation;
mod bootstrap;
mod default_roles;
mod definitions;
mod events;
mod namespaces;
mod owners;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::auth::roles::GROUP as RBAC;
use crate::meta;
use crate::resource::GroupResource;
use crate::store::{Context, ObjectKey, Store};

/// Finalizer of an object that waits for its dependents to go.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents are to be released first.
pub const ORPHAN_FINALIZER: &str = "orphan";

/// How many steps one tick takes at most; the rest waits for the next.
const STEPS_PER_TICK: usize = 20_000;

/// Indexes over owner references, and what is left to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collector {
    by_uid: BTreeMap<String, ObjectKey>,
    /// For each owner's uid the objects that refer to it.
    dependents: BTreeMap<String, BTreeSet<ObjectKey>>,
    pending: BTreeSet<ObjectKey>,
    terminating_namespaces: BTreeSet<String>,
    /// Whether a cluster role changed that others may gather.
    roles_changed: bool,
    /// Definitions that wait for the last of their custom resources to go.
    ending_definitions: BTreeSet<ObjectKey>,
}

pub(crate) fn is_resource(resource: &GroupResource, group: &str, plural: &str) -> bool {
    resource.group == group && resource.resource == plural
}

pub(crate) fn is_definition(resource: &GroupResource) -> bool {
    is_resource(resource, "apiextensions.k8s.io", "customresourcedefinitions")
}

fn owner_uids(object: Option<&Value>) -> BTreeSet<String> {
    let owners = object.map(meta::owner_references).unwrap_or_default().iter();
    owners.filter_map(|owner| owner.get("uid").and_then(Value::as_str).map(str::to_owned)).collect()
}

impl Collector {
    /// Takes note of a write.
    pub(crate) fn observe(&mut self, key: &ObjectKey, old: Option<&Value>, new: Option<&Value>) {
        self.observe_owners(key, old, new);
        match new {
            Some(new) => {
                self.by_uid.insert(meta::uid(new).to_owned(), key.clone());
                let waits =
                    meta::finalizers(new).any(|it| [FOREGROUND_FINALIZER, ORPHAN_FINALIZER].contains(&it));
                if meta::is_deleting(new) && waits {
                    self.pending.insert(key.clone());
                }
            }
            None => {
                let uid = old.map(meta::uid).unwrap_or_default();
                self.by_uid.remove(uid);
                self.pending.extend(self.dependents.get(uid).into_iter().flatten().cloned());
            }
        }
        if is_definition(&key.resource) {
            self.pending.insert(key.clone());
        } else if is_resource(&key.resource, RBAC, "clusterroles") {
            self.roles_changed = true;
        } else if is_resource(&key.resource, "", "namespaces") {
            self.observe_namespace(key, new);
        } else if new.is_none() && bootstrap::is_wanted_in_each_namespace(key) {
            let namespace = self.namespace_key(&key.key.namespace);
            self.pending.insert(namespace);
        }
    }

    fn observe_owners(&mut self, key: &ObjectKey, old: Option<&Value>, new: Option<&Value>) {
        let (before, after) = (owner_uids(old), owner_uids(new));
        for uid in before.difference(&after) {
            if let Some(set) = self.dependents.get_mut(uid) {
                set.remove(key);
                if set.is_empty() {
                    self.dependents.remove(uid);
                }
            }
            // An owner may be waiting for exactly this dependent.
            if let Some(owner) = self.by_uid.get(uid) {
                self.pending.insert(owner.clone());
            }
        }
        for uid in after.difference(&before) {
            self.dependents.entry(uid.clone()).or_default().insert(key.clone());
            self.pending.insert(key.clone());
        }
    }

    fn observe_namespace(&mut self, key: &ObjectKey, new: Option<&Value>) {
        match new {
            Some(new) if meta::is_deleting(new) => {
                self.terminating_namespaces.insert(key.key.name.clone());
            }
            Some(_) => {
                self.pending.insert(key.clone());
            }
            None => {
                self.terminating_namespaces.remove(&key.key.name);
            }
        }
    }

    fn namespace_key(&self, name: &str) -> ObjectKey {
        ObjectKey::new(GroupResource::new("", "namespaces"), "", name)
    }

    pub(crate) fn dependents_of(&self, uid: &str) -> Vec<ObjectKey> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    pub(crate) fn key_of(&self, uid: &str) -> Option<&ObjectKey> {
        self.by_uid.get(uid)
    }
}

impl Store {
    /// Does what is due: collects garbage, ends namespaces and custom resources, forgets old history.
    ///
    /// Says whether anything was written. Call it after each write and about once a second.
    pub fn tick(&mut self, ctx: &mut Context<'_>) -> bool {
        let before = self.resource_version();
        let mut steps = 0;
        let ending = std::mem::take(&mut self.collector.ending_definitions);
        self.collector.pending.extend(ending);
        loop {
            while let Some(key) = self.collector.pending.pop_first() {
                self.settle(ctx, &key);
                steps += 1;
                if steps >= STEPS_PER_TICK {
                    return true;
                }
            }
            let version = self.resource_version();
            self.end_namespaces(ctx);
            self.aggregate_roles(ctx);
            if version == self.resource_version() && self.collector.pending.is_empty() {
                break;
            }
        }
        self.expire_events(ctx.now);
        self.forget_history(ctx.now);
        before != self.resource_version()
    }

    fn settle(&mut self, ctx: &mut Context<'_>, key: &ObjectKey) {
        if is_definition(&key.resource) {
            self.settle_definition(ctx, key);
        } else if is_resource(&key.resource, "", "namespaces") {
            self.furnish_namespace(ctx, &key.key.name);
        }
        self.collect(ctx, key);
    }
}

#[cfg(test)]
mod tests;
