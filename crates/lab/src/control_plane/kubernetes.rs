//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes of the lab.
//!
//! They live in the switch's network namespace, where the API server's address on the fabric is: nodes reach it
//! like any other host, it reaches nodes (webhooks), and no port of the host is taken but one on loopback, from
//! which a relay leads there.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::auth::audit::Asked;
use kube::Client;
use kube::config::Kubeconfig;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::audit;
use super::credentials::Credentials;
use super::process::{Launch, Process};
use super::relay;
use crate::addresses::{API_SERVER_PORT, API_SERVER_V4, SERVICE_CIDRS, cluster_pod_cidrs};
use crate::fabric::Fabric;
use crate::handle::client_from;
use crate::netns::NetNs;

const ETCD: &str = "etcd";
const API_SERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";
/// etcd listens on the loopback device of the switch's namespace, which no node reaches.
const ETCD_CLIENTS: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";
/// A real API server takes some seconds, more on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a controller that ended stays away.
const START_AGAIN: Duration = Duration::from_secs(1);
/// So many requests a second Kubernetes' controllers and its scheduler allow themselves.
const REQUESTS_PER_SECOND: &str = "300";
/// How often kube-controller-manager looks at nodes.
const NODE_MONITOR_PERIOD: &str = "500ms";

/// What is written of our programs' requests, and where.
const AUDIT_POLICY: &str = "audit.yaml";
const AUDIT_LOG: &str = "audit.log";

/// A control plane of Kubernetes' own programs.
pub(super) struct Kubernetes {
    programs: PathBuf,
    directory: PathBuf,
    namespace: NetNs,
    credentials: Credentials,
    client: Client,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    etcd: Option<Process>,
    api_server: Option<Process>,
    /// Each ends with `stop`.
    controllers: JoinSet<()>,
    stop: CancellationToken,
    relay: JoinSet<()>,
}

impl Running {
    /// An error once the API server, or what it stores in, has ended.
    fn check(&mut self) -> anyhow::Result<()> {
        self.etcd.iter_mut().chain(&mut self.api_server).try_for_each(Process::check)
    }
}

impl Kubernetes {
    /// Starts all of it and waits until the API server is ready.
    pub(super) async fn start(
        programs: &Path,
        directory: &Path,
        fabric: &Fabric,
        loopback: TcpListener,
    ) -> anyhow::Result<Self> {
        check_programs(programs)?;
        fs::create_dir_all(directory).context("make the control plane's directory")?;
        let fabric_address = SocketAddr::new(IpAddr::V4(API_SERVER_V4), API_SERVER_PORT);
        let credentials = Credentials::create(directory, &format!("https://{fabric_address}"))?;
        fs::write(directory.join(AUDIT_POLICY), audit::policy()).context("write the audit policy")?;
        let host_url = format!("https://{}", loopback.local_addr().context("listen on loopback")?);
        let kubeconfig = Kubeconfig::from_yaml(&credentials.admin_kubeconfig(&host_url))?;
        let namespace = fabric.switch().try_clone().context("hold the switch's namespace")?;
        let mut running = Running::default();
        let inside = namespace.try_clone().context("hold the switch's namespace")?;
        running.relay.spawn(async move {
            if let Err(error) = relay::relay(loopback, inside, fabric_address).await {
                tracing::error!(%error, "the API server can't be reached from the host");
            }
        });
        let kubernetes = Self {
            programs: programs.to_path_buf(),
            directory: directory.to_path_buf(),
            namespace,
            credentials,
            client: client_from(kubeconfig).await?,
            running: Mutex::new(running),
        };
        let etcd = kubernetes.process(ETCD, kubernetes.etcd_arguments())?;
        kubernetes.running.lock().await.etcd = Some(etcd);
        kubernetes.start_api_server().await?;
        Ok(kubernetes)
    }

    /// Starts what acts on what the API server stores; nodes are not ready after `node_grace` of silence.
    pub(super) async fn start_controllers(&self, node_grace: Duration) -> anyhow::Result<()> {
        let mut running = self.running.lock().await;
        let manager = (CONTROLLER_MANAGER, self.controller_manager_arguments(node_grace));
        let scheduler = (SCHEDULER, self.scheduler_arguments());
        for (name, arguments) in [manager, scheduler] {
            let launch = self.launch(name, arguments)?;
            let first = launch.start()?;
            let stop = running.stop.clone();
            running.controllers.spawn(keep_running(launch, first, stop));
        }
        Ok(())
    }

    /// A kubeconfig of a user that may do all.
    pub(super) fn kubeconfig(&self, url: &str) -> String {
        self.credentials.admin_kubeconfig(url)
    }

    /// What controller and agents have asked for.
    pub(super) fn asked(&self) -> anyhow::Result<BTreeSet<Asked>> {
        audit::asked(&self.directory.join(AUDIT_LOG))
    }

    /// The certificate that clients must trust, as PEM.
    pub(super) fn ca_pem(&self) -> &str {
        self.credentials.ca_pem()
    }

    /// Kills kube-apiserver; what it stored stays.
    pub(super) async fn stop_api_server(&self) {
        let process = self.running.lock().await.api_server.take();
        if let Some(mut process) = process {
            process.kill().await;
        }
    }

    /// Starts kube-apiserver, unless it runs, and waits until it is ready.
    pub(super) async fn start_api_server(&self) -> anyhow::Result<()> {
        let mut running = self.running.lock().await;
        if running.api_server.as_mut().is_some_and(|process| process.check().is_ok()) {
            return Ok(());
        }
        running.api_server = Some(self.process(API_SERVER, self.api_server_arguments())?);
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let Err(error) = self.client.request_text(request).await else { return Ok(()) };
            running.check()?;
            if Instant::now() >= deadline {
                return Err(error).context("kube-apiserver is not ready");
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether kube-apiserver runs.
    pub(super) async fn api_server_runs(&self) -> bool {
        self.running.lock().await.api_server.as_mut().is_some_and(|process| process.check().is_ok())
    }

    /// Ends all programs.
    pub(super) async fn shutdown(&self) {
        let mut running = std::mem::take(&mut *self.running.lock().await);
        running.relay.shutdown().await;
        running.stop.cancel();
        while running.controllers.join_next().await.is_some() {}
        for process in running.api_server.iter_mut().chain(&mut running.etcd) {
            process.kill().await;
        }
    }

    fn launch(&self, name: &'static str, arguments: Vec<String>) -> anyhow::Result<Launch> {
        let namespace = self.namespace.try_clone().context("hold the switch's namespace")?;
        let (programs, directory) = (self.programs.clone(), self.directory.clone());
        Ok(Launch { namespace, programs, directory, name, arguments })
    }

    fn process(&self, name: &'static str, arguments: Vec<String>) -> anyhow::Result<Process> {
        self.launch(name, arguments)?.start()
    }

    fn etcd_arguments(&self) -> Vec<String> {
        flags(&[
            ("data-dir", &self.credentials.path("etcd")),
            ("listen-client-urls", ETCD_CLIENTS),
            ("advertise-client-urls", ETCD_CLIENTS),
            ("listen-peer-urls", ETCD_PEERS),
            ("initial-advertise-peer-urls", ETCD_PEERS),
            ("initial-cluster", &format!("default={ETCD_PEERS}")),
            // A lab does not outlive the machine.
            ("unsafe-no-fsync", "true"),
            ("log-level", "warn"),
        ])
    }

    fn api_server_arguments(&self) -> Vec<String> {
        let path = |file| self.credentials.path(file);
        flags(&[
            ("etcd-servers", ETCD_CLIENTS),
            ("advertise-address", &API_SERVER_V4.to_string()),
            ("secure-port", &API_SERVER_PORT.to_string()),
            ("tls-cert-file", &path("apiserver.crt")),
            ("tls-private-key-file", &path("apiserver.key")),
            ("client-ca-file", &path("ca.crt")),
            ("token-auth-file", &path("tokens.csv")),
            ("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
            ("service-account-key-file", &path("service-accounts.crt")),
            ("service-account-signing-key-file", &path("service-accounts.key")),
            ("service-cluster-ip-range", &SERVICE_CIDRS.join(",")),
            ("authorization-mode", "Node,RBAC"),
            ("enable-admission-plugins", "NodeRestriction"),
            ("audit-policy-file", &path(AUDIT_POLICY)),
            ("audit-log-path", &path(AUDIT_LOG)),
            // Nothing translates Service addresses here: webhooks are called at their endpoints.
            ("enable-aggregator-routing", "true"),
            ("allow-privileged", "true"),
            // Nobody resolves the names of nodes.
            ("kubelet-preferred-address-types", "InternalIP"),
            ("profiling", "false"),
        ])
    }

    fn controller_manager_arguments(&self, node_grace: Duration) -> Vec<String> {
        let path = |file| self.credentials.path(file);
        flags(&[
            ("kubeconfig", &path("controller-manager.conf")),
            ("use-service-account-credentials", "true"),
            ("service-account-private-key-file", &path("service-accounts.key")),
            ("root-ca-file", &path("ca.crt")),
            ("node-monitor-grace-period", &format!("{}ms", node_grace.as_millis())),
            ("node-monitor-period", NODE_MONITOR_PERIOD),
            ("cluster-cidr", &cluster_pod_cidrs().map(|cidr| cidr.to_string()).join(",")),
            ("allocate-node-cidrs", "false"),
            ("leader-elect", "false"),
            ("bind-address", "127.0.0.1"),
            // By default it holds itself back to 20 requests a second.
            ("kube-api-qps", REQUESTS_PER_SECOND),
            ("kube-api-burst", REQUESTS_PER_SECOND),
        ])
    }

    fn scheduler_arguments(&self) -> Vec<String> {
        let path = self.credentials.path("scheduler.conf");
        flags(&[
            ("kubeconfig", &path),
            ("leader-elect", "false"),
            ("bind-address", "127.0.0.1"),
            ("kube-api-qps", REQUESTS_PER_SECOND),
            ("kube-api-burst", REQUESTS_PER_SECOND),
        ])
    }
}

/// Starts a program again whenever it ends, as a kubelet does: these end by design when the API server does not let them go
/// on, which happens in the first moments after it came back.
async fn keep_running(launch: Launch, first: Process, stop: CancellationToken) {
    let mut running = Some(first);
    loop {
        if let Some(process) = &mut running {
            tokio::select! {
                error = process.ended() => tracing::warn!(%error, "a controller starts again"),
                () = stop.cancelled() => return process.kill().await,
            }
        }
        tokio::select! {
            () = sleep(START_AGAIN) => {}
            () = stop.cancelled() => return,
        }
        running = launch.start().inspect_err(|error| tracing::warn!(%error, "not started")).ok();
    }
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// All programs are there; the error says how to get them.
fn check_programs(programs: &Path) -> anyhow::Result<()> {
    for name in [ETCD, API_SERVER, CONTROLLER_MANAGER, SCHEDULER] {
        if !programs.join(name).is_file() {
            bail!("{} has no {name}: `cargo xtask real-cluster build` makes it", programs.display());
        }
    }
    Ok(())
}
