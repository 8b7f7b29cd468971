//! Slices that list the pods of a policy, for people to read.
//!
//! A pod stays in the slice that it is in, new ones fill gaps before they make a new slice: a change of one pod writes one
//! slice.

use std::collections::{BTreeMap, BTreeSet};

use model::cluster::PodKey;
use model::policy::PolicyKey;
use model::short_name::shortened;

use crate::selection::Selection;
use crate::snapshot::{ClusterSnapshot, Endpoint, PolicyRecord, SliceKey, SliceRecord};

/// Every slice that is to be; others are to be deleted.
#[must_use]
pub fn plan(snapshot: &ClusterSnapshot, selection: &Selection) -> BTreeMap<SliceKey, SliceRecord> {
    let mut of_policy: BTreeMap<&PolicyKey, Vec<(&SliceKey, &SliceRecord)>> = BTreeMap::new();
    for (key, slice) in &snapshot.slices {
        if key.namespace == slice.policy.namespace {
            of_policy.entry(&slice.policy).or_default().push((key, slice));
        }
    }
    let mut slices = BTreeMap::new();
    for (key, record) in &snapshot.policies {
        let existing = of_policy.get(key).map(Vec::as_slice).unwrap_or_default();
        slices.extend(of_one(snapshot, selection, key, record, existing));
    }
    slices
}

pub(crate) fn of_one(
    snapshot: &ClusterSnapshot,
    selection: &Selection,
    key: &PolicyKey,
    record: &PolicyRecord,
    existing: &[(&SliceKey, &SliceRecord)],
) -> Vec<(SliceKey, SliceRecord)> {
    let max = snapshot.settings.max_endpoints_per_slice.max(1);
    let pods = selection.pods(key).filter_map(|pod| snapshot.pods.get_key_value(pod));
    let endpoints = pods.filter(|(_, pod)| pod.is_endpoint()).map(|(key, pod)| {
        let endpoint = Endpoint {
            pod: key.clone(),
            addresses: pod.addresses.iter().copied().collect(),
            node: pod.node.clone(),
        };
        (key.clone(), endpoint)
    });
    let mut waiting: BTreeMap<PodKey, Endpoint> = endpoints.collect();
    let mut slices: Vec<(SliceKey, Vec<Endpoint>)> = Vec::new();
    for (slice_key, slice) in existing {
        let stay = slice.endpoints.iter().filter_map(|endpoint| waiting.remove(&endpoint.pod));
        let mut stay: Vec<Endpoint> = stay.collect();
        for too_many in stay.drain(max.min(stay.len())..) {
            waiting.insert(too_many.pod.clone(), too_many);
        }
        slices.push(((*slice_key).clone(), stay));
    }
    let mut waiting = waiting.into_values();
    for (_, endpoints) in &mut slices {
        let room = max.saturating_sub(endpoints.len());
        endpoints.extend(waiting.by_ref().take(room));
    }
    let taken: BTreeSet<String> = slices.iter().map(|(key, _)| key.name.clone()).collect();
    let mut names =
        (0..).map(|index: usize| slice_name(&key.name, index)).filter(|name| !taken.contains(name));
    loop {
        let endpoints: Vec<Endpoint> = waiting.by_ref().take(max).collect();
        let (false, Some(name)) = (endpoints.is_empty(), names.next()) else {
            break;
        };
        slices.push((SliceKey { namespace: key.namespace.clone(), name }, endpoints));
    }
    let filled = slices.into_iter().filter(|(_, endpoints)| !endpoints.is_empty());
    filled
        .map(|(slice_key, mut endpoints)| {
            endpoints.sort_unstable();
            (slice_key, SliceRecord { policy: key.clone(), owner_uid: record.uid.clone(), endpoints })
        })
        .collect()
}

/// Name of a policy's slice. Names of different policies never meet: the last dash splits them.
fn slice_name(policy: &str, index: usize) -> String {
    let suffix = format!("-{index}");
    format!("{}{suffix}", shortened(policy, MAX_NAME.saturating_sub(suffix.len())))
}

/// Longest name of an object.
const MAX_NAME: usize = 253;

/// A label's value for a policy's name: the name itself, or its beginning and a hash where it is too long for a label.
#[must_use]
pub fn label_value(policy: &str) -> String {
    shortened(policy, 63)
}
