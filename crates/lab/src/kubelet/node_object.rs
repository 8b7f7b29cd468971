//! The node as the API server shows it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::node::Node;

const KUBELET_VERSION: &str = concat!("v1.34.0-lab.", env!("CARGO_PKG_VERSION"));

/// Makes the node known, or known again, as ready; says whether it is.
pub(super) async fn register(client: &Client, node: &Node, heartbeat: Duration) -> Result<bool, kube::Error> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let name = node.number().name();
    if nodes.get_opt(&name).await?.is_none() {
        let object = serde_json::from_value(object(node)).map_err(kube::Error::SerdeError)?;
        match nodes.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => drop(other?),
        }
    }
    let patch = Patch::Merge(json!({"status": status(node)}));
    nodes.patch_status(&name, &PatchParams::default(), &patch).await?;
    renew_lease(client, &name, heartbeat).await?;
    Ok(true)
}

/// Renews the node's Lease; `false` if the node has to be registered again.
pub(super) async fn renew(client: &Client, name: &str, heartbeat: Duration) -> Result<bool, kube::Error> {
    renew_lease(client, name, heartbeat).await?;
    let node = Api::<NodeObject>::all(client.clone()).get_opt(name).await?;
    let conditions =
        node.and_then(|node| node.status).and_then(|status| status.conditions).unwrap_or_default();
    Ok(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

async fn renew_lease(client: &Client, name: &str, heartbeat: Duration) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let seconds = heartbeat.as_secs().max(1) * 4;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": seconds, "renewTime": now});
    let patch = Patch::Merge(json!({"spec": spec}));
    match leases.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec,
            });
            let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
            leases.create(&PostParams::default(), &lease).await.map(drop)
        }
        other => other.map(drop),
    }
}

fn object(node: &Node) -> Value {
    let number = node.number();
    let name = number.name();
    let architecture = architecture();
    let mut labels = json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": architecture,
    });
    if name.starts_with("controller-")
        && let Some(labels) = labels.as_object_mut()
    {
        labels.insert("node-role.kubernetes.io/control-plane".to_string(), json!(""));
    }
    let (v4, v6) = (number.pod_cidr_v4().to_string(), number.pod_cidr_v6().to_string());
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": v4, "podCIDRs": [v4, v6]},
    })
}

fn status(node: &Node) -> Value {
    let number = node.number();
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        })
    };
    let machine = machine();
    let resources = json!({
        "cpu": std::thread::available_parallelism().map_or(1, usize::from).to_string(),
        "memory": format!("{}Ki", machine.memory_kib),
        "ephemeral-storage": "0",
        "pods": "110",
    });
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": number.v4().to_string()},
            {"type": "InternalIP", "address": number.v6().to_string()},
            {"type": "Hostname", "address": number.name()},
        ],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "machineID": "", "systemUUID": "", "bootID": machine.boot_id,
            "kernelVersion": machine.kernel, "osImage": machine.os,
            "containerRuntimeVersion": concat!("lab://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": "",
            "operatingSystem": "linux", "architecture": architecture(),
        },
    })
}

struct Machine {
    kernel: String,
    os: String,
    boot_id: String,
    memory_kib: u64,
}

fn machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/etc/os-release");
    let os = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
        os: os.trim_matches('"').to_string(),
        boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_string(),
        memory_kib: memory.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0),
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
