//! The annotation in which `kubectl apply` keeps its last config, for objects that move to server-side apply.

use serde_json::Value;

use super::apply::owned_by;
use super::field_set::FieldSet;
use super::typing::Type;
use crate::meta;
use crate::resource::ResourceInfo;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager for which all this holds.
const KUBECTL: &str = "kubectl";

fn annotation(object: &Value) -> Option<&str> {
    let annotations = meta::metadata(object)?.get("annotations")?;
    annotations.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

/// The fields that kubectl may take without force, as it set them by client-side apply.
pub(crate) fn allowed_by_last_applied(info: &ResourceInfo, live: &Value, manager: &str) -> FieldSet {
    let last = annotation(live).filter(|_| manager == KUBECTL);
    let last = last.and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_default();
    if !last.is_object() || crate::limits::depth(&last) > crate::limits::NESTING_MAX {
        return FieldSet::default();
    }
    owned_by(Type::of(info), &last)
}

/// Keeps the annotation true, so that the user can go back to client-side apply.
pub(crate) fn refresh_last_applied(object: &mut Value, config: &Value, manager: &str, bytes_max: usize) {
    if manager != KUBECTL || annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    let metadata = meta::metadata_mut(&mut config);
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{config}\n");
    let text = if text.len() > bytes_max { String::new() } else { text };
    let annotations = meta::map_mut(meta::metadata_mut(object), "annotations");
    annotations.insert(ANNOTATION.to_owned(), Value::from(text));
}
