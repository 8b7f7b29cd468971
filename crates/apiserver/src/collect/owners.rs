//! Garbage collection by owner references.

use std::sync::Arc;

use serde_json::Value;

use crate::collect::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER};
use crate::meta;
use crate::resource::{Gvk, split_api_version};
use crate::store::{Context, DeleteOptions, ObjectKey, Propagation, Store, Target, may_go};

/// How an owner fares, seen from a dependent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Present,
    Absent,
    /// It is being deleted in the foreground and waits for the dependent.
    Waiting,
}

impl Store {
    /// Does what is due for one object and its owners or dependents.
    pub(super) fn collect(&mut self, ctx: &mut Context<'_>, key: &ObjectKey) {
        let Some(object) = self.stored_object(key) else {
            return;
        };
        if meta::is_deleting(&object) {
            if meta::finalizers(&object).any(|finalizer| finalizer == ORPHAN_FINALIZER) {
                self.release_dependents(ctx, meta::uid(&object));
                self.drop_finalizer(ctx, key, ORPHAN_FINALIZER);
            } else if meta::finalizers(&object).any(|finalizer| finalizer == FOREGROUND_FINALIZER) {
                self.end_in_foreground(ctx, key, meta::uid(&object));
            }
            return;
        }
        self.judge_dependent(ctx, key, &object);
    }

    fn stored_object(&self, key: &ObjectKey) -> Option<Arc<Value>> {
        self.entry(&key.resource, &key.key.namespace, &key.key.name).map(|entry| Arc::clone(&entry.object))
    }

    fn judge_dependent(&mut self, ctx: &mut Context<'_>, key: &ObjectKey, object: &Value) {
        let owners = meta::owner_references(object);
        if owners.is_empty() {
            return;
        }
        let fates: Vec<Owner> = owners.iter().map(|owner| self.fate(key, owner)).collect();
        if fates.contains(&Owner::Present) {
            if fates.iter().any(|fate| *fate != Owner::Present) {
                let kept = owners.iter().zip(&fates).filter(|(_, fate)| **fate == Owner::Present);
                let kept = kept.map(|(owner, _)| owner.clone()).collect();
                self.set_owners(ctx, key, kept);
            }
            return;
        }
        let has_dependents = !self.collector.dependents_of(meta::uid(object)).is_empty();
        let finalizers: Vec<&str> = meta::finalizers(object).collect();
        let propagation = if fates.contains(&Owner::Waiting) && has_dependents {
            Propagation::Foreground
        } else if finalizers.contains(&ORPHAN_FINALIZER) {
            Propagation::Orphan
        } else if finalizers.contains(&FOREGROUND_FINALIZER) {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        self.delete_by_key(ctx, key, propagation);
    }

    fn fate(&self, key: &ObjectKey, owner: &Value) -> Owner {
        let text = |name: &str| owner.get(name).and_then(Value::as_str).unwrap_or_default();
        let found = self.collector.key_of(text("uid")).filter(|found| {
            let namespace = &found.key.namespace;
            namespace.is_empty() || *namespace == key.key.namespace
        });
        let Some(found) = found.and_then(|found| self.stored_object(found)) else {
            // An owner of a kind that isn't served can't be looked for, so nothing is known of it.
            let (group, version) = split_api_version(text("apiVersion"));
            let served = self.registry().by_kind(&Gvk::new(group, version, text("kind"))).is_some();
            return if served { Owner::Absent } else { Owner::Present };
        };
        let waits =
            meta::is_deleting(&found) && meta::finalizers(&found).any(|it| it == FOREGROUND_FINALIZER);
        if waits { Owner::Waiting } else { Owner::Present }
    }

    fn end_in_foreground(&mut self, ctx: &mut Context<'_>, key: &ObjectKey, uid: &str) {
        let dependents = self.collector.dependents_of(uid);
        for dependent in &dependents {
            if let Some(object) = self.stored_object(dependent).filter(|object| !meta::is_deleting(object)) {
                self.judge_dependent(ctx, dependent, &object);
            }
        }
        let blocks = |object: &Value| {
            meta::owner_references(object).iter().any(|owner| {
                owner.get("uid").and_then(Value::as_str) == Some(uid)
                    && owner.get("blockOwnerDeletion").and_then(Value::as_bool) == Some(true)
            })
        };
        let blocked =
            dependents.iter().any(|key| self.stored_object(key).is_some_and(|object| blocks(&object)));
        if !blocked {
            self.drop_finalizer(ctx, key, FOREGROUND_FINALIZER);
        }
    }

    fn release_dependents(&mut self, ctx: &mut Context<'_>, uid: &str) {
        for key in self.collector.dependents_of(uid) {
            let Some(object) = self.stored_object(&key) else {
                continue;
            };
            let owners = meta::owner_references(&object).iter();
            let kept = owners.filter(|owner| owner.get("uid").and_then(Value::as_str) != Some(uid)).cloned();
            self.set_owners(ctx, &key, kept.collect());
        }
    }

    fn set_owners(&mut self, ctx: &mut Context<'_>, key: &ObjectKey, owners: Vec<Value>) {
        let Some(object) = self.stored_object(key) else {
            return;
        };
        let mut object = (*object).clone();
        let metadata = meta::metadata_mut(&mut object);
        if owners.is_empty() {
            metadata.remove("ownerReferences");
        } else {
            metadata.insert("ownerReferences".to_owned(), Value::Array(owners));
        }
        self.put(&key.resource, object, ctx.now);
    }

    /// Takes a finalizer away; the object goes if that was the last thing that kept it.
    pub(super) fn drop_finalizer(&mut self, ctx: &mut Context<'_>, key: &ObjectKey, finalizer: &str) {
        let Some(object) = self.stored_object(key) else {
            return;
        };
        let mut object = (*object).clone();
        let kept: Vec<String> =
            meta::finalizers(&object).filter(|it| *it != finalizer).map(str::to_owned).collect();
        let metadata = meta::metadata_mut(&mut object);
        if kept.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".to_owned(), Value::from(kept));
        }
        let goes = self.registry().stored(&key.resource).is_none_or(|info| may_go(info, &object));
        if goes {
            self.remove(&key.resource, &key.key, ctx.now);
        } else {
            self.put(&key.resource, object, ctx.now);
        }
    }

    pub(super) fn delete_by_key(&mut self, ctx: &mut Context<'_>, key: &ObjectKey, propagation: Propagation) {
        let Some(info) = self.registry().stored(&key.resource).cloned() else {
            self.remove(&key.resource, &key.key, ctx.now);
            return;
        };
        let target = Target {
            namespace: info.namespaced.then(|| key.key.namespace.clone()),
            resource: info,
            name: key.key.name.clone(),
        };
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        if let Err(error) = self.delete(ctx, &target, &options) {
            tracing::debug!(%error, name = target.name, "garbage is not collected");
        }
    }
}
