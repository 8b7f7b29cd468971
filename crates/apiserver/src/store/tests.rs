//! The store as its clients see it, without sockets.

mod applying;
mod deleting;
mod reading;
mod writing;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::meta;
use crate::resource::ResourceInfo;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status_error::StatusError;
use crate::store::{
    Context, DeleteOptions, DeleteOutcome, ListRequest, PatchType, Store, StoreOptions, Subresource, Target,
    WatchBatch, WatchCursor, WatchRequest, WatchStart, WriteOptions, Written,
};

/// A store with a clock and a random source of its own.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) now: Timestamp,
    seed: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(StoreOptions::default())
    }

    pub(crate) fn with(options: StoreOptions) -> Self {
        let now: Timestamp = "2026-01-02T03:04:05.678Z".parse().expect("a timestamp");
        let mut seed = 1;
        let mut rng = || next(&mut seed);
        let store = Store::new(options, &mut Context { now, rng: &mut rng });
        Self { store, now, seed }
    }

    pub(crate) fn run<T>(&mut self, act: impl FnOnce(&mut Store, &mut Context<'_>) -> T) -> T {
        let mut rng = || next(&mut self.seed);
        act(&mut self.store, &mut Context { now: self.now, rng: &mut rng })
    }

    pub(crate) fn later(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).expect("in range");
    }

    pub(crate) fn tick(&mut self) -> bool {
        self.run(|store, ctx| store.tick(ctx))
    }

    #[track_caller]
    pub(crate) fn info(&self, plural: &str) -> Arc<ResourceInfo> {
        let mut all = self.store.registry().all().filter(|info| info.plural == plural);
        all.next().unwrap_or_else(|| panic!("{plural} is not served")).clone()
    }

    #[track_caller]
    pub(crate) fn target(&self, plural: &str, name: &str) -> Target {
        let resource = self.info(plural);
        let namespace = resource.namespaced.then(|| "default".to_owned());
        Target { resource, namespace, name: name.to_owned() }
    }

    #[track_caller]
    pub(crate) fn try_create(&mut self, plural: &str, object: Value) -> Result<Written, StatusError> {
        self.create_with(plural, object, &WriteOptions::default())
    }

    #[track_caller]
    pub(crate) fn create_with(
        &mut self,
        plural: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, StatusError> {
        let info = self.info(plural);
        let namespace =
            object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default").to_owned();
        let namespace = info.namespaced.then_some(namespace);
        self.run(|store, ctx| store.create(ctx, &info, namespace.as_deref(), object, options))
    }

    #[track_caller]
    pub(crate) fn create(&mut self, plural: &str, object: Value) -> Arc<Value> {
        match self.try_create(plural, object) {
            Ok(written) => written.object,
            Err(error) => panic!("{plural}: {error}"),
        }
    }

    #[track_caller]
    pub(crate) fn get(&self, plural: &str, name: &str) -> Arc<Value> {
        self.store.get(&self.target(plural, name), Subresource::Main).expect("it is there")
    }

    #[track_caller]
    pub(crate) fn exists(&self, plural: &str, name: &str) -> bool {
        self.store.get(&self.target(plural, name), Subresource::Main).is_ok()
    }

    #[track_caller]
    pub(crate) fn try_update(
        &mut self,
        plural: &str,
        subresource: Subresource,
        object: Value,
    ) -> Result<Written, StatusError> {
        let target = self.target(plural, meta::name(&object));
        self.run(|store, ctx| store.update(ctx, &target, subresource, object, &WriteOptions::default()))
    }

    #[track_caller]
    pub(crate) fn try_patch(
        &mut self,
        plural: &str,
        name: &str,
        patch_type: PatchType,
        patch: Value,
    ) -> Result<Written, StatusError> {
        let target = self.target(plural, name);
        let options = WriteOptions::default();
        self.run(|store, ctx| store.patch(ctx, &target, Subresource::Main, patch_type, patch, &options))
    }

    #[track_caller]
    pub(crate) fn merge(&mut self, plural: &str, name: &str, patch: Value) -> Arc<Value> {
        self.try_patch(plural, name, PatchType::Merge, patch).expect("a valid patch").object
    }

    #[track_caller]
    pub(crate) fn try_delete(
        &mut self,
        plural: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<DeleteOutcome, StatusError> {
        let target = self.target(plural, name);
        self.run(|store, ctx| store.delete(ctx, &target, options))
    }

    #[track_caller]
    pub(crate) fn delete(&mut self, plural: &str, name: &str) -> DeleteOutcome {
        self.try_delete(plural, name, &DeleteOptions::default()).expect("it can be deleted")
    }

    #[track_caller]
    pub(crate) fn names(&self, plural: &str, labels: &str, fields: &str) -> Vec<String> {
        let request = ListRequest {
            labels: LabelSelector::parse(labels).expect("a selector"),
            fields: FieldSelector::parse(fields).expect("a selector"),
            ..ListRequest::default()
        };
        let items = self.store.list(&self.info(plural), &request).expect("a list").items;
        items.iter().map(|item| meta::name(item).to_owned()).collect()
    }

    #[track_caller]
    pub(crate) fn watch(&self, plural: &str, request: &WatchRequest) -> WatchStart {
        self.store.watch_start(&self.info(plural), request).expect("a watch")
    }

    /// The events since the cursor as `TYPE name`.
    #[track_caller]
    pub(crate) fn events(&self, cursor: &mut WatchCursor) -> Vec<String> {
        let WatchBatch { events, .. } =
            self.store.events_since(cursor, 1000).expect("the history reaches back");
        events.iter().map(|event| format!("{} {}", event.kind.as_str(), meta::name(&event.object))).collect()
    }
}

/// SplitMix64.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

pub(crate) fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "shell"}]}})
}

/// A definition of `widgets.lab.example.com` with a status and a scale subresource.
pub(crate) fn widgets() -> Value {
    json!({
        "metadata": {"name": "widgets.lab.example.com"},
        "spec": {
            "group": "lab.example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector"}},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["color"], "properties": {
                        "color": {"type": "string", "maxLength": 5},
                        "replicas": {"type": "integer", "default": 1},
                    }},
                    "status": {"type": "object", "properties": {
                        "replicas": {"type": "integer"}, "selector": {"type": "string"},
                    }},
                }}},
            }],
        },
    })
}
