//! StatefulSets: pods with names that stay, started in order and ended in reverse.
//!
//! Not here: volume claims, and the templates of the past. A pod that `partition` keeps from being replaced, and that goes
//! for another reason, returns with the template of today.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::action::{Action, Kind};
use super::deployment::template_hash;
use super::{event, owner_reference, pod_from_template, status_patch};
use crate::pods::{is_available, is_finished, is_ready, is_terminating, phase};
use crate::world::{Key, World};

const REVISION: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// What all StatefulSets need.
pub(crate) fn reconcile(world: &World, now: Timestamp) -> Vec<Action> {
    world.stateful_sets.iter().flat_map(|set| reconcile_one(world, set, now)).collect()
}

/// A StatefulSet with its pods by their numbers.
struct View<'a> {
    set: &'a StatefulSet,
    spec: StatefulSetSpec,
    pods: BTreeMap<i32, &'a Arc<Pod>>,
    revision: String,
}

fn reconcile_one(world: &World, set: &StatefulSet, now: Timestamp) -> Vec<Action> {
    if set.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let key = Key::of(set);
    let spec = set.spec.clone().unwrap_or_default();
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let pods = world.pods.owned_by(&key.namespace, uid);
    let pods = pods.filter_map(|pod| Some((ordinal(&key.name, &pod.name_any())?, pod))).collect();
    let revision = format!("{}-{}", key.name, template_hash(Some(&spec.template)));
    let view = View { set, spec, pods, revision };
    let mut actions = view.pods_to_change(now);
    let status = view.status(now);
    if set.status.as_ref() != Some(&status) {
        actions.push(status_patch(Kind::StatefulSet, key, set.status.as_ref(), &status));
    }
    actions
}

/// The number in the name of a pod of this set.
fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let number = pod.strip_prefix(set)?.strip_prefix('-')?;
    // Only the one spelling that the controller itself writes.
    number.parse().ok().filter(|parsed: &i32| *parsed >= 0 && parsed.to_string() == number)
}

impl View<'_> {
    fn wanted(&self) -> std::ops::Range<i32> {
        let first = self.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        first..first.saturating_add(self.spec.replicas.unwrap_or(1))
    }

    fn is_available(&self, pod: &Pod, now: Timestamp) -> bool {
        let seconds = self.spec.min_ready_seconds.unwrap_or(0);
        phase(pod) == "Running" && !is_terminating(pod) && is_available(pod, seconds, now)
    }

    fn pods_to_change(&self, now: Timestamp) -> Vec<Action> {
        let parallel = self.spec.pod_management_policy.as_deref() == Some("Parallel");
        let mut actions = Vec::new();
        // Upwards: each waits for the one before.
        for number in self.wanted() {
            match self.pods.get(&number) {
                None => actions.extend(self.create(number, now)),
                Some(pod) if is_terminating(pod) => {}
                Some(pod) if is_finished(pod) => actions.extend(self.delete(pod, now)),
                Some(pod) if self.is_available(pod, now) => continue,
                Some(_) => {}
            }
            if !parallel {
                return actions;
            }
        }
        // Downwards, the last first: each waits for the end of the one after it.
        let superfluous = self.pods.iter().rev().filter(|(number, _)| !self.wanted().contains(number));
        for (_, pod) in superfluous {
            if !is_terminating(pod) {
                actions.extend(self.delete(pod, now));
            }
            if !parallel {
                return actions;
            }
        }
        if actions.is_empty() { self.replace_outdated(now) } else { actions }
    }

    /// The last pod that has another template than the set, once all after it work.
    fn replace_outdated(&self, now: Timestamp) -> Vec<Action> {
        let strategy = self.spec.update_strategy.clone().unwrap_or_default();
        if strategy.type_.as_deref() == Some("OnDelete") {
            return Vec::new();
        }
        let partition = strategy.rolling_update.and_then(|rolling| rolling.partition).unwrap_or(0);
        for (_, pod) in self.pods.iter().rev().filter(|(number, _)| **number >= partition) {
            if is_terminating(pod) {
                return Vec::new();
            }
            if !self.is_current(pod) {
                return self.delete(pod, now);
            }
            if !self.is_available(pod, now) {
                return Vec::new();
            }
        }
        Vec::new()
    }

    fn is_current(&self, pod: &Pod) -> bool {
        pod.labels().get(REVISION) == Some(&self.revision)
    }

    fn create(&self, number: i32, now: Timestamp) -> Vec<Action> {
        let key = Key::of(self.set);
        let name = format!("{}-{number}", key.name);
        let mut template = self.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        for (label, value) in
            [(POD_NAME, name.clone()), (POD_INDEX, number.to_string()), (REVISION, self.revision.clone())]
        {
            labels.insert(label.to_string(), value);
        }
        let owner = owner_reference("apps/v1", "StatefulSet", self.set);
        let mut object = pod_from_template(&key.namespace, &key.name, template, &owner, |pod| {
            pod.hostname = Some(name.clone());
            pod.subdomain = self.spec.service_name.clone().filter(|service| !service.is_empty());
        });
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.remove("generateName");
            metadata.insert("name".to_string(), json!(name));
        }
        let message = format!("create Pod {name} in StatefulSet {} successful", key.name);
        vec![
            Action::Create { kind: Kind::Pod, object },
            event(("apps/v1", "StatefulSet"), self.set, "SuccessfulCreate", &message, now),
        ]
    }

    fn delete(&self, pod: &Pod, now: Timestamp) -> Vec<Action> {
        let key = Key::of(pod);
        let message = format!("delete Pod {} in StatefulSet {} successful", key.name, Key::of(self.set).name);
        vec![
            Action::Delete { kind: Kind::Pod, key, uid: pod.metadata.uid.clone() },
            event(("apps/v1", "StatefulSet"), self.set, "SuccessfulDelete", &message, now),
        ]
    }

    fn status(&self, now: Timestamp) -> StatefulSetStatus {
        let count = |matches: &dyn Fn(&Pod) -> bool| {
            let pods = self.pods.values().filter(|pod| !is_finished(pod) && matches(pod));
            i32::try_from(pods.count()).unwrap_or(i32::MAX)
        };
        let some = |count: i32| (count > 0).then_some(count);
        let (replicas, updated) = (count(&|_| true), count(&|pod| self.is_current(pod)));
        let old = self.set.status.as_ref();
        let all_are_new = updated == replicas && replicas == self.spec.replicas.unwrap_or(1);
        // Until the last pod is replaced the set's revision is the one before.
        let before = old.and_then(|old| old.current_revision.clone()).filter(|name| !name.is_empty());
        let current = before.filter(|_| !all_are_new).unwrap_or_else(|| self.revision.clone());
        let of_current = count(&|pod| pod.labels().get(REVISION) == Some(&current));
        StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas,
            ready_replicas: some(count(&|pod| is_ready(pod) && !is_terminating(pod))),
            available_replicas: Some(count(&|pod| self.is_available(pod, now))),
            current_replicas: some(of_current),
            updated_replicas: some(updated),
            current_revision: Some(current),
            update_revision: Some(self.revision.clone()),
            collision_count: old.and_then(|old| old.collision_count).or(Some(0)),
            ..StatefulSetStatus::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::WorldEvent;
    use kube::runtime::watcher::Event;

    fn set(spec: &Value) -> StatefulSet {
        let mut whole = json!({
            "selector": {"matchLabels": {"app": "db"}}, "serviceName": "db", "replicas": 3,
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "1"}]}},
        });
        json_patch(&mut whole, spec);
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "uid": "set", "generation": 1}, "spec": whole,
        }))
        .unwrap()
    }

    fn json_patch(whole: &mut Value, part: &Value) {
        for (name, value) in part.as_object().unwrap() {
            whole[name] = value.clone();
        }
    }

    fn world_of(set: StatefulSet) -> World {
        let mut world = World::default();
        world.absorb(WorldEvent::StatefulSet(Event::Apply(set)), Timestamp::UNIX_EPOCH);
        world
    }

    /// Names of the pods that are made (`+`) and deleted (`-`).
    fn changes(world: &World) -> Vec<String> {
        let actions = reconcile(world, Timestamp::UNIX_EPOCH);
        let change = |action: Action| match action {
            Action::Create { kind: Kind::Pod, object } => {
                Some(format!("+{}", object["metadata"]["name"].as_str().unwrap()))
            }
            Action::Delete { kind: Kind::Pod, key, .. } => Some(format!("-{}", key.name)),
            _ => None,
        };
        actions.into_iter().filter_map(change).collect()
    }

    /// Does what is to be done, as an API server and kubelets would, until nothing is left.
    fn play(world: &mut World, ready: bool) -> Vec<String> {
        let mut done = Vec::new();
        for round in 0..50 {
            let made = changes(world);
            if made.is_empty() {
                return done;
            }
            for action in reconcile(world, Timestamp::UNIX_EPOCH) {
                match action {
                    Action::Create { kind: Kind::Pod, mut object } => {
                        let name = object["metadata"]["name"].clone();
                        object["metadata"]["uid"] = json!(format!("{name}-{round}"));
                        let status = if ready { "True" } else { "False" };
                        object["status"] =
                            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": status}]});
                        world.set_pod(serde_json::from_value(object).unwrap());
                    }
                    Action::Delete { kind: Kind::Pod, key, .. } => world.remove_pod(&key),
                    _ => {}
                }
            }
            done.extend(made);
        }
        panic!("no end: {done:?}");
    }

    #[test]
    fn pods_start_in_order_and_each_waits_for_the_one_before() {
        let mut world = world_of(set(&json!({})));
        assert_eq!(play(&mut world, false), ["+db-0"]);
        let mut world = world_of(set(&json!({})));
        assert_eq!(play(&mut world, true), ["+db-0", "+db-1", "+db-2"]);
        let pod = world.pods.get("n", "db-1").unwrap();
        let spec = pod.spec.clone().unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-1"), Some("db")));
        assert_eq!(pod.labels()[POD_INDEX], "1");
    }

    #[test]
    fn pods_start_at_once_where_the_set_says_so_and_from_the_number_that_it_says() {
        let spec = json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}, "replicas": 2});
        assert_eq!(changes(&world_of(set(&spec))), ["+db-5", "+db-6"]);
    }

    #[test]
    fn the_last_pods_go_first_and_one_at_a_time() {
        let mut world = world_of(set(&json!({})));
        play(&mut world, true);
        world.absorb(
            WorldEvent::StatefulSet(Event::Apply(set(&json!({"replicas": 1})))),
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(changes(&world), Vec::<String>::new(), "a version that is not newer is no news");
        let mut smaller = set(&json!({"replicas": 1}));
        smaller.metadata.resource_version = Some("2".to_owned());
        world.absorb(WorldEvent::StatefulSet(Event::Apply(smaller)), Timestamp::UNIX_EPOCH);
        assert_eq!(changes(&world), ["-db-2"]);
        assert_eq!(play(&mut world, true), ["-db-2", "-db-1"]);
    }

    #[test]
    fn another_template_replaces_the_last_pods_first_and_none_below_the_partition() {
        let template = json!({
            "metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "2"}]},
        });
        for (partition, expected) in
            [(0, vec!["-db-2", "+db-2", "-db-1", "+db-1", "-db-0", "+db-0"]), (2, vec!["-db-2", "+db-2"])]
        {
            let mut world = world_of(set(&json!({})));
            play(&mut world, true);
            let mut newer = set(&json!({
                "template": template,
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}},
            }));
            newer.metadata.resource_version = Some("2".to_owned());
            world.absorb(WorldEvent::StatefulSet(Event::Apply(newer)), Timestamp::UNIX_EPOCH);
            assert_eq!(play(&mut world, true), expected, "partition {partition}");
        }
    }

    #[test]
    fn only_names_that_the_set_writes_are_its_pods() {
        for (name, expected) in
            [("db-0", Some(0)), ("db-10", Some(10)), ("db-01", None), ("db--1", None), ("dbx-1", None)]
        {
            assert_eq!(ordinal("db", name), expected, "{name}");
        }
    }
}
