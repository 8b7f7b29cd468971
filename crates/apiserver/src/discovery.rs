//! Discovery: which groups, versions and resources there are, in the plain and in the aggregated form.
//!
//! Renderings of a [`Registry`]; nothing here knows HTTP.

use serde_json::{Map, Value, json};

use crate::resource::{Registry, ResourceInfo, api_version};

/// `/api`.
pub fn core_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": server_address }],
    })
}

/// `/apis`.
pub fn groups(registry: &Registry) -> Value {
    let named = registry.groups().into_iter().filter(|(group, _)| !group.is_empty());
    let groups: Vec<Value> = named.map(|(group, versions)| group_entry(&group, &versions)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/G`; `None` if there is no such group.
pub fn group(registry: &Registry, name: &str) -> Option<Value> {
    let (group, versions) =
        registry.groups().into_iter().find(|(group, _)| group == name && !group.is_empty())?;
    let mut entry = group_entry(&group, &versions);
    if let Some(map) = entry.as_object_mut() {
        map.insert("kind".to_owned(), "APIGroup".into());
        map.insert("apiVersion".to_owned(), "v1".into());
    }
    Some(entry)
}

fn group_entry(group: &str, versions: &[String]) -> Value {
    let entries: Vec<Value> = versions
        .iter()
        .map(|version| json!({ "groupVersion": api_version(group, version), "version": version }))
        .collect();
    json!({ "name": group, "versions": entries, "preferredVersion": entries.first() })
}

/// `/api/v1` and `/apis/G/V`; `None` if there is no such group version.
pub fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut entries = Vec::new();
    for info in registry.in_version(group, version) {
        entries.push(resource_entry(info));
        entries.extend(info.subresources.iter().map(|subresource| {
            let mut entry = json!({
                "name": format!("{}/{}", info.plural, subresource.name),
                "singularName": "",
                "namespaced": info.namespaced,
                "kind": subresource.gvk.kind,
                "verbs": subresource.verbs,
            });
            let foreign =
                subresource.gvk.group != info.gvk.group || subresource.gvk.version != info.gvk.version;
            if let (true, Some(map)) = (foreign, entry.as_object_mut()) {
                map.insert("group".to_owned(), subresource.gvk.group.as_str().into());
                map.insert("version".to_owned(), subresource.gvk.version.as_str().into());
            }
            entry
        }));
    }
    if entries.is_empty() {
        return None;
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, version),
        "resources": entries,
    }))
}

fn resource_entry(info: &ResourceInfo) -> Value {
    let mut entry = json!({
        "name": info.plural,
        "singularName": info.singular,
        "namespaced": info.namespaced,
        "kind": info.gvk.kind,
        "verbs": sorted(&info.verbs),
    });
    if let Some(map) = entry.as_object_mut() {
        insert_names(map, info);
        if !info.storage_version_hash.is_empty() {
            map.insert("storageVersionHash".to_owned(), info.storage_version_hash.as_str().into());
        }
    }
    entry
}

/// Aggregated `/api` (the core group) or `/apis` (all others), in a version of `apidiscovery.k8s.io`.
pub fn aggregated(registry: &Registry, core: bool, format_version: &str) -> Value {
    let items: Vec<Value> = registry
        .groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> =
                versions.iter().map(|version| aggregated_version(registry, &group, version)).collect();
            let metadata = if core { json!({ "creationTimestamp": null }) } else { json!({ "name": group }) };
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{format_version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_version(registry: &Registry, group: &str, version: &str) -> Value {
    let resources: Vec<Value> =
        registry.in_version(group, version).map(|info| aggregated_resource(info)).collect();
    json!({ "version": version, "freshness": "Current", "resources": resources })
}

fn aggregated_resource(info: &ResourceInfo) -> Value {
    let response_kind =
        |gvk: &crate::resource::Gvk| json!({ "group": gvk.group, "version": gvk.version, "kind": gvk.kind });
    let mut entry = json!({
        "resource": info.plural,
        "responseKind": response_kind(&info.gvk),
        "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": info.singular,
        "verbs": sorted(&info.verbs),
    });
    if let Some(map) = entry.as_object_mut() {
        insert_names(map, info);
        if !info.subresources.is_empty() {
            let subresources: Vec<Value> = info
                .subresources
                .iter()
                .map(|subresource| {
                    json!({
                        "subresource": subresource.name,
                        "responseKind": response_kind(&subresource.gvk),
                        "verbs": sorted(&subresource.verbs),
                    })
                })
                .collect();
            map.insert("subresources".to_owned(), subresources.into());
        }
    }
    entry
}

fn insert_names(map: &mut Map<String, Value>, info: &ResourceInfo) {
    for (key, names) in [("shortNames", &info.short_names), ("categories", &info.categories)] {
        if !names.is_empty() {
            map.insert(key.to_owned(), json!(names));
        }
    }
}

fn sorted(verbs: &[String]) -> Vec<&str> {
    let mut verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
    verbs.sort_unstable();
    verbs
}
