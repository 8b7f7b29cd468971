//! Arguments and results of the store's methods.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::admission::Requester;
use crate::resource::ResourceInfo;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status_error::StatusError;
use crate::store::history::WatchEvent;

/// One object of one resource.
#[derive(Clone, Debug)]
pub struct Target {
    /// The resource in the version that the client asked for.
    pub resource: Arc<ResourceInfo>,
    /// Namespace, `None` exactly on cluster-scoped resources.
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
}

/// Which part of an object a request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subresource {
    /// The object itself.
    #[default]
    Main,
    /// `/status`.
    Status,
    /// `/scale`: the body and the answer are an `autoscaling/v1 Scale`.
    Scale,
    /// `/finalize` of a namespace.
    Finalize,
}

/// What happens with fields that the schema doesn't know and with keys that occur twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped with a warning each.
    #[default]
    Warn,
    /// The request is refused.
    Strict,
}

/// A decoded request body.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The object.
    pub value: Value,
    /// Paths of keys that occurred twice in one map; the last value counts.
    pub duplicates: Vec<String>,
}

impl From<Value> for Body {
    fn from(value: Value) -> Self {
        Self { value, duplicates: Vec::new() }
    }
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Do all but the commit.
    pub dry_run: bool,
    /// `?fieldManager`, or what stands for it.
    pub field_manager: Option<String>,
    /// `?fieldValidation`.
    pub field_validation: FieldValidation,
    /// `?force` of an apply.
    pub force: bool,
    /// Who asks; `None` for the server itself, which may do all.
    pub requester: Option<Arc<Requester>>,
}

/// Result of create, update and patch.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object as it is now (or would be, on a dry run).
    pub object: Arc<Value>,
    /// One text for each `Warning` header.
    pub warnings: Vec<String>,
    /// Whether the write created the object: 201 and not 200.
    pub created: bool,
}

/// The format of a patch body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' strategic merge patch.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchType {
    /// The format of a `Content-Type`, without its parameters.
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        match content_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// How the dependents of a deleted object fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They are collected afterwards.
    #[default]
    Background,
    /// They go first.
    Foreground,
    /// They stay, without the owner reference.
    Orphan,
}

/// Options of delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Do all but the commit.
    pub dry_run: bool,
    /// Wanted grace, `Some(0)` for at once.
    pub grace_period_seconds: Option<i64>,
    /// How the dependents fare; `None` is the kind's default.
    pub propagation: Option<Propagation>,
    /// Delete only the object with this uid.
    pub uid: Option<String>,
    /// Delete only the object with this resource version.
    pub resource_version: Option<String>,
    /// Who asks; `None` for the server itself.
    pub requester: Option<Arc<Requester>>,
}

/// Result of a delete.
#[derive(Clone, Debug)]
pub struct DeleteOutcome {
    /// The object as it was last, or as it is while finalizers or a grace period keep it.
    pub object: Arc<Value>,
    /// Whether it is gone.
    pub gone: bool,
}

impl DeleteOutcome {
    /// The answer to the client: the object, or for most kinds that are gone at once a `Status`.
    pub fn response(&self, info: &ResourceInfo) -> Value {
        let answers_object = ["pods", "serviceaccounts", "persistentvolumes", "persistentvolumeclaims"];
        let core = info.builtin && info.gvk.group.is_empty();
        if !self.gone || core && answers_object.contains(&info.plural.as_str()) {
            return (*self.object).clone();
        }
        let mut details = Map::new();
        let metadata = self.object.get("metadata");
        let text =
            |key: &str| metadata.and_then(|map| map.get(key)).and_then(Value::as_str).unwrap_or_default();
        for (key, text) in [
            ("name", text("name")),
            ("group", info.gvk.group.as_str()),
            ("kind", info.plural.as_str()),
            ("uid", text("uid")),
        ] {
            if !text.is_empty() {
                details.insert(key.to_owned(), Value::from(text));
            }
        }
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
    }
}

/// Which objects a list is about.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// One namespace, or `None` for all and for cluster-scoped resources.
    pub namespace: Option<String>,
    /// `?labelSelector`.
    pub labels: LabelSelector,
    /// `?fieldSelector`.
    pub fields: FieldSelector,
    /// `?limit`, zero means none.
    pub limit: u64,
    /// `?continue`.
    pub continue_token: Option<String>,
    /// `?resourceVersion` as the client sent it.
    pub resource_version: Option<String>,
    /// `?resourceVersionMatch` as the client sent it.
    pub resource_version_match: Option<String>,
    /// `?sendInitialEvents`, which is forbidden on lists.
    pub send_initial_events: Option<bool>,
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct ListResult {
    /// Objects by namespace and name, with `kind` and `apiVersion`.
    pub items: Vec<Arc<Value>>,
    /// The store's version at the snapshot.
    pub resource_version: u64,
    /// Token of the next page.
    pub continue_token: Option<String>,
    /// How many objects follow this page, where that is known cheaply.
    pub remaining: Option<u64>,
}

/// Which changes a watch is about.
#[derive(Clone, Debug, Default)]
pub struct WatchRequest {
    /// One namespace, or `None` for all and for cluster-scoped resources.
    pub namespace: Option<String>,
    /// `?labelSelector`.
    pub labels: LabelSelector,
    /// `?fieldSelector`.
    pub fields: FieldSelector,
    /// `?resourceVersion` as the client sent it.
    pub resource_version: Option<String>,
    /// `?resourceVersionMatch` as the client sent it.
    pub resource_version_match: Option<String>,
    /// `?sendInitialEvents`.
    pub send_initial_events: Option<bool>,
    /// `?allowWatchBookmarks`.
    pub allow_bookmarks: bool,
}

/// Where a watch stands. Opaque; pass it back to [`crate::store::Store::events_since`].
#[derive(Clone, Debug)]
pub struct WatchCursor {
    pub(crate) resource: Arc<ResourceInfo>,
    pub(crate) namespace: Option<String>,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    pub(crate) version: u64,
}

impl WatchCursor {
    /// Everything up to this resource version was delivered.
    pub fn resource_version(&self) -> u64 {
        self.version
    }
}

/// The beginning of a watch stream.
#[derive(Clone, Debug)]
pub struct WatchStart {
    /// What to send at once: existing objects, the bookmark that ends them, or one ERROR.
    pub events: Vec<WatchEvent>,
    /// Where to go on; `None` if the stream ends after these events.
    pub cursor: Option<WatchCursor>,
}

/// The next events of a watch.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// Events in the order of their versions.
    pub events: Vec<WatchEvent>,
    /// Whether the limit cut the batch short: poll again at once.
    pub more: bool,
}

impl Body {
    /// Decodes JSON or, with that content type, YAML. Refuses what isn't an object, and too deep nesting.
    pub fn decode(bytes: &[u8], content_type: &str) -> Result<Self, StatusError> {
        crate::schema::decode::decode(bytes, content_type)
    }
}
