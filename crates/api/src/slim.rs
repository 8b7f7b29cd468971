//! Kubernetes' own objects with the fields that we read and no others.
//!
//! A cluster has many pods, and most of a pod's text is of no interest here: environment, volumes, managed fields. These
//! types read past it, so that a watch of all pods stays small. They are for reading only.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_core::{ObjectMeta, Resource};
use serde::{Deserialize, Deserializer};

macro_rules! slim {
    ($kind:ident, $name:literal, $group:literal, $version:literal, $plural:literal, $scope:ident) => {
        impl Resource for $kind {
            type DynamicType = ();
            type Scope = k8s_openapi::$scope;

            fn kind(_: &()) -> Cow<'_, str> {
                $name.into()
            }
            fn group(_: &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version(_: &()) -> Cow<'_, str> {
                $version.into()
            }
            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

pub(crate) use slim;

slim!(SlimPod, "Pod", "", "v1", "pods", NamespaceResourceScope);
slim!(SlimNode, "Node", "", "v1", "nodes", ClusterResourceScope);
slim!(SlimNamespace, "Namespace", "", "v1", "namespaces", ClusterResourceScope);
slim!(SlimService, "Service", "", "v1", "services", NamespaceResourceScope);
slim!(ControlPlanePod, "Pod", "", "v1", "pods", NamespaceResourceScope);
slim!(SlimServiceCidr, "ServiceCIDR", "networking.k8s.io", "v1", "servicecidrs", ClusterResourceScope);

slim!(SlimLease, "Lease", "coordination.k8s.io", "v1", "leases", NamespaceResourceScope);

/// A Lease: whose it is, and its last renewal.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct SlimLease {
    /// Name and namespace.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// What it says.
    #[serde(default)]
    pub spec: SlimLeaseSpec,
}

/// Whose a Lease is, and its last renewal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlimLeaseSpec {
    /// Who renews it.
    #[serde(default)]
    pub holder_identity: String,
    /// The time of the holder's clock at the last renewal.
    #[serde(default)]
    pub renew_time: String,
}

/// Reads name, namespace, labels and what tells versions apart; leaves out annotations and managed fields.
pub(crate) fn slim_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Slim {
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        namespace: Option<String>,
        #[serde(default)]
        labels: Option<BTreeMap<String, String>>,
        #[serde(default)]
        uid: Option<String>,
        #[serde(default)]
        resource_version: Option<String>,
        #[serde(default)]
        deletion_timestamp: Option<Time>,
        /// Bookmarks mark the end of an initial list with an annotation.
        #[serde(default)]
        annotations: Option<BTreeMap<String, String>>,
    }
    let slim = Slim::deserialize(deserializer)?;
    let annotations = slim.annotations.map(|mut annotations| {
        annotations.retain(|key, _| key == "k8s.io/initial-events-end");
        annotations
    });
    Ok(ObjectMeta {
        name: slim.name,
        namespace: slim.namespace,
        labels: slim.labels,
        uid: slim.uid,
        resource_version: slim.resource_version,
        deletion_timestamp: slim.deletion_timestamp,
        annotations: annotations.filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    })
}

/// A Pod: where it runs, with which addresses.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct SlimPod {
    /// Name, namespace and labels.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// Where it runs.
    #[serde(default)]
    pub spec: SlimPodSpec,
    /// Its addresses.
    #[serde(default)]
    pub status: SlimPodStatus,
}

/// Where a pod runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlimPodSpec {
    /// The node that it is bound to.
    #[serde(default)]
    pub node_name: String,
    /// Whether it shares its node's network.
    #[serde(default)]
    pub host_network: bool,
}

/// A pod's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SlimPodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(default)]
    pub phase: String,
    /// The first address.
    #[serde(default, rename = "podIP")]
    pub pod_ip: String,
    /// All addresses.
    #[serde(default, rename = "podIPs")]
    pub pod_ips: Vec<SlimPodIp>,
}

/// One address of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SlimPodIp {
    /// The address.
    #[serde(default)]
    pub ip: String,
}

/// A Node: its labels, addresses and whether it is ready.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct SlimNode {
    /// Name and labels.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// Pod networks.
    #[serde(default)]
    pub spec: SlimNodeSpec,
    /// Addresses and conditions.
    #[serde(default)]
    pub status: SlimNodeStatus,
}

/// A node's pod networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SlimNodeSpec {
    /// The first one.
    #[serde(default, rename = "podCIDR")]
    pub pod_cidr: String,
    /// All.
    #[serde(default, rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

/// A node's addresses and conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SlimNodeStatus {
    /// Addresses of all types.
    #[serde(default)]
    pub addresses: Vec<SlimNodeAddress>,
    /// Conditions of all types.
    #[serde(default)]
    pub conditions: Vec<SlimCondition>,
}

/// An address of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SlimNodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, ...
    #[serde(default, rename = "type")]
    pub kind: String,
    /// The address.
    #[serde(default)]
    pub address: String,
}

/// A condition without its text and times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SlimCondition {
    /// What it is about.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
}

/// A Namespace: its labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct SlimNamespace {
    /// Name and labels.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
}

/// A Service: its addresses inside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct SlimService {
    /// Name and namespace.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// Its addresses.
    #[serde(default)]
    pub spec: SlimServiceSpec,
}

/// A service's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SlimServiceSpec {
    /// All addresses; `None` is a text here for services without any.
    #[serde(default, rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// The first address.
    #[serde(default, rename = "clusterIP")]
    pub cluster_ip: String,
}

/// A range of Service addresses.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct SlimServiceCidr {
    /// Its name.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// Its networks.
    #[serde(default)]
    pub spec: SlimServiceCidrSpec,
}

/// The networks of a range of Service addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct SlimServiceCidrSpec {
    /// One per family.
    #[serde(default)]
    pub cidrs: Vec<String>,
}

/// A Pod of the control plane: what its programs were told on their command lines.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ControlPlanePod {
    /// Name, namespace and labels.
    #[serde(default, deserialize_with = "slim_metadata")]
    pub metadata: ObjectMeta,
    /// Its containers.
    #[serde(default)]
    pub spec: ControlPlanePodSpec,
}

/// The containers of a pod of the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ControlPlanePodSpec {
    /// All of them.
    #[serde(default)]
    pub containers: Vec<CommandLine>,
}

/// A container's command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct CommandLine {
    /// The program and its first arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// The other arguments.
    #[serde(default)]
    pub args: Vec<String>,
}

impl CommandLine {
    /// The value of a flag, given as `--flag=value` or as `--flag value`.
    pub fn flag(&self, name: &str) -> Option<&str> {
        let mut words = self.command.iter().chain(&self.args);
        while let Some(word) = words.next() {
            let Some(rest) = word.strip_prefix("--").and_then(|word| word.strip_prefix(name)) else {
                continue;
            };
            if rest.is_empty() {
                return words.next().map(String::as_str);
            }
            if let Some(value) = rest.strip_prefix('=') {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_read_without_what_we_do_not_need() {
        let pod: SlimPod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "b", "labels": {"app": "x"}, "resourceVersion": "7",
                         "annotations": {"long": "text"}, "managedFields": [{"manager": "m"}]},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "env": []}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}
        }))
        .unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("a"));
        assert_eq!(pod.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!((&pod.metadata.annotations, &pod.metadata.managed_fields), (&None, &None));
        assert_eq!(pod.spec.node_name, "n");
        assert_eq!(pod.status.pod_ips[0].ip, "10.0.0.1");
    }

    #[test]
    fn both_spellings_of_a_flag_are_read() {
        let line = |words: &[&str]| CommandLine {
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            args: vec![],
        };
        let flag = "service-cluster-ip-range";
        assert_eq!(
            line(&["kcm", "--service-cluster-ip-range=10.96.0.0/12"]).flag(flag),
            Some("10.96.0.0/12")
        );
        assert_eq!(
            line(&["kcm", "--service-cluster-ip-range", "10.96.0.0/12"]).flag(flag),
            Some("10.96.0.0/12")
        );
        assert_eq!(line(&["kcm", "--service-cluster-ip-ranges=x"]).flag(flag), None);
        assert_eq!(line(&["kcm", "--service-cluster-ip-range"]).flag(flag), None);
    }
}
