//! Nodes that are objects only: their pods are said to run, and nobody is there.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::world::{SYSTEM, World};

/// Label and taint of such nodes.
pub(crate) const LABEL: &str = "e2e-fake";
/// How often they say that they live.
const BEAT: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Requests at a time.
const AT_ONCE: usize = 8;

/// Some nodes of that kind. They vanish when this is dropped.
pub(crate) struct FakeNodes<'w> {
    world: &'w World,
    names: BTreeSet<String>,
    tasks: [JoinHandle<()>; 2],
}

impl<'w> FakeNodes<'w> {
    /// Makes them. Pods of this namespace run there as soon as they are bound.
    pub(crate) fn new(world: &'w World, namespace: &str, count: usize) -> Result<Self> {
        let names: BTreeSet<String> = (1..=count).map(|number| format!("fake-{number}")).collect();
        let leases = world.built_in::<Lease>("kube-node-lease");
        let nodes = world.cluster_wide::<Node>();
        for (number, name) in (1_u8..).zip(&names) {
            let lease = serde_json::from_value(lease(name))?;
            world.answered(leases.create(&PostParams::default(), &lease))?;
            let node = serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {LABEL: "true", "kubernetes.io/hostname": name}},
                "spec": {"taints": [{"key": LABEL, "value": "true", "effect": "NoSchedule"}]},
            }))?;
            world.answered(nodes.create(&PostParams::default(), &node))?;
            let resources = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
            let status = json!({"status": {
                "addresses": [{"type": "InternalIP", "address": format!("10.6.1.{number}")}],
                "capacity": resources, "allocatable": resources,
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                    "lastHeartbeatTime": jiff::Timestamp::now(), "lastTransitionTime": jiff::Timestamp::now(),
                }],
            }});
            world.answered(nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)))?;
        }
        let beats = world.spawn(beat(leases, names.clone()));
        let kubelets = world.spawn(kubelets(world.client(), namespace.to_owned(), names.clone()));
        Ok(Self { world, names, tasks: [beats, kubelets] })
    }

    /// Whether a pod is bound to one of them.
    pub(crate) fn has(&self, pod: &Pod) -> bool {
        is_on(pod, &self.names)
    }

    fn remove(&self) -> Result<()> {
        let world = self.world;
        let nodes = world.cluster_wide::<Node>();
        let leases = world.built_in::<Lease>("kube-node-lease");
        for name in &self.names {
            world.answered(nodes.delete(name, &DeleteParams::default()))?;
            world.answered(leases.delete(name, &DeleteParams::default()))?;
        }
        // DaemonSets had pods there, which nobody ends.
        let pods = world.built_in::<Pod>(SYSTEM);
        for pod in world.answered(pods.list(&ListParams::default()))?.items.iter().filter(|pod| self.has(pod))
        {
            let at_once = DeleteParams::default().grace_period(0);
            world.answered(async { gone_is_well(pods.delete(&pod.name_any(), &at_once).await.map(drop)) })?;
        }
        Ok(())
    }
}

impl Drop for FakeNodes<'_> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        if let Err(error) = self.remove() {
            println!("  fake nodes are not removed: {error:#}");
        }
    }
}

fn is_on(pod: &Pod, nodes: &BTreeSet<String>) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
    node.is_some_and(|node| nodes.contains(node))
}

fn lease(node: &str) -> serde_json::Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node},
        "spec": {
            "holderIdentity": node, "leaseDurationSeconds": 40,
            "renewTime": MicroTime(jiff::Timestamp::now()),
        },
    })
}

async fn beat(leases: Api<Lease>, nodes: BTreeSet<String>) {
    loop {
        for node in &nodes {
            // A beat that fails is followed by another one.
            leases.patch(node, &PatchParams::default(), &Patch::Merge(lease(node))).await.ok();
        }
        tokio::time::sleep(BEAT).await;
    }
}

/// Says of every pod there that it runs, and lets go those that are deleted.
async fn kubelets(client: Client, namespace: String, nodes: BTreeSet<String>) {
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let mut addresses = 0_u32;
    loop {
        let Ok(list) = pods.list(&ListParams::default()).await else {
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        };
        let version = list.metadata.resource_version.clone().unwrap_or_default();
        let mut number = || {
            addresses += 1;
            addresses
        };
        let known: Vec<(Pod, u32)> = list.items.into_iter().map(|pod| (pod, number())).collect();
        futures::stream::iter(known)
            .for_each_concurrent(AT_ONCE, |(pod, number)| play(&pods, &nodes, pod, number))
            .await;
        let Ok(changes) = pods.watch(&WatchParams::default().timeout(60), &version).await else { continue };
        let changed = changes.try_filter_map(|event| async move {
            Ok(match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => Some(pod),
                _ => None,
            })
        });
        changed
            .filter_map(|pod| async { pod.ok() })
            .map(|pod| (pod, number()))
            .for_each_concurrent(AT_ONCE, |(pod, number)| play(&pods, &nodes, pod, number))
            .await;
    }
}

async fn play(pods: &Api<Pod>, nodes: &BTreeSet<String>, pod: Pod, number: u32) {
    if !is_on(&pod, nodes) {
        return;
    }
    let name = pod.name_any();
    let status = pod.status.unwrap_or_default();
    let done = if pod.metadata.deletion_timestamp.is_some() {
        gone_is_well(pods.delete(&name, &DeleteParams::default().grace_period(0)).await.map(drop))
    } else if status.phase.as_deref() == Some("Running") && is_ready(&status) {
        Ok(())
    } else {
        let [_, high, middle, low] = number.to_be_bytes();
        let address = format!("10.{}.{middle}.{low}", 150_u8.wrapping_add(high));
        let now = jiff::Timestamp::now();
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
        let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
        let patch = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "startTime": now,
            "conditions": conditions,
        }});
        gone_is_well(pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop))
    };
    if let Err(error) = done {
        println!("  fake pod {name}: {error}");
    }
}

fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

fn gone_is_well(done: kube::Result<()>) -> kube::Result<()> {
    match done {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}
