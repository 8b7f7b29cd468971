//! Objects of network plug-ins that name networks of pods, with the fields that we read. They are for reading only.

use std::borrow::Cow;

use kube_core::{ObjectMeta, Resource};
use serde::Deserialize;

use crate::slim::{slim, slim_metadata};

slim!(CalicoPool, "IPPool", "crd.projectcalico.org", "v1", "ippools", ClusterResourceScope);
slim!(CiliumNode, "CiliumNode", "cilium.io", "v2", "ciliumnodes", ClusterResourceScope);
slim!(CiliumPool, "CiliumPodIPPool", "cilium.io", "v2alpha1", "ciliumpodippools", ClusterResourceScope);
slim!(
    SpiderPool,
    "SpiderIPPool",
    "spiderpool.spidernet.io",
    "v2beta1",
    "spiderippools",
    ClusterResourceScope
);
slim!(
    SpiderCoordinator,
    "SpiderCoordinator",
    "spiderpool.spidernet.io",
    "v2beta1",
    "spidercoordinators",
    ClusterResourceScope
);

macro_rules! plugin_object {
    ($(#[$doc:meta])* $kind:ident, $part:ident: $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        pub struct $kind {
            /// Its name.
            #[serde(default, deserialize_with = "slim_metadata")]
            pub metadata: ObjectMeta,
            /// What it says.
            #[serde(default)]
            pub $part: $type,
        }
    };
}

plugin_object!(
    /// Calico's IPPool.
    CalicoPool, spec: CalicoPoolSpec
);
plugin_object!(
    /// Cilium's view of a node.
    CiliumNode, spec: CiliumNodeSpec
);
plugin_object!(
    /// A pool of Cilium's multi-pool mode.
    CiliumPool, spec: CiliumPoolSpec
);
plugin_object!(
    /// A pool of Spiderpool.
    SpiderPool, spec: SpiderPoolSpec
);
plugin_object!(
    /// What Spiderpool knows of the cluster.
    SpiderCoordinator, status: SpiderCoordinatorStatus
);

/// A Calico pool's network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct CalicoPoolSpec {
    /// The network.
    #[serde(default)]
    pub cidr: String,
    /// Whether no new pod gets an address of it.
    #[serde(default)]
    pub disabled: bool,
}

/// What Cilium gave a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct CiliumNodeSpec {
    /// Its addresses.
    #[serde(default)]
    pub ipam: CiliumIpam,
}

/// Addresses that Cilium gave a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct CiliumIpam {
    /// Networks of the modes `cluster-pool` and `kubernetes`.
    #[serde(default, rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// Networks of the mode `multi-pool`.
    #[serde(default)]
    pub pools: CiliumPools,
}

/// What a node has of the pools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct CiliumPools {
    /// Pool by pool.
    #[serde(default)]
    pub allocated: Vec<CiliumAllocation>,
}

/// What a node has of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct CiliumAllocation {
    /// The networks.
    #[serde(default)]
    pub cidrs: Vec<String>,
}

/// The networks of a Cilium pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct CiliumPoolSpec {
    /// IPv4 networks.
    #[serde(default)]
    pub ipv4: CiliumAllocation,
    /// IPv6 networks.
    #[serde(default)]
    pub ipv6: CiliumAllocation,
}

/// The addresses of a Spiderpool pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpiderPoolSpec {
    /// Addresses and ranges that pods get.
    #[serde(default)]
    pub ips: Vec<String>,
    /// Those of them that they don't get.
    #[serde(default, rename = "excludeIPs")]
    pub exclude_ips: Vec<String>,
    /// Whether no pod gets an address of it.
    #[serde(default)]
    pub disable: bool,
}

/// What Spiderpool found out about the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SpiderCoordinatorStatus {
    /// `Synced` or `NotReady`.
    #[serde(default)]
    pub phase: String,
    /// Networks of pods.
    #[serde(default, rename = "overlayPodCIDR")]
    pub overlay_pod_cidr: Vec<String>,
    /// Ranges of Services.
    #[serde(default, rename = "serviceCIDR")]
    pub service_cidr: Vec<String>,
}
