//! Ports: where there are none, where they are another's, and how long they are kept.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use datapath::compile::names;
use datapath::nft;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use kernel::conntrack::{ConntrackSocket, FlowFilter};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::Scenario;
use crate::drift::table;
use crate::failover::Broken;
use crate::restarts::{CONTROLLER, ready_controller};
use crate::scene::Scene;
use crate::traffic::{self, Held, Sequence};
use crate::world::{GATEWAYS, PLAIN, SYSTEM, World, text};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_node_without_ports_uses_those_of_its_gateway", overflow),
    ("pods_leave_with_the_address_of_a_gateway_node", node_address),
    ("a_question_to_a_resolver_frees_its_port_soon", short_flows),
    ("a_node_tells_how_many_ports_it_uses", ports_in_use),
];

/// Connections at a time; more than the smallest block has ports would be refused without overflow.
const CONNECTIONS: usize = 40;

/// The controller is away while this lives, so that leases stay as the scenario wants them.
struct WithoutController<'w>(&'w World);

impl<'w> WithoutController<'w> {
    fn new(world: &'w World) -> Result<Self> {
        let away = Self(world);
        away.scale(0)?;
        world.until("the controller is gone", || {
            let pods = world.pods(SYSTEM, CONTROLLER)?;
            ensure!(pods.is_empty(), "{} pods are left", pods.len());
            Ok(())
        })?;
        Ok(away)
    }

    fn scale(&self, replicas: u32) -> Result<()> {
        let deployments = self.0.built_in::<Deployment>(SYSTEM);
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.0.answered(deployments.patch("egressgateway-controller", &PatchParams::default(), &patch))?;
        Ok(())
    }
}

impl Drop for WithoutController<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.scale(1) {
            println!("  the controller does not come back: {error:#}");
        }
    }
}

/// Rewrites the blocks of an EIP that a node holds.
fn lease(world: &World, node: &str, eip: IpAddr, gateway: &str, blocks: &Value) -> Result<()> {
    let held = world.lease_of(node, eip)?;
    let mut spec = held.data.get("spec").cloned().context("a spec")?;
    let generation = spec.get("generation").and_then(Value::as_i64).unwrap_or_default();
    let fields = spec.as_object_mut().context("a spec")?;
    fields.insert("generation".to_owned(), json!(generation + 1));
    let mut eips = fields.remove("leases").and_then(|leases| leases.as_array().cloned()).unwrap_or_default();
    eips.retain(|lease| text(lease, "/ipv4") != eip.to_string());
    eips.push(json!({"gateway": gateway, "ipv4": eip.to_string(), "blocks": blocks}));
    fields.insert("leases".to_owned(), json!(eips));
    world.patch("EgressPortLease", None, &held.name_any(), &json!({"spec": spec}))
}

/// First port of the block that a gateway holds.
fn first_port(gateway: usize) -> usize {
    49152 + 64 * gateway
}

/// First port of the block into which a gateway's kernel translates.
fn translates_into(world: &World, gateway: &str, eip: IpAddr) -> Result<u16> {
    let IpAddr::V4(eip) = eip else { bail!("an IPv4 scene") };
    let table = table(&mut world.kernel(gateway)?)?;
    let blocks = table.sets.get(&format!("{}4", names::OVERFLOW_SNAT)).context("no blocks")?;
    let block = blocks.elements.get(&nft::Key::Exact(eip.octets().to_vec())).context("no block")?;
    let nft::Value::Data(data) = block else { bail!("{block:?}") };
    // The address, then the first and the last port.
    let port = data.get(4..6).and_then(|port| port.try_into().ok()).context("no port")?;
    Ok(u16::from_be_bytes(port))
}

fn overflow(world: &World) -> Result<()> {
    let scene = Scene::new(world, "overflow")?;
    let pods = [scene.pod("far", PLAIN)?, scene.pod("near", GATEWAYS[0])?];
    scene.policy_for_all(json!({}))?;
    for pod in &pods {
        world.until_seen_as(&pod.netns, scene.eip(0))?;
    }
    let away = WithoutController::new(world)?;
    // Both gateways hold a small block of the upper range; the source and the pod next to a gateway hold nothing.
    for (number, gateway) in GATEWAYS.iter().enumerate() {
        let block = json!([{"first": first_port(number), "size": 64, "state": "Active", "role": "Overflow"}]);
        lease(world, gateway, scene.eip(0), scene.name, &block)?;
        // What they had before is taken away, as the controller never would: so not from under a connection.
        world.until("the gateway translates into it", || {
            let first = translates_into(world, gateway, scene.eip(0))?;
            ensure!(first == u16::try_from(first_port(number))?, "{first}");
            Ok(())
        })?;
    }
    lease(world, PLAIN, scene.eip(0), scene.name, &json!([]))?;

    let counted = world.counter(PLAIN, names::OVERFLOW)?;
    world.until("new connections overflow", || {
        world.seen_from(&pods[0].netns)?;
        let now = world.counter(PLAIN, names::OVERFLOW)?;
        ensure!(now > counted, "{now} new connections were counted");
        Ok(())
    })?;
    let guarded = world.counter(PLAIN, names::DROP_GUARD)?;
    let server = world.serve()?;
    let held = Held::open(&pods[0].netns, server.address(), CONNECTIONS)?;
    held.flow_on(world)?;
    let near = Held::open(&pods[1].netns, server.address(), 3)?;
    near.flow_on(world).context("from the gateway's own pod")?;
    // Datagrams from the same port of both nodes' pods to the same server.
    for pod in &pods {
        let socket =
            pod.netns.run(|| std::net::UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], 50000))))??;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(3)))?;
        socket.send_to(b"hello", server.address())?;
        let length = socket.recv_from(&mut [0; 16]).context("an answer to a datagram")?.0;
        ensure!(length == 5, "{length} bytes came back");
    }
    held.end()?;
    near.end()?;
    let seen = world.sightings_at(server.port())?;
    let sources: BTreeSet<IpAddr> = seen.iter().map(|sighting| sighting.source).collect();
    ensure!(sources == BTreeSet::from([scene.eip(0)]), "the outside saw {sources:?}");
    let stray: Vec<u16> = seen
        .iter()
        .map(|sighting| sighting.source_port)
        .filter(|port| !(49152..49152 + 128).contains(port))
        .collect();
    ensure!(stray.is_empty(), "the outside saw ports that no gateway holds: {stray:?}");
    let guarded = world.counter(PLAIN, names::DROP_GUARD)? - guarded;
    ensure!(guarded == 0, "the guard had to drop {guarded} packets");
    drop(traffic::connect(&pods[0].netns, server.address())?);
    drop(away);
    world.until("the controller is back", || ready_controller(world).map(drop))
}

/// Addresses of gateway nodes, as the lab gives them.
fn address_of(world: &World, node: &str) -> Result<IpAddr> {
    let node = world.answered(world.cluster_wide::<Node>().get(node))?;
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let internal = addresses.iter().find(|address| address.type_ == "InternalIP").context("an address")?;
    Ok(internal.address.parse()?)
}
/// Acceptance: P00015
fn node_address(world: &World) -> Result<()> {
    let scene = Scene::new(world, "node-address")?;
    let pods = [scene.pod("far", PLAIN)?, scene.pod("one", GATEWAYS[0])?, scene.pod("two", GATEWAYS[1])?];
    scene.policy_for_all(json!({"egressIP": {"useNodeIP": true}}))?;
    let node = world.until("status names a node", || scene.carrier("test"))?;
    let policy = world.get("EgressPolicy", Some(scene.name), "test")?;
    ensure!(text(&policy, "/status/eip/ipv4").is_empty(), "useNodeIP shows no EIP: {policy}");
    let address = address_of(world, &node)?;
    for pod in &pods {
        world.until_seen_as(&pod.netns, address).with_context(|| format!("from {}", pod.node))?;
    }
    let server = world.serve()?;
    let held: Vec<Held> =
        pods.iter().map(|pod| Held::open(&pod.netns, server.address(), 5)).collect::<Result<_>>()?;
    let sequence = Sequence::start(&pods[0].netns, &server, "node-address")?;
    sequence.flow_on(world, 20)?;
    for held in held {
        held.flow_on(world)?;
        held.end()?;
    }
    let sent = sequence.end(&server)?;
    ensure!(sent.lost.is_empty() && sent.unanswered.is_empty(), "{} of {} lost", sent.lost.len(), sent.count);
    let sources = world.sources_at(server.port())?;
    ensure!(sources == BTreeSet::from([address]), "the outside saw {sources:?}");

    // Another node takes over when this one is cut off.
    let other = GATEWAYS.into_iter().find(|other| *other != node).context("another gateway")?;
    let cut = Broken::cut(world, &node)?;
    world.until_seen_as(&pods[0].netns, address_of(world, other)?)?;
    cut.repair()?;
    scene.until_gateways_are_ready()
}

fn short_flows(world: &World) -> Result<()> {
    let scene = Scene::new(world, "questions")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let socket = traffic::udp(&pod.netns)?;
    let mut connections = ConntrackSocket::open_in(&world.netns(PLAIN)?)?;
    for (port, short) in [(53, true), (54, false)] {
        socket.send_to(b"?", SocketAddr::new(crate::world::OUTSIDE.into(), port))?;
        let left = world.until("the flow is tracked", || {
            let flows = connections.flows(&FlowFilter { mark: None, source: Some(pod.address) })?;
            let flow =
                flows.iter().find(|flow| flow.protocol == 17 && flow.original.destination_port == port);
            Ok(flow.context("no flow")?.timeout_seconds)
        })?;
        ensure!((left <= 5) == short, "a flow to port {port} is kept for {left} s more");
    }
    Ok(())
}

fn ports_in_use(world: &World) -> Result<()> {
    let scene = Scene::new(world, "use")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let server = world.serve()?;
    let held = Held::open(&pod.netns, server.address(), 20)?;
    world.until("the lease's status says so", || {
        let lease = world.lease_of(PLAIN, scene.eip(0))?;
        let eips = lease.data.pointer("/status/eips").and_then(Value::as_array).cloned().unwrap_or_default();
        let ours = eips.iter().find(|entry| text(entry, "/ipv4") == scene.eip(0).to_string());
        let used = ours.and_then(|entry| entry.get("portsInUse")).and_then(Value::as_u64);
        ensure!(used >= Some(20), "{used:?} ports in use: {eips:?}");
        Ok(())
    })?;
    held.end()
}
