//! The objects on disk, for a start without API server: a node that reboots then serves what was known.
//!
//! Kept as text by kind and name, and written by a thread of its own, some seconds after a change. What is read back is only
//! believed for kinds that the API server has not listed in time, and only until it does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use anyhow::Context as _;
use api::slim::{SlimNamespace, SlimPod};
use runtime::watch::Change;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::files::write_private;
use crate::objects::Event;

const FILE: &str = "objects.json";
/// No file of ours is longer.
const FILE_MAX: u64 = 256 << 20;

type Texts = BTreeMap<String, Arc<str>>;

/// All objects as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    kinds: BTreeMap<&'static str, Texts>,
}

impl Snapshot {
    /// Takes in what a watch says.
    pub fn absorb(&mut self, event: &Event) {
        match event {
            Event::Pod(change) => self.change("pods", change, pod),
            Event::Namespace(change) => self.change("namespaces", change, namespace),
            Event::Gateway(change) => self.change("gateways", change, whole),
            Event::Policy(change) => self.change("policies", change, whole),
            Event::ClusterPolicy(change) => self.change("clusterPolicies", change, whole),
            Event::Tunnel(change) => self.change("tunnels", change, whole),
            Event::ClusterInfo(change) => self.change("clusterInfos", change, whole),
            Event::Lease(change) => self.change("leases", change, whole),
        }
    }

    fn change<T: kube::Resource>(&mut self, kind: &'static str, change: &Change<T>, render: fn(&T) -> Value) {
        let key = |object: &T| {
            let meta = object.meta();
            format!(
                "{}/{}",
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default()
            )
        };
        let text = |object: &T| -> Arc<str> { render(object).to_string().into() };
        let texts = self.kinds.entry(kind).or_default();
        match change {
            Change::Applied(object) => drop(texts.insert(key(object), text(object))),
            Change::Deleted(object) => drop(texts.remove(&key(object))),
            Change::Replaced(objects) => {
                *texts = objects.iter().map(|object| (key(object), text(object))).collect()
            }
        }
    }

    fn render(&self) -> String {
        let kinds = self.kinds.iter().map(|(kind, texts)| {
            let objects: Vec<&str> = texts.values().map(AsRef::as_ref).collect();
            format!("\"{kind}\":[{}]", objects.join(",\n"))
        });
        format!("{{{}}}\n", kinds.collect::<Vec<_>>().join(",\n"))
    }

    /// What the last run knew, as lists; nothing where it left nothing. Objects that can't be read are left out.
    pub fn load(dir: &Path) -> anyhow::Result<Vec<Event>> {
        let path = dir.join(FILE);
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Ok(metadata) if metadata.len() > FILE_MAX => anyhow::bail!("{} is too long", path.display()),
            Ok(_) | Err(_) => {}
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let kinds: Value =
            serde_json::from_str(&text).with_context(|| format!("parsing {}", path.display()))?;
        Ok(lists(&kinds))
    }
}

fn lists(kinds: &Value) -> Vec<Event> {
    fn list<T: DeserializeOwned>(kinds: &Value, kind: &str, event: fn(Change<T>) -> Event) -> Option<Event> {
        let objects = kinds.get(kind)?.as_array()?.iter();
        let objects = objects.filter_map(|object| T::deserialize(object).ok());
        Some(event(Change::Replaced(objects.collect())))
    }
    let lists = [
        list(kinds, "pods", Event::Pod),
        list(kinds, "namespaces", Event::Namespace),
        list(kinds, "gateways", Event::Gateway),
        list(kinds, "policies", Event::Policy),
        list(kinds, "clusterPolicies", Event::ClusterPolicy),
        list(kinds, "tunnels", Event::Tunnel),
        list(kinds, "clusterInfos", Event::ClusterInfo),
        list(kinds, "leases", Event::Lease),
    ];
    lists.into_iter().flatten().collect()
}

fn whole<T: Serialize>(object: &T) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("annotations");
    }
    value
}

fn pod(pod: &SlimPod) -> Value {
    let (meta, status) = (&pod.metadata, &pod.status);
    let ips: Vec<Value> = status.pod_ips.iter().map(|own| json!({"ip": own.ip})).collect();
    json!({
        "metadata": {"namespace": meta.namespace, "name": meta.name, "labels": meta.labels},
        "spec": {"nodeName": pod.spec.node_name, "hostNetwork": pod.spec.host_network},
        "status": {"phase": status.phase, "podIP": status.pod_ip, "podIPs": ips},
    })
}

fn namespace(namespace: &SlimNamespace) -> Value {
    json!({"metadata": {"name": namespace.metadata.name, "labels": namespace.metadata.labels}})
}

/// Writes snapshots on a thread of its own, which ends when this is dropped.
pub struct SnapshotWriter {
    snapshots: SyncSender<Snapshot>,
}

impl SnapshotWriter {
    /// Starts it.
    pub fn start(dir: PathBuf) -> anyhow::Result<Self> {
        let (snapshots, inbox) = sync_channel::<Snapshot>(1);
        let work = move || {
            for snapshot in inbox {
                if let Err(error) = write_private(&dir.join(FILE), snapshot.render().as_bytes()) {
                    tracing::warn!(error = format!("{error:#}"), "the objects are not kept on disk");
                }
            }
        };
        let thread = std::thread::Builder::new().name("snapshot".to_owned());
        thread.spawn(work).context("starting the thread that keeps objects on disk")?;
        Ok(Self { snapshots })
    }

    /// Writes it soon. `false` while the last one is still being written: try again later.
    pub fn write(&self, snapshot: &Snapshot) -> bool {
        !matches!(self.snapshots.try_send(snapshot.clone()), Err(TrySendError::Full(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Objects;
    use crate::world::{World, by_app};

    fn saved(events: &[Event], dir: &Path) -> Snapshot {
        let mut snapshot = Snapshot::default();
        events.iter().for_each(|event| snapshot.absorb(event));
        let writer = SnapshotWriter::start(dir.to_owned()).unwrap();
        assert!(writer.write(&snapshot));
        drop(writer);
        snapshot
    }

    #[test]
    fn what_is_read_back_means_what_was_written() {
        let world = World::cluster().pod("default", "web", "web", "10.21.1.2").policy(by_app());
        let block = json!([{"first": 4096, "size": 1024, "state": "Active", "role": "Source"}]);
        let world = world
            .lease("n1", block)
            .with("namespace", json!({"metadata": {"name": "x", "labels": {"a": "b"}}}));
        let mut snapshot = Snapshot::default();
        world.events.iter().for_each(|event| snapshot.absorb(event));
        let mut again = Objects::default();
        for event in lists(&serde_json::from_str(&snapshot.render()).unwrap()) {
            again.absorb(event);
        }
        let before = &world.objects;
        assert_eq!((&again.pods, &again.namespaces), (&before.pods, &before.namespaces));
        assert_eq!((&again.gateways, &again.policies), (&before.gateways, &before.policies));
        assert_eq!((&again.tunnels, &again.leases), (&before.tunnels, &before.leases));
    }

    #[test]
    fn a_deleted_object_is_gone_from_disk_too() {
        let dir = tempfile::tempdir().unwrap();
        let pod =
            |name: &str| -> SlimPod { serde_json::from_value(json!({"metadata": {"name": name}})).unwrap() };
        let snapshot = saved(
            &[Event::Pod(Change::Replaced(vec![pod("a"), pod("b")])), Event::Pod(Change::Deleted(pod("a")))],
            dir.path(),
        );
        assert_eq!(snapshot.kinds["pods"].len(), 1);
    }

    #[test]
    fn nothing_on_disk_is_nothing_and_nonsense_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Snapshot::load(dir.path()).unwrap().is_empty());
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Snapshot::load(dir.path()).is_err());
        std::fs::write(dir.path().join(FILE), "{\"pods\": [7, {\"metadata\": {\"name\": \"a\"}}], \"x\": 1}")
            .unwrap();
        assert_eq!(Snapshot::load(dir.path()).unwrap().len(), 1);
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;
    use crate::objects::Objects;
    use crate::world::{World, by_app};
    use proptest::prelude::*;

    fn corpus() -> Vec<Vec<u8>> {
        let world = World::cluster().pod("default", "web", "web", "10.21.1.2").policy(by_app());
        let block = json!([{"first": 4096, "size": 1024, "state": "Active", "role": "Source"}]);
        let mut snapshot = Snapshot::default();
        world.lease("n1", block).events.iter().for_each(|event| snapshot.absorb(event));
        vec![snapshot.render().into_bytes()]
    }

    proptest! {
        #![proptest_config(fuzzing::config())]
        #[test]
        fn any_file_that_an_earlier_run_left_is_read_without_panic(file in fuzzing::mutated(corpus())) {
            let Ok(kinds) = serde_json::from_slice(&file) else { return Ok(()) };
            let mut objects = Objects::default();
            for event in lists(&kinds) {
                objects.absorb(event);
            }
        }
    }
}
