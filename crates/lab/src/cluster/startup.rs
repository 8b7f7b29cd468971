//! When a cluster is up: all nodes ready, all workloads available.

use std::time::Duration;

use anyhow::bail;
use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::{Instant, sleep};

use crate::kubelet::registry::Registry;

/// How long all of it may take; a machine may be slow, but not that slow.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How much of a pod's log goes into the message about its failure.
const LAST_WORDS: usize = 400;

/// Waits until the cluster is up; the error says what is missing.
pub(super) async fn wait_until_ready(
    client: &Client,
    nodes: usize,
    registry: &Registry,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let missing = missing(client, nodes).await?;
        let Some(first) = missing.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            bail!("{first} after {} s{}", DEADLINE.as_secs(), last_words(client, registry).await);
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn missing(client: &Client, nodes: usize) -> anyhow::Result<Vec<String>> {
    let mut missing = Vec::new();
    let all = ListParams::default();
    let ready =
        Api::<Node>::all(client.clone()).list(&all).await?.items.iter().filter(|node| is_ready(node)).count();
    if ready < nodes {
        missing.push(format!("only {ready} of {nodes} nodes are ready"));
    }
    for deployment in Api::<Deployment>::all(client.clone()).list(&all).await? {
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let available = deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
        if available < wanted {
            let name = deployment.name_any();
            missing.push(format!("only {available} of {wanted} pods of Deployment {name} run"));
        }
    }
    for set in Api::<DaemonSet>::all(client.clone()).list(&all).await? {
        let status = set.status.clone().unwrap_or_default();
        let seen = status.observed_generation == set.metadata.generation;
        let wanted = usize::try_from(status.desired_number_scheduled).unwrap_or(0);
        if !seen || wanted < nodes || status.number_ready < status.desired_number_scheduled {
            let (name, ready) = (set.name_any(), status.number_ready);
            missing.push(format!("only {ready} of {nodes} pods of DaemonSet {name} run"));
        }
    }
    Ok(missing)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What the first pod that is not ready said last.
async fn last_words(client: &Client, registry: &Registry) -> String {
    let Ok(pods) = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await else {
        return String::new();
    };
    let Some(pod) = pods.items.iter().find(|pod| !crate::pods::is_ready(pod)) else { return String::new() };
    let key = crate::world::Key::of(pod);
    let container = registry.get(&key).and_then(|running| running.containers.into_iter().next());
    let Some(container) = container else { return format!("; pod {key} was not started") };
    let request = apiserver::streams::LogRequest { tail_lines: Some(3), ..Default::default() };
    let previous = apiserver::streams::LogRequest { previous: true, ..request.clone() };
    for request in [request, previous] {
        let Some(stream) = container.log.read(&request) else { continue };
        let chunks: Vec<bytes::Bytes> = stream.try_collect().await.unwrap_or_default();
        let text = String::from_utf8_lossy(&chunks.concat()).trim().to_string();
        if !text.is_empty() {
            let shown: String = text.chars().take(LAST_WORDS).collect();
            return format!("; pod {key} said: {shown}");
        }
    }
    format!("; pod {key} said nothing")
}
