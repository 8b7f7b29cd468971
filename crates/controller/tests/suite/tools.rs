//! The runtime's watches and writes against a server that answers as a real one does.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use api::v1beta1::EgressGateway;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Config;
use kube::{Api, Resource, ResourceExt};
use runtime::watch::{Absent, Change, watch};
use runtime::writer::{Part, WriteError, patch, update_status};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::Cluster;

/// A ConfigMap of numbers; one with a text can't be read.
#[derive(Clone, Debug, Deserialize)]
struct Numbers {
    metadata: ObjectMeta,
    #[serde(default)]
    #[expect(dead_code, reason = "it is there to be read")]
    data: BTreeMap<String, Number>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Number(#[expect(dead_code, reason = "it is there to be read")] u32);

impl TryFrom<String> for Number {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

macro_rules! resource {
    ($kind:ident, $name:literal, $plural:literal) => {
        impl Resource for $kind {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind(_: &()) -> Cow<'_, str> {
                $name.into()
            }
            fn group(_: &()) -> Cow<'_, str> {
                "".into()
            }
            fn version(_: &()) -> Cow<'_, str> {
                "v1".into()
            }
            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(Numbers, "ConfigMap", "configmaps");

/// A kind that no server has.
#[derive(Clone, Debug, Deserialize)]
struct Unicorn {
    metadata: ObjectMeta,
}

resource!(Unicorn, "Unicorn", "unicorns");

async fn config_map(cluster: &Cluster, name: &str, value: &str) {
    let maps: Api<ConfigMap> = cluster.namespaced("default");
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([("number".to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    };
    maps.create(&PostParams::default(), &map).await.expect("created");
}

/// A watch that runs beside the test.
struct Watch<K> {
    changes: mpsc::Receiver<Change<K>>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    fn start(api: Api<DeserializeGuard<K>>, absent: Absent) -> Self {
        let (sender, changes) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let watching = watch(api, Config::default(), absent, |change| change, sender, stop.clone());
        Self { changes, stop, task: tokio::spawn(watching) }
    }

    /// The next change, in time.
    async fn next(&mut self) -> Change<K> {
        let change = tokio::time::timeout(Duration::from_secs(30), self.changes.recv()).await;
        change.expect("a change in time").expect("the watch goes on")
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("ends in order");
    }
}

fn names<K: Resource>(objects: &[K]) -> Vec<String> {
    objects.iter().map(ResourceExt::name_any).filter(|name| name != "kube-root-ca.crt").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_cannot_be_read_is_left_out_and_hides_no_other() {
    let cluster = Cluster::start().await;
    config_map(&cluster, "bad", "many").await;
    config_map(&cluster, "good", "1").await;
    let mut watch = Watch::<Numbers>::start(Api::namespaced(cluster.client.clone(), "default"), Absent::Wait);
    let Change::Replaced(listed) = watch.next().await else { panic!("no list first") };
    assert_eq!(names(&listed), ["good"]);
    config_map(&cluster, "worse", "none").await;
    config_map(&cluster, "better", "2").await;
    let Change::Applied(applied) = watch.next().await else { panic!("not applied") };
    assert_eq!(applied.name_any(), "better");
    watch.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_kind_that_the_server_does_not_know_there_are_none() {
    let cluster = Cluster::start().await;
    let mut watch = Watch::<Unicorn>::start(Api::all(cluster.client.clone()), Absent::Empty);
    let Change::Replaced(listed) = watch.next().await else { panic!("no list") };
    assert_eq!(names(&listed), Vec::<String>::new());
    watch.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_its_server_was_away() {
    let cluster = Cluster::start().await;
    let mut watch = Watch::<Numbers>::start(Api::namespaced(cluster.client.clone(), "default"), Absent::Wait);
    assert!(matches!(watch.next().await, Change::Replaced(_)));
    cluster.server.pause().await;
    cluster.server.resume().await;
    cluster.eventually("an answer", || async { cluster.client.apiserver_version().await.ok() }).await;
    config_map(&cluster, "later", "1").await;
    loop {
        match watch.next().await {
            Change::Applied(applied) if applied.name_any() == "later" => break,
            Change::Replaced(listed) if names(&listed).contains(&"later".to_owned()) => break,
            _ => {}
        }
    }
    watch.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_based_on_an_old_version_is_a_conflict() {
    let cluster = Cluster::start().await;
    cluster.gateway("default", "10.6.168.201").await;
    let gateways: Api<EgressGateway> = cluster.api();
    let old = gateways.get("default").await.expect("read").resource_version().expect("a version");
    let change = |default: bool| json!({"spec": {"clusterDefault": default}});
    patch(&gateways, "default", Some(&old), Part::Main, change(true))
        .await
        .expect("the first one is written");
    let second = patch(&gateways, "default", Some(&old), Part::Main, change(false)).await;
    assert!(matches!(second, Err(WriteError::Conflict { .. })), "{second:?}");
    assert!(gateways.get("default").await.expect("read").spec.cluster_default);
    let gone = patch(&gateways, "other", None, Part::Main, change(true)).await;
    assert!(matches!(gone, Err(WriteError::Gone { .. })), "{gone:?}");
    let wrong = json!({"spec": {"clusterDefault": "maybe"}});
    let wrong = patch(&gateways, "default", None, Part::Main, wrong).await;
    assert!(matches!(wrong, Err(WriteError::Refused { .. })), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_is_read_again_and_written_after_a_conflict() {
    let cluster = Cluster::start().await;
    cluster.gateway("default", "10.6.168.201").await;
    let gateways: Api<EgressGateway> = cluster.api();
    let total =
        |object: &EgressGateway| object.status.as_ref().map_or(0, |status| status.ip_usage.ipv4_total);
    // Four at a time, each adding one: without the version some would be lost.
    let add = || async {
        let one_more = |object: &EgressGateway| Some(json!({"ipUsage": {"ipv4Total": total(object) + 1}}));
        update_status(&gateways, "default", one_more).await.expect("written")
    };
    tokio::join!(add(), add(), add(), add());
    assert_eq!(total(&gateways.get("default").await.expect("read")), 4);
    assert!(update_status(&gateways, "default", |_| None).await.expect("nothing to do").is_none());
}
