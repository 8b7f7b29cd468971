//! Kubernetes' own objects, and EgressClusterInfo.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use model::cluster::{ClusterInfo, ControlPlaneRanges, Node, Pod, PodCidrMode, PodKey};
use model::pool::Family;
use model::{IpPool, Reason};

use super::{Problems, network, networks_or_addresses};
use crate::plugins::{CalicoPool, CiliumNode, CiliumPool, SpiderCoordinator, SpiderPool};
use crate::slim::{ControlPlanePod, SlimNode, SlimPod, SlimService, SlimServiceCidr};
use crate::v1beta1::{EgressClusterInfo, IpLists};

/// A node, as far as egress is concerned.
pub fn node(object: &SlimNode) -> Node {
    let status = &object.status;
    let addresses = status.addresses.iter().filter(|address| address.kind == "InternalIP");
    let cidrs = std::iter::once(&object.spec.pod_cidr).chain(&object.spec.pod_cidrs);
    Node {
        labels: object.metadata.labels.clone().unwrap_or_default(),
        ready: status
            .conditions
            .iter()
            .any(|condition| condition.kind == "Ready" && condition.status == "True"),
        addresses: addresses.filter_map(|address| address.address.parse().ok()).collect(),
        pod_cidrs: cidrs.filter_map(|cidr| network(cidr)).collect(),
    }
}

/// Namespace and name of a pod.
pub fn pod_key(object: &SlimPod) -> PodKey {
    PodKey {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
    }
}

/// A pod, as far as egress is concerned.
pub fn pod(object: &SlimPod) -> Pod {
    let status = &object.status;
    let addresses = status.pod_ips.iter().map(|address| &address.ip).chain([&status.pod_ip]);
    Pod {
        labels: object.metadata.labels.clone().unwrap_or_default(),
        node: object.spec.node_name.clone(),
        addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
        host_network: object.spec.host_network,
        finished: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
    }
}

/// What the object asks for. Without `autoDetect` nothing is detected, as its defaults are those of its fields.
pub fn cluster_info(object: &EgressClusterInfo) -> ClusterInfo {
    let spec = &object.spec;
    let Some(detect) = &spec.auto_detect else {
        return ClusterInfo {
            pod_cidr_mode: PodCidrMode::Off,
            extra: spec.extra_cidr.clone(),
            ..ClusterInfo::default()
        };
    };
    ClusterInfo {
        pod_cidr_mode: match detect.pod_cidr_mode.as_str() {
            "k8s" => PodCidrMode::Kubernetes,
            "calico" => PodCidrMode::Calico,
            "auto" => PodCidrMode::Auto,
            _ => PodCidrMode::Off,
        },
        detect_services: detect.cluster_ip,
        detect_nodes: detect.node_ip,
        extra: spec.extra_cidr.clone(),
    }
}

/// All that is wrong with what the object asks for.
pub fn cluster_info_problems(object: &EgressClusterInfo) -> Vec<Reason> {
    let mut problems = Problems::default();
    networks_or_addresses("spec.extraCidr", &object.spec.extra_cidr, &mut problems);
    let mode = object.spec.auto_detect.as_ref().map_or("", |detect| detect.pod_cidr_mode.as_str());
    if !matches!(mode, "" | "k8s" | "calico" | "auto") {
        let problem = "is unknown; write `auto`, `k8s`, `calico`, or nothing for none";
        problems.add(Reason::invalid_value("spec.autoDetect.podCidrMode", mode, problem));
    }
    problems.0
}

/// All networks of the cluster that the object's status and spec name, as an agent needs them. Entries that can't be read
/// are left out.
pub fn networks(object: &EgressClusterInfo) -> BTreeSet<IpNet> {
    let status = object.status.clone().unwrap_or_default();
    let lists = status.node_ip.values().chain(&status.cluster_ip).chain(status.pod_cidr.values());
    let texts = lists.flat_map(|lists: &IpLists| lists.ipv4.iter().chain(&lists.ipv6));
    texts.chain(&status.extra_cidr).chain(&object.spec.extra_cidr).filter_map(|text| network(text)).collect()
}

/// Ranges of Service addresses that a ServiceCIDR names.
pub fn service_ranges(object: &SlimServiceCidr) -> BTreeSet<IpNet> {
    object.spec.cidrs.iter().filter_map(|cidr| network(cidr)).collect()
}

/// Addresses of a Service, none for a headless one.
pub fn service_addresses(object: &SlimService) -> BTreeSet<IpAddr> {
    let spec = &object.spec;
    std::iter::once(&spec.cluster_ip)
        .chain(&spec.cluster_ips)
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// Ranges that a program of the control plane was told on its command line.
pub fn control_plane_ranges(object: &ControlPlanePod) -> ControlPlaneRanges {
    let named = |flag: &str| {
        let flags = object.spec.containers.iter().filter_map(|line| line.flag(flag));
        flags.flat_map(|value| value.split(',')).filter_map(network).collect()
    };
    ControlPlaneRanges { services: named("service-cluster-ip-range"), pods: named("cluster-cidr") }
}

/// The network of a Calico pool, none of one that is disabled.
pub fn calico_pool(object: &CalicoPool) -> BTreeSet<IpNet> {
    network(&object.spec.cidr).filter(|_| !object.spec.disabled).into_iter().collect()
}

/// The networks that Cilium has given a node.
pub fn cilium_node(object: &CiliumNode) -> BTreeSet<IpNet> {
    let ipam = &object.spec.ipam;
    let pools = ipam.pools.allocated.iter().flat_map(|pool| &pool.cidrs);
    ipam.pod_cidrs.iter().chain(pools).filter_map(|cidr| network(cidr)).collect()
}

/// The networks of a Cilium pool.
pub fn cilium_pool(object: &CiliumPool) -> BTreeSet<IpNet> {
    let families = [&object.spec.ipv4, &object.spec.ipv6];
    families.into_iter().flat_map(|family| &family.cidrs).filter_map(|cidr| network(cidr)).collect()
}

/// The addresses that a Spiderpool pool gives to pods, none of one that is disabled. Its subnet is not the pods' alone:
/// the same LAN has servers, gateways and EIPs.
pub fn spider_pool(object: &SpiderPool) -> BTreeSet<IpNet> {
    let spec = &object.spec;
    if spec.disable {
        return BTreeSet::new();
    }
    let of = |family: Family| {
        let readable = |entries: &[String]| {
            let pools = entries.iter().filter_map(|entry| IpPool::parse(family, &[entry]).ok());
            IpPool::union(family, pools.collect::<Vec<_>>().iter())
        };
        readable(&spec.ips).without(&readable(&spec.exclude_ips)).networks()
    };
    of(Family::V4).into_iter().chain(of(Family::V6)).collect()
}

/// The networks that Spiderpool has found to be the cluster's; `None` while it is not sure.
pub fn spider_coordinator(object: &SpiderCoordinator) -> Option<BTreeSet<IpNet>> {
    let status = &object.status;
    let cidrs = status.overlay_pod_cidr.iter().chain(&status.service_cidr);
    (status.phase == "Synced").then(|| cidrs.filter_map(|cidr| network(cidr)).collect())
}
