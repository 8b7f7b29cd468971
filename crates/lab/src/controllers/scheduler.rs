//! The scheduler: gives each pod that has no node one that fits, the emptiest first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodCondition, PodSpec, Taint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;

use super::action::{Action, Kind};
use super::event;
use crate::pods::{condition, is_active, is_terminating, node_name, tolerates};
use crate::world::{Key, World, controller_uid};

/// Most pods of a node.
const PODS_PER_NODE_MAX: usize = 110;
const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Binds every pod that waits, or says why it can't.
pub(crate) fn reconcile(world: &World, now: Timestamp) -> Vec<Action> {
    let mut load = Load::of(world);
    let mut actions = Vec::new();
    for pod in world.pods.iter().filter(|pod| waits(pod)) {
        let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
        let mut candidates = Vec::new();
        for node in world.nodes.iter() {
            match fits(pod.spec.as_ref().unwrap_or(&PodSpec::default()), node) {
                Ok(()) if load.pods(node) >= PODS_PER_NODE_MAX => {
                    *refusals.entry("Too many pods".to_string()).or_default() += 1;
                }
                Ok(()) => candidates.push(node),
                Err(reason) => *refusals.entry(reason).or_default() += 1,
            }
        }
        match candidates.into_iter().min_by_key(|node| load.rank(pod, node)) {
            Some(node) => {
                let name = node.name_any();
                load.add(pod, &name);
                let message = format!("Successfully assigned {} to {name}", Key::of(pod.as_ref()));
                let uid = pod.metadata.uid.clone();
                actions.push(Action::Bind { key: Key::of(pod.as_ref()), uid, node: name });
                actions.push(event(("v1", "Pod"), pod.as_ref(), "Scheduled", &message, now));
            }
            None => actions.extend(unschedulable(pod, world.nodes.iter().count(), &refusals, now)),
        }
    }
    actions
}

fn waits(pod: &Pod) -> bool {
    let scheduler =
        pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(DEFAULT_SCHEDULER);
    node_name(pod).is_none() && !is_terminating(pod) && scheduler == DEFAULT_SCHEDULER
}

/// How many pods run where, in all and of each owner.
struct Load {
    pods: BTreeMap<String, usize>,
    of_owner: BTreeMap<(String, String), usize>,
}

impl Load {
    fn of(world: &World) -> Self {
        let mut load = Self { pods: BTreeMap::new(), of_owner: BTreeMap::new() };
        for pod in world.pods.iter().filter(|pod| is_active(pod)) {
            if let Some(node) = node_name(pod) {
                load.add(pod, node);
            }
        }
        load
    }

    fn add(&mut self, pod: &Pod, node: &str) {
        *self.pods.entry(node.to_string()).or_default() += 1;
        if let Some(owner) = controller_uid(pod) {
            *self.of_owner.entry((owner.to_string(), node.to_string())).or_default() += 1;
        }
    }

    fn pods(&self, node: &Node) -> usize {
        self.pods.get(&node.name_any()).copied().unwrap_or(0)
    }

    /// Smaller is better: replicas apart, then what the pod prefers, then away from the control plane, then the
    /// emptiest.
    fn rank(&self, pod: &Pod, node: &Node) -> (usize, Reverse<i32>, bool, usize, String) {
        let name = node.name_any();
        let owner = controller_uid(pod).map(|owner| (owner.to_string(), name.clone()));
        let siblings = owner.and_then(|key| self.of_owner.get(&key)).copied().unwrap_or(0);
        let control_plane = node.labels().contains_key("node-role.kubernetes.io/control-plane");
        (siblings, Reverse(preference(pod, node)), control_plane, self.pods(node), name)
    }
}

/// How much a pod would like to run on a node.
fn preference(pod: &Pod, node: &Node) -> i32 {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let affinity = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred =
        affinity.and_then(|node| node.preferred_during_scheduling_ignored_during_execution.as_deref());
    let liked = preferred.unwrap_or_default().iter().filter(|term| term_matches(&term.preference, node));
    liked.map(|term| term.weight).sum()
}

/// Whether a pod may run on a node; the error says why not, as the scheduler of Kubernetes would.
pub(crate) fn fits(pod: &PodSpec, node: &Node) -> Result<(), String> {
    let spec = node.spec.clone().unwrap_or_default();
    let mut taints = spec.taints.unwrap_or_default();
    if spec.unschedulable == Some(true) {
        taints.push(Taint {
            key: "node.kubernetes.io/unschedulable".to_string(),
            effect: "NoSchedule".to_string(),
            ..Taint::default()
        });
    }
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    let blocking =
        taints.iter().find(|taint| taint.effect != "PreferNoSchedule" && !tolerates(tolerations, taint));
    if let Some(taint) = blocking {
        let value = taint.value.as_ref().filter(|value| !value.is_empty());
        let value = value.map_or(String::new(), |value| format!(": {value}"));
        return Err(format!("node(s) had untolerated taint(s) {{{}{value}}}", taint.key));
    }
    let mismatch = || Err("node(s) didn't match Pod's node affinity/selector".to_string());
    let selector = pod.node_selector.iter().flatten();
    if !selector.into_iter().all(|(name, value)| node.labels().get(name) == Some(value)) {
        return mismatch();
    }
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    if required
        .is_some_and(|required| !required.node_selector_terms.iter().any(|term| term_matches(term, node)))
    {
        return mismatch();
    }
    Ok(())
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.name_any();
    !(expressions.is_empty() && fields.is_empty())
        && expressions
            .iter()
            .all(|one| requirement_matches(one, node.labels().get(&one.key).map(String::as_str)))
        && fields.iter().all(|one| one.key == "metadata.name" && requirement_matches(one, Some(&name)))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let bound = number(values.first().map(String::as_str));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(bound).is_some_and(|(value, bound)| value > bound),
        "Lt" => number(value).zip(bound).is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

fn unschedulable(pod: &Pod, nodes: usize, refusals: &BTreeMap<String, usize>, now: Timestamp) -> Vec<Action> {
    let reasons: Vec<String> = refusals.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let message = if nodes == 0 {
        "no nodes available to schedule pods".to_string()
    } else {
        format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
    };
    if condition(pod, "PodScheduled").is_some_and(|old| old.message.as_deref() == Some(message.as_str())) {
        return Vec::new();
    }
    let condition = PodCondition {
        type_: "PodScheduled".to_string(),
        status: "False".to_string(),
        reason: Some("Unschedulable".to_string()),
        message: Some(message.clone()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    let patch = json!({"status": {"conditions": [condition]}});
    vec![
        Action::Patch { kind: Kind::Pod, key: Key::of(pod), status: true, patch },
        event(("v1", "Pod"), pod, "FailedScheduling", &message, now),
    ]
}
