//! Who a client is.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Client, Cluster, request};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Name and groups of whoever the client is.
async fn whoami(client: &Client) -> Value {
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
    client.post(REVIEWS, &review).await.expect(201)["status"]["userInfo"].clone()
}

#[tokio::test]
async fn tokens_and_certificates_prove_who_somebody_is() {
    let cluster = Cluster::start().await;
    let admin = whoami(&cluster.client()).await;
    assert_eq!(admin["username"], "kubernetes-admin");
    assert_eq!(admin["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(whoami(&cluster.client_with(Some("alice-token"), None)).await["username"], "alice");
    let pair = cluster.server.issue_client_certificate("bob", Some("ops")).expect("a certificate");
    let bob = whoami(&cluster.client_with(None, Some(&pair))).await;
    assert_eq!(bob, json!({ "username": "bob", "groups": ["ops", "system:authenticated"] }));
}

#[tokio::test]
async fn a_wrong_token_is_401_and_no_token_is_403() {
    let cluster = Cluster::start().await;
    let wrong = cluster.client_with(Some("wrong"), None);
    let status = wrong.get("/api/v1/pods").await.fails(401, "Unauthorized");
    assert_eq!(status["message"], "Unauthorized");
    wrong.get("/version").await.fails(401, "Unauthorized");
    let nobody = cluster.client_with(None, None);
    let status = nobody.get("/api/v1/namespaces/ns/pods/p").await.fails(403, "Forbidden");
    let expected = "pods \"p\" is forbidden: User \"system:anonymous\" cannot get resource \"pods\" in API group \"\" \
                    in the namespace \"ns\"";
    assert_eq!(status["message"], expected);
    nobody.get("/version").await.expect(200);
    assert_eq!(nobody.get("/readyz").await.text(), "ok");
    nobody.get("/apis").await.fails(403, "Forbidden");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let cluster = Cluster::start().await;
    let other = Cluster::start().await;
    let pair =
        other.server.issue_client_certificate("mallory", Some("system:masters")).expect("a certificate");
    let client = cluster.client_with(None, Some(&pair));
    let refused = client.try_send(request(Method::GET, "/version", &[], Bytes::new())).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_service_account_token_works_until_the_account_goes() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "agent" } });
    client.post(accounts, &account).await.expect(201);
    let ask = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    let answer = client.post(&format!("{accounts}/agent/token"), &ask).await.expect(201);
    assert!(answer["status"]["expirationTimestamp"].is_string());
    let token = answer["status"]["token"].as_str().expect("a token");
    let agent = cluster.client_with(Some(token), None);
    let info = whoami(&agent).await;
    assert_eq!(info["username"], "system:serviceaccount:default:agent");
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
    assert_eq!(info["groups"], groups);
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token } });
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    assert_eq!(client.post(reviews, &review).await.expect(201)["status"]["authenticated"], true);
    let short = json!({ "spec": { "expirationSeconds": 10 } });
    client.post(&format!("{accounts}/agent/token"), &short).await.fails(422, "Invalid");
    client.delete(&format!("{accounts}/agent")).await.expect(200);
    agent.get("/api/v1/pods").await.fails(401, "Unauthorized");
    assert_eq!(client.post(reviews, &review).await.expect(201)["status"]["authenticated"], Value::Null);
    client.post(&format!("{accounts}/agent/token"), &ask).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_token_bound_to_a_pod_names_it_and_dies_with_it() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    cluster.running_pod("p", &["a"]).await;
    let token =
        cluster.server.issue_service_account_token("default", "default", Some("p"), 3600).expect("a token");
    let agent = cluster.client_with(Some(&token), None);
    assert_eq!(whoami(&agent).await["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    client.delete("/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0").await.expect(200);
    agent.get("/version").await.fails(401, "Unauthorized");
}

#[tokio::test]
async fn access_reviews_answer_what_the_server_would_do() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let base = "/apis/authorization.k8s.io/v1";
    let attributes = json!({ "verb": "get", "resource": "pods", "namespace": "default" });
    let own = json!({ "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": { "resourceAttributes": attributes } });
    let answer = client.post(&format!("{base}/selfsubjectaccessreviews"), &own).await.expect(201);
    assert_eq!(answer["status"]["allowed"], true);
    let other = json!({ "kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": { "user": "system:anonymous", "resourceAttributes": attributes } });
    let answer = client.post(&format!("{base}/subjectaccessreviews"), &other).await.expect(201);
    assert_eq!(answer["status"]["allowed"], false);
    let rules = json!({ "kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1", "spec": { "namespace": "default" } });
    let answer = client.post(&format!("{base}/selfsubjectrulesreviews"), &rules).await.expect(201);
    assert_eq!(answer["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    let empty =
        json!({ "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": {} });
    client.post(&format!("{base}/selfsubjectaccessreviews"), &empty).await.fails(422, "Invalid");
    client.get(&format!("{base}/selfsubjectaccessreviews")).await.fails(405, "MethodNotAllowed");
}

#[tokio::test]
async fn an_administrator_may_act_as_somebody_else() {
    let cluster = Cluster::start().await;
    let headers =
        [("impersonate-user", "carol"), ("impersonate-group", "ops"), ("content-type", "application/json")];
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
    let reply =
        cluster.client().send(request(Method::POST, REVIEWS, &headers, review.to_string().into())).await;
    let info = reply.expect(201)["status"]["userInfo"].clone();
    assert_eq!(info, json!({ "username": "carol", "groups": ["ops", "system:authenticated"] }));
    let nobody = cluster.client_with(None, None);
    nobody.send(request(Method::GET, "/version", &headers, Bytes::new())).await.fails(403, "Forbidden");
}
