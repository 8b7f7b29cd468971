//! Agents and controller come and go; the traffic does not care.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use lab::Fault;
use serde_json::{Value, json};

use crate::Scenario;
use crate::scene::Scene;
use crate::traffic::{Sequence, Server};
use crate::world::{GATEWAYS, NODES, PLAIN, SYSTEM, World, text};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("killed_agents_lose_no_packet", agents_killed),
    ("replaced_agents_lose_no_packet", agents_replaced),
    ("a_new_controller_changes_nothing", controller_replaced),
];

pub(crate) const AGENT: &str = "app.kubernetes.io/component=egressgateway-agent";
pub(crate) const CONTROLLER: &str = "app.kubernetes.io/component=egressgateway-controller";
/// The ready agent of a node: its pod and how often that was restarted.
fn agent(world: &World, node: &str) -> Result<(String, i32)> {
    let pods = world.pods(SYSTEM, AGENT)?;
    let on_node = |pod: &&Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
    let pod = pods.iter().filter(on_node).find(|pod| is_ready(pod)).context("the agent is not ready")?;
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let restarts = statuses.into_iter().flatten().map(|status| status.restart_count).sum();
    Ok((pod.name_any(), restarts))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// Sends all the time from a pod on a gateway node and from one elsewhere while something happens.
fn undisturbed(scene: &Scene<'_>, server: &Server, disturb: impl FnOnce() -> Result<()>) -> Result<()> {
    let world = scene.world;
    let pods = [scene.pod("far", PLAIN)?, scene.pod("near", GATEWAYS[0])?];
    scene.policy_for_all(json!({}))?;
    let mut sequences = Vec::new();
    for pod in &pods {
        world.until_seen_as(&pod.netns, scene.eip(0))?;
        let sequence = Sequence::start(&pod.netns, server, &format!("{}-{}", scene.name, pod.node))?;
        sequence.flow_on(world, 20)?;
        sequences.push(sequence);
    }
    disturb()?;
    for sequence in &sequences {
        sequence.flow_on(world, 20)?;
    }
    for (sequence, pod) in sequences.into_iter().zip(&pods) {
        let sent = sequence.end(server)?;
        let addresses = sent.addresses();
        ensure!(addresses == BTreeSet::from([scene.eip(0)]), "{} was seen as {addresses:?}", pod.node);
        ensure!(sent.sources.len() == 1, "{} was seen at {:?}", pod.node, sent.sources);
        ensure!(
            sent.lost.is_empty(),
            "{} of {} lost from {}: {:?}",
            sent.lost.len(),
            sent.count,
            pod.node,
            sent.lost
        );
        ensure!(sent.unanswered.is_empty(), "answers lost to {}: {:?}", pod.node, sent.unanswered);
    }
    let sources = world.sources_at(server.port())?;
    ensure!(sources == BTreeSet::from([scene.eip(0)]), "the outside saw {sources:?}");
    Ok(())
}
/// Acceptance: R00007, X-R1
fn agents_killed(world: &World) -> Result<()> {
    let scene = Scene::new(world, "killed")?;
    let server = world.serve()?;
    undisturbed(&scene, &server, || {
        let objects_before = settled(&scene)?;
        for node in NODES {
            let before = world.until("the agent is ready", || agent(world, node))?;
            world.fault(Fault::KillAgent { node: node.to_owned() })?;
            world.until("the agent is there again", || {
                let now = agent(world, node)?;
                if now.1 > before.1 { Ok(()) } else { bail!("{now:?}") }
            })?;
        }
        ensure_same(&objects_before, &settled(&scene)?)
    })
}
/// Acceptance: R00007, X-R1
fn agents_replaced(world: &World) -> Result<()> {
    let scene = Scene::new(world, "replaced")?;
    let server = world.serve()?;
    undisturbed(&scene, &server, || {
        let objects_before = settled(&scene)?;
        for node in NODES {
            let (before, _) = world.until("the agent is ready", || agent(world, node))?;
            world.answered(world.built_in::<Pod>(SYSTEM).delete(&before, &DeleteParams::default()))?;
            world.until("another agent is ready", || {
                let (now, _) = agent(world, node)?;
                if now == before { bail!("it is still {now}") } else { Ok(()) }
            })?;
        }
        ensure_same(&objects_before, &settled(&scene)?)
    })
}

/// By name what must stay as it is, and who wrote it.
type Objects = BTreeMap<String, (Value, Value)>;

/// Objects of the scene, and its part of those that all scenes share.
fn objects(scene: &Scene<'_>) -> Result<Objects> {
    let mut found = BTreeMap::new();
    let mut add = |kind: &str, object: &DynamicObject, part: Value| {
        found.insert(format!("{kind} {}", object.name_any()), (part, json!(object.metadata)));
    };
    let world = scene.world;
    for object in world.list("EgressGateway", None)?.iter().filter(|object| object.name_any() == scene.name) {
        // A new leader may put its stamp on it.
        add("EgressGateway", object, object.data.clone());
    }
    for kind in ["EgressPolicy", "EgressEndpointSlice"] {
        for object in &world.list(kind, Some(scene.name))? {
            add(kind, object, json!([object.resource_version(), object.data]));
        }
    }
    for object in &world.list("EgressPortLease", None)? {
        let ours = |lease: &&Value| text(lease, "/gateway") == scene.name;
        add(
            "EgressPortLease",
            object,
            json!(entries(object, "/spec/leases").filter(ours).collect::<Vec<_>>()),
        );
    }
    for object in &world.list("EgressTunnel", None)? {
        let ours = |claim: &&Value| text(claim, "/eip") == scene.eip(0).to_string();
        let claims: Vec<&Value> = entries(object, "/status/claims").filter(ours).collect();
        add(
            "EgressTunnel",
            object,
            json!([claims, object.data.pointer("/status/tunnel"), object.data.pointer("/status/conditions")]),
        );
    }
    for object in &world.list("EgressClusterInfo", None)? {
        add("EgressClusterInfo", object, json!(object.data));
    }
    Ok(found)
}

fn entries<'a>(object: &'a DynamicObject, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.data.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The objects once everybody says the same: the policy's node is the gateway's, and it alone claims the EIP.
fn settled(scene: &Scene<'_>) -> Result<Objects> {
    scene.world.until("policy, gateway and tunnels name one node", || {
        let found = objects(scene)?;
        let eip = scene.eip(0).to_string();
        let carrier = scene.carrier("test")?;
        let gateway = scene.world.get("EgressGateway", None, scene.name)?;
        let nodes = gateway.pointer("/status/nodeList").and_then(Value::as_array).into_iter().flatten();
        let placed: Vec<&str> = nodes
            .filter(|node| text(node, "/eips/0/ipv4") == eip)
            .map(|node| text(node, "/name"))
            .collect();
        let part = |kind: &str, node: &str| {
            found.get(&format!("{kind} {node}")).map(|(part, _)| part.to_string()).unwrap_or_default()
        };
        let claimants: Vec<&str> =
            NODES.into_iter().filter(|node| part("EgressTunnel", node).contains(&eip)).collect();
        let leased = NODES.into_iter().filter(|node| part("EgressPortLease", node).contains(&eip)).count();
        ensure!(
            placed == [carrier.as_str()] && claimants == placed && leased > 0,
            "the policy is on {carrier:?}, by the gateway on {placed:?}; {claimants:?} claim it, {leased} have ports"
        );
        Ok(found)
    })
}

fn ensure_same(before: &Objects, now: &Objects) -> Result<()> {
    for (name, (before, metadata)) in before {
        let (after, written) = now.get(name).with_context(|| format!("{name} is gone"))?;
        ensure!(before == after, "{name} changed from {before} to {after}: {metadata} became {written}");
    }
    Ok(())
}
/// Acceptance: R00007
fn controller_replaced(world: &World) -> Result<()> {
    let scene = Scene::new(world, "controller")?;
    let server = world.serve()?;
    undisturbed(&scene, &server, || {
        let before = settled(&scene)?;
        let old = ready_controller(world)?;
        let holder = leader(world)?;
        world.answered(world.built_in::<Pod>(SYSTEM).delete(&old, &DeleteParams::default()))?;
        world.until("another controller leads", || {
            let now = leader(world)?;
            if now == holder || now.is_empty() { bail!("{now:?} leads") } else { Ok(()) }
        })?;
        world.until("another controller is ready, and serves webhooks", || {
            match ready_controller(world)? {
                now if now == old => bail!("{now} is still there"),
                _ => Ok(()),
            }
        })?;
        // It judges what comes now, so it has judged what was there.
        world.create(
            "EgressGateway",
            None,
            &json!({
                "metadata": {"name": "controller-later"},
                "spec": {
                    "ippools": {"ipv4": ["10.6.168.170"]},
                    "nodeSelector": {"selector": {"matchLabels": {"no": "node"}}},
                },
            }),
        )?;
        let judged = world.until("the new controller judges", || {
            let gateway = world.get("EgressGateway", None, "controller-later")?;
            match text(&gateway, "/status/conditions/0/reason") {
                "NoGatewayNode" => Ok(()),
                other => bail!("its reason is {other:?}"),
            }
        });
        world.delete("EgressGateway", None, "controller-later")?;
        judged?;
        ensure_same(&before, &objects(&scene)?)
    })
}

pub(crate) fn ready_controller(world: &World) -> Result<String> {
    let pods = world.pods(SYSTEM, CONTROLLER)?;
    Ok(pods.iter().find(|pod| is_ready(pod)).context("no controller is ready")?.name_any())
}

/// Who leads, by the controller's Lease.
fn leader(world: &World) -> Result<String> {
    let leases = world.answered(world.built_in::<Lease>(SYSTEM).list(&ListParams::default()))?;
    let ours = leases.items.into_iter().find(|lease| lease.name_any().contains("egressgateway"));
    let spec = ours.and_then(|lease| lease.spec).context("there is no Lease of the controller")?;
    Ok(spec.holder_identity.unwrap_or_default())
}
