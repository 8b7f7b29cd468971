//! Watches.

use serde_json::{Value, json};

use crate::answer::names;
use crate::target::{MERGE, Target, config_map, version};

#[tokio::test]
async fn case_14_a_watch_from_a_lists_version_shows_each_change_once() {
    let t = Target::case(14).await;
    let list = t.get(&t.core("secrets")).await.expect(200);
    let mut watch = t.watch(&t.core(&format!("secrets?watch=true&resourceVersion={}", version(&list)))).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    t.post(&t.core("secrets"), &secret).await.expect(201);
    t.patch(&t.core("secrets/s"), MERGE, &json!({"data": {"a": "Yg=="}})).await.expect(200);
    t.delete(&t.core("secrets/s"), &json!({})).await.expect(200);
    for expected in ["ADDED s", "MODIFIED s", "DELETED s"] {
        assert_eq!(watch.short().await, expected);
    }
}

#[tokio::test]
async fn case_15_a_deleted_event_has_a_new_version_and_the_last_content() {
    let t = Target::case(15).await;
    let made = t.post(&t.core("configmaps"), &config_map("c", json!({"a": "1"}))).await.expect(201);
    let query =
        format!("configmaps?watch=1&fieldSelector=metadata.name%3Dc&resourceVersion={}", version(&made));
    let mut watch = t.watch(&t.core(&query)).await;
    t.delete(&t.core("configmaps/c"), &json!({})).await.expect(200);
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["data"]["a"]), (&json!("DELETED"), &json!("1")));
    let number = |value: &Value| version(value).parse::<u64>().expect("a number");
    assert!(number(&event["object"]) > number(&made));
}

#[tokio::test]
async fn case_16_objects_enter_and_leave_a_selector() {
    let t = Target::case(16).await;
    let mut object = config_map("c", json!({}));
    object["metadata"]["labels"] = json!({"a": "in"});
    let made = t.post(&t.core("configmaps"), &object).await.expect(201);
    let query = format!("configmaps?watch=true&labelSelector=a%3Din&resourceVersion={}", version(&made));
    let mut watch = t.watch(&t.core(&query)).await;
    let path = t.core("configmaps/c");
    t.patch(&path, MERGE, &json!({"metadata": {"labels": {"a": "out"}}})).await.expect(200);
    t.patch(&path, MERGE, &json!({"metadata": {"labels": {"a": "in"}}})).await.expect(200);
    let gone = watch.next().await.expect("an event");
    assert_eq!(
        (&gone["type"], &gone["object"]["metadata"]["labels"]["a"]),
        (&json!("DELETED"), &json!("in"))
    );
    assert_eq!(watch.short().await, "ADDED c");
}

#[tokio::test]
async fn case_17_a_watch_without_version_begins_with_what_exists() {
    let t = Target::case(17).await;
    t.post(&t.core("configmaps"), &config_map("c", json!({}))).await.expect(201);
    let mut watch = t.watch(&t.core("configmaps?watch=true&fieldSelector=metadata.name%3Dc")).await;
    assert_eq!(watch.short().await, "ADDED c");
    t.patch(&t.core("configmaps/c"), MERGE, &json!({"data": {"a": "b"}})).await.expect(200);
    assert_eq!(watch.short().await, "MODIFIED c");
}

#[tokio::test]
async fn case_18_a_watch_from_too_long_ago_gets_one_error_event() {
    let t = Target::case(18).await;
    let mut watch = t.watch(&t.core("configmaps?watch=true&resourceVersion=1")).await;
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn case_19_a_watch_ends_cleanly_at_its_timeout() {
    let t = Target::case(19).await;
    let list = t.get(&t.core("secrets")).await.expect(200);
    let query = format!("secrets?watch=true&timeoutSeconds=1&resourceVersion={}", version(&list));
    let mut watch = t.watch(&t.core(&query)).await;
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn case_21_streaming_lists() {
    let t = Target::case(21).await;
    let query =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut empty = t.watch(&t.core(&format!("secrets?{query}&fieldSelector=metadata.name%3Dnone"))).await;
    let end = empty.next().await.expect("an event");
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    t.post(&t.core("configmaps"), &config_map("c", json!({}))).await.expect(201);
    let mut watch = t.watch(&t.core(&format!("configmaps?{query}&fieldSelector=metadata.name%3Dc"))).await;
    assert_eq!(watch.short().await, "ADDED c");
    let end = watch.next().await.expect("an event");
    assert_eq!((&end["type"], &end["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    let list = t.get(&t.core("configmaps?fieldSelector=metadata.name%3Dc")).await.expect(200);
    assert_eq!(names(&list), ["c"]);
    t.delete(&t.core("configmaps/c"), &json!({})).await.expect(200);
    assert_eq!(watch.short().await, "DELETED c");
}

#[tokio::test]
async fn case_22_initial_events_are_only_for_watches_that_say_how_old() {
    let t = Target::case(22).await;
    for query in ["watch=true&sendInitialEvents=true", "sendInitialEvents=true"] {
        let status = t.get(&t.core(&format!("configmaps?{query}"))).await.fails(422, "Invalid");
        assert_eq!(status["details"]["kind"], "ListOptions");
    }
}

#[tokio::test]
async fn case_24_watchers_and_lists_agree_under_parallel_writes() {
    let t = Target::case(24).await;
    let list = t.get(&t.core("secrets")).await.expect(200);
    let path = t.core(&format!("secrets?watch=true&resourceVersion={}", version(&list)));
    let (mut one, mut two) = (t.watch(&path).await, t.watch(&path).await);
    let secrets = t.core("secrets");
    let writes = (0..100).map(|index| {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("s{index}")}});
        let (t, secrets) = (&t, &secrets);
        async move { t.post(secrets, &secret).await.expect(201) }
    });
    futures::future::join_all(writes).await;
    let mut seen = Vec::new();
    for _ in 0..100 {
        let (first, second) = (one.next().await.expect("an event"), two.next().await.expect("an event"));
        assert_eq!(first, second);
        assert_eq!(first["type"], "ADDED");
        seen.push(first["object"]["metadata"]["name"].as_str().expect("a name").to_owned());
    }
    seen.sort();
    let list = t.get(&secrets).await.expect(200);
    let mut listed = names(&list);
    listed.sort_unstable();
    assert_eq!(seen, listed);
}
