//! Somebody else on the gateways' link has an EIP, or is about to take it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use kernel::RouteSocket;
use kernel::address_watch::{AddressWatch, Word};
use kernel::announce::Announcer;
use model::tunnel_mac::MacAddress;
use serde_json::{Value, json};

use crate::Scenario;
use crate::scene::Scene;
use crate::world::{PLAIN, World, text};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("who_probes_for_an_eip_is_told_that_it_is_taken", probed),
    ("an_eip_that_somebody_else_has_is_not_used_until_that_ends", taken),
];

const UPLINK: &str = "eth0";
const PROBE_AGAIN: Duration = Duration::from_millis(200);

/// The outside host's device.
fn device(links: &mut RouteSocket) -> Result<(u32, MacAddress)> {
    let link = links.link(UPLINK)?.context("the outside host has no uplink")?;
    Ok((link.index, link.mac.context("it has no Ethernet address")?))
}

fn addresses(scene: &Scene<'_>) -> [IpAddr; 2] {
    let (v4, v6) = scene.pair(0);
    [v4, v6]
}

fn probed(world: &World) -> Result<()> {
    let scene = Scene::dual(world, "probed")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let (index, mac) = device(&mut RouteSocket::open_in(&world.outside)?)?;
    let announcer = Announcer::open_in(&world.outside)?;
    let mut watch = world.outside.run(|| AddressWatch::open(index))??;
    let gateway = world.kernel(&scene.carrier("test")?)?.route.link(UPLINK)?.and_then(|link| link.mac);
    for address in addresses(&scene) {
        let mut asked: Option<Instant> = None;
        let answer = world.until("a probe is answered", || {
            if asked.is_none_or(|at| at.elapsed() > PROBE_AGAIN) {
                announcer.probe(index, mac, address)?;
                asked = Some(Instant::now());
            }
            let heard = watch.heard(256)?;
            let answer = heard.iter().find(|heard| heard.word == Word::Has(address));
            answer.copied().with_context(|| format!("heard {heard:?}"))
        })?;
        ensure!(Some(answer.mac) == gateway, "{address} is answered by {answer:?}, not by {gateway:?}");
    }
    world.until_seen_as(&pod.netns, scene.eip(0))
}

/// The condition that tells of it.
fn degraded(scene: &Scene<'_>) -> Result<(String, String, String)> {
    let gateway = scene.world.get("EgressGateway", None, scene.name)?;
    let conditions =
        gateway.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| text(condition, "/type") == "Degraded");
    let condition = found.with_context(|| format!("{}", json!(conditions)))?;
    let field = |name| text(condition, name).to_owned();
    Ok((field("/status"), field("/reason"), field("/message")))
}

fn taken(world: &World) -> Result<()> {
    let scene = Scene::dual(world, "taken")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let mut links = RouteSocket::open_in(&world.outside)?;
    let (index, mac) = device(&mut links)?;
    for address in addresses(&scene) {
        links.add_address(index, IpNet::from(address))?;
        let message = world.until("the gateway says who has its EIP", || match degraded(&scene)? {
            (status, reason, message) if status == "True" && reason == "AddressConflict" => Ok(message),
            other => bail!("it says {other:?}"),
        })?;
        ensure!(message.contains(&address.to_string()) && message.contains(&mac.to_string()), "{message}");
        world.until("nothing leaves with it", || match world.seen_from(&pod.netns) {
            Ok(seen) => bail!("the outside saw {seen}"),
            Err(_) => Ok(()),
        })?;
        let server = world.serve()?;
        for _ in 0..3 {
            ensure!(
                crate::traffic::connect(&pod.netns, server.address()).is_err(),
                "a connection was made while {address} is in conflict"
            );
        }
        let sources = world.sources_at(server.port())?;
        ensure!(sources.is_empty(), "the outside saw {sources:?}");
        links.delete_address(index, IpNet::from(address))?;
        world
            .until_seen_as(&pod.netns, scene.eip(0))
            .with_context(|| format!("after {address} was given up"))?;
        world.until("the gateway says that it is over", || match degraded(&scene)? {
            (status, ..) if status == "False" => Ok(()),
            other => bail!("it says {other:?}"),
        })?;
    }
    Ok(())
}
