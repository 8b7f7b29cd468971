//! What a lab consists of, built in order and taken down in the reverse.

mod residents;
mod startup;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::auth::audit::Asked;
use k8s_openapi::api::core::v1::Pod;
use kernel::NftSocket;
use kernel::link::{LinkKind, NewLink, Vxlan};
use kube::api::ListParams;
use kube::config::Kubeconfig;
use kube::{Api, Client};
use nix::sys::signal::Signal;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::addresses::NodeNumber;
use crate::container::process::signal;
use crate::control::{Fault, NodeStatus, Status, Target};
use crate::control_plane::ControlPlane;
use crate::controllers::{self, Settings};
use crate::error::LabError;
use crate::fabric::Fabric;
use crate::handle::{LabOptions, client_from};
use crate::kubelet::Kubelet;
use crate::kubelet::registry::{Registry, RunningPod};
use crate::kubelet::streams::LabStreams;
use crate::launch::{StartMessage, say};
use crate::netns::NetNs;
use crate::node::Node;
use crate::observer::{Observer, Sighting};
use crate::state_dir::StateDir;
use crate::world::{self, Key};
use residents::Residents;

/// Label and value by which agents' pods are known.
const AGENT_COMPONENT: (&str, &str) = ("app.kubernetes.io/component", "egressgateway-agent");
/// Events of watches on their way to the controllers.
const EVENTS_MAX: usize = 1024;

/// Everything of a lab.
pub(crate) struct Cluster {
    state: StateDir,
    options: LabOptions,
    numbers: Vec<NodeNumber>,
    fabric: Fabric,
    nodes: Vec<Arc<Node>>,
    observer: Option<Observer>,
    residents: Residents,
    control_plane: ControlPlane,
    client: Client,
    registry: Registry,
    /// Per node: whether its cable is in.
    connected: BTreeMap<String, watch::Sender<bool>>,
    cut: watch::Sender<BTreeSet<String>>,
    tasks: Mutex<JoinSet<()>>,
    stop: CancellationToken,
}

impl Cluster {
    /// Builds the network and starts the API server.
    pub(crate) async fn build(
        state: &StateDir,
        options: LabOptions,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        probe_kernel()?;
        say(&StartMessage::Progress("building the network".to_string()));
        let numbers: Vec<NodeNumber> = (0..options.nodes).filter_map(NodeNumber::new).collect();
        let fabric = Fabric::new().context("build the fabric")?;
        let observer = options.observe.then(|| Observer::start(fabric.outside())).transpose();
        let observer = observer.context("watch the outside host")?;
        let mut nodes = Vec::new();
        for number in &numbers {
            let node = Node::new(*number, &numbers, &fabric);
            nodes.push(Arc::new(node.with_context(|| format!("build node {}", number.name()))?));
        }

        say(&StartMessage::Progress("starting the API server".to_string()));
        let registry = Registry::default();
        let cut = watch::Sender::new(BTreeSet::new());
        let streams = LabStreams::new(registry.clone(), cut.subscribe());
        let control_plane = ControlPlane::start(&options.api_server, &fabric, state, streams).await?;
        let kubeconfig = control_plane.kubeconfig();
        write_secret(&state.file("kubeconfig"), &kubeconfig).context("write the kubeconfig")?;
        let client = client_from(Kubeconfig::from_yaml(&kubeconfig).context("read the kubeconfig")?).await?;
        Ok(Self {
            residents: Residents::new(&state.file("private")),
            connected: numbers.iter().map(|number| (number.name(), watch::Sender::new(true))).collect(),
            state: state.clone(),
            options,
            numbers,
            fabric,
            nodes,
            observer,
            control_plane,
            client,
            registry,
            cut,
            tasks: Mutex::default(),
            stop,
        })
    }

    /// Starts what runs on the machines, and waits until all pods run.
    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        self.residents.start(&self.nodes, self.fabric.outside())?;
        self.start_controllers().await?;
        if self.options.install {
            say(&StartMessage::Progress("installing controller and agents".to_string()));
            crate::install::install(&self.client, self.options.ipv6)
                .await
                .context("install controller and agents")?;
        }
        say(&StartMessage::Progress("waiting for all pods to run".to_string()));
        startup::wait_until_ready(&self.client, self.nodes.len(), &self.registry).await?;
        if self.options.install {
            crate::install::wait_until_admitted(&self.client).await?;
        }
        Ok(())
    }

    async fn start_controllers(&self) -> anyhow::Result<()> {
        self.control_plane.start_controllers(self.options.node_grace).await?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let mut tasks = self.tasks.lock().await;
        tasks.spawn(world::watch(self.client.clone(), sender));
        let mut listeners = BTreeMap::new();
        for node in &self.nodes {
            let Some(connected) = self.connected.get(&node.number().name()) else { continue };
            let kubelet = Arc::new(Kubelet {
                node: Arc::clone(node),
                client: self.client.clone(),
                ca_pem: self.control_plane.ca_pem(),
                directory: self.private(),
                root: self.residents.root().to_path_buf(),
                registry: self.registry.clone(),
                connected: connected.subscribe(),
                heartbeat: (self.options.node_grace / 4).max(Duration::from_millis(250)),
            });
            let (sender, changes) = mpsc::unbounded_channel();
            listeners.insert(kubelet.name(), sender);
            tasks.spawn(kubelet.run(changes, self.stop.clone()));
        }
        let decides = !self.control_plane.has_controllers();
        let settings = Settings { node_grace: self.options.node_grace, decides };
        tasks.spawn(controllers::run(self.client.clone(), settings, events, listeners, self.stop.clone()));
        Ok(())
    }

    /// What there is and how it is.
    pub(crate) async fn status(&self) -> Status {
        let cut = self.cut.borrow().clone();
        Status {
            name: self.state.name(),
            api_server: format!("https://{}", self.control_plane.address()),
            api_server_running: !self.control_plane.is_paused().await,
            kubeconfig: self.state.file("kubeconfig").display().to_string(),
            nodes: self
                .numbers
                .iter()
                .map(|number| NodeStatus {
                    name: number.name(),
                    address: IpAddr::V4(number.v4()),
                    cut: cut.contains(&number.name()),
                })
                .collect(),
            pods: self.pods().await,
            memory_kib: self.residents.memory_kib(),
        }
    }

    async fn pods(&self) -> BTreeMap<String, String> {
        let listed = Api::<Pod>::all(self.client.clone()).list(&ListParams::default()).await;
        match listed {
            Ok(pods) => pods
                .items
                .iter()
                .map(|pod| (Key::of(pod).to_string(), crate::pods::phase(pod).to_string()))
                .collect(),
            // The API server is stopped; the pods still run.
            Err(_) => {
                self.registry.all().into_iter().map(|(key, _)| (key.to_string(), "?".to_string())).collect()
            }
        }
    }

    /// Where a command for a node, a pod or the outside host is to run.
    pub(crate) fn target(&self, name: &str) -> anyhow::Result<Target> {
        if let Some(target) = self.residents.target(name) {
            return Ok(target);
        }
        let matches = |key: &Key| key.to_string() == name || key.name == name;
        let found: Vec<(Key, RunningPod)> =
            self.registry.all().into_iter().filter(|(key, _)| matches(key)).collect();
        match found.as_slice() {
            [(key, pod)] => {
                let running = pod.containers.iter().find_map(|one| one.pid.map(|pid| (pid, one)));
                let (process, container) =
                    running.with_context(|| format!("pod {key} has no running container"))?;
                Ok(Target { process, environment: container.environment.clone() })
            }
            [] => {
                let mut known = self.residents.names();
                known.extend(self.registry.all().into_iter().map(|(key, _)| key.to_string()));
                bail!("there is no node or pod {name:?}; there are {}", known.join(", "))
            }
            [..] => bail!("several namespaces have a pod {name:?}: write NAMESPACE/POD"),
        }
    }

    /// Breaks or repairs something.
    pub(crate) async fn fault(&self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Cut { node } => {
                let node = self.node(&node)?;
                let name = node.number().name();
                self.cut.send_if_modified(|cut| cut.insert(name.clone()));
                if let Some(connected) = self.connected.get(&name) {
                    connected.send_replace(false);
                }
                self.fabric.cut(node.number()).context("cut the cable")
            }
            Fault::Heal { node } => {
                let node = self.node(&node)?;
                let name = node.number().name();
                self.fabric.heal(node.number()).context("repair the cable")?;
                node.after_heal(&self.numbers).context("restore the node's routes")?;
                self.cut.send_if_modified(|cut| cut.remove(&name));
                if let Some(connected) = self.connected.get(&name) {
                    connected.send_replace(true);
                }
                Ok(())
            }
            Fault::KillAgent { node } => {
                let name = self.node(&node)?.number().name();
                self.kill_agent(&name)
            }
            Fault::StopApiServer => {
                self.control_plane.pause().await;
                Ok(())
            }
            Fault::StartApiServer => self.control_plane.resume().await,
        }
    }

    fn kill_agent(&self, node: &str) -> anyhow::Result<()> {
        let (label, value) = AGENT_COMPONENT;
        let pods = self.registry.all();
        let mut agents = pods
            .iter()
            .map(|(_, pod)| pod)
            .filter(|pod| pod.node == node && pod.labels.get(label).is_some_and(|found| found == value));
        let pid = agents.find_map(|pod| pod.containers.iter().find_map(|container| container.pid));
        signal(pid.with_context(|| format!("no agent runs on {node}"))?, Signal::SIGKILL);
        Ok(())
    }

    /// What controller and agents have asked of the API server.
    pub(crate) fn asked(&self) -> anyhow::Result<BTreeSet<Asked>> {
        self.control_plane.asked()
    }

    /// What the outside host saw.
    pub(crate) fn outside_log(&self) -> Vec<Sighting> {
        self.observer.as_ref().map(Observer::sightings).unwrap_or_default()
    }

    /// Ends all processes.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.lock().await.shutdown().await;
        self.residents.kill();
        for (_, pod) in self.registry.all() {
            for pid in pod.containers.iter().filter_map(|container| container.pid) {
                crate::container::process::kill_family(pid);
            }
        }
        self.control_plane.shutdown().await;
    }

    fn node(&self, name: &str) -> anyhow::Result<&Arc<Node>> {
        let found = self.nodes.iter().find(|node| node.number().name() == name);
        let names: Vec<String> = self.numbers.iter().map(|number| number.name()).collect();
        found.with_context(|| format!("there is no node {name:?}; there are {}", names.join(", ")))
    }

    fn private(&self) -> PathBuf {
        self.state.file("private")
    }
}

/// Writes a file that only its owner may read.
pub(crate) fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// A path by which the lab's other processes reach a namespace that this one holds.
pub(crate) fn namespace_path(namespace: &NetNs) -> PathBuf {
    Path::new(&format!("/proc/{}/fd/{}", std::process::id(), namespace.descriptor())).to_path_buf()
}

/// Finds out early, in a namespace that is thrown away, whether the kernel can do what agents need.
fn probe_kernel() -> Result<(), LabError> {
    let scratch = NetNs::new().map_err(|source| LabError::MissingKernelFeature {
        feature: "network namespaces",
        hint: "it needs CONFIG_NET_NS",
        source,
    })?;
    let vxlan = Vxlan { vni: 1, port: 7789, parent: None, local: None, learning: false };
    let made =
        scratch.links().and_then(|mut links| links.add_link(&NewLink::new("probe", LinkKind::Vxlan(vxlan))));
    made.map_err(|source| LabError::MissingKernelFeature {
        feature: "VXLAN devices",
        hint: "try `modprobe vxlan` as root",
        source: std::io::Error::other(source),
    })?;
    let answered = NftSocket::open_in(scratch.inner()).and_then(|mut socket| socket.generation());
    answered.map(drop).map_err(|source| LabError::MissingKernelFeature {
        feature: "nf_tables",
        hint: "try `modprobe nf_tables` as root",
        source: std::io::Error::other(source),
    })
}
