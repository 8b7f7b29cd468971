//! Compiled schemas of built-in kinds, out of the same documents that clients read.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::openapi;
use crate::resource::{Gvk, Registry, ResourceInfo};
use crate::schema::{self, Node, Schema};

/// Compiled once for the process, as they never change.
static COMPILED: OnceLock<BTreeMap<Gvk, Arc<Schema>>> = OnceLock::new();

/// Gives each built-in resource its compiled schema.
pub(super) fn attach(mut resources: Vec<ResourceInfo>) -> Vec<ResourceInfo> {
    let compiled = COMPILED.get_or_init(|| compile(&resources));
    for info in &mut resources {
        info.compiled = compiled.get(&info.gvk).cloned();
    }
    resources
}

/// What has a wrong type in the metadata of a custom resource.
pub(crate) fn wrong_metadata_type(object: &Value) -> Option<String> {
    schema::wrong_type(object_meta()?, object.get("metadata")?)
}

/// The schema of `ObjectMeta`, once the built-in resources were made.
pub(crate) fn object_meta() -> Option<&'static Node> {
    let config_map = COMPILED.get()?.get(&Gvk::new("", "v1", "ConfigMap"))?;
    config_map.root().properties.get("metadata").map(|node| &**node)
}

fn compile(resources: &[ResourceInfo]) -> BTreeMap<Gvk, Arc<Schema>> {
    let registry = Registry::new(resources.iter().cloned());
    let mut compiled = BTreeMap::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let Some(document) = openapi::document(&registry, &group, &version) else { continue };
            let Some(schemas) = document.pointer("/components/schemas").and_then(Value::as_object) else {
                continue;
            };
            for info in registry.in_version(&group, &version) {
                let name =
                    schemas.iter().find(|(_, schema)| defines(schema, &info.gvk)).map(|(name, _)| name);
                if let Some(schema) = name.and_then(|name| Schema::compile_builtin(name, schemas)) {
                    compiled.insert(info.gvk.clone(), Arc::new(schema));
                }
            }
        }
    }
    compiled
}

fn defines(schema: &Value, gvk: &Gvk) -> bool {
    let kinds = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array).into_iter().flatten();
    let text = |kind: &Value, key: &str| kind.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut kinds = kinds.map(|kind| Gvk {
        group: text(kind, "group"),
        version: text(kind, "version"),
        kind: text(kind, "kind"),
    });
    kinds.any(|kind| kind == *gvk)
}
