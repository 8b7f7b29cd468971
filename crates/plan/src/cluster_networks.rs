//! Which networks are the cluster's own.
//!
//! The range of Service addresses has several sources, asked in this order: ServiceCIDR objects, the command lines of
//! the control plane, and where neither is to be seen (managed clusters) the addresses of the Services that exist, one by
//! one. Networks of pods are those of the network plug-in that is seen at work; where there is no object of one, as with
//! Flannel, those that Kubernetes gives its nodes.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use model::cluster::{ClusterNetworks, PodCidrMode, PoolKind};

use crate::snapshot::ClusterSnapshot;

/// What EgressClusterInfo `default` is to say; `None` while there is no such object.
#[must_use]
pub fn plan(snapshot: &ClusterSnapshot) -> Option<ClusterNetworks> {
    let wanted = &snapshot.cluster_info.as_ref()?.spec;
    let mut networks = ClusterNetworks {
        pod_cidr_mode: PodCidrMode::Off,
        extra: wanted.extra.clone(),
        ..ClusterNetworks::default()
    };
    if wanted.detect_nodes {
        let nodes = snapshot.nodes.iter().filter(|(_, node)| !node.addresses.is_empty());
        networks.nodes = nodes.map(|(name, node)| (name.clone(), node.addresses.clone())).collect();
    }
    if wanted.detect_services {
        networks.services = Some(service_ranges(snapshot)).filter(|ranges| !ranges.is_empty());
    }
    networks.pod_cidr_mode = mode(snapshot, wanted.pod_cidr_mode);
    match networks.pod_cidr_mode {
        PodCidrMode::Kubernetes => of_kubernetes(snapshot, &mut networks.pods),
        PodCidrMode::Calico => of_pools(snapshot, &[PoolKind::CalicoPool], &mut networks.pods),
        PodCidrMode::Cilium => {
            of_pools(snapshot, &[PoolKind::CiliumNode, PoolKind::CiliumPool], &mut networks.pods);
        }
        PodCidrMode::Off | PodCidrMode::Auto => {}
    }
    if wanted.pod_cidr_mode == PodCidrMode::Auto {
        // Beside whatever gives pods their first interface.
        of_pools(snapshot, &[PoolKind::SpiderPool, PoolKind::SpiderCoordinator], &mut networks.pods);
    }
    Some(networks)
}

/// The source in use: `auto` is the network plug-in that is seen at work, else Kubernetes itself (as with Flannel).
fn mode(snapshot: &ClusterSnapshot, wanted: PodCidrMode) -> PodCidrMode {
    let has = |kinds: &[PoolKind]| {
        snapshot.pod_pools.iter().any(|((kind, _), nets)| kinds.contains(kind) && !nets.is_empty())
    };
    match wanted {
        PodCidrMode::Auto if has(&[PoolKind::CalicoPool]) => PodCidrMode::Calico,
        PodCidrMode::Auto if has(&[PoolKind::CiliumNode, PoolKind::CiliumPool]) => PodCidrMode::Cilium,
        PodCidrMode::Auto => PodCidrMode::Kubernetes,
        other => other,
    }
}

type Networks = BTreeMap<String, BTreeSet<IpNet>>;

fn of_pools(snapshot: &ClusterSnapshot, kinds: &[PoolKind], networks: &mut Networks) {
    for ((kind, name), nets) in &snapshot.pod_pools {
        if kinds.contains(kind) && !nets.is_empty() {
            networks.entry(name.clone()).or_default().extend(nets);
        }
    }
}

/// What Kubernetes gives each node; where it gives them nothing, what it was told to share out.
fn of_kubernetes(snapshot: &ClusterSnapshot, networks: &mut Networks) {
    let nodes = snapshot.nodes.iter().filter(|(_, node)| !node.pod_cidrs.is_empty());
    networks.extend(nodes.map(|(name, node)| (name.clone(), node.pod_cidrs.clone())));
    if networks.is_empty() {
        let programs = snapshot.control_plane_ranges.iter().filter(|(_, ranges)| !ranges.pods.is_empty());
        networks.extend(programs.map(|(key, ranges)| (key.name.clone(), ranges.pods.clone())));
    }
}

fn service_ranges(snapshot: &ClusterSnapshot) -> BTreeSet<IpNet> {
    let named: BTreeSet<IpNet> = snapshot.service_cidrs.values().flatten().copied().collect();
    if !named.is_empty() {
        return named;
    }
    let started_with: BTreeSet<IpNet> =
        snapshot.control_plane_ranges.values().flat_map(|ranges| &ranges.services).copied().collect();
    if !started_with.is_empty() {
        return started_with;
    }
    snapshot.services.values().flatten().copied().map(IpNet::from).collect()
}
