//! The API server of a test: the embedded one, or Kubernetes' own where the environment asks for that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use apiserver::auth::audit::Asked;
use apiserver::auth::certificate::{Authority, SubjectName};
use apiserver::server::{ApiServer, ApiServerHandle, ServerConfig};
use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// `real` for Kubernetes' own.
const SERVER_VARIABLE: &str = "EGRESSGATEWAY_LAB_API_SERVER";
/// Where its programs are.
const PROGRAMS_VARIABLE: &str = "EGRESSGATEWAY_KUBERNETES";
/// What only a broken program misses.
const PATIENCE: Duration = Duration::from_secs(60);
const ADMIN_TOKEN: &str = "of-a-test";
/// Requests of our programs, without what they carry.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    userGroups: ['system:serviceaccounts:kube-system']
  - level: None
";

/// Whether tests run on Kubernetes' own API server.
pub(crate) fn is_real() -> bool {
    std::env::var(SERVER_VARIABLE).is_ok_and(|server| server == "real")
}

/// A running API server; it ends with this.
pub(crate) enum Server {
    Embedded(ApiServerHandle),
    Real(Box<RealServer>),
}

impl Server {
    /// Starts one that nobody else uses; answers how an administrator reaches it.
    pub(crate) async fn start() -> (Self, Config) {
        if is_real() {
            let (server, config) = RealServer::start().await;
            return (Self::Real(Box::new(server)), config);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let config = ServerConfig { listeners: vec![listener], ..ServerConfig::default() };
        let server = ApiServer::start(config).await.expect("the server starts");
        let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig(&url)).expect("a kubeconfig");
        (Self::Embedded(server), config_of(kubeconfig).await)
    }

    /// It answers nobody for a while.
    pub(crate) async fn pause(&self) {
        match self {
            Self::Embedded(server) => server.pause(),
            Self::Real(server) => server.stop_api_server().await,
        }
    }

    /// It answers again.
    pub(crate) async fn resume(&self) {
        match self {
            Self::Embedded(server) => server.resume(),
            Self::Real(server) => server.start_api_server().await,
        }
    }

    /// What service accounts have asked for.
    pub(crate) fn asked(&self) -> BTreeSet<Asked> {
        match self {
            Self::Embedded(server) => server.asked(),
            Self::Real(server) => server.asked(),
        }
    }
}

async fn config_of(kubeconfig: Kubeconfig) -> Config {
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a config")
}

/// etcd, kube-apiserver, and of kube-controller-manager what ends namespaces and what has lost its owner.
pub(crate) struct RealServer {
    programs: PathBuf,
    directory: TempDir,
    port: u16,
    etcd_url: String,
    client: Client,
    api_server: Mutex<Option<Child>>,
    _others: Vec<Child>,
    /// One at a time: each takes a second of a processor and a tenth of a gigabyte.
    _alone: OwnedMutexGuard<()>,
}

fn alone() -> Arc<Mutex<()>> {
    static ALONE: std::sync::OnceLock<Arc<Mutex<()>>> = std::sync::OnceLock::new();
    ALONE.get_or_init(Arc::default).clone()
}

/// A port that no other server here gets, and no client: those have ports from 32768 on.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

impl RealServer {
    async fn start() -> (Self, Config) {
        let alone = alone().lock_owned().await;
        let programs = std::env::var_os(PROGRAMS_VARIABLE).map(PathBuf::from);
        let programs = programs.expect("EGRESSGATEWAY_KUBERNETES names the directory with the programs");
        let directory = tempfile::tempdir().expect("a directory");
        let (port, etcd_port, peer_port) = (free_port(), free_port(), free_port());
        let url = format!("https://127.0.0.1:{port}");
        write_credentials(directory.path(), &url);
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let data = directory.path().join("etcd");
        let etcd = [
            ("data-dir", data.display().to_string()),
            ("listen-client-urls", etcd_url.clone()),
            ("advertise-client-urls", etcd_url.clone()),
            ("listen-peer-urls", peer_url.clone()),
            ("initial-advertise-peer-urls", peer_url.clone()),
            ("initial-cluster", format!("default={peer_url}")),
            ("unsafe-no-fsync", "true".to_owned()),
            ("log-level", "error".to_owned()),
        ];
        let etcd = start(&programs, directory.path(), "etcd", &etcd);
        let kubeconfig = directory.path().join("admin.conf");
        let config = config_of(Kubeconfig::read_from(&kubeconfig).expect("a kubeconfig")).await;
        let client = Client::try_from(config.clone()).expect("a client");
        let mut server = Self {
            programs,
            directory,
            port,
            etcd_url,
            client,
            api_server: Mutex::default(),
            _others: vec![etcd],
            _alone: alone,
        };
        server.start_api_server().await;
        let manager = [
            ("kubeconfig", kubeconfig.display().to_string()),
            ("controllers", "garbage-collector-controller,namespace-controller".to_owned()),
            ("leader-elect", "false".to_owned()),
            ("secure-port", free_port().to_string()),
            ("bind-address", "127.0.0.1".to_owned()),
        ];
        let path = server.directory.path();
        let manager = start(&server.programs, path, "kube-controller-manager", &manager);
        server._others.push(manager);
        (server, config)
    }

    async fn start_api_server(&self) {
        let path = |file: &str| self.directory.path().join(file).display().to_string();
        let arguments = [
            ("etcd-servers", self.etcd_url.clone()),
            ("secure-port", self.port.to_string()),
            // Endpoints can't be on loopback, and nobody asks for this one.
            ("advertise-address", "198.18.0.1".to_owned()),
            ("tls-cert-file", path("apiserver.crt")),
            ("tls-private-key-file", path("apiserver.key")),
            ("token-auth-file", path("tokens.csv")),
            ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".to_owned()),
            ("service-account-key-file", path("service-accounts.crt")),
            ("service-account-signing-key-file", path("service-accounts.key")),
            ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
            ("authorization-mode", "RBAC".to_owned()),
            // Nodes and pods are objects here: nobody makes accounts for pods, or takes taints off nodes.
            ("disable-admission-plugins", "ServiceAccount,TaintNodesByCondition".to_owned()),
            ("audit-policy-file", path("audit.yaml")),
            ("audit-log-path", path("audit.log")),
            // Nothing translates Service addresses: webhooks are called at their endpoints.
            ("enable-aggregator-routing", "true".to_owned()),
            ("allow-privileged", "true".to_owned()),
            ("profiling", "false".to_owned()),
        ];
        let child = start(&self.programs, self.directory.path(), "kube-apiserver", &arguments);
        *self.api_server.lock().await = Some(child);
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let ready = async {
            loop {
                let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
                if self.client.request_text(request).await.is_ok()
                    && namespaces.get("kube-system").await.is_ok()
                    && namespaces.get("default").await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, ready).await.is_err() {
            let log = |name| fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
            panic!("kube-apiserver is not ready: {}{}", log("etcd.log"), log("kube-apiserver.log"));
        }
    }

    async fn stop_api_server(&self) {
        if let Some(mut child) = self.api_server.lock().await.take() {
            child.kill().await.expect("it is killed");
        }
    }

    fn asked(&self) -> BTreeSet<Asked> {
        let log = fs::read_to_string(self.directory.path().join("audit.log")).unwrap_or_default();
        log.lines().filter_map(Asked::in_log).collect()
    }
}

fn start(programs: &Path, directory: &Path, name: &str, arguments: &[(&str, String)]) -> Child {
    let log = File::options().create(true).append(true).open(directory.join(format!("{name}.log")));
    let log = log.expect("a log");
    let mut command = Command::new(programs.join(name));
    command.args(arguments.iter().map(|(name, value)| format!("--{name}={value}")));
    command.current_dir(directory).env_clear().stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a log")).stderr(log).kill_on_drop(true);
    command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"))
}

/// Keys, certificates and the administrator's token.
fn write_credentials(directory: &Path, url: &str) {
    let write = |file: &str, text: &str| fs::write(directory.join(file), text).expect("written");
    let authority = Authority::generate().expect("an authority");
    let serving = authority.issue_server_pem(&[SubjectName::Ip(Ipv4Addr::LOCALHOST.into())]).expect("issued");
    write("apiserver.crt", &serving.certificate_pem);
    write("apiserver.key", &serving.key_pem);
    let signing = authority.issue_client("service-accounts", None).expect("issued");
    write("service-accounts.crt", &signing.certificate_pem);
    write("service-accounts.key", &signing.key_pem);
    write("tokens.csv", &format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n"));
    write("audit.yaml", AUDIT_POLICY);
    write("ca.crt", &authority.certificate_pem());
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": url, "certificate-authority": directory.join("ca.crt"),
        }}],
        "users": [{"name": "test", "user": {"token": ADMIN_TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    write("admin.conf", &kubeconfig.to_string());
}
