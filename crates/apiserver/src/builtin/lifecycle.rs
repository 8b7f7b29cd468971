//! What built-in kinds set on create, keep on update and do on delete.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::meta;
use crate::resource::ResourceInfo;
use crate::store::{Context, Store, Subresource};

/// What the rules of one kind may read of others.
pub struct View<'a> {
    pub(crate) store: &'a Store,
}

impl View<'_> {
    /// An object of another kind.
    pub fn object(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.store.object(group, plural, namespace, name).map(|object| &**object)
    }
}

fn is(info: &ResourceInfo, group: &str, plural: &str) -> bool {
    info.builtin && info.gvk.group == group && info.plural == plural
}

/// Whether a client may set the status when it creates an object. Only nodes register with theirs.
pub fn keeps_status_on_create(info: &ResourceInfo) -> bool {
    is(info, "", "nodes")
}

/// Sets what the server decides when an object is created.
pub fn prepare_create(info: &ResourceInfo, object: &mut Value, ctx: &mut Context<'_>, view: &View<'_>) {
    match (info.gvk.group.as_str(), info.plural.as_str()) {
        ("", "namespaces") => prepare_namespace(object),
        ("", "pods") => super::pod_defaults::prepare_create(object, ctx, view),
        ("", "services") => {
            meta::map_of(object).insert("status".to_owned(), json!({"loadBalancer": {}}));
            super::defaults::choose_address_families(object);
        }
        ("batch", "jobs") => {
            super::defaults::select_pods_of_job(object);
            super::defaults::initial_status(info, object);
        }
        ("batch", "cronjobs") | ("", "resourcequotas") | ("networking.k8s.io", "ingresses") => {
            super::defaults::initial_status(info, object);
        }
        ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets") => {
            super::defaults::initial_status(info, object)
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => super::crd::prepare_create(object),
        ("policy", "poddisruptionbudgets") => super::defaults::initial_status(info, object),
        _ => {}
    }
}

fn prepare_namespace(object: &mut Value) {
    super::defaults::label_namespace(object);
    let map = meta::map_of(object);
    let finalizers = json!({"finalizers": ["kubernetes"]});
    map.insert("spec".to_owned(), finalizers);
    map.insert("status".to_owned(), json!({"phase": "Active"}));
}

/// Restores what an update may not change silently.
pub fn prepare_update(info: &ResourceInfo, subresource: Subresource, old: &Value, new: &mut Value) {
    match (info.gvk.group.as_str(), info.plural.as_str()) {
        ("", "namespaces") if subresource == Subresource::Main => {
            let map = meta::map_of(new);
            if let Some(spec) = old.get("spec") {
                map.insert("spec".to_owned(), spec.clone());
            }
        }
        ("", "services") => {
            super::defaults::keep_service_addresses(old, new);
            super::defaults::choose_address_families(new);
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => super::crd::prepare_update(old, new),
        _ => {}
    }
}

/// The grace that a delete of this object gets, in seconds.
pub fn grace_seconds(info: &ResourceInfo, object: &Value, wanted: Option<i64>) -> i64 {
    if !is(info, "", "pods") {
        return 0;
    }
    let phase = object.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    let node = object.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() || phase == "Succeeded" || phase == "Failed" {
        return 0;
    }
    let own = || object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
    let current = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    // Later deletes only shorten what is running already.
    match (current.filter(|_| meta::is_deleting(object)), wanted) {
        (Some(current), Some(wanted)) => wanted.min(current),
        (Some(current), None) => current,
        (None, wanted) => wanted.unwrap_or_else(own),
    }
    .max(0)
}

/// What else changes in an object when its deletion begins.
pub fn mark_deleting(info: &ResourceInfo, object: &mut Value, now: Timestamp) {
    if is(info, "", "namespaces") {
        meta::map_mut(meta::map_of(object), "status").insert("phase".to_owned(), Value::from("Terminating"));
    }
    if is(info, "apiextensions.k8s.io", "customresourcedefinitions") {
        super::crd::mark_deleting(object, now);
    }
}
