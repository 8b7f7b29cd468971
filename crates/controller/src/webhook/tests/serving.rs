//! What is answered to who asks no proper question, and what is known when.

use runtime::watch::Change;

use super::*;

fn webhook() -> Webhook {
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    Webhook {
        knowledge: Arc::new(Knowledge::new(Settings::default())),
        gateways: Api::all(Client::try_from(config).unwrap()),
        readers: Semaphore::new(READERS_MAX),
        metrics: AdmissionMetrics::default(),
    }
}

fn list_everything(knowledge: &Knowledge, gateways: &[(&str, &str)]) {
    let read = |(name, address): &(&str, &str)| {
        serde_json::from_value(gateway(name, json!({"ipv4": [address]}))).unwrap()
    };
    knowledge.gateways(&Change::Replaced(gateways.iter().map(read).collect()));
    knowledge.namespaces(&Change::Replaced(Vec::new()));
    knowledge.nodes(&Change::Replaced(Vec::new()));
}

async fn status(webhook: &Webhook, body: Vec<u8>) -> u16 {
    webhook.respond(Path::Validate, Body::from(body)).await.status().as_u16()
}

#[tokio::test]
async fn nothing_is_answered_before_everything_is_listed_or_to_what_is_no_question() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let webhook = webhook();
    let good = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "1", "kind": {"group": "g", "kind": "k"}, "operation": "CREATE"},
    });
    let good = good.to_string().into_bytes();
    assert_eq!(status(&webhook, good.clone()).await, 503);
    list_everything(&webhook.knowledge, &[]);
    webhook.knowledge.complete().await;
    assert_eq!(status(&webhook, good).await, 200);
    assert_eq!(status(&webhook, b"{".to_vec()).await, 400);
    assert_eq!(status(&webhook, vec![b' '; BODY_BYTES_MAX + 1]).await, 413);
}

#[tokio::test]
async fn a_refusal_stands_where_the_api_server_can_not_be_asked_again() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let webhook = webhook();
    list_everything(&webhook.knowledge, &[("other", "10.6.1.1")]);
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "1", "operation": "CREATE", "name": "g",
            "kind": {"group": api::names::GROUP, "kind": "EgressGateway"},
            "object": gateway("g", json!({"ipv4": ["10.6.1.1"]})),
        },
    });
    let review = Review::read(review.to_string().as_bytes()).unwrap();
    let answer = webhook.answer(Path::Validate, &review).await;
    assert!(told(answer).contains("also in the pool of EgressGateway `other`"));
}

#[test]
fn what_is_read_again_counts_for_one_answer() {
    let knowledge = Knowledge::new(Settings::default());
    list_everything(&knowledge, &[("a", "10.6.1.1"), ("b", "10.6.1.2")]);
    let names = |snapshot: &ClusterSnapshot| snapshot.gateways.keys().cloned().collect::<Vec<_>>();
    let new = record::gateway(&serde_json::from_value(gateway("c", json!({"ipv4": ["10.6.1.3"]}))).unwrap());
    let fresh = vec![("a".to_owned(), None), ("c".to_owned(), Some(new))];
    assert_eq!(knowledge.with_fresh(fresh, names), ["b", "c"]);
    assert_eq!(knowledge.with(names), ["a", "b"]);
    // A later list is all that there is.
    list_everything(&knowledge, &[("b", "10.6.1.2")]);
    assert_eq!(knowledge.with(names), ["b"]);
}
