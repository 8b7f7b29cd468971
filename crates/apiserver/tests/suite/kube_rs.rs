//! kube-rs, as the project's own programs use it.

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::json;

use crate::harness::{Cluster, PATIENCE};

/// A client with the server's own kubeconfig.
pub(crate) async fn client(cluster: &Cluster) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&cluster.server.kubeconfig(&cluster.url())).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    // The test binary has more than one TLS provider to choose from.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::try_from(config.expect("a config")).expect("a client")
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    let object = json!({ "metadata": { "name": name }, "data": { "key": value } });
    serde_json::from_value(object).expect("a config map")
}

#[tokio::test]
async fn objects_are_created_read_patched_and_deleted() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client(&cluster).await, "default");
    let created = maps.create(&PostParams::default(), &config_map("one", "1")).await.expect("created");
    assert!(created.uid().is_some());
    let patch = Patch::Merge(json!({ "data": { "key": "2" } }));
    let patched = maps.patch("one", &PatchParams::default(), &patch).await.expect("patched");
    assert_eq!(patched.data.expect("data")["key"], "2");
    let listed = maps.list(&ListParams::default().fields("metadata.name=one")).await.expect("listed");
    assert_eq!(listed.items.len(), 1);
    let error = maps.create(&PostParams::default(), &config_map("one", "1")).await.expect_err("exists");
    assert!(matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists"));
    maps.delete("one", &DeleteParams::default()).await.expect("deleted");
    assert!(maps.get_opt("one").await.expect("an answer").is_none());
}

#[tokio::test]
async fn objects_are_applied_with_owners_and_conflicts() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client(&cluster).await, "default");
    let config = |value: &str| {
        Patch::Apply(
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "one" }, "data": { "key": value } }),
        )
    };
    let made = maps.patch("one", &PatchParams::apply("first"), &config("1")).await.expect("applied");
    let entry = made.managed_fields().first().expect("an entry");
    assert_eq!((entry.manager.as_deref(), entry.operation.as_deref()), (Some("first"), Some("Apply")));
    let refused =
        maps.patch("one", &PatchParams::apply("second"), &config("2")).await.expect_err("a conflict");
    assert!(matches!(refused, kube::Error::Api(status) if status.reason == "Conflict"));
    let forced =
        maps.patch("one", &PatchParams::apply("second").force(), &config("2")).await.expect("applied");
    assert_eq!(forced.managed_fields().len(), 1);
}

/// The names that a watcher reports first, and then one change.
async fn check_watcher(config: watcher::Config) {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client(&cluster).await, "default");
    maps.create(&PostParams::default(), &config_map("one", "1")).await.expect("created");
    let mut events = watcher(maps.clone(), config.labels("!absent").fields("metadata.name=one")).boxed();
    let mut initial = Vec::new();
    let watching = async {
        loop {
            match events.try_next().await.expect("no error").expect("an event") {
                watcher::Event::Init => {}
                watcher::Event::InitApply(object) => initial.push(object.name_any()),
                watcher::Event::InitDone => break,
                other => panic!("{other:?} before the initial list ended"),
            }
        }
        assert_eq!(initial, ["one"]);
        maps.replace("one", &PostParams::default(), &config_map("one", "2")).await.expect("replaced");
        match events.try_next().await.expect("no error").expect("an event") {
            watcher::Event::Apply(object) => assert_eq!(object.data.expect("data")["key"], "2"),
            other => panic!("{other:?}"),
        }
    };
    tokio::time::timeout(PATIENCE, watching).await.expect("events in time");
}

#[tokio::test]
async fn a_watcher_lists_and_watches() {
    check_watcher(watcher::Config::default()).await;
}

#[tokio::test]
async fn a_watcher_streams_its_list() {
    check_watcher(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn a_watcher_goes_on_after_an_outage() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(client(&cluster).await, "default");
    let mut events = watcher(maps.clone(), watcher::Config::default().fields("metadata.name=one")).boxed();
    let watching = async {
        while !matches!(events.next().await, Some(Ok(watcher::Event::InitDone))) {}
        cluster.server.pause();
        while !matches!(events.next().await, Some(Err(_))) {}
        cluster.server.resume();
        maps.create(&PostParams::default(), &config_map("one", "1")).await.expect("created");
        loop {
            match events.next().await.expect("the watcher never ends") {
                Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                    break object.name_any();
                }
                _ => continue,
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, watching).await.expect("events in time"), "one");
}

#[tokio::test]
async fn logs_are_read_and_followed() {
    use futures::AsyncBufReadExt as _;
    let cluster = Cluster::start().await;
    cluster.running_pod("p", &["a"]).await;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client(&cluster).await, "default");
    assert_eq!(pods.logs("p", &LogParams::default()).await.expect("a log"), "a line 1\na line 2\na line 3\n");
    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = pods.log_stream("p", &follow).await.expect("a log").lines();
    let first = tokio::time::timeout(PATIENCE, lines.try_next()).await.expect("a line in time");
    assert_eq!(first.expect("a line").as_deref(), Some("a line 1"));
}
