//! EgressClusterInfo: which networks are the cluster's own.

use std::collections::BTreeMap;

use kube_core::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::IpLists;
use crate::resource::custom_resource;
use crate::schema;

/// The cluster's own networks; only the object `default` is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EgressClusterInfo {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What to find out, and what to add.
    #[serde(default)]
    pub spec: EgressClusterInfoSpec,
    /// What was found.
    #[serde(default)]
    pub status: Option<EgressClusterInfoStatus>,
}

custom_resource!(
    EgressClusterInfo, ClusterResourceScope,
    "The networks that are the cluster's own: policies without destSubnet are for everything else. Only `default` is read.",
    plural: "egressclusterinfos", singular: "egressclusterinfo", short: "egci",
    required: &[], columns: &[], rules: schema::CLUSTER_INFO,
    always: { spec: EgressClusterInfoSpec }, optional: { status: EgressClusterInfoStatus }
);

/// What to find out, and what to add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressClusterInfoSpec {
    /// What the controller finds out by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_detect: Option<AutoDetect>,
    /// More networks that count as the cluster's own: CIDRs or addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 64), regex(pattern = schema::CIDR_OR_ADDRESS)))]
    pub extra_cidr: Vec<String>,
}

/// What the controller finds out by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoDetect {
    /// Where pod networks are read from: `k8s` (the nodes' podCIDRs), `calico` (its IP pools), `auto` (Calico if it is
    /// there, else k8s), or nowhere if empty.
    #[serde(default = "auto")]
    #[schemars(extend("enum" = ["", "k8s", "calico", "auto"], "x-default" = "auto"))]
    pub pod_cidr_mode: String,
    /// Whether to find the range of Service addresses.
    #[serde(default = "yes", rename = "clusterIP")]
    #[schemars(extend("x-default" = true))]
    pub cluster_ip: bool,
    /// Whether to take the nodes' own addresses.
    #[serde(default = "yes", rename = "nodeIP")]
    #[schemars(extend("x-default" = true))]
    pub node_ip: bool,
}

impl Default for AutoDetect {
    fn default() -> Self {
        Self { pod_cidr_mode: auto(), cluster_ip: true, node_ip: true }
    }
}

fn auto() -> String {
    "auto".to_owned()
}

fn yes() -> bool {
    true
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressClusterInfoStatus {
    /// The source of pod networks that is in use: `k8s` or `calico`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_cidr_mode: String,
    /// Addresses of nodes, by node.
    #[serde(default, rename = "nodeIP", skip_serializing_if = "BTreeMap::is_empty")]
    pub node_ip: BTreeMap<String, IpLists>,
    /// Ranges of Service addresses.
    #[serde(default, rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<IpLists>,
    /// Pod networks, by the Calico pool or the node that they come from.
    #[serde(default, rename = "podCIDR", skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_cidr: BTreeMap<String, IpLists>,
    /// The networks that the spec adds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_cidr: Vec<String>,
}
