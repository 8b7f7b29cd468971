//! Create, update and patch.

use http::Method;
use serde_json::{Value, json};

use crate::target::{JSON_PATCH, MERGE, STRATEGIC, Target, config_map, deployment, version};

fn things() -> Value {
    json!({"type": "object", "properties": {
        "color": {"type": "string"}, "replicas": {"type": "integer"}, "list": {"type": "array", "items": {"type": "string"}}}})
}

#[tokio::test]
async fn case_25_create_sets_system_fields() {
    let t = Target::case(25).await;
    let made = t.post(&t.core("configmaps"), &config_map("c", json!({}))).await.expect(201);
    let metadata = &made["metadata"];
    assert_eq!(metadata["uid"].as_str().map(str::len), Some(36));
    assert!(metadata["creationTimestamp"].as_str().is_some_and(|text| text.ends_with('Z')));
    assert_eq!(metadata["namespace"], json!(t.namespace));
    let again = t.post(&t.core("configmaps"), &config_map("c", json!({}))).await;
    again.says(409, "AlreadyExists", "configmaps \"c\" already exists");
}

#[tokio::test]
async fn case_26_generated_names() {
    let t = Target::case(26).await;
    let mut object = config_map("", json!({}));
    object["metadata"] = json!({"generateName": "x-"});
    let made = t.post(&t.core("configmaps"), &object).await.expect(201);
    assert_eq!(made["metadata"]["name"].as_str().map(str::len), Some(7));
    object["metadata"] = json!({});
    t.post(&t.core("configmaps"), &object).await.says(
        422,
        "Invalid",
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
    );
}

#[tokio::test]
async fn case_27_bad_names_labels_and_annotations() {
    let t = Target::case(27).await;
    let path = t.core("configmaps");
    for (metadata, field) in [
        (json!({"name": "Bad"}), "metadata.name"),
        (json!({"name": "c", "labels": {"a": "-"}}), "metadata.labels"),
        (json!({"name": "c", "annotations": {"a": "x".repeat(257 * 1024)}}), "metadata.annotations"),
    ] {
        let mut object = config_map("", json!({}));
        object["metadata"] = metadata;
        let status = t.post(&path, &object).await.fails(422, "Invalid");
        assert_eq!(status["details"]["causes"][0]["field"], field);
    }
}

#[tokio::test]
async fn case_28_wrong_and_missing_namespaces() {
    let t = Target::case(28).await;
    let mut object = config_map("c", json!({}));
    object["metadata"]["namespace"] = json!("kube-system");
    t.post(&t.core("configmaps"), &object).await.says(
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    let missing = format!("/api/v1/namespaces/no-{}/configmaps", t.namespace);
    t.post(&missing, &config_map("c", json!({}))).await.fails(404, "NotFound");
    let mut object = config_map("c", json!({}));
    object["metadata"]["resourceVersion"] = json!("5");
    let refused = t.post(&t.core("configmaps"), &object).await;
    refused.says(500, "", "resourceVersion should not be set on objects to be created");
}

#[tokio::test]
async fn case_29_put_and_versions() {
    let t = Target::case(29).await;
    let path = t.core("configmaps/c");
    let made = t.post(&t.core("configmaps"), &config_map("c", json!({"a": "1"}))).await.expect(201);
    let free = t.put(&path, &config_map("c", json!({"a": "2"}))).await.expect(200);
    assert_ne!(version(&made), version(&free));
    let mut stale = made.clone();
    stale["data"]["a"] = json!("3");
    t.put(&path, &stale).await.says(
        409,
        "Conflict",
        "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your changes to the \
         latest version and try again",
    );
    let mut other = config_map("c", json!({}));
    other["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    t.put(&path, &other).await.fails(409, "Conflict");
    t.put(&path, &config_map("d", json!({}))).await.says(
        400,
        "BadRequest",
        "the name of the object (d) does not match the name on the URL (c)",
    );
    t.define(things()).await;
    t.post(&t.custom("things"), &t.thing("x", json!({}))).await.expect(201);
    let status =
        t.put(&t.custom("things/x"), &t.thing("x", json!({"color": "red"}))).await.fails(422, "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "metadata.resourceVersion");
}

#[tokio::test]
async fn case_30_an_equal_put_changes_nothing() {
    let t = Target::case(30).await;
    let made = t.post(&t.core("configmaps"), &config_map("c", json!({"a": "1"}))).await.expect(201);
    assert_eq!(t.put(&t.core("configmaps/c"), &made).await.expect(200), made);
}

#[tokio::test]
async fn case_31_generation_counts_specs() {
    let t = Target::case(31).await;
    t.define(things()).await;
    t.post(&t.custom("things"), &t.thing("x", json!({}))).await.expect(201);
    let path = t.custom("things/x");
    let generation = |object: &Value| object["metadata"]["generation"].as_i64();
    for (patch, expected) in [
        (json!({"spec": {"color": "red"}}), 2),
        (json!({"metadata": {"labels": {"a": "b"}}}), 2),
        (json!({"spec": {"color": "red"}}), 2),
    ] {
        assert_eq!(generation(&t.patch(&path, MERGE, &patch).await.expect(200)), Some(expected));
    }
    let status = json!({"status": {"phase": "Up"}});
    assert_eq!(generation(&t.patch(&format!("{path}/status"), MERGE, &status).await.expect(200)), Some(2));
}

#[tokio::test]
async fn case_32_status_is_written_at_its_own_path_only() {
    let t = Target::case(32).await;
    t.define(things()).await;
    let mut thing = t.thing("x", json!({"color": "red"}));
    thing["status"] = json!({"phase": "Up"});
    assert!(t.post(&t.custom("things"), &thing).await.expect(201).get("status").is_none());
    let path = t.custom("things/x");
    let main = t.patch(&path, MERGE, &json!({"status": {"phase": "Up"}})).await.expect(200);
    assert!(main.get("status").is_none());
    let both =
        json!({"status": {"phase": "Up"}, "spec": {"color": "blue"}, "metadata": {"labels": {"a": "b"}}});
    let told = t.patch(&format!("{path}/status"), MERGE, &both).await.expect(200);
    assert_eq!((&told["status"]["phase"], &told["spec"]["color"]), (&json!("Up"), &json!("red")));
    assert!(told["metadata"].get("labels").is_none());
}

#[tokio::test]
async fn case_33_scale() {
    let t = Target::case(33).await;
    t.define(things()).await;
    t.post(&t.custom("things"), &t.thing("x", json!({"replicas": 1}))).await.expect(201);
    t.post(&t.apps("deployments"), &deployment("d")).await.expect(201);
    for (path, is_shared) in [(t.custom("things/x/scale"), false), (t.apps("deployments/d/scale"), true)] {
        let mut scale = t.get(&path).await.expect(200);
        if is_shared {
            // Where there is a controller, it writes at the same time.
            scale["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
        }
        assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
        scale["spec"]["replicas"] = json!(2);
        assert_eq!(t.put(&path, &scale).await.expect(200)["spec"]["replicas"], 2);
        let patched = t.patch(&path, MERGE, &json!({"spec": {"replicas": 3}})).await.expect(200);
        assert_eq!(patched["spec"]["replicas"], 3);
    }
    assert_eq!(t.get(&t.custom("things/x")).await.expect(200)["spec"]["replicas"], 3);
}

#[tokio::test]
async fn case_34_json_patches() {
    let t = Target::case(34).await;
    t.post(&t.core("configmaps"), &config_map("c", json!({"a": "1"}))).await.expect(201);
    let path = t.core("configmaps/c");
    let patch = json!([{"op": "test", "path": "/data/a", "value": "1"}, {"op": "add", "path": "/data/b", "value": "2"}]);
    assert_eq!(t.patch(&path, JSON_PATCH, &patch).await.expect(200)["data"], json!({"a": "1", "b": "2"}));
    for (patch, code) in [
        (json!([{"op": "test", "path": "/data/a", "value": "9"}]), 422),
        (json!([{"op": "remove", "path": "/data/none"}]), 422),
    ] {
        t.patch(&path, JSON_PATCH, &patch).await.says(
            code,
            "Invalid",
            "the server rejected our request due to an error in our request",
        );
    }
}

#[tokio::test]
async fn case_35_merge_patches() {
    let t = Target::case(35).await;
    t.define(things()).await;
    t.post(&t.custom("things"), &t.thing("x", json!({"color": "red", "list": ["a", "b"]}))).await.expect(201);
    let patch = json!({"spec": {"color": null, "list": ["c"]}});
    let patched = t.patch(&t.custom("things/x"), MERGE, &patch).await.expect(200);
    assert_eq!(patched["spec"], json!({"list": ["c"]}));
}

#[tokio::test]
async fn case_36_strategic_merge_patches() {
    let t = Target::case(36).await;
    t.post(&t.apps("deployments"), &deployment("d")).await.expect(201);
    let path = t.apps("deployments/d");
    let pod = |containers: Value| json!({"spec": {"template": {"spec": containers}}});
    let add = pod(json!({"containers": [{"name": "b", "image": "b:1"}]}));
    let names = |object: &Value| -> Vec<String> {
        let containers =
            object["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
        containers.iter().map(|container| container["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let mut both = names(&t.patch(&path, STRATEGIC, &add).await.expect(200));
    both.sort();
    assert_eq!(both, ["b", "c"]);
    let order = pod(
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}], "containers": [{"name": "b", "image": "b:2"}]}),
    );
    assert_eq!(names(&t.patch(&path, STRATEGIC, &order).await.expect(200)), ["c", "b"]);
    let remove = pod(json!({"containers": [{"name": "b", "$patch": "delete"}]}));
    assert_eq!(names(&t.patch(&path, STRATEGIC, &remove).await.expect(200)), ["c"]);
    let retain = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let retained = t.patch(&path, STRATEGIC, &retain).await.expect(200);
    assert_eq!(retained["spec"]["strategy"], json!({"type": "Recreate"}));
    let finalizers = json!({"metadata": {"finalizers": ["x.io/a", "x.io/b"]}});
    t.patch(&path, STRATEGIC, &finalizers).await.expect(200);
    let less = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.io/a"]}});
    let less = t.patch(&path, STRATEGIC, &less).await.expect(200);
    assert_eq!(less["metadata"]["finalizers"], json!(["x.io/b"]));
    t.patch(&path, MERGE, &json!({"metadata": {"finalizers": null}})).await.expect(200);
}

#[tokio::test]
async fn case_37_patches_of_custom_kinds_of_nothing_and_to_nothing() {
    let t = Target::case(37).await;
    t.define(things()).await;
    let made = t.post(&t.custom("things"), &t.thing("x", json!({}))).await.expect(201);
    let path = t.custom("things/x");
    t.patch(&path, STRATEGIC, &json!({})).await.fails(415, "UnsupportedMediaType");
    t.patch(&t.custom("things/none"), MERGE, &json!({})).await.fails(404, "NotFound");
    assert_eq!(t.patch(&path, MERGE, &json!({})).await.expect(200), made);
}

#[tokio::test]
async fn case_56_dry_runs_store_nothing() {
    let t = Target::case(56).await;
    let path = t.core("configmaps/c");
    t.post(&t.core("configmaps?dryRun=All"), &config_map("c", json!({}))).await.expect(201);
    t.get(&path).await.fails(404, "NotFound");
    t.apply(&format!("{path}?dryRun=All"), "m", &config_map("c", json!({}))).await.expect(201);
    t.get(&path).await.fails(404, "NotFound");
    let made = t.post(&t.core("configmaps"), &config_map("c", json!({"a": "1"}))).await.expect(201);
    let dry = format!("{path}?dryRun=All");
    let put = t.put(&dry, &config_map("c", json!({"a": "2"}))).await.expect(200);
    assert_eq!(put["data"]["a"], "2");
    t.patch(&dry, MERGE, &json!({"data": {"a": "2"}})).await.expect(200);
    t.apply(&format!("{dry}&force=true"), "m", &config_map("c", json!({"a": "2"}))).await.expect(200);
    let all = json!({"dryRun": ["All"]});
    t.delete(&path, &all).await.expect(200);
    t.delete(&t.core("configmaps"), &all).await.expect(200);
    assert_eq!(t.get(&path).await.expect(200), made);
}

#[tokio::test]
async fn case_57_field_validation() {
    let t = Target::case(57).await;
    let mut object = deployment("d");
    object["spec"]["foo"] = json!(1);
    let path = t.apps("deployments");
    t.post(&format!("{path}?fieldValidation=Strict"), &object).await.says(
        400,
        "BadRequest",
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.foo\"",
    );
    let warned = t.post(&format!("{path}?fieldValidation=Warn"), &object).await;
    assert_eq!(warned.header("warning"), "299 - \"unknown field \\\"spec.foo\\\"\"");
    assert!(warned.expect(201)["spec"].get("foo").is_none());
    t.delete(&t.apps("deployments/d"), &json!({})).await.expect(200);
    let ignored = t.post(&format!("{path}?fieldValidation=Ignore"), &object).await;
    assert_eq!(ignored.header("warning"), "");
    ignored.expect(201);
    let twice =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1"},"data":{"b":"1"}}"#;
    let strict = t.core("configmaps?fieldValidation=Strict");
    let headers = [("content-type", "application/json")];
    let status = t.send(Method::POST, &strict, &headers, twice.into()).await.fails(400, "BadRequest");
    assert!(
        status["message"].as_str().is_some_and(|text| text.contains("duplicate field \"data\"")),
        "{status}"
    );
}

#[tokio::test]
async fn case_58_too_large_a_body() {
    let t = Target::case(58).await;
    let object = config_map("c", json!({"a": "x".repeat(3 * 1024 * 1024 + 1)}));
    t.post(&t.core("configmaps"), &object).await.fails(413, "RequestEntityTooLarge");
}
