//! Which containers run where: what `exec`, `logs` and the faults look things up in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::kubelet::log::ContainerLog;
use crate::world::Key;

/// A container that a kubelet has made.
#[derive(Clone, Debug)]
pub(crate) struct RunningContainer {
    /// Its name.
    pub(crate) name: String,
    /// Its first process, while it runs.
    pub(crate) pid: Option<i32>,
    /// The environment of its program.
    pub(crate) environment: Vec<(String, String)>,
    /// Where its program starts.
    pub(crate) working_directory: Option<PathBuf>,
    /// What it has said.
    pub(crate) log: Arc<ContainerLog>,
}

/// A pod on some node.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunningPod {
    /// The node.
    pub(crate) node: String,
    /// Its uid: a pod of the same name may follow.
    pub(crate) uid: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its containers, in the order of its specification.
    pub(crate) containers: Vec<RunningContainer>,
}

/// All pods of all nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    pods: Arc<Mutex<BTreeMap<Key, RunningPod>>>,
}

impl Registry {
    /// Adds a pod.
    pub(crate) fn add(&self, key: Key, pod: RunningPod) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(key, pod);
    }

    /// Removes a pod, unless another one has its name by now.
    pub(crate) fn remove(&self, key: &Key, uid: &str) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if pods.get(key).is_some_and(|pod| pod.uid == uid) {
            pods.remove(key);
        }
    }

    /// Notes that a container has a process, or none any more.
    pub(crate) fn set_pid(&self, key: &Key, uid: &str, container: &str, pid: Option<i32>) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pod) = pods.get_mut(key).filter(|pod| pod.uid == uid) else { return };
        if let Some(found) = pod.containers.iter_mut().find(|found| found.name == container) {
            found.pid = pid;
        }
    }

    /// One pod.
    pub(crate) fn get(&self, key: &Key) -> Option<RunningPod> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// All pods.
    pub(crate) fn all(&self) -> Vec<(Key, RunningPod)> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.iter().map(|(key, pod)| (key.clone(), pod.clone())).collect()
    }
}
