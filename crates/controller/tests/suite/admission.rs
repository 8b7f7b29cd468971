//! Admission as a user meets it: the API server asks the controller's webhooks, and the CRDs' own rules stand behind them.

use api::v1beta1::{EgressGateway, EgressPolicy};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
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
    list_webhooks(cluster).await;
    cluster
        .eventually("an answer of the webhooks", || async {
            let refused = cluster.create(gateway("probe", json!({"ipv4": ["10.9.9.9-10.9.9.1"]}))).await;
            let told = refused.err()?.to_string();
            told.contains("spec.ippools.ipv4[0]").then_some(())
        })
        .await;
}

/// Lists the webhooks that are served now, at least one, as endpoints of their Service.
async fn list_webhooks(cluster: &Cluster) {
    let served = cluster.eventually("webhooks that are served", || async {
        let mut served = Vec::new();
        for address in cluster.webhooks {
            if tokio::net::TcpStream::connect((address, WEBHOOK_PORT)).await.is_ok() {
                served.push(address);
            }
        }
        (!served.is_empty()).then_some(served)
    });
    let endpoint = |address| json!({"addresses": [address], "conditions": {"ready": true}});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "webhook", "namespace": SYSTEM, "labels": {"kubernetes.io/service-name": WEBHOOK}},
        "endpoints": served.await.into_iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "webhook", "port": WEBHOOK_PORT, "protocol": "TCP"}],
    });
    let slices: Api<EndpointSlice> = cluster.namespaced(SYSTEM);
    let parameters = PatchParams::apply("test").force();
    slices.patch("webhook", &parameters, &Patch::Apply(slice)).await.expect("listed");
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

/// Of two that come at once, the later one is refused: by the webhook if it knows of the other, else by its condition, with
/// the same words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x_g2_of_two_gateways_made_at_once_with_one_address_the_later_is_refused() {
    let (cluster, controller) = Cluster::at_work().await;
    install(&cluster).await;
    let gateways: Api<EgressGateway> = cluster.api();
    let mut conditions = 0;
    for round in 0..10 {
        let address = format!("10.8.0.{}", round + 1);
        let names = ["a", "b"].map(|side| format!("{side}{round}"));
        let [left, right] =
            names.each_ref().map(|name| cluster.create(gateway(name, json!({"ipv4": [address]}))));
        let made: [Result<Value, kube::Error>; 2] = tokio::join!(left, right).into();
        let problem = |other: &str| {
            format!("{address} is also in the pool of EgressGateway `{other}`; take it out of one of them")
        };
        let others = names.iter().rev();
        let refusals = made.iter().zip(others.clone()).filter_map(|(made, other)| {
            let told = made.as_ref().err()?.to_string();
            assert!(told.contains(&problem(other)), "{told}");
            Some(())
        });
        match refusals.count() {
            1 => {}
            0 => {
                conditions += 1;
                let told = async |name: &str| {
                    let status = gateways.get(name).await.ok()?.status?;
                    status.conditions.first().map(|condition| condition.message.clone())
                };
                cluster
                    .eventually("a condition of the later one", || async {
                        let (left, right) = (told(&names[0]).await?, told(&names[1]).await?);
                        (left.ends_with(&problem(&names[1])) != right.ends_with(&problem(&names[0])))
                            .then_some(())
                    })
                    .await;
            }
            both => panic!("{both} are refused"),
        }
    }
    println!("{conditions} of 10 by condition");
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
    list_webhooks(&cluster).await;
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

/// A cluster without webhooks is not defenceless: what needs no other object is a rule of the schema.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_webhooks_the_rules_of_the_schema_stand() {
    let cluster = Cluster::start().await;
    let selector = |selector: Value| {
        json!({
            "apiVersion": api::names::API_VERSION, "kind": "EgressGateway", "metadata": {"name": "g"},
            "spec": {"nodeSelector": {"selector": selector}},
        })
    };
    let mut wide = policy("wide", json!({"egressIP": {"useNodeIP": true, "ipv6": "fd00::1"}}));
    wide["kind"] = "EgressClusterPolicy".into();
    wide["metadata"] = json!({"name": "wide"});
    let expressions = json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]});
    for (object, field, told) in [
        (selector(json!({"matchLabels": {}})), "spec.nodeSelector.selector", "selects no node; give"),
        (
            gateway("g", json!({"ipv4DefaultEIP": "10.6.1.1"})),
            "spec.ippools.ipv4DefaultEIP",
            "which is empty; add it",
        ),
        (
            gateway("g", json!({"ipv6DefaultEIP": "fd00::1"})),
            "spec.ippools.ipv6DefaultEIP",
            "which is empty; add it",
        ),
        (policy("p", json!({"appliedTo": {"podSelector": {}}})), "spec.appliedTo", "give a podSelector"),
        (
            policy("p", json!({"appliedTo": {"podSelector": expressions, "podSubnet": ["10.0.0.0/8"]}})),
            "spec.appliedTo",
            "can't be combined; remove one",
        ),
        (wide, "spec.egressIP", "useNodeIP excludes ipv4 and ipv6; remove"),
        (
            json!({"apiVersion": api::names::API_VERSION, "kind": "EgressClusterInfo", "metadata": {"name": "other"}}),
            "<nil>",
            "nobody reads it; name it `default`",
        ),
    ] {
        let message = refusal(&cluster, object).await;
        assert!(message.contains(&format!("{field}: ")) && message.contains(told), "{message}");
    }

    // P00018, P00019, X-P5
    let policies: Api<EgressPolicy> = cluster.namespaced("default");
    let asks = json!({"egressGatewayName": "g", "egressIP": {"ipv4": "10.6.1.1", "ipv6": "fd00::1"}});
    cluster.create(policy("kept", asks)).await.expect("created");
    cluster.create(policy("nameless", json!({}))).await.expect("created");
    for (field, value) in [
        ("spec.egressGatewayName", json!({"egressGatewayName": "other"})),
        ("spec.egressGatewayName", json!({"egressGatewayName": null})),
        ("spec.egressIP.ipv4", json!({"egressIP": {"ipv4": "10.6.1.2"}})),
        ("spec.egressIP.ipv6", json!({"egressIP": {"ipv6": null}})),
        ("spec.egressIP.useNodeIP", json!({"egressIP": {"useNodeIP": true, "ipv4": null, "ipv6": null}})),
        ("spec.egressIP.allocatorPolicy", json!({"egressIP": {"allocatorPolicy": "rr"}})),
    ] {
        let patch = Patch::Merge(json!({"spec": value}));
        let error =
            policies.patch("kept", &PatchParams::default(), &patch).await.expect_err("refused").to_string();
        assert!(
            error.contains(&format!("{field}: Invalid value")) && error.contains("is immutable"),
            "{error}"
        );
    }
    // What the controller fills in, and what may change.
    for (name, value) in [
        ("nameless", json!({"egressGatewayName": "g"})),
        ("kept", json!({"egressIP": {"allocatorPolicy": ""}, "destSubnet": ["192.0.2.0/24"], "priority": 7})),
        ("kept", json!({"appliedTo": {"podSelector": null, "podSubnet": ["10.0.0.0/8"]}})),
    ] {
        let patch = Patch::Merge(json!({"spec": value}));
        policies.patch(name, &PatchParams::default(), &patch).await.expect("allowed");
    }
}
