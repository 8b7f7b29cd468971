//! What is refused: packets that have no business here, and manifests that make no sense.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use datapath::compile::names;
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::Scenario;
use crate::admission::without_webhooks;
use crate::scene::Scene;
use crate::traffic;
use crate::world::{PLAIN, World, text};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_pod_that_sends_to_an_eip_is_refused", to_an_eip),
    ("strays_to_ports_that_nobody_holds_vanish", strays),
    ("what_a_schema_can_tell_is_refused_with_its_field", schema),
    ("what_a_schema_can_not_tell_is_a_condition_and_an_event", conditions),
];

fn to_an_eip(world: &World) -> Result<()> {
    let scene = Scene::new(world, "to-eip")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy("test", json!({"appliedTo": {"podSelector": {"matchLabels": {"app": "app"}}}}))?;
    world.until_seen_as(&pod.netns, scene.eip(0))?;
    let before = world.counter(PLAIN, names::REFUSE_TO_EIP)?;
    let socket = traffic::udp(&pod.netns)?;
    socket.connect(SocketAddr::new(scene.eip(0), 8081))?;
    socket.send(b"hello")?;
    let error = socket.recv(&mut [0; 16]).err().context("an EIP answered")?;
    ensure!(
        !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "it is not refused, but dropped"
    );
    ensure!(traffic::connect(&pod.netns, SocketAddr::new(scene.eip(0), 80)).is_err(), "an EIP let a pod in");
    let now = world.counter(PLAIN, names::REFUSE_TO_EIP)?;
    ensure!(now > before, "{} packets to EIPs are counted", now - before);
    Ok(())
}

fn strays(world: &World) -> Result<()> {
    let scene = Scene::new(world, "strays")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    // The top quarter of the ports belongs to nobody's lease.
    let to = SocketAddr::new(scene.eip(0), 65_000);
    let gateway = scene.carrier("test")?;
    let count = || -> Result<u64> {
        Ok(world.counter(&gateway, names::DROP_NO_HOLDER)? + world.counter(&gateway, names::DROP_STRAY)?)
    };
    let before = count()?;
    let socket = traffic::udp(&world.outside)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    world.until("datagrams are dropped and counted", || {
        socket.send(b"stray").context("somebody answered a stray datagram")?;
        let now = count()?;
        ensure!(now >= before + 3, "{} are counted", now - before);
        Ok(())
    })?;
    let heard = socket.recv(&mut [0; 16]);
    ensure!(heard.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "a stray datagram was answered");
    let before = count()?;
    world.until("connections are dropped and counted", || {
        let tried = world.outside.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)))?;
        ensure!(
            tried.is_err_and(|error| error.kind() == ErrorKind::TimedOut),
            "a stray connection was answered"
        );
        ensure!(count()? > before, "a stray connection is not counted");
        Ok(())
    })?;

    // A port that a node holds, but no flow: dropped there, and sent back to nobody.
    let lease_ports = leased_port(world, PLAIN, scene.eip(0))?;
    let before = world.counter(PLAIN, names::DROP_STRAY)?;
    socket.connect(SocketAddr::new(scene.eip(0), lease_ports))?;
    world.until("datagrams of no flow are dropped and counted at the source node", || {
        socket.send(b"stray").context("somebody answered a stray datagram")?;
        let now = world.counter(PLAIN, names::DROP_STRAY)?;
        ensure!(now >= before + 3, "{} are counted", now - before);
        Ok(())
    })
}

/// The last port of the first block that a node holds of an EIP.
fn leased_port(world: &World, node: &str, eip: IpAddr) -> Result<u16> {
    let lease = world.lease_of(node, eip)?;
    let leases = lease.data.pointer("/spec/leases").and_then(Value::as_array).cloned().unwrap_or_default();
    let ours = leases.iter().find(|lease| text(lease, "/ipv4") == eip.to_string());
    let number = |pointer: &str| ours.and_then(|lease| lease.pointer(pointer)).and_then(Value::as_u64);
    let last = number("/blocks/0/first").zip(number("/blocks/0/size")).map(|(first, size)| first + size - 1);
    last.and_then(|last| u16::try_from(last).ok()).with_context(|| format!("{node} holds no block of {eip}"))
}

fn pool(v4: &[&str], v6: &[&str]) -> Value {
    json!({
        "ippools": {"ipv4": v4, "ipv6": v6},
        "nodeSelector": {"selector": {"matchLabels": {"e2e-gateway": "true"}}},
    })
}

fn schema(world: &World) -> Result<()> {
    let scene = Scene::new(world, "schema")?;
    let gateways = [
        ("spec.ippools.ipv4[0]", pool(&["10.6.168.300"], &[])),
        ("spec.ippools.ipv6[0]", pool(&[], &["fd00::g"])),
        ("spec.nodeSelector", json!({"ippools": {"ipv4": ["10.6.168.195"]}})),
    ];
    for (field, spec) in gateways {
        let object = json!({"metadata": {"name": "bad"}, "spec": spec});
        refused_with(field, world.create("EgressGateway", None, &object))?;
    }
    let policies = [
        (
            "spec.destSubnet[0]",
            json!({"appliedTo": {"podSubnet": ["10.244.0.0/16"]}, "destSubnet": ["nowhere"]}),
        ),
        (
            "spec.egressIP.ipv4",
            json!({"appliedTo": {"podSubnet": ["10.244.0.0/16"]}, "egressIP": {"ipv4": "1.2.3"}}),
        ),
        ("spec.priority", json!({"appliedTo": {"podSubnet": ["10.244.0.0/16"]}, "priority": -1})),
        ("spec.appliedTo", json!({"destSubnet": ["10.6.168.63/32"]})),
    ];
    for (field, spec) in policies {
        refused_with(field, scene.policy("bad", spec))?;
    }
    Ok(())
}

fn refused_with(field: &str, created: Result<()>) -> Result<()> {
    let Err(error) = created else { bail!("{field} is not judged") };
    let text = format!("{error:#}");
    ensure!(text.contains(field), "{field} is refused with {text}");
    Ok(())
}

/// What came past the webhooks, or was there before them.
fn conditions(world: &World) -> Result<()> {
    let scene = Scene::new(world, "conditions")?;
    without_webhooks(world, || judged_later(world, &scene))
}

fn judged_later(world: &World, scene: &Scene<'_>) -> Result<()> {
    let taken = scene.eip(1).to_string();
    let gateways = [
        ("reversed", "InvalidField", "spec.ippools.ipv4[0]", pool(&["10.6.168.198-10.6.168.196"], &[])),
        // The lab's feature settings know IPv4 only; that comes before the sizes of the two pools.
        (
            "ipv6",
            "InvalidField",
            "spec.ippools.ipv6",
            pool(&["10.6.168.196"], &["fd06::168:a", "fd06::168:b"]),
        ),
        ("shared", "PoolsOverlap", taken.as_str(), pool(&[&taken], &[])),
    ];
    for (name, reason, part, spec) in gateways {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        world.create("EgressGateway", None, &object)?;
        let told = told(world, "EgressGateway", None, name, reason, part);
        world.delete("EgressGateway", None, name)?;
        told.with_context(|| format!("gateway {name}"))?;
    }
    let selector = json!({"matchLabels": {"app": "app"}});
    let policies = [
        (
            "no-gateway",
            "UnknownGateway",
            "spec.egressGatewayName",
            json!({"egressGatewayName": "nobody", "appliedTo": {"podSelector": selector}}),
        ),
        (
            "elsewhere",
            "OutsidePool",
            "spec.egressIP",
            json!({"appliedTo": {"podSelector": selector}, "egressIP": {"ipv4": "10.6.168.250"}}),
        ),
    ];
    for (name, reason, part, spec) in policies {
        scene.policy(name, spec)?;
        told(world, "EgressPolicy", Some(scene.name), name, reason, part)
            .with_context(|| format!("policy {name}"))?;
    }
    Ok(())
}

/// Waits until the object's condition and an event give that reason, and the condition's message names what is wrong.
fn told(
    world: &World,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    reason: &str,
    part: &str,
) -> Result<()> {
    world.until("its condition tells the reason", || {
        let object = world.get(kind, namespace, name)?;
        let found =
            (text(&object, "/status/conditions/0/reason"), text(&object, "/status/conditions/0/message"));
        ensure!(found.0 == reason && found.1.contains(part), "its condition says {found:?}");
        ensure!(text(&object, "/status/conditions/0/status") == "False", "its condition is not False");
        Ok(())
    })?;
    world.until("an event tells the reason", || {
        let events = world.built_in::<Event>(namespace.unwrap_or("default"));
        let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let events = world.answered(events.list(&about))?.items;
        let tells = |event: &Event| {
            event.reason.as_deref() == Some(reason) && event.type_.as_deref() == Some("Warning")
        };
        ensure!(events.iter().any(tells), "{} events", events.len());
        Ok(())
    })
}
