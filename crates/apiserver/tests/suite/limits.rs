//! What clients can't do to the server.

use apiserver::limits::Limits;
use apiserver::server::ServerConfig;
use apiserver::store::StoreOptions;
use bytes::Bytes;
use http::Method;
use proptest::prelude::*;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{CONFIG_MAPS, Cluster, PATIENCE, config_map, request};

async fn cluster_with(limits: Limits) -> Cluster {
    let store = StoreOptions { limits, ..StoreOptions::default() };
    Cluster::start_with(ServerConfig { store, ..ServerConfig::default() }).await
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_parsed() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let body = Bytes::from(vec![b' '; 3 * 1024 * 1024 + 1]);
    let headers = [("content-type", "application/json")];
    let reply = client.send(request(Method::POST, CONFIG_MAPS, &headers, body)).await;
    let status = reply.fails(413, "RequestEntityTooLarge");
    assert_eq!(status["message"], "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn a_patch_of_too_many_operations_is_refused() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let operation = json!({ "op": "test", "path": "/data/key", "value": "1" });
    let operations = serde_json::Value::from(vec![operation; 10_001]);
    let reply = client.patch(&format!("{CONFIG_MAPS}/one"), "application/json-patch+json", &operations).await;
    reply.fails(413, "RequestEntityTooLarge");
}

#[tokio::test]
async fn watches_beyond_the_limit_are_asked_to_come_later() {
    let cluster = cluster_with(Limits { watches: 1, ..Limits::default() }).await;
    let client = cluster.client();
    let path = format!("{CONFIG_MAPS}?watch=true");
    let first = client.watch(&path).await;
    let refused = client.get(&path).await;
    assert_eq!(refused.header("retry-after"), "1");
    refused.fails(429, "TooManyRequests");
    drop(first);
}

#[tokio::test]
async fn a_watch_that_lags_behind_the_history_is_told_to_begin_anew() {
    let cluster = cluster_with(Limits { history_events: 4, ..Limits::default() }).await;
    let client = cluster.client();
    let start = crate::harness::version(&client.get(CONFIG_MAPS).await.expect(200));
    for value in 0..10 {
        client.post(CONFIG_MAPS, &config_map(&format!("cm-{value}"), "1")).await.expect(201);
    }
    let mut watch = client.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={start}")).await;
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let cluster = Cluster::start_with(ServerConfig { connections_max: 1, ..ServerConfig::default() }).await;
    let client = cluster.client();
    let first = client.connect().await.expect("the first connection");
    let second = client.try_send(request(Method::GET, "/version", &[], Bytes::new())).await;
    assert!(second.is_err());
    drop(first);
}

/// Sends bytes over TLS and reads until the server closes or answers.
async fn send_raw(cluster: &Cluster, bytes: &[u8]) -> Vec<u8> {
    let mut stream = cluster.client().connect().await.expect("a connection");
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end in time");
    answer
}

#[tokio::test]
async fn malformed_http_is_answered_or_dropped_and_the_server_goes_on() {
    let cluster = Cluster::start().await;
    let cases: [&[u8]; 7] = [
        b"\0\0\0\0",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/v1/namespaces HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /api/v1/namespaces HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff",
        b"GET /%00%ff?\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    for case in cases {
        send_raw(&cluster, case).await;
    }
    cluster.client().get("/version").await.expect(200);
}

#[test]
fn arbitrary_bodies_get_an_answer_and_leave_the_server_alive() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cluster = runtime.block_on(Cluster::start());
    let client = cluster.client();
    let method =
        prop_oneof![Just(Method::POST), Just(Method::PUT), Just(Method::PATCH), Just(Method::DELETE)];
    let content_type = prop_oneof![
        Just("application/json"),
        Just("application/yaml"),
        Just("application/json-patch+json"),
        Just("application/merge-patch+json"),
        Just("application/strategic-merge-patch+json"),
        Just("application/apply-patch+yaml"),
        Just("application/vnd.kubernetes.protobuf"),
    ];
    let path = prop_oneof![
        Just("/api/v1/namespaces/default/pods"),
        Just("/api/v1/namespaces/default/pods/p"),
        Just("/api/v1/namespaces/default/pods/p/binding"),
        Just("/api/v1/namespaces/default/serviceaccounts/default/token"),
        Just("/apis/apps/v1/namespaces/default/deployments/d/scale"),
        Just("/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
        Just("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
    ];
    let json_like = "[\\[\\]{}:,\"a0 tn.e-]{0,60}".prop_map(String::into_bytes);
    let body = prop_oneof![proptest::collection::vec(any::<u8>(), 0..128), json_like];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(200));
    let outcome = runner.run(&(method, path, content_type, body), |(method, path, content_type, body)| {
        let headers = [("content-type", content_type)];
        let reply = runtime.block_on(client.send(request(method, path, &headers, body.into())));
        prop_assert!(reply.status.as_u16() < 500 || reply.status.as_u16() == 504, "{}", reply.text());
        Ok(())
    });
    outcome.expect("every body gets an answer");
}
