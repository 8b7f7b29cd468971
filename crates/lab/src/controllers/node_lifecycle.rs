//! Nodes that nobody hears of any more: they become not ready, their pods too, and in the end their pods go.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::action::{Action, Kind};
use super::event;
use crate::pods::{condition, is_terminating, node_name, tolerates};
use crate::world::{Key, World};

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// What all nodes, and the pods on them, need.
pub(crate) fn reconcile(world: &World, grace: Duration, now: Timestamp) -> Vec<Action> {
    world.nodes.iter().flat_map(|node| reconcile_one(world, node, grace, now)).collect()
}

/// When the next node will have been silent for too long.
pub(crate) fn next_deadline(world: &World, grace: Duration) -> Option<Timestamp> {
    let grace = SignedDuration::try_from(grace).ok()?;
    world
        .nodes
        .iter()
        .filter(|node| !is_unreachable(node))
        .filter_map(|node| world.heard.get(&node.name_any()).and_then(|heard| heard.checked_add(grace).ok()))
        .min()
}

fn reconcile_one(world: &World, node: &Node, grace: Duration, now: Timestamp) -> Vec<Action> {
    let name = node.name_any();
    let Some(heard) = world.heard.get(&name) else { return Vec::new() };
    let silent = now.duration_since(*heard);
    if SignedDuration::try_from(grace).is_ok_and(|grace| silent >= grace) {
        let mut actions = Vec::new();
        if !is_unreachable(node) {
            actions.push(declare_unreachable(node, now));
            actions.push(taint(node, true, now));
            let message = format!("Node {name} status is now: NodeNotReady");
            actions.push(event(("v1", "Node"), node, "NodeNotReady", &message, now));
        }
        actions.extend(pods_of_lost_node(world, node, now));
        return actions;
    }
    if has_taint(node) && ready_status(node) == Some("True") {
        return vec![taint(node, false, now)];
    }
    Vec::new()
}

fn ready_status(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.status.as_str())
}

fn is_unreachable(node: &Node) -> bool {
    ready_status(node) == Some("Unknown") && has_taint(node)
}

fn has_taint(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.key == UNREACHABLE)
}

fn declare_unreachable(node: &Node, now: Timestamp) -> Action {
    let mut conditions = node.status.clone().unwrap_or_default().conditions.unwrap_or_default();
    for condition in &mut conditions {
        if condition.status != "Unknown" {
            condition.last_transition_time = Some(Time(now));
        }
        condition.status = "Unknown".to_string();
        condition.reason = Some("NodeStatusUnknown".to_string());
        condition.message = Some("Kubelet stopped posting node status.".to_string());
    }
    let patch = json!({"status": {"conditions": conditions}});
    Action::Patch { kind: Kind::Node, key: Key::of(node), status: true, patch }
}

fn taint(node: &Node, unreachable: bool, now: Timestamp) -> Action {
    let mut taints = node.spec.clone().unwrap_or_default().taints.unwrap_or_default();
    taints.retain(|taint| taint.key != UNREACHABLE);
    if unreachable {
        for effect in ["NoSchedule", "NoExecute"] {
            taints.push(Taint {
                key: UNREACHABLE.to_string(),
                value: None,
                effect: effect.to_string(),
                time_added: Some(Time(now)),
            });
        }
    }
    let taints = if taints.is_empty() { Value::Null } else { json!(taints) };
    Action::Patch {
        kind: Kind::Node,
        key: Key::of(node),
        status: false,
        patch: json!({"spec": {"taints": taints}}),
    }
}

/// Pods that nobody can vouch for are not ready; those whose patience has ended are deleted.
fn pods_of_lost_node(world: &World, node: &Node, now: Timestamp) -> Vec<Action> {
    let name = node.name_any();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let executes = taints.iter().find(|taint| taint.key == UNREACHABLE && taint.effect == "NoExecute");
    let since = executes.and_then(|taint| taint.time_added.as_ref()).map_or(now, |time| time.0);
    let mut actions = Vec::new();
    for pod in world.pods.iter().filter(|pod| node_name(pod) == Some(name.as_str())) {
        if condition(pod, "Ready").is_some_and(|ready| ready.status == "True") {
            actions.push(not_ready(pod, now));
        }
        let leaves = executes.is_some_and(|taint| match patience(pod, taint) {
            Patience::None => true,
            Patience::Seconds(seconds) => now.duration_since(since).as_secs() >= seconds,
            Patience::Endless => false,
        });
        if leaves && !is_terminating(pod) {
            let uid = pod.metadata.uid.clone();
            actions.push(Action::Delete { kind: Kind::Pod, key: Key::of(pod.as_ref()), uid });
        }
    }
    actions
}

enum Patience {
    None,
    Seconds(i64),
    Endless,
}

fn patience(pod: &Pod, taint: &Taint) -> Patience {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let matching = tolerations.iter().filter(|toleration| tolerates(std::slice::from_ref(toleration), taint));
    let seconds: Vec<Option<i64>> = matching.map(|toleration| toleration.toleration_seconds).collect();
    match seconds.iter().flatten().min() {
        Some(shortest) => Patience::Seconds(*shortest),
        None if seconds.is_empty() => Patience::None,
        None => Patience::Endless,
    }
}

fn not_ready(pod: &Pod, now: Timestamp) -> Action {
    let mut conditions = pod.status.clone().unwrap_or_default().conditions.unwrap_or_default();
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == "Ready") {
        condition.status = "False".to_string();
        condition.last_transition_time = Some(Time(now));
    }
    let patch = json!({"status": {"conditions": conditions}});
    Action::Patch { kind: Kind::Pod, key: Key::of(pod), status: true, patch }
}
