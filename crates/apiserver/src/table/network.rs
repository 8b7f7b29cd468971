//! The columns of services and their endpoints.

use jiff::Timestamp;
use serde_json::Value;

use super::column::{AGE, NAME, NONE, Spec, age, count, joined, labels_text, list, map, name, text};

/// How many ports and endpoints of a slice are printed before `+ N more...`.
const SHOWN: usize = 3;

pub(super) const SERVICE: &[Spec] = &[
    NAME,
    ("Type", "string", 0, "How the service is reached."),
    ("Cluster-IP", "string", 0, "Address of the service inside the cluster."),
    ("External-IP", "string", 0, "Addresses of the service outside the cluster."),
    ("Port(s)", "string", 0, "Ports, with the node port where there is one."),
    AGE,
    ("Selector", "string", 1, "Labels of the pods that serve it."),
];

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, "/spec/type").unwrap_or_default().into(),
        text(object, "/spec/clusterIP").unwrap_or(NONE).into(),
        external_addresses(object).into(),
        service_ports(object).into(),
        age(object, now),
        labels_text(map(object, "/spec/selector")).into(),
    ]
}

fn external_addresses(service: &Value) -> String {
    let external_ips = list(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    match text(service, "/spec/type") {
        Some("LoadBalancer") => {
            let ingress = list(service, "/status/loadBalancer/ingress").iter();
            let given = ingress.filter_map(|entry| text(entry, "/ip").or_else(|| text(entry, "/hostname")));
            match joined(given.chain(external_ips)) {
                addresses if addresses == NONE => "<pending>".to_owned(),
                addresses => addresses,
            }
        }
        Some("ExternalName") => text(service, "/spec/externalName").unwrap_or(NONE).to_owned(),
        _ => joined(external_ips),
    }
}

fn service_ports(service: &Value) -> String {
    let ports: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let protocol = text(port, "/protocol").unwrap_or("TCP");
            match count(port, "/nodePort") {
                0 => format!("{}/{protocol}", count(port, "/port")),
                node_port => format!("{}:{node_port}/{protocol}", count(port, "/port")),
            }
        })
        .collect();
    joined(ports.iter().map(String::as_str))
}

pub(super) const ENDPOINT_SLICE: &[Spec] = &[
    NAME,
    ("AddressType", "string", 0, "Family of the addresses."),
    ("Ports", "string", 0, "Ports of each endpoint."),
    ("Endpoints", "string", 0, "Addresses of the endpoints."),
    AGE,
];

pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports = list(object, "/ports").iter().map(|port| match port.get("port").and_then(Value::as_i64) {
        Some(port) => port.to_string(),
        None => "*".to_owned(),
    });
    let addresses = list(object, "/endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "/addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned));
    vec![
        name(object),
        text(object, "/addressType").unwrap_or_default().into(),
        shortened(ports.collect()).into(),
        shortened(addresses.collect()).into(),
        age(object, now),
    ]
}

fn shortened(texts: Vec<String>) -> String {
    if texts.is_empty() {
        return "<unset>".to_owned();
    }
    let shown = texts.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(",");
    match texts.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{shown} + {more} more..."),
        _ => shown,
    }
}
