//! Watches: where they start and what comes next.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::meta;
use crate::resource::ResourceInfo;
use crate::status_error::{FieldError, StatusError};
use crate::store::history::{EventType, WatchEvent};
use crate::store::list::{options_error, parse_version, selects};
use crate::store::objects::{Entry, Store};
use crate::store::{ListRequest, WatchBatch, WatchCursor, WatchRequest, WatchStart};

/// Annotation of the bookmark that ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

fn check_options(request: &WatchRequest) -> Result<(), StatusError> {
    let matched = request.resource_version_match.as_deref().filter(|text| !text.is_empty());
    match (request.send_initial_events, matched) {
        (None, None) | (Some(_), Some("NotOlderThan")) => Ok(()),
        (None, Some(_)) => {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            Err(options_error(FieldError::forbidden("resourceVersionMatch", why)))
        }
        (Some(_), Some(other)) => Err(options_error(FieldError::not_supported(
            "resourceVersionMatch",
            &Value::from(other),
            ["NotOlderThan"],
        ))),
        (Some(_), None) => {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            Err(options_error(FieldError::forbidden("resourceVersionMatch", why)))
        }
    }
}

fn error_event(error: &StatusError, version: u64) -> WatchEvent {
    WatchEvent::new(EventType::Error, Arc::new(error.to_json()), version)
}

impl Store {
    /// Starts a watch.
    ///
    /// Malformed options are an error. A version that is too old or, on a streaming list, in the future is an ERROR
    /// event on a stream that ends with it, because clients recover only from that form.
    pub fn watch_start(
        &self,
        info: &Arc<ResourceInfo>,
        request: &WatchRequest,
    ) -> Result<WatchStart, StatusError> {
        request.fields.validate(info)?;
        check_options(request)?;
        let from = parse_version(request.resource_version.as_deref());
        let from = from.map_err(|why| StatusError::new(500, "", why))?.unwrap_or(0);
        let now = self.resource_version();
        let streaming = request.send_initial_events == Some(true);
        if streaming && from > now {
            let event = error_event(&StatusError::version_in_future(from, now), now);
            return Ok(WatchStart { events: vec![event], cursor: None });
        }
        let with_state = streaming || from == 0 && request.send_initial_events.is_none();
        let start = if with_state || from == 0 { now } else { from };
        let mut cursor = WatchCursor {
            resource: Arc::clone(info),
            namespace: request.namespace.clone(),
            labels: request.labels.clone(),
            fields: request.fields.clone(),
            version: start,
        };
        let oldest = self.oldest_version(info);
        if start < oldest {
            let event = error_event(&StatusError::too_old(start, oldest), now);
            return Ok(WatchStart { events: vec![event], cursor: None });
        }
        let mut events = Vec::new();
        if with_state {
            events = self.initial_events(info, request)?;
            if streaming && request.allow_bookmarks {
                events.push(self.bookmark_with(&cursor, json!({INITIAL_EVENTS_END: "true"})));
            }
        }
        cursor.version = start;
        Ok(WatchStart { events, cursor: Some(cursor) })
    }

    fn initial_events(
        &self,
        info: &Arc<ResourceInfo>,
        request: &WatchRequest,
    ) -> Result<Vec<WatchEvent>, StatusError> {
        let list = ListRequest {
            namespace: request.namespace.clone(),
            labels: request.labels.clone(),
            fields: request.fields.clone(),
            ..ListRequest::default()
        };
        let items = self.list(info, &list)?.items;
        let version_of = |object: &Value| meta::resource_version(object).parse().unwrap_or(0);
        Ok(items
            .into_iter()
            .map(|object| {
                let version = version_of(&object);
                WatchEvent::new(EventType::Added, object, version)
            })
            .collect())
    }

    /// What happened since the cursor, oldest first, at most `limit` events; moves the cursor.
    ///
    /// Fails with 410 if the history doesn't reach back to the cursor, and with 404 when the resource is gone and
    /// all its events were delivered: the stream ends then.
    pub fn events_since(&self, cursor: &mut WatchCursor, limit: usize) -> Result<WatchBatch, StatusError> {
        let mut batch = WatchBatch { events: Vec::new(), more: false };
        let info = Arc::clone(&cursor.resource);
        let now = self.resource_version();
        if let Some(table) = self.table(&info) {
            let oldest = table.history.oldest();
            let changes = table
                .history
                .since(cursor.version)
                .ok_or_else(|| StatusError::too_old(cursor.version, oldest))?;
            for change in changes {
                if batch.events.len() >= limit {
                    batch.more = true;
                    return Ok(batch);
                }
                let here =
                    cursor.namespace.as_ref().is_none_or(|namespace| change.key.namespace == *namespace);
                if here && cursor.fields.exact_name().is_none_or(|name| name == change.key.name) {
                    let seen = change.seen_by(|object| selects(&cursor.labels, &cursor.fields, object));
                    batch.events.extend(seen.map(|event| in_version(&info, event)));
                }
                cursor.version = change.version;
            }
        }
        cursor.version = cursor.version.max(now);
        if batch.events.is_empty()
            && self.registry.get(&info.gvk.group, &info.gvk.version, &info.plural).is_none()
        {
            return Err(StatusError::page_not_found());
        }
        Ok(batch)
    }

    /// A bookmark for a watch that has delivered all before its cursor.
    pub fn bookmark(&self, cursor: &WatchCursor) -> WatchEvent {
        self.bookmark_with(cursor, Value::Null)
    }

    fn bookmark_with(&self, cursor: &WatchCursor, annotations: Value) -> WatchEvent {
        let mut object = json!({
            "kind": cursor.resource.gvk.kind,
            "apiVersion": cursor.resource.api_version(),
            "metadata": {"resourceVersion": cursor.version.to_string(), "creationTimestamp": null},
        });
        if !annotations.is_null() {
            meta::metadata_mut(&mut object).insert("annotations".to_owned(), annotations);
        }
        WatchEvent::new(EventType::Bookmark, Arc::new(object), cursor.version)
    }
}

/// The event in the version of the watch.
fn in_version(info: &ResourceInfo, event: WatchEvent) -> WatchEvent {
    let lacks_defaults = event.version < info.schema_since;
    if info.is_storage_version() && !lacks_defaults {
        return event;
    }
    let entry = Entry::of(&event.object);
    WatchEvent::new(event.kind, Store::present(info, &entry), event.version)
}
