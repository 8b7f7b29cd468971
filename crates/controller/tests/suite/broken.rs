//! Clusters that are set up wrongly: what is wrong, and what helps, is told where people look.

use api::v1beta1::{EgressGateway, EgressTunnel};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::{Cluster, SYSTEM};

/// The controller's own pod, which `kubectl describe` is asked about.
async fn own_pod(cluster: &Cluster) -> Pod {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": SYSTEM},
        "spec": {"nodeName": "c", "containers": [{"name": "controller", "image": "controller"}]},
    });
    cluster.create(pod).await.expect("created");
    cluster.namespaced::<Pod>(SYSTEM).get("one").await.expect("a pod")
}

/// Waits for an event of this pod, and none of another with its name, that says all of this.
async fn told_of(cluster: &Cluster, pod: &Pod, parts: &[&str]) {
    let events: Api<Event> = cluster.namespaced(SYSTEM);
    cluster
        .eventually("an event of the controller's pod", || async {
            let events = events.list(&ListParams::default()).await.ok()?.items;
            let tells = |event: &&Event| {
                let message = event.message.as_deref().unwrap_or_default();
                event.involved_object.uid == pod.uid()
                    && event.type_.as_deref() == Some("Warning")
                    && parts.iter().all(|part| message.contains(part))
            };
            events.iter().find(tells).map(drop)
        })
        .await;
}

async fn until_ready(cluster: &Cluster) {
    cluster
        .eventually("a ready controller", || async { cluster.readyz("one").await.filter(|it| it == "ok") })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_kind_is_told_and_the_controller_starts_once_it_is_there() {
    let cluster = Cluster::start().await;
    let pod = own_pod(&cluster).await;
    let definitions: Api<CustomResourceDefinition> = cluster.api();
    let name = "egresstunnels.egressgateway.spidernet.io";
    let definition = definitions.get(name).await.expect("it is there");
    definitions.delete(name, &DeleteParams::default()).await.expect("deleted");
    let gone = || async { definitions.get_opt(name).await.ok()?.is_none().then_some(()) };
    cluster.eventually("no definition", gone).await;
    let controller = cluster.controller("one").await;
    let missing = "CustomResourceDefinition `egresstunnels.egressgateway.spidernet.io` is missing";
    told_of(
        &cluster,
        &pod,
        &["EgressTunnel is not installed", missing, "apply the chart's directory `crds`"],
    )
    .await;
    let ready = cluster.readyz("one").await.expect("an answer");
    assert!(ready.starts_with("waiting for: ") && ready.contains(missing), "{ready}");
    assert!(ready.contains("first list of every kind"), "{ready}");
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": name}, "spec": definition.spec,
    });
    cluster.create(definition).await.expect("created");
    until_ready(&cluster).await;
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_is_told_and_the_controller_starts_once_it_is_given() {
    let cluster = Cluster::start().await;
    let pod = own_pod(&cluster).await;
    let roles: Api<ClusterRole> = cluster.api();
    let name = "egressgateway-controller";
    let whole = roles.get(name).await.expect("a role");
    let mut less = whole.clone();
    for rule in less.rules.iter_mut().flatten() {
        rule.resources.iter_mut().flatten().for_each(|resource| {
            if resource == "nodes" {
                "nothing".clone_into(resource);
            }
        });
    }
    roles.replace(name, &Default::default(), &less).await.expect("replaced");
    let controller = cluster.controller("one").await;
    told_of(&cluster, &pod, &["Node can't be listed", "nodes is forbidden", "apply the chart's roles"]).await;
    let mut again = roles.get(name).await.expect("a role");
    again.rules = whole.rules;
    roles.replace(name, &Default::default(), &again).await.expect("replaced");
    until_ready(&cluster).await;
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_permission_what_is_missing_is_told_by_readiness() {
    let cluster = Cluster::start().await;
    let bindings: Api<ClusterRoleBinding> = cluster.api();
    bindings.delete("egressgateway-controller", &DeleteParams::default()).await.expect("deleted");
    let controller = cluster.controller("one").await;
    cluster
        .eventually("all that is missing", || async {
            let text = cluster.readyz("one").await?;
            let all = ["Node can't be listed", "EgressGateway can't be listed", "apply the chart's roles"];
            all.iter().all(|part| text.contains(part)).then_some(())
        })
        .await;
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_subnet_that_is_too_small_is_told_at_the_tunnel_that_has_no_address() {
    let cluster = Cluster::start().await;
    let settings = plan::Settings {
        tunnel_subnet_v4: "172.31.0.0/30".parse().expect("a network"),
        ..plan::Settings::default()
    };
    let controller = cluster.controller_with("one", settings).await;
    let tunnels: Api<EgressTunnel> = cluster.api();
    let tunnel = cluster
        .eventually("a tunnel that failed", || async {
            tunnels
                .get("c")
                .await
                .ok()
                .filter(|tunnel| tunnel.status.as_ref().is_some_and(|status| status.phase == "Failed"))
        })
        .await;
    let message = tunnel.status.unwrap_or_default().message;
    assert!(message.contains("tunnel subnet has no free address"), "{message}");
    assert!(message.ends_with("widen feature.tunnelIpv4Subnet"), "{message}");
    let events: Api<Event> = cluster.namespaced("default");
    cluster
        .eventually("a warning", || async {
            let events = events.list(&ListParams::default()).await.ok()?.items;
            let tells = |event: &&Event| {
                event.involved_object.name.as_deref() == Some("c")
                    && event.type_.as_deref() == Some("Warning")
                    && event.message.as_deref().unwrap_or_default().contains("widen feature.tunnelIpv4Subnet")
            };
            events.iter().find(tells).map(drop)
        })
        .await;
    // The others work.
    for node in ["a", "b"] {
        cluster.agent(node).await;
    }
    cluster.gateway("default", "10.6.168.201").await;
    let gateways: Api<EgressGateway> = cluster.api();
    cluster
        .eventually("a ready gateway", || async {
            let status = gateways.get("default").await.ok()?.status?;
            status.conditions.first().is_some_and(|ready| ready.reason == "Ready").then_some(())
        })
        .await;
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_say_what_they_wait_for() {
    let cluster = Cluster::start().await;
    let controller = cluster.controller("one").await;
    let tunnels: Api<EgressTunnel> = cluster.api();
    let says = |part: &'static str| {
        let tunnels = &tunnels;
        cluster.eventually(part, move || async move {
            let message = tunnels.get("a").await.ok()?.status?.message;
            (if part.is_empty() { message.is_empty() } else { message.contains(part) }).then_some(())
        })
    };
    says("the agent of this node has not reported yet").await;
    cluster.agent("a").await;
    says("").await;
    cluster.set_ready("a", false).await;
    says("look at the conditions of the Node").await;
    controller.stop().await;
}
