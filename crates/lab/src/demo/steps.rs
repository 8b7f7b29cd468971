//! The six steps.

use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::DemoError;
use super::kubectl::Kubectl;
use super::stage::Stage;
use super::traffic::{COMMAND, Traffic};
use crate::addresses::OUTSIDE_V4;
use crate::control::Fault;
use crate::handle::Lab;
use crate::observer::now_us;
use crate::pods::{is_ready, is_terminating, node_name};
use crate::traffic::{ECHO_PORT, PUSH_PORT};

const GATEWAYS: &str = "/apis/egressgateway.spidernet.io/v1beta1/egressgateways";
const POLICIES: &str = "/apis/egressgateway.spidernet.io/v1beta1/egresspolicies";
const POLICY: &str = "/apis/egressgateway.spidernet.io/v1beta1/namespaces/default/egresspolicies/test";
const SLICES: &str = "/apis/egressgateway.spidernet.io/v1beta1/namespaces/default/egressendpointslices";
const GATEWAY_LABEL: (&str, &str) = ("egressgateway", "true");
/// What the outside host serves.
const OUTSIDE_PORTS: [u16; 6] = [80, 8080, 8081, 8082, ECHO_PORT, PUSH_PORT];
/// Generous: a step that is slow is shown as slow, not as broken.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the traffic is watched after the cut node's return.
const AFTER_RETURN: Duration = Duration::from_secs(2);

const TEST_APP: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: test-app
  namespace: default
spec:
  replicas: 1
  selector:
    matchLabels:
      app: test-app
  template:
    metadata:
      labels:
        app: test-app
    spec:
      containers:
        - name: test-app
          image: nginx
";
const GATEWAY: &str = "apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressGateway
metadata:
  name: default
spec:
  ippools:
    ipv4:
      - 10.6.168.201-10.6.168.205
  nodeSelector:
    selector:
      matchLabels:
        egressgateway: \"true\"
";
const TEST_POLICY: &str = "apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressPolicy
metadata:
  name: test
  namespace: default
spec:
  egressGatewayName: default
  appliedTo:
    podSelector:
      matchLabels:
        app: test-app
";

/// What later steps need to know.
struct Scene {
    kubectl: Kubectl,
    pod: Pod,
    /// The node that the pod runs on.
    home: String,
    home_address: String,
    first: String,
    second: String,
}

/// Plays all steps.
pub(super) async fn play(stage: &mut Stage, lab: &Lab) -> Result<(), DemoError> {
    let kubectl = Kubectl { client: lab.client().await? };
    cluster(stage, &kubectl).await?;
    let scene = test_app(stage, kubectl, lab).await?;
    let eip = gateway(stage, &scene).await?;
    let effective_us = policy(stage, &scene, &eip).await?;
    failover(stage, &scene, lab, &eip).await?;
    the_end(stage, &scene, lab, &eip, effective_us).await
}

async fn cluster(stage: &mut Stage, kubectl: &Kubectl) -> Result<(), DemoError> {
    stage.command("kubectl get nodes -o wide");
    stage.output(&kubectl.get("/api/v1/nodes", true, false).await?);
    stage.command("kubectl get pods -n kube-system -o wide");
    stage.output(&kubectl.get("/api/v1/namespaces/kube-system/pods", true, false).await?);
    let pods = kubectl.pods("kube-system", "").await?;
    let ready = pods.iter().filter(|pod| is_ready(pod)).count();
    let seen = format!("{ready} of {}", pods.len());
    stage.expect(ready == pods.len() && ready >= 2, "the controller and an agent on each node run", &seen)
}

async fn test_app(stage: &mut Stage, kubectl: Kubectl, lab: &Lab) -> Result<Scene, DemoError> {
    stage.heading("2. An application talks to a server outside");
    apply(stage, &kubectl, TEST_APP).await?;
    stage.command("kubectl rollout status deployment test-app");
    let pod = stage
        .wait("a running pod of test-app", LIMIT, async || {
            let pods = kubectl.pods("default", "app=test-app").await?;
            let ready = pods.into_iter().find(|pod| is_ready(pod) && !is_terminating(pod));
            ready.ok_or_else(|| anyhow!("no pod of test-app is ready"))
        })
        .await?;
    stage.output("deployment \"test-app\" successfully rolled out");
    stage.command("kubectl get pods -o wide");
    stage.output(&kubectl.get("/api/v1/namespaces/default/pods", true, false).await?);
    let scene = cast(lab, kubectl, pod).await?;
    stage.remark(&format!(
        "{OUTSIDE_V4} is a host outside the cluster; it tells callers which address it sees."
    ));
    let seen = curl(stage, &scene).await?;
    let expected =
        format!("the server sees the address of {}, the pod's node: {}", scene.home, scene.home_address);
    stage.expect(remote_ip(&seen) == Some(scene.home_address.as_str()), &expected, &seen)?;
    Ok(scene)
}

/// Who plays what: neither the pod's node nor the controller's is the gateway that dies.
async fn cast(lab: &Lab, kubectl: Kubectl, pod: Pod) -> Result<Scene, DemoError> {
    let home = node_name(&pod).context("the pod has no node")?.to_string();
    let controllers =
        kubectl.pods("kube-system", "app.kubernetes.io/component=egressgateway-controller").await?;
    let brain = controllers.first().and_then(|pod| node_name(pod)).unwrap_or_default().to_string();
    let nodes = lab.status().map_err(anyhow::Error::from)?.nodes;
    let home_address = nodes.iter().find(|node| node.name == home).map(|node| node.address.to_string());
    let home_address = home_address.with_context(|| format!("no address of node {home}"))?;
    let others: Vec<String> = nodes.into_iter().map(|node| node.name).filter(|name| *name != home).collect();
    let first =
        others.iter().rev().find(|name| **name != brain).context("no node is free to be a gateway")?.clone();
    let second = others.iter().find(|name| **name != first).unwrap_or(&home).clone();
    Ok(Scene { kubectl, pod, home, home_address, first, second })
}

async fn gateway(stage: &mut Stage, scene: &Scene) -> Result<String, DemoError> {
    stage.heading("3. A gateway with five addresses");
    label(stage, scene, &scene.first).await?;
    apply(stage, &scene.kubectl, GATEWAY).await?;
    let path = format!("{GATEWAYS}/default");
    let object = stage
        .wait("EgressGateway default lists its node as Ready", LIMIT, async || {
            let object = scene.kubectl.json(&path).await?;
            ensure_gateway_ready(&object, &scene.first)?;
            Ok(object)
        })
        .await?;
    stage.command("kubectl get egressgateway default -o yaml");
    stage.output(&scene.kubectl.yaml(&path).await?);
    let eip = object
        .pointer("/spec/ippools/ipv4DefaultEIP")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_string();
    let in_pool = eip.strip_prefix("10.6.168.").and_then(|last| last.parse::<u8>().ok());
    let in_pool = in_pool.is_some_and(|last| (201..=205).contains(&last));
    stage.expect(in_pool, &format!("{} is its gateway, and the default EIP is {eip}", scene.first), &eip)?;
    Ok(eip)
}

fn ensure_gateway_ready(object: &Value, node: &str) -> anyhow::Result<()> {
    let nodes = object.pointer("/status/nodeList").and_then(Value::as_array).cloned().unwrap_or_default();
    let found = nodes.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(node));
    let status = found.and_then(|entry| entry.get("status")).and_then(Value::as_str).unwrap_or("not listed");
    ensure!(status == "Ready", "node {node} is {status}");
    Ok(())
}

async fn policy(stage: &mut Stage, scene: &Scene, eip: &str) -> Result<u64, DemoError> {
    stage.heading("4. A policy: pods of test-app leave with the gateway's address");
    apply(stage, &scene.kubectl, TEST_POLICY).await?;
    wait_for_node(stage, scene, &scene.first, LIMIT).await?;
    stage.command("kubectl get egresspolicy -A");
    stage.output(&scene.kubectl.get(POLICIES, false, true).await?);
    let pod_ip = scene.pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or_default();
    stage
        .wait("the endpoint slice lists the pod", LIMIT, async || {
            let slices = scene.kubectl.json(SLICES).await?;
            ensure!(slices.to_string().contains(&format!("\"{pod_ip}\"")), "no slice lists {pod_ip}");
            Ok(())
        })
        .await?;
    stage.command("kubectl get egressendpointslices -o yaml");
    let slices = scene.kubectl.json(SLICES).await?;
    let endpoints: Vec<&Value> = slices
        .pointer("/items")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|slice| slice.get("endpoints"))
        .collect();
    let text = serde_saphyr::to_string(&serde_json::json!({ "endpoints": endpoints.first() }));
    stage.output(&format!("…\n{}", text.context("write YAML")?));
    let seen = stage
        .wait(&format!("the server sees {eip}"), LIMIT, async || {
            let seen = scene.kubectl.exec(&scene.pod, &curl_command()).await?.stdout;
            ensure!(remote_ip(&seen) == Some(eip), "{}", seen.trim());
            Ok(seen)
        })
        .await?;
    let effective_us = now_us();
    stage.command(&format!("kubectl exec deploy/test-app -- {}", curl_command().join(" ")));
    stage.output(&seen);
    stage.holds(&format!("the server sees {eip}, wherever the pod runs"));
    Ok(effective_us)
}

async fn failover(stage: &mut Stage, scene: &Scene, lab: &Lab, eip: &str) -> Result<(), DemoError> {
    stage.heading("5. The gateway dies, the connections live");
    label(stage, scene, &scene.second).await?;
    let path = format!("{GATEWAYS}/default");
    stage
        .wait("a second gateway node is Ready", LIMIT, async || {
            ensure_gateway_ready(&scene.kubectl.json(&path).await?, &scene.second)
        })
        .await?;
    stage.holds(&format!("{} stands by", scene.second));
    stage.command(&format!("kubectl exec -i deploy/test-app -- {} &", COMMAND.join(" ")));
    let traffic = Traffic::start(&scene.kubectl.client, &scene.pod).await?;
    stage.output("20 connections and a stream from server to pod are busy");
    stage.command(&format!("egressgateway lab fault cut {}", scene.first));
    lab.fault(Fault::Cut { node: scene.first.clone() }).map_err(anyhow::Error::from)?;
    wait_for_node(stage, scene, &scene.second, LIMIT).await?;
    let nodes = wait_for_readiness(stage, scene, &scene.first, false).await?;
    stage.command("kubectl get nodes");
    stage.output(&nodes);
    let summary = traffic.end().await?;
    stage.output(&summary.to_string());
    let alive = summary.alive == summary.connections && summary.streams_alive == summary.streams;
    let expected = "all connections and the stream go on through the other gateway";
    stage.expect(alive && summary.connections == 20, expected, &summary.to_string())?;
    stage.command("kubectl get egresspolicy -A");
    stage.output(&scene.kubectl.get(POLICIES, false, true).await?);
    let seen = curl(stage, scene).await?;
    let expected = format!("the server still sees {eip}, now through {}", scene.second);
    stage.expect(remote_ip(&seen) == Some(eip), &expected, &seen)
}

async fn the_end(
    stage: &mut Stage,
    scene: &Scene,
    lab: &Lab,
    eip: &str,
    effective_us: u64,
) -> Result<(), DemoError> {
    stage.heading("6. The node returns, and in the end all is as before");
    let traffic = Traffic::start(&scene.kubectl.client, &scene.pod).await?;
    stage.command(&format!("egressgateway lab fault heal {}", scene.first));
    lab.fault(Fault::Heal { node: scene.first.clone() }).map_err(anyhow::Error::from)?;
    let nodes = wait_for_readiness(stage, scene, &scene.first, true).await?;
    let path = format!("{GATEWAYS}/default");
    stage
        .wait("the returned gateway node is Ready", LIMIT, async || {
            ensure_gateway_ready(&scene.kubectl.json(&path).await?, &scene.first)
        })
        .await?;
    stage.command("kubectl get nodes");
    stage.output(&nodes);
    // Long enough for a gateway that comes back with old ideas to do harm.
    tokio::time::sleep(AFTER_RETURN).await;
    let summary = traffic.end().await?;
    stage.output(&summary.to_string());
    let undisturbed = summary.alive == summary.connections && summary.streams_alive == summary.streams;
    stage.expect(undisturbed, "nothing was disturbed", &summary.to_string())?;
    let node = placed_on(scene).await?;
    let expected = format!("{eip} stays on {}: nothing moves back while it works", scene.second);
    stage.expect(node == scene.second, &expected, &node)?;

    let sources = lab.outside_sources_since(effective_us, &OUTSIDE_PORTS).map_err(anyhow::Error::from)?;
    let seen: Vec<String> = sources.iter().map(ToString::to_string).collect();
    let expected = format!("since the policy took effect, the outside host saw no other source than {eip}");
    stage.expect(seen == [eip], &expected, &seen.join(", "))?;

    stage.command("kubectl delete egresspolicy test");
    let deleted = scene.kubectl.delete(POLICY, "egresspolicy.egressgateway.spidernet.io \"test\"").await?;
    stage.output(&deleted);
    let seen = stage
        .wait("the server sees the node's address again", LIMIT, async || {
            let seen = scene.kubectl.exec(&scene.pod, &curl_command()).await?.stdout;
            ensure!(remote_ip(&seen) == Some(scene.home_address.as_str()), "{}", seen.trim());
            Ok(seen)
        })
        .await?;
    stage.command(&format!("kubectl exec deploy/test-app -- {}", curl_command().join(" ")));
    stage.output(&seen);
    stage.holds(&format!("the server sees {} again, the address of {}", scene.home_address, scene.home));
    Ok(())
}

/// Waits until a node is ready, or not; the table of nodes that shows it.
async fn wait_for_readiness(
    stage: &mut Stage,
    scene: &Scene,
    node: &str,
    ready: bool,
) -> Result<String, DemoError> {
    let wanted = if ready { "Ready" } else { "NotReady" };
    stage
        .wait(&format!("node {node} is {wanted}"), LIMIT, async || {
            let table = scene.kubectl.get("/api/v1/nodes", false, false).await?;
            let row =
                table.lines().find(|line| line.split_whitespace().next() == Some(node)).unwrap_or_default();
            ensure!(row.split_whitespace().nth(1) == Some(wanted), "{row}");
            Ok(table)
        })
        .await
}

async fn apply(stage: &mut Stage, kubectl: &Kubectl, manifest: &str) -> Result<(), DemoError> {
    stage.command(&format!("kubectl apply -f - <<EOF\n{manifest}EOF"));
    let made = kubectl.apply(manifest).await?;
    stage.output(&made);
    Ok(())
}

async fn label(stage: &mut Stage, scene: &Scene, node: &str) -> Result<(), DemoError> {
    stage.command(&format!("kubectl label node {node} {}={}", GATEWAY_LABEL.0, GATEWAY_LABEL.1));
    let labelled = scene.kubectl.label_node(node, GATEWAY_LABEL).await?;
    stage.output(&labelled);
    Ok(())
}

async fn curl(stage: &mut Stage, scene: &Scene) -> Result<String, DemoError> {
    stage.command(&format!("kubectl exec deploy/test-app -- {}", curl_command().join(" ")));
    let executed = scene.kubectl.exec(&scene.pod, &curl_command()).await?;
    stage.output(&executed.stdout);
    stage.output(&executed.stderr);
    if executed.succeeded {
        Ok(executed.stdout)
    } else {
        Ok(format!("{}{}", executed.stdout, executed.stderr))
    }
}

fn curl_command() -> [&'static str; 5] {
    ["curl", "-sS", "-m", "5", "http://10.6.168.63"]
}

/// The address in `Remote IP: ADDRESS:PORT`.
fn remote_ip(answer: &str) -> Option<&str> {
    let socket = answer.trim().strip_prefix("Remote IP: ")?;
    socket.rsplit_once(':').map(|(address, _)| address)
}

async fn placed_on(scene: &Scene) -> anyhow::Result<String> {
    let object = scene.kubectl.json(POLICY).await?;
    Ok(object.pointer("/status/node").and_then(Value::as_str).unwrap_or_default().to_string())
}

async fn wait_for_node(
    stage: &mut Stage,
    scene: &Scene,
    node: &str,
    limit: Duration,
) -> Result<(), DemoError> {
    stage
        .wait(&format!("the policy's status names {node}"), limit, async || {
            let now = placed_on(scene).await?;
            ensure!(now == node, "its status names {now:?}");
            Ok(())
        })
        .await
}
