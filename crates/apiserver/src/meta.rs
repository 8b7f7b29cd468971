//! `metadata` of objects: reading, and the rules for names, labels and annotations.

use serde_json::{Map, Value};

use crate::limits::Limits;
use crate::status_error::{FieldError, FieldProblem};

/// The `metadata` map.
pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata").and_then(Value::as_object)
}

/// The `metadata` map for writing; made if it is absent or no map.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_mut(map_of(object), "metadata")
}

/// The value as a map; anything else becomes an empty one.
pub fn map_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made a map just now")
}

/// The map under a key; made if it is absent or no map.
pub fn map_mut<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    map_of(map.entry(key.to_owned()).or_insert(Value::Null))
}

/// A text of the metadata, empty if absent.
pub fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    metadata(object).and_then(|map| map.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.name`, empty if absent.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`, empty if absent.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`, empty if absent.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`, empty if absent.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// Whether `metadata.deletionTimestamp` is set.
pub fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// `metadata.generation`, zero if absent.
pub fn generation(object: &Value) -> i64 {
    metadata(object).and_then(|map| map.get("generation")).and_then(Value::as_i64).unwrap_or(0)
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "finalizers").iter().filter_map(Value::as_str)
}

/// `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> &[Value] {
    list(object, "ownerReferences")
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    metadata(object).and_then(|map| map.get(key)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A label's value.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    metadata(object)?.get("labels")?.get(key)?.as_str()
}

/// Removes the keys of a map whose value is null.
pub fn drop_nulls(map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null());
}

/// A point in time as Kubernetes prints it: whole seconds, UTC.
pub fn timestamp(now: jiff::Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

const LABEL_CHARACTERS: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
     and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
     validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED_CHARACTERS: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
     with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const SUBDOMAIN_CHARACTERS: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_LABEL_CHARACTERS: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
     must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const RFC1035_CHARACTERS: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
     alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation \
     is '[a-z]([-a-z0-9]*[a-z0-9])?')";

fn words(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// What is wrong with a label's value.
pub fn label_value_problem(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some("must be no more than 63 characters".to_owned());
    }
    (!value.is_empty() && !words(value)).then(|| LABEL_CHARACTERS.to_owned())
}

/// What is wrong with the key of a label, annotation or the like.
pub fn label_name_problem(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix == Some("") {
        return Some("prefix part must be non-empty".to_owned());
    }
    if let Some(problem) = prefix.and_then(subdomain_problem) {
        return Some(format!("prefix part {problem}"));
    }
    if name.is_empty() {
        return Some(format!("name part must be non-empty; {QUALIFIED_CHARACTERS}"));
    }
    if name.len() > 63 {
        return Some("name part must be no more than 63 characters".to_owned());
    }
    (!words(name)).then(|| QUALIFIED_CHARACTERS.to_owned())
}

fn is_dns_label(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// What is wrong with a name that has to be an RFC 1123 subdomain.
pub fn subdomain_problem(text: &str) -> Option<String> {
    if text.len() > 253 {
        return Some("must be no more than 253 characters".to_owned());
    }
    (!text.split('.').all(is_dns_label)).then(|| SUBDOMAIN_CHARACTERS.to_owned())
}

/// What is wrong with a name that has to be an RFC 1123 label.
pub fn dns_label_problem(text: &str) -> Option<String> {
    if text.len() > 63 {
        return Some("must be no more than 63 characters".to_owned());
    }
    (!is_dns_label(text)).then(|| DNS_LABEL_CHARACTERS.to_owned())
}

/// What is wrong with a name that has to be an RFC 1035 label.
pub fn rfc1035_label_problem(text: &str) -> Option<String> {
    if text.len() > 63 {
        return Some("must be no more than 63 characters".to_owned());
    }
    let letter = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    (!letter || !is_dns_label(text)).then(|| RFC1035_CHARACTERS.to_owned())
}

/// What is wrong with a name that only has to be one segment of a path.
pub fn path_segment_problem(text: &str) -> Option<String> {
    if text == "." || text == ".." {
        return Some(format!("may not be '{text}'"));
    }
    ['/', '%'].iter().find(|c| text.contains(**c)).map(|c| format!("may not contain '{c}'"))
}

/// Which rule the names of a kind follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain.
    Subdomain,
    /// RFC 1123 label.
    DnsLabel,
    /// RFC 1035 label.
    Rfc1035Label,
    /// Any segment of a path.
    PathSegment,
}

impl NameRule {
    /// The rule of a resource.
    pub fn of(group: &str, plural: &str) -> Self {
        match (group, plural) {
            ("", "namespaces") => Self::DnsLabel,
            ("", "services") => Self::Rfc1035Label,
            ("rbac.authorization.k8s.io", _) => Self::PathSegment,
            _ => Self::Subdomain,
        }
    }

    /// What is wrong with this name.
    pub fn problem(self, name: &str) -> Option<String> {
        match self {
            Self::Subdomain => subdomain_problem(name),
            Self::DnsLabel => dns_label_problem(name),
            Self::Rfc1035Label => rfc1035_label_problem(name),
            Self::PathSegment => path_segment_problem(name),
        }
    }
}

/// Checks name, labels, annotations, finalizers and owner references of an object that is to be stored.
pub fn validate(object: &Value, rule: NameRule, limits: &Limits) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = name(object);
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else if let Some(problem) = rule.problem(name) {
        errors.push(FieldError::invalid("metadata.name", &Value::from(name), problem));
    }
    validate_labels(object.pointer("/metadata/labels"), "metadata.labels", &mut errors);
    validate_annotations(object, limits, &mut errors);
    for reference in owner_references(object) {
        validate_owner(reference, &mut errors);
    }
    let controllers = owner_references(object)
        .iter()
        .filter(|reference| reference.get("controller").and_then(Value::as_bool) == Some(true));
    if controllers.count() > 1 {
        let value = Value::Array(owner_references(object).to_vec());
        let detail = "Only one reference can have Controller set to true";
        errors.push(FieldError::invalid("metadata.ownerReferences", &value, detail));
    }
    for finalizer in finalizers(object) {
        if let Some(problem) = label_name_problem(finalizer) {
            errors.push(FieldError::invalid("metadata.finalizers", &Value::from(finalizer), problem));
        }
    }
    errors
}

fn validate_owner(reference: &Value, errors: &mut Vec<FieldError>) {
    const PATH: &str = "metadata.ownerReferences";
    let text = |key: &str| reference.get(key).and_then(Value::as_str).unwrap_or_default();
    for key in ["apiVersion", "kind", "name", "uid"] {
        if text(key).is_empty() {
            let what = if key == "apiVersion" { "version " } else { "" };
            let why = format!("{what}must not be empty");
            errors.push(FieldError::invalid(format!("{PATH}.{key}"), &Value::from(""), why));
        }
    }
    if (text("apiVersion"), text("kind")) == ("v1", "Event") {
        let why = "/v1, Kind=Event is disallowed from being an owner";
        errors.push(FieldError::invalid(PATH, reference, why));
    }
}

/// Checks a map of labels.
pub fn validate_labels(labels: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        if let Some(problem) = label_name_problem(key) {
            errors.push(FieldError::invalid(path, &Value::from(key.as_str()), problem));
        }
        if let Some(problem) = value.as_str().and_then(label_value_problem) {
            errors.push(FieldError::invalid(path, value, problem));
        }
    }
}

fn validate_annotations(object: &Value, limits: &Limits, errors: &mut Vec<FieldError>) {
    let mut bytes = 0;
    for (key, value) in
        object.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flatten()
    {
        // Annotation keys may have capitals in their prefix, unlike label keys.
        if let Some(problem) = label_name_problem(&key.to_ascii_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", &Value::from(key.as_str()), problem));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > limits.annotation_bytes {
        let detail = format!("may not be more than {} bytes", limits.annotation_bytes);
        errors.push(FieldError::new("metadata.annotations", FieldProblem::TooLong, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_follow_the_rule_of_their_kind() {
        for (rule, name, fine) in [
            (NameRule::Subdomain, "a.b-c.d", true),
            (NameRule::Subdomain, "A", false),
            (NameRule::Subdomain, "a..b", false),
            (NameRule::DnsLabel, "a.b", false),
            (NameRule::DnsLabel, "1-a", true),
            (NameRule::Rfc1035Label, "1-a", false),
            (NameRule::PathSegment, "system:node", true),
            (NameRule::PathSegment, "a/b", false),
        ] {
            assert_eq!(rule.problem(name).is_none(), fine, "{rule:?} {name}");
        }
    }

    #[test]
    fn bad_labels_and_too_large_annotations_are_named_with_their_path() {
        let object = json!({"metadata": {
            "name": "x", "labels": {"a/b/c": "v", "k": "-"}, "annotations": {"a": "x".repeat(300_000)}}});
        let fields: Vec<String> =
            validate(&object, NameRule::Subdomain, &Limits::default()).into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["metadata.labels", "metadata.labels", "metadata.annotations"]);
    }

    #[test]
    fn times_are_whole_seconds_in_utc() {
        let now: jiff::Timestamp = "2024-05-06T07:08:09.987Z".parse().expect("a timestamp");
        assert_eq!(timestamp(now), "2024-05-06T07:08:09Z");
    }
}
