//! What is left of us when we go, and what others have is theirs all the time.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use datapath::state::ROUTE_PROTOCOL;
use datapath::transaction::Interest;
use ipnet::IpNet;
use k8s_openapi::api::apps::v1::DaemonSet;
use kernel::route::RouteEntry;
use kernel::sysctl;
use kube::api::DeleteParams;
use model::mark::{BASE, BASE_MASK};

use crate::Scenario;
use crate::scene::Scene;
use crate::selection::node_address;
use crate::world::{GATEWAYS, NODES, PLAIN, SYSTEM, World};

pub(crate) const SCENARIOS: &[Scenario] = &[("uninstalled_nodes_are_as_they_were", uninstalled)];

const TUNNEL: &str = "egress.vxlan";
const VNI: u32 = 100;
/// What agents change on a gateway besides devices of their own.
const CHANGED: [&str; 2] = ["ipv4/neigh/eth0/proxy_delay", "ipv6/conf/eth0/proxy_ndp"];
/// A network that somebody else has routed.
const FOREIGN: &str = "192.0.2.0/24";

/// Everything in a node's kernel that is ours, as text.
fn left(world: &World, node: &str) -> Result<Vec<String>> {
    let mut kernel = world.kernel(node)?;
    let interest = Interest {
        tables: agent::linux::tables(),
        tunnel: Some(TUNNEL.to_owned()),
        sysctls: BTreeSet::new(),
    };
    let found = kernel.read(&interest)?;
    let mut left: Vec<String> = found.tables.keys().map(|table| format!("table {}", table.name)).collect();
    left.extend(found.state.tunnel.map(|tunnel| format!("device {}", tunnel.name)));
    let rules = kernel.route.rules()?.into_iter().filter(|rule| rule.mark & BASE_MASK == BASE);
    left.extend(rules.map(|rule| format!("{rule:?}")));
    left.extend(kernel.route.routes_of(ROUTE_PROTOCOL)?.iter().map(|route| format!("{route:?}")));
    let entries = kernel.route.proxy_entries()?.into_iter().filter(|entry| entry.ours);
    left.extend(entries.map(|entry| format!("{entry:?}")));
    Ok(left)
}

/// The last of its lab: no agent is left.
fn uninstalled(world: &World) -> Result<()> {
    let scene = Scene::dual(world, "removal")?;
    let pod = scene.pod("app", PLAIN)?;
    scene.policy_in_force("app", &pod)?;
    let mut others = world.kernel(PLAIN)?;
    let uplink = others.route.index_of("eth0")?;
    let foreign: IpNet = FOREIGN.parse()?;
    let route = RouteEntry::new(foreign, Some(uplink), Some("10.6.0.1".parse()?));
    others.route.set_route(&route)?;
    for gateway in GATEWAYS {
        for path in CHANGED {
            let now = world.netns(gateway)?.run(|| sysctl::read(path))??;
            ensure!(now == if path.ends_with("ndp") { "1" } else { "0" }, "{path} is {now} on {gateway}");
        }
    }
    ensure!(left(world, PLAIN)?.len() > 3, "{:?}", left(world, PLAIN)?);

    let agents = world.built_in::<DaemonSet>(SYSTEM);
    world.answered(agents.delete("egressgateway-agent", &DeleteParams::default()))?;
    world.until("the agents have ended", || {
        let pods = world.pods(SYSTEM, "app.kubernetes.io/component=egressgateway-agent")?;
        ensure!(pods.is_empty(), "{} agents", pods.len());
        Ok(())
    })?;
    // Until then nobody notices.
    world.until_seen_as(&pod.netns, scene.eip(0))?;
    for node in NODES {
        let state = world.inside(&format!("nodes/{node}/var/run/egressgateway"))?;
        let take_off = || agent::take_off(TUNNEL, VNI, Some(&state));
        let report =
            world.until("nobody owns the tables any more", || world.netns(node)?.run(take_off)?)?;
        let left = left(world, node)?;
        ensure!(left.is_empty(), "{node} still has {left:?}");
        let again = world.netns(node)?.run(take_off)??;
        ensure!(again == agent::Removed::default(), "{node}: {again:?}");
        if GATEWAYS.contains(&node) {
            for path in CHANGED {
                let now = world.netns(node)?.run(|| sysctl::read(path))??;
                ensure!(
                    now == if path.ends_with("ndp") { "0" } else { "80" },
                    "{path} is {now} on {node}: {report:?}"
                );
            }
        }
    }
    ensure!(
        others.route.routes()?.iter().any(|route| route.destination == foreign),
        "a route of others is gone"
    );
    world.until_seen_as(&pod.netns, node_address(PLAIN)?)
}
