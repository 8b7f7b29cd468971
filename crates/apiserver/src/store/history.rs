//! The event log of one resource: what changed, in the order of resource versions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;

use crate::limits::Limits;
use crate::meta;
use crate::store::objects::Key;

/// The kind of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// The object came into what the watch selects.
    Added,
    /// The object changed.
    Modified,
    /// The object left what the watch selects.
    Deleted,
    /// Only a resource version.
    Bookmark,
    /// A `Status`; the stream ends after it.
    Error,
}

impl EventType {
    /// The text on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
            Self::Error => "ERROR",
        }
    }
}

/// One event of a watch stream.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventType,
    /// The object with `kind` and `apiVersion`, in the version of the watch.
    pub object: Arc<Value>,
    /// Resource version of the event.
    pub version: u64,
    /// The encoded line, shared by all watches that see the same event in the same form.
    line: Arc<OnceLock<Bytes>>,
}

impl WatchEvent {
    /// An event of its own.
    pub fn new(kind: EventType, object: Arc<Value>, version: u64) -> Self {
        Self { kind, object, version, line: Arc::default() }
    }

    /// The event as one line of JSON with its line feed; encoded once for all watches.
    pub fn json_line(&self) -> Bytes {
        self.line.get_or_init(|| encode_line(self.kind, &self.object)).clone()
    }
}

fn encode_line(kind: EventType, object: &Value) -> Bytes {
    let mut line = format!("{{\"type\":\"{}\",\"object\":", kind.as_str()).into_bytes();
    serde_json::to_writer(&mut line, object).expect("a JSON value is always encodable");
    line.extend_from_slice(b"}\n");
    Bytes::from(line)
}

/// One write.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) second: i64,
    /// Length of the object's JSON, for the limit on the history.
    pub(crate) bytes: usize,
    pub(crate) key: Arc<Key>,
    /// What was there before.
    pub(crate) old: Option<Arc<Value>>,
    /// What is there since.
    pub(crate) new: Option<Arc<Value>>,
    /// The last content of a deleted object under the version of the deletion.
    pub(crate) last: Option<Arc<Value>>,
    lines: [Arc<OnceLock<Bytes>>; 3],
}

impl Change {
    /// A write at a version and a second; what there was and is comes with the builder methods.
    pub(crate) fn new(version: u64, second: i64, key: Arc<Key>, bytes: usize) -> Self {
        Self { version, second, bytes, key, old: None, new: None, last: None, lines: Default::default() }
    }

    pub(crate) fn before(mut self, old: Option<Arc<Value>>) -> Self {
        self.old = old;
        self
    }

    pub(crate) fn after(mut self, new: Arc<Value>) -> Self {
        self.new = Some(new);
        self
    }

    pub(crate) fn then_gone(mut self, last: Arc<Value>) -> Self {
        self.last = Some(last);
        self
    }

    /// What a watch that selects by `matches` sees of this write.
    pub(crate) fn seen_by(&self, matches: impl Fn(&Value) -> bool) -> Option<WatchEvent> {
        let before = self.old.as_ref().filter(|object| matches(object));
        let after = self.new.as_ref().filter(|object| matches(object));
        let [added, modified, deleted] = &self.lines;
        let event = |kind, object: &Arc<Value>, line: &Arc<OnceLock<Bytes>>| WatchEvent {
            kind,
            object: Arc::clone(object),
            version: self.version,
            line: Arc::clone(line),
        };
        match (before, after) {
            (None, None) => None,
            (None, Some(new)) => Some(event(EventType::Added, new, added)),
            (Some(_), Some(new)) => Some(event(EventType::Modified, new, modified)),
            (Some(old), None) => Some(match &self.last {
                Some(last) => event(EventType::Deleted, last, deleted),
                None => {
                    WatchEvent::new(EventType::Deleted, Arc::new(at_version(old, self.version)), self.version)
                }
            }),
        }
    }
}

/// The object under another resource version.
pub(crate) fn at_version(object: &Value, version: u64) -> Value {
    let mut object = object.clone();
    meta::metadata_mut(&mut object).insert("resourceVersion".to_owned(), Value::from(version.to_string()));
    object
}

/// The writes of one resource that are still known.
#[derive(Clone, Debug)]
pub(crate) struct History {
    changes: VecDeque<Arc<Change>>,
    /// All changes after this version are known.
    complete_after: u64,
    bytes: usize,
}

impl History {
    pub(crate) fn new(complete_after: u64) -> Self {
        Self { changes: VecDeque::new(), complete_after, bytes: 0 }
    }

    /// The oldest version from which a watch can start.
    pub(crate) fn oldest(&self) -> u64 {
        self.complete_after
    }

    pub(crate) fn push(&mut self, change: Change, limits: &Limits) {
        self.bytes += change.bytes;
        self.changes.push_back(Arc::new(change));
        while self.changes.len() > limits.history_events
            || self.bytes > limits.history_bytes && self.changes.len() > 1
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(change) = self.changes.pop_front() {
            self.complete_after = change.version;
            self.bytes -= change.bytes;
        }
    }

    /// Forgets what is older than the limit.
    pub(crate) fn trim(&mut self, now_second: i64, limits: &Limits) {
        let horizon = now_second.saturating_sub(limits.history_seconds);
        while self.changes.front().is_some_and(|change| change.second < horizon) {
            self.forget_oldest();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Changes after a version, oldest first; `None` if some of them are forgotten.
    pub(crate) fn since(&self, version: u64) -> Option<impl Iterator<Item = &Arc<Change>>> {
        let start = self.changes.partition_point(|change| change.version <= version);
        (version >= self.complete_after).then(|| self.changes.range(start..))
    }

    /// For each object that changed after a version: what it was then.
    pub(crate) fn undo_until(&self, version: u64) -> Option<BTreeMap<&Key, Option<&Arc<Value>>>> {
        let mut then = BTreeMap::new();
        for change in self.since(version)? {
            then.entry(&*change.key).or_insert(change.old.as_ref());
        }
        Some(then)
    }
}
