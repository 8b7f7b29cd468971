//! What we need to know of a cluster's own objects.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::selector::Labels;

/// A node, as far as egress is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// Its addresses of type InternalIP.
    pub addresses: BTreeSet<IpAddr>,
    /// The networks of its pods, where Kubernetes itself shares those out.
    pub pod_cidrs: BTreeSet<IpNet>,
}

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Namespace
    pub namespace: String,
    /// Name
    pub name: String,
}

/// `namespace/name`.
impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod, as far as egress is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its labels.
    pub labels: Labels,
    /// The node that it is bound to; empty before that.
    pub node: String,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether it shares its node's network: its packets are the node's own, no policy is for them.
    pub host_network: bool,
    /// Whether it has succeeded or failed: its address may already be another pod's.
    pub finished: bool,
}

impl Pod {
    /// Whether it has packets of its own that a policy can be for.
    #[must_use]
    pub fn is_endpoint(&self) -> bool {
        !self.host_network && !self.finished && !self.addresses.is_empty()
    }
}

/// Where pod networks are read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodCidrMode {
    /// Nowhere
    Off,
    /// The nodes' own podCIDRs
    Kubernetes,
    /// Calico's IP pools
    Calico,
    /// What Cilium gives its nodes
    Cilium,
    /// Calico or Cilium where it is there, else the nodes' podCIDRs; Spiderpool's pools beside
    #[default]
    Auto,
}

/// An object of a network plug-in that names networks of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PoolKind {
    /// Calico's IPPool
    CalicoPool,
    /// Cilium's CiliumNode
    CiliumNode,
    /// Cilium's CiliumPodIPPool
    CiliumPool,
    /// Spiderpool's SpiderIPPool
    SpiderPool,
    /// Spiderpool's SpiderCoordinator
    SpiderCoordinator,
}

/// Ranges that a program of the control plane was told on its command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlPlaneRanges {
    /// Of Services
    pub services: BTreeSet<IpNet>,
    /// Of pods
    pub pods: BTreeSet<IpNet>,
}

/// What EgressClusterInfo asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Where pod networks are read from.
    pub pod_cidr_mode: PodCidrMode,
    /// Whether to find the range of Service addresses.
    pub detect_services: bool,
    /// Whether to collect the nodes' addresses.
    pub detect_nodes: bool,
    /// More networks of the cluster, as written.
    pub extra: Vec<String>,
}

/// Networks that belong to the cluster itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterNetworks {
    /// The source of `pods` that is in use.
    pub pod_cidr_mode: PodCidrMode,
    /// Addresses of nodes, by node.
    pub nodes: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Ranges of Service addresses; `None` while detection is off or has found nothing.
    pub services: Option<BTreeSet<IpNet>>,
    /// Pod networks, by node or by Calico's pool.
    pub pods: BTreeMap<String, BTreeSet<IpNet>>,
    /// What the user adds, as written.
    pub extra: Vec<String>,
}
