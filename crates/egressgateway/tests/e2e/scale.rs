//! Much of everything: a thousand pods, a thousand policies.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::Scenario;
use crate::fake_nodes::{FakeNodes, LABEL};
use crate::scene::Scene;
use crate::world::{PLAIN, World, text};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("r00001_r00002_a_thousand_pods_most_without_an_agent_come_and_are_replaced", thousand_pods),
    ("x_r5_a_thousand_policies_of_one_gateway", thousand_policies),
];

/// What a thousand objects may take on a machine that is busy with other things.
const LONG: Duration = Duration::from_secs(600);
/// Pods on nodes without an agent, and such nodes.
const FAKE_PODS: usize = 1_000;
const FAKE_NODES: usize = 10;
/// Pods on nodes with one.
const REAL_PODS: usize = 3;
/// Policies that select nothing here, and as many that select a pod here.
const POLICIES: usize = 500;
/// Requests at a time.
const AT_ONCE: usize = 8;

fn deployment(name: &str, replicas: usize, fake: bool) -> Value {
    let labels = json!({"app": "many", "part": name});
    let mut pod = json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "app", "image": "test-app", "command": ["sleep", "3600"]}],
    });
    if fake {
        pod["nodeSelector"] = json!({LABEL: "true"});
        pod["tolerations"] = json!([{"key": LABEL, "operator": "Exists"}]);
    }
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "100%"}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    })
}

/// Pods by name, with their uids, once all of the Deployments' pods are of their newest template and ready.
fn until_rolled_out(scene: &Scene<'_>, revision: &str) -> Result<BTreeMap<String, String>> {
    let world = scene.world;
    for (name, wanted) in [("fake", FAKE_PODS), ("real", REAL_PODS)] {
        let deployments = world.built_in::<Deployment>(scene.name);
        world.until_within(LONG, &format!("all pods of {name} are new and ready"), || {
            let found = world.answered(deployments.get(name))?;
            let (generation, status) = (found.metadata.generation, found.status.unwrap_or_default());
            let counts = [status.replicas, status.updated_replicas, status.available_replicas];
            let all =
                counts.iter().all(|count| count.and_then(|it| usize::try_from(it).ok()) == Some(wanted));
            ensure!(all && status.observed_generation == generation, "{}", json!(status));
            Ok(())
        })?;
    }
    let pods = world.pods(scene.name, "app=many")?;
    let living = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let found: BTreeMap<String, String> =
        living.map(|pod| (pod.name_any(), pod.uid().unwrap_or_default())).collect();
    ensure!(found.len() == FAKE_PODS + REAL_PODS, "{revision}: there are {} pods", found.len());
    Ok(found)
}

/// Waits until the slices list exactly these pods, each once.
fn until_listed(world: &World, slices: (&str, Option<&str>), pods: &BTreeMap<String, String>) -> Result<()> {
    world.until_within(LONG, "the slices list every pod once", || {
        let slices = world.list(slices.0, slices.1)?;
        let endpoints = slices.iter().filter_map(|slice| slice.data.get("endpoints")?.as_array()).flatten();
        let mut listed: Vec<&str> = endpoints.map(|endpoint| text(endpoint, "/pod")).collect();
        let count = listed.len();
        listed.sort_unstable();
        listed.dedup();
        ensure!(count == listed.len(), "{} are listed twice", count - listed.len());
        ensure!(listed.iter().all(|name| pods.contains_key(*name)), "they list pods that are gone");
        ensure!(count == pods.len(), "they list {count} of {}", pods.len());
        Ok(())
    })
}

fn until_real_pods_have_the_eip(scene: &Scene<'_>) -> Result<()> {
    let world = scene.world;
    let pods = world.pods(scene.name, "part=real")?;
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let netns = world.netns(&format!("{}/{}", scene.name, pod.name_any()))?;
        world.until_within(LONG, "it leaves with the EIP", || {
            let seen = world.seen_from(&netns)?;
            ensure!(seen == scene.eip(0), "the outside saw {seen}");
            Ok(())
        })?;
    }
    Ok(())
}

fn thousand_pods(world: &World) -> Result<()> {
    let scene = Scene::new(world, "many")?;
    let nodes = FakeNodes::new(world, scene.name, FAKE_NODES)?;
    let deployments = world.built_in::<Deployment>(scene.name);
    for (name, replicas, fake) in [("fake", FAKE_PODS, true), ("real", REAL_PODS, false)] {
        let deployment = serde_json::from_value(deployment(name, replicas, fake))?;
        world.answered(deployments.create(&PostParams::default(), &deployment))?;
    }
    let selector = json!({"matchLabels": {"app": "many"}});
    let destination = json!(["10.6.168.63/32"]);
    let policy = json!({"appliedTo": {"podSelector": selector}, "destSubnet": destination});
    scene.policy("test", policy)?;
    let first = until_rolled_out(&scene, "first")?;
    let pods = world.pods(scene.name, "part=fake")?;
    ensure!(pods.iter().all(|pod| nodes.has(pod)), "some of the thousand are on real nodes");
    until_listed(world, ("EgressEndpointSlice", Some(scene.name)), &first)?;
    until_real_pods_have_the_eip(&scene)?;

    let restart = json!({"spec": {"template": {"metadata": {"annotations": {"restarted": "once"}}}}});
    for name in ["fake", "real"] {
        let patch = Patch::Merge(&restart);
        world.answered(deployments.patch(name, &PatchParams::default(), &patch))?;
    }
    let second = until_rolled_out(&scene, "second")?;
    ensure!(second.values().all(|uid| !first.values().any(|old| old == uid)), "some pods are the old ones");
    until_listed(world, ("EgressEndpointSlice", Some(scene.name)), &second)?;
    until_real_pods_have_the_eip(&scene)?;

    // The same by a policy of the cluster.
    world.delete("EgressPolicy", Some(scene.name), "test")?;
    let namespace = json!({"matchLabels": {"kubernetes.io/metadata.name": scene.name}});
    let spec = json!({
        "egressGatewayName": scene.name, "destSubnet": destination,
        "appliedTo": {"podSelector": selector, "namespaceSelector": namespace},
    });
    world.create("EgressClusterPolicy", None, &json!({"metadata": {"name": "many"}, "spec": spec}))?;
    let judged = until_listed(world, ("EgressClusterEndpointSlice", None), &second)
        .and_then(|()| until_real_pods_have_the_eip(&scene));
    world.delete("EgressClusterPolicy", None, "many")?;
    for name in ["fake", "real"] {
        world.answered(deployments.delete(name, &DeleteParams::background()))?;
    }
    world.until_within(LONG, "all pods are gone", || {
        let left = world.answered(world.built_in::<Pod>(scene.name).list(&Default::default()))?.items.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })?;
    judged
}

/// Creates many policies, some at a time.
fn create(scene: &Scene<'_>, policies: Vec<(String, Value)>) -> Result<()> {
    let world = scene.world;
    let api = world.ours("EgressPolicy", Some(scene.name));
    let create = |(name, spec): (String, Value)| {
        let api = api.clone();
        async move {
            let object: DynamicObject = serde_json::from_value(json!({
                "apiVersion": api::names::API_VERSION, "kind": "EgressPolicy",
                "metadata": {"name": name}, "spec": spec,
            }))
            .map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &object).await.map(drop)
        }
    };
    let all = futures::stream::iter(policies).map(create).buffer_unordered(AT_ONCE);
    let failed = world.answered_within(LONG, async {
        Ok(all.filter_map(|done| async { done.err() }).collect::<Vec<_>>().await)
    })?;
    ensure!(failed.is_empty(), "{} of them are refused: {}", failed.len(), failed[0]);
    Ok(())
}

/// Waits until so many policies have the default EIP by their statuses.
fn until_assigned(scene: &Scene<'_>, wanted: usize) -> Result<()> {
    let world = scene.world;
    world.until_within(LONG, "all policies are in force", || {
        let policies = world.list("EgressPolicy", Some(scene.name))?;
        let eip = scene.eip(0).to_string();
        let has_eip = |policy: &&DynamicObject| {
            text(&policy.data, "/status/eip/ipv4") == eip && !text(&policy.data, "/status/node").is_empty()
        };
        let assigned = policies.iter().filter(has_eip).count();
        ensure!(assigned == wanted, "{assigned} of {wanted} are");
        Ok(())
    })
}

fn thousand_policies(world: &World) -> Result<()> {
    let scene = Scene::new(world, "thousand")?;
    let pod = scene.pod("app", PLAIN)?;
    let policy = |app: &str, destination: String| {
        json!({
            "appliedTo": {"podSelector": {"matchLabels": {"app": app}}},
            "destSubnet": [destination], "egressGatewayName": scene.name,
        })
    };
    let host = |number: usize| format!("198.18.{}.{}/32", number / 250, 1 + number % 250);
    scene.policy("first", policy("nobody", host(0)))?;
    until_assigned(&scene, 1)?;
    // Every commit to nf_tables raises it by one.
    let commits = || -> Result<u32> { Ok(world.kernel(PLAIN)?.nft.generation()?) };

    let before = commits()?;
    let other = (1..POLICIES).map(|number| (format!("other-{number}"), policy("nobody", host(number))));
    create(&scene, other.collect())?;
    until_assigned(&scene, POLICIES)?;
    let changed = commits()?.wrapping_sub(before);
    ensure!(changed < 20, "policies that select nothing on a node made it commit {changed} times");

    let before = commits()?;
    let own = (1..POLICIES).map(|number| (format!("own-{number}"), policy("app", host(number))));
    create(&scene, own.collect())?;
    scene.policy("last", policy("app", "10.6.168.63/32".to_owned()))?;
    until_assigned(&scene, 2 * POLICIES)?;
    world.until_seen_as(&pod.netns, scene.eip(0)).context("with a thousand policies")?;
    let changed = commits()?.wrapping_sub(before);
    let limit = u32::try_from(2 * POLICIES)?;
    ensure!(changed <= limit, "{POLICIES} policies of a pod made its node commit {changed} times");
    let gateway = world.get("EgressGateway", None, scene.name)?;
    let nodes = gateway.pointer("/status/nodeList").and_then(Value::as_array).cloned().unwrap_or_default();
    let eips: Vec<&Value> = nodes.iter().filter_map(|node| node.get("eips")?.as_array()).flatten().collect();
    let listed = eips.iter().filter_map(|eip| eip.get("policies")?.as_array()).flatten().count();
    ensure!(eips.len() == 1 && listed == 2 * POLICIES, "{} EIPs have {listed} policies", eips.len());
    println!("  {POLICIES} policies of one pod: {changed} commits on its node");
    Ok(())
}
