//! What messages consist of.
//!
//! The tables are texts, one paragraph per message: its name, and then `NUMBER NAME TYPE` per field. Types are `string`,
//! `int`, `bool`, `bytes`, `float`, the [`Special`] ones and names of messages; `[T]` is a list and `{T}` a map from text.
//! `=` behind a type says that zero is a value like others there, and not the same as nothing. `+MESSAGE` instead of
//! name and type says that the fields of that message belong to this one.

use std::collections::BTreeMap;
use std::sync::OnceLock;

const TEXTS: [&str; 3] = [include_str!("core.txt"), include_str!("groups.txt"), include_str!("meta.txt")];

/// Kinds that are known: `apiVersion` (`*` for any), `kind`, message.
const KINDS: &[(&str, &str, &str)] = &[
    ("v1", "Namespace", "Namespace"),
    ("v1", "ConfigMap", "ConfigMap"),
    ("v1", "Secret", "Secret"),
    ("v1", "ServiceAccount", "ServiceAccount"),
    ("v1", "Service", "Service"),
    ("v1", "Endpoints", "Endpoints"),
    ("v1", "Pod", "Pod"),
    ("v1", "Node", "Node"),
    ("v1", "Event", "CoreEvent"),
    ("v1", "ResourceQuota", "ResourceQuota"),
    ("v1", "LimitRange", "LimitRange"),
    ("v1", "Binding", "Binding"),
    ("apps/v1", "Deployment", "Deployment"),
    ("apps/v1", "ReplicaSet", "ReplicaSet"),
    ("apps/v1", "DaemonSet", "DaemonSet"),
    ("apps/v1", "StatefulSet", "StatefulSet"),
    ("apps/v1", "ControllerRevision", "ControllerRevision"),
    ("batch/v1", "Job", "Job"),
    ("batch/v1", "CronJob", "CronJob"),
    ("rbac.authorization.k8s.io/v1", "Role", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "ClusterRoleBinding"),
    ("networking.k8s.io/v1", "Ingress", "Ingress"),
    ("networking.k8s.io/v1", "NetworkPolicy", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget", "PodDisruptionBudget"),
    ("policy/v1", "Eviction", "Eviction"),
    ("scheduling.k8s.io/v1", "PriorityClass", "PriorityClass"),
    ("authentication.k8s.io/v1", "TokenRequest", "TokenRequest"),
    ("authentication.k8s.io/v1", "TokenReview", "TokenReview"),
    ("authentication.k8s.io/v1", "SelfSubjectReview", "SelfSubjectReview"),
    ("authorization.k8s.io/v1", "SubjectAccessReview", "SubjectAccessReview"),
    ("authorization.k8s.io/v1", "LocalSubjectAccessReview", "LocalSubjectAccessReview"),
    ("authorization.k8s.io/v1", "SelfSubjectAccessReview", "SelfSubjectAccessReview"),
    ("authorization.k8s.io/v1", "SelfSubjectRulesReview", "SelfSubjectRulesReview"),
    ("autoscaling/v1", "Scale", "Scale"),
    ("coordination.k8s.io/v1", "Lease", "Lease"),
    ("events.k8s.io/v1", "Event", "EventsEvent"),
    ("discovery.k8s.io/v1", "EndpointSlice", "EndpointSlice"),
    ("*", "DeleteOptions", "DeleteOptions"),
];

/// Types that are no messages in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    /// `{1 string}` as that string.
    Quantity,
    /// `{1 type, 2 int, 3 string}` as a number or a string.
    IntOrString,
    /// `{1 seconds, 2 nanos}` as RFC 3339 in whole seconds; nothing if empty.
    Time,
    /// The same with six digits of fractions.
    MicroTime,
    /// `{1 raw}` as the JSON that the bytes are.
    Json,
    /// `{1 nanoseconds}` as Go prints durations.
    Duration,
    /// `{1 repeated string}` as a list.
    Items,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    String,
    Int,
    Bool,
    Bytes,
    Float,
    Special(Special),
    Message(&'static str),
}

/// How many values a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    One,
    /// One, and its fields are those of the message around it.
    Inline,
    List,
    Map,
}

/// A field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) value: Type,
    pub(super) count: Count,
    /// Whether zero values count.
    pub(super) keeps_zero: bool,
}

/// The fields of a message by their numbers.
pub(super) type Message = BTreeMap<u32, Field>;

/// All messages.
#[derive(Debug)]
pub(super) struct Table {
    messages: BTreeMap<&'static str, Message>,
}

impl Table {
    /// The table, read once for the process.
    pub(super) fn get() -> &'static Self {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(|| Self::read(&TEXTS))
    }

    fn read(texts: &[&'static str]) -> Self {
        let paragraphs = texts.iter().flat_map(|text| text.split("\n\n"));
        let messages = paragraphs.filter_map(|paragraph| {
            let (name, fields) = paragraph.trim().split_once('\n').unwrap_or((paragraph.trim(), ""));
            let fields = fields.split(',').filter(|field| !field.trim().is_empty());
            (!name.is_empty()).then(|| (name, fields.map(field).collect()))
        });
        Self { messages: messages.collect() }
    }

    /// The message of a kind.
    pub(super) fn message_of(&self, api_version: &str, kind: &str) -> Option<&Message> {
        let known = KINDS.iter().find(|known| known.1 == kind && (known.0 == "*" || known.0 == api_version));
        known.and_then(|(_, _, message)| self.message(message))
    }

    /// A message by its name.
    pub(super) fn message(&self, name: &str) -> Option<&Message> {
        self.messages.get(name)
    }

    #[cfg(test)]
    pub(super) fn messages(&self) -> impl Iterator<Item = (&'static str, &Message)> {
        self.messages.iter().map(|(name, message)| (*name, message))
    }
}

#[cfg(test)]
pub(super) const fn kinds() -> &'static [(&'static str, &'static str, &'static str)] {
    KINDS
}

fn field(text: &'static str) -> (u32, Field) {
    let mut words = text.split_whitespace();
    let mut word = || words.next().expect("the tables have a number, a name and a type for each field");
    let number = word().parse().expect("the tables begin each field with its number");
    let name = word();
    if let Some(message) = name.strip_prefix('+') {
        let inline = Field { name: "", value: type_of(message), count: Count::Inline, keeps_zero: false };
        return (number, inline);
    }
    let value = word();
    let (value, keeps_zero) = value.strip_suffix('=').map_or((value, false), |value| (value, true));
    let within = |open, close| value.strip_prefix(open).and_then(|value| value.strip_suffix(close));
    let (value, count) = match (within('[', ']'), within('{', '}')) {
        (Some(item), _) => (item, Count::List),
        (_, Some(item)) => (item, Count::Map),
        _ => (value, Count::One),
    };
    (number, Field { name, value: type_of(value), count, keeps_zero })
}

fn type_of(name: &'static str) -> Type {
    match name {
        "string" => Type::String,
        "int" => Type::Int,
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "float" => Type::Float,
        "Quantity" => Type::Special(Special::Quantity),
        "IntOrString" => Type::Special(Special::IntOrString),
        "Time" => Type::Special(Special::Time),
        "MicroTime" => Type::Special(Special::MicroTime),
        "Json" => Type::Special(Special::Json),
        "Duration" => Type::Special(Special::Duration),
        "Items" => Type::Special(Special::Items),
        message => Type::Message(message),
    }
}
