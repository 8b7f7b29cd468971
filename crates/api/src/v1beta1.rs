//! Version `v1beta1`, the only one: one module per kind, field names and columns as users know them.

mod cluster_info;
mod endpoint_slice;
mod gateway;
mod policy;
mod port_lease;
mod tunnel;

pub use cluster_info::*;
pub use endpoint_slice::*;
pub use gateway::*;
pub use policy::*;
pub use port_lease::*;
pub use tunnel::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::CustomResource;

/// The manifests of all our kinds, by name.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        EgressClusterEndpointSlice::crd(),
        EgressClusterInfo::crd(),
        EgressClusterPolicy::crd(),
        EgressEndpointSlice::crd(),
        EgressGateway::crd(),
        EgressPolicy::crd(),
        EgressPortLease::crd(),
        EgressTunnel::crd(),
    ]
}

/// The condition of that type, if it has been reported.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// An address that a policy's pods leave with, per family; an empty text is no address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Eip {
    /// IPv4 address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    /// IPv6 address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
}

/// Addresses or networks, apart by family.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct IpLists {
    /// Those of IPv4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipv4: Vec<String>,
    /// Those of IPv6.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipv6: Vec<String>,
}

#[cfg(test)]
mod tests;
