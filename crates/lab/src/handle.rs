//! A lab as seen by the program that started it: the commands and the tests.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Context;
use apiserver::auth::audit::Asked;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::{Deserialize, Serialize};

use crate::control::{self, Fault, Request, Status, Target};
use crate::control_plane::ApiServerKind;
use crate::error::LabError;
use crate::launch::{self, Tie};
use crate::observer::Sighting;
use crate::state_dir::StateDir;

/// What a lab is to be like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabOptions {
    /// Its name; labs of different names run side by side.
    pub name: String,
    /// How many nodes, the control plane's included.
    pub nodes: usize,
    /// A node whose Lease is older than that is not ready.
    pub node_grace: Duration,
    /// Whose API server it has.
    pub api_server: ApiServerKind,
    /// Whether packets that reach the outside host are recorded.
    pub observe: bool,
    /// Whether controller and agents are installed; without, it is a plain cluster.
    pub install: bool,
    /// Whether the agents also serve IPv6; nodes, pods and the outside host have addresses of both families anyway.
    pub ipv6: bool,
    /// The program whose `lab` this is: the test's own program knows no agent.
    pub program: PathBuf,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            name: "lab".to_string(),
            nodes: 3,
            node_grace: Duration::from_secs(8),
            api_server: ApiServerKind::default(),
            observe: true,
            install: true,
            ipv6: false,
            program: launch::this_program().to_path_buf(),
        }
    }
}

/// A running lab. Dropping it ends it, unless it was [detached](Lab::detach).
#[derive(Debug)]
pub struct Lab {
    state: StateDir,
    program: PathBuf,
    tie: Option<Tie>,
}

impl Lab {
    /// Starts a lab and waits until all its pods run.
    pub fn up(options: &LabOptions, progress: impl FnMut(&str)) -> Result<Self, LabError> {
        let state = StateDir::of(&options.name)?;
        let tie = launch::up(&state, options, progress)?;
        Ok(Self { state, program: options.program.clone(), tie: Some(tie) })
    }

    /// A lab that runs already.
    pub fn attach(name: &str) -> Result<Self, LabError> {
        let state = StateDir::of(name)?;
        if !state.is_alive() {
            return Err(LabError::NotRunning { name: name.to_string() });
        }
        Ok(Self { state, program: launch::this_program().to_path_buf(), tie: None })
    }

    /// Lets the lab go on when this process ends.
    pub fn detach(mut self) {
        if let Some(tie) = self.tie.take() {
            tie.detach();
        }
    }

    /// Ends the lab and waits until nothing of it is left.
    pub fn down(mut self) -> Result<(), LabError> {
        // The tie goes last: a lab that is let go ends by itself, and would be gone before it is asked.
        let ended = launch::down(&self.state);
        self.tie = None;
        ended
    }

    /// What the lab consists of.
    pub fn status(&self) -> Result<Status, LabError> {
        control::ask(&self.state.control_socket(), &Request::Status)
    }

    /// Breaks or repairs something; returns when it is done.
    pub fn fault(&self, fault: Fault) -> Result<(), LabError> {
        control::ask(&self.state.control_socket(), &Request::Fault(fault))
    }

    /// What controller and agents have asked of the API server so far.
    pub fn asked(&self) -> Result<BTreeSet<Asked>, LabError> {
        control::ask(&self.state.control_socket(), &Request::Asked)
    }

    /// Every flow that reached the outside host, in order of first appearance.
    pub fn outside_log(&self) -> Result<Vec<Sighting>, LabError> {
        control::ask(&self.state.control_socket(), &Request::OutsideLog)
    }

    /// Sources that sent anything to the outside host's ports since that moment (microseconds since 1970).
    pub fn outside_sources_since(&self, since_us: u64, ports: &[u16]) -> Result<Vec<IpAddr>, LabError> {
        let mut sources: Vec<IpAddr> = self
            .outside_log()?
            .into_iter()
            .filter(|sighting| sighting.last_us >= since_us && ports.contains(&sighting.destination_port))
            .map(|sighting| sighting.source)
            .collect();
        sources.sort_unstable();
        sources.dedup();
        Ok(sources)
    }

    /// Path of an administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.file("kubeconfig")
    }

    /// The lab's directory.
    pub fn directory(&self) -> &Path {
        self.state.path()
    }

    /// A client with all rights.
    pub async fn client(&self) -> anyhow::Result<kube::Client> {
        client_of(&self.kubeconfig()).await
    }

    /// Runs a command on a node, in a pod (`[NAMESPACE/]POD`) or on the host `outside`, and waits for its end.
    pub fn exec(&self, target: &str, command: &[&str]) -> std::io::Result<Output> {
        self.exec_command(target, command).output()
    }

    /// The file that stands for the network namespace of a node, a pod or `outside`, while its process runs.
    pub fn network_namespace(&self, target: &str) -> Result<PathBuf, LabError> {
        let request = Request::Target { name: target.to_string() };
        let target: Target = control::ask(&self.state.control_socket(), &request)?;
        let name = self.state.name();
        let init = self.state.init_pid().ok_or(LabError::NotRunning { name })?;
        // Processes of the lab have other numbers outside; its first process shows its own view.
        Ok(PathBuf::from(format!("/proc/{init}/root/proc/{}/ns/net", target.process)))
    }

    /// The command that [`Lab::exec`] runs, to be started in other ways.
    pub fn exec_command(&self, target: &str, command: &[&str]) -> Command {
        let mut exec = Command::new(&self.program);
        exec.args(["lab", "exec", "--name", &self.state.name(), target, "--"]).args(command);
        exec
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(tie) = self.tie.take() {
            if let Err(error) = launch::down(&self.state) {
                tracing::warn!(error = %error, "the lab did not end cleanly");
            }
            drop(tie);
        }
    }
}

/// A client of whom a kubeconfig is.
pub(crate) async fn client_of(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).context("read the kubeconfig")?;
    client_from(kubeconfig).await
}

/// A client of whom a kubeconfig is.
pub(crate) async fn client_from(kubeconfig: Kubeconfig) -> anyhow::Result<kube::Client> {
    let options = KubeConfigOptions::default();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.context("use the kubeconfig")?;
    kube::Client::try_from(config).context("make a client")
}
