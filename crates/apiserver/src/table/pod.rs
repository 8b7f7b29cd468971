//! The columns of pods, whose status is a story told by several fields.

use jiff::Timestamp;
use serde_json::Value;

use super::age::age_cell;
use super::column::{AGE, NAME, NONE, Spec, age, condition, count, list, name, text};

pub(super) const COLUMNS: &[Spec] = &[
    NAME,
    ("Ready", "string", 0, "Ready containers of all containers."),
    ("Status", "string", 0, "What the pod as a whole is doing."),
    ("Restarts", "string", 0, "Restarts of its containers, and how long ago the last one was."),
    AGE,
    ("IP", "string", 1, "Address of the pod."),
    ("Node", "string", 1, "Node that the pod is bound to."),
    ("Nominated Node", "string", 1, "Node that is being made free for the pod."),
    ("Readiness Gates", "string", 1, "Fulfilled readiness gates of all readiness gates."),
];

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let story = Story::of(pod);
    let restarts = match story.last_restart {
        Some(at) if story.restarts > 0 => format!("{} ({} ago)", story.restarts, age_cell(Some(at), now)),
        _ => story.restarts.to_string(),
    };
    let text_or_none = |pointer| text(pod, pointer).unwrap_or(NONE).into();
    vec![
        name(pod),
        format!("{}/{}", story.ready, story.total).into(),
        story.reason.into(),
        restarts.into(),
        age(pod, now),
        text(pod, "/status/podIP").or_else(|| text(pod, "/status/podIPs/0/ip")).unwrap_or(NONE).into(),
        text_or_none("/spec/nodeName"),
        text_or_none("/status/nominatedNodeName"),
        readiness_gates(pod).into(),
    ]
}

/// What the Ready, Status and Restarts columns say, gathered over the containers.
struct Story<'a> {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<&'a str>,
}

impl<'a> Story<'a> {
    fn of(pod: &'a Value) -> Self {
        let phase = text(pod, "/status/phase").unwrap_or_default();
        let sidecars =
            list(pod, "/spec/initContainers").iter().filter(|container| is_sidecar(container)).count();
        let mut story = Self {
            reason: text(pod, "/status/reason").unwrap_or(phase).to_owned(),
            ready: 0,
            total: list(pod, "/spec/containers").len() + sidecars,
            restarts: 0,
            last_restart: None,
        };
        if condition(pod, "PodScheduled").and_then(|c| text(c, "/reason")) == Some("SchedulingGated") {
            story.reason = "SchedulingGated".to_owned();
        }
        let initializing = story.absorb_init_containers(pod);
        let initialized = condition(pod, "Initialized").and_then(|c| text(c, "/status")) == Some("True");
        if !initializing || initialized {
            story.absorb_containers(pod);
        }
        if pod.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null()) {
            if text(pod, "/status/reason") == Some("NodeLost") {
                story.reason = "Unknown".to_owned();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                story.reason = "Terminating".to_owned();
            }
        }
        story
    }

    /// Goes through the init containers; true if one of them is what the pod waits for.
    fn absorb_init_containers(&mut self, pod: &'a Value) -> bool {
        let specs = list(pod, "/spec/initContainers");
        for (index, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
            self.absorb_restarts(status);
            let sidecar = text(status, "/name")
                .and_then(|name| specs.iter().find(|spec| text(spec, "/name") == Some(name)))
                .is_some_and(is_sidecar);
            if status.pointer("/state/terminated/exitCode").and_then(Value::as_i64) == Some(0) {
                continue;
            }
            if sidecar && status.get("started").and_then(Value::as_bool) == Some(true) {
                self.ready += usize::from(is_ready(status));
                continue;
            }
            self.reason = match (terminated_reason(status), text(status, "/state/waiting/reason")) {
                (Some(reason), _) => format!("Init:{reason}"),
                (None, Some(reason)) if reason != "PodInitializing" => format!("Init:{reason}"),
                _ => format!("Init:{index}/{}", specs.len()),
            };
            return true;
        }
        false
    }

    fn absorb_containers(&mut self, pod: &'a Value) {
        // Restarts of ordinary init containers are history once they are done.
        if !list(pod, "/spec/initContainers").iter().any(is_sidecar) {
            (self.restarts, self.last_restart) = (0, None);
        }
        let mut some_run = false;
        // Backwards, so that the first container that has something to say has the last word.
        for status in list(pod, "/status/containerStatuses").iter().rev() {
            self.absorb_restarts(status);
            if let Some(reason) = text(status, "/state/waiting/reason") {
                self.reason = reason.to_owned();
            } else if let Some(reason) = terminated_reason(status) {
                self.reason = reason;
            } else if is_ready(status) && status.pointer("/state/running").is_some() {
                some_run = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && some_run {
            let ready = condition(pod, "Ready").and_then(|c| text(c, "/status")) == Some("True");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn absorb_restarts(&mut self, status: &'a Value) {
        self.restarts += count(status, "/restartCount");
        // RFC 3339 in UTC sorts as text.
        let finished = text(status, "/lastState/terminated/finishedAt");
        self.last_restart = self.last_restart.max(finished);
    }
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == Some("Always")
}

fn is_ready(status: &Value) -> bool {
    status.get("ready").and_then(Value::as_bool) == Some(true)
}

fn terminated_reason(status: &Value) -> Option<String> {
    let terminated = status.pointer("/state/terminated").filter(|state| state.is_object())?;
    Some(match (text(terminated, "/reason"), count(terminated, "/signal")) {
        (Some(reason), _) => reason.to_owned(),
        (None, 0) => format!("ExitCode:{}", count(terminated, "/exitCode")),
        (None, signal) => format!("Signal:{signal}"),
    })
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let fulfilled = gates
        .iter()
        .filter_map(|gate| condition(pod, text(gate, "/conditionType")?))
        .filter(|condition| text(condition, "/status") == Some("True"))
        .count();
    format!("{fulfilled}/{}", gates.len())
}
