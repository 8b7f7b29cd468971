//! EgressPortLease: the port blocks that a node holds. The first one of a node has its name.

use kube_core::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::{Column, custom_resource};
use crate::schema;

/// The port blocks that a node holds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EgressPortLease {
    /// Standard metadata; the name is the node's, or begins with it.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the controller has leased to the node.
    #[serde(default)]
    pub spec: EgressPortLeaseSpec,
    /// What the node's agent has loaded.
    #[serde(default)]
    pub status: Option<EgressPortLeaseStatus>,
}

custom_resource!(
    EgressPortLease, ClusterResourceScope,
    "The blocks of EIPs' ports that a node holds: its pods leave with EIP:port of such a block. Made by the controller; one object has room for 32 EIPs, the first one has the name of the node.",
    plural: "egressportleases", singular: "egressportlease", short: "epl",
    required: &["spec"],
    columns: &[
        Column::new("node", "string", ".spec.nodeName"),
        Column::new("blocks", "integer", ".spec.blockCount"),
    ],
    always: { spec: EgressPortLeaseSpec }, optional: { status: EgressPortLeaseStatus }
);

/// What the controller has leased to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::port_lease_spec()))]
pub struct EgressPortLeaseSpec {
    /// The node. Where it is empty the object's name says it.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub node_name: String,
    /// Which of the node's objects it is: 0 for the first one.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    pub part: i64,
    /// Grows with every change of the leases.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub generation: i64,
    /// Number of blocks in all leases.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub block_count: i64,
    /// Leases by EIP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<EipLease>,
}

/// A node's blocks of one EIP.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct EipLease {
    /// The EgressGateway whose pool the EIP is of.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub gateway: String,
    /// IPv4 address of the EIP.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 15))]
    pub ipv4: String,
    /// IPv6 address of the EIP; a pair has the same blocks in both families.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 45))]
    pub ipv6: String,
    /// The blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<LeasedBlock>,
}

/// An aligned power-of-two range of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct LeasedBlock {
    /// First port; a multiple of the size.
    #[schemars(range(min = 1024, max = 65535))]
    pub first: i64,
    /// Number of ports, a power of two from 64 to 32768.
    #[schemars(range(min = 64, max = 32768))]
    pub size: i64,
    /// `Active`: for new connections. `Draining`: only those that exist go on.
    #[serde(default)]
    #[schemars(extend("enum" = ["Active", "Draining"]))]
    pub state: String,
    /// `Source`: the node's own pods leave with it. `Overflow`: the node, as a gateway, translates into it for nodes
    /// that have no block or a full one.
    #[serde(default)]
    #[schemars(extend("enum" = ["Source", "Overflow"]))]
    pub role: String,
}

/// What the node's agent has loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressPortLeaseStatus {
    /// Generation of the leases that are in the node's kernel.
    #[serde(default)]
    pub observed_generation: i64,
    /// State by EIP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eips: Vec<EipLeaseStatus>,
}

/// What a node says about its blocks of one EIP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EipLeaseStatus {
    /// IPv4 address of the EIP.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// IPv6 address of the EIP.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
    /// Generation that the EIP's gateways have confirmed to this node.
    #[serde(default)]
    pub confirmed: i64,
    /// Ports in use towards the busiest destination.
    #[serde(default)]
    pub ports_in_use: i64,
    /// First ports of draining blocks that no connection uses any more: others may have them after a rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idle: Vec<i64>,
}
