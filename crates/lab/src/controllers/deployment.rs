//! Deployments: one ReplicaSet per version of the template, and a roll-over between them.

pub(crate) mod rollout;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

pub(crate) use rollout::share;

use super::action::{Action, Kind};
use super::{event, owner_reference, status_patch};
use crate::world::{Key, World};

/// Label by which a ReplicaSet and its pods show the template that they come from.
pub(crate) const TEMPLATE_HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// What all Deployments need.
pub(crate) fn reconcile(world: &World, now: Timestamp) -> Vec<Action> {
    world.deployments.iter().flat_map(|deployment| reconcile_one(world, deployment, now)).collect()
}

/// A Deployment with its ReplicaSets, sorted into the current one and the others.
struct View<'a> {
    deployment: &'a Deployment,
    current: Option<&'a Arc<ReplicaSet>>,
    old: Vec<&'a Arc<ReplicaSet>>,
    hash: String,
}

impl View<'_> {
    fn wanted(&self) -> i32 {
        self.deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.current.iter().copied().chain(self.old.iter().copied())
    }
}

fn reconcile_one(world: &World, deployment: &Deployment, now: Timestamp) -> Vec<Action> {
    if deployment.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let key = Key::of(deployment);
    let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
    let hash = template_hash(deployment.spec.as_ref().map(|spec| &spec.template));
    let (current, old): (Vec<_>, Vec<_>) = world
        .replica_sets
        .owned_by(&key.namespace, uid)
        .partition(|set| label(set, TEMPLATE_HASH) == Some(hash.as_str()));
    let view = View { deployment, current: current.first().copied(), old, hash };

    let mut actions = Vec::new();
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    let old_pods_left = view.old.iter().any(|set| {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        world.pods.owned_by(&key.namespace, uid).next().is_some()
    });
    let mut scales = rollout::scales(&view, old_pods_left);
    if paused {
        scales.retain(|scale| {
            view.current.is_none_or(|set| set.metadata.name == scale.name && view.old.is_empty())
        });
    }
    let revision = view.old.iter().map(|set| revision_of(set)).max().unwrap_or(0) + 1;
    match view.current {
        None if !paused => actions.extend(create_current(&view, revision, old_pods_left, now)),
        // Rolled back to an earlier template: it becomes the newest revision.
        Some(set) if revision_of(set) < revision && !view.old.is_empty() => {
            actions.push(annotate(Kind::ReplicaSet, Key::of(set.as_ref()), revision));
        }
        _ => {}
    }
    let shown = view.current.map_or(revision, |set| revision_of(set).max(revision));
    let has = deployment.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVISION));
    if has.map(String::as_str) != Some(shown.to_string().as_str()) {
        actions.push(annotate(Kind::Deployment, key.clone(), shown));
    }
    for scale in scales {
        let set = Key { namespace: key.namespace.clone(), name: scale.name.clone().unwrap_or_default() };
        let (verb, from, to) = (if scale.to > scale.from { "up" } else { "down" }, scale.from, scale.to);
        let message = format!("Scaled {verb} replica set {} from {from} to {to}", set.name);
        let patch = json!({
            "metadata": {"annotations": {DESIRED: view.wanted().to_string()}},
            "spec": {"replicas": to},
        });
        actions.push(Action::Patch { kind: Kind::ReplicaSet, key: set, status: false, patch });
        actions.push(event(("apps/v1", "Deployment"), deployment, "ScalingReplicaSet", &message, now));
    }
    actions.extend(forget_history(&view));
    let status = status::of(&view, now);
    if deployment.status.as_ref() != Some(&status) {
        actions.push(status_patch(Kind::Deployment, key, deployment.status.as_ref(), &status));
    }
    actions
}

fn create_current(view: &View<'_>, revision: i64, old_pods_left: bool, now: Timestamp) -> Vec<Action> {
    let deployment = view.deployment;
    let key = Key::of(deployment);
    let spec = deployment.spec.clone().unwrap_or_default();
    let replicas = rollout::first_size(view, old_pods_left);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(TEMPLATE_HASH.to_string(), view.hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(TEMPLATE_HASH.to_string(), view.hash.clone());
    let name = format!("{}-{}", key.name, view.hash);
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    annotations.insert(REVISION.to_string(), revision.to_string());
    annotations.insert(DESIRED.to_string(), view.wanted().to_string());
    annotations
        .insert(MAX_REPLICAS.to_string(), (view.wanted() + rollout::max_surge(deployment)).to_string());
    let object = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": key.namespace, "labels": labels, "annotations": annotations,
            "ownerReferences": [owner_reference("apps/v1", "Deployment", deployment)],
        },
        "spec": {
            "replicas": replicas, "minReadySeconds": spec.min_ready_seconds,
            "selector": selector, "template": template,
        },
    });
    let message = format!("Scaled up replica set {name} from 0 to {replicas}");
    let mut actions = vec![Action::Create { kind: Kind::ReplicaSet, object }];
    if replicas > 0 {
        actions.push(event(("apps/v1", "Deployment"), deployment, "ScalingReplicaSet", &message, now));
    }
    actions
}

/// Old ReplicaSets beyond the history that is to be kept.
fn forget_history(view: &View<'_>) -> Vec<Action> {
    let limit = view.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    let mut idle: Vec<_> = view.old.iter().filter(|set| size(set) == 0 && pods_of(set) == 0).collect();
    idle.sort_by_key(|set| revision_of(set));
    let excess = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    idle.into_iter()
        .take(excess)
        .map(|set| Action::Delete {
            kind: Kind::ReplicaSet,
            key: Key::of(set.as_ref()),
            uid: set.metadata.uid.clone(),
        })
        .collect()
}

fn annotate(kind: Kind, key: Key, revision: i64) -> Action {
    let patch = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
    Action::Patch { kind, key, status: false, patch }
}

fn label<'a>(set: &'a ReplicaSet, name: &str) -> Option<&'a str> {
    set.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

fn revision_of(set: &ReplicaSet) -> i64 {
    let annotations = set.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(REVISION)).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn pods_of(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// Names a template: equal templates have equal names, whatever order their fields came in.
pub(crate) fn template_hash(template: Option<&PodTemplateSpec>) -> String {
    // Vowels and look-alikes are left out, as in Kubernetes: no name spells a word.
    const ALPHABET: [char; 27] = [
        'b', 'c', 'd', 'f', 'g', 'h', 'j', 'k', 'l', 'm', 'n', 'p', 'q', 'r', 's', 't', 'v', 'w', 'x', 'z',
        '2', '4', '5', '6', '7', '8', '9',
    ];
    let canonical = template.map(|template| json!(template)).unwrap_or(Value::Null).to_string();
    // FNV-1a: short, stable between builds, and nobody gains from a collision in his own Deployment.
    let mut hash = canonical
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (0..10)
        .filter_map(|_| {
            let digit = usize::try_from(hash % 27).unwrap_or(0);
            hash /= 27;
            ALPHABET.get(digit)
        })
        .collect()
}
