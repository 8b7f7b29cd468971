//! Which networks are the cluster's own.
//!
//! The range of Service addresses has several sources, asked in this order: ServiceCIDR objects, the command lines of
//! the control plane, and where neither is to be seen (managed clusters) the addresses of the Services that exist, one by
//! one.

use std::collections::BTreeSet;

use ipnet::IpNet;
use model::cluster::{ClusterNetworks, PodCidrMode};

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
    // Calico's pools are not read yet, so `auto` finds none and takes the nodes' own networks.
    if matches!(wanted.pod_cidr_mode, PodCidrMode::Kubernetes | PodCidrMode::Auto) {
        networks.pod_cidr_mode = PodCidrMode::Kubernetes;
        let nodes = snapshot.nodes.iter().filter(|(_, node)| !node.pod_cidrs.is_empty());
        networks.pods = nodes.map(|(name, node)| (name.clone(), node.pod_cidrs.clone())).collect();
    }
    Some(networks)
}

fn service_ranges(snapshot: &ClusterSnapshot) -> BTreeSet<IpNet> {
    let named: BTreeSet<IpNet> = snapshot.service_cidrs.values().flatten().copied().collect();
    if !named.is_empty() {
        return named;
    }
    let started_with: BTreeSet<IpNet> = snapshot.control_plane_ranges.values().flatten().copied().collect();
    if !started_with.is_empty() {
        return started_with;
    }
    snapshot.services.values().flatten().copied().map(IpNet::from).collect()
}
