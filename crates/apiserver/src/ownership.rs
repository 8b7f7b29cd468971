//! Who set which field: `metadata.managedFields`, and server-side apply, which is decided by it.
//!
//! ```text
//!   update:  old, new ---changes---> taken, removed ---entries---> all lose both, the writer gets `taken`
//!   apply:   live, config --merge--> merged --prune (what only this manager's last config had)--> new
//!            live, new ---changes---> taken: owned by others? a conflict, or by force theirs no more
//! ```
//!
//! Everything here is a pure function of objects, schema and entries. What tells the items of a list apart comes from
//! the schema of the kind; where that says nothing, maps are granular and lists atomic.

mod apply;
mod changes;
mod config;
mod conflict;
mod entries;
mod field_set;
mod last_applied;
mod merge;
mod typing;

use serde_json::{Map, Value, json};

use crate::meta;
use crate::resource::ResourceInfo;
use crate::store::Subresource;

pub(crate) use apply::{Application, Applied, apply};
pub(crate) use config::check_config;
pub(crate) use conflict::Conflicts;
pub(crate) use entries::{Entry, Operation, Writer, decode, encode, same_but_for_time};
pub(crate) use last_applied::{allowed_by_last_applied, refresh_last_applied};
pub(crate) use typing::Type;

/// Owner of what an object had before it was first applied to.
pub(crate) const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The entries of a new object that a writer created otherwise than by apply.
pub(crate) fn of_created(info: &ResourceInfo, object: &Value, writer: &Writer<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    updated(info, &zero_value(info), object, &mut entries, writer);
    entries
}

/// Gives the writer what it changed or added, and takes from all others what was changed or removed.
pub(crate) fn updated(
    info: &ResourceInfo,
    old: &Value,
    new: &Value,
    entries: &mut Vec<Entry>,
    writer: &Writer<'_>,
) {
    let mut changes = changes::changes(Type::of(info), old, new);
    for set in [&mut changes.taken, &mut changes.removed] {
        set.remove_system_fields();
        if info.has_status && writer.subresource != "status" {
            set.remove_field("status");
        }
    }
    entries::take(entries, writer, changes);
}

/// Whether a client's list of entries asks to forget all of them.
pub(crate) fn is_reset(managed_fields: &Value) -> bool {
    match managed_fields.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(only)]) => only.is_empty(),
        _ => false,
    }
}

/// How entries name a subresource.
pub(crate) fn subresource_name(subresource: Subresource) -> &'static str {
    match subresource {
        Subresource::Main => "",
        Subresource::Status => "status",
        Subresource::Scale => "scale",
        Subresource::Finalize => "finalize",
    }
}

/// What a config may say on a path: not `status` on the main one, and nothing else on `/status`.
pub(crate) fn restrict_config(info: &ResourceInfo, subresource: Subresource, config: &mut Value) {
    let map = meta::map_of(config);
    if subresource == Subresource::Status {
        // Metadata of custom kinds is owned here although it isn't applied, as on a real server.
        map.retain(|key, _| ["apiVersion", "kind", "metadata", "status"].contains(&key.as_str()));
        if info.builtin {
            let kept = ["name", "namespace", "uid", "resourceVersion"];
            meta::metadata_mut(config).retain(|key, _| kept.contains(&key.as_str()));
        }
    } else if info.has_status {
        map.remove("status");
    }
}

/// What an object of a kind holds before anybody says anything: nothing, but in built-in kinds those parts that their
/// types always have. Parts that were always there are owned by nobody, only what is in them.
pub(crate) fn zero_value(info: &ResourceInfo) -> Value {
    let template = || json!({"metadata": {}, "spec": {"containers": []}});
    let spec = match info.gvk.kind.as_str() {
        _ if !info.builtin => None,
        "Pod" => Some(json!({"containers": []})),
        "Deployment" => Some(json!({"strategy": {}, "template": template()})),
        "DaemonSet" | "StatefulSet" => Some(json!({"updateStrategy": {}, "template": template()})),
        "ReplicaSet" | "Job" => Some(json!({"template": template()})),
        "CronJob" => Some(json!({"jobTemplate": {"metadata": {}, "spec": {"template": template()}}})),
        "CustomResourceDefinition" => Some(json!({"names": {}})),
        _ if has_field(info, "spec") => Some(json!({})),
        _ => None,
    };
    let status = match info.gvk.kind.as_str() {
        _ if !info.builtin || !info.has_status => None,
        "Node" => Some(json!({"daemonEndpoints": {"kubeletEndpoint": {}}, "nodeInfo": {}})),
        "Service" => Some(json!({"loadBalancer": {}})),
        "CustomResourceDefinition" => {
            Some(json!({"acceptedNames": {}, "conditions": [], "storedVersions": []}))
        }
        _ => Some(json!({})),
    };
    let mut zero = Map::new();
    zero.insert("metadata".to_owned(), json!({}));
    for (key, part) in [("spec", spec), ("status", status)] {
        if let Some(part) = part {
            zero.insert(key.to_owned(), part);
        }
    }
    Value::Object(zero)
}

fn has_field(info: &ResourceInfo, key: &str) -> bool {
    info.compiled.as_ref().is_some_and(|schema| schema.root().properties.contains_key(key))
}

#[cfg(test)]
mod tests;
