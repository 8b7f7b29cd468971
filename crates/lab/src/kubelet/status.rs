//! The status of a pod, from what its containers' runners report.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::kubelet::environment::Place;
use crate::kubelet::runner::{Ended, Phase, Report, Restart};
use crate::pods::condition;

/// What a pod's worker knows.
pub(super) struct Known<'a> {
    pub(super) pod: &'a Pod,
    pub(super) place: &'a Place,
    /// By container, init containers first.
    pub(super) reports: &'a [Option<Report>],
    pub(super) init_containers: usize,
    pub(super) has_network: bool,
    /// Why the containers are not started yet, if something is wrong.
    pub(super) trouble: Option<&'a str>,
    pub(super) started: Timestamp,
}

/// The status as a merge patch.
pub(super) fn patch(known: &Known<'_>, now: Timestamp) -> Value {
    let spec = known.pod.spec.clone().unwrap_or_default();
    let init_specs = spec.init_containers.unwrap_or_default();
    let (init_reports, reports) = known.reports.split_at(known.init_containers.min(known.reports.len()));
    let initialized =
        init_reports.iter().all(|report| matches!(ended(report), Some(ended) if ended.code == 0));
    let restart = Restart::parse(spec.restart_policy.as_deref());
    let phase = phase(reports, init_reports, restart);
    let all_ready = all_ready(reports);
    let unready: Vec<&str> = spec
        .containers
        .iter()
        .zip(reports)
        .filter(|(_, report)| !is_ready(report))
        .map(|(container, _)| container.name.as_str())
        .collect();
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    let completed = phase == "Succeeded";
    let not_ready = if completed { ("PodCompleted", "") } else { ("ContainersNotReady", message.as_str()) };
    let conditions = vec![
        condition_of(known, "PodReadyToStartContainers", known.has_network, ("", ""), now),
        condition_of(known, "Initialized", initialized, ("ContainersNotInitialized", ""), now),
        condition_of(known, "Ready", all_ready, not_ready, now),
        condition_of(known, "ContainersReady", all_ready, not_ready, now),
        condition_of(known, "PodScheduled", true, ("", ""), now),
    ];
    let waiting =
        if known.init_containers > 0 && !initialized { "PodInitializing" } else { "ContainerCreating" };
    let mut status = json!({
        "phase": phase,
        "conditions": conditions,
        "hostIP": known.place.host_ip,
        "hostIPs": [{"ip": known.place.host_ip}],
        "startTime": seconds(known.started),
        "observedGeneration": known.pod.metadata.generation,
        "containerStatuses": statuses(known, &spec.containers, reports, waiting),
    });
    if let Some(status) = status.as_object_mut() {
        if !init_specs.is_empty() {
            let value = statuses(known, &init_specs, init_reports, "PodInitializing");
            status.insert("initContainerStatuses".to_string(), value);
        }
        if known.has_network {
            let ips: Vec<Value> = known.place.pod_ips.iter().map(|ip| json!({"ip": ip})).collect();
            status.insert("podIP".to_string(), json!(known.place.pod_ips.first()));
            status.insert("podIPs".to_string(), json!(ips));
        }
    }
    json!({ "status": status })
}

/// Whether a pod is ready, by what its containers (without those for its start) report.
pub(super) fn all_ready(reports: &[Option<Report>]) -> bool {
    !reports.is_empty() && reports.iter().all(is_ready)
}

/// The phase of a pod.
pub(super) fn phase(reports: &[Option<Report>], init: &[Option<Report>], restart: Restart) -> &'static str {
    if init.iter().any(|report| matches!(ended(report), Some(ended) if ended.code != 0))
        && restart == Restart::Never
    {
        return "Failed";
    }
    if reports.is_empty() || reports.iter().any(Option::is_none) {
        return "Pending";
    }
    let over = |report: &Option<Report>| {
        ended(report).is_some_and(|ended| {
            restart == Restart::Never || (restart == Restart::OnFailure && ended.code == 0)
        })
    };
    if reports.iter().all(over) {
        let failed = reports.iter().any(|report| ended(report).is_some_and(|ended| ended.code != 0));
        return if failed { "Failed" } else { "Succeeded" };
    }
    // One that was never able to start keeps the pod pending; one that ended waits for its restart.
    let begun = |report: &Option<Report>| {
        report
            .as_ref()
            .is_some_and(|report| !matches!(report.phase, Phase::Waiting { .. }) || report.last.is_some())
    };
    if reports.iter().all(begun) { "Running" } else { "Pending" }
}

/// How a pod ends that was deleted: by what its containers' exit codes say.
pub(super) fn final_phase(reports: &[Option<Report>]) -> &'static str {
    let failed = reports.iter().any(|report| ended(report).is_none_or(|ended| ended.code != 0));
    if failed { "Failed" } else { "Succeeded" }
}

fn ended(report: &Option<Report>) -> Option<&Ended> {
    match report.as_ref().map(|report| &report.phase) {
        Some(Phase::Ended(ended)) => Some(ended),
        _ => None,
    }
}

fn is_ready(report: &Option<Report>) -> bool {
    matches!(report.as_ref().map(|report| &report.phase), Some(Phase::Running { ready: true, .. }))
}

fn condition_of(
    known: &Known<'_>,
    kind: &str,
    holds: bool,
    why_not: (&str, &str),
    now: Timestamp,
) -> PodCondition {
    let status = if holds { "True" } else { "False" };
    let text = |text: &str| (!holds && !text.is_empty()).then(|| text.to_string());
    let since = condition(known.pod, kind).filter(|old| old.status == status);
    let since = since.and_then(|old| old.last_transition_time.clone());
    PodCondition {
        type_: kind.to_string(),
        status: status.to_string(),
        reason: text(why_not.0),
        message: text(why_not.1),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        observed_generation: known.pod.metadata.generation,
        ..PodCondition::default()
    }
}

fn statuses(known: &Known<'_>, containers: &[Container], reports: &[Option<Report>], waiting: &str) -> Value {
    let uid = known.pod.metadata.uid.as_deref().unwrap_or_default();
    let one = |(container, report): (&Container, &Option<Report>)| {
        let restarts = report.as_ref().map_or(0, |report| report.restarts);
        let id = format!("lab://{uid}-{}-{restarts}", container.name);
        let mut state = match report.as_ref().map(|report| &report.phase) {
            None => json!({"waiting": {"reason": waiting}}),
            Some(Phase::Waiting { reason, message }) => {
                json!({"waiting": {"reason": reason, "message": message}})
            }
            Some(Phase::Running { since, .. }) => json!({"running": {"startedAt": seconds(*since)}}),
            Some(Phase::Ended(ended)) => json!({"terminated": terminated(ended, &id)}),
        };
        if let (None, Some(trouble)) = (report, known.trouble) {
            state = json!({"waiting": {"reason": waiting, "message": trouble}});
        }
        let started = matches!(report.as_ref().map(|r| &r.phase), Some(Phase::Running { started: true, .. }));
        let last = report.as_ref().and_then(|report| report.last.as_ref());
        let last = last.map_or(json!({}), |ended| json!({"terminated": terminated(ended, &id)}));
        json!({
            "name": container.name,
            "image": container.image,
            "imageID": "",
            "containerID": if report.is_some() { json!(id) } else { Value::Null },
            "ready": is_ready(report),
            "started": started,
            "restartCount": restarts,
            "state": state,
            "lastState": last,
        })
    };
    containers.iter().zip(reports).map(one).collect::<Vec<_>>().into()
}

fn terminated(ended: &Ended, id: &str) -> Value {
    let reason = match ended.code {
        0 => "Completed",
        127 | 128 => "StartError",
        _ => "Error",
    };
    json!({
        "exitCode": ended.code, "reason": reason, "containerID": id,
        "startedAt": seconds(ended.started), "finishedAt": seconds(ended.ended),
    })
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
