//! Admission as a user meets it: the API server asks the controller's webhooks, and the CRDs' own rules stand behind them.

use api::v1beta1::{EgressGateway, EgressPolicy};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::harness::{Cluster, SYSTEM, WEBHOOK, WEBHOOK_PORT, policy};

/// The manifest that is installed, of which the webhook configurations are wanted.
const MANIFEST: &str = include_str!("../../../lab/manifests/egressgateway.yaml");

/// Installs Service and webhook configurations, and waits until the API server's questions are answered.
pub(crate) async fn install(cluster: &Cluster) {
    for object in serde_saphyr::from_multiple::<Value>(MANIFEST).expect("YAML") {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        if kind == "Service" || kind.ends_with("WebhookConfiguration") {
            cluster.create(object).await.expect("created");
        }
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "webhook", "namespace": SYSTEM, "labels": {"kubernetes.io/service-name": WEBHOOK}},
        "endpoints": cluster.webhooks.map(|address| json!({"addresses": [address], "conditions": {"ready": true}})),
        "ports": [{"name": "webhook", "port": WEBHOOK_PORT, "protocol": "TCP"}],
    });
    cluster.create(slice).await.expect("created");
    cluster
        .eventually("an answer of the webhooks", || async {
            let refused = cluster.create(gateway("probe", json!({"ipv4": ["10.9.9.9-10.9.9.1"]}))).await;
            let told = refused.err()?.to_string();
            told.contains("spec.ippools.ipv4[0]").then_some(())
        })
        .await;
}

fn gateway(name: &str, pools: Value) -> Value {
    json!({
        "apiVersion": api::names::API_VERSION, "kind": "EgressGateway", "metadata": {"name": name},
        "spec": {"ippools": pools, "nodeSelector": {"selector": {"matchLabels": {"egressgateway": "true"}}}},
    })
}

/// What a user reads who is refused.
async fn refusal(cluster: &Cluster, object: Value) -> String {
    match cluster.create(object).await {
        Err(kube::Error::Api(status)) => status.message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_object_is_refused_with_field_value_and_fix_and_defaults_are_filled() {
    let (cluster, controller) = Cluster::at_work().await;
    install(&cluster).await;
    cluster.gateway("default", "10.6.168.201-10.6.168.205").await;
    let gateways: Api<EgressGateway> = cluster.api();
    // G00005: it is there at once, by the webhook and not by the planner.
    let stored = gateways.get("default").await.expect("stored");
    assert_eq!(stored.spec.ippools.ipv4_default_eip, "10.6.168.201");
    assert_eq!(stored.metadata.finalizers.as_deref(), Some(&[api::names::FINALIZER_GATEWAY.to_owned()][..]));

    let told = refusal(&cluster, gateway("other", json!({"ipv4": ["10.6.168.205-10.6.168.209"]}))).await;
    assert_eq!(
        told,
        "admission webhook \"egressgateway.egressgateway.spidernet.io\" denied the request: \
         EgressGateway.egressgateway.spidernet.io \"other\" is invalid: spec.ippools: Duplicate value: \"10.6.168.205\": \
         10.6.168.205 is also in the pool of EgressGateway `default`; take it out of one of them"
    );
    let told = refusal(&cluster, policy("p", json!({"egressGatewayName": "nobody"}))).await;
    assert!(told.contains("spec.egressGatewayName: Not found: \"nobody\""), "{told}");

    // A policy right after its gateway, however far the watches are.
    for round in 0..20 {
        let name = format!("g{round}");
        let address = format!("10.7.0.{}", round + 1);
        cluster.create(gateway(&name, json!({"ipv4": [address]}))).await.expect("created");
        let wants = json!({"egressGatewayName": name, "egressIP": {"ipv4": address}});
        cluster.create(policy(&name, wants)).await.expect("its gateway is known");
    }

    // P00019
    let policies: Api<EgressPolicy> = cluster.namespaced("default");
    let patch = Patch::Merge(json!({"spec": {"egressGatewayName": "default"}}));
    let told = policies.patch("g1", &PatchParams::default(), &patch).await.expect_err("refused").to_string();
    assert!(told.contains("spec.egressGatewayName") && told.contains("immutable"), "{told}");

    // I00007
    let infos: Api<api::v1beta1::EgressClusterInfo> = cluster.api();
    let told = infos.delete("default", &DeleteParams::default()).await.expect_err("refused").to_string();
    assert!(told.contains("metadata.name: Forbidden: \"default\""), "{told}");

    // Deleted and made anew at once: the old one counts no more.
    policies.delete("g3", &DeleteParams::default()).await.expect("deleted");
    gateways.delete("g3", &DeleteParams::default()).await.expect("deleted");
    cluster
        .eventually("the end of a gateway", || async {
            gateways.get_opt("g3").await.ok()?.is_none().then_some(())
        })
        .await;
    cluster.create(gateway("again", json!({"ipv4": ["10.7.0.4"]}))).await.expect("its address is free");
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_agree_on_one_certificate_and_a_lost_one_is_made_anew() {
    let cluster = Cluster::start().await;
    let first = cluster.controller("one").await;
    install(&cluster).await;
    let secrets: Api<Secret> = cluster.namespaced(SYSTEM);
    let name = format!("{WEBHOOK}-server-certs");
    let before = secrets.get(&name).await.expect("stored");
    first.stop().await;
    // Another replica takes what is there.
    let second = cluster.controller("two").await;
    cluster
        .eventually("an answer of the other replica", || async {
            let refused = cluster.create(gateway("probe", json!({"ipv4": ["10.9.9.9-10.9.9.1"]}))).await;
            refused.err()?.to_string().contains("spec.ippools.ipv4[0]").then_some(())
        })
        .await;
    assert_eq!(secrets.get(&name).await.expect("stored").data, before.data);
    // Somebody deletes it: another is made, published and served.
    secrets.delete(&name, &DeleteParams::default()).await.expect("deleted");
    let anew = cluster.eventually("a new certificate", || async { secrets.get_opt(&name).await.ok()? }).await;
    assert_ne!(anew.data, before.data);
    cluster
        .eventually("an answer with the new certificate", || async {
            let refused = cluster.create(gateway("probe", json!({"ipv4": ["10.9.9.9-10.9.9.1"]}))).await;
            refused.err()?.to_string().contains("spec.ippools.ipv4[0]").then_some(())
        })
        .await;
    second.stop().await;
}
