//! Cases of the reference implementation's test plan that no other scenario shows: what a user changes, and what that does
//! to packets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::Scenario;
use crate::scene::{Scene, TestPod};
use crate::selection::node_address;
use crate::traffic;
use crate::world::{GATEWAYS, OUTSIDE, PLAIN, World, text};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("g00014_eip_policy_and_packets_follow_the_gateways_selector", selector),
    ("p00012_i00005_a_network_in_extra_cidr_is_not_reached_with_the_eip", extra_cidr),
    ("p00013_only_destinations_of_the_policy_are_reached_with_the_eip", destinations),
    ("p00014_a_changed_selector_takes_the_eip_along", changed_selector),
    ("p00021_pods_of_another_namespace_are_not_selected", two_namespaces),
    ("p_restart_s00001_pods_that_replace_others_leave_with_the_same_eip", replaced_pods),
];

fn label(value: &str) -> Value {
    json!({"matchLabels": {"app": value}})
}

fn leaves_by_itself(world: &World, pod: &TestPod) -> Result<()> {
    world.until_seen_as(&pod.netns, node_address(&pod.node)?)
}

fn selector(world: &World) -> Result<()> {
    let scene = Scene::new(world, "selector")?;
    let pod = scene.pod("app", PLAIN)?;
    let select = |node: &str| {
        let wanted = json!({"e2e-gateway": "true", "kubernetes.io/hostname": node});
        let spec = json!({"spec": {"nodeSelector": {"selector": {"matchLabels": wanted}}}});
        world.patch("EgressGateway", None, scene.name, &spec)
    };
    let nodes = || -> Result<Vec<(String, String)>> {
        let gateway = world.get("EgressGateway", None, scene.name)?;
        let list = gateway.pointer("/status/nodeList").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(list
            .iter()
            .map(|it| (text(it, "/name").to_owned(), text(it, "/eips/0/ipv4").to_owned()))
            .collect())
    };
    let is_on = |node: &str| {
        world.until(&format!("EIP and policy are on {node} alone"), || {
            let (nodes, carrier) = (nodes()?, scene.carrier("test")?);
            let expected = vec![(node.to_owned(), scene.eip(0).to_string())];
            ensure!(nodes == expected && carrier == node, "nodes are {nodes:?}, the policy is on {carrier}");
            Ok(())
        })
    };
    select(GATEWAYS[0])?;
    scene.policy_in_force("app", &pod)?;
    is_on(GATEWAYS[0])?;
    select(GATEWAYS[1])?;
    is_on(GATEWAYS[1])?;
    world.until_seen_as(&pod.netns, scene.eip(0))?;

    select("nowhere")?;
    world.until("neither gateway nor policy has a node", || {
        let (nodes, policy) = (nodes()?, world.get("EgressPolicy", Some(scene.name), "test")?);
        let status = (text(&policy, "/status/node"), text(&policy, "/status/eip/ipv4"));
        ensure!(nodes.is_empty() && status == ("", ""), "nodes are {nodes:?}, the policy says {status:?}");
        Ok(())
    })?;
    let server = world.serve()?;
    world.until("new connections are refused", || {
        ensure!(traffic::connect(&pod.netns, server.address()).is_err(), "a connection was made");
        Ok(())
    })?;
    select(GATEWAYS[1])?;
    is_on(GATEWAYS[1])?;
    world.until_seen_as(&pod.netns, scene.eip(0))
}

fn extra_cidr(world: &World) -> Result<()> {
    let scene = Scene::new(world, "extra")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy("test", json!({"appliedTo": {"podSelector": label("app")}}))?;
    world.until_seen_as(&pod.netns, scene.eip(0))?;
    let before = world.get("EgressClusterInfo", None, "default")?;
    let before = before.pointer("/spec/extraCidr").cloned().unwrap_or_else(|| json!([]));
    let mut with = before.as_array().cloned().unwrap_or_default();
    // An address without prefix length, as documents of the reference implementation have it.
    with.push(json!(OUTSIDE.to_string()));
    let set = |list: &Value| {
        world.patch("EgressClusterInfo", None, "default", &json!({"spec": {"extraCidr": list}}))
    };
    set(&json!(with))?;
    let seen = leaves_by_itself(world, &pod).and_then(|()| {
        world.until("the status tells it", || {
            let told = world.get("EgressClusterInfo", None, "default")?;
            let told = told.pointer("/status/extraCidr").cloned().unwrap_or_default();
            ensure!(told == json!(with), "{told}");
            Ok(())
        })
    });
    set(&before)?;
    seen?;
    world.until_seen_as(&pod.netns, scene.eip(0))
}

fn destinations(world: &World) -> Result<()> {
    let scene = Scene::new(world, "destinations")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    for (networks, address) in [
        (json!(["192.0.2.0/24"]), node_address(PLAIN)?),
        (json!(["192.0.2.0/24", "10.6.168.0/26"]), scene.eip(0)),
        (json!(["10.6.168.64/26"]), node_address(PLAIN)?),
    ] {
        let spec = json!({"spec": {"destSubnet": networks}});
        world.patch("EgressPolicy", Some(scene.name), "test", &spec)?;
        world.until_seen_as(&pod.netns, address).with_context(|| format!("with destSubnet {networks}"))?;
    }
    Ok(())
}

/// Names of the pods that the slices of a policy list.
fn listed(scene: &Scene<'_>) -> Result<BTreeSet<String>> {
    let slices = scene.world.list("EgressEndpointSlice", Some(scene.name))?;
    let endpoints = slices.iter().filter_map(|slice| slice.data.get("endpoints")?.as_array()).flatten();
    Ok(endpoints.map(|endpoint| text(endpoint, "/pod").to_owned()).collect())
}

fn until_listed(scene: &Scene<'_>, names: &[&str]) -> Result<()> {
    let expected: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    scene.world.until("the slices list these pods", || {
        let found = listed(scene)?;
        ensure!(found == expected, "they list {found:?}");
        Ok(())
    })
}

fn changed_selector(world: &World) -> Result<()> {
    let scene = Scene::new(world, "changed")?;
    let (first, second) = (scene.pod("first", PLAIN)?, scene.pod("second", GATEWAYS[0])?);
    scene.policy_in_force("first", &first)?;
    leaves_by_itself(world, &second)?;
    until_listed(&scene, &["first"])?;
    let spec = json!({"spec": {"appliedTo": {"podSelector": label("second")}}});
    world.patch("EgressPolicy", Some(scene.name), "test", &spec)?;
    leaves_by_itself(world, &first)?;
    world.until_seen_as(&second.netns, scene.eip(0))?;
    until_listed(&scene, &["second"])?;
    world.delete("EgressPolicy", Some(scene.name), "test")?;
    leaves_by_itself(world, &second)?;
    until_listed(&scene, &[])
}

fn two_namespaces(world: &World) -> Result<()> {
    let scene = Scene::new(world, "tenant")?;
    let other = Scene::new(world, "neighbour")?;
    let (own, others) = (scene.pod("app", PLAIN)?, other.pod("app", PLAIN)?);
    scene.policy_in_force("app", &own)?;
    let seen: IpAddr = world.seen_from(&others.netns)?;
    ensure!(seen == node_address(PLAIN)?, "a pod of another namespace leaves with {seen}");
    until_listed(&scene, &["app"])?;
    until_listed(&other, &[])
}

fn replaced_pods(world: &World) -> Result<()> {
    let scene = Scene::new(world, "again")?;
    let names = ["app-0", "app-1", "app-2"];
    let pods: Api<Pod> = world.built_in(scene.name);
    let start = |name: &str| -> Result<()> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": "again"}},
            "spec": {"containers": [{"name": "app", "image": "test-app", "command": ["sleep", "3600"]}]},
        }))?;
        world.answered(pods.create(&PostParams::default(), &pod))?;
        Ok(())
    };
    scene.policy(
        "test",
        json!({"appliedTo": {"podSelector": label("again")}, "destSubnet": ["10.6.168.63/32"]}),
    )?;
    let mut uids = BTreeSet::new();
    for _ in 0..2 {
        names.iter().try_for_each(|name| start(name))?;
        for name in names {
            let netns = world.until("the pod runs", || {
                let pod = world.answered(pods.get(name))?;
                let status = pod.status.clone().unwrap_or_default();
                ensure!(status.phase.as_deref() == Some("Running"), "it is {}", json!(status));
                ensure!(uids.insert(pod.uid()) || pod.uid().is_some(), "the pod has no uid");
                world.netns(&format!("{}/{name}", scene.name))
            })?;
            world.until_seen_as(&netns, scene.eip(0))?;
        }
        until_listed(&scene, &names)?;
        for name in names {
            world.answered(pods.delete(name, &DeleteParams::default().grace_period(0)))?;
        }
        until_listed(&scene, &[])?;
        world.until("the pods are gone", || {
            let left = world.pods(scene.name, "app=again")?.len();
            ensure!(left == 0, "{left} pods are left");
            Ok(())
        })?;
    }
    ensure!(uids.len() == 2 * names.len(), "{} pods were seen", uids.len());
    Ok(())
}
