//! OpenAPI v3, and v2 out of it: one document per group version, from which clients learn fields, list types and merge keys.
//!
//! kubectl also reads here that the server validates fields itself: PATCH operations name `fieldValidation`.

mod builtin;
mod custom;
mod list_types;
mod paths;
pub mod v2;

use serde_json::{Map, Value, json};

use crate::resource::{Registry, ResourceInfo};

/// Version of the Kubernetes API that the server speaks.
pub const KUBERNETES_VERSION: &str = "v1.36.0";

/// `/openapi/v3`: the documents with a hash each that changes with their content.
pub fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let path = document_path(&group, &version);
            let url = format!("/openapi/v3/{path}?hash={}", hash(registry, &group, &version));
            paths.insert(path, json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths })
}

/// The part of a document's URL after `/openapi/v3/`.
pub fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Group and version of a document's URL part.
pub fn parse_document_path(path: &str) -> Option<(String, String)> {
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => Some((String::new(), (*version).to_owned())),
        ["apis", group, version] => Some(((*group).to_owned(), (*version).to_owned())),
        _ => None,
    }
}

/// A hash over everything that a document is made from.
pub fn hash(registry: &Registry, group: &str, version: &str) -> String {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(env!("CARGO_PKG_VERSION").as_bytes());
    for info in registry.in_version(group, version) {
        digest.update(paths::fingerprint(info).as_bytes());
        if let (false, Some(schema)) = (info.builtin, &info.schema) {
            digest.update(schema.to_string().as_bytes());
        }
    }
    let digest = digest.finish();
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// The document of a group version; `None` if it isn't served.
pub fn document(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let resources: Vec<&ResourceInfo> = registry.in_version(group, version).map(|info| &**info).collect();
    if resources.is_empty() {
        return None;
    }
    let mut schemas = builtin::Schemas::default();
    let mut paths = Map::new();
    for info in resources {
        let name = if info.builtin { schemas.add_builtin(&info.gvk) } else { schemas.add_custom(info) };
        let parts = info.subresources.iter().map(|part| (part, schemas.add_subresource(info, &part.gvk)));
        let parts: Vec<_> = parts.collect();
        paths::add(&mut paths, info, &name, &parts);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": KUBERNETES_VERSION },
        "paths": paths,
        "components": { "schemas": schemas.finish() },
    }))
}

#[cfg(test)]
mod tests;
