//! ReplicaSets: so many pods of one template.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;

use super::action::{Action, Kind};
use super::{event, owner_reference, pod_from_template, status_patch};
use crate::pods::{is_active, is_available, is_ready, node_name, phase};
use crate::world::{Key, World};

/// Most pods that one pass creates or deletes for one ReplicaSet.
const BURST_MAX: usize = 500;

/// What all ReplicaSets need.
pub(crate) fn reconcile(world: &World, now: Timestamp) -> Vec<Action> {
    world.replica_sets.iter().flat_map(|set| reconcile_one(world, set, now)).collect()
}

fn reconcile_one(world: &World, set: &ReplicaSet, now: Timestamp) -> Vec<Action> {
    let key = Key::of(set);
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let pods: Vec<&Arc<Pod>> =
        world.pods.owned_by(&key.namespace, uid).filter(|pod| is_active(pod)).collect();
    let mut actions = Vec::new();
    let spec = set.spec.clone().unwrap_or_default();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if set.metadata.deletion_timestamp.is_none() {
        if pods.len() < wanted {
            let owner = owner_reference("apps/v1", "ReplicaSet", set);
            for _ in 0..(wanted - pods.len()).min(BURST_MAX) {
                let template = spec.template.clone().unwrap_or_default();
                let object = pod_from_template(&key.namespace, &key.name, template, &owner, |_| {});
                actions.push(Action::Create { kind: Kind::Pod, object });
            }
        } else {
            for pod in least_wanted(pods.clone()).into_iter().take((pods.len() - wanted).min(BURST_MAX)) {
                let uid = pod.metadata.uid.clone();
                actions.push(Action::Delete { kind: Kind::Pod, key: Key::of(pod.as_ref()), uid });
                let message = format!("Deleted pod: {}", Key::of(pod.as_ref()).name);
                actions.push(event(("apps/v1", "ReplicaSet"), set, "SuccessfulDelete", &message, now));
            }
        }
    }
    let status = status_of(set, &pods, now);
    if set.status.as_ref() != Some(&status) {
        actions.push(status_patch(Kind::ReplicaSet, key, set.status.as_ref(), &status));
    }
    actions
}

fn status_of(set: &ReplicaSet, pods: &[&Arc<Pod>], now: Timestamp) -> ReplicaSetStatus {
    let count = |matches: &dyn Fn(&Pod) -> bool| {
        i32::try_from(pods.iter().filter(|pod| matches(pod)).count()).unwrap_or(i32::MAX)
    };
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    // Of a count of none, the API shows nothing.
    let some = |count: i32| (count > 0).then_some(count);
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: some(count(&|_| true)),
        ready_replicas: some(count(&is_ready)),
        available_replicas: some(count(&|pod| is_available(pod, min_ready, now))),
        observed_generation: set.metadata.generation,
        ..ReplicaSetStatus::default()
    }
}

/// Pods in the order in which they may go: those that do the least for anybody first, and of equals the newest.
fn least_wanted(mut pods: Vec<&Arc<Pod>>) -> Vec<&Arc<Pod>> {
    pods.sort_by_key(|pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (
            node_name(pod).is_some(),
            phase(pod) == "Running",
            is_ready(pod),
            std::cmp::Reverse(created),
            pod.metadata.name.clone(),
        )
    });
    pods
}
