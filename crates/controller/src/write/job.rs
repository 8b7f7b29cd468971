//! Single writes: a patch where two objects differ, a new object, an object less.

use kube::Resource;
use kube::api::ObjectMeta;
use model::port_lease::{LeaseName, PortLease};
use runtime::watch::Change;
use runtime::writer::{Part, Write, WriteError, merge_patch};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::fence::Exclusive;
use crate::watches::Input;

/// A write, and how to read what the object has become by it.
pub struct Job {
    /// What is written
    pub write: Write,
    lease: Option<(LeaseName, PortLease)>,
    stamps: Option<(Exclusive, String)>,
    read: Option<Read>,
}

type Read = Box<dyn Fn(Value) -> Result<Input, serde_json::Error> + Send + Sync>;

impl Job {
    fn new<K>(write: Write, wrap: fn(Change<K>) -> Input) -> Self
    where
        K: DeserializeOwned + 'static,
    {
        let read = move |object| Ok(wrap(Change::Applied(serde_json::from_value(object)?)));
        Self { write, lease: None, stamps: None, read: Some(Box::new(read)) }
    }

    /// It makes this of a node's lease.
    pub(super) fn of_lease(self, lease: Option<(LeaseName, PortLease)>) -> Self {
        Self { lease, ..self }
    }

    /// It puts the stamp on this object.
    pub(super) fn of_stamp(self, kind: Exclusive, name: &str) -> Self {
        Self { stamps: Some((kind, name.to_owned())), ..self }
    }

    /// The object that gets nothing but the stamp.
    pub(super) fn stamps(&self) -> Option<&(Exclusive, String)> {
        self.stamps.as_ref()
    }

    /// Which lease and what it is to be, where it is a lease that is given.
    pub(super) fn lease(&self) -> Option<&(LeaseName, PortLease)> {
        self.lease.as_ref()
    }

    /// What is known now. An answer that can't be read is no answer.
    pub(super) fn known(&self, answer: Result<Value, WriteError>) -> Result<Option<Input>, WriteError> {
        let object = answer?;
        let Some(read) = &self.read else { return Ok(None) };
        let what = || self.write.what.clone();
        read(object).map(Some).map_err(|error| WriteError::of(what(), kube::Error::SerdeError(error)))
    }
}

/// A patch that makes the wanted object of the known one; `None` where they are the same.
pub(super) fn patch_job<K>(known: &K, wanted: &K, part: Part, wrap: fn(Change<K>) -> Input) -> Option<Job>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + 'static,
{
    let difference = difference(known, wanted, part)?;
    Some(Job::new(Write::patch(known, part, difference), wrap))
}

/// The merge patch for one part of an object.
fn difference<K: Serialize>(known: &K, wanted: &K, part: Part) -> Option<Value> {
    let (known, wanted) = (serde_json::to_value(known).ok()?, serde_json::to_value(wanted).ok()?);
    match part {
        Part::Main => merge_patch(&known, &wanted),
        Part::Status => {
            let none = json!({});
            let status = |object: &Value| object.get("status").unwrap_or(&none).clone();
            merge_patch(&status(&known), &status(&wanted)).map(|status| json!({ "status": status }))
        }
    }
}

pub(super) fn create_job<K>(object: &K, wrap: fn(Change<K>) -> Input) -> Option<Job>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + 'static,
{
    Some(Job::new(Write::create(object).ok()?, wrap))
}

pub(super) fn delete_job<K: Resource<DynamicType = ()>>(object: &K) -> Job {
    Job { write: Write::delete(object), lease: None, stamps: None, read: None }
}

/// Deletes an object as it is known, and none that has changed.
pub(super) fn delete_unchanged_job<K: Resource<DynamicType = ()>>(object: &K) -> Job {
    Job { write: Write::delete_unchanged(object), lease: None, stamps: None, read: None }
}

/// Puts a finalizer among others or takes it away; none may be added while an object is being deleted.
pub(super) fn set_finalizer(metadata: &mut ObjectMeta, finalizer: &str, wanted: bool, deleting: bool) {
    let finalizers = metadata.finalizers.get_or_insert_default();
    let is_there = finalizers.iter().any(|known| known == finalizer);
    if wanted && !is_there && !deleting {
        finalizers.push(finalizer.to_owned());
    } else if !wanted && is_there {
        finalizers.retain(|known| known != finalizer);
    }
    if finalizers.is_empty() {
        metadata.finalizers = None;
    }
}

/// An object's metadata with our labels, annotations and owner in it.
pub(super) fn with_ours(known: &ObjectMeta, ours: ObjectMeta) -> ObjectMeta {
    let mut metadata = known.clone();
    metadata.labels.get_or_insert_default().extend(ours.labels.unwrap_or_default());
    if let Some(annotations) = ours.annotations {
        metadata.annotations.get_or_insert_default().extend(annotations);
    }
    metadata.owner_references = ours.owner_references;
    metadata
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use api::v1beta1::EgressGateway;

    #[test]
    fn a_finalizer_is_added_beside_others_and_never_while_deleting() {
        let mut metadata = ObjectMeta { finalizers: Some(vec!["other".to_owned()]), ..ObjectMeta::default() };
        set_finalizer(&mut metadata, "ours", true, true);
        assert_eq!(metadata.finalizers, Some(vec!["other".to_owned()]));
        set_finalizer(&mut metadata, "ours", true, false);
        assert_eq!(metadata.finalizers, Some(vec!["other".to_owned(), "ours".to_owned()]));
        set_finalizer(&mut metadata, "ours", false, true);
        assert_eq!(metadata.finalizers, Some(vec!["other".to_owned()]));
    }

    #[test]
    fn a_patch_touches_its_own_part_only() {
        let known = EgressGateway::named("g");
        let mut wanted = known.clone();
        wanted.spec.ippools.ipv4_default_eip = "10.6.1.1".to_owned();
        assert_eq!(difference(&known, &known, Part::Main), None);
        assert_eq!(difference(&known, &wanted, Part::Status), None);
        let expected = json!({"spec": {"ippools": {"ipv4DefaultEIP": "10.6.1.1"}}});
        assert_eq!(difference(&known, &wanted, Part::Main), Some(expected));
    }

    #[test]
    fn others_labels_of_a_slice_stay() {
        let labels = BTreeMap::from([("theirs".to_owned(), "1".to_owned())]);
        let known = ObjectMeta { labels: Some(labels), ..ObjectMeta::default() };
        let ours = ObjectMeta {
            labels: Some(BTreeMap::from([("ours".to_owned(), "2".to_owned())])),
            ..ObjectMeta::default()
        };
        assert_eq!(with_ours(&known, ours).labels.map(|labels| labels.len()), Some(2));
    }
}
