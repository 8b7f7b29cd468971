//! How lists and maps of built-in kinds merge.
//!
//! The Rust types carry no such facts, and kubectl needs them to compute strategic merge patches: without a merge key it
//! would replace the whole list of containers to change one image.

use serde_json::{Map, Value, json};

/// Schema, list, and the keys by which its items are told apart. The first key is the patch merge key.
const MERGED_BY_KEY: &[(&str, &str, &[&str])] = &[
    ("core.v1.PodSpec", "containers", &["name"]),
    ("core.v1.PodSpec", "initContainers", &["name"]),
    ("core.v1.PodSpec", "ephemeralContainers", &["name"]),
    ("core.v1.PodSpec", "volumes", &["name"]),
    ("core.v1.PodSpec", "imagePullSecrets", &["name"]),
    ("core.v1.PodSpec", "hostAliases", &["ip"]),
    ("core.v1.PodSpec", "resourceClaims", &["name"]),
    ("core.v1.PodSpec", "schedulingGates", &["name"]),
    ("core.v1.PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("core.v1.PodStatus", "conditions", &["type"]),
    ("core.v1.PodStatus", "podIPs", &["ip"]),
    ("core.v1.PodStatus", "hostIPs", &["ip"]),
    ("core.v1.PodStatus", "resourceClaimStatuses", &["name"]),
    ("core.v1.Container", "env", &["name"]),
    ("core.v1.Container", "ports", &["containerPort", "protocol"]),
    ("core.v1.Container", "volumeMounts", &["mountPath"]),
    ("core.v1.Container", "volumeDevices", &["devicePath"]),
    ("core.v1.EphemeralContainer", "env", &["name"]),
    ("core.v1.EphemeralContainer", "ports", &["containerPort", "protocol"]),
    ("core.v1.EphemeralContainer", "volumeMounts", &["mountPath"]),
    ("core.v1.EphemeralContainer", "volumeDevices", &["devicePath"]),
    ("core.v1.ResourceRequirements", "claims", &["name"]),
    ("core.v1.VolumeResourceRequirements", "claims", &["name"]),
    ("core.v1.ServiceAccount", "secrets", &["name"]),
    ("core.v1.ServiceSpec", "ports", &["port", "protocol"]),
    ("core.v1.ServiceStatus", "conditions", &["type"]),
    ("core.v1.NodeStatus", "addresses", &["type"]),
    ("core.v1.NodeStatus", "conditions", &["type"]),
    ("core.v1.NamespaceStatus", "conditions", &["type"]),
    ("core.v1.PersistentVolumeClaimStatus", "conditions", &["type"]),
    ("core.v1.ReplicationControllerStatus", "conditions", &["type"]),
    ("apps.v1.DeploymentStatus", "conditions", &["type"]),
    ("apps.v1.DaemonSetStatus", "conditions", &["type"]),
    ("apps.v1.ReplicaSetStatus", "conditions", &["type"]),
    ("apps.v1.StatefulSetStatus", "conditions", &["type"]),
    ("batch.v1.JobStatus", "conditions", &["type"]),
    ("policy.v1.PodDisruptionBudgetStatus", "conditions", &["type"]),
    ("meta.v1.ObjectMeta", "ownerReferences", &["uid"]),
];

/// Lists of plain values without repetition.
const SETS: &[(&str, &str)] = &[
    ("meta.v1.ObjectMeta", "finalizers"),
    ("core.v1.NodeSpec", "podCIDRs"),
    ("core.v1.NamespaceSpec", "finalizers"),
];

/// Sets that strategic merge patches replace as a whole.
const SETS_REPLACED_BY_PATCH: &[(&str, &str)] = &[("core.v1.NamespaceSpec", "finalizers")];

/// Lists and maps that are owned as a whole.
const ATOMIC_LISTS: &[(&str, &str)] = &[
    ("core.v1.PodSpec", "tolerations"),
    ("core.v1.Container", "args"),
    ("core.v1.Container", "command"),
    ("core.v1.Container", "envFrom"),
    ("core.v1.NodeSpec", "taints"),
    ("core.v1.ServiceAccount", "imagePullSecrets"),
    ("core.v1.ServiceSpec", "externalIPs"),
    ("core.v1.ServiceSpec", "clusterIPs"),
    ("core.v1.ServiceSpec", "ipFamilies"),
    ("core.v1.ServiceSpec", "loadBalancerSourceRanges"),
    ("meta.v1.LabelSelector", "matchExpressions"),
    ("meta.v1.LabelSelectorRequirement", "values"),
    ("rbac.v1.ClusterRole", "rules"),
    ("rbac.v1.Role", "rules"),
    ("rbac.v1.ClusterRoleBinding", "subjects"),
    ("rbac.v1.RoleBinding", "subjects"),
    ("discovery.v1.EndpointSlice", "endpoints"),
    ("discovery.v1.EndpointSlice", "ports"),
];

/// Schemas and properties that are owned as a whole although they are maps.
const ATOMIC_MAPS: &[(&str, Option<&str>)] = &[
    ("meta.v1.LabelSelector", None),
    ("core.v1.NodeSelector", None),
    ("core.v1.ObjectReference", None),
    ("core.v1.LocalObjectReference", None),
    ("core.v1.TypedLocalObjectReference", None),
    ("core.v1.SecretReference", None),
    ("core.v1.ObjectFieldSelector", None),
    ("core.v1.ResourceFieldSelector", None),
    ("core.v1.ConfigMapKeySelector", None),
    ("core.v1.SecretKeySelector", None),
    ("core.v1.PodSpec", Some("nodeSelector")),
    ("core.v1.ServiceSpec", Some("selector")),
    ("meta.v1.OwnerReference", None),
    ("rbac.v1.RoleRef", None),
    ("rbac.v1.Subject", None),
];

/// Values that list keys have if they are absent; they have to be known to tell items apart.
const KEY_DEFAULTS: &[(&str, &str, &str)] =
    &[("core.v1.ContainerPort", "protocol", "TCP"), ("core.v1.ServicePort", "protocol", "TCP")];

/// Adds the list types and patch strategies to the schemas that have them.
pub(super) fn annotate(schemas: &mut Map<String, Value>) {
    for (schema, list, keys) in MERGED_BY_KEY {
        set(schemas, schema, Some(list), "x-kubernetes-list-type", json!("map"));
        set(schemas, schema, Some(list), "x-kubernetes-list-map-keys", json!(keys));
        set(schemas, schema, Some(list), "x-kubernetes-patch-strategy", json!("merge"));
        set(schemas, schema, Some(list), "x-kubernetes-patch-merge-key", json!(keys.first()));
    }
    set(
        schemas,
        "core.v1.PodSpec",
        Some("volumes"),
        "x-kubernetes-patch-strategy",
        json!("merge,retainKeys"),
    );
    set(
        schemas,
        "apps.v1.DeploymentSpec",
        Some("strategy"),
        "x-kubernetes-patch-strategy",
        json!("retainKeys"),
    );
    for (schema, list) in SETS {
        set(schemas, schema, Some(list), "x-kubernetes-list-type", json!("set"));
        if !SETS_REPLACED_BY_PATCH.contains(&(schema, list)) {
            set(schemas, schema, Some(list), "x-kubernetes-patch-strategy", json!("merge"));
        }
    }
    for (schema, list) in ATOMIC_LISTS {
        set(schemas, schema, Some(list), "x-kubernetes-list-type", json!("atomic"));
    }
    for (schema, key, default) in KEY_DEFAULTS {
        set(schemas, schema, Some(key), "default", json!(default));
    }
    for (schema, property) in ATOMIC_MAPS {
        set(schemas, schema, *property, "x-kubernetes-map-type", json!("atomic"));
    }
}

/// Sets an extension on a schema, or on one of its properties; schemas that a document hasn't are passed over.
fn set(schemas: &mut Map<String, Value>, schema: &str, property: Option<&str>, key: &str, value: Value) {
    let prefixes = ["io.k8s.api.", "io.k8s.apimachinery.pkg.apis."];
    for prefix in prefixes {
        let Some(schema) = schemas.get_mut(&format!("{prefix}{schema}")) else {
            continue;
        };
        let target = match property {
            Some(property) => {
                schema.get_mut("properties").and_then(|properties| properties.get_mut(property))
            }
            None => Some(schema),
        };
        if let Some(map) = target.and_then(Value::as_object_mut) {
            map.insert(key.to_owned(), value.clone());
        }
    }
}
