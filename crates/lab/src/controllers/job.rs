//! Jobs: pods that shall end, so many times with success.
//!
//! Counted are the pods that are there; what was counted once stays counted when they go. Not here: policies for the exit
//! codes of pods, and for single indexes.

mod indexes;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodTemplateSpec,
};
use kube::ResourceExt;

use super::action::{Action, Kind};
use super::{event, owner_reference, pod_from_template, status_patch};
use crate::pods::{is_active, phase};
use crate::world::{Key, World};

/// Most pods that one pass creates for one Job.
const BURST_MAX: i32 = 500;
/// How long a Job waits after its first failure; twice as long after each more.
const BACKOFF: SignedDuration = SignedDuration::from_secs(10);
/// It waits no longer than that.
const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(360);
/// Label and annotation that tell a pod which of the Job's indexes it works on.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The same as a variable of its containers.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// What all Jobs need.
pub(crate) fn reconcile(world: &World, now: Timestamp) -> Vec<Action> {
    world.jobs.iter().flat_map(|job| reconcile_one(world, job, now)).collect()
}

/// Why a Job is over: the condition that says so, its reason and message.
struct Verdict {
    condition: &'static str,
    reason: &'static str,
    message: String,
}

/// A Job with its pods.
struct View<'a> {
    job: &'a Job,
    spec: JobSpec,
    active: Vec<&'a Arc<Pod>>,
    succeeded: i32,
    failed: i32,
    /// When a pod failed last, as far as is known.
    failed_last: Option<Timestamp>,
    /// Indexes that are done, where the Job has indexes.
    done: BTreeSet<i32>,
}

fn reconcile_one(world: &World, job: &Job, now: Timestamp) -> Vec<Action> {
    if job.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let key = Key::of(job);
    let view = View::of(world, job);
    if let Some(since) = status::finished(job) {
        let seconds = view.spec.ttl_seconds_after_finished.map(i64::from);
        let is_over = seconds.is_some_and(|seconds| now.duration_since(since).as_secs() >= seconds);
        let uid = job.metadata.uid.clone();
        return is_over.then_some(Action::Delete { kind: Kind::Job, key, uid }).into_iter().collect();
    }
    let suspended = view.spec.suspend == Some(true);
    let verdict = view.verdict(now).filter(|_| !suspended);
    let mut actions = Vec::new();
    if let Some(verdict) = &verdict {
        actions.extend(view.active.iter().map(|pod| delete(pod)));
        actions.push(event(("batch/v1", "Job"), job, verdict.reason, &verdict.message, now));
    } else if suspended {
        actions.extend(view.active.iter().map(|pod| delete(pod)));
    } else {
        actions.extend(view.pods_to_change(now));
    }
    let status = view.status(verdict.as_ref(), suspended, now);
    if job.status.as_ref() != Some(&status) {
        actions.push(status_patch(Kind::Job, key, job.status.as_ref(), &status));
    }
    actions
}

fn delete(pod: &Pod) -> Action {
    Action::Delete { kind: Kind::Pod, key: Key::of(pod), uid: pod.metadata.uid.clone() }
}

fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok()
}

impl<'a> View<'a> {
    fn of(world: &'a World, job: &'a Job) -> Self {
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let pods: Vec<&Arc<Pod>> = world.pods.owned_by(namespace, uid).collect();
        let ended = |how: &str| pods.iter().copied().filter(|pod| phase(pod) == how).collect::<Vec<_>>();
        let (succeeded, failed) = (ended("Succeeded"), ended("Failed"));
        let old = job.status.clone().unwrap_or_default();
        let at_least =
            |found: usize, told: Option<i32>| i32::try_from(found).unwrap_or(i32::MAX).max(told.unwrap_or(0));
        let mut done = indexes::read(old.completed_indexes.as_deref().unwrap_or_default());
        done.extend(succeeded.iter().filter_map(|pod| index_of(pod)));
        let spec = job.spec.clone().unwrap_or_default();
        let is_indexed = spec.completion_mode.as_deref() == Some("Indexed");
        Self {
            job,
            // Of several pods with one index one counts.
            succeeded: if is_indexed {
                at_least(done.len(), None)
            } else {
                at_least(succeeded.len(), old.succeeded)
            },
            failed: at_least(failed.len(), old.failed),
            failed_last: failed.iter().filter_map(|pod| ended_at(pod)).max(),
            active: pods.into_iter().filter(|pod| is_active(pod)).collect(),
            done,
            spec,
        }
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn verdict(&self, now: Timestamp) -> Option<Verdict> {
        let limit = self.spec.backoff_limit.unwrap_or(6);
        let restarts: i32 = self.active.iter().map(|pod| restarts_of(pod)).sum();
        let failures = self.failed.saturating_add(restarts);
        let started = self.job.status.as_ref().and_then(|status| status.start_time.as_ref());
        let deadline = self.spec.active_deadline_seconds.zip(started);
        let complete = match self.spec.completions {
            Some(completions) => self.succeeded >= completions,
            None => self.succeeded > 0 && self.active.is_empty(),
        };
        if complete {
            let message = "Reached expected number of succeeded pods".to_string();
            return Some(Verdict { condition: "Complete", reason: "CompletionsReached", message });
        }
        if failures > limit {
            let message = "Job has reached the specified backoff limit".to_string();
            return Some(Verdict { condition: "Failed", reason: "BackoffLimitExceeded", message });
        }
        deadline.filter(|(seconds, started)| now.duration_since(started.0).as_secs() >= *seconds).map(|_| {
            let message = "Job was active longer than specified deadline".to_string();
            Verdict { condition: "Failed", reason: "DeadlineExceeded", message }
        })
    }

    fn pods_to_change(&self, now: Timestamp) -> Vec<Action> {
        let active = i32::try_from(self.active.len()).unwrap_or(i32::MAX);
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            Some(completions) => parallelism.min(completions.saturating_sub(self.succeeded)),
            // After the first success the others may end, and none is made.
            None if self.succeeded > 0 => parallelism.min(active),
            None => parallelism,
        };
        if active > wanted {
            let superfluous = usize::try_from(active - wanted).unwrap_or(0);
            return self.active.iter().rev().take(superfluous).map(|pod| delete(pod)).collect();
        }
        let waits = self.failed_last.is_some_and(|since| now.duration_since(since) < self.backoff());
        if waits {
            return Vec::new();
        }
        let missing = (wanted - active).min(BURST_MAX);
        if !self.is_indexed() {
            return (0..missing).map(|_| self.create(None)).collect();
        }
        let busy: BTreeSet<i32> = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        let open = (0..self.spec.completions.unwrap_or(0))
            .filter(|index| !busy.contains(index) && !self.done.contains(index));
        open.take(usize::try_from(missing).unwrap_or(0)).map(|index| self.create(Some(index))).collect()
    }

    fn backoff(&self) -> SignedDuration {
        let doublings = u32::try_from(self.failed.saturating_sub(1)).unwrap_or(0).min(10);
        (BACKOFF * 2_i32.saturating_pow(doublings)).min(BACKOFF_MAX)
    }

    fn create(&self, index: Option<i32>) -> Action {
        let key = Key::of(self.job);
        let mut template = self.spec.template.clone();
        let owner = owner_reference("batch/v1", "Job", self.job);
        let Some(index) = index else {
            let object = pod_from_template(&key.namespace, &key.name, template, &owner, |_| {});
            return Action::Create { kind: Kind::Pod, object };
        };
        with_index(&mut template, index);
        let name = format!("{}-{index}", key.name);
        let object = pod_from_template(&key.namespace, &name, template, &owner, |pod| {
            pod.hostname = Some(name.clone());
        });
        Action::Create { kind: Kind::Pod, object }
    }
}

/// Tells the pods of a template which index is theirs.
fn with_index(template: &mut PodTemplateSpec, index: i32) {
    let metadata = template.metadata.get_or_insert_default();
    for texts in [&mut metadata.labels, &mut metadata.annotations] {
        texts.get_or_insert_default().insert(INDEX.to_string(), index.to_string());
    }
    let Some(spec) = &mut template.spec else { return };
    let variable = EnvVar {
        name: INDEX_VARIABLE.to_string(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.annotations['{INDEX}']"),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    containers.for_each(|container: &mut Container| {
        container.env.get_or_insert_default().push(variable.clone());
    });
}

/// When the last of a pod's containers ended.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_deref()?;
    let ends =
        statuses.iter().filter_map(|one| one.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    ends.map(|time| time.0).max()
}

/// How often a pod's containers were started again: a failure each, where pods are not replaced.
fn restarts_of(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().map(|one| one.restart_count).sum()
}
