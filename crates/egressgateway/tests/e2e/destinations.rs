//! What "no destSubnet" means, and what happens inside the cluster.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::Scenario;
use crate::scene::Scene;
use crate::traffic;
use crate::world::{GATEWAYS, PLAIN, World};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("no_destination_means_everything_outside_the_cluster", everything_outside),
    ("all_addresses_as_destination_leave_the_cluster_alone", all_addresses),
];

/// Acceptance: P00011, X-P14
fn everything_outside(world: &World) -> Result<()> {
    let scene = Scene::new(world, "everything")?;
    outside_with_the_eip_inside_without(world, &scene, &json!({}))
}

/// Acceptance: X-P6
fn all_addresses(world: &World) -> Result<()> {
    let scene = Scene::new(world, "all-addresses")?;
    outside_with_the_eip_inside_without(world, &scene, &json!({"destSubnet": ["0.0.0.0/0", "::/0"]}))?;
    // An edit that changes nothing for packets changes nothing.
    let pod = world.netns(&format!("{}/app", scene.name))?;
    world.patch("EgressPolicy", Some(scene.name), "test", &json!({"spec": {"priority": 7}}))?;
    for _ in 0..5 {
        world.until_seen_as(&pod, scene.eip(0))?;
    }
    Ok(())
}

fn outside_with_the_eip_inside_without(world: &World, scene: &Scene<'_>, more: &Value) -> Result<()> {
    let pod = scene.pod("app", PLAIN)?;
    let peer = scene.pod("peer", GATEWAYS[1])?;
    let mut spec = json!({"appliedTo": {"podSelector": {"matchLabels": {"app": "app"}}}});
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more.clone());
    }
    scene.policy("test", spec)?;
    world.until_seen_as(&pod.netns, scene.eip(0))?;
    let server = world.serve()?;
    let mut stream = traffic::connect(&pod.netns, server.address())?;
    traffic::say(&mut stream, "who")?;
    stream.read_to_string(&mut String::new())?;
    let sources = world.sources_at(server.port())?;
    ensure!(sources == BTreeSet::from([scene.eip(0)]), "the outside saw {sources:?}");

    // Another pod sees the pod itself, a node sees what it sees without us: the pod or its node.
    let listener = peer.netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let to = SocketAddr::new(peer.address, listener.local_addr()?.port());
    let mut to_pod = traffic::connect(&pod.netns, to)?;
    let (mut accepted, from) = listener.accept()?;
    ensure!(from.ip() == pod.address, "another pod saw {from}");
    to_pod.write_all(b"x")?;
    accepted.read_exact(&mut [0])?;

    let node = world.netns(GATEWAYS[0])?;
    let listener = node.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let to = SocketAddr::new("10.6.0.12".parse()?, listener.local_addr()?.port());
    traffic::connect(&pod.netns, to)?;
    let (_, from) = listener.accept()?;
    ensure!(from.ip() == pod.address, "a node saw {from}");
    Ok(())
}
