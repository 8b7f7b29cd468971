//! A process on each node and on the outside host: the place that `lab exec` runs commands in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

use super::namespace_path;
use crate::addresses::OUTSIDE_V4;
use crate::container::process::{ContainerProcess, kill_family};
use crate::container::spec::{ContainerSpec, Program};
use crate::container::{PROGRAMS_DIR, SEARCH_PATH};
use crate::control::Target;
use crate::netns::NetNs;
use crate::node::Node;

/// The name under which commands find the host outside the cluster.
const OUTSIDE: &str = "outside";

/// The processes, by the name that commands know.
#[derive(Debug)]
pub(super) struct Residents {
    root: PathBuf,
    processes: Mutex<BTreeMap<String, ContainerProcess>>,
}

impl Residents {
    /// None yet; `private` is a directory that only the lab sees.
    pub(super) fn new(private: &Path) -> Self {
        Self { root: private.join("root"), processes: Mutex::default() }
    }

    /// An empty directory that every container builds its root directory on, in a mount namespace of its own.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Starts one on each node, and the servers of the outside host.
    pub(super) fn start(&self, nodes: &[Arc<Node>], outside: &NetNs) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.root).context("make the containers' mount point")?;
        let lab = format!("{PROGRAMS_DIR}/egressgateway");
        let pause = [lab.as_str(), crate::sandbox::INNER, "pause"];
        for node in nodes {
            let name = node.number().name();
            self.start_one(&name, &name, node.namespace(), &pause)?;
        }
        self.start_one(OUTSIDE, OUTSIDE, outside, &["nettools-server", "-protocol", "all"])?;
        let web = ["nettools-server", "-protocol", "web", "-webPort", "80"];
        self.start_one("outside-web", OUTSIDE, outside, &web)?;
        let traffic = [lab.as_str(), crate::sandbox::INNER, "traffic-server"];
        self.start_one("outside-traffic", OUTSIDE, outside, &traffic)?;
        self.lock().values().for_each(ContainerProcess::wait_until_entered);
        Ok(())
    }

    fn start_one(&self, key: &str, host: &str, namespace: &NetNs, argv: &[&str]) -> anyhow::Result<()> {
        let spec = ContainerSpec {
            network_namespace: namespace_path(namespace),
            hostname: host.to_string(),
            root: self.root.clone(),
            hosts: format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n{OUTSIDE_V4}\toutside\n"),
            mounts: Vec::new(),
            program: Program {
                argv: argv.iter().map(ToString::to_string).collect(),
                environment: environment(),
                working_directory: None,
            },
        };
        let process = ContainerProcess::start(&spec, Stdio::null(), Stdio::inherit());
        let process = process.with_context(|| format!("start a process on {key}"))?;
        self.lock().insert(key.to_string(), process);
        Ok(())
    }

    /// Where a command is to run.
    pub(super) fn target(&self, name: &str) -> Option<Target> {
        let process = self.lock().get(name)?.pid();
        Some(Target { process, environment: environment() })
    }

    /// All names.
    pub(super) fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Resident memory of these processes, of this one and of the lab's first.
    pub(super) fn memory_kib(&self) -> u64 {
        let own = [1, i32::try_from(std::process::id()).unwrap_or(1)];
        let residents: Vec<i32> = self.lock().values().map(ContainerProcess::pid).collect();
        own.into_iter().chain(residents).map(resident_kib).sum()
    }

    /// Ends all of them.
    pub(super) fn kill(&self) {
        for process in std::mem::take(&mut *self.lock()).into_values() {
            kill_family(process.pid());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ContainerProcess>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn environment() -> Vec<(String, String)> {
    vec![("PATH".to_string(), SEARCH_PATH.to_string()), ("HOME".to_string(), "/root".to_string())]
}

fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
