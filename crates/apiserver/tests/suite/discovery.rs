//! Discovery, OpenAPI, version and health.

use serde_json::{Value, json};

use crate::harness::{Cluster, DEFINITIONS, define_widgets};

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// Resources of a group version in aggregated discovery, by name.
fn resource<'a>(discovery: &'a Value, group: &str, version: &str, name: &str) -> &'a Value {
    let find = |list: &'a Value, key: &str, wanted: &str| -> &'a Value {
        let items = list.as_array().expect("a list");
        items.iter().find(|item| item.pointer(key).and_then(Value::as_str) == Some(wanted)).expect(wanted)
    };
    let group = if group.is_empty() {
        &discovery["items"][0]
    } else {
        find(&discovery["items"], "/metadata/name", group)
    };
    find(&find(&group["versions"], "/version", version)["resources"], "/resource", name)
}

#[tokio::test]
async fn version_and_health_are_answered() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    assert_eq!(client.get("/version").await.expect(200)["gitVersion"], "v1.36.0");
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        assert_eq!(client.get(path).await.text(), "ok", "{path}");
    }
    assert!(client.get("/readyz?verbose").await.text().starts_with("[+]ping ok\n"));
    assert_eq!(client.get("/readyz/nonsense").await.status, 404);
}

#[tokio::test]
async fn aggregated_discovery_echoes_its_type_and_names_all_resources() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let reply = client.get_as("/api", AGGREGATED).await;
    let expected = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    assert_eq!(reply.header("content-type"), expected);
    assert!(!reply.header("etag").is_empty());
    let core = reply.expect(200);
    let pods = resource(&core, "", "v1", "pods");
    assert_eq!(pods["scope"], "Namespaced");
    assert_eq!(pods["shortNames"], json!(["po"]));
    assert!(pods["subresources"].as_array().expect("a list").iter().any(|part| part["subresource"] == "log"));
    let groups = client.get_as("/apis", AGGREGATED).await.expect(200);
    let deployments = resource(&groups, "apps", "v1", "deployments");
    let scale = deployments["subresources"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|part| part["subresource"] == "scale");
    assert_eq!(
        scale.expect("scale")["responseKind"],
        json!({ "group": "autoscaling", "version": "v1", "kind": "Scale" })
    );
}

#[tokio::test]
async fn an_unchanged_document_is_not_sent_again() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let etag = client.get_as("/apis", AGGREGATED).await.header("etag").to_owned();
    let headers = [("accept", AGGREGATED), ("if-none-match", etag.as_str())];
    let again =
        client.send(crate::harness::request(http::Method::GET, "/apis", &headers, bytes::Bytes::new())).await;
    assert_eq!(again.status, 304);
    assert!(again.body.is_empty());
}

#[tokio::test]
async fn plain_discovery_names_the_same_resources() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    assert_eq!(client.get("/api").await.expect(200)["versions"], json!(["v1"]));
    let groups = client.get("/apis").await.expect(200);
    assert_eq!(groups["kind"], "APIGroupList");
    for group in groups["groups"].as_array().expect("groups") {
        let preferred = group["preferredVersion"]["groupVersion"].as_str().expect("a version");
        let list = client.get(&format!("/apis/{preferred}")).await.expect(200);
        assert_eq!(list["groupVersion"], preferred);
        assert!(!list["resources"].as_array().expect("resources").is_empty());
    }
    let core = client.get("/api/v1").await.expect(200);
    let names: Vec<&str> = core["resources"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|entry| entry["name"].as_str())
        .collect();
    for name in
        ["pods", "pods/log", "pods/exec", "pods/status", "namespaces/finalize", "serviceaccounts/token"]
    {
        assert!(names.contains(&name), "{name}");
    }
    assert_eq!(client.get("/apis/apps").await.expect(200)["kind"], "APIGroup");
    for unknown in ["/apis/unheard", "/apis/apps/v9", "/api/v9", "/apis/unheard/v1/things"] {
        let reply = client.get(unknown).await;
        assert_eq!(
            (reply.status.as_u16(), reply.text().as_str()),
            (404, "404 page not found\n"),
            "{unknown}"
        );
    }
    // Built-in groups tell by a Status which resource they lack.
    client.get("/apis/apps/v1/unheards").await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_new_definition_appears_in_discovery_and_openapi_and_goes_with_it() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let index = async |path: &str| client.get("/openapi/v3").await.expect(200)["paths"][path].clone();
    assert_eq!(index("apis/lab.example.com/v1").await, Value::Null);
    let core = index("api/v1").await;
    // Everything that is looked at below was rendered before, so that nothing is new by accident.
    client.get_as("/apis", AGGREGATED).await.expect(200);
    define_widgets(&client).await;
    let groups = client.get_as("/apis", AGGREGATED).await.expect(200);
    assert_eq!(resource(&groups, "lab.example.com", "v1", "widgets")["shortNames"], json!(["wd"]));
    let url = index("apis/lab.example.com/v1").await["serverRelativeURL"].as_str().expect("a URL").to_owned();
    let document = client.get(&url).await;
    assert!(document.header("cache-control").contains("immutable"));
    let schema = &document.expect(200)["components"]["schemas"]["com.example.lab.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["size"]["minimum"], 1);
    assert_eq!(index("api/v1").await, core, "the other documents keep their hash");
    client.delete(&format!("{DEFINITIONS}/widgets.lab.example.com")).await.expect(200);
    let mut watch = client.watch(&format!("{DEFINITIONS}?watch=true")).await;
    while client.get("/apis/lab.example.com").await.status != 404 {
        watch.next().await;
    }
}

#[tokio::test]
async fn unserved_methods_and_forms_are_refused() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let reply = client.post("/api/v1/namespaces/default/pods/p", &json!({})).await;
    let status = reply.fails(405, "MethodNotAllowed");
    assert_eq!(status["message"], "the server does not allow this method on the requested resource");
    client.delete("/version").await.fails(405, "MethodNotAllowed");
    client.get_as("/api/v1/pods", "application/vnd.kubernetes.protobuf").await.fails(406, "NotAcceptable");
    let typed = "application/vnd.kubernetes.protobuf,application/json";
    client.get_as("/api/v1/pods", typed).await.expect(200);
    let yaml = client.get_as("/api/v1/namespaces/default", "application/yaml").await;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    assert!(yaml.text().contains("kind: Namespace"));
}
