//! Watches.

use serde_json::json;

use crate::harness::{
    CONFIG_MAPS, Client, Cluster, DEFINITIONS, WIDGETS, config_map, define_widgets, version, widget,
};

const STREAMING: &str =
    "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

/// The present version.
async fn now(client: &Client) -> u64 {
    version(&client.get(CONFIG_MAPS).await.expect(200))
}

async fn label(client: &Client, name: &str, value: Option<&str>) {
    let patch = json!({ "metadata": { "labels": { "on": value } } });
    let path = format!("{CONFIG_MAPS}/{name}");
    client.patch(&path, "application/merge-patch+json", &patch).await.expect(200);
}

#[tokio::test]
async fn the_head_of_a_watch_comes_before_any_event() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let version = now(&client).await;
    // Returns once the head is here; nothing has happened that could be sent.
    let mut watch = client.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}")).await;
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    assert_eq!(watch.short().await, "ADDED one");
}

#[tokio::test]
async fn a_watch_shows_each_write_once_and_in_order() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let start = now(&client).await;
    let created = client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let mut watch = client.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={start}")).await;
    client.put(&format!("{CONFIG_MAPS}/one"), &config_map("one", "2")).await.expect(200);
    client.delete(&format!("{CONFIG_MAPS}/one")).await.expect(200);
    let added = watch.next().await.expect("an event");
    assert_eq!((&added["type"], &added["object"]), (&json!("ADDED"), &created));
    let modified = watch.next().await.expect("an event");
    assert_eq!((&modified["type"], &modified["object"]["data"]["key"]), (&json!("MODIFIED"), &json!("2")));
    let deleted = watch.next().await.expect("an event");
    assert_eq!((&deleted["type"], &deleted["object"]["data"]["key"]), (&json!("DELETED"), &json!("2")));
    assert!(version(&deleted["object"]) > version(&modified["object"]));
    let late = format!("{CONFIG_MAPS}?watch=true&resourceVersion={}", version(&added["object"]));
    assert_eq!(client.watch(&late).await.short().await, "MODIFIED one");
}

#[tokio::test]
async fn a_watch_without_version_begins_with_what_there_is() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    for query in ["watch=true", "watch=true&resourceVersion=0"] {
        let path = format!("{CONFIG_MAPS}?{query}&fieldSelector=metadata.name=one");
        assert_eq!(client.watch(&path).await.short().await, "ADDED one");
    }
    assert_eq!(client.watch(&format!("{CONFIG_MAPS}/one?watch=true")).await.short().await, "ADDED one");
}

#[tokio::test]
async fn an_object_that_leaves_the_selection_is_deleted_for_the_watch() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let start = now(&client).await;
    let mut watch = client
        .watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={start}&labelSelector=on%3Dyes"))
        .await;
    label(&client, "one", Some("yes")).await;
    label(&client, "one", Some("no")).await;
    label(&client, "one", Some("yes")).await;
    assert_eq!(watch.short().await, "ADDED one");
    let left = watch.next().await.expect("an event");
    assert_eq!(
        (&left["type"], &left["object"]["metadata"]["labels"]["on"]),
        (&json!("DELETED"), &json!("yes"))
    );
    assert_eq!(watch.short().await, "ADDED one");
}

#[tokio::test]
async fn a_version_that_is_too_old_is_an_error_event() {
    let cluster = Cluster::start().await;
    let mut watch = cluster.client().watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=1")).await;
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(event["object"]["reason"], "Expired");
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_timeout_ends_the_watch_cleanly_after_a_last_bookmark() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let start = now(&client).await;
    let path =
        format!("{CONFIG_MAPS}?watch=true&resourceVersion={start}&timeoutSeconds=3&allowWatchBookmarks=true");
    let mut watch = client.watch(&path).await;
    let bookmark = watch.next().await.expect("an event");
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    assert!(version(&bookmark["object"]) >= start);
    assert_eq!(watch.next().await, None);
    let plain = format!("{CONFIG_MAPS}?watch=true&resourceVersion={start}&timeoutSeconds=1");
    assert_eq!(client.watch(&plain).await.next().await, None);
}

#[tokio::test]
async fn a_streaming_list_ends_its_first_part_with_a_bookmark_and_goes_on() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let mut watch = client.watch(&format!("{CONFIG_MAPS}?{STREAMING}")).await;
    let mut names = Vec::new();
    let bookmark = loop {
        let event = watch.next().await.expect("an event");
        if event["type"] == "BOOKMARK" {
            break event;
        }
        assert_eq!(event["type"], "ADDED");
        names.push(event["object"]["metadata"]["name"].as_str().expect("a name").to_owned());
    };
    assert!(names.contains(&"one".to_owned()));
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(version(&bookmark["object"]), now(&client).await);
    client.post(CONFIG_MAPS, &config_map("two", "2")).await.expect(201);
    assert_eq!(watch.short().await, "ADDED two");
}

#[tokio::test]
async fn a_streaming_list_of_nothing_is_only_the_bookmark() {
    let cluster = Cluster::start().await;
    let mut watch = cluster.client().watch(&format!("/api/v1/namespaces/default/pods?{STREAMING}")).await;
    let event = watch.next().await.expect("an event");
    assert_eq!(event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn a_streaming_list_without_its_match_is_refused() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let status = client.get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true")).await;
    let status = status.fails(422, "Invalid");
    assert_eq!(status["details"]["kind"], "ListOptions");
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersionMatch=NotOlderThan");
    client.get(&path).await.fails(422, "Invalid");
}

#[tokio::test]
async fn a_watch_of_a_custom_kind_ends_with_its_definition() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    define_widgets(&client).await;
    let mut watch = client.watch(&format!("{WIDGETS}?watch=true")).await;
    client.post(WIDGETS, &widget("w", 1)).await.expect(201);
    assert_eq!(watch.short().await, "ADDED w");
    client.delete(&format!("{DEFINITIONS}/widgets.lab.example.com")).await.expect(200);
    assert_eq!(watch.short().await, "DELETED w");
    assert_eq!(watch.next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_and_lists_agree_under_parallel_writes() {
    const WRITERS: usize = 10;
    const WRITES: usize = 20;
    let cluster = Cluster::start().await;
    let client = cluster.client();
    let start = now(&client).await;
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={start}");
    let mut watches = [client.watch(&path).await, client.watch(&path).await];
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                for write in 0..WRITES {
                    let name = format!("cm-{writer}-{write}");
                    client.post(CONFIG_MAPS, &config_map(&name, "1")).await.expect(201);
                    if write % 2 == 0 {
                        client.delete(&format!("{CONFIG_MAPS}/{name}")).await.expect(200);
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("the writer");
    }
    let list = client.get(CONFIG_MAPS).await.expect(200);
    let names = crate::answer::names(&list).into_iter().map(str::to_owned);
    let expected: std::collections::BTreeSet<String> = names.filter(|name| name.starts_with("cm-")).collect();
    let mut seen = Vec::new();
    for watch in &mut watches {
        let mut present = std::collections::BTreeSet::new();
        let mut versions = Vec::new();
        while versions.len() < WRITERS * WRITES * 3 / 2 {
            let event = watch.next().await.expect("an event");
            let name = event["object"]["metadata"]["name"].as_str().expect("a name").to_owned();
            match event["type"].as_str() {
                Some("DELETED") => present.remove(&name),
                _ => present.insert(name),
            };
            versions.push(version(&event["object"]));
        }
        assert!(versions.is_sorted_by(|a, b| a < b), "versions grow");
        assert_eq!(present, expected);
        seen.push(versions);
    }
    assert_eq!(seen[0], seen[1]);
}
