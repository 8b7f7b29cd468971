//! The lab that all scenarios share, and how they look at it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kernel::{Kernel, Netns};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource, ResourceExt};
use lab::{ApiServerKind, Asked, Fault, Lab, LabOptions, Sighting};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::traffic::{self, Server};

/// Nodes that the scenarios make gateways.
pub(crate) const GATEWAYS: [&str; 2] = ["worker-node-1", "worker-node-2"];
/// A node that is none.
pub(crate) const PLAIN: &str = "controller-node-1";
/// Every node.
pub(crate) const NODES: [&str; 3] = [PLAIN, GATEWAYS[0], GATEWAYS[1]];
/// The host outside the cluster.
pub(crate) const OUTSIDE: Ipv4Addr = lab::OUTSIDE_V4;
/// Where the project's own objects live.
pub(crate) const SYSTEM: &str = "kube-system";
/// What only a broken program misses, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);
/// One request to the API server.
const REQUEST_PATIENCE: Duration = Duration::from_secs(15);
/// How much of the daemons' logs is shown when something failed.
const LINES_OF_DAEMONS: usize = 200;
/// What such lines contain.
const TELLING: [&str; 5] = [
    r#""message":"agent starts""#,
    r#""message":"claim""#,
    r#""message":"peer""#,
    r#""level":"WARN""#,
    r#""level":"ERROR""#,
];
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running lab with two gateway nodes.
pub(crate) struct World {
    lab: Lab,
    runtime: Runtime,
    client: Client,
    /// The host outside.
    pub(crate) outside: Netns,
    asked: Server,
    scenes: AtomicU32,
}

impl World {
    /// Starts the lab and labels the gateway nodes; `ipv6`: agents also serve IPv6.
    pub(crate) fn up(ipv6: bool) -> Result<Self> {
        let options = LabOptions {
            name: format!("e2e-{}{}", if ipv6 { "dual-" } else { "" }, std::process::id()),
            ipv6,
            program: PathBuf::from(env!("CARGO_BIN_EXE_egressgateway")),
            api_server: ApiServerKind::from_environment()?,
            ..LabOptions::default()
        };
        let lab = Lab::up(&options, |_| {}).context("lab up")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(lab.client())?;
        let outside = Netns::open(lab.network_namespace("outside")?)?;
        let asked = Server::start(&outside)?;
        let world = Self { lab, runtime, client, outside, asked, scenes: AtomicU32::new(0) };
        for node in GATEWAYS {
            world.label_node(node, json!({"e2e-gateway": "true"}))?;
        }
        Ok(world)
    }

    /// How many scenes there were before the next.
    pub(crate) fn next_scene(&self) -> u32 {
        self.scenes.fetch_add(1, Ordering::Relaxed)
    }

    /// Ends the lab.
    pub(crate) fn down(self) -> Result<()> {
        drop(self.client);
        Ok(self.lab.down()?)
    }

    /// Prints what helps to find out why something failed.
    pub(crate) fn tell_what_happened(&self) {
        for kind in ["EgressGateway", "EgressTunnel"] {
            let objects = self.list(kind, None).unwrap_or_default();
            let statuses =
                objects.iter().map(|object| (object.name_any(), object.data.get("status").cloned()));
            for (name, status) in statuses {
                println!("{kind} {name}: {}", status.unwrap_or_default());
            }
        }
        for line in self.words_of_the_daemons() {
            println!("{line}");
        }
    }

    /// What agents and controllers logged about other nodes, EIPs and troubles, in order.
    fn words_of_the_daemons(&self) -> Vec<String> {
        let Ok(inside) = self.inside("pods") else { return Vec::new() };
        let entries = |directory: PathBuf| std::fs::read_dir(directory).into_iter().flatten().flatten();
        let logs = entries(inside).flat_map(|pod| {
            let containers = entries(pod.path().join("logs"));
            let logs = containers.flat_map(|container| entries(container.path()));
            logs.map(move |log| {
                (pod.file_name().to_string_lossy().chars().take(8).collect::<String>(), log.path())
            })
        });
        let telling = |line: &&str| TELLING.iter().any(|part| line.contains(part));
        let mut lines: Vec<String> = Vec::new();
        for (pod, log) in logs {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            lines.extend(text.lines().filter(telling).map(|line| format!("{line} pod {pod}")));
        }
        lines.sort();
        let superfluous = lines.len().saturating_sub(LINES_OF_DAEMONS);
        lines.split_off(superfluous)
    }

    /// A file or directory that only the lab's own processes see.
    pub(crate) fn inside(&self, path: &str) -> Result<PathBuf> {
        let state = self.lab.directory();
        let first = std::fs::read_to_string(state.join("pid"))?;
        let first = first.split_whitespace().next().context("the lab has ended")?;
        Ok(PathBuf::from(format!("/proc/{first}/root{}/private/{path}", state.display())))
    }

    /// Waits for a condition; the error of the last look is what was seen instead.
    pub(crate) fn until<T>(&self, what: &str, look: impl FnMut() -> Result<T>) -> Result<T> {
        self.until_within(PATIENCE, what, look)
    }

    /// The same for what takes longer.
    pub(crate) fn until_within<T>(
        &self,
        patience: Duration,
        what: &str,
        mut look: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let end = Instant::now() + patience;
        // What takes long is large, and looking at it keeps the API server from its work.
        let pause = LOOK_AGAIN.max(patience / 1_000);
        loop {
            match look() {
                Ok(found) => return Ok(found),
                Err(error) if Instant::now() > end => {
                    return Err(
                        error.context(format!("waited {} s in vain until {what}", patience.as_secs()))
                    );
                }
                Err(_) => std::thread::sleep(pause),
            }
        }
    }

    /// A server with ports of its own on the outside host.
    pub(crate) fn serve(&self) -> Result<Server> {
        Server::start(&self.outside)
    }

    /// The address that the outside host sees when something connects from this namespace.
    pub(crate) fn seen_from(&self, netns: &Netns) -> Result<IpAddr> {
        let to = SocketAddr::new(OUTSIDE.into(), self.asked.port());
        let mut stream = traffic::connect(netns, to)?;
        stream.write_all(b"who\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        answer.trim().parse().with_context(|| format!("answer {answer:?}"))
    }

    /// Waits until connections from this namespace are seen with this address.
    pub(crate) fn until_seen_as(&self, netns: &Netns, address: IpAddr) -> Result<()> {
        self.until(&format!("the outside sees {address}"), || {
            let seen = self.seen_from(netns)?;
            if seen == address { Ok(()) } else { bail!("the outside saw {seen}") }
        })
    }

    /// What the outside host saw at a port.
    pub(crate) fn sightings_at(&self, port: u16) -> Result<Vec<Sighting>> {
        let log = self.lab.outside_log()?;
        Ok(log.into_iter().filter(|sighting| sighting.destination_port == port).collect())
    }

    /// All sources that the outside host saw at a port.
    pub(crate) fn sources_at(&self, port: u16) -> Result<BTreeSet<IpAddr>> {
        Ok(self.sightings_at(port)?.into_iter().map(|sighting| sighting.source).collect())
    }

    /// All sources of ICMP that the outside host saw.
    pub(crate) fn sources_of_icmp(&self) -> Result<BTreeSet<IpAddr>> {
        let log = self.lab.outside_log()?;
        Ok(log
            .into_iter()
            .filter(|sighting| sighting.protocol == 1)
            .map(|sighting| sighting.source)
            .collect())
    }

    /// The network namespace of a node, a `NAMESPACE/POD` or `outside`.
    pub(crate) fn netns(&self, target: &str) -> Result<Netns> {
        Ok(Netns::open(self.lab.network_namespace(target)?)?)
    }

    /// A node's kernel.
    pub(crate) fn kernel(&self, node: &str) -> Result<Kernel> {
        Ok(Kernel::open_in(&self.netns(node)?)?)
    }

    /// A counter of our table on a node, in packets.
    pub(crate) fn counter(&self, node: &str, name: &str) -> Result<u64> {
        let table = agent_table();
        let counters = self.kernel(node)?.nft.counters(&table)?;
        Ok(counters.get(name).map(|value| value.packets).unwrap_or(0))
    }

    /// Breaks or repairs something.
    pub(crate) fn fault(&self, fault: Fault) -> Result<()> {
        Ok(self.lab.fault(fault)?)
    }

    /// What controller and agents have asked of the API server.
    pub(crate) fn asked(&self) -> Result<BTreeSet<Asked>> {
        Ok(self.lab.asked()?)
    }

    /// A client with the token that a pod's service account has in this pod.
    pub(crate) fn client_in_pod(&self, namespace: &str, account: &str, pod: &str) -> Result<Client> {
        let wanted = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": [], "expirationSeconds": 3600,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod},
            },
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(wanted.to_string().into_bytes())?;
        let answer: Value = self.answered(self.client.request(request))?;
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let options = KubeConfigOptions::default();
        let mut config = self.runtime.block_on(Config::from_custom_kubeconfig(kubeconfig, &options))?;
        let token = text(&answer, "/status/token").to_owned();
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        let _entered = self.runtime.enter();
        Ok(Client::try_from(config)?)
    }

    /// The lab itself.
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Path of an administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.lab.kubeconfig()
    }

    /// Sets labels of a node.
    pub(crate) fn label_node(&self, node: &str, labels: Value) -> Result<()> {
        let nodes = self.cluster_wide::<Node>();
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        self.answered(nodes.patch(node, &PatchParams::default(), &patch))?;
        Ok(())
    }

    /// Objects of one of Kubernetes' own kinds.
    pub(crate) fn built_in<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Objects of one of Kubernetes' own kinds that have no namespace.
    pub(crate) fn cluster_wide<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + DeserializeOwned + Debug,
    {
        Api::all(self.client.clone())
    }

    /// A client that may do all.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Runs something beside the scenario.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(task)
    }

    /// Runs a request.
    pub(crate) fn answered<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T> {
        self.answered_within(REQUEST_PATIENCE, call)
    }

    /// Runs requests that take longer.
    pub(crate) fn answered_within<T>(
        &self,
        patience: Duration,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T> {
        let call = async { tokio::time::timeout(patience, call).await };
        Ok(self.runtime.block_on(call).context("the API server does not answer")??)
    }

    /// Pods that carry a label.
    pub(crate) fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let selected = ListParams::default().labels(selector);
        Ok(self.answered(self.built_in::<Pod>(namespace).list(&selected))?.items)
    }

    /// Creates an object of ours.
    pub(crate) fn create(&self, kind: &str, namespace: Option<&str>, object: &Value) -> Result<()> {
        let mut object = object.clone();
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".to_owned(), json!(api::names::API_VERSION));
            fields.insert("kind".to_owned(), json!(kind));
        }
        let object: DynamicObject = serde_json::from_value(object)?;
        let objects = self.ours(kind, namespace);
        let created = || match self.answered(objects.create(&PostParams::default(), &object)) {
            // For a moment after a controller was replaced nobody serves its webhooks.
            Err(error) if format!("{error:#}").contains("failed calling webhook") => Err(error),
            other => Ok(other.map(drop)),
        };
        self.until("webhooks are served", created)?
    }

    /// Deletes an object of ours.
    pub(crate) fn delete(&self, kind: &str, namespace: Option<&str>, name: &str) -> Result<()> {
        self.answered(self.ours(kind, namespace).delete(name, &DeleteParams::default()))?;
        Ok(())
    }

    /// Changes an object of ours.
    pub(crate) fn patch(&self, kind: &str, namespace: Option<&str>, name: &str, patch: &Value) -> Result<()> {
        let patch = Patch::Merge(patch);
        self.answered(self.ours(kind, namespace).patch(name, &PatchParams::default(), &patch))?;
        Ok(())
    }

    /// Reads an object of ours.
    pub(crate) fn get(&self, kind: &str, namespace: Option<&str>, name: &str) -> Result<Value> {
        Ok(self.answered(self.ours(kind, namespace).get(name))?.data)
    }

    /// All objects of a kind of ours.
    pub(crate) fn list(&self, kind: &str, namespace: Option<&str>) -> Result<Vec<DynamicObject>> {
        Ok(self.answered(self.ours(kind, namespace).list(&ListParams::default()))?.items)
    }

    /// The part of a node's lease that has the EIP.
    pub(crate) fn lease_of(&self, node: &str, eip: IpAddr) -> Result<DynamicObject> {
        let is_of_node = |lease: &&DynamicObject| text(&lease.data, "/spec/nodeName") == node;
        let has_eip = |lease: &DynamicObject| {
            let leases = lease.data.pointer("/spec/leases").and_then(Value::as_array);
            leases.into_iter().flatten().any(|lease| text(lease, "/ipv4") == eip.to_string())
        };
        let leases = self.list("EgressPortLease", None)?;
        let found = leases.iter().filter(is_of_node).find(|lease| has_eip(lease));
        found.cloned().with_context(|| format!("{node} holds nothing of {eip}"))
    }

    /// Objects of a kind of ours.
    pub(crate) fn ours(&self, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(api::names::GROUP, "v1beta1", kind));
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            None => Api::all_with(self.client.clone(), &kind),
        }
    }
}

/// The agents' nf_tables table.
pub(crate) fn agent_table() -> datapath::transaction::TableId {
    datapath::transaction::TableId {
        family: datapath::nft::TableFamily::Inet,
        name: datapath::compile::names::TABLE.to_owned(),
    }
}

/// A text in an object.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
