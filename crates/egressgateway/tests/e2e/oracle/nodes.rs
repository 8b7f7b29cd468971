//! The cluster's nodes as the oracle sees them: what the agents compile, from the same objects and the same kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use agent::converge::{self, Converger, Surroundings};
use agent::linux;
use agent::port_use::UsedPort;
use agent::snapshot::Snapshot;
use anyhow::{Context, Result, ensure};
use datapath::state::{ROUTE_PROTOCOL, Route, RouteTarget};
use datapath::trace::{Host, Network};
use datapath::transaction::{Found, Interest, Transaction};
use datapath::view::{NodeView, Settings};
use kernel::Kernel;
use kernel::route::{RouteKind, TABLE_MAIN};
use model::mark::EgressId;

use crate::world::{NODES, World};

const UPLINK: &str = "eth0";
/// Networks of pods, Services and nodes: what the lab's CNI doesn't masquerade towards, and its own pods among them.
const NOT_MASQUERADED: [&str; 8] = [
    "10.244.0.0/16",
    "10.96.0.0/12",
    "10.6.0.11/32",
    "10.6.0.12/32",
    "10.6.0.13/32",
    "fd10:244::/32",
    "fd96::/108",
    "fd06::/123",
];

/// A node's kernel that is looked at only.
struct ReadOnly {
    kernel: Kernel,
    /// What a pass would have changed.
    refused: Vec<String>,
}

impl converge::Kernel for ReadOnly {
    type Error = linux::LinuxError;

    fn surroundings(&mut self) -> Result<Surroundings, Self::Error> {
        linux::surroundings(&mut self.kernel.route, &linux::UplinkChoice::DefaultRoute)
    }

    fn generation(&mut self) -> Result<u32, Self::Error> {
        Ok(self.kernel.nft.generation()?)
    }

    fn read(&mut self, interest: &Interest) -> Result<Found, Self::Error> {
        Ok(self.kernel.read(interest)?)
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), Self::Error> {
        self.refused
            .extend(transaction.before.iter().chain(&transaction.after).map(|change| format!("{change:?}")));
        self.refused.extend(transaction.nft.iter().map(ToString::to_string));
        Ok(())
    }

    fn held_ids(&mut self) -> Result<BTreeSet<EgressId>, Self::Error> {
        Ok(BTreeSet::new())
    }

    fn used_ports(&mut self) -> Result<BTreeSet<UsedPort>, Self::Error> {
        Ok(BTreeSet::new())
    }

    fn admit(&mut self, _: &str) -> Result<Vec<String>, Self::Error> {
        Ok(Vec::new())
    }

    fn end_flows(&mut self, _: IpAddr) -> Result<usize, Self::Error> {
        Ok(0)
    }

    fn end_other_flows(&mut self, _: IpAddr, _: &dyn Fn(IpAddr) -> bool) -> Result<usize, Self::Error> {
        Ok(0)
    }
}

/// All nodes, and what their agents know; an error while an agent's kernel differs from what is compiled here.
pub(super) fn cluster(world: &World) -> Result<(Network, BTreeMap<String, NodeView>)> {
    let mut network = Network { uplink: UPLINK.to_owned(), ..Network::default() };
    let mut views = BTreeMap::new();
    for node in NODES {
        let (host, view) = node_of(world, node).with_context(|| format!("node {node}"))?;
        network.hosts.insert(node.to_owned(), host);
        views.insert(node.to_owned(), view);
    }
    Ok((network, views))
}

/// Where the agent of a node keeps the objects that it knows.
fn kept_objects(world: &World, node: &str) -> Result<PathBuf> {
    world.inside(&format!("nodes/{node}/var/run/egressgateway"))
}

fn node_of(world: &World, node: &str) -> Result<(Host, NodeView)> {
    let kernel = ReadOnly { kernel: world.kernel(node)?, refused: Vec::new() };
    let settings = Settings { ipv6: true, ..Settings::default() };
    let mut converger = Converger::new(node, settings, kernel);
    converger.absorb_old(Snapshot::load(&kept_objects(world, node)?)?);
    ensure!(converger.objects().in_sync(), "its agent has not kept all objects yet");
    converger.pass(Instant::now())?;
    let refused = std::mem::take(&mut converger.kernel().refused);
    ensure!(refused.is_empty(), "its kernel does not hold what is compiled: {refused:?}");
    let state = converger.wanted().context("nothing was compiled")?.clone();
    let view = converger.view().context("nothing is known")?.clone();
    let route = &mut converger.kernel().kernel.route;
    let links: BTreeMap<u32, String> =
        route.links()?.into_iter().map(|link| (link.index, link.name)).collect();
    let addresses = route.addresses()?.into_iter().map(|address| address.address.addr());
    let routes = route.routes()?.into_iter().filter(|route| {
        route.table == TABLE_MAIN && route.kind == RouteKind::Unicast && route.protocol != ROUTE_PROTOCOL
    });
    let routes = routes.filter_map(|route| {
        let target = RouteTarget::Device { device: links.get(&route.device?)?.clone(), via: route.gateway };
        Some(Route { table: route.table, destination: route.destination, target, metric: route.metric })
    });
    let host = Host {
        routes: routes.collect(),
        addresses: addresses.filter(|address| !address.is_loopback()).collect(),
        devices: links.iter().map(|(index, name)| (name.clone(), *index)).collect(),
        mtu: 1500,
        masquerade: NOT_MASQUERADED.iter().filter_map(|net| net.parse().ok()).collect(),
        state,
        ..Host::default()
    };
    Ok((host, view))
}
