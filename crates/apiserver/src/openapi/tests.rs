use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{document, hash, index, parse_document_path};
use crate::builtin;
use crate::resource::{Gvk, Registry, ResourceInfo};

fn registry() -> Registry {
    let mut registry = Registry::new(builtin::resources());
    let pods = registry.get("", "v1", "pods").expect("pods").as_ref().clone();
    registry.insert(ResourceInfo {
        gvk: Gvk::new("lab.example.com", "v1", "Widget"),
        list_kind: "WidgetList".to_owned(),
        plural: "widgets".to_owned(),
        singular: "widget".to_owned(),
        builtin: false,
        subresources: Vec::new(),
        schema: Some(Arc::new(json!({
            "type": "object",
            "properties": { "spec": { "type": "object", "properties": { "size": { "type": "integer" } } } },
        }))),
        ..pods
    });
    registry
}

/// All `$ref`s in a document.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("$ref", Value::String(reference)) => {
                        found.insert(reference.clone());
                    }
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_group_version_has_a_document_without_dangling_references() {
    let registry = registry();
    let index = index(&registry);
    for path in index["paths"].as_object().expect("paths").keys() {
        let (group, version) = parse_document_path(path).expect("a path");
        let document = document(&registry, &group, &version).expect("a document");
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").expect("a schema");
            assert!(document["components"]["schemas"].get(name).is_some(), "{path}: {name}");
        }
    }
}

#[test]
fn every_patch_operation_lets_the_server_validate_fields() {
    let registry = registry();
    for (group, versions) in registry.groups() {
        for version in versions {
            let document = document(&registry, &group, &version).expect("a document");
            for (path, operations) in document["paths"].as_object().expect("paths") {
                let Some(patch) = operations.get("patch") else { continue };
                let parameters = patch["parameters"].as_array().expect("parameters");
                assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation"), "{path}");
                assert!(patch["x-kubernetes-group-version-kind"]["kind"].is_string(), "{path}");
            }
        }
    }
}

#[test]
fn schemas_name_their_kind_and_how_lists_merge() {
    let registry = registry();
    let core = document(&registry, "", "v1").expect("a document");
    let schemas = &core["components"]["schemas"];
    let pod = &schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"];
    assert_eq!(pod, &json!([{ "group": "", "version": "v1", "kind": "Pod" }]));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    let finalizers = &schemas["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]["properties"]["finalizers"];
    assert_eq!(finalizers["x-kubernetes-list-type"], "set");
}

#[test]
fn a_custom_kind_is_described_by_its_definition_and_object_meta() {
    let registry = registry();
    let document = document(&registry, "lab.example.com", "v1").expect("a document");
    let widget = &document["components"]["schemas"]["com.example.lab.v1.Widget"];
    assert_eq!(widget["properties"]["spec"]["properties"]["size"]["type"], "integer");
    assert_eq!(widget["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    let patch = &document["paths"]["/apis/lab.example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_none());
}

#[test]
fn a_hash_changes_with_the_schema_only() {
    let mut registry = registry();
    let before = hash(&registry, "lab.example.com", "v1");
    let core = hash(&registry, "", "v1");
    assert_eq!(before, hash(&registry, "lab.example.com", "v1"));
    let mut widget = registry.get("lab.example.com", "v1", "widgets").expect("widgets").as_ref().clone();
    widget.schema = Some(Arc::new(json!({ "type": "object" })));
    registry.insert(widget);
    assert_ne!(before, hash(&registry, "lab.example.com", "v1"));
    assert_eq!(core, hash(&registry, "", "v1"));
}

#[test]
fn every_annotated_list_exists_in_some_document() {
    let registry = registry();
    let mut annotated = BTreeSet::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let document = document(&registry, &group, &version).expect("a document");
            for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
                for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
                    if schema.get("x-kubernetes-list-type").is_some() {
                        assert_eq!(schema["type"], "array", "{name}.{property} is no list");
                        annotated.insert(format!("{name}.{property}"));
                    }
                }
            }
        }
    }
    assert!(annotated.len() > 40, "{}", annotated.len());
}
