//! What a scenario plays on: a namespace, a gateway with a pool of its own, pods and policies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kernel::Netns;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::world::{GATEWAYS, World, text};

/// A running pod.
pub(crate) struct TestPod {
    /// Its node.
    pub(crate) node: String,
    /// Its address.
    pub(crate) address: IpAddr,
    /// Its network namespace.
    pub(crate) netns: Netns,
}

/// A namespace of the cluster with a gateway of the same name. Both vanish when it is dropped.
pub(crate) struct Scene<'w> {
    pub(crate) world: &'w World,
    /// Name of the namespace and of the gateway.
    pub(crate) name: &'static str,
    first_eip: Ipv4Addr,
}

/// Addresses of each pool.
const POOL: u32 = 4;
/// Pools follow one another from here on.
const FIRST_EIP: Ipv4Addr = Ipv4Addr::new(10, 6, 170, 0);

/// Whether the address can be in the pool of some scene.
pub(crate) fn is_eip(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if (FIRST_EIP..Ipv4Addr::new(10, 7, 0, 0)).contains(&v4))
}

impl<'w> Scene<'w> {
    /// Makes them; the pool has four addresses that no other scene has had.
    pub(crate) fn new(world: &'w World, name: &'static str) -> Result<Self> {
        Self::of_families(world, name, false)
    }

    /// The same with four pairs of addresses.
    pub(crate) fn dual(world: &'w World, name: &'static str) -> Result<Self> {
        Self::of_families(world, name, true)
    }

    fn of_families(world: &'w World, name: &'static str, ipv6: bool) -> Result<Self> {
        let first_eip = Ipv4Addr::from_bits(FIRST_EIP.to_bits() + POOL * world.next_scene());
        let scene = Self { world, name, first_eip };
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        world.answered(scene.namespaces().create(&PostParams::default(), &namespace))?;
        let pool = format!("{}-{}", scene.eip(0), scene.eip(3));
        let pool6 = ipv6.then(|| format!("{}-{}", scene.pair(0).1, scene.pair(3).1));
        world.create(
            "EgressGateway",
            None,
            &json!({
                "metadata": {"name": name},
                "spec": {
                    "ippools": {"ipv4": [pool], "ipv6": Vec::from_iter(pool6)},
                    "nodeSelector": {"selector": {"matchLabels": {"e2e-gateway": "true"}}},
                },
            }),
        )?;
        scene.until_gateways_are_ready()?;
        // Every namespace gets an account some moments after it was made; no pod can be made before.
        let accounts = world.built_in::<ServiceAccount>(name);
        world.until("the namespace has an account for pods", || world.answered(accounts.get("default")))?;
        Ok(scene)
    }

    /// Address number `number` of the pool; number 0 is the default one.
    pub(crate) fn eip(&self, number: u32) -> IpAddr {
        Ipv4Addr::from_bits(self.first_eip.to_bits() + number).into()
    }

    /// Address number `number` of both pools of a scene that has two; the last groups of the IPv6 one are the IPv4 one.
    pub(crate) fn pair(&self, number: u32) -> (IpAddr, IpAddr) {
        let v4 = Ipv4Addr::from_bits(self.first_eip.to_bits() + number);
        let [a, b, c, d] = v4.octets().map(u16::from);
        (v4.into(), Ipv6Addr::new(0xfd06, 0, 0, 0, a, b, c, d).into())
    }

    /// Waits until both gateway nodes are Ready by the gateway's status.
    pub(crate) fn until_gateways_are_ready(&self) -> Result<()> {
        self.world.until("both gateway nodes are Ready", || {
            let gateway = self.world.get("EgressGateway", None, self.name)?;
            let nodes =
                gateway.pointer("/status/nodeList").and_then(Value::as_array).cloned().unwrap_or_default();
            let ready = nodes.iter().filter(|node| text(node, "/status") == "Ready").count();
            if ready == GATEWAYS.len() { Ok(()) } else { bail!("{}", json!(nodes)) }
        })
    }

    /// Starts a pod with the label `app` = `name` on a node.
    pub(crate) fn pod(&self, name: &str, node: &str) -> Result<TestPod> {
        self.pod_of_app(name, name, node)
    }

    /// Starts a pod with another label `app` on a node.
    pub(crate) fn pod_of_app(&self, name: &str, app: &str, node: &str) -> Result<TestPod> {
        self.start_app(name, app, node, &["sleep", "3600"])?;
        self.running(name, node)
    }

    /// Waits until a pod runs that was started on a node.
    pub(crate) fn running(&self, name: &str, node: &str) -> Result<TestPod> {
        let pods = self.world.built_in::<Pod>(self.name);
        self.world.until("the pod runs", || {
            let pod = self.world.answered(pods.get(name))?;
            let status = pod.status.unwrap_or_default();
            let running = status.phase.as_deref() == Some("Running");
            let address = status.pod_ip.clone().filter(|_| running);
            let address = address.with_context(|| format!("it does not run yet: {}", json!(status)))?;
            let netns = self.world.netns(&format!("{}/{name}", self.name))?;
            Ok(TestPod { node: node.to_owned(), address: address.parse()?, netns })
        })
    }

    /// Starts a pod with the label `app` = `name` on a node that runs a command, without waiting for anything.
    pub(crate) fn start(&self, name: &str, node: &str, command: &[&str]) -> Result<()> {
        self.start_app(name, name, node, command)
    }

    fn start_app(&self, name: &str, app: &str, node: &str, command: &[&str]) -> Result<()> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {
                "nodeName": node,
                "restartPolicy": "Never",
                "containers": [{"name": "app", "image": "test-app", "command": command}],
            },
        }))?;
        self.world.answered(self.world.built_in::<Pod>(self.name).create(&PostParams::default(), &pod))?;
        Ok(())
    }

    /// Creates a policy from its spec; without `egressGatewayName` it is the scene's.
    pub(crate) fn policy(&self, name: &str, spec: Value) -> Result<()> {
        let mut spec = spec;
        if let Some(fields) = spec.as_object_mut() {
            fields.entry("egressGatewayName").or_insert_with(|| json!(self.name));
        }
        self.world.create("EgressPolicy", Some(self.name), &json!({"metadata": {"name": name}, "spec": spec}))
    }

    /// Creates a policy `test` for all the scene's pods towards the outside host; `more` is added to its spec.
    pub(crate) fn policy_for_all(&self, more: Value) -> Result<()> {
        let mut spec = json!({
            "appliedTo": {"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}},
            "destSubnet": ["10.6.168.63/32"],
        });
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        self.policy("test", spec)
    }

    /// Creates a policy `test` that gives the pods of this app the default EIP towards the outside host, and waits until
    /// it is in force for this pod.
    pub(crate) fn policy_in_force(&self, app: &str, pod: &TestPod) -> Result<()> {
        self.policy(
            "test",
            json!({
                "appliedTo": {"podSelector": {"matchLabels": {"app": app}}},
                "destSubnet": ["10.6.168.63/32"],
            }),
        )?;
        self.world.until_seen_as(&pod.netns, self.eip(0))
    }

    /// The node that carries a policy's EIP by its status.
    pub(crate) fn carrier(&self, policy: &str) -> Result<String> {
        let policy = self.world.get("EgressPolicy", Some(self.name), policy)?;
        match text(&policy, "/status/node") {
            "" => bail!("no node carries it: {}", policy.get("status").cloned().unwrap_or_default()),
            node => Ok(node.to_owned()),
        }
    }

    fn namespaces(&self) -> Api<Namespace> {
        self.world.cluster_wide()
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        // The next scenario has names and addresses of its own: what can't be removed is in nobody's way.
        let removed = self
            .world
            .answered(self.namespaces().delete(self.name, &DeleteParams::default()))
            .and_then(|_| self.world.delete("EgressGateway", None, self.name));
        if let Err(error) = removed {
            println!("  {} is not removed: {error:#}", self.name);
        }
    }
}
