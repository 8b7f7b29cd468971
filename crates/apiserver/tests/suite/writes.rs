//! Create, update, patch, delete, and the answers of each.

use http::Method;
use serde_json::{Value, json};

use crate::answer::names;
use crate::harness::{CONFIG_MAPS, Cluster, WIDGETS, config_map, define_widgets, request, version, widget};

const MERGE: &str = "application/merge-patch+json";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "a", "image": "a:1" }, { "name": "b", "image": "b:1" }] },
            },
        },
    })
}

#[tokio::test]
async fn create_answers_201_and_what_the_server_added() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let created = client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let metadata = &created["metadata"];
    assert!(metadata["uid"].is_string() && metadata["creationTimestamp"].is_string());
    assert_eq!(metadata["namespace"], "default");
    let again = client.post(CONFIG_MAPS, &config_map("one", "1")).await;
    let status = again.fails(409, "AlreadyExists");
    assert_eq!(status["message"], "configmaps \"one\" already exists");
    let nowhere = client.post("/api/v1/namespaces/nowhere/configmaps", &config_map("one", "1")).await;
    assert_eq!(nowhere.fails(404, "NotFound")["message"], "namespaces \"nowhere\" not found");
    client.post("/api/v1/configmaps", &config_map("one", "1")).await.fails(405, "MethodNotAllowed");
}

#[tokio::test]
async fn yaml_and_protobuf_bodies_are_taken_but_protobuf_of_custom_kinds_is_refused() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {key: \"1\"}\n";
    let post = |content_type: &str, body: &'static str| {
        client.send(request(Method::POST, CONFIG_MAPS, &[("content-type", content_type)], body.into()))
    };
    post("application/yaml", yaml).await.expect(201);
    let protobuf = "application/vnd.kubernetes.protobuf";
    let two = "k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x07\x0a\x05\x0a\x03two\x1a\0\x22\0";
    let created = post(protobuf, two).await.expect(201);
    assert_eq!(created["metadata"]["name"], "two");
    post(protobuf, "k8s\0").await.fails(400, "BadRequest");
    define_widgets(&client).await;
    let headers = [("content-type", protobuf)];
    let refused = client.send(request(Method::POST, WIDGETS, &headers, two.into())).await;
    refused.fails(415, "UnsupportedMediaType");
    post("application/json", "{\"kind\":").await.fails(400, "BadRequest");
    post("application/json", "[]").await.fails(400, "BadRequest");
}

#[tokio::test]
async fn a_stale_update_is_a_conflict() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let path = format!("{CONFIG_MAPS}/one");
    let mut object = client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    client.put(&path, &config_map("one", "2")).await.expect(200);
    object["data"]["key"] = json!("3");
    let status = client.put(&path, &object).await.fails(409, "Conflict");
    let expected = "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply \
                    your changes to the latest version and try again";
    assert_eq!(status["message"], expected);
    client.put(&format!("{CONFIG_MAPS}/two"), &config_map("one", "2")).await.fails(400, "BadRequest");
    client.put(&format!("{CONFIG_MAPS}/two"), &config_map("two", "2")).await.fails(404, "NotFound");
}

#[tokio::test]
async fn an_equal_update_writes_nothing() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let created = client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let path = format!("{CONFIG_MAPS}/one");
    let put = client.put(&path, &config_map("one", "1")).await.expect(200);
    assert_eq!(version(&put), version(&created));
    let patched = client.patch(&path, MERGE, &json!({})).await.expect(200);
    assert_eq!(version(&patched), version(&created));
}

#[tokio::test]
async fn the_three_patch_formats_are_applied() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d");
    let operations = json!([{ "op": "replace", "path": "/spec/replicas", "value": 3 }]);
    let patched = client.patch(&path, "application/json-patch+json", &operations).await.expect(200);
    assert_eq!((&patched["spec"]["replicas"], &patched["metadata"]["generation"]), (&json!(3), &json!(2)));
    let merge = json!({ "metadata": { "labels": { "x": "y" } } });
    assert_eq!(client.patch(&path, MERGE, &merge).await.expect(200)["metadata"]["labels"]["x"], "y");
    let strategic =
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "b", "image": "b:2" }] } } } });
    let patched = client.patch(&path, "application/strategic-merge-patch+json", &strategic).await.expect(200);
    let images: Vec<&Value> = patched["spec"]["template"]["spec"]["containers"]
        .as_array()
        .expect("containers")
        .iter()
        .map(|container| &container["image"])
        .collect();
    assert_eq!(images, ["a:1", "b:2"]);
    let failed = json!([{ "op": "test", "path": "/spec/replicas", "value": 9 }]);
    client.patch(&path, "application/json-patch+json", &failed).await.fails(422, "Invalid");
    let typo = client.patch(&path, "application/json", &merge).await;
    typo.fails(415, "UnsupportedMediaType");
}

#[tokio::test]
async fn strategic_patches_of_custom_kinds_are_refused_in_the_exact_form() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    define_widgets(&client).await;
    client.post(WIDGETS, &widget("w", 1)).await.expect(201);
    let path = format!("{WIDGETS}/w");
    let strategic = "application/strategic-merge-patch+json";
    client.patch(&path, strategic, &widget("w", 2)).await.fails(415, "UnsupportedMediaType");
    client.patch(&path, MERGE, &json!({ "spec": { "size": 2 } })).await.expect(200);
}

#[tokio::test]
async fn custom_resources_are_defaulted_pruned_and_validated() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    define_widgets(&client).await;
    let mut object = widget("w", 1);
    object["spec"]["unknown"] = json!(true);
    let reply = client.post(&format!("{WIDGETS}?fieldValidation=Warn"), &object).await;
    assert_eq!(reply.header("warning"), "299 - \"unknown field \\\"spec.unknown\\\"\"");
    let created = reply.expect(201);
    assert_eq!(created["spec"], json!({ "size": 1, "color": "red" }));
    let strict = client.post(&format!("{WIDGETS}?fieldValidation=Strict"), &object).await;
    strict.fails(400, "BadRequest");
    let invalid = client.post(WIDGETS, &widget("x", 0)).await;
    let status = invalid.fails(422, "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.size");
}

#[tokio::test]
async fn status_is_written_through_its_subresource_only() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    define_widgets(&client).await;
    client.post(WIDGETS, &widget("w", 1)).await.expect(201);
    let path = format!("{WIDGETS}/w");
    let status = json!({ "status": { "phase": "Done" }, "spec": { "size": 9 } });
    client.patch(&path, MERGE, &json!({ "status": { "phase": "Done" } })).await.expect(200);
    assert_eq!(client.get(&path).await.expect(200)["status"], Value::Null);
    let patched = client.patch(&format!("{path}/status"), MERGE, &status).await.expect(200);
    assert_eq!((&patched["status"]["phase"], &patched["spec"]["size"]), (&json!("Done"), &json!(1)));
    assert_eq!(client.get(&format!("{path}/status")).await.expect(200)["status"]["phase"], "Done");
    client.get(&format!("{path}/scale")).await.fails(404, "NotFound");
}

#[tokio::test]
async fn a_deployment_is_scaled_through_its_subresource() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let scale = client.get(&path).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"]["selector"], "app=d");
    let patched = client.patch(&path, MERGE, &json!({ "spec": { "replicas": 5 } })).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 5);
    assert_eq!(client.get(&format!("{DEPLOYMENTS}/d")).await.expect(200)["spec"]["replicas"], 5);
}

#[tokio::test]
async fn delete_answers_a_status_or_the_object_that_stays() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let path = format!("{CONFIG_MAPS}/one");
    let created = client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let status = client.delete(&path).await.expect(200);
    assert_eq!(
        (&status["status"], &status["details"]["uid"]),
        (&json!("Success"), &created["metadata"]["uid"])
    );
    client.delete(&path).await.fails(404, "NotFound");
    let mut kept = config_map("one", "1");
    kept["metadata"]["finalizers"] = json!(["lab.example.com/hold"]);
    client.post(CONFIG_MAPS, &kept).await.expect(201);
    let deleting = client.delete(&path).await.expect(200);
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    client.patch(&path, MERGE, &json!({ "metadata": { "finalizers": null } })).await.expect(200);
    client.get(&path).await.fails(404, "NotFound");
}

#[tokio::test]
async fn preconditions_and_options_of_a_delete_are_kept() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let path = format!("{CONFIG_MAPS}/one");
    let delete = async |path: &str, options: Value| {
        client.with_body(Method::DELETE, path, "application/json", &options).await
    };
    delete(&path, json!({ "preconditions": { "uid": "other" } })).await.fails(409, "Conflict");
    delete(&path, json!({ "dryRun": ["All"] })).await.expect(200);
    client.delete(&format!("{path}?dryRun=All")).await.expect(200);
    client.get(&path).await.expect(200);
    delete(&path, json!({ "propagationPolicy": "Sideways" })).await.fails(422, "Invalid");
    delete(&path, json!({ "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background" }))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_collection_is_deleted_by_label() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    for name in ["one", "two", "three"] {
        let mut object = config_map(name, "1");
        object["metadata"]["labels"] = json!({ "go": (name != "three").to_string() });
        client.post(CONFIG_MAPS, &object).await.expect(201);
    }
    let deleted = client.delete(&format!("{CONFIG_MAPS}?labelSelector=go%3Dtrue")).await.expect(200);
    assert_eq!((&deleted["kind"], names(&deleted)), (&json!("ConfigMapList"), vec!["one", "two"]));
    client.get(&format!("{CONFIG_MAPS}/three")).await.expect(200);
    client.delete("/api/v1/namespaces").await.fails(405, "MethodNotAllowed");
}

#[tokio::test]
async fn dependents_go_after_their_owner() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let owner = client.post(CONFIG_MAPS, &config_map("owner", "1")).await.expect(201);
    let mut dependent = config_map("dependent", "1");
    let uid = owner["metadata"]["uid"].clone();
    dependent["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid }]);
    let created = client.post(CONFIG_MAPS, &dependent).await.expect(201);
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={}", version(&created));
    let mut watch = client.watch(&path).await;
    client.delete(&format!("{CONFIG_MAPS}/owner")).await.expect(200);
    assert_eq!(watch.short().await, "DELETED owner");
    assert_eq!(watch.short().await, "DELETED dependent");
}

#[tokio::test]
async fn a_namespace_takes_its_content_with_it() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "gone" } });
    let created = client.post("/api/v1/namespaces", &namespace).await.expect(201);
    let inside = "/api/v1/namespaces/gone/configmaps";
    client.post(inside, &config_map("one", "1")).await.expect(201);
    let query =
        format!("watch=true&resourceVersion={}&fieldSelector=metadata.name%3Dgone", version(&created));
    let mut watch = client.watch(&format!("/api/v1/namespaces?{query}")).await;
    let deleting = client.delete("/api/v1/namespaces/gone").await.expect(200);
    assert_eq!(deleting["status"]["phase"], "Terminating");
    while watch.short().await != "DELETED gone" {}
    client.get("/api/v1/namespaces/gone").await.fails(404, "NotFound");
    assert_eq!(client.get(inside).await.expect(200)["items"], json!([]));
    client.delete("/api/v1/namespaces/default").await.fails(403, "Forbidden");
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("one", "1")).await.expect(201);
    client.get(&format!("{CONFIG_MAPS}/one")).await.fails(404, "NotFound");
    let path = format!("{CONFIG_MAPS}?dryRun=Some");
    client.post(&path, &config_map("one", "1")).await.fails(422, "Invalid");
    let path = format!("{CONFIG_MAPS}?fieldValidation=Maybe");
    client.post(&path, &config_map("one", "1")).await.fails(422, "Invalid");
}

#[tokio::test]
async fn a_pod_is_bound_once_and_evicted() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "a", "image": "a:1" }] },
    });
    let pods = "/api/v1/namespaces/default/pods";
    client.post(pods, &pod).await.expect(201);
    let binding = json!({ "apiVersion": "v1", "kind": "Binding", "target": { "kind": "Node", "name": "worker-node-1" } });
    client.post(&format!("{pods}/p/binding"), &binding).await.expect(201);
    client.post(&format!("{pods}/p/binding"), &binding).await.fails(409, "Conflict");
    assert_eq!(client.get(&format!("{pods}/p")).await.expect(200)["spec"]["nodeName"], "worker-node-1");
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "p" } });
    client.post(&format!("{pods}/p/eviction"), &eviction).await.expect(201);
    let evicted = client.get(&format!("{pods}/p")).await.expect(200);
    assert!(evicted["metadata"]["deletionTimestamp"].is_string());
}
