//! EgressTunnel: a node's end of the tunnel. Has the node's name.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube_core::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::{Column, custom_resource};

/// A node's end of the tunnel.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EgressTunnel {
    /// Standard metadata; the name is the node's.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Nothing.
    #[serde(default)]
    pub spec: EgressTunnelSpec,
    /// What controller and agent know of it.
    #[serde(default)]
    pub status: Option<EgressTunnelStatus>,
}

custom_resource!(
    EgressTunnel, ClusterResourceScope,
    "A node's end of the tunnel between nodes; made by the controller, named as the node.",
    plural: "egresstunnels", singular: "egresstunnel", short: "egt",
    required: &[],
    columns: &[
        Column::new("tunnelMac", "string", ".status.tunnel.mac"),
        Column::new("tunnelIPv4", "string", ".status.tunnel.ipv4"),
        Column::new("tunnelIPv6", "string", ".status.tunnel.ipv6"),
        Column::new("mark", "string", ".status.mark"),
        Column::new("phase", "string", ".status.phase"),
        Column::new("message", "string", ".status.message"),
    ],
    always: { spec: EgressTunnelSpec }, optional: { status: EgressTunnelStatus }
);

/// Wanted state of an EgressTunnel: nothing to choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EgressTunnelSpec {}

/// State of an EgressTunnel. The controller writes addresses, mark and phase; the node's agent the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressTunnelStatus {
    /// Addresses of the tunnel device.
    #[serde(default)]
    pub tunnel: Tunnel,
    /// Whether the node can carry traffic; only `Ready` nodes are given EIPs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(extend("enum" = ["Pending", "Init", "Failed", "Ready", "HeartbeatTimeout", "NodeNotReady"]))]
    pub phase: String,
    /// Why the phase is not `Ready`, and where to look.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Packet mark that stands for this node, `0x` and eight hex digits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 10), regex(pattern = "^$|^0x[0-9a-fA-F]{8}$"))]
    pub mark: String,
    /// When the agent last wrote this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<Time>,
    /// Public key (Ed25519, base64) of the probes that this node's agent signs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub probe_key: String,
    /// The EIPs that this gateway answers for now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
    /// Addresses of EIPs that somebody else on the node's link has. They are not used while it says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// `Ready` says whether the agent has programmed this node, and if not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Addresses of the tunnel device and of what is below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tunnel {
    /// IPv4 address in the tunnel's subnet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// IPv6 address in the tunnel's subnet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
    /// Ethernet address of the tunnel device, a function of the node's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// The interface that carries the tunnel's packets.
    #[serde(default)]
    pub parent: Parent,
}

/// The interface that carries the tunnel's packets, and the address that other nodes send them to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Parent {
    /// Name of the interface.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its IPv4 address, without a prefix length; empty where the tunnel runs over IPv6.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// Its IPv6 address, without a prefix length; filled only where the tunnel runs over IPv6.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
}

/// An address of an EIP that somebody else on the gateway's link has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Conflict {
    /// The address.
    #[serde(default)]
    pub address: String,
    /// Ethernet address of whoever has it.
    #[serde(default)]
    pub mac: String,
}

/// An EIP that a gateway answers for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Claim {
    /// The EIP: its IPv4 address, its IPv6 address, or both joined by `+`.
    #[serde(default)]
    pub eip: String,
    /// Grows with every take-over of this EIP; of two claims the higher one is the newer.
    #[serde(default)]
    pub epoch: i64,
}
