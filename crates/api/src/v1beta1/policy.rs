//! EgressPolicy and EgressClusterPolicy: which pods leave for which destinations with which EIP.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube_core::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::Eip;
use crate::resource::{Column, custom_resource};
use crate::schema;

/// Gives pods of its namespace an egress IP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EgressPolicy {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the user wants.
    #[serde(default)]
    pub spec: EgressPolicySpec,
    /// What the controller decided.
    #[serde(default)]
    pub status: Option<EgressPolicyStatus>,
}

custom_resource!(
    EgressPolicy, NamespaceResourceScope,
    "Lets chosen pods of its namespace leave the cluster, towards chosen destinations, with a stable egress IP (EIP).",
    plural: "egresspolicies", singular: "egresspolicy", short: "egp",
    required: &["spec"],
    columns: &[
        Column::new("gateway", "string", ".spec.egressGatewayName").described("egressGatewayName"),
        Column::new("ipv4", "string", ".status.eip.ipv4"),
        Column::new("ipv6", "string", ".status.eip.ipv6"),
        Column::new("egressNode", "string", ".status.node"),
        Column::new("ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
        Column::new("reason", "string", ".status.conditions[?(@.type==\"Ready\")].reason"),
    ],
    always: { spec: EgressPolicySpec }, optional: { status: EgressPolicyStatus }
);

/// Gives pods of any namespace an egress IP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EgressClusterPolicy {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the user wants.
    #[serde(default)]
    pub spec: EgressClusterPolicySpec,
    /// What the controller decided.
    #[serde(default)]
    pub status: Option<EgressPolicyStatus>,
}

custom_resource!(
    EgressClusterPolicy, ClusterResourceScope,
    "Lets chosen pods of any namespace leave the cluster, towards chosen destinations, with a stable egress IP (EIP).",
    plural: "egressclusterpolicies", singular: "egressclusterpolicy", short: "egcp",
    required: &["spec"],
    columns: &[
        Column::new("gateway", "string", ".spec.egressGatewayName").described("egressGatewayName"),
        Column::new("ipv4", "string", ".status.eip.ipv4"),
        Column::new("ipv6", "string", ".status.eip.ipv6"),
        Column::new("egressTunnel", "string", ".status.node"),
        Column::new("ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
        Column::new("reason", "string", ".status.conditions[?(@.type==\"Ready\")].reason"),
    ],
    always: { spec: EgressClusterPolicySpec }, optional: { status: EgressPolicyStatus }
);

/// Wanted state of an EgressPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::policy_spec()))]
pub struct EgressPolicySpec {
    /// The EgressGateway that carries the traffic. Empty: the one that the namespace's label
    /// `spidernet.io/egressgateway-default` names, else the cluster's default one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253), regex(pattern = schema::OPTIONAL_NAME))]
    pub egress_gateway_name: String,
    /// The address to leave with.
    #[serde(default, rename = "egressIP")]
    #[schemars(extend("x-default" = {"allocatorPolicy": "default", "useNodeIP": false}))]
    pub egress_ip: EgressIp,
    /// The pods that this policy is for.
    #[serde(default)]
    #[schemars(extend("x-required" = true))]
    pub applied_to: Option<AppliedTo>,
    /// Destinations, as CIDRs. Empty, `0.0.0.0/0` and `::/0`: everything outside of the cluster, as EgressClusterInfo `default`
    /// knows it.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(max = 4096), inner(length(max = 64), regex(pattern = schema::CIDR)))]
    pub dest_subnet: Vec<String>,
    /// Of policies that select the same pod and destination the one with the lowest number counts; none ranks behind
    /// every number. At equal priority the more specific destination counts, then an EgressPolicy before an
    /// EgressClusterPolicy, then the older policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub priority: Option<i64>,
}

/// Wanted state of an EgressClusterPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::policy_spec()))]
pub struct EgressClusterPolicySpec {
    /// The EgressGateway that carries the traffic. Empty: the cluster's default one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253), regex(pattern = schema::OPTIONAL_NAME))]
    pub egress_gateway_name: String,
    /// The address to leave with.
    #[serde(default, rename = "egressIP")]
    #[schemars(extend("x-default" = {"allocatorPolicy": "default", "useNodeIP": false}))]
    pub egress_ip: EgressIp,
    /// The pods that this policy is for.
    #[serde(default)]
    #[schemars(extend("x-required" = true))]
    pub applied_to: Option<ClusterAppliedTo>,
    /// Destinations, as CIDRs. Empty, `0.0.0.0/0` and `::/0`: everything outside of the cluster, as EgressClusterInfo `default`
    /// knows it.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(max = 4096), inner(length(max = 64), regex(pattern = schema::CIDR)))]
    pub dest_subnet: Vec<String>,
    /// Of policies that select the same pod and destination the one with the lowest number counts; none ranks behind
    /// every number. At equal priority the more specific destination counts, then an EgressPolicy before an
    /// EgressClusterPolicy, then the older policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub priority: Option<i64>,
}

/// Which address a policy's pods leave with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::egress_ip()))]
pub struct EgressIp {
    /// This IPv4 address of the gateway's pool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 15), regex(pattern = schema::OPTIONAL_IPV4))]
    pub ipv4: String,
    /// This IPv6 address of the gateway's pool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 45), regex(pattern = schema::OPTIONAL_IPV6))]
    pub ipv6: String,
    /// The gateway node's own address, and none of the pool. Excludes ipv4 and ipv6.
    #[serde(default, rename = "useNodeIP", skip_serializing_if = "std::ops::Not::not")]
    #[schemars(extend("x-default" = false))]
    pub use_node_ip: bool,
    /// How to choose where no address is asked for: `default` takes the gateway's default EIP, `rr` one that no other
    /// policy has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(extend("enum" = ["", "default", "rr"], "x-default" = "default"))]
    pub allocator_policy: String,
}

/// The pods of an EgressPolicy, in its own namespace: by labels or by addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::applied_to()))]
pub struct AppliedTo {
    /// Labels of the pods; must not be empty when given. Excludes podSubnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// CIDRs of the pods' addresses. Excludes podSelector.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(max = 1024), inner(length(max = 64), regex(pattern = schema::CIDR_OR_ADDRESS)))]
    pub pod_subnet: Vec<String>,
}

/// The pods of an EgressClusterPolicy: by labels or by addresses, in all namespaces or in chosen ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::applied_to()))]
pub struct ClusterAppliedTo {
    /// Labels of the pods; must not be empty when given. Excludes podSubnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// CIDRs of the pods' addresses. Excludes podSelector.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(max = 1024), inner(length(max = 64), regex(pattern = schema::CIDR_OR_ADDRESS)))]
    pub pod_subnet: Vec<String>,
    /// Labels of the pods' namespaces; absent means all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
}

/// State of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressPolicyStatus {
    /// The EIP in force; empty while there is none, and where the node's own address is used.
    #[serde(default)]
    pub eip: Eip,
    /// The gateway node that carries the traffic; empty while there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// `Ready` says whether this policy is in force, and if not, why and what to do; `Degraded` how many of its pods other
    /// policies win, and which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Clients in Go write `null` for an empty list.
fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}
