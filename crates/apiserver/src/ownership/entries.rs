//! The entries of `metadata.managedFields`.

use serde_json::{Map, Value, json};

use super::changes::Changes;
use super::field_set::FieldSet;

/// How many entries of updates there may be before the oldest are put together.
const UPDATE_ENTRIES_MAX: usize = 10;
/// Owner of what too many old entries owned.
const ANCIENT: &str = "ancient-changes";

/// How fields came to be owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who writes what, how and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    /// `?fieldManager`, or what stands for it.
    pub(crate) manager: &'a str,
    pub(crate) operation: Operation,
    /// Version that the write is in.
    pub(crate) api_version: &'a str,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    /// The time as entries show it.
    pub(crate) time: &'a str,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: String,
    pub(super) fields: FieldSet,
}

impl Entry {
    /// An entry of this writer.
    pub(super) fn new(writer: &Writer<'_>, fields: FieldSet) -> Self {
        Self {
            manager: writer.manager.to_owned(),
            operation: writer.operation,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: writer.time.to_owned(),
            fields,
        }
    }

    /// Whether the writer's fields belong into this entry.
    pub(super) fn is_of(&self, writer: &Writer<'_>) -> bool {
        self.manager == writer.manager
            && self.operation == writer.operation
            && self.subresource == writer.subresource
            && (self.operation == Operation::Apply || self.api_version == writer.api_version)
    }

    fn decode(entry: Value) -> Option<Self> {
        let Value::Object(mut map) = entry else { return None };
        if map.get("fieldsType")?.as_str()? != "FieldsV1" {
            return None;
        }
        let operation = match map.get("operation")?.as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let fields = FieldSet::decode(map.remove("fieldsV1")?)?;
        let mut text = |key: &str| match map.remove(key) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        Some(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields,
        })
    }

    fn encode(self) -> Value {
        let mut map = Map::new();
        map.insert("manager".to_owned(), self.manager.into());
        map.insert("operation".to_owned(), self.operation.name().into());
        map.insert("apiVersion".to_owned(), self.api_version.into());
        if !self.time.is_empty() {
            map.insert("time".to_owned(), self.time.into());
        }
        map.insert("fieldsType".to_owned(), "FieldsV1".into());
        map.insert("fieldsV1".to_owned(), self.fields.encode());
        if !self.subresource.is_empty() {
            map.insert("subresource".to_owned(), self.subresource.into());
        }
        Value::Object(map)
    }
}

/// Reads a `managedFields`; `None` if an entry is malformed or there are none.
pub(crate) fn decode(managed_fields: Value) -> Option<Vec<Entry>> {
    let Value::Array(list) = managed_fields else { return None };
    let entries: Vec<Entry> = list.into_iter().map(Entry::decode).collect::<Option<_>>()?;
    (!entries.is_empty()).then_some(entries)
}

/// The `managedFields` in their order; `None` if there are none.
pub(crate) fn encode(mut entries: Vec<Entry>) -> Option<Value> {
    fn key(entry: &Entry) -> (Operation, &str, &str, &str, &str) {
        (entry.operation, &entry.time, &entry.manager, &entry.api_version, &entry.subresource)
    }
    entries.sort_by(|a, b| key(a).cmp(&key(b)));
    (!entries.is_empty()).then(|| Value::Array(entries.into_iter().map(Entry::encode).collect()))
}

/// Whether two `managedFields` say the same but for when.
pub(crate) fn same_but_for_time(a: Option<&Value>, b: Option<&Value>) -> bool {
    fn list(value: Option<&Value>) -> &[Value] {
        value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
    let same = |a: &Value, b: &Value| {
        let (Value::Object(a), Value::Object(b)) = (a, b) else { return false };
        let counts = |(key, _): &(&String, &Value)| *key != "time";
        a.iter().filter(counts).eq(b.iter().filter(counts))
    };
    let (a, mut b) = (list(a), list(b).iter().collect::<Vec<_>>());
    // A moved time may have moved the entry.
    a.len() == b.len()
        && a.iter().all(|entry| {
            let found = b.iter().position(|other| same(entry, other));
            found.map(|index| b.swap_remove(index)).is_some()
        })
}

/// Gives the writer of an update what it took, and takes from everyone what was taken or removed.
pub(super) fn take(entries: &mut Vec<Entry>, writer: &Writer<'_>, changes: Changes) {
    for entry in entries.iter_mut() {
        entry.fields.remove(&changes.removed);
        entry.fields.remove(&changes.taken);
    }
    if !changes.taken.is_empty() {
        match entries.iter_mut().find(|entry| entry.is_of(writer)) {
            Some(entry) => {
                entry.fields.add(&changes.taken);
                writer.time.clone_into(&mut entry.time);
            }
            None => entries.push(Entry::new(writer, changes.taken)),
        }
    }
    entries.retain(|entry| !entry.fields.is_empty());
    join_ancient(entries);
}

/// Puts the oldest entries of updates together once there are too many.
fn join_ancient(entries: &mut Vec<Entry>) {
    let updates =
        |entries: &[Entry]| entries.iter().filter(|entry| entry.operation == Operation::Update).count();
    while updates(entries) > UPDATE_ENTRIES_MAX {
        let oldest = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.operation == Operation::Update && entry.manager != ANCIENT)
            .min_by(|(_, a), (_, b)| a.time.cmp(&b.time))
            .map(|(index, _)| index);
        let Some(oldest) = oldest else { return };
        let old = entries.swap_remove(oldest);
        let ancient =
            entries.iter_mut().find(|entry| entry.manager == ANCIENT && entry.api_version == old.api_version);
        match ancient {
            Some(ancient) => {
                ancient.fields.add(&old.fields);
                ancient.time = old.time.max(std::mem::take(&mut ancient.time));
            }
            None => entries.push(Entry { manager: ANCIENT.to_owned(), subresource: String::new(), ..old }),
        }
    }
}

impl Entry {
    /// What conflict messages call the owner.
    pub(super) fn title(&self) -> String {
        let mut title = json!(self.manager).to_string();
        if !self.subresource.is_empty() {
            title.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            title.push_str(&format!(" using {}", self.api_version));
        }
        title
    }
}
