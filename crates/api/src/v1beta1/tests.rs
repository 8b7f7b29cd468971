//! The manifests, looked at as a kube-apiserver looks at them.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::*;

fn schema(crd: &CustomResourceDefinition) -> Value {
    let schema = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
    serde_json::to_value(schema).unwrap()
}

fn schema_of(kind: &str) -> Value {
    schema(crds().iter().find(|crd| crd.spec.names.kind == kind).unwrap())
}

/// Calls `look` with every schema below, and its path.
fn walk(path: &str, node: &Value, look: &mut impl FnMut(&str, &Value)) {
    look(path, node);
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, look);
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(below) = node.get(key) {
            walk(&format!("{path}{suffix}"), below, look);
        }
    }
}

fn for_every_schema(mut look: impl FnMut(&str, &Value)) {
    for crd in crds() {
        walk(&crd.spec.names.kind, &schema(&crd), &mut look);
    }
}

#[test]
fn schemas_are_structural() {
    let known = BTreeSet::from([
        "type",
        "description",
        "properties",
        "required",
        "items",
        "additionalProperties",
        "format",
        "pattern",
        "enum",
        "default",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-validations",
    ]);
    for_every_schema(|path, node| {
        let node = node.as_object().unwrap();
        for key in node.keys() {
            assert!(known.contains(key.as_str()), "{path} has {key}");
        }
        let kind = node["type"].as_str().unwrap_or_else(|| panic!("{path} has not one type"));
        assert_eq!(kind == "array", node.contains_key("items"), "{path}");
        assert!(!(node.contains_key("properties") && node.contains_key("additionalProperties")), "{path}");
        for name in node.get("required").and_then(Value::as_array).into_iter().flatten() {
            assert!(node["properties"].get(name.as_str().unwrap()).is_some(), "{path} requires {name}");
        }
        if let (Some(default), Some(values)) = (node.get("default"), node.get("enum")) {
            assert!(values.as_array().unwrap().contains(default), "{path}");
        }
    });
}

#[test]
fn every_field_has_a_description() {
    for_every_schema(|path, node| {
        for (name, property) in node["properties"].as_object().into_iter().flatten() {
            if name != "metadata" {
                let text = property["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty() && !text.contains('\n'), "{path}.{name}");
            }
        }
    });
}

#[test]
fn lists_by_key_have_items_that_must_have_the_key() {
    for_every_schema(|path, node| {
        for key in node.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten() {
            assert!(node["items"]["required"].as_array().unwrap().contains(key), "{path}");
        }
    });
}

#[test]
fn names_and_columns_are_those_that_users_know() {
    let summary = crds().into_iter().map(|crd| {
        let names = &crd.spec.names;
        let columns = crd.spec.versions[0].additional_printer_columns.iter().flatten();
        let columns: Vec<String> =
            columns.map(|column| format!("{} {} {}", column.name, column.type_, column.json_path)).collect();
        let short = names.short_names.clone().unwrap_or_default().join(",");
        format!("{} {} {} {}: {}", names.kind, names.plural, short, crd.spec.scope, columns.join("; "))
    });
    insta::assert_snapshot!(summary.collect::<Vec<_>>().join("\n"), @r#"
    EgressClusterEndpointSlice egressclusterendpointslices egcep Cluster: 
    EgressClusterInfo egressclusterinfos egci Cluster: 
    EgressClusterPolicy egressclusterpolicies egcp Cluster: gateway string .spec.egressGatewayName; ipv4 string .status.eip.ipv4; ipv6 string .status.eip.ipv6; egressTunnel string .status.node; ready string .status.conditions[?(@.type=="Ready")].status; reason string .status.conditions[?(@.type=="Ready")].reason
    EgressEndpointSlice egressendpointslices egep Namespaced: 
    EgressGateway egressgateways egw Cluster: ipv4DefaultEIP string .spec.ippools.ipv4DefaultEIP; ipv6DefaultEIP string .spec.ippools.ipv6DefaultEIP; clusterDefault boolean .spec.clusterDefault; ipv4Total integer .status.ipUsage.ipv4Total; ipv4Free integer .status.ipUsage.ipv4Free; ipv6Total integer .status.ipUsage.ipv6Total; ipv6Free integer .status.ipUsage.ipv6Free; ready string .status.conditions[?(@.type=="Ready")].status; reason string .status.conditions[?(@.type=="Ready")].reason
    EgressPolicy egresspolicies egp Namespaced: gateway string .spec.egressGatewayName; ipv4 string .status.eip.ipv4; ipv6 string .status.eip.ipv6; egressNode string .status.node; ready string .status.conditions[?(@.type=="Ready")].status; reason string .status.conditions[?(@.type=="Ready")].reason
    EgressPortLease egressportleases epl Cluster: node string .spec.nodeName; blocks integer .spec.blockCount
    EgressTunnel egresstunnels egt Cluster: tunnelMac string .status.tunnel.mac; tunnelIPv4 string .status.tunnel.ipv4; tunnelIPv6 string .status.tunnel.ipv6; mark string .status.mark; phase string .status.phase; message string .status.message
    "#);
}

#[test]
fn what_must_be_given_is_required() {
    let gateway = schema_of("EgressGateway");
    assert_eq!(gateway["required"], json!(["metadata", "spec"]));
    assert_eq!(gateway["properties"]["spec"]["required"], json!(["nodeSelector"]));
    assert_eq!(gateway["properties"]["spec"]["properties"]["nodeSelector"]["required"], json!(["selector"]));
    for kind in ["EgressPolicy", "EgressClusterPolicy"] {
        assert_eq!(schema_of(kind)["properties"]["spec"]["required"], json!(["appliedTo"]));
    }
    assert_eq!(schema_of("EgressTunnel")["required"], json!(["metadata"]));
}

#[test]
fn defaults_are_those_of_the_reference() {
    let policy = schema_of("EgressPolicy");
    let egress_ip = &policy["properties"]["spec"]["properties"]["egressIP"];
    assert_eq!(egress_ip["default"], json!({"allocatorPolicy": "default", "useNodeIP": false}));
    let info = schema_of("EgressClusterInfo");
    let detect = &info["properties"]["spec"]["properties"]["autoDetect"];
    assert_eq!(detect.get("default"), None);
    assert_eq!(detect["properties"]["podCidrMode"]["default"], json!("auto"));
}

#[test]
fn objects_read_back_as_they_are_written() {
    let policy: EgressPolicy = serde_saphyr::from_str(
        "apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressPolicy
metadata: {name: test, namespace: default}
spec:
  egressGatewayName: default
  egressIP: {ipv4: 10.6.1.1}
  appliedTo: {podSelector: {matchLabels: {app: x}}}
  destSubnet: [10.0.0.0/8]
  priority: 7",
    )
    .unwrap();
    let written = serde_json::to_value(&policy).unwrap();
    assert_eq!((&written["apiVersion"], &written["kind"]), (&json!(API), &json!("EgressPolicy")));
    assert_eq!(written.get("status"), None);
    assert_eq!(written["spec"]["egressIP"], json!({"ipv4": "10.6.1.1"}));
    assert_eq!(serde_json::from_value::<EgressPolicy>(written).unwrap(), policy);
}

const API: &str = "egressgateway.spidernet.io/v1beta1";
