//! Deleting.

use serde_json::json;

use crate::answer::names;
use crate::target::{MERGE, Target, config_map, version};

#[tokio::test]
async fn case_49_what_deleting_answers() {
    let t = Target::case(49).await;
    let made = t.post(&t.core("configmaps"), &config_map("c", json!({}))).await.expect(201);
    let path = t.core("configmaps/c");
    let gone = t.delete(&path, &json!({})).await.expect(200);
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(gone["details"], json!({"name": "c", "kind": "configmaps", "uid": made["metadata"]["uid"]}));
    t.delete(&path, &json!({})).await.says(404, "NotFound", "configmaps \"c\" not found");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    t.post(&t.core("serviceaccounts"), &account).await.expect(201);
    assert_eq!(
        t.delete(&t.core("serviceaccounts/robot"), &json!({})).await.expect(200)["kind"],
        "ServiceAccount"
    );
}

#[tokio::test]
async fn case_50_finalizers_keep_objects() {
    let t = Target::case(50).await;
    let mut object = config_map("c", json!({}));
    object["metadata"]["finalizers"] = json!(["x.io/a"]);
    let made = t.post(&t.core("configmaps"), &object).await.expect(201);
    let query =
        format!("configmaps?watch=true&fieldSelector=metadata.name%3Dc&resourceVersion={}", version(&made));
    let mut watch = t.watch(&t.core(&query)).await;
    let path = t.core("configmaps/c");
    let marked = t.delete(&path, &json!({})).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(watch.short().await, "MODIFIED c");
    let more = json!({"metadata": {"finalizers": ["x.io/a", "x.io/b"]}});
    t.patch(&path, MERGE, &more).await.fails(422, "Invalid");
    t.patch(&path, MERGE, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(watch.short().await, "DELETED c");
    t.get(&path).await.fails(404, "NotFound");
}

#[tokio::test]
async fn case_51_preconditions() {
    let t = Target::case(51).await;
    let made = t.post(&t.core("configmaps"), &config_map("c", json!({}))).await.expect(201);
    let path = t.core("configmaps/c");
    t.delete(&path, &json!({"preconditions": {"uid": "x"}})).await.fails(409, "Conflict");
    t.delete(&path, &json!({"preconditions": {"resourceVersion": "1"}})).await.fails(409, "Conflict");
    let own = json!({"uid": made["metadata"]["uid"], "resourceVersion": version(&made)});
    t.delete(&path, &json!({"preconditions": own})).await.expect(200);
}

#[tokio::test]
async fn case_53_collections_are_deleted_by_label() {
    let t = Target::case(53).await;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = config_map(name, json!({}));
        object["metadata"]["labels"] = json!({"l": label});
        t.post(&t.core("configmaps"), &object).await.expect(201);
    }
    let deleted = t.delete(&t.core("configmaps?labelSelector=l%3Dx"), &json!({})).await.expect(200);
    assert_eq!(deleted["kind"], "ConfigMapList");
    assert_eq!(names(&deleted), ["a", "b"]);
    let left = t.get(&t.core("configmaps?labelSelector=l")).await.expect(200);
    assert_eq!(names(&left), ["c"]);
    t.delete("/api/v1/namespaces", &json!({})).await.fails(405, "MethodNotAllowed");
}
