//! Which pods get an EIP, from when on and until when.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::Scenario;
use crate::scene::{Scene, TestPod};
use crate::traffic::{self, Sequence, Server};
use crate::world::{GATEWAYS, NODES, OUTSIDE, PLAIN, World};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_policy_takes_effect_on_every_node_and_ends", takes_effect_and_ends),
    ("priority_and_then_the_most_specific_destination_win", overlapping),
    ("pods_that_no_policy_selects_are_left_alone", unselected),
    ("a_pod_that_starts_under_a_policy_never_leaves_otherwise", starting),
    ("flows_keep_their_way_whatever_policies_do", flows_keep_their_way),
    ("a_cluster_policy_selects_pods_of_chosen_namespaces", cluster_policy),
];

/// Addresses of the nodes, as the outside sees them.
pub(crate) fn node_address(node: &str) -> Result<IpAddr> {
    let number = NODES.iter().position(|name| *name == node).unwrap_or_default();
    Ok(format!("10.6.0.{}", 11 + number).parse()?)
}

/// Sends by TCP and UDP, and checks that the answer comes.
fn talk(pod: &TestPod, server: &Server) -> Result<()> {
    let mut stream = traffic::connect(&pod.netns, server.address())?;
    traffic::say(&mut stream, "who")?;
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer)?;
    ensure!(!answer.is_empty(), "no answer by TCP");
    let socket = traffic::udp(&pod.netns)?;
    socket.send_to(b"hello", server.address())?;
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer)?;
    ensure!(length == 5, "{length} bytes by UDP");
    Ok(())
}
/// Acceptance: P00013, P00020, X-P14
fn takes_effect_and_ends(world: &World) -> Result<()> {
    let scene = Scene::new(world, "effect")?;
    let pods: Vec<TestPod> =
        NODES.iter().map(|node| scene.pod(&format!("app-{node}"), node)).collect::<Result<_>>()?;
    for pod in &pods {
        let seen = world.seen_from(&pod.netns)?;
        ensure!(seen == node_address(&pod.node)?, "without a policy {} leaves with {seen}", pod.node);
    }
    let names: Vec<String> = NODES.iter().map(|node| format!("app-{node}")).collect();
    scene.policy(
        "test",
        json!({
            "appliedTo": {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": names}]}},
            "destSubnet": ["10.6.168.63/32"],
        }),
    )?;
    for pod in &pods {
        world.until_seen_as(&pod.netns, scene.eip(0))?;
    }
    let server = world.serve()?;
    for pod in &pods {
        talk(pod, &server)?;
    }
    let sources = world.sources_at(server.port())?;
    ensure!(sources == BTreeSet::from([scene.eip(0)]), "the outside saw {sources:?}");
    ensure!(GATEWAYS.contains(&scene.carrier("test")?.as_str()), "status names no gateway node");
    world.delete("EgressPolicy", Some(scene.name), "test")?;
    for pod in &pods {
        world.until_seen_as(&pod.netns, node_address(&pod.node)?)?;
    }
    Ok(())
}
/// Acceptance: P00022, X-P7
fn overlapping(world: &World) -> Result<()> {
    let scene = Scene::new(world, "overlap")?;
    let pod = scene.pod("app", PLAIN)?;
    let policy = |name: &str, eip: u32, destination: &str, priority: Option<i64>| {
        let mut spec = json!({
            "appliedTo": {"podSelector": {"matchLabels": {"app": "app"}}},
            "egressIP": {"ipv4": scene.eip(eip).to_string()},
            "destSubnet": [destination],
        });
        if let (Some(priority), Some(fields)) = (priority, spec.as_object_mut()) {
            fields.insert("priority".to_owned(), json!(priority));
        }
        scene.policy(name, spec)
    };
    policy("wide", 0, "10.6.0.0/16", None)?;
    world.until_seen_as(&pod.netns, scene.eip(0))?;
    policy("narrow", 1, "10.6.168.63/32", None)?;
    world.until_seen_as(&pod.netns, scene.eip(1))?;
    policy("urgent", 2, "10.6.168.0/24", Some(5))?;
    world.until_seen_as(&pod.netns, scene.eip(2))?;
    policy("more-urgent", 3, "10.6.0.0/16", Some(4))?;
    world.until_seen_as(&pod.netns, scene.eip(3))?;
    world.delete("EgressPolicy", Some(scene.name), "more-urgent")?;
    world.until_seen_as(&pod.netns, scene.eip(2))?;
    world.delete("EgressPolicy", Some(scene.name), "urgent")?;
    world.until_seen_as(&pod.netns, scene.eip(1))
}
/// Acceptance: P00008
fn unselected(world: &World) -> Result<()> {
    let scene = Scene::new(world, "unselected")?;
    let selected = scene.pod("selected", PLAIN)?;
    let beside = scene.pod("beside", PLAIN)?;
    let on_gateway = scene.pod("on-gateway", GATEWAYS[0])?;
    scene.policy_in_force("selected", &selected)?;
    for pod in [&beside, &on_gateway] {
        let server = world.serve()?;
        talk(pod, &server)?;
        let sources = world.sources_at(server.port())?;
        ensure!(sources == BTreeSet::from([node_address(&pod.node)?]), "the outside saw {sources:?}");
    }
    Ok(())
}
/// Acceptance: P00007
fn starting(world: &World) -> Result<()> {
    let scene = Scene::new(world, "starting")?;
    let first = scene.pod("app", PLAIN)?;
    scene.policy(
        "test",
        json!({"appliedTo": {"podSubnet": ["10.244.0.0/16"]}, "destSubnet": ["10.6.168.63/32"]}),
    )?;
    world.until_seen_as(&first.netns, scene.eip(0))?;
    for node in NODES {
        let server = world.serve()?;
        let url = format!("http://{OUTSIDE}:{}/", server.port());
        let ask = format!("for i in 1 2 3 4 5 6 7 8; do curl -s -m 5 {url}; done; sleep 3600");
        scene.start(&format!("new-{node}"), node, &["sh", "-c", &ask])?;
        world.until("the new pod was heard", || {
            let flows = world.sightings_at(server.port())?.len();
            if flows >= 5 { Ok(()) } else { bail!("{flows} connections") }
        })?;
        let sources = world.sources_at(server.port())?;
        ensure!(sources == BTreeSet::from([scene.eip(0)]), "a new pod on {node} was seen as {sources:?}");
    }
    Ok(())
}

fn flows_keep_their_way(world: &World) -> Result<()> {
    let scene = Scene::new(world, "flows")?;
    for (number, node) in [PLAIN, GATEWAYS[0]].into_iter().enumerate() {
        let server = world.serve()?;
        let pod = scene.pod(&format!("app-{number}"), node)?;
        // Until its node's agent has heard of the pod, what it sends is held.
        world.until_seen_as(&pod.netns, node_address(node)?)?;
        let older = Sequence::start(&pod.netns, &server, "older")?;
        older.flow_on(world, 5)?;
        scene.policy(
            "test",
            json!({
                "appliedTo": {"podSelector": {"matchLabels": {"app": format!("app-{number}")}}},
                "destSubnet": ["10.6.168.63/32"],
            }),
        )?;
        world.until_seen_as(&pod.netns, scene.eip(0))?;
        let younger = Sequence::start(&pod.netns, &server, "younger")?;
        younger.flow_on(world, 5)?;
        older.flow_on(world, 5)?;
        world.delete("EgressPolicy", Some(scene.name), "test")?;
        world.until_seen_as(&pod.netns, node_address(node)?)?;
        for (sequence, address) in [(older, node_address(node)?), (younger, scene.eip(0))] {
            sequence.flow_on(world, 5)?;
            let sent = sequence.end(&server)?;
            ensure!(
                sent.addresses() == BTreeSet::from([address]),
                "{node}: {:?}, not {address}",
                sent.sources
            );
            ensure!(sent.sources.len() == 1, "{node}: several ports: {:?}", sent.sources);
            let (lost, count) = (&sent.lost, sent.count);
            ensure!(lost.is_empty(), "{node}: of {count} datagrams with {address} {lost:?} were lost");
        }
    }
    Ok(())
}
/// Acceptance: X-P16
fn cluster_policy(world: &World) -> Result<()> {
    let scene = Scene::new(world, "cluster-wide")?;
    let other = Scene::new(world, "elsewhere")?;
    let inside = scene.pod("app", PLAIN)?;
    let outside = other.pod("app", PLAIN)?;
    let spec = json!({
        "egressGatewayName": scene.name,
        "appliedTo": {
            "podSelector": {"matchLabels": {"app": "app"}},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scene.name}},
        },
        "destSubnet": ["10.6.168.63/32"],
    });
    world.create("EgressClusterPolicy", None, &json!({"metadata": {"name": "e2e"}, "spec": spec}))?;
    let seen =
        world.until_seen_as(&inside.netns, scene.eip(0)).and_then(|()| world.seen_from(&outside.netns));
    world.delete("EgressClusterPolicy", None, "e2e")?;
    let seen = seen?;
    ensure!(seen == node_address(PLAIN)?, "a pod of another namespace leaves with {seen}");
    Ok(())
}
