//! The columns of nodes, namespaces, configuration and access rules.

use jiff::Timestamp;
use serde_json::Value;

use super::column::{AGE, NAME, NONE, Spec, UNKNOWN, age, condition, list, map, name, text};

pub(super) const NODE: &[Spec] = &[
    NAME,
    ("Status", "string", 0, "Whether the node is ready, and takes pods."),
    ("Roles", "string", 0, "Roles that the node's labels give it."),
    AGE,
    ("Version", "string", 0, "Version of the node's kubelet."),
    ("Internal-IP", "string", 1, "Address of the node inside the cluster."),
    ("External-IP", "string", 1, "Address of the node for the outside."),
    ("OS-Image", "string", 1, "Operating system of the node."),
    ("Kernel-Version", "string", 1, "Kernel of the node."),
    ("Container-Runtime", "string", 1, "What runs the node's containers."),
];

pub(super) fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = match condition(object, "Ready").and_then(|ready| text(ready, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true) {
        status.push_str(",SchedulingDisabled");
    }
    let info = |field: &str, none: &'static str| {
        text(object, &format!("/status/nodeInfo/{field}")).unwrap_or(none).into()
    };
    vec![
        name(object),
        status.into(),
        roles(object).into(),
        age(object, now),
        info("kubeletVersion", ""),
        address(object, "InternalIP").into(),
        address(object, "ExternalIP").into(),
        info("osImage", UNKNOWN),
        info("kernelVersion", UNKNOWN),
        info("containerRuntimeVersion", UNKNOWN),
    ]
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = map(node, "/metadata/labels")
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { NONE.to_owned() } else { roles.join(",") }
}

fn address<'a>(node: &'a Value, address_type: &str) -> &'a str {
    list(node, "/status/addresses")
        .iter()
        .find(|address| text(address, "/type") == Some(address_type))
        .and_then(|address| text(address, "/address"))
        .unwrap_or(NONE)
}

pub(super) const NAMESPACE: &[Spec] =
    &[NAME, ("Status", "string", 0, "Active, or Terminating while its content goes."), AGE];

pub(super) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "/status/phase").unwrap_or_default().into(), age(object, now)]
}

pub(super) const SECRET: &[Spec] = &[
    NAME,
    ("Type", "string", 0, "What the secret is used for."),
    ("Data", "integer", 0, "Number of keys."),
    AGE,
];

pub(super) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    let keys = map(object, "/data").map_or(0, serde_json::Map::len);
    vec![name(object), text(object, "/type").unwrap_or_default().into(), keys.into(), age(object, now)]
}

pub(super) const CONFIG_MAP: &[Spec] = &[NAME, ("Data", "integer", 0, "Number of keys."), AGE];

pub(super) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let keys = |pointer| map(object, pointer).map_or(0, serde_json::Map::len);
    vec![name(object), (keys("/data") + keys("/binaryData")).into(), age(object, now)]
}

pub(super) const SERVICE_ACCOUNT: &[Spec] =
    &[NAME, ("Secrets", "integer", 0, "Number of secrets that pods of the account may use."), AGE];

pub(super) fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), list(object, "/secrets").len().into(), age(object, now)]
}

pub(super) const LEASE: &[Spec] = &[NAME, ("Holder", "string", 0, "Who holds the lease."), AGE];

pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "/spec/holderIdentity").unwrap_or_default().into(), age(object, now)]
}

pub(super) const CREATED_AT: &[Spec] = &[NAME, ("Created At", "date", 0, "When the object was created.")];

pub(super) fn created_at(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![name(object), text(object, "/metadata/creationTimestamp").unwrap_or_default().into()]
}

pub(super) const BINDING: &[Spec] = &[
    NAME,
    ("Role", "string", 0, "The role that is granted."),
    AGE,
    ("Users", "string", 1, "Users that get the role."),
    ("Groups", "string", 1, "Groups that get the role."),
    ("ServiceAccounts", "string", 1, "Service accounts that get the role."),
];

pub(super) fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = |field: &str| text(object, &format!("/roleRef/{field}")).unwrap_or_default();
    let subjects = |kind: &str| {
        let names = list(object, "/subjects").iter().filter(|subject| text(subject, "/kind") == Some(kind));
        names
            .map(|subject| match text(subject, "/namespace") {
                Some(namespace) => format!("{namespace}/{}", text(subject, "/name").unwrap_or_default()),
                None => text(subject, "/name").unwrap_or_default().to_owned(),
            })
            .collect::<Vec<_>>()
            .join(", ")
    };
    vec![
        name(object),
        format!("{}/{}", role("kind"), role("name")).into(),
        age(object, now),
        subjects("User").into(),
        subjects("Group").into(),
        subjects("ServiceAccount").into(),
    ]
}
