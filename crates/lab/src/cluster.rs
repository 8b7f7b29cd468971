//! What a lab consists of, built in order and taken down in the reverse.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use crate::addresses::{NodeNumber, OUTSIDE_V4};
use crate::container::process::{ContainerProcess, kill_family};
use crate::container::spec::{ContainerSpec, Program};
use crate::container::{PROGRAMS_DIR, SEARCH_PATH};
use crate::control::{Fault, NodeStatus, Status, Target};
use crate::error::LabError;
use crate::fabric::Fabric;
use crate::handle::LabOptions;
use crate::launch::{StartMessage, say};
use crate::masquerade;
use crate::netns::NetNs;
use crate::node::Node;
use crate::observer::{Observer, Sighting};
use crate::rtnl::RouteSocket;
use crate::state_dir::StateDir;

/// The name under which commands find the host outside the cluster.
const OUTSIDE: &str = "outside";

/// Everything of a lab.
pub(crate) struct Cluster {
    state: StateDir,
    options: LabOptions,
    numbers: Vec<NodeNumber>,
    fabric: Fabric,
    nodes: Vec<Arc<Node>>,
    observer: Option<Observer>,
    /// A process on each node and on the outside host, for commands to join.
    residents: Mutex<BTreeMap<String, ContainerProcess>>,
}

impl Cluster {
    /// Builds the network and starts the API server.
    pub(crate) async fn build(
        state: &StateDir,
        options: LabOptions,
        _stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        probe_kernel()?;
        say(&StartMessage::Progress("building the network".to_string()));
        let numbers: Vec<NodeNumber> = (0..options.nodes).filter_map(NodeNumber::new).collect();
        let fabric = Fabric::new().context("build the fabric")?;
        let observer = options
            .observe
            .then(|| Observer::start(fabric.outside()))
            .transpose();
        let observer = observer.context("watch the outside host")?;
        let mut nodes = Vec::new();
        for number in &numbers {
            let node = Node::new(*number, &numbers, &fabric);
            nodes.push(Arc::new(
                node.with_context(|| format!("build node {}", number.name()))?,
            ));
        }
        Ok(Self {
            state: state.clone(),
            options,
            numbers,
            fabric,
            nodes,
            observer,
            residents: Mutex::default(),
        })
    }

    /// Starts what runs on the machines, and waits until all pods run.
    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            let name = node.number().name();
            let program = program(&[
                &format!("{PROGRAMS_DIR}/egressgateway"),
                crate::sandbox::INNER,
                "pause",
            ]);
            self.start_resident(&name, &name, node.namespace(), program)?;
        }
        let server = |arguments: &[&str]| program(&[&["nettools-server"], arguments].concat());
        let outside = self.fabric.outside();
        self.start_resident(OUTSIDE, OUTSIDE, outside, server(&["-protocol", "all"]))?;
        self.start_resident(
            "outside-web",
            OUTSIDE,
            outside,
            server(&["-protocol", "web", "-webPort", "80"]),
        )?;
        Ok(())
    }

    /// What there is and how it is.
    pub(crate) async fn status(&self) -> Status {
        Status {
            name: self.state.name(),
            api_server: String::new(),
            api_server_running: false,
            kubeconfig: self.state.file("kubeconfig").display().to_string(),
            nodes: self
                .nodes
                .iter()
                .map(|node| NodeStatus {
                    name: node.number().name(),
                    address: IpAddr::V4(node.number().v4()),
                    cut: false,
                })
                .collect(),
            pods: BTreeMap::new(),
            memory_kib: 0,
        }
    }

    /// Where a command for a node, a pod or the outside host is to run.
    pub(crate) fn target(&self, name: &str) -> anyhow::Result<Target> {
        let residents = self.residents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resident) = residents.get(name) {
            let environment = vec![("PATH".to_string(), SEARCH_PATH.to_string())];
            return Ok(Target {
                process: resident.pid(),
                environment,
            });
        }
        let known: Vec<&str> = residents.keys().map(String::as_str).collect();
        bail!("there is no node or pod {name:?}; there are {}", known.join(", "))
    }

    /// Breaks or repairs something.
    pub(crate) async fn fault(&self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Cut { node } => {
                let node = self.node(&node)?;
                self.fabric.cut(node.number()).context("cut the cable")
            }
            Fault::Heal { node } => {
                let node = self.node(&node)?;
                self.fabric.heal(node.number()).context("repair the cable")?;
                node.after_heal(&self.numbers)
                    .context("restore the node's routes")
            }
            Fault::KillAgent { .. } | Fault::StopApiServer | Fault::StartApiServer => bail!("not there"),
        }
    }

    /// What the outside host saw.
    pub(crate) fn outside_log(&self) -> Vec<Sighting> {
        self.observer
            .as_ref()
            .map(Observer::sightings)
            .unwrap_or_default()
    }

    /// Ends all processes.
    pub(crate) async fn shutdown(&self) {
        let residents = std::mem::take(&mut *self.residents.lock().unwrap_or_else(PoisonError::into_inner));
        for resident in residents.into_values() {
            kill_family(resident.pid());
        }
    }

    fn node(&self, name: &str) -> anyhow::Result<&Arc<Node>> {
        let found = self.nodes.iter().find(|node| node.number().name() == name);
        let names: Vec<String> = self.numbers.iter().map(|number| number.name()).collect();
        found.with_context(|| format!("there is no node {name:?}; there are {}", names.join(", ")))
    }

    fn private(&self) -> PathBuf {
        self.state.file("private")
    }

    fn start_resident(
        &self,
        key: &str,
        host: &str,
        namespace: &NetNs,
        program: Program,
    ) -> anyhow::Result<()> {
        let root = self.private().join("root");
        std::fs::create_dir_all(&root).context("make the containers' mount point")?;
        let spec = ContainerSpec {
            network_namespace: namespace_path(namespace),
            hostname: host.to_string(),
            root,
            hosts: format!("127.0.0.1 localhost\n::1 localhost\n{OUTSIDE_V4} outside\n"),
            mounts: Vec::new(),
            program,
        };
        let process = ContainerProcess::start(&spec, Stdio::null(), Stdio::inherit())
            .with_context(|| format!("start {key}"))?;
        let mut residents = self.residents.lock().unwrap_or_else(PoisonError::into_inner);
        residents.insert(key.to_string(), process);
        Ok(())
    }
}

fn program(argv: &[&str]) -> Program {
    Program {
        argv: argv.iter().map(ToString::to_string).collect(),
        environment: vec![("PATH".to_string(), SEARCH_PATH.to_string())],
        working_directory: None,
    }
}

/// A path by which the lab's other processes reach a namespace that this one holds.
pub(crate) fn namespace_path(namespace: &NetNs) -> PathBuf {
    Path::new(&format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        namespace.descriptor()
    ))
    .to_path_buf()
}

/// Finds out early, in a namespace that is thrown away, whether the kernel can do what agents need.
fn probe_kernel() -> Result<(), LabError> {
    let scratch = NetNs::new().map_err(|source| LabError::MissingKernelFeature {
        feature: "network namespaces",
        hint: "it needs CONFIG_NET_NS",
        source,
    })?;
    scratch
        .run(|| RouteSocket::open()?.add_vxlan("probe", 1, 7789))
        .map_err(|source| LabError::MissingKernelFeature {
            feature: "VXLAN devices",
            hint: "try `modprobe vxlan` as root",
            source,
        })?;
    scratch
        .run(masquerade::probe)
        .map_err(|source| LabError::MissingKernelFeature {
            feature: "nf_tables",
            hint: "try `modprobe nf_tables` as root",
            source,
        })
}
