//! What a Deployment shows of itself.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{View, pods_of, rollout, size};

/// The status that a Deployment should have.
pub(super) fn of(view: &View<'_>, now: Timestamp) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| view.all().map(|set| count(set)).sum::<i32>();
    let ready = sum(|set| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0));
    let available = sum(|set| set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0));
    let replicas = sum(pods_of);
    let updated = view.current.map_or(0, |set| pods_of(set));
    let some = |count: i32| (count > 0).then_some(count);
    let old = view.deployment.status.as_ref();
    let done = view.current.is_some()
        && updated == view.wanted()
        && replicas == view.wanted()
        && available == view.wanted();
    let moved = old.is_none_or(|old| {
        old.updated_replicas.unwrap_or(0) < updated
            || old.ready_replicas.unwrap_or(0) < ready
            || old.available_replicas.unwrap_or(0) < available
            || old.replicas.unwrap_or(0) - old.updated_replicas.unwrap_or(0) > replicas - updated
    });
    let enough = available >= view.wanted() - rollout::max_unavailable(view.deployment);
    let conditions = vec![
        if enough {
            condition(
                view,
                "Available",
                true,
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
                now,
            )
        } else {
            let message = "Deployment does not have minimum availability.";
            condition(view, "Available", false, "MinimumReplicasUnavailable", message, now)
        },
        progress(view, done, moved, now),
    ];
    DeploymentStatus {
        observed_generation: view.deployment.metadata.generation,
        replicas: some(replicas),
        updated_replicas: some(updated),
        ready_replicas: some(ready),
        available_replicas: some(available),
        unavailable_replicas: some(sum(size) - available),
        conditions: Some(conditions),
        ..DeploymentStatus::default()
    }
}

fn progress(view: &View<'_>, done: bool, moved: bool, now: Timestamp) -> DeploymentCondition {
    let name = view.current.and_then(|set| set.metadata.name.clone()).unwrap_or_default();
    if done {
        let message = format!("ReplicaSet {name:?} has successfully progressed.");
        return condition(view, "Progressing", true, "NewReplicaSetAvailable", &message, now);
    }
    let message = format!("ReplicaSet {name:?} is progressing.");
    let old = previous(view, "Progressing");
    let finished_before = old.is_some_and(|old| old.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if let Some(old) = old.filter(|_| !moved && !finished_before) {
        let deadline =
            view.deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds).unwrap_or(600);
        let waited = old.last_update_time.as_ref().map_or(0, |since| now.duration_since(since.0).as_secs());
        if waited >= i64::from(deadline) || old.reason.as_deref() == Some("ProgressDeadlineExceeded") {
            let message = format!("ReplicaSet {name:?} has timed out progressing.");
            return condition(view, "Progressing", false, "ProgressDeadlineExceeded", &message, now);
        }
        return old.clone();
    }
    let mut condition = condition(view, "Progressing", true, "ReplicaSetUpdated", &message, now);
    condition.last_update_time = Some(Time(now));
    condition
}

fn previous<'a>(view: &'a View<'_>, kind: &str) -> Option<&'a DeploymentCondition> {
    let conditions = view.deployment.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().find(|condition| condition.type_ == kind)
}

/// A condition that keeps its times while it says the same.
fn condition(
    view: &View<'_>,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> DeploymentCondition {
    let status = if holds { "True" } else { "False" };
    let old = previous(view, kind);
    if let Some(old) = old
        && old.status == status
        && old.reason.as_deref() == Some(reason)
        && old.message.as_deref() == Some(message)
    {
        return old.clone();
    }
    let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
    DeploymentCondition {
        type_: kind.to_string(),
        status: status.to_string(),
        reason: Some(reason.to_string()),
        message: Some(message.to_string()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    }
}
