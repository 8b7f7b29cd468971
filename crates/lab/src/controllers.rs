//! The controllers of a cluster, as functions of what is known: each answers what it wants done.
//!
//! ```text
//!   watches -> World -> nodes, EndpointSlices, DaemonSets, Deployments, …, scheduler -> actions -> API server
//!                ^                                                                            |
//!                +--------------------------- answers to the writes --------------------------+
//! ```

pub(crate) mod action;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod job;
mod node_lifecycle;
mod replica_set;
mod run;
mod scheduler;
mod stateful_set;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};

use action::{Action, Kind};
pub(crate) use run::{Settings, run};

use crate::world::{Key, World};

/// What all controllers want done now.
fn decide(world: &World, settings: &Settings, now: Timestamp) -> Vec<Action> {
    let mut actions = node_lifecycle::reconcile(world, settings.node_grace, now);
    // Before a Deployment is said to be available its pods can be reached.
    actions.extend(endpoint_slice::reconcile(world));
    actions.extend(daemon_set::reconcile(world, now));
    actions.extend(deployment::reconcile(world, now));
    actions.extend(replica_set::reconcile(world, now));
    actions.extend(stateful_set::reconcile(world, now));
    actions.extend(job::reconcile(world, now));
    actions.extend(scheduler::reconcile(world, now));
    actions
}

/// The reference by which an object shows who made it.
fn owner_reference<K: Resource>(api_version: &str, kind: &str, owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_string(),
        kind: kind.to_string(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A pod as a template says, with a name that the server completes.
fn pod_from_template(
    namespace: &str,
    owner_name: &str,
    template: PodTemplateSpec,
    owner: &OwnerReference,
    adjust: impl FnOnce(&mut PodSpec),
) -> Value {
    let metadata = template.metadata.unwrap_or_default();
    let mut spec = template.spec.unwrap_or_default();
    adjust(&mut spec);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": format!("{owner_name}-"),
            "namespace": namespace,
            "labels": metadata.labels,
            "annotations": metadata.annotations,
            "finalizers": metadata.finalizers,
            "ownerReferences": [owner],
        },
        "spec": spec,
    })
}

/// A merge patch that makes a status what it should be; what it has no more is removed.
fn status_patch<S: Serialize>(kind: Kind, key: Key, old: Option<&S>, new: &S) -> Action {
    let mut patch = json!(new);
    if let (Some(Value::Object(old)), Value::Object(new)) = (old.map(|old| json!(old)), &mut patch) {
        for field in old.keys().filter(|field| !new.contains_key(*field)).cloned().collect::<Vec<_>>() {
            new.insert(field, Value::Null);
        }
    }
    Action::Patch { kind, key, status: true, patch: json!({ "status": patch }) }
}

/// An event that `kubectl describe` shows.
fn event<K: Resource>(what: (&str, &str), object: &K, reason: &str, message: &str, now: Timestamp) -> Action {
    let warnings = ["FailedScheduling", "NodeNotReady", "BackoffLimitExceeded", "DeadlineExceeded"];
    let kind = if warnings.contains(&reason) { "Warning" } else { "Normal" };
    let component = match what.1 {
        "Pod" => "default-scheduler",
        "Node" => "node-controller",
        "ReplicaSet" => "replicaset-controller",
        "DaemonSet" => "daemonset-controller",
        "StatefulSet" => "statefulset-controller",
        "Job" => "job-controller",
        _ => "deployment-controller",
    };
    let object = event_object(what, object, (kind, reason, message), component, now);
    Action::Create { kind: Kind::Event, object }
}

/// The Event object for something that happened to an object.
pub(crate) fn event_object<K: Resource>(
    (api_version, kind): (&str, &str),
    object: &K,
    (level, reason, message): (&str, &str, &str),
    component: &str,
    now: Timestamp,
) -> Value {
    let meta = object.meta();
    let name = meta.name.clone().unwrap_or_default();
    // Events of what has no namespace are kept in "default".
    let namespace = meta.namespace.clone().unwrap_or_else(|| "default".to_string());
    let seconds = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": format!("{name}."), "namespace": namespace},
        "involvedObject": {
            "apiVersion": api_version, "kind": kind, "name": name, "namespace": meta.namespace,
            "uid": meta.uid, "resourceVersion": meta.resource_version,
        },
        "type": level, "reason": reason, "message": message, "count": 1,
        "firstTimestamp": seconds, "lastTimestamp": seconds,
        "source": {"component": component},
        "reportingComponent": component, "reportingInstance": component,
    })
}
