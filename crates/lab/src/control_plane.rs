//! The API server of a lab, and who controls what it stores: ours in this process, or Kubernetes' own programs.
//!
//! ```text
//!   embedded     API server: a part of this process     controllers, scheduler: this crate's
//!   real         etcd, kube-apiserver                    kube-controller-manager, kube-scheduler
//! ```
//!
//! Either listens at the same address on the fabric and on one port of the host's loopback, and nodes, kubelets and
//! pods can't tell which it is. What only the embedded one has: `kubectl exec`, `logs` and `port-forward`, for which
//! the real one would have to reach a kubelet's port.

mod audit;
mod credentials;
mod kubernetes;
mod process;
mod relay;
mod webhooks;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use apiserver::auth::audit::Asked;
use apiserver::auth::certificate::SubjectName;
use apiserver::server::{ApiServer, ApiServerHandle, ServerConfig};
use serde::{Deserialize, Serialize};

use crate::addresses::{API_SERVER_V4, API_SERVER_V6};
use crate::fabric::Fabric;
use crate::kubelet::streams::LabStreams;
use crate::state_dir::StateDir;
use kubernetes::Kubernetes;
use webhooks::FabricDialer;

/// Whose API server a lab has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiServerKind {
    /// The one that is a part of this program, with controllers of the lab.
    #[default]
    Embedded,
    /// Kubernetes' own programs.
    Real {
        /// The directory with etcd, kube-apiserver, kube-controller-manager and kube-scheduler.
        programs: PathBuf,
    },
}

/// Says which API server a lab has: `embedded` or `real`.
pub(crate) const SERVER_VARIABLE: &str = "EGRESSGATEWAY_LAB_API_SERVER";
/// Says where Kubernetes' programs are.
pub const PROGRAMS_VARIABLE: &str = "EGRESSGATEWAY_KUBERNETES";

impl ApiServerKind {
    /// What the environment asks for, as `lab up` understands it: tests run on either.
    pub fn from_environment() -> anyhow::Result<Self> {
        match std::env::var(SERVER_VARIABLE).as_deref() {
            Err(_) | Ok("" | "embedded") => Ok(Self::Embedded),
            Ok("real") => Self::real(std::env::var_os(PROGRAMS_VARIABLE).map(PathBuf::from)),
            Ok(other) => {
                anyhow::bail!("{SERVER_VARIABLE} is {other:?}, and neither \"embedded\" nor \"real\"")
            }
        }
    }

    /// Kubernetes' own programs, from that directory or from the user's cache.
    pub fn real(programs: Option<PathBuf>) -> anyhow::Result<Self> {
        let programs = programs.or_else(default_programs);
        let programs =
            programs.with_context(|| format!("HOME is not set; say where in {PROGRAMS_VARIABLE}"))?;
        Ok(Self::Real { programs })
    }
}

/// Where `cargo xtask real-cluster` puts Kubernetes' programs: in the user's cache.
fn default_programs() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("egressgateway/kubernetes/current"))
}

/// A running API server, with what belongs to it.
pub(crate) struct ControlPlane {
    address: SocketAddr,
    server: Server,
}

enum Server {
    Embedded(ApiServerHandle),
    Real(Box<Kubernetes>),
}

impl ControlPlane {
    /// Starts it; returns when it answers.
    pub(crate) async fn start(
        kind: &ApiServerKind,
        fabric: &Fabric,
        state: &StateDir,
        streams: LabStreams,
    ) -> anyhow::Result<Self> {
        let loopback = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
        let address = loopback.local_addr().context("listen on loopback")?;
        let server = match kind {
            ApiServerKind::Embedded => {
                let mut listeners = fabric.api_server_listeners().context("listen on the fabric")?;
                listeners.push(loopback);
                let subject_names = fabric_addresses().map(SubjectName::Ip).collect();
                let streams = Arc::new(streams);
                let namespace = fabric.switch().try_clone().context("hold the switch's namespace")?;
                let dialer = Arc::new(FabricDialer::new(namespace));
                let config =
                    ServerConfig { listeners, subject_names, streams, dialer, ..ServerConfig::default() };
                Server::Embedded(ApiServer::start(config).await.context("start the API server")?)
            }
            ApiServerKind::Real { programs } => {
                let directory = state.file("control-plane");
                Server::Real(Box::new(Kubernetes::start(programs, &directory, fabric, loopback).await?))
            }
        };
        Ok(Self { address, server })
    }

    /// Where it listens on the host.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig of a user that may do all, for the host.
    pub(crate) fn kubeconfig(&self) -> String {
        let url = format!("https://{}", self.address);
        match &self.server {
            Server::Embedded(server) => server.kubeconfig(&url),
            Server::Real(server) => server.kubeconfig(&url),
        }
    }

    /// The certificate that clients must trust, as PEM.
    pub(crate) fn ca_pem(&self) -> String {
        match &self.server {
            Server::Embedded(server) => server.ca_pem(),
            Server::Real(server) => server.ca_pem().to_string(),
        }
    }

    /// What controller and agents have asked of it.
    pub(crate) fn asked(&self) -> anyhow::Result<BTreeSet<Asked>> {
        match &self.server {
            Server::Embedded(server) => Ok(server.asked()),
            Server::Real(server) => server.asked(),
        }
    }

    /// Whether it comes with controllers and a scheduler of its own.
    pub(crate) fn has_controllers(&self) -> bool {
        matches!(self.server, Server::Real(_))
    }

    /// Starts these; nodes are not ready after `node_grace` of silence.
    pub(crate) async fn start_controllers(&self, node_grace: Duration) -> anyhow::Result<()> {
        match &self.server {
            Server::Embedded(_) => Ok(()),
            Server::Real(server) => server.start_controllers(node_grace).await,
        }
    }

    /// Cuts all connections and refuses new ones.
    pub(crate) async fn pause(&self) {
        match &self.server {
            Server::Embedded(server) => server.pause(),
            Server::Real(server) => server.stop_api_server().await,
        }
    }

    /// Answers again.
    pub(crate) async fn resume(&self) -> anyhow::Result<()> {
        match &self.server {
            Server::Embedded(server) => server.resume(),
            Server::Real(server) => server.start_api_server().await?,
        }
        Ok(())
    }

    /// Whether it answers nobody.
    pub(crate) async fn is_paused(&self) -> bool {
        match &self.server {
            Server::Embedded(server) => server.is_paused(),
            Server::Real(server) => !server.api_server_runs().await,
        }
    }

    /// Ends its processes.
    pub(crate) async fn shutdown(&self) {
        if let Server::Real(server) = &self.server {
            server.shutdown().await;
        }
    }
}

/// The API server's addresses on the fabric.
fn fabric_addresses() -> impl Iterator<Item = IpAddr> {
    [IpAddr::V4(API_SERVER_V4), IpAddr::V6(API_SERVER_V6)].into_iter()
}
