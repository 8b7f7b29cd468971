//! The end of an installation. It is the last scenario: meanwhile there are no agents.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use datapath::state::ROUTE_PROTOCOL;
use k8s_openapi::api::apps::v1::DaemonSet;
use kernel::Kernel;
use kube::api::{DeleteParams, PostParams};
use model::mark::{BASE, BASE_MASK};
use serde_json::json;

use crate::Scenario;
use crate::restarts::AGENT;
use crate::scene::Scene;
use crate::world::{GATEWAYS, NODES, PLAIN, SYSTEM, World, agent_table};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("x_r6_after_the_last_gateway_and_the_agents_nothing_is_left_in_the_kernel", nothing_left)];

/// Name of the agents' DaemonSet.
const DAEMON_SET: &str = "egressgateway-agent";
/// The tunnel device, as it is installed.
const TUNNEL: &str = "egress.vxlan";

/// Everything of ours in a kernel, as text.
fn left(kernel: &mut Kernel) -> Result<BTreeSet<String>> {
    let tables = kernel.nft.tables()?.into_iter().filter(|table| table.name.contains("egressgateway"));
    let mut all: BTreeSet<String> = tables.map(|table| format!("table {}", table.name)).collect();
    all.extend(of_eips(kernel)?);
    let rules = kernel.route.rules()?.into_iter().filter(|rule| rule.mark & BASE_MASK == BASE);
    all.extend(rules.map(|rule| format!("{rule:?}")));
    all.extend(kernel.route.routes_of(ROUTE_PROTOCOL)?.iter().map(|route| format!("{route:?}")));
    all.extend(kernel.route.link(TUNNEL)?.map(|link| format!("device {}", link.name)));
    Ok(all)
}

/// What there is because of EIPs, and not because an agent runs.
fn of_eips(kernel: &mut Kernel) -> Result<BTreeSet<String>> {
    let entries = kernel.route.proxy_entries()?.into_iter().filter(|entry| entry.ours);
    let mut all: BTreeSet<String> = entries.map(|entry| format!("{entry:?}")).collect();
    let found = kernel.nft.read(&agent_table())?;
    for (name, set) in found.iter().flat_map(|table| &table.sets) {
        if [datapath::compile::names::SNAT, datapath::compile::names::POD_CLASS]
            .iter()
            .any(|of_policies| name.starts_with(of_policies))
        {
            all.extend(set.elements.keys().map(|key| format!("{name} {key:?}")));
        }
    }
    Ok(all)
}

fn until_none(world: &World, what: &str, look: fn(&mut Kernel) -> Result<BTreeSet<String>>) -> Result<()> {
    for node in NODES {
        let mut kernel = world.kernel(node)?;
        world.until(&format!("{node} has no more {what}"), || {
            let left = look(&mut kernel)?;
            ensure!(left.is_empty(), "it has {left:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn cleanup(world: &World, node: &str) -> Result<String> {
    let program = "/opt/egressgateway/bin/agent";
    let output = world.lab().exec(node, &[program, "cleanup"])?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}", err.trim());
    Ok(out.trim().to_owned())
}

fn nothing_left(world: &World) -> Result<()> {
    {
        let scene = Scene::new(world, "last")?;
        let pods = [scene.pod("app", PLAIN)?, scene.pod("near", GATEWAYS[0])?];
        scene.policy_for_all(json!({}))?;
        pods.iter().try_for_each(|pod| world.until_seen_as(&pod.netns, scene.eip(0)))?;
    }
    world.until("the last gateway is gone", || {
        let gateways = world.list("EgressGateway", None)?;
        ensure!(gateways.is_empty(), "{} are there", gateways.len());
        Ok(())
    })?;
    until_none(world, "EIPs and policies", of_eips)?;

    // While an agent runs, nothing can be taken from it.
    let refused = cleanup(world, PLAIN);
    if crate::drift::table(&mut world.kernel(PLAIN)?)?.owned {
        let told = format!("{:#}", refused.err().context("the kernel is cleaned under an agent")?);
        ensure!(told.contains("an agent runs on this node"), "{told}");
    } else {
        println!("  SKIP: whether an agent is noticed: this kernel knows no owners of tables");
    }
    let sets = world.built_in::<DaemonSet>(SYSTEM);
    let mut set = world.answered(sets.get(DAEMON_SET))?;
    world.answered(sets.delete(DAEMON_SET, &DeleteParams::default()))?;
    world.until("no agent is left", || {
        let agents = world.pods(SYSTEM, AGENT)?.len();
        ensure!(agents == 0, "{agents} are left");
        Ok(())
    })?;
    let cleaned = NODES.iter().try_for_each(|node| {
        ensure!(!left(&mut world.kernel(node)?)?.is_empty(), "{node}: an agent's end changes the kernel");
        let told = cleanup(world, node)?;
        ensure!(told.starts_with("removed: device egress.vxlan; tables "), "{node}: {told}");
        let again = cleanup(world, node)?;
        ensure!(again == "there was nothing to remove", "{node}: {again}");
        Ok(())
    });
    let cleaned = cleaned.and_then(|()| until_none(world, "parts of ours", left));

    // Whoever installs it again starts anew.
    set.metadata.resource_version = None;
    set.metadata.uid = None;
    set.metadata.managed_fields = None;
    set.status = None;
    world.answered(sets.create(&PostParams::default(), &set))?;
    cleaned?;
    let scene = Scene::new(world, "after-the-last")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)
}
