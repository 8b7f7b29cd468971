//! Writes to the API server: merge patches that carry the version they are based on.
//!
//! A conflict is no error: somebody else was faster, the watch brings what they wrote, and the next pass decides anew. A
//! refusal is one that trying again does not mend.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object has changed since it was read; look again and decide anew.
    #[error("{what}: the object has changed in the meantime")]
    Conflict {
        /// What was to be written
        what: String,
    },
    /// The object is gone; there is nothing to write.
    #[error("{what}: the object is gone")]
    Gone {
        /// What was to be written
        what: String,
    },
    /// The API server does not want it; trying again is of no use.
    #[error("{what}: refused: {message}")]
    Refused {
        /// What was to be written
        what: String,
        /// What the API server said
        message: String,
    },
    /// The API server could not be asked, or was too busy; try again later.
    #[error("{what}: the API server did not answer")]
    Unavailable {
        /// What was to be written
        what: String,
        /// What went wrong
        #[source]
        source: Box<kube::Error>,
    },
}

impl WriteError {
    /// Tells the kinds of failure apart.
    pub fn of(what: impl Into<String>, error: kube::Error) -> Self {
        let what = what.into();
        match error {
            kube::Error::Api(status) => match status.code {
                404 | 410 => Self::Gone { what },
                409 => Self::Conflict { what },
                429 | 500.. => Self::Unavailable { what, source: Box::new(kube::Error::Api(status)) },
                _ => Self::Refused { what, message: status.message },
            },
            other => Self::Unavailable { what, source: Box::new(other) },
        }
    }

    /// Whether the same write may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// The merge patch (RFC 7386) that makes the second value of the first; `None` where they are the same.
///
/// Only objects are looked into; lists are replaced as a whole.
#[must_use]
pub fn merge_patch(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return Some(to.clone()) };
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in to {
        match from.get(key) {
            None => drop(patch.insert(key.clone(), value.clone())),
            Some(before) => drop(merge_patch(before, value).map(|value| patch.insert(key.clone(), value))),
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// The part of an object that a patch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status
    Main,
    /// The status
    Status,
}

/// Applies a merge patch to an object of that version, and returns what it has become.
pub async fn patch<K>(
    api: &Api<K>,
    name: &str,
    resource_version: Option<&str>,
    part: Part,
    patch: Value,
) -> Result<K, WriteError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(based_on(resource_version, patch)));
    let done = match part {
        Part::Main => api.patch(name, &parameters, &patch).await,
        Part::Status => api.patch_status(name, &parameters, &patch).await,
    };
    done.map_err(|error| WriteError::of(format!("{} {name}", K::kind(&())), error))
}

/// A patch that applies to this version only.
fn based_on(resource_version: Option<&str>, mut patch: Value) -> Value {
    if let (Some(version), Value::Object(fields)) = (resource_version, &mut patch) {
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            metadata.insert("resourceVersion".to_owned(), version.into());
        }
    }
    patch
}

/// A write of one object, as data.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// What it is called where people read of it
    pub what: String,
    /// Path of the objects of its kind, in its namespace
    pub collection: String,
    /// Its name
    pub name: String,
    /// What is done to it
    pub action: Action,
}

/// What is done to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It is made. That it is there already is a conflict
    Create(Value),
    /// It is changed by a merge patch, which names the version that it is based on
    Patch(Part, Value),
    /// It is deleted, if it is that one. That it is gone already is success
    Delete(Preconditions),
}

impl Write {
    /// A new object.
    pub fn create<K>(object: &K) -> Result<Self, serde_json::Error>
    where
        K: Resource<DynamicType = ()> + serde::Serialize,
    {
        Ok(Self::of("new ", object, Action::Create(serde_json::to_value(object)?)))
    }

    /// A merge patch of that version of an object.
    #[must_use]
    pub fn patch<K: Resource<DynamicType = ()>>(object: &K, part: Part, patch: Value) -> Self {
        let version = object.meta().resource_version.as_deref();
        Self::of("", object, Action::Patch(part, based_on(version, patch)))
    }

    /// The end of that very object, whatever has become of it.
    #[must_use]
    pub fn delete<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        let uid = object.meta().uid.clone();
        Self::of("delete ", object, Action::Delete(Preconditions { uid, resource_version: None }))
    }

    /// The end of that very object, if it has not changed.
    #[must_use]
    pub fn delete_unchanged<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        let (uid, resource_version) = (object.meta().uid.clone(), object.meta().resource_version.clone());
        Self::of("delete ", object, Action::Delete(Preconditions { uid, resource_version }))
    }

    fn of<K: Resource<DynamicType = ()>>(verb: &str, object: &K, action: Action) -> Self {
        let name = object.meta().name.clone().unwrap_or_default();
        Self {
            what: format!("{verb}{} {name}", K::kind(&())),
            collection: K::url_path(&(), object.meta().namespace.as_deref()),
            name,
            action,
        }
    }

    /// What an answer of the API server means.
    pub fn outcome(&self, answer: Result<Value, kube::Error>) -> Result<Value, WriteError> {
        match answer.map_err(|error| WriteError::of(self.what.clone(), error)) {
            Err(WriteError::Gone { .. }) if matches!(self.action, Action::Delete(_)) => Ok(Value::Null),
            outcome => outcome,
        }
    }

    /// Does it. What the object has become.
    pub async fn send(&self, client: &Client) -> Result<Value, WriteError> {
        let request = Request::new(&self.collection);
        let request = match &self.action {
            Action::Create(object) => request.create(&PostParams::default(), object.to_string().into_bytes()),
            Action::Patch(Part::Main, patch) => {
                request.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch))
            }
            Action::Patch(Part::Status, patch) => {
                let parameters = PatchParams::default();
                request.patch_subresource("status", &self.name, &parameters, &Patch::Merge(patch))
            }
            Action::Delete(preconditions) => {
                let preconditions = Some(preconditions.clone());
                let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
                request.delete(&self.name, &parameters)
            }
        };
        self.outcome(match request {
            Ok(request) => client.request(request).await,
            Err(error) => Err(kube::Error::BuildRequest(error)),
        })
    }
}

/// Reads an object, lets `change` say what its status is to be, and writes that, again from the beginning after a
/// conflict. `None` from `change`: it is as it should be.
pub async fn update_status<K>(
    api: &Api<K>,
    name: &str,
    change: impl Fn(&K) -> Option<Value>,
) -> Result<Option<K>, WriteError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    const ATTEMPTS: u32 = 8;
    let mut attempt = 0;
    loop {
        let read =
            api.get(name).await.map_err(|error| WriteError::of(format!("{} {name}", K::kind(&())), error))?;
        let Some(status) = change(&read) else { return Ok(None) };
        let version = read.meta().resource_version.as_deref();
        match patch(api, name, version, Part::Status, json!({ "status": status })).await {
            Err(WriteError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
            written => return written.map(Some),
        }
    }
}

/// Pauses between attempts: each twice as long as the one before, up to a limit.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses between these two.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.longest);
        pause
    }

    /// All is well again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Does something until it succeeds or fails in a way that trying again does not mend.
pub async fn retry<T, F>(backoff: &mut Backoff, mut act: impl FnMut() -> F) -> Result<T, WriteError>
where
    F: Future<Output = Result<T, WriteError>>,
{
    loop {
        match act().await {
            Err(error) if error.is_retryable() => tokio::time::sleep(backoff.pause()).await,
            done => {
                backoff.reset();
                return done;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: Value, to: Value, patch: Option<Value>) {
        assert_eq!(merge_patch(&from, &to), patch);
    }

    #[test]
    fn a_patch_says_what_is_new_what_has_changed_and_what_is_gone() {
        check(json!({"a": 1}), json!({"a": 1}), None);
        check(json!({"a": 1}), json!({"a": 2, "b": 3}), Some(json!({"a": 2, "b": 3})));
        check(
            json!({"a": 1, "b": {"c": 1, "d": 2}}),
            json!({"b": {"c": 1}}),
            Some(json!({"a": null, "b": {"d": null}})),
        );
        check(json!({"a": [1, 2]}), json!({"a": [2]}), Some(json!({"a": [2]})));
        check(json!({"a": {}}), json!({"a": 1}), Some(json!({"a": 1})));
    }

    #[test]
    fn failures_are_told_apart_by_what_helps() {
        let api = |code| {
            let status = kube::core::Status { code, ..kube::core::Status::default() };
            WriteError::of("x", kube::Error::Api(Box::new(status)))
        };
        assert!(matches!(api(409), WriteError::Conflict { .. }));
        assert!(matches!(api(404), WriteError::Gone { .. }));
        assert!(matches!(api(422), WriteError::Refused { .. }));
        assert!(api(503).is_retryable() && api(429).is_retryable() && !api(403).is_retryable());
    }

    #[test]
    fn pauses_double_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let pauses: Vec<u128> = (0..4).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.pause().as_millis(), 100);
    }
}
