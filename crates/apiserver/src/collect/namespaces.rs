//! The end of namespaces, and the end of history.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::meta;
use crate::resource::GroupResource;
use crate::store::{Context, ObjectKey, Propagation, Store};

impl Store {
    /// Deletes the content of namespaces that are being deleted, and those namespaces that are empty.
    pub(super) fn end_namespaces(&mut self, ctx: &mut Context<'_>) {
        let names: Vec<String> = self.collector.terminating_namespaces.iter().cloned().collect();
        for name in names {
            self.end_namespace(ctx, &name);
        }
    }

    fn end_namespace(&mut self, ctx: &mut Context<'_>, name: &str) {
        for key in self.content_of(name) {
            let deleting = self
                .entry(&key.resource, &key.key.namespace, &key.key.name)
                .is_none_or(|entry| meta::is_deleting(&entry.object));
            if !deleting {
                self.delete_by_key(ctx, &key, Propagation::Background);
            }
        }
        if self.content_of(name).is_empty() {
            self.release_namespace(ctx, name);
        }
    }

    fn content_of(&self, namespace: &str) -> Vec<ObjectKey> {
        let tables = self.tables.iter();
        tables
            .flat_map(|(resource, table)| {
                let keys = table.range(Some(namespace)).map(|(key, _)| Arc::clone(key));
                keys.map(|key| ObjectKey { resource: resource.clone(), key })
            })
            .collect()
    }

    /// Removes the server's own finalizer; finalizers of others keep the namespace.
    fn release_namespace(&mut self, ctx: &mut Context<'_>, name: &str) {
        let resource = GroupResource::new("", "namespaces");
        let Some(entry) = self.entry(&resource, "", name) else {
            return;
        };
        let mut object = (*entry.object).clone();
        let mine = json!("kubernetes");
        let Some(list) = object.pointer_mut("/spec/finalizers").and_then(Value::as_array_mut) else {
            return self.finish_namespace(ctx, &resource, object);
        };
        let before = list.len();
        list.retain(|finalizer| *finalizer != mine);
        if list.is_empty() || list.len() != before {
            self.finish_namespace(ctx, &resource, object);
        }
    }

    fn finish_namespace(&mut self, ctx: &mut Context<'_>, resource: &GroupResource, object: Value) {
        let Some(info) = self.registry().stored(resource).cloned() else {
            return;
        };
        let key = ObjectKey::new(resource.clone(), "", meta::name(&object));
        if crate::store::may_go(&info, &object) {
            self.remove(resource, &key.key, ctx.now);
        } else if self.entry(resource, "", meta::name(&object)).is_some_and(|entry| *entry.object != object) {
            self.put(resource, object, ctx.now);
        }
    }

    /// Forgets changes that are too old, and tables of resources that are gone.
    pub(super) fn forget_history(&mut self, now: Timestamp) {
        for table in self.tables.values_mut() {
            table.history.trim(now.as_second(), &self.limits);
        }
        let registry = &self.registry;
        let mut forgotten = 0;
        self.tables.retain(|resource, table| {
            let keep =
                !table.objects.is_empty() || !table.history.is_empty() || registry.stored(resource).is_some();
            if !keep {
                forgotten = forgotten.max(table.history.oldest());
            }
            keep
        });
        self.first_version = self.first_version.max(forgotten);
    }
}
