//! Events don't live for ever.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::resource::GroupResource;
use crate::store::Store;

/// When an Event was last seen, in seconds.
fn last_seen(event: &Value) -> i64 {
    let times = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    let time = times.iter().find_map(|pointer| event.pointer(pointer)?.as_str()?.parse::<Timestamp>().ok());
    time.map_or(0, Timestamp::as_second)
}

impl Store {
    /// Removes Events that are too old, and the oldest if there are too many.
    pub(super) fn expire_events(&mut self, now: Timestamp) {
        let second = now.as_second();
        let resource = GroupResource::new("", "events");
        let Some(table) = self.tables.get(&resource) else {
            return;
        };
        let surplus = table.objects.len().saturating_sub(self.limits.stored_events);
        // A look at all Events is only worth it from time to time.
        let due = second >= self.next_event_expiry;
        if surplus == 0 && !due {
            return;
        }
        self.next_event_expiry = second.saturating_add(60);
        let mut by_age: Vec<_> =
            table.objects.iter().map(|(key, entry)| (last_seen(&entry.object), Arc::clone(key))).collect();
        by_age.sort();
        let horizon = second.saturating_sub(self.limits.stored_event_seconds);
        for (index, (seen, key)) in by_age.into_iter().enumerate() {
            if index < surplus || seen < horizon {
                self.remove(&resource, &key, now);
            }
        }
    }
}
