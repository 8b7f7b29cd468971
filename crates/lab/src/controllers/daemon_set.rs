//! DaemonSets: one pod on each node that fits.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::action::{Action, Kind};
use super::deployment::{share, template_hash};
use super::scheduler::fits;
use super::{event, owner_reference, pod_from_template, status_patch};
use crate::pods::{is_available, is_finished, is_ready, is_terminating, node_name};
use crate::world::{Key, World};

const REVISION_HASH: &str = "controller-revision-hash";
/// What every pod of a DaemonSet lives with: `(taint, effect)`.
const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoSchedule"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// What all DaemonSets need.
pub(crate) fn reconcile(world: &World, now: Timestamp) -> Vec<Action> {
    world.daemon_sets.iter().flat_map(|set| reconcile_one(world, set, now)).collect()
}

fn reconcile_one(world: &World, set: &DaemonSet, now: Timestamp) -> Vec<Action> {
    if set.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let key = Key::of(set);
    let spec = set.spec.clone().unwrap_or_default();
    let hash = template_hash(Some(&spec.template));
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let pods: Vec<&Arc<Pod>> = world.pods.owned_by(&key.namespace, uid).collect();
    let pod_spec = with_tolerations(spec.template.spec.clone().unwrap_or_default());
    let eligible = |node: &Node| fits(&pod_spec, node).is_ok();

    let mut actions = Vec::new();
    let delete =
        |pod: &Pod| Action::Delete { kind: Kind::Pod, key: Key::of(pod), uid: pod.metadata.uid.clone() };
    for pod in pods.iter().filter(|pod| !is_terminating(pod)) {
        let node = node_name(pod).and_then(|name| world.nodes.get("", name));
        if is_finished(pod) || !node.is_some_and(|node| eligible(node)) {
            actions.push(delete(pod));
        }
    }
    let on_node = |node: &Node| {
        let name = node.name_any();
        pods.iter().copied().find(move |pod| node_name(pod) == Some(name.as_str()) && !is_finished(pod))
    };
    let mut status =
        DaemonSetStatus { observed_generation: set.metadata.generation, ..DaemonSetStatus::default() };
    let mut outdated = Vec::new();
    let mut unavailable = 0;
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let owner = owner_reference("apps/v1", "DaemonSet", set);
    for node in world.nodes.iter() {
        let pod = on_node(node);
        if !eligible(node) {
            status.number_misscheduled += i32::from(pod.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = pod else {
            unavailable += 1;
            let mut template = spec.template.clone();
            let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
            labels.insert(REVISION_HASH.to_string(), hash.clone());
            let object = pod_from_template(&key.namespace, &key.name, template, &owner, |pod| {
                *pod = with_tolerations(std::mem::take(pod));
                pod.node_name = Some(node.name_any());
            });
            actions.push(Action::Create { kind: Kind::Pod, object });
            continue;
        };
        status.current_number_scheduled += 1;
        let current = pod.labels().get(REVISION_HASH) == Some(&hash);
        status.number_ready += i32::from(is_ready(pod));
        let available = is_available(pod, min_ready, now) && !is_terminating(pod);
        unavailable += i32::from(!available);
        if current {
            count(&mut status.updated_number_scheduled);
        } else if !is_terminating(pod) {
            outdated.push((available, pod));
        }
        if available {
            count(&mut status.number_available);
        }
    }
    status.number_unavailable = (unavailable > 0).then_some(unavailable);
    let strategy = spec.update_strategy.unwrap_or_default();
    if strategy.type_.as_deref() != Some("OnDelete") {
        let one = IntOrString::Int(1);
        let limit = strategy.rolling_update.and_then(|rolling| rolling.max_unavailable).unwrap_or(one);
        let mut budget = share(&limit, status.desired_number_scheduled, true).max(1) - unavailable;
        // Those that do not work anyway cost nothing.
        outdated.sort_by_key(|(available, _)| *available);
        for (available, pod) in outdated {
            if available {
                if budget <= 0 {
                    break;
                }
                budget -= 1;
            }
            let message = format!("Deleted pod: {}", pod.name_any());
            actions.push(event(("apps/v1", "DaemonSet"), set, "SuccessfulDelete", &message, now));
            actions.push(delete(pod));
        }
    }
    if set.status.as_ref() != Some(&status) {
        actions.push(status_patch(Kind::DaemonSet, key, set.status.as_ref(), &status));
    }
    actions
}

fn count(counter: &mut Option<i32>) {
    *counter = Some(counter.unwrap_or(0) + 1);
}

fn with_tolerations(mut spec: PodSpec) -> PodSpec {
    let host_network = spec.host_network.unwrap_or(false);
    let tolerations = spec.tolerations.get_or_insert_default();
    let network = host_network.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        tolerations.push(Toleration {
            key: Some(key.to_string()),
            operator: Some("Exists".to_string()),
            effect: Some(effect.to_string()),
            ..Toleration::default()
        });
    }
    spec
}
