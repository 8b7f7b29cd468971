//! EgressGateway: which nodes are gateways, and which addresses they may use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube_core::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Eip;
use crate::resource::{Column, custom_resource};
use crate::schema;

/// A group of gateway nodes and the pool of egress IPs that live on them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EgressGateway {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the user wants.
    #[serde(default)]
    pub spec: EgressGatewaySpec,
    /// What the controller found and decided.
    #[serde(default)]
    pub status: Option<EgressGatewayStatus>,
}

custom_resource!(
    EgressGateway, ClusterResourceScope,
    "A group of gateway nodes, and the pool of egress IPs (EIPs) that live on them.",
    plural: "egressgateways", singular: "egressgateway", short: "egw",
    required: &["spec"],
    columns: &[
        Column::new("ipv4DefaultEIP", "string", ".spec.ippools.ipv4DefaultEIP"),
        Column::new("ipv6DefaultEIP", "string", ".spec.ippools.ipv6DefaultEIP"),
        Column::new("clusterDefault", "boolean", ".spec.clusterDefault"),
        Column::new("ipv4Total", "integer", ".status.ipUsage.ipv4Total"),
        Column::new("ipv4Free", "integer", ".status.ipUsage.ipv4Free"),
        Column::new("ipv6Total", "integer", ".status.ipUsage.ipv6Total"),
        Column::new("ipv6Free", "integer", ".status.ipUsage.ipv6Free"),
        Column::new("ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
        Column::new("reason", "string", ".status.conditions[?(@.type==\"Ready\")].reason"),
    ],
    always: { spec: EgressGatewaySpec }, optional: { status: EgressGatewayStatus }
);

/// Wanted state of an EgressGateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressGatewaySpec {
    /// Whether policies that name no gateway, in namespaces that name none either, use this one. At most one gateway
    /// of a cluster should say so; of several the oldest counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cluster_default: bool,
    /// The addresses that this gateway's policies may leave with. Empty pools are right only for policies with
    /// `useNodeIP`.
    #[serde(default)]
    pub ippools: IpPools,
    /// The nodes of this gateway. EIPs live on one of them and move to another when it fails.
    #[serde(default)]
    #[schemars(extend("x-required" = true))]
    pub node_selector: Option<NodeSelector>,
}

/// The pools of an EgressGateway. Where both families have one, they are of the same size, and addresses are used in
/// pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::ip_pools()))]
pub struct IpPools {
    /// IPv4 pool: each entry is an address (`10.6.1.55`), an inclusive range (`10.6.1.60-10.6.1.65`) or a CIDR
    /// (`10.6.1.64/28`, of which the network and broadcast addresses are left out). No address may be in another
    /// gateway's pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096), inner(length(min = 1, max = 64), regex(pattern = schema::IPV4_POOL_ENTRY)))]
    pub ipv4: Vec<String>,
    /// IPv6 pool: each entry is an address, an inclusive range or a CIDR.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096), inner(length(min = 1, max = 96), regex(pattern = schema::IPV6_POOL_ENTRY)))]
    pub ipv6: Vec<String>,
    /// The IPv4 EIP of policies that ask for none; one of the pool. Filled in with the lowest address of the pool
    /// when empty.
    #[serde(default, rename = "ipv4DefaultEIP", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 15), regex(pattern = schema::OPTIONAL_IPV4))]
    pub ipv4_default_eip: String,
    /// The IPv6 EIP of policies that ask for none; one of the pool. Filled in with the lowest address of the pool
    /// when empty.
    #[serde(default, rename = "ipv6DefaultEIP", skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 45), regex(pattern = schema::OPTIONAL_IPV6))]
    pub ipv6_default_eip: String,
}

/// Which nodes belong to an EgressGateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeSelector {
    /// Labels that a node must have; at least one of matchLabels and matchExpressions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-required" = true, "minProperties" = 1, "x-kubernetes-validations" = schema::selector()))]
    pub selector: Option<LabelSelector>,
    /// Accepted and not read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub policy: String,
}

/// State of an EgressGateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressGatewayStatus {
    /// The nodes that match, by name, and the EIPs that each carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_list: Vec<GatewayNode>,
    /// EIPs that policies keep while no node is Ready to carry them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unplaced: Vec<GatewayEip>,
    /// How much of the pools is in use.
    #[serde(default)]
    pub ip_usage: IpUsage,
    /// `Ready` says whether this gateway can carry traffic, and if not, why and what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A node of an EgressGateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct GatewayNode {
    /// Name of the node.
    #[serde(default)]
    pub name: String,
    /// Phase of the node's EgressTunnel; only `Ready` nodes are given EIPs.
    #[serde(default)]
    #[schemars(extend("enum" = ["", "Pending", "Init", "Failed", "Ready", "HeartbeatTimeout", "NodeNotReady"]))]
    pub status: String,
    /// The EIPs that this node carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eips: Vec<GatewayEip>,
}

/// An EIP on a node; without any address it is the group of policies that use the node's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct GatewayEip {
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
    /// The policies that leave with this EIP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyRef>,
}

impl GatewayEip {
    /// The addresses without the policies.
    pub fn eip(&self) -> Eip {
        Eip { ipv4: self.ipv4.clone(), ipv6: self.ipv6.clone() }
    }
}

/// Names an EgressPolicy, or without a namespace an EgressClusterPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct PolicyRef {
    /// Name of the policy.
    #[serde(default)]
    pub name: String,
    /// Its namespace; empty for an EgressClusterPolicy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// Sizes of the pools; values beyond a 64 bit integer are shown as the largest one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpUsage {
    /// IPv4 addresses in the pool.
    #[serde(default)]
    pub ipv4_total: i64,
    /// IPv4 addresses that no policy holds.
    #[serde(default)]
    pub ipv4_free: i64,
    /// IPv6 addresses in the pool.
    #[serde(default)]
    pub ipv6_total: i64,
    /// IPv6 addresses that no policy holds.
    #[serde(default)]
    pub ipv6_free: i64,
}
