//! Pods of controllers that give them names of their own.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kernel::Netns;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::Scenario;
use crate::scene::Scene;
use crate::selection::node_address;
use crate::world::{World, text};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("p_sts_pods_of_a_stateful_set_get_the_eip_and_lose_it_with_the_policy", stateful_set)];

const REPLICAS: usize = 3;

/// A running pod: its node, uid and namespace.
struct Replica {
    node: String,
    uid: String,
    netns: Netns,
}

fn replica(scene: &Scene<'_>, name: &str) -> Result<Replica> {
    let world = scene.world;
    let pod = world.answered(world.built_in::<Pod>(scene.name).get(name))?;
    let status = pod.status.clone().unwrap_or_default();
    let running = status.phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none();
    ensure!(running, "it is {}", json!(status));
    Ok(Replica {
        node: pod.spec.clone().and_then(|spec| spec.node_name).unwrap_or_default(),
        uid: pod.uid().unwrap_or_default(),
        netns: world.netns(&format!("{}/{name}", scene.name))?,
    })
}

/// Waits until all replicas leave with the EIP; answers their uids.
fn until_all_have_the_eip(scene: &Scene<'_>, names: &[String]) -> Result<Vec<String>> {
    let world = scene.world;
    let look = |name: &String| {
        let replica = world.until(&format!("{name} runs"), || replica(scene, name))?;
        world.until_seen_as(&replica.netns, scene.eip(0))?;
        Ok(replica.uid)
    };
    names.iter().map(look).collect()
}

fn stateful_set(world: &World) -> Result<()> {
    let scene = Scene::new(world, "stateful")?;
    let container = json!({"name": "app", "image": "test-app", "command": ["sleep", "3600"]});
    let labels = json!({"app": "db"});
    let set: StatefulSet = serde_json::from_value(json!({
        "metadata": {"name": "db"},
        "spec": {
            "replicas": REPLICAS, "serviceName": "db", "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
            },
        },
    }))?;
    scene.policy(
        "test",
        json!({"appliedTo": {"podSelector": {"matchLabels": labels}}, "destSubnet": ["10.6.168.63/32"]}),
    )?;
    let sets = world.built_in::<StatefulSet>(scene.name);
    world.answered(sets.create(&PostParams::default(), &set))?;
    let names: Vec<String> = (0..REPLICAS).map(|number| format!("db-{number}")).collect();
    let first = until_all_have_the_eip(&scene, &names)?;
    let listed = || -> Result<BTreeSet<String>> {
        let slices = world.list("EgressEndpointSlice", Some(scene.name))?;
        let endpoints = slices.iter().filter_map(|slice| slice.data.get("endpoints")?.as_array()).flatten();
        Ok(endpoints.map(|endpoint| text(endpoint, "/pod").to_owned()).collect())
    };
    let until_listed = |wanted: BTreeSet<String>| {
        world.until("the slices list these pods", || {
            let found = listed()?;
            ensure!(found == wanted, "they list {found:?}");
            Ok(())
        })
    };
    until_listed(names.iter().cloned().collect())?;
    let policy = world.get("EgressPolicy", Some(scene.name), "test")?;
    ensure!(text(&policy, "/status/eip/ipv4") == scene.eip(0).to_string(), "its status is {policy}");

    // One that is replaced has the name of the one before, and the EIP.
    world.answered(world.built_in::<Pod>(scene.name).delete("db-1", &DeleteParams::default()))?;
    world.until("another pod has the name", || {
        let uid = replica(&scene, "db-1")?.uid;
        ensure!(!first.contains(&uid), "it is the same");
        Ok(())
    })?;
    until_all_have_the_eip(&scene, &names)?;

    world.delete("EgressPolicy", Some(scene.name), "test")?;
    for name in &names {
        let replica = replica(&scene, name)?;
        world.until_seen_as(&replica.netns, node_address(&replica.node)?)?;
    }
    until_listed(BTreeSet::new())?;
    world.until("the gateway says that nobody uses an EIP", || {
        let gateway = world.get("EgressGateway", None, scene.name)?;
        let nodes =
            gateway.pointer("/status/nodeList").and_then(Value::as_array).cloned().unwrap_or_default();
        let eips = nodes.iter().filter_map(|node| node.get("eips")?.as_array()).flatten().count();
        ensure!(eips == 0, "{}", json!(nodes));
        Ok(())
    })
}
