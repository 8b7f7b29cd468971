//! What a client may grow, and how far.

use serde_json::Value;

/// How deep bodies and objects may nest; recursion over them then never exhausts the stack.
pub const NESTING_MAX: usize = 100;

/// How deep a value nests: zero for plain values.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Upper bounds of everything that a client can make the server hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest request body in bytes; more is answered with 413.
    pub body_bytes: usize,
    /// Largest stored object in bytes of JSON.
    pub object_bytes: usize,
    /// Largest sum of a ConfigMap's or Secret's data in bytes.
    pub data_bytes: usize,
    /// Largest sum of an object's annotations in bytes.
    pub annotation_bytes: usize,
    /// How many objects of all kinds the store holds.
    pub objects: usize,
    /// How many bytes of JSON all stored objects have together, about.
    pub total_bytes: usize,
    /// How many changes of one kind are kept for watches and older lists.
    pub history_events: usize,
    /// How many bytes of JSON the kept changes of one kind have together.
    pub history_bytes: usize,
    /// How long a change is kept, in seconds; older ones go at the next tick.
    pub history_seconds: i64,
    /// How many events one poll of a watch returns at most.
    pub watch_batch_events: usize,
    /// How many watches may be open at once.
    pub watches: usize,
    /// How many operations one JSON patch may have.
    pub json_patch_operations: usize,
    /// How many Events are kept; the oldest go first.
    pub stored_events: usize,
    /// How many seconds an Event is kept after it was last seen.
    pub stored_event_seconds: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 3 * 1024 * 1024,
            object_bytes: 3 * 512 * 1024,
            data_bytes: 1024 * 1024,
            annotation_bytes: 262_144,
            objects: 100_000,
            total_bytes: 512 * 1024 * 1024,
            history_events: 20_000,
            history_bytes: 16 * 1024 * 1024,
            history_seconds: 600,
            watch_batch_events: 512,
            watches: 4096,
            json_patch_operations: 10_000,
            stored_events: 5000,
            stored_event_seconds: 3600,
        }
    }
}
