//! A lab with a gateway, a policy and a pod: what the benchmarks of the datapath start from.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, LogParams, Patch,
    PatchParams, PostParams,
};
use kube::{Client, ResourceExt};
use lab::{ApiServerKind, Lab, LabOptions};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Where the lab's outside host is.
pub(crate) const OUTSIDE: &str = "10.6.168.63";
/// The EIP that the policy gives.
pub(crate) const EIP: &str = "10.6.168.201";

/// A running lab and a client of its API server.
pub(crate) struct Session {
    pub(crate) lab: Lab,
    pub(crate) client: Client,
    pub(crate) runtime: Runtime,
    pub(crate) bench: PathBuf,
}

impl Session {
    /// Starts a lab of three nodes; with `observe` it notes what reaches the outside host, which costs time per packet.
    pub(crate) fn up(observe: bool) -> Result<Self> {
        let bench = std::env::current_exe().context("finding this program")?;
        let program = bench.with_file_name("egressgateway");
        let name = format!("bench-{}", std::process::id());
        let api_server = ApiServerKind::from_environment()?;
        let options = LabOptions { name, program, observe, api_server, ..LabOptions::default() };
        let lab = Lab::up(&options, |_| {})?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(lab.client())?;
        Ok(Self { lab, client, runtime, bench })
    }

    /// Makes these nodes gateways of an EgressGateway `default`.
    pub(crate) fn gateways(&self, nodes: &[&str]) -> Result<()> {
        self.gateways_with_pool(nodes, "10.6.168.201-10.6.168.205")
    }

    /// The same with another pool.
    pub(crate) fn gateways_with_pool(&self, nodes: &[&str], pool: &str) -> Result<()> {
        let label = Patch::Merge(json!({"metadata": {"labels": {"egressgateway": "true"}}}));
        for node in nodes {
            let (nodes, parameters) = (Api::<Node>::all(self.client.clone()), PatchParams::default());
            self.runtime.block_on(answered(nodes.patch(node, &parameters, &label)))?;
        }
        self.create(
            "EgressGateway",
            None,
            &json!({
                "metadata": {"name": "default"},
                "spec": {
                    "ippools": {"ipv4": [pool]},
                    "nodeSelector": {"selector": {"matchLabels": {"egressgateway": "true"}}},
                },
            }),
        )?;
        self.until("every gateway node is Ready", || {
            let gateway = self.get("EgressGateway", None, "default")?;
            let ready = |node: &Value| node.get("status").and_then(Value::as_str) == Some("Ready");
            let list =
                gateway.pointer("/status/nodeList").and_then(Value::as_array).cloned().unwrap_or_default();
            Ok(list.len() == nodes.len() && list.iter().all(ready))
        })
    }

    /// Starts a Deployment of one pod on a node; returns the pod's name once it runs.
    pub(crate) fn pod(&self, app: &str, node: &str) -> Result<String> {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": app},
            "spec": {
                "selector": {"matchLabels": {"app": app}},
                "template": {
                    "metadata": {"labels": {"app": app}},
                    "spec": {"nodeName": node, "containers": [{"name": "app", "image": "test-app"}]},
                },
            },
        }))?;
        let api = Api::<Deployment>::default_namespaced(self.client.clone());
        let parameters = PostParams::default();
        self.runtime.block_on(answered(api.create(&parameters, &deployment)))?;
        let pods = Api::<Pod>::default_namespaced(self.client.clone());
        let mut name = String::new();
        self.until("the pod runs", || {
            let selected = ListParams::default().labels(&format!("app={app}"));
            let list = self.runtime.block_on(answered(pods.list(&selected)))?;
            let running =
                |pod: &&Pod| pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
            name = list.items.iter().find(running).map(ResourceExt::name_any).unwrap_or_default();
            Ok(!name.is_empty())
        })?;
        Ok(name)
    }

    /// Applies a policy `test` for the pods of this app.
    pub(crate) fn policy(&self, app: &str) -> Result<()> {
        self.create(
            "EgressPolicy",
            Some("default"),
            &json!({
                "metadata": {"name": "test"},
                "spec": {
                    "egressGatewayName": "default",
                    "appliedTo": {"podSelector": {"matchLabels": {"app": app}}},
                    "destSubnet": ["10.6.168.63/32"],
                },
            }),
        )
    }

    /// Deletes the policy.
    pub(crate) fn no_policy(&self) -> Result<()> {
        let api = self.api("EgressPolicy", Some("default"));
        self.runtime.block_on(answered(api.delete("test", &DeleteParams::default())))?;
        Ok(())
    }

    /// The node that carries the policy's EIP by its status.
    pub(crate) fn carrier(&self) -> Result<String> {
        let policy = self.get("EgressPolicy", Some("default"), "test")?;
        Ok(policy.pointer("/status/node").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Runs this program's `traffic` with these arguments in a pod or on a host, and waits for its end.
    pub(crate) fn traffic(&self, target: &str, arguments: &[&str]) -> Result<Output> {
        Ok(self.traffic_command(target, arguments)?.output()?)
    }

    /// The command that [`Session::traffic`] runs.
    pub(crate) fn traffic_command(&self, target: &str, arguments: &[&str]) -> Result<Command> {
        let bench = self.bench.to_str().context("this program's path is no UTF-8")?;
        let command: Vec<&str> = [bench, "traffic"].iter().chain(arguments).copied().collect();
        Ok(self.lab.exec_command(target, &command))
    }

    /// Whether a gateway node is Ready by the gateway's status.
    pub(crate) fn is_ready(&self, node: &str) -> Result<bool> {
        let gateway = self.get("EgressGateway", None, "default")?;
        let list = gateway.pointer("/status/nodeList").and_then(Value::as_array).cloned().unwrap_or_default();
        let field = |entry: &Value, name: &str| {
            entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        Ok(list.iter().any(|entry| field(entry, "name") == node && field(entry, "status") == "Ready"))
    }

    /// Runs a pod whose only program is `traffic` with these arguments, and returns what it printed.
    pub(crate) fn run_pod_once(
        &self,
        name: &str,
        app: &str,
        node: &str,
        arguments: &[&str],
    ) -> Result<Vec<(u64, Option<IpAddr>)>> {
        let bench = self.bench.to_str().context("this program's path is no UTF-8")?;
        let command: Vec<&str> = [bench, "traffic"].iter().chain(arguments).copied().collect();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {
                "nodeName": node,
                "restartPolicy": "Never",
                "containers": [{"name": "app", "image": "test-app", "command": command}],
            },
        }))?;
        let pods = Api::<Pod>::default_namespaced(self.client.clone());
        self.runtime.block_on(answered(pods.create(&PostParams::default(), &pod)))?;
        self.until("the pod has ended", || {
            let pod = self.runtime.block_on(answered(pods.get(name)))?;
            Ok(pod.status.is_some_and(|status| status.phase.as_deref() == Some("Succeeded")))
        })?;
        let log = self.runtime.block_on(answered(pods.logs(name, &LogParams::default())))?;
        self.runtime.block_on(answered(pods.delete(name, &DeleteParams::default())))?;
        Ok(answers(&log).collect())
    }

    /// Waits until the pod's connections leave with this address.
    pub(crate) fn until_seen_as(&self, pod: &str, address: IpAddr) -> Result<()> {
        let to = format!("{OUTSIDE}:8082");
        self.until(&format!("the outside sees {address}"), || {
            let asked = self.traffic(pod, &["ask", "--to", &to, "--seconds", "1", "--pause-ms", "100"])?;
            let text = String::from_utf8_lossy(&asked.stdout).into_owned();
            Ok(answers(&text).last().is_some_and(|(_, seen)| seen == Some(address)))
        })
    }

    /// Waits for a condition, at most half a minute.
    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        while !holds()? {
            if Instant::now() > end {
                bail!("waited 30 s in vain until {what}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Objects of one of our kinds.
    pub(crate) fn api(&self, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let kind =
            ApiResource::from_gvk(&GroupVersionKind::gvk("egressgateway.spidernet.io", "v1beta1", kind));
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            None => Api::all_with(self.client.clone(), &kind),
        }
    }

    fn get(&self, kind: &str, namespace: Option<&str>, name: &str) -> Result<Value> {
        Ok(self.runtime.block_on(answered(self.api(kind, namespace).get(name)))?.data)
    }

    fn create(&self, kind: &str, namespace: Option<&str>, object: &Value) -> Result<()> {
        let mut object = object.clone();
        if let Some(fields) = object.as_object_mut() {
            fields.insert("apiVersion".to_owned(), json!("egressgateway.spidernet.io/v1beta1"));
            fields.insert("kind".to_owned(), json!(kind));
        }
        let object: DynamicObject = serde_json::from_value(object)?;
        self.runtime.block_on(answered(self.api(kind, namespace).create(&PostParams::default(), &object)))?;
        Ok(())
    }
}

/// Lines of `traffic ask`: microseconds since 1970, and the address that the outside saw, if it answered.
pub(crate) fn answers(text: &str) -> impl Iterator<Item = (u64, Option<IpAddr>)> + '_ {
    text.lines().filter_map(|line| {
        let (time, seen) = line.split_once(' ')?;
        Some((time.parse().ok()?, seen.parse().ok()))
    })
}

async fn answered<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T> {
    Ok(tokio::time::timeout(Duration::from_secs(10), call)
        .await
        .context("the API server does not answer")??)
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_micros().try_into().unwrap_or(u64::MAX)
}
