//! What the API server says, parsed: the objects that an agent watches, and nothing that it does not need of them.
//!
//! An object that can't be read is left out, and so harms only itself. What was known stays known while the API server is away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::convert;
use api::names;
use api::slim::{SlimNamespace, SlimPod};
use api::v1beta1::{
    EgressClusterInfo, EgressClusterPolicy, EgressGateway, EgressPolicy, EgressPolicyStatus, EgressPortLease,
    EgressTunnel,
};
use ipnet::IpNet;
use kube::{Resource, ResourceExt};
use model::EipPair;
use model::cluster::{Pod, PodKey};
use model::policy::{Policy, PolicyKey, Precedence};
use model::port_lease::{EipLease, LeaseName, PortLease, parts_of};
use model::selector::Labels;
use model::tunnel::Tunnel;
use runtime::watch::Change;

use crate::status::LeaseStatus;

/// What a watch says.
#[derive(Clone, Debug)]
pub enum Event {
    /// A pod of this node
    Pod(Change<SlimPod>),
    /// A namespace
    Namespace(Change<SlimNamespace>),
    /// An EgressGateway
    Gateway(Change<EgressGateway>),
    /// An EgressPolicy
    Policy(Change<EgressPolicy>),
    /// An EgressClusterPolicy
    ClusterPolicy(Change<EgressClusterPolicy>),
    /// An EgressTunnel
    Tunnel(Change<EgressTunnel>),
    /// An EgressClusterInfo
    ClusterInfo(Change<EgressClusterInfo>),
    /// An EgressPortLease
    Lease(Change<EgressPortLease>),
}

impl Event {
    /// What it is about.
    fn kind(&self) -> &'static str {
        match self {
            Self::Pod(_) => "pods",
            Self::Namespace(_) => "namespaces",
            Self::Gateway(_) => "gateways",
            Self::Policy(_) => "policies",
            Self::ClusterPolicy(_) => "cluster policies",
            Self::Tunnel(_) => "tunnels",
            Self::ClusterInfo(_) => "cluster info",
            Self::Lease(_) => "leases",
        }
    }
}

/// A group of gateway nodes as the controller sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayGroup {
    /// Its nodes, ready or not
    pub nodes: BTreeSet<String>,
    /// Its EIPs that are in use, and where the controller wants them
    pub eips: BTreeMap<EipPair, Option<String>>,
}

/// A policy that can be read, and what the controller decided about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedPolicy {
    /// What it asks for
    pub policy: Policy,
    /// Its place among others
    pub precedence: Precedence,
    /// The EIP that it got
    pub eip: Option<EipPair>,
    /// Where the controller wants that EIP
    pub node: Option<String>,
}

/// Networks that are the cluster's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterNetworks {
    /// All of them
    pub all: BTreeSet<IpNet>,
    /// Addresses of nodes
    pub nodes: BTreeSet<IpAddr>,
}

/// Everything that is watched.
#[derive(Debug, Default)]
pub struct Objects {
    /// Pods of this node
    pub pods: BTreeMap<PodKey, Pod>,
    /// Labels of namespaces
    pub namespaces: BTreeMap<String, Labels>,
    /// Gateways by name
    pub gateways: BTreeMap<String, GatewayGroup>,
    /// Policies of namespaces
    pub policies: BTreeMap<PolicyKey, PlacedPolicy>,
    /// Policies of the cluster
    pub cluster_policies: BTreeMap<PolicyKey, PlacedPolicy>,
    /// Tunnels by node
    pub tunnels: BTreeMap<String, Tunnel>,
    /// The cluster's networks, by the name of the object that says so: only `default` counts
    pub networks: BTreeMap<String, ClusterNetworks>,
    /// Leases
    pub leases: BTreeMap<LeaseName, PortLease>,
    /// What this node has reported of its own
    pub reports: BTreeMap<LeaseName, LeaseStatus>,
    /// Name of this node
    node: String,
    listed: BTreeSet<&'static str>,
}

/// Number of kinds in [`Event`].
const KINDS: usize = 8;

impl Objects {
    /// Of that node, with nothing known.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }

    /// Takes an event in. Returns whether that changed anything that matters here.
    pub fn absorb(&mut self, event: Event) -> bool {
        let kind = event.kind();
        let listed = &mut self.listed;
        match event {
            Event::Pod(change) => absorb(&mut self.pods, listed, kind, &change, |pod| {
                Some((convert::pod_key(pod), Some(convert::pod(pod))))
            }),
            Event::Namespace(change) => absorb(&mut self.namespaces, listed, kind, &change, |object| {
                let labels = object.metadata.labels.clone().unwrap_or_default();
                Some((object.name_any(), Some(labels)))
            }),
            Event::Gateway(change) => absorb(&mut self.gateways, listed, kind, &change, |object| {
                Some((object.name_any(), Some(group(object))))
            }),
            Event::Policy(change) => absorb(&mut self.policies, listed, kind, &change, |object| {
                let key = policy_key(object);
                let policy = readable(&key, convert::policy(object));
                Some((key.clone(), policy.map(|policy| placed(key, policy, object, object.status.as_ref()))))
            }),
            Event::ClusterPolicy(change) => {
                absorb(&mut self.cluster_policies, listed, kind, &change, |object| {
                    let key = policy_key(object);
                    let policy = readable(&key, convert::cluster_policy(object));
                    Some((
                        key.clone(),
                        policy.map(|policy| placed(key, policy, object, object.status.as_ref())),
                    ))
                })
            }
            Event::Tunnel(change) => absorb(&mut self.tunnels, listed, kind, &change, |object| {
                Some((object.name_any(), Some(convert::tunnel(object))))
            }),
            Event::ClusterInfo(change) => absorb(&mut self.networks, listed, kind, &change, |object| {
                Some((object.name_any(), Some(networks(object))))
            }),
            Event::Lease(change) => {
                // What nodes report is for the controller; what this one did need not be said again.
                let matters = absorb(&mut self.leases, listed, kind, &change, |object| {
                    Some((convert::lease_name(object), Some(convert::port_lease(object))))
                });
                absorb(&mut self.reports, listed, kind, &change, |object| {
                    let name = convert::lease_name(object);
                    let status =
                        object.status.as_ref().filter(|_| name.node == self.node).map(LeaseStatus::of);
                    Some((name, status))
                });
                matters
            }
        }
    }

    /// The parts of a node's lease.
    pub fn leases_of(&self, node: &str) -> impl Iterator<Item = (&LeaseName, &PortLease)> {
        parts_of(&self.leases, node)
    }

    /// What a node holds of each EIP.
    pub fn held_by(&self, node: &str) -> impl Iterator<Item = &EipLease> {
        self.leases_of(node).flat_map(|(_, part)| &part.leases)
    }

    /// How far a node's lease has come, all parts taken together. Every change of a part makes it more, and everybody sees
    /// these changes in the same order: who has seen as much has seen the same.
    #[must_use]
    pub fn lease_generation(&self, node: &str) -> u64 {
        let generations = self.leases_of(node).map(|(_, part)| part.generation);
        generations.filter_map(|generation| u64::try_from(generation).ok()).fold(0, u64::saturating_add)
    }

    /// Takes in lists of an earlier run, of kinds that were not listed yet. They count as listed.
    pub fn absorb_old(&mut self, lists: Vec<Event>) {
        for event in lists {
            if !self.is_listed(&event) {
                self.absorb(event);
            }
        }
    }

    /// Whether the event's kind was listed.
    #[must_use]
    pub fn is_listed(&self, event: &Event) -> bool {
        self.listed.contains(event.kind())
    }

    /// Whether every kind was listed once: before that, nothing may be concluded from what is not there.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        self.listed.len() == KINDS
    }

    /// The cluster's own networks.
    #[must_use]
    pub fn cluster_networks(&self) -> Option<&ClusterNetworks> {
        self.networks.get(names::CLUSTER_INFO)
    }

    /// Policies of both kinds.
    pub fn all_policies(&self) -> impl Iterator<Item = &PlacedPolicy> {
        self.policies.values().chain(self.cluster_policies.values())
    }
}

/// Changes a map as a watch says. `read` gives the key, and the value if the object can be read.
fn absorb<T, K: Ord, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    listed: &mut BTreeSet<&'static str>,
    kind: &'static str,
    change: &Change<T>,
    read: impl Fn(&T) -> Option<(K, Option<V>)>,
) -> bool {
    match change {
        Change::Applied(object) => match read(object) {
            Some((key, Some(value))) => {
                let changed = map.get(&key) != Some(&value);
                map.insert(key, value);
                changed
            }
            Some((key, None)) => map.remove(&key).is_some(),
            None => false,
        },
        Change::Deleted(object) => read(object).is_some_and(|(key, _)| map.remove(&key).is_some()),
        Change::Replaced(objects) => {
            let read = objects.iter().filter_map(read);
            let fresh: BTreeMap<K, V> = read.filter_map(|(key, value)| Some((key, value?))).collect();
            let first = listed.insert(kind);
            let changed = first || *map != fresh;
            *map = fresh;
            changed
        }
    }
}

fn policy_key<T: Resource>(object: &T) -> PolicyKey {
    PolicyKey {
        namespace: object.meta().namespace.clone(),
        name: object.meta().name.clone().unwrap_or_default(),
    }
}

fn readable(key: &PolicyKey, policy: Result<Policy, model::Reason>) -> Option<Policy> {
    policy.inspect_err(|reason| tracing::debug!(policy = %key, %reason, "policy is left out")).ok()
}

fn placed<T: Resource>(
    key: PolicyKey,
    policy: Policy,
    object: &T,
    status: Option<&EgressPolicyStatus>,
) -> PlacedPolicy {
    let precedence =
        Precedence { priority: policy.priority, created_at: convert::created_at(object.meta()), key };
    PlacedPolicy {
        policy,
        precedence,
        eip: status.and_then(|status| pair(&status.eip.ipv4, &status.eip.ipv6)),
        node: status.map(|status| status.node.clone()).filter(|node| !node.is_empty()),
    }
}

fn pair(ipv4: &str, ipv6: &str) -> Option<EipPair> {
    EipPair::new(ipv4.parse().ok(), ipv6.parse().ok())
}

fn group(object: &EgressGateway) -> GatewayGroup {
    let Some(status) = &object.status else {
        return GatewayGroup::default();
    };
    let mut group = GatewayGroup::default();
    for unplaced in &status.unplaced {
        group.eips.extend(pair(&unplaced.ipv4, &unplaced.ipv6).map(|eip| (eip, None)));
    }
    for node in status.node_list.iter().filter(|node| !node.name.is_empty()) {
        group.nodes.insert(node.name.clone());
        let eips = node.eips.iter().filter_map(|eip| pair(&eip.ipv4, &eip.ipv6));
        group.eips.extend(eips.map(|eip| (eip, Some(node.name.clone()))));
    }
    group
}

fn networks(object: &EgressClusterInfo) -> ClusterNetworks {
    let nodes = object.status.iter().flat_map(|status| status.node_ip.values());
    let texts = nodes.flat_map(|lists| lists.ipv4.iter().chain(&lists.ipv6));
    ClusterNetworks {
        all: convert::networks(object),
        nodes: texts.filter_map(|text| text.parse().ok()).collect(),
    }
}
