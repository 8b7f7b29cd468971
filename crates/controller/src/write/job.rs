//! Single writes: a patch where two objects differ, a new object, an object less.

use std::fmt::Debug;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::api::ObjectMeta;
use kube::{Api, Resource, ResourceExt};
use runtime::watch::Change;
use runtime::writer::{Part, WriteError, create, delete, merge_patch, patch};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::watches::Input;

/// A write that takes longer has failed. Shorter than what is left of a lease when its holder gives up, so that none is
/// under way when another replica begins.
const DEADLINE: Duration = Duration::from_secs(4);

/// A write, and what the object has become by it.
pub(super) type Job = BoxFuture<'static, Result<Option<Input>, WriteError>>;

/// A patch that makes the wanted object of the known one; `None` where they are the same.
pub(super) fn patch_job<K>(
    api: Api<K>,
    known: &K,
    wanted: &K,
    part: Part,
    wrap: fn(Change<K>) -> Input,
) -> Option<Job>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug + Send + 'static,
{
    let name = known.name_any();
    let version = known.resource_version();
    let difference = difference(known, wanted, part)?;
    let job = async move {
        let written = patch(&api, &name, version.as_deref(), part, difference).await?;
        Ok(Some(wrap(Change::Applied(written))))
    };
    Some(in_time(job).boxed())
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

pub(super) fn create_job<K>(api: Api<K>, object: K, wrap: fn(Change<K>) -> Input) -> Job
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug + Send + Sync + 'static,
{
    in_time(async move { Ok(Some(wrap(Change::Applied(create(&api, &object).await?)))) }).boxed()
}

pub(super) fn delete_job<K>(api: Api<K>, object: &K) -> Job
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let (name, uid) = (object.name_any(), object.uid());
    in_time(async move {
        delete(&api, &name, uid.as_deref()).await?;
        Ok(None)
    })
    .boxed()
}

async fn in_time(
    job: impl Future<Output = Result<Option<Input>, WriteError>>,
) -> Result<Option<Input>, WriteError> {
    let late = |_| WriteError::Unavailable {
        what: "write".to_owned(),
        source: Box::new(kube::Error::Service(format!("no answer in {} s", DEADLINE.as_secs()).into())),
    };
    tokio::time::timeout(DEADLINE, job).await.map_err(late)?
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
