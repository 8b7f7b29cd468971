//! Discovery and formats.

use http::Method;
use serde_json::json;

use crate::target::{Target, config_map};

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[tokio::test]
async fn case_1_version_and_health() {
    let t = Target::case(1).await;
    let version = t.get("/version").await.expect(200);
    assert!(version["gitVersion"].as_str().is_some_and(|text| text.starts_with("v1.")), "{version}");
    assert_eq!(t.get("/healthz").await.text(), "ok");
    let verbose = t.get("/readyz?verbose").await.text();
    assert!(verbose.contains("[+]ping ok"), "{verbose}");
}

#[tokio::test]
async fn case_2_aggregated_and_legacy_discovery_name_the_same_resources() {
    let t = Target::case(2).await;
    for path in ["/api", "/apis"] {
        let reply = t.get_as(path, DISCOVERY).await;
        assert_eq!(reply.header("content-type"), DISCOVERY);
        assert!(!reply.header("etag").is_empty());
        assert_eq!(reply.expect(200)["kind"], "APIGroupDiscoveryList");
    }
    let list = t.get_as("/apis", DISCOVERY).await.expect(200);
    let groups = list["items"].as_array().expect("groups");
    let apps = groups.iter().find(|group| group["metadata"]["name"] == "apps").expect("apps");
    let mut aggregated: Vec<&str> = apps["versions"][0]["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .filter_map(|resource| resource["resource"].as_str())
        .collect();
    let legacy = t.get("/apis/apps/v1").await.expect(200);
    let mut plain: Vec<&str> = legacy["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .filter_map(|resource| resource["name"].as_str())
        .filter(|name| !name.contains('/'))
        .collect();
    aggregated.sort_unstable();
    plain.sort_unstable();
    assert_eq!(aggregated, plain);
}

#[tokio::test]
async fn case_4_openapi_tells_kinds_fields_and_merge_keys() {
    let t = Target::case(4).await;
    let root = t.get("/openapi/v3").await.expect(200);
    let url = root["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("a URL").to_owned();
    assert!(url.contains("hash="), "{url}");
    let document = t.get(&url).await.expect(200);
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    let parameters = patch["parameters"].as_array().expect("parameters");
    assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation"));
    let containers =
        &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
}

/// A protobuf field of bytes.
fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 128).expect("a short field");
    [&[field << 3 | 2, length], content].concat()
}

fn body(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let type_meta = bytes(1, &[bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat());
    [b"k8s\0".to_vec(), type_meta, bytes(2, message), vec![0x1a, 0, 0x22, 0]].concat()
}

#[tokio::test]
async fn case_5_protobuf_bodies_are_taken() {
    let t = Target::case(5).await;
    let headers = [("content-type", PROTOBUF), ("accept", "application/json")];
    let secret = [bytes(1, &bytes(1, b"s")), bytes(2, &[bytes(1, b"k"), bytes(2, b"v")].concat())].concat();
    let made = t.send(Method::POST, &t.core("secrets"), &headers, body("v1", "Secret", &secret).into()).await;
    let made = made.expect(201);
    assert_eq!((&made["data"]["k"], &made["type"]), (&json!("dg=="), &json!("Opaque")));
    let review = bytes(2, &bytes(1, &[bytes(2, b"get"), bytes(5, b"pods")].concat()));
    let review = body("authorization.k8s.io/v1", "SelfSubjectAccessReview", &review);
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answered = t.send(Method::POST, path, &headers, review.into()).await.expect(201);
    assert_eq!(answered["status"]["allowed"], true);
    let account = bytes(1, &bytes(1, b"robot"));
    let account = body("v1", "ServiceAccount", &account);
    t.send(Method::POST, &t.core("serviceaccounts"), &headers, account.into()).await.expect(201);
    let request = body("authentication.k8s.io/v1", "TokenRequest", &bytes(2, &[0x20, 0xd8, 0x04]));
    let path = t.core("serviceaccounts/robot/token");
    let token = t.send(Method::POST, &path, &headers, request.into()).await.expect(201);
    assert_eq!(token["status"]["token"].as_str().map(|token| token.split('.').count()), Some(3));
    let options = body("v1", "DeleteOptions", &bytes(4, b"Background"));
    let gone = t.send(Method::DELETE, &t.core("secrets/s"), &headers, options.into()).await.expect(200);
    assert_eq!(gone["status"], "Success");
}

#[tokio::test]
async fn case_6_tables() {
    let t = Target::case(6).await;
    t.post(&t.core("configmaps"), &config_map("c", json!({"a": "1"}))).await.expect(201);
    for path in [t.core("configmaps?fieldSelector=metadata.name=c"), t.core("configmaps/c")] {
        let table = t.get_as(&path, TABLE).await.expect(200);
        assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
        assert_eq!(table["columnDefinitions"][0]["name"], "Name");
        assert_eq!(table["rows"][0]["cells"][0], "c");
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    }
    let none = t.get_as(&t.core("configmaps/c?includeObject=None"), TABLE).await.expect(200);
    assert!(none["rows"][0]["object"].is_null());
    let whole = t.get_as(&t.core("configmaps/c?includeObject=Object"), TABLE).await.expect(200);
    assert_eq!(whole["rows"][0]["object"]["data"]["a"], "1");
}

#[tokio::test]
async fn case_7_unknown_paths_methods_and_formats() {
    let t = Target::case(7).await;
    t.get("/api/v1/nothing").await.fails(404, "NotFound");
    t.get("/apis/apps/v9/deployments").await.fails(404, "NotFound");
    for path in ["/apis/no.such.group/v1", "/apis/no.such.group/v1/things", "/nothing"] {
        let reply = t.get(path).await;
        assert_eq!((reply.status.as_u16(), reply.text().trim()), (404, "404 page not found"));
    }
    let post = t.post(&t.core("configmaps/c"), &json!({})).await;
    post.fails(405, "MethodNotAllowed");
    t.get_as(&t.core("configmaps"), "text/html").await.fails(406, "NotAcceptable");
    let headers = [("content-type", "text/plain")];
    let path = t.core("configmaps");
    t.send(Method::POST, &path, &headers, "x".into()).await.fails(415, "UnsupportedMediaType");
    t.get(&t.core("configmaps?nonsense=1")).await.expect(200);
    t.post(&t.core("configmaps"), &config_map("c", json!({}))).await.expect(201);
    t.patch(&t.core("configmaps/c"), "application/json", &json!({})).await.fails(415, "UnsupportedMediaType");
}

#[tokio::test]
async fn case_4_openapi_v2_for_older_clients() {
    let t = Target::case(4).await;
    t.define(json!({"type": "object", "properties": {"color": {"type": "string"}, "replicas": {"type": "integer"}}}))
        .await;
    let name = format!("{}.v1.Thing", t.group.rsplit('.').collect::<Vec<_>>().join("."));
    t.until("/openapi/v2", |reply| reply.json()["definitions"].get(&name).is_some()).await;
    let document = t.get("/openapi/v2").await.expect(200);
    assert_eq!(document["swagger"], "2.0");
    let thing = &document["definitions"][&name];
    let kind = json!([{"group": t.group, "version": "v1", "kind": "Thing"}]);
    assert_eq!(thing["x-kubernetes-group-version-kind"], kind);
    assert_eq!(thing["properties"]["spec"]["properties"]["color"], json!({"type": "string"}));
    let containers = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.Container");
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"]["patch"];
    let validates = |parameter: &serde_json::Value| {
        parameter["name"] == "fieldValidation"
            || parameter["$ref"].as_str().is_some_and(|target| target.contains("fieldValidation"))
    };
    assert!(patch["parameters"].as_array().is_some_and(|list| list.iter().any(validates)), "{patch}");
    let media_type = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let reply = t.get_as("/openapi/v2", media_type).await;
    assert_eq!(reply.status.as_u16(), 200);
    assert_eq!(reply.header("content-type"), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    // The first field: `swagger`.
    assert!(reply.body.starts_with(b"\x0a\x032.0"));
}
