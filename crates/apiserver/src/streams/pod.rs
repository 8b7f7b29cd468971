//! Finds the pod and container of a stream, and says what is wrong in Kubernetes' words.

use std::sync::Arc;

use serde_json::Value;

use crate::http::Call;
use crate::status_error::StatusError;
use crate::store::Subresource;

/// The pod of that name.
pub(super) fn find(call: &Call, name: &str) -> Result<Arc<Value>, StatusError> {
    let target = call.target(name);
    call.state.read(|store| store.get(&target, Subresource::Main))
}

/// The container that a request means: the one it names, or the only one.
pub(super) fn container(pod: &Value, name: &str, wanted: Option<&str>) -> Result<String, StatusError> {
    let names = |list: &str| -> Vec<&str> {
        let containers = pod.pointer(list).and_then(Value::as_array);
        let names = containers.into_iter().flatten().filter_map(|container| container.get("name")?.as_str());
        names.collect()
    };
    let containers = names("/spec/containers");
    let (init, ephemeral) = (names("/spec/initContainers"), names("/spec/ephemeralContainers"));
    match (wanted.filter(|wanted| !wanted.is_empty()), containers.as_slice()) {
        (Some(wanted), _) => {
            let known = [&containers, &init, &ephemeral].iter().any(|names| names.contains(&wanted));
            if known {
                Ok(wanted.to_owned())
            } else {
                Err(StatusError::bad_request(format!("container {wanted} is not valid for pod {name}")))
            }
        }
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                containers.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(StatusError::bad_request(message))
        }
    }
}

/// The node that runs the pod.
pub(super) fn node(pod: &Value, name: &str) -> Result<String, StatusError> {
    match pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|node| !node.is_empty()) {
        Some(node) => Ok(node.to_owned()),
        None => Err(StatusError::bad_request(format!("pod {name} does not have a host assigned"))),
    }
}

/// Why a container has not started: the reason it waits for, if it does.
pub(super) fn waiting_reason(pod: &Value, container: &str) -> Option<String> {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut statuses = lists.iter().filter_map(|list| pod.get("status")?.get(list)?.as_array()).flatten();
    let own = statuses.find(|status| status.get("name").and_then(Value::as_str) == Some(container));
    let Some(status) = own else {
        let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
        // Without any status of it the container can't have started, unless the pod's phase says otherwise.
        return matches!(phase, "Pending" | "").then(|| "ContainerCreating".to_owned());
    };
    let waiting = status.pointer("/state/waiting")?;
    let restarted = status.get("restartCount").and_then(Value::as_i64).unwrap_or(0) > 0;
    // A container that waits for its next start has the log of its last run.
    (!restarted)
        .then(|| waiting.get("reason").and_then(Value::as_str).unwrap_or("ContainerCreating").to_owned())
}
