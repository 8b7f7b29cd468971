//! A cluster without machines: an API server of either kind, nodes that are objects, agents that are patches.

use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use api::names;
use api::permissions::{AGENT, CONTROLLER};
use api::v1beta1::{EgressTunnel, crds};
use controller::{Options, WebhookOptions, run_with};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::AuthInfo;
use kube::{Api, Client, Config, Resource, ResourceExt};
use plan::Settings;
use runtime::supervisor::Supervisor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::server::{Server, is_real};

/// What the programs are permitted, as it is installed.
const ROLES: &str = include_str!("../../../lab/manifests/rbac.yaml");
/// What roles can't say, as it is installed.
const ADMISSION: &str = include_str!("../../../lab/manifests/agent-admission.yaml");
/// Where a controller tells its health, at an address of its own.
const HEALTH_PORT: u16 = 5820;
/// Where controller and agents are.
pub(crate) const SYSTEM: &str = "kube-system";
/// Name of the webhooks' Service and configurations.
pub(crate) const WEBHOOK: &str = "egressgateway-controller";
/// Port of the webhooks' Service, and of the controller.
pub(crate) const WEBHOOK_PORT: u16 = 5822;
/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) server: Server,
    config: Config,
    /// Where the webhooks of the replica `one`, and those of another one are: on addresses of loopback that no other
    /// cluster here has.
    pub(crate) webhooks: [Ipv4Addr; 2],
}

fn own_addresses() -> [Ipv4Addr; 2] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let number = NEXT.fetch_add(2, Ordering::Relaxed);
    // Kubernetes calls no webhook on loopback addresses. Where its server is tested, others lead to loopback as well.
    let (first, second) = if is_real() { (198, 18 + high % 2) } else { (127, 1 + high % 250) };
    [number, number + 1].map(|number| Ipv4Addr::new(first, second, low, number))
}

/// A controller that is stopped, and waited for, at the end.
pub(crate) struct Controller {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Controller {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("stops in time");
        ended.expect("no panic").expect("stops in order");
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Cluster {
    /// An API server with our kinds, and nodes `a`, `b` (gateways) and `c`.
    pub(crate) async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (server, config) = Server::start().await;
        let client = Client::try_from(config.clone()).expect("a client");
        let cluster = Self { client, server, config, webhooks: own_addresses() };
        let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
        for crd in crds() {
            definitions.create(&PostParams::default(), &crd).await.expect("our CRDs are accepted");
        }
        for crd in crds() {
            let name = crd.name_any();
            cluster
                .eventually("CRD established", || async {
                    let crd = definitions.get(&name).await.ok()?;
                    let conditions = crd.status?.conditions?;
                    conditions.iter().find(|c| c.type_ == "Established" && c.status == "True").map(drop)
                })
                .await;
        }
        for manifest in [ROLES, ADMISSION] {
            for object in serde_saphyr::from_multiple::<Value>(manifest).expect("YAML") {
                cluster.create(object).await.expect("roles and policies are accepted");
            }
        }
        for (number, (name, gateway)) in [("a", true), ("b", true), ("c", false)].into_iter().enumerate() {
            cluster.node(name, gateway, number + 1).await;
        }
        cluster
            .create(json!({
                "apiVersion": names::API_VERSION, "kind": "EgressClusterInfo", "metadata": {"name": "default"},
                "spec": {"autoDetect": {}, "extraCidr": ["192.0.2.7"]},
            }))
            .await
            .expect("created");
        cluster
    }

    /// A kind of another program, of which only the names matter; served when this returns.
    pub(crate) async fn define(&self, group: &str, version: &str, kind: &str, plural: &str) {
        let crd = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {
                "group": group, "scope": "Cluster",
                "names": {
                    "kind": kind, "listKind": format!("{kind}List"), "plural": plural,
                    "singular": kind.to_lowercase(),
                },
                "versions": [{
                    "name": version, "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                }],
            },
        });
        self.create(crd).await.expect("created");
        let path = format!("/apis/{group}/{version}/{plural}");
        self.eventually(kind, || async {
            let list = http::Request::get(&path).body(Vec::new()).expect("a request");
            self.client.request::<Value>(list).await.ok()
        })
        .await;
    }

    async fn node(&self, name: &str, gateway: bool, number: usize) {
        let labels = if gateway { json!({"egressgateway": "true"}) } else { json!({}) };
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "spec": {"podCIDR": format!("10.244.{number}.0/24"), "podCIDRs": [format!("10.244.{number}.0/24")]},
        });
        self.create(node).await.expect("created");
        let nodes: Api<Node> = Api::all(self.client.clone());
        let address = json!({"type": "InternalIP", "address": format!("10.6.0.{number}")});
        self.patch_status(&nodes, name, json!({"addresses": [address]})).await;
        self.set_ready(name, true).await;
    }

    /// A cluster with a controller and an agent per node.
    pub(crate) async fn at_work() -> (Self, Controller) {
        let cluster = Self::start().await;
        let controller = cluster.controller("one").await;
        cluster.agents().await;
        (cluster, controller)
    }

    pub(crate) async fn set_ready(&self, name: &str, ready: bool) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let status = if ready { "True" } else { "Unknown" };
        self.patch_status(&nodes, name, json!({"conditions": [{"type": "Ready", "status": status}]})).await;
    }

    /// A client that is the agent of a node: its token is bound to a pod there.
    pub(crate) async fn agent_client(&self, node: &str) -> Client {
        let name = format!("agent-{node}");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SYSTEM},
            "spec": {
                "nodeName": node, "serviceAccountName": AGENT.account, "hostNetwork": true,
                "containers": [{"name": "agent", "image": "agent"}],
            },
        });
        self.create(pod).await.expect("created");
        self.client_of(AGENT.account, Some(&name)).await
    }

    /// What the node's agent writes to show that it lives.
    pub(crate) async fn beat(&self, node: &str) {
        let leases: Api<Lease> = self.namespaced(SYSTEM);
        let name = names::heartbeat_lease(node);
        let renewed = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "labels": {names::LABEL_HEARTBEAT: "agent"}},
            "spec": {"holderIdentity": node, "renewTime": MicroTime(jiff::Timestamp::now())},
        });
        let parameters = PatchParams::apply("test").force();
        leases.patch(&name, &parameters, &Patch::Apply(renewed)).await.expect("renewed");
    }

    /// What the node's agent writes once the node is programmed.
    pub(crate) async fn agent(&self, name: &str) {
        let tunnels: Api<EgressTunnel> = Api::all(self.client.clone());
        self.eventually("tunnel address", || async {
            let status = tunnels.get(name).await.ok()?.status?;
            (!status.tunnel.ipv4.is_empty() && status.phase == "Init").then_some(())
        })
        .await;
        let condition = json!({
            "type": "Ready", "status": "True", "reason": "Programmed", "message": "",
            "lastTransitionTime": "2024-01-01T00:00:00Z",
        });
        let parent = json!({"name": "eth0", "ipv4": "10.6.0.1"});
        let status = json!({"tunnel": {"parent": parent}, "conditions": [condition]});
        self.patch_status(&tunnels, name, status).await;
    }

    pub(crate) async fn agents(&self) {
        for name in ["a", "b", "c"] {
            self.agent(name).await;
        }
    }

    pub(crate) async fn claim(&self, name: &str, eip: &str, epoch: i64) {
        let tunnels: Api<EgressTunnel> = Api::all(self.client.clone());
        self.patch_status(&tunnels, name, json!({"claims": [{"eip": eip, "epoch": epoch}]})).await;
    }

    pub(crate) async fn pod(&self, namespace: &str, name: &str, node: &str, ip: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": "test-app"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        });
        self.create(pod).await.expect("created");
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]});
        self.patch_status(&pods, name, status).await;
    }

    async fn patch_status<K>(&self, api: &Api<K>, name: &str, status: Value)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let patch = Patch::Merge(json!({ "status": status }));
        api.patch_status(name, &PatchParams::default(), &patch).await.expect("status written");
    }

    /// Creates an object as `kubectl` would.
    pub(crate) async fn create(&self, object: Value) -> Result<Value, kube::Error> {
        let (api_version, kind) = (text(&object, "/apiVersion"), text(&object, "/kind"));
        let namespace = text(&object, "/metadata/namespace");
        let plural = match kind.as_str() {
            "EgressPolicy" => "egresspolicies".to_owned(),
            "EgressClusterPolicy" => "egressclusterpolicies".to_owned(),
            "ValidatingAdmissionPolicy" => "validatingadmissionpolicies".to_owned(),
            other => format!("{}s", other.to_lowercase()),
        };
        let root = if api_version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{api_version}") };
        let scope = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
        let request = http_post(&format!("{root}{scope}/{plural}"), &object);
        self.client.request::<Value>(request).await
    }

    pub(crate) async fn gateway(&self, name: &str, pool: &str) {
        self.create(json!({
            "apiVersion": names::API_VERSION, "kind": "EgressGateway", "metadata": {"name": name},
            "spec": {
                "ippools": {"ipv4": [pool]},
                "nodeSelector": {"selector": {"matchLabels": {"egressgateway": "true"}}},
            },
        }))
        .await
        .expect("created");
    }

    pub(crate) async fn policy(&self, name: &str, gateway: &str) {
        self.create(policy(name, json!({"egressGatewayName": gateway}))).await.expect("created");
    }

    /// A client that is a service account, perhaps in a pod.
    pub(crate) async fn client_of(&self, account: &str, pod: Option<&str>) -> Client {
        let bound = pod.map(|pod| json!({"apiVersion": "v1", "kind": "Pod", "name": pod}));
        let wanted = json!({"spec": {"audiences": [], "expirationSeconds": 3600, "boundObjectRef": bound}});
        let path = format!("/api/v1/namespaces/{SYSTEM}/serviceaccounts/{account}/token");
        let answer: Value = self.client.request(http_post(&path, &wanted)).await.expect("a token");
        let mut config = self.config.clone();
        config.auth_info =
            AuthInfo { token: Some(text(&answer, "/status/token").into()), ..AuthInfo::default() };
        Client::try_from(config).expect("a client")
    }

    /// A controller that may do no more than where it is installed.
    pub(crate) async fn controller(&self, identity: &str) -> Controller {
        self.controller_with(identity, Settings::default()).await
    }

    /// A controller with other settings.
    pub(crate) async fn controller_with(&self, identity: &str, settings: Settings) -> Controller {
        let client = self.client_of(CONTROLLER.account, None).await;
        let [of_one, of_other] = self.webhooks;
        let webhook = if identity == "one" { of_one } else { of_other };
        let supervisor = Supervisor::new(Duration::from_secs(10));
        let shutdown = supervisor.shutdown();
        let options = Options {
            settings,
            leader_election: Some((Some(SYSTEM.to_owned()), "egressgateway".to_owned())),
            namespace: Some(SYSTEM.to_owned()),
            monitor_period: Duration::from_millis(500),
            identity: identity.to_owned(),
            health_bind: Some(SocketAddr::new(webhook.into(), HEALTH_PORT)),
            metrics_bind: None,
            webhook: Some(WebhookOptions {
                bind: SocketAddr::new(webhook.into(), WEBHOOK_PORT),
                certificate_directory: PathBuf::new(),
                namespace: SYSTEM.to_owned(),
                name: WEBHOOK.to_owned(),
            }),
        };
        let task = tokio::spawn(run_with(client, options, supervisor));
        Controller { shutdown, task }
    }

    /// What `/readyz` of a controller says.
    pub(crate) async fn readyz(&self, identity: &str) -> Option<String> {
        let [of_one, of_other] = self.webhooks;
        let address = if identity == "one" { of_one } else { of_other };
        let mut stream = tokio::net::TcpStream::connect((address, HEALTH_PORT)).await.ok()?;
        let request = b"GET /readyz HTTP/1.0\r\nHost: controller\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.ok()?;
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    pub(crate) fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Asks until there is an answer.
    #[track_caller]
    pub(crate) fn eventually<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut ask: impl FnMut() -> F,
    ) -> impl Future<Output = T> {
        let caller = std::panic::Location::caller();
        async move {
            let asking = async {
                loop {
                    if let Some(answer) = ask().await {
                        return answer;
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            };
            let answer = tokio::time::timeout(PATIENCE, asking).await;
            answer.unwrap_or_else(|_| panic!("no {what} in {PATIENCE:?}, at {caller}"))
        }
    }
}

/// An EgressPolicy of namespace `default` for the pods of `test-app`.
pub(crate) fn policy(name: &str, more: Value) -> Value {
    let mut spec = json!({"appliedTo": {"podSelector": {"matchLabels": {"app": "test-app"}}}});
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    json!({
        "apiVersion": names::API_VERSION, "kind": "EgressPolicy",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn http_post(path: &str, object: &impl Serialize) -> http::Request<Vec<u8>> {
    let body = serde_json::to_vec(object).expect("JSON");
    http::Request::post(path).header("content-type", "application/json").body(body).expect("a request")
}
