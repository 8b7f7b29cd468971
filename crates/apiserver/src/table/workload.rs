//! The columns of kinds that make pods.

use jiff::Timestamp;
use serde_json::Value;

use super::age::human_duration;
use super::column::{
    AGE, CONTAINERS, IMAGES, NAME, SELECTOR, Spec, age, condition, count, joined, labels_text, list, map,
    name, selector_text, text,
};

pub(super) const DEPLOYMENT: &[Spec] = &[
    NAME,
    ("Ready", "string", 0, "Ready pods of all pods wanted."),
    ("Up-to-date", "integer", 0, "Pods made from the current template."),
    ("Available", "integer", 0, "Pods that have been ready for long enough."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let cells = [
        name(object),
        format!("{}/{}", count(object, "/status/readyReplicas"), wanted(object)).into(),
        count(object, "/status/updatedReplicas").into(),
        count(object, "/status/availableReplicas").into(),
        age(object, now),
    ];
    with_template(cells, object)
}

pub(super) const REPLICA_SET: &[Spec] = &[
    NAME,
    ("Desired", "integer", 0, "Pods wanted."),
    ("Current", "integer", 0, "Pods that exist."),
    ("Ready", "integer", 0, "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let cells = [
        name(object),
        wanted(object).into(),
        count(object, "/status/replicas").into(),
        count(object, "/status/readyReplicas").into(),
        age(object, now),
    ];
    with_template(cells, object)
}

pub(super) const DAEMON_SET: &[Spec] = &[
    NAME,
    ("Desired", "integer", 0, "Nodes that should run the pod."),
    ("Current", "integer", 0, "Nodes that run a pod of it and should."),
    ("Ready", "integer", 0, "Nodes whose pod is ready."),
    ("Up-to-date", "integer", 0, "Nodes whose pod is made from the current template."),
    ("Available", "integer", 0, "Nodes whose pod has been ready for long enough."),
    ("Node Selector", "string", 0, "Labels of the nodes that should run the pod."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let cells = [
        name(object),
        count(object, "/status/desiredNumberScheduled").into(),
        count(object, "/status/currentNumberScheduled").into(),
        count(object, "/status/numberReady").into(),
        count(object, "/status/updatedNumberScheduled").into(),
        count(object, "/status/numberAvailable").into(),
        labels_text(map(object, "/spec/template/spec/nodeSelector")).into(),
        age(object, now),
    ];
    with_template(cells, object)
}

pub(super) const STATEFUL_SET: &[Spec] =
    &[NAME, ("Ready", "string", 0, "Ready pods of all pods wanted."), AGE, CONTAINERS, IMAGES];

pub(super) fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!("{}/{}", count(object, "/status/readyReplicas"), wanted(object));
    let [containers, images, _] = template_cells(object);
    vec![name(object), ready.into(), age(object, now), containers, images]
}

pub(super) const JOB: &[Spec] = &[
    NAME,
    ("Status", "string", 0, "What the job is doing."),
    ("Completions", "string", 0, "Completed pods of all completions wanted."),
    ("Duration", "string", 0, "How long it has run, or ran."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = count(object, "/status/succeeded");
    let completions = match object.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if count(object, "/spec/parallelism") > 1 => {
            format!("{succeeded}/1 of {}", count(object, "/spec/parallelism"))
        }
        None => format!("{succeeded}/1"),
    };
    let moment = |pointer| text(object, pointer).and_then(|at| at.parse::<Timestamp>().ok());
    let duration = moment("/status/startTime").map(|start| {
        let end = moment("/status/completionTime").unwrap_or(now);
        human_duration(end.as_second() - start.as_second())
    });
    let cells = [
        name(object),
        job_status(object).into(),
        completions.into(),
        duration.unwrap_or_default().into(),
        age(object, now),
    ];
    with_template(cells, object)
}

fn job_status(object: &Value) -> &'static str {
    let is_true =
        |condition_type| condition(object, condition_type).and_then(|c| text(c, "/status")) == Some("True");
    if is_true("Complete") {
        "Complete"
    } else if is_true("Failed") {
        "Failed"
    } else if object.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null()) {
        "Terminating"
    } else if is_true("Suspended") {
        "Suspended"
    } else if is_true("FailureTarget") {
        "FailureTarget"
    } else if is_true("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn wanted(object: &Value) -> i64 {
    count(object, "/spec/replicas")
}

/// The cells of a kind, and behind them those of its pods' template.
fn with_template<const N: usize>(cells: [Value; N], object: &Value) -> Vec<Value> {
    cells.into_iter().chain(template_cells(object)).collect()
}

/// Containers, Images, Selector.
fn template_cells(object: &Value) -> [Value; 3] {
    let containers = list(object, "/spec/template/spec/containers");
    [
        joined_fields(containers, "/name").into(),
        joined_fields(containers, "/image").into(),
        selector_text(object.pointer("/spec/selector")).into(),
    ]
}

fn joined_fields(containers: &[Value], pointer: &str) -> String {
    joined(containers.iter().filter_map(|container| text(container, pointer)))
}
