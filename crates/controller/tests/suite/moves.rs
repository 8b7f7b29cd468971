//! EIPs that people ask to have on another node.

use api::names;
use api::v1beta1::{EgressGateway, EgressPolicy};
use k8s_openapi::api::core::v1::Event;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::harness::Cluster;

/// C00001 and X-C1: a wish is fulfilled or refused, taken off the gateway, and answered there and by an event.
/// Acceptance: X-C1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c00001_an_eip_moves_when_somebody_asks_for_it() {
    let (cluster, controller) = Cluster::at_work().await;
    cluster.gateway("default", "10.6.168.201").await;
    cluster.policy("test", "default").await;
    let policies: Api<EgressPolicy> = cluster.namespaced("default");
    let gateways: Api<EgressGateway> = cluster.api();
    let on_node = |node: &'static str| {
        let policies = &policies;
        cluster.eventually(node, move || async move {
            let status = policies.get("test").await.ok()?.status?;
            (status.node == node).then_some(())
        })
    };
    let ask = async |wish: &str| {
        let patch = json!({"metadata": {"annotations": {names::ANNOTATION_MOVE: wish}}});
        gateways.patch("default", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    let answer = |start: &'static str| {
        let gateways = &gateways;
        cluster.eventually(start, move || async move {
            let gateway = gateways.get("default").await.ok()?;
            let result = gateway.annotations().get(names::ANNOTATION_MOVE_RESULT)?;
            let is_taken_off = !gateway.annotations().contains_key(names::ANNOTATION_MOVE);
            (is_taken_off && result.starts_with(start)).then(|| result.clone())
        })
    };
    on_node("a").await;
    cluster.claim("a", "10.6.168.201", 1).await;
    ask("10.6.168.201=b").await;
    on_node("b").await;
    cluster.claim("b", "10.6.168.201", 2).await;
    let result = answer("10.6.168.201=b: Moved").await;
    assert_eq!(result, "10.6.168.201=b: Moved: 10.6.168.201 moved from node a to node b, as asked");
    ask("10.6.168.201=c").await;
    let result = answer("10.6.168.201=c: MoveRefused").await;
    assert!(result.contains("node `c` is not one of this gateway's"), "{result}");
    on_node("b").await;
    let events: Api<Event> = cluster.namespaced("default");
    cluster
        .eventually("an event", || async {
            let events = events.list(&ListParams::default()).await.ok()?.items;
            let mut of_gateway =
                events.iter().filter(|it| it.involved_object.kind.as_deref() == Some("EgressGateway"));
            of_gateway.find(|it| it.reason.as_deref() == Some("MoveRefused")).map(drop)
        })
        .await;
    controller.stop().await;
}
