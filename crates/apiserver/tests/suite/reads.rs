//! Get and list.

use serde_json::{Value, json};

use crate::answer::names;
use crate::harness::{CONFIG_MAPS, Cluster, WIDGETS, config_map, define_widgets, version, widget};

/// A namespace of its own with config maps `a` to `e`, labelled `n: 1` to `n: 5`; answers the path.
async fn five(cluster: &Cluster) -> String {
    let client = cluster.client();
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "five" } });
    client.post("/api/v1/namespaces", &namespace).await.expect(201);
    let path = "/api/v1/namespaces/five/secrets".to_owned();
    for (index, name) in ["a", "b", "c", "d", "e"].iter().enumerate() {
        let labels = json!({ "n": (index + 1).to_string() });
        let secret =
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "labels": labels } });
        client.post(&path, &secret).await.expect(201);
    }
    path
}

#[tokio::test]
async fn an_empty_list_has_a_version_and_items() {
    let cluster = Cluster::start().await;
    let list = cluster.client().get("/api/v1/pods").await.expect(200);
    assert_eq!((&list["kind"], &list["items"]), (&json!("PodList"), &json!([])));
    assert!(version(&list) > 0);
}

#[tokio::test]
async fn items_of_built_in_lists_omit_their_type_and_custom_ones_keep_it() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    define_widgets(&client).await;
    client.post(WIDGETS, &widget("w", 1)).await.expect(201);
    let built_in = client.get(CONFIG_MAPS).await.expect(200);
    assert_eq!(built_in["items"][0]["kind"], Value::Null);
    assert_eq!(client.get(&format!("{CONFIG_MAPS}/one")).await.expect(200)["kind"], "ConfigMap");
    let custom = client.get(WIDGETS).await.expect(200);
    assert_eq!(custom["items"][0]["kind"], "Widget");
    assert!(version(&custom) >= version(&custom["items"][0]));
}

#[tokio::test]
async fn pages_show_one_state_and_count_what_is_left() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let path = five(&cluster).await;
    let first = client.get(&format!("{path}?limit=2")).await.expect(200);
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(3)));
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "bb" } });
    client.post(&path, &secret).await.expect(201);
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = client.get(&format!("{path}?limit=2&continue={token}")).await.expect(200);
    assert_eq!((names(&second), &second["metadata"]["remainingItemCount"]), (vec!["c", "d"], &json!(1)));
    assert_eq!(version(&first), version(&second));
    let token = second["metadata"]["continue"].as_str().expect("a token");
    let third = client.get(&format!("{path}?limit=2&continue={token}")).await.expect(200);
    assert_eq!((names(&third), &third["metadata"]["continue"]), (vec!["e"], &Value::Null));
    client.get(&format!("{path}?limit=2&continue=nonsense")).await.fails(400, "BadRequest");
    let selected = client.get(&format!("{path}?limit=1&labelSelector=n%3E1")).await.expect(200);
    assert_eq!(selected["metadata"]["remainingItemCount"], Value::Null);
}

#[tokio::test]
async fn selectors_select() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let path = five(&cluster).await;
    let selected =
        async |query: &str| names(&client.get(&format!("{path}?{query}")).await.expect(200)).join("");
    assert_eq!(selected("labelSelector=n%3D1").await, "a");
    assert_eq!(selected("labelSelector=n%20in%20(1,3)").await, "ac");
    assert_eq!(selected("labelSelector=n%20notin%20(1,3)").await, "bde");
    assert_eq!(selected("labelSelector=!n").await, "");
    assert_eq!(selected("labelSelector=n%3E3").await, "de");
    assert_eq!(selected("fieldSelector=metadata.name%3Dc").await, "c");
    assert_eq!(selected("fieldSelector=metadata.name!%3Dc").await, "abde");
    assert_eq!(selected("fieldSelector=type%3DOpaque").await, "abcde");
    client.get(&format!("{path}?labelSelector=a%20b")).await.fails(400, "BadRequest");
    let reply = client.get(&format!("{path}?fieldSelector=data.x%3D1")).await;
    assert_eq!(reply.fails(400, "BadRequest")["message"], "field label not supported: data.x");
}

#[tokio::test]
async fn versions_of_lists_are_old_new_or_waited_for() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let path = five(&cluster).await;
    let now = version(&client.get(&path).await.expect(200));
    client.delete(&format!("{path}/a")).await.expect(200);
    let at = async |query: String| client.get(&format!("{path}?{query}")).await;
    let exact = at(format!("resourceVersion={now}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!((names(&exact).len(), version(&exact)), (5, now));
    let newer = at(format!("resourceVersion={now}&resourceVersionMatch=NotOlderThan")).await.expect(200);
    assert_eq!(names(&newer).len(), 4);
    assert_eq!(names(&at("resourceVersion=0&limit=1".to_owned()).await.expect(200)).len(), 4);
    at("resourceVersion=1&resourceVersionMatch=Exact".to_owned()).await.fails(410, "Expired");
    at("resourceVersionMatch=Exact".to_owned()).await.fails(422, "Invalid");
    at("sendInitialEvents=true".to_owned()).await.fails(422, "Invalid");
    let future = at(format!("resourceVersion={}&resourceVersionMatch=NotOlderThan", now + 1_000_000)).await;
    assert_eq!(future.header("retry-after"), "1");
    let status = future.fails(504, "Timeout");
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn a_missing_object_or_namespace_is_named() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let status = client.get("/apis/apps/v1/namespaces/default/deployments/d").await.fails(404, "NotFound");
    assert_eq!(status["message"], "deployments.apps \"d\" not found");
    assert_eq!(status["details"], json!({ "name": "d", "group": "apps", "kind": "deployments" }));
    assert_eq!(client.get("/api/v1/pods/p").await.text(), "404 page not found\n");
    assert_eq!(client.get("/api/v1/namespaces/default/nodes").await.text(), "404 page not found\n");
    let nowhere = client.get("/api/v1/namespaces/nowhere/pods").await.expect(200);
    assert_eq!(nowhere["items"], json!([]));
}
