//! What people, the scheduler and kubelets do to a cluster, by chance.

use std::collections::BTreeMap;

use api::names;
use runtime::writer::Part;
use serde_json::{Value, json};

use crate::objects::{Key, Kind, Object};
use crate::random::Random;
use crate::server::Server;

const NODES: usize = 5;
const GATEWAYS: usize = 3;
const POLICIES: usize = 6;
const PODS: usize = 8;
const NAMESPACES: [&str; 2] = ["default", "shop"];
const ROLES: [&str; 3] = ["a", "b", "c"];
const APPS: [&str; 2] = ["web", "db"];

macro_rules! operations {
    ($($(#[doc = $doc:literal])* $operation:ident = $weight:literal),* $(,)?) => {
        /// Something that people do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Operation { $($(#[doc = $doc])* $operation),* }

        impl Operation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$operation),*];

            fn weight(self) -> usize {
                match self { $(Self::$operation => $weight),* }
            }
        }
    };
}

operations! {
    /// A gateway is made
    CreateGateway = 8,
    /// A gateway is deleted
    DeleteGateway = 2,
    /// A gateway has another pool
    ChangePool = 5,
    /// A gateway has other nodes
    ChangeNodeSelector = 3,
    /// A gateway becomes the cluster's default, or is it no longer
    ChangeDefault = 3,
    /// A policy is made
    CreatePolicy = 14,
    /// A policy is deleted
    DeletePolicy = 5,
    /// A policy asks for something else
    ChangePolicy = 6,
    /// An EIP is wanted on another node
    Move = 5,
    /// A pod is made
    CreatePod = 12,
    /// A pod is deleted
    DeletePod = 5,
    /// The pods of a node are deleted, and others are made for them
    Drain = 6,
    /// A node joins
    AddNode = 4,
    /// A node's object is deleted
    DeleteNode = 2,
    /// A node has other labels
    LabelNode = 3,
    /// A node is Ready, or is not
    NodeReadiness = 4,
    /// A namespace has another label
    LabelNamespace = 3,
}

/// People, and what else acts on objects.
#[derive(Clone, Debug)]
pub struct People {
    random: Random,
    /// Whether anything is asked for any more
    pub at_peace: bool,
    /// How often each thing was done
    pub counts: BTreeMap<Operation, u64>,
    pods_made: usize,
}

/// Name of a node.
#[must_use]
pub fn node_name(number: usize) -> String {
    format!("n{number}")
}

/// Number of a node.
#[must_use]
pub fn node_number(name: &str) -> u8 {
    name.trim_start_matches('n').parse().unwrap_or(0)
}

/// Address of a node.
#[must_use]
pub fn node_address(name: &str) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::new(10, 6, 0, 10 + node_number(name))
}

impl People {
    /// Chance decides what they do.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self { random, at_peace: false, counts: BTreeMap::new(), pods_made: 0 }
    }

    /// The cluster as it begins: nodes, and one gateway with a policy.
    pub fn begin(&mut self, server: &mut Server) {
        let spec = json!({"autoDetect": {}, "extraCidr": ["192.0.2.7"]});
        let info = json!({"apiVersion": names::API_VERSION, "kind": "EgressClusterInfo",
            "metadata": {"name": "default"}, "spec": spec});
        server.create(Kind::ClusterInfo, None, info).expect("the cluster info is accepted");
        let shop = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
        server.create(Kind::Namespace, None, shop).expect("the namespace is accepted");
        for number in 0..3 {
            self.add_node(server, number);
        }
        for operation in [Operation::CreateGateway, Operation::CreatePolicy, Operation::CreatePod] {
            self.act(server, operation);
        }
    }

    /// Perhaps something is done. What, if so.
    pub fn turn(&mut self, server: &mut Server) -> Option<Operation> {
        self.schedule(server);
        if self.at_peace || !self.random.permille(250) {
            return None;
        }
        let total: usize = Operation::ALL.iter().map(|operation| operation.weight()).sum();
        let mut drawn = self.random.below(total);
        let operation = Operation::ALL.iter().find(|operation| {
            let is_it = drawn < operation.weight();
            drawn = drawn.saturating_sub(operation.weight());
            is_it
        });
        let operation = *operation?;
        self.act(server, operation).then_some(operation)
    }

    fn act(&mut self, server: &mut Server, operation: Operation) -> bool {
        let done = match operation {
            Operation::CreateGateway => self.create_gateway(server),
            Operation::DeleteGateway => self.delete(server, &[Kind::Gateway]),
            Operation::ChangePool => {
                let pools = self.pools();
                self.change(server, &[Kind::Gateway], json!({"spec": {"ippools": pools}}))
            }
            Operation::ChangeNodeSelector => {
                let selector = self.node_selector();
                self.change(server, &[Kind::Gateway], json!({"spec": {"nodeSelector": selector}}))
            }
            Operation::ChangeDefault => {
                let is_default = self.random.permille(500);
                self.change(server, &[Kind::Gateway], json!({"spec": {"clusterDefault": is_default}}))
            }
            Operation::CreatePolicy => self.create_policy(server),
            Operation::DeletePolicy => self.delete(server, &[Kind::Policy, Kind::ClusterPolicy]),
            Operation::ChangePolicy => {
                let wanted = self.policy_spec();
                let nothing = json!({"ipv4": null, "useNodeIP": null, "allocatorPolicy": null});
                let mut spec = json!({"egressIP": nothing, "priority": null});
                for field in ["egressIP", "priority", "destSubnet", "egressGatewayName"] {
                    merge(&mut spec, field, &wanted);
                }
                self.change(server, &[Kind::Policy, Kind::ClusterPolicy], json!({ "spec": spec }))
            }
            Operation::Move => self.wish_move(server),
            Operation::CreatePod => self.create_pod(server),
            Operation::DeletePod => self.delete(server, &[Kind::Pod]),
            Operation::Drain => self.drain(server),
            Operation::AddNode => {
                let number = self.random.below(NODES);
                self.add_node(server, number)
            }
            Operation::DeleteNode => server.all(Kind::Node).len() > 1 && self.delete(server, &[Kind::Node]),
            Operation::LabelNode => {
                let role = *self.random.pick(&ROLES).unwrap_or(&"a");
                self.change(server, &[Kind::Node], json!({"metadata": {"labels": {"role": role}}}))
            }
            Operation::NodeReadiness => self.change_readiness(server),
            Operation::LabelNamespace => {
                let gateway = self.random.below(GATEWAYS);
                let gateway = self.random.permille(600).then(|| format!("g{gateway}"));
                let labels = json!({names::LABEL_DEFAULT_GATEWAY: gateway});
                self.change(server, &[Kind::Namespace], json!({"metadata": {"labels": labels}}))
            }
        };
        if done {
            *self.counts.entry(operation).or_default() += 1;
        }
        done
    }

    /// One of the objects of these kinds.
    fn any(&mut self, server: &Server, kinds: &[Kind]) -> Option<(Kind, Key)> {
        let keys: Vec<(Kind, Key)> = kinds
            .iter()
            .flat_map(|kind| server.all(*kind).keys().map(move |key| (*kind, key.clone())))
            .filter(|(kind, (_, name))| *kind != Kind::Namespace || NAMESPACES.contains(&name.as_str()))
            .collect();
        self.random.pick(&keys).cloned()
    }

    fn delete(&mut self, server: &mut Server, kinds: &[Kind]) -> bool {
        let Some((kind, (namespace, name))) = self.any(server, kinds) else { return false };
        server.delete(kind, Some(&namespace), &name).is_ok()
    }

    fn change(&mut self, server: &mut Server, kinds: &[Kind], patch: Value) -> bool {
        let Some((kind, (namespace, name))) = self.any(server, kinds) else { return false };
        server.patch(kind, Some(&namespace), &name, Part::Main, patch).is_ok()
    }

    /// Some addresses of a /28 that all gateways draw from: pools overlap now and then. Some have as many of IPv6.
    fn pools(&mut self) -> Value {
        let first = self.random.between(0, 2) * 10 + self.random.between(1, 4);
        let last = first + self.random.between(0, 8);
        let default =
            self.random.permille(300).then(|| format!("10.6.100.{}", self.random.between(first, last)));
        let ranges = json!([format!("10.6.100.{first}-10.6.100.{last}")]);
        let v6 = if self.random.permille(300) {
            let skew = self.random.between(0, 2);
            json!([format!("fd00:6::{:x}-fd00:6::{:x}", first + skew, last + skew)])
        } else {
            json!([])
        };
        json!({"ipv4": ranges, "ipv4DefaultEIP": default, "ipv6": v6, "ipv6DefaultEIP": null})
    }

    fn node_selector(&mut self) -> Value {
        if self.random.permille(500) {
            return json!({"selector": {"matchLabels": {"role": null, "gateway": "true"}}});
        }
        let role = self.random.pick(&ROLES);
        json!({"selector": {"matchLabels": {"gateway": null, "role": role}}})
    }

    fn create_gateway(&mut self, server: &mut Server) -> bool {
        let name = format!("g{}", self.random.below(GATEWAYS));
        let (mut pools, mut selector) = (self.pools(), self.node_selector());
        strip_nulls(&mut pools);
        strip_nulls(&mut selector);
        let gateway = json!({
            "apiVersion": names::API_VERSION, "kind": "EgressGateway", "metadata": {"name": name},
            "spec": {"ippools": pools, "nodeSelector": selector, "clusterDefault": self.random.permille(300)},
        });
        server.create(Kind::Gateway, None, gateway).is_ok()
    }

    fn policy_spec(&mut self) -> Value {
        let gateway = self.random.below(GATEWAYS);
        let gateway = if self.random.permille(850) { format!("g{gateway}") } else { String::new() };
        let address = format!("10.6.100.{}", self.random.between(1, 30));
        let eip = match self.random.below(10) {
            0 | 1 => json!({ "ipv4": address }),
            2 => json!({"useNodeIP": true}),
            3..=5 => json!({"allocatorPolicy": "rr"}),
            _ => json!({}),
        };
        let destinations = match self.random.below(4) {
            0 => json!(["203.0.113.0/24"]),
            1 => json!(["203.0.113.0/25", "198.51.100.0/24"]),
            _ => json!([]),
        };
        let mut spec = json!({
            "egressGatewayName": gateway, "egressIP": eip, "destSubnet": destinations,
            "appliedTo": {"podSelector": {"matchLabels": {"app": self.random.pick(&APPS)}}},
        });
        if self.random.permille(300) {
            merge(&mut spec, "priority", &json!({"priority": self.random.between(1, 5)}));
        }
        spec
    }

    fn create_policy(&mut self, server: &mut Server) -> bool {
        let spec = self.policy_spec();
        let number = self.random.below(POLICIES);
        if self.random.permille(200) {
            let policy = json!({
                "apiVersion": names::API_VERSION, "kind": "EgressClusterPolicy",
                "metadata": {"name": format!("c{number}")}, "spec": spec,
            });
            return server.create(Kind::ClusterPolicy, None, policy).is_ok();
        }
        let namespace = *self.random.pick(&NAMESPACES).unwrap_or(&"default");
        let policy = json!({
            "apiVersion": names::API_VERSION, "kind": "EgressPolicy",
            "metadata": {"name": format!("p{number}"), "namespace": namespace}, "spec": spec,
        });
        server.create(Kind::Policy, Some(namespace), policy).is_ok()
    }

    /// As `egctl vip move` writes it: an EIP of the gateway's status, and one of its nodes.
    fn wish_move(&mut self, server: &mut Server) -> bool {
        let Some((_, (_, name))) = self.any(server, &[Kind::Gateway]) else { return false };
        let key = (String::new(), name.clone());
        let Some(Object::Gateway(gateway)) = server.all(Kind::Gateway).get(&key).map(|object| &**object)
        else {
            return false;
        };
        let status = gateway.status.clone().unwrap_or_default();
        let eips: Vec<String> = status
            .node_list
            .iter()
            .flat_map(|node| &node.eips)
            .map(|eip| eip.ipv4.clone())
            .filter(|address| !address.is_empty())
            .collect();
        let nodes: Vec<String> = status.node_list.iter().map(|node| node.name.clone()).collect();
        let (Some(eip), Some(node)) = (self.random.pick(&eips).cloned(), self.random.pick(&nodes)) else {
            return false;
        };
        let patch = json!({"metadata": {"annotations": {names::ANNOTATION_MOVE: format!("{eip}={node}")}}});
        server.patch(Kind::Gateway, None, &name, Part::Main, patch).is_ok()
    }

    fn create_pod(&mut self, server: &mut Server) -> bool {
        if server.all(Kind::Pod).len() >= PODS {
            return false;
        }
        self.pods_made += 1;
        let namespace = *self.random.pick(&NAMESPACES).unwrap_or(&"default");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("pod-{}", self.pods_made), "namespace": namespace,
                         "labels": {"app": self.random.pick(&APPS)}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        server.create(Kind::Pod, Some(namespace), pod).is_ok()
    }

    fn drain(&mut self, server: &mut Server) -> bool {
        let Some((_, (_, node))) = self.any(server, &[Kind::Node]) else { return false };
        let pods = server.all(Kind::Pod).iter().filter_map(|(key, object)| match &**object {
            Object::Pod(pod) if pod.spec.node_name == node => {
                Some((key.clone(), pod.metadata.labels.clone().unwrap_or_default()))
            }
            _ => None,
        });
        let pods: Vec<_> = pods.collect();
        for ((namespace, name), labels) in &pods {
            server.delete(Kind::Pod, Some(namespace), name).expect("a pod is deleted");
            self.pods_made += 1;
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("pod-{}", self.pods_made), "namespace": namespace, "labels": labels},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            });
            server.create(Kind::Pod, Some(namespace), pod).expect("a pod is made");
        }
        !pods.is_empty()
    }

    fn add_node(&mut self, server: &mut Server, number: usize) -> bool {
        let name = node_name(number);
        let role = self.random.pick(&ROLES);
        let gateway = number < 2 || self.random.permille(300);
        let labels = json!({"role": role, "gateway": gateway.to_string()});
        let cidr = format!("10.244.{number}.0/24");
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        });
        if server.create(Kind::Node, None, node).is_err() {
            return false;
        }
        let address = json!({"type": "InternalIP", "address": node_address(&name).to_string()});
        let status = json!({"status": {"addresses": [address]}});
        server.patch(Kind::Node, None, &name, Part::Status, status).expect("a node's status is written");
        set_ready(server, &name, true);
        true
    }

    fn change_readiness(&mut self, server: &mut Server) -> bool {
        let Some((_, (_, name))) = self.any(server, &[Kind::Node]) else { return false };
        let is_ready = self.random.permille(500);
        set_ready(server, &name, is_ready);
        true
    }

    /// The scheduler binds pods, kubelets run them, and pods of nodes that are gone go too.
    fn schedule(&mut self, server: &mut Server) {
        let nodes: Vec<String> = server.all(Kind::Node).keys().map(|(_, name)| name.clone()).collect();
        let pods: Vec<(Key, String, String)> = server
            .all(Kind::Pod)
            .iter()
            .filter_map(|(key, object)| match &**object {
                Object::Pod(pod) => {
                    Some((key.clone(), pod.spec.node_name.clone(), pod.status.pod_ip.clone()))
                }
                _ => None,
            })
            .collect();
        let mut taken: Vec<String> = pods.iter().map(|(_, _, address)| address.clone()).collect();
        for ((namespace, name), node, address) in pods {
            if node.is_empty() {
                if let Some(node) = self.random.pick(&nodes) {
                    server.bind(&namespace, &name, node);
                }
            } else if !nodes.contains(&node) {
                let gone = server.delete(Kind::Pod, Some(&namespace), &name);
                gone.expect("a pod is deleted");
            } else if address.is_empty() {
                let number = node_number(&node);
                let free = (2..100).map(|last| format!("10.244.{number}.{last}"));
                let Some(address) = free.into_iter().find(|address| !taken.contains(address)) else {
                    continue;
                };
                let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
                taken.push(address);
                let status = json!({ "status": status });
                let ran = server.patch(Kind::Pod, Some(&namespace), &name, Part::Status, status);
                ran.expect("a pod's status is written");
            }
        }
    }
}

/// A node's condition says whether it is Ready, if there is such a node.
pub fn set_ready(server: &mut Server, name: &str, is_ready: bool) {
    let status = if is_ready { "True" } else { "Unknown" };
    let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    drop(server.patch(Kind::Node, None, name, Part::Status, patch));
}

/// Takes a field over, object by object.
fn merge(into: &mut Value, field: &str, from: &Value) {
    let Some(value) = from.get(field) else { return };
    match (into.get_mut(field), value) {
        (Some(Value::Object(into)), Value::Object(fields)) => into.extend(fields.clone()),
        _ => {
            if let Value::Object(into) = into {
                into.insert(field.to_owned(), value.clone());
            }
        }
    }
}

fn strip_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(strip_nulls);
    }
}
