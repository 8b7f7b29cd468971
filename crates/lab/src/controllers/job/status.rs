//! What a Job shows of itself.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Verdict, View, indexes};
use crate::pods::is_ready;

/// Since when a Job is over, if it is.
pub(super) fn finished(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let end = conditions
        .iter()
        .find(|one| matches!(one.type_.as_str(), "Complete" | "Failed") && one.status == "True")?;
    end.last_transition_time.as_ref().map(|time| time.0)
}

impl View<'_> {
    /// The status that the Job should have.
    pub(super) fn status(&self, verdict: Option<&Verdict>, suspended: bool, now: Timestamp) -> JobStatus {
        let old = self.job.status.clone().unwrap_or_default();
        let is_over = verdict.is_some() || suspended;
        let count = |found: usize| i32::try_from(found).unwrap_or(i32::MAX);
        let active = if is_over { 0 } else { count(self.active.len()) };
        let ready = count(self.active.iter().filter(|pod| is_ready(pod)).count());
        let some = |count: i32| (count > 0).then_some(count);
        let mut conditions = old.conditions.clone().unwrap_or_default();
        if suspended {
            set(&mut conditions, "Suspended", true, "JobSuspended", "Job suspended", now);
        } else if conditions.iter().any(|one| one.type_ == "Suspended") {
            set(&mut conditions, "Suspended", false, "JobResumed", "Job resumed", now);
        }
        if let Some(Verdict { condition, reason, message }) = verdict {
            // Told before the end itself, since Kubernetes 1.31.
            let target = if *condition == "Complete" { "SuccessCriteriaMet" } else { "FailureTarget" };
            set(&mut conditions, target, true, reason, message, now);
            set(&mut conditions, condition, true, reason, message, now);
        }
        let completed = verdict.is_some_and(|verdict| verdict.condition == "Complete");
        JobStatus {
            active: some(active),
            ready: Some(if is_over { 0 } else { ready }),
            terminating: old.terminating.or(Some(0)),
            succeeded: some(self.succeeded),
            failed: some(self.failed),
            start_time: if suspended { None } else { old.start_time.or(Some(Time(now))) },
            completion_time: if completed { Some(Time(now)) } else { old.completion_time },
            completed_indexes: self
                .is_indexed()
                .then(|| indexes::write(&self.done))
                .filter(|text| !text.is_empty()),
            conditions: (!conditions.is_empty()).then_some(conditions),
            uncounted_terminated_pods: Some(UncountedTerminatedPods::default()),
            ..JobStatus::default()
        }
    }
}

/// Sets a condition, which keeps its times while it says the same.
fn set(
    conditions: &mut Vec<JobCondition>,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    if conditions.iter().any(|one| one.type_ == kind && one.status == status) {
        return;
    }
    conditions.retain(|one| one.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_string(),
        status: status.to_string(),
        reason: Some(reason.to_string()),
        message: Some(message.to_string()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}
