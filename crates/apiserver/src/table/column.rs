//! Column definitions, and how cells are read out of objects.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::age::age_cell;
use super::json_path::JsonPath;
use crate::resource::PrinterColumn;

/// A column of a built-in kind: name, JSON type, priority (0 shows always, 1 with `-o wide`), description.
pub(super) type Spec = (&'static str, &'static str, i64, &'static str);

pub(super) const NAME: Spec = ("Name", "string", 0, "Name of the object, unique in its namespace.");
pub(super) const AGE: Spec = ("Age", "string", 0, "Time since the object was created.");
pub(super) const NAME_AND_AGE: &[Spec] = &[NAME, AGE];

pub(super) const CONTAINERS: Spec = ("Containers", "string", 1, "Names of the containers in the template.");
pub(super) const IMAGES: Spec = ("Images", "string", 1, "Images of the containers in the template.");
pub(super) const SELECTOR: Spec = ("Selector", "string", 1, "Label selector of the pods that belong to it.");

/// What a cell prints for a value that isn't there, in columns of built-in kinds.
pub(super) const NONE: &str = "<none>";
/// What a cell prints for a value that can't be known.
pub(super) const UNKNOWN: &str = "<unknown>";

/// One entry of `columnDefinitions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    name: String,
    value_type: String,
    format: String,
    description: String,
    priority: i64,
}

impl From<&Spec> for Column {
    fn from((name, value_type, priority, description): &Spec) -> Self {
        // kubectl finds the object's name by this format, not by the column's position.
        let format = if *name == "Name" { "name" } else { "" };
        Self {
            name: (*name).to_owned(),
            value_type: (*value_type).to_owned(),
            format: format.to_owned(),
            description: (*description).to_owned(),
            priority: *priority,
        }
    }
}

impl Column {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.value_type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

/// How much of each object a table carries beside its cells (`?includeObject=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// A `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter; `None` when the value isn't one of the three.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }

    pub(super) fn embed(self, object: &Value) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Object => object.clone(),
            Self::Metadata => partial_object_metadata(object),
        }
    }
}

/// The object's `PartialObjectMetadata`.
pub(crate) fn partial_object_metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// Reads an object's cells; the moment is what ages are counted to.
pub(super) type CellsOf = fn(&Value, Timestamp) -> Vec<Value>;

/// Where a printer's cells come from.
#[derive(Debug, Clone)]
pub(super) enum Cells {
    Builtin(CellsOf),
    Custom(Vec<CustomColumn>),
}

/// A column of a custom kind.
#[derive(Debug, Clone)]
pub(super) struct CustomColumn {
    value_type: String,
    /// `None` when the path does not parse: such a column stays empty.
    path: Option<JsonPath>,
}

impl From<&PrinterColumn> for Column {
    fn from(definition: &PrinterColumn) -> Self {
        let described = || format!("Value of {} in the object.", definition.json_path);
        Self {
            name: definition.name.clone(),
            value_type: definition.kind.clone(),
            format: definition.format.clone(),
            description: Some(definition.description.clone())
                .filter(|text| !text.is_empty())
                .unwrap_or_else(described),
            priority: definition.priority,
        }
    }
}

impl From<&PrinterColumn> for CustomColumn {
    fn from(definition: &PrinterColumn) -> Self {
        Self { value_type: definition.kind.clone(), path: JsonPath::parse(&definition.json_path).ok() }
    }
}

impl CustomColumn {
    /// The cell's value, null where the path finds nothing or something of another type.
    pub(super) fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let Some(value) = self.path.as_ref().and_then(|path| path.first(object)) else {
            return Value::Null;
        };
        match self.value_type.as_str() {
            "string" => plain_text(value).into(),
            "boolean" => value.as_bool().map_or(Value::Null, Value::from),
            "integer" => match (value.as_i64(), value.as_f64()) {
                (Some(integer), _) => integer.into(),
                (None, Some(float)) => (float as i64).into(),
                (None, None) => Value::Null,
            },
            "number" => value.as_number().map_or(Value::Null, |number| number.clone().into()),
            "date" => value.as_str().map_or(Value::Null, |text| age_cell(Some(text), now).into()),
            _ => Value::Null,
        }
    }
}

/// A value as text: strings unquoted, everything else as JSON.
fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

pub(super) fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub(super) fn name(object: &Value) -> Value {
    text(object, "/metadata/name").unwrap_or_default().into()
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    age_cell(text(object, "/metadata/creationTimestamp"), now).into()
}

/// The non-empty string at a JSON pointer.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// The integer at a JSON pointer, 0 where there is none.
pub(super) fn count(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The list at a JSON pointer, empty where there is none.
pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The map at a JSON pointer.
pub(super) fn map<'a>(object: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    object.pointer(pointer).and_then(Value::as_object)
}

/// Joins texts with commas; `<none>` for no text at all.
pub(super) fn joined<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let joined = texts.into_iter().collect::<Vec<_>>().join(",");
    if joined.is_empty() { NONE.to_owned() } else { joined }
}

/// A map of labels as `a=b,c=d`.
pub(super) fn labels_text(labels: Option<&Map<String, Value>>) -> String {
    let mut text = String::new();
    for (key, value) in labels.into_iter().flatten() {
        let separator = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{separator}{key}={}", value.as_str().unwrap_or_default());
    }
    if text.is_empty() { NONE.to_owned() } else { text }
}

/// A `LabelSelector` as `a=b,c in (d,e)`.
pub(super) fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return NONE.to_owned();
    };
    let mut parts = Vec::new();
    for (key, value) in map(selector, "/matchLabels").into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in list(selector, "/matchExpressions") {
        let key = text(expression, "/key").unwrap_or_default();
        let values =
            list(expression, "/values").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
        parts.push(match text(expression, "/operator").unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            other => format!("{key} {other} ({values})"),
        });
    }
    if parts.is_empty() { NONE.to_owned() } else { parts.join(",") }
}

/// The condition of this type in `status.conditions`.
pub(super) fn condition<'a>(object: &'a Value, condition_type: &str) -> Option<&'a Value> {
    list(object, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == Some(condition_type))
}
