//! Events are one kind in two groups: the core group's form is stored, that of `events.k8s.io` is converted.

use serde_json::Value;

use crate::meta;
use crate::resource::{GroupResource, ResourceInfo};

const GROUP: &str = "events.k8s.io";

/// Names of the same field in the core group and in `events.k8s.io`.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Whether this is the form that isn't stored.
pub(crate) fn is_converted(info: &ResourceInfo) -> bool {
    info.builtin && info.gvk.group == GROUP
}

/// Where Events are stored, whatever the group they are asked in.
pub(crate) fn stored_resource(info: &ResourceInfo) -> Option<GroupResource> {
    is_converted(info).then(|| GroupResource::new("", &info.plural))
}

/// The form of `events.k8s.io`.
pub(crate) fn from_stored(event: &mut Value) {
    rename(event, "events.k8s.io/v1", RENAMED.iter().copied());
}

/// The form of the core group.
pub(crate) fn to_stored(event: &mut Value) {
    rename(event, "v1", RENAMED.iter().map(|(core, other)| (*other, *core)));
}

fn rename(event: &mut Value, api_version: &str, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let map = meta::map_of(event);
    map.insert("apiVersion".to_owned(), Value::from(api_version));
    for (from, to) in names {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}
