//! EgressEndpointSlice and EgressClusterEndpointSlice: the pods of a policy, for people to read.

use kube_core::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::custom_resource;

/// Pods of an EgressPolicy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EgressEndpointSlice {
    /// Standard metadata; the label `spidernet.io/policy-name` names the policy.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The pods.
    #[serde(default)]
    pub endpoints: Vec<EgressEndpoint>,
}

custom_resource!(
    EgressEndpointSlice, NamespaceResourceScope,
    "Pods that an EgressPolicy of the same namespace is for; kept by the controller.",
    plural: "egressendpointslices", singular: "egressendpointslice", short: "egep",
    required: &[], columns: &[],
    always: {}, optional: { endpoints: Endpoints }
);

/// Pods of an EgressClusterPolicy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct EgressClusterEndpointSlice {
    /// Standard metadata; the label `spidernet.io/policy-name` names the policy.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The pods.
    #[serde(default)]
    pub endpoints: Vec<EgressEndpoint>,
}

custom_resource!(
    EgressClusterEndpointSlice, ClusterResourceScope,
    "Pods that an EgressClusterPolicy is for; kept by the controller.",
    plural: "egressclusterendpointslices", singular: "egressclusterendpointslice", short: "egcep",
    required: &[], columns: &[],
    always: {}, optional: { endpoints: Endpoints }
);

/// The pods that the policy is for, as far as this slice holds them.
#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "describes the field's schema")]
struct Endpoints(Vec<EgressEndpoint>);

/// A pod with its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct EgressEndpoint {
    /// Namespace of the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ns: String,
    /// Name of the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Its IPv4 addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipv4: Vec<String>,
    /// Its IPv6 addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipv6: Vec<String>,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
}
