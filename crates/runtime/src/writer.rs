//! Writes to the API server: merge patches that carry the version they are based on.
//!
//! A conflict is no error: somebody else was faster, the watch brings what they wrote, and the next pass decides anew. A
//! refusal is one that trying again does not mend.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource};
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
    mut patch: Value,
) -> Result<K, WriteError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    if let (Some(version), Value::Object(fields)) = (resource_version, &mut patch) {
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        if let Value::Object(metadata) = metadata {
            metadata.insert("resourceVersion".to_owned(), version.into());
        }
    }
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
    let done = match part {
        Part::Main => api.patch(name, &parameters, &patch).await,
        Part::Status => api.patch_status(name, &parameters, &patch).await,
    };
    done.map_err(|error| WriteError::of(format!("{} {name}", K::kind(&())), error))
}

/// Makes an object. That it is there already is a conflict.
pub async fn create<K>(api: &Api<K>, object: &K) -> Result<K, WriteError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + serde::Serialize + Debug,
{
    let name = object.meta().name.clone().unwrap_or_default();
    let made = api.create(&PostParams::default(), object).await;
    made.map_err(|error| WriteError::of(format!("new {} {name}", K::kind(&())), error))
}

/// Deletes an object of that uid. That it is gone already is success.
pub async fn delete<K>(api: &Api<K>, name: &str, uid: Option<&str>) -> Result<(), WriteError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let uid = uid.map(str::to_owned);
    let preconditions = uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None });
    let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
    match api.delete(name, &parameters).await {
        Ok(_) => Ok(()),
        Err(error) => match WriteError::of(format!("delete {} {name}", K::kind(&())), error) {
            WriteError::Gone { .. } => Ok(()),
            error => Err(error),
        },
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
