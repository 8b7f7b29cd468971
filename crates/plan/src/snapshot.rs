//! All that the controller knows of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::cluster::{ClusterInfo, ClusterNetworks, ControlPlaneRanges, Node, Pod, PodKey, PoolKind};
use model::gateway::{Gateway, MoveRequest};
use model::policy::{Policy, PolicyKey};
use model::port_lease::{BlockState, LeaseName, PortLease, parts_of};
use model::selector::Labels;
use model::tunnel::{Phase, Tunnel};
use model::{EipPair, PortBlock, Reason};

use crate::heartbeats::Heartbeats;
use crate::settings::Settings;

/// All that the controller knows of the cluster. The same snapshot always gives the same plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSnapshot {
    /// What the operator has set
    pub settings: Settings,
    /// The time, in seconds since any fixed moment
    pub now_s: i64,
    /// Nodes by name
    pub nodes: BTreeMap<String, Node>,
    /// Labels of namespaces by name
    pub namespaces: BTreeMap<String, Labels>,
    /// Pods
    pub pods: BTreeMap<PodKey, Pod>,
    /// EgressGateways by name
    pub gateways: BTreeMap<String, GatewayRecord>,
    /// EgressPolicies and EgressClusterPolicies
    pub policies: BTreeMap<PolicyKey, PolicyRecord>,
    /// EgressTunnels by the node's name
    pub tunnels: BTreeMap<String, TunnelRecord>,
    /// EgressPortLeases
    pub leases: BTreeMap<LeaseName, LeaseRecord>,
    /// What writes of EgressPortLeases may have left behind of which nobody knows yet how they ended
    pub uncertain_leases: BTreeMap<LeaseName, PortLease>,
    /// EgressClusterInfo `default`
    pub cluster_info: Option<ClusterInfoRecord>,
    /// Endpoint slices of both kinds
    pub slices: BTreeMap<SliceKey, SliceRecord>,
    /// Ranges that ServiceCIDR objects name, by object
    pub service_cidrs: BTreeMap<String, BTreeSet<IpNet>>,
    /// Ranges that pods of the control plane were started with
    pub control_plane_ranges: BTreeMap<PodKey, ControlPlaneRanges>,
    /// Networks of pods that network plug-ins name, by the kind of object and its name
    pub pod_pools: BTreeMap<(PoolKind, String), BTreeSet<IpNet>>,
    /// Addresses of Services
    pub services: BTreeMap<PodKey, BTreeSet<IpAddr>>,
    /// Signs of life of the agents
    pub(crate) heartbeats: Heartbeats,
    /// Since when nodes that hold leases have been gone
    pub(crate) gone_since_s: BTreeMap<String, i64>,
    /// Moves that have been asked for, by gateway and as they were written
    pub(crate) moving: BTreeMap<(String, String), Moving>,
    /// Since when blocks have been draining
    pub(crate) draining_since_s: BTreeMap<(LeaseName, EipPair, PortBlock), i64>,
}

/// A move that has been asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moving {
    /// Since when that is known
    pub(crate) since_s: i64,
    /// Where the EIP was then
    pub(crate) from: Option<String>,
}

/// An EgressGateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayRecord {
    /// What it asks for, or why it can't be had
    pub spec: Result<Gateway, Reason>,
    /// When it was made
    pub created_at_s: i64,
    /// Whether somebody has asked for its deletion
    pub deleting: bool,
    /// Whether our finalizer keeps it
    pub kept: bool,
    /// EIPs that people want on other nodes
    pub moves: Vec<MoveRequest>,
    /// What its status says now
    pub status: GatewayStatus,
}

/// State of an EgressGateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayStatus {
    /// Its nodes by name, with what they carry
    pub nodes: BTreeMap<String, GatewayNode>,
    /// EIPs that are kept while no node can carry them
    pub unplaced: BTreeMap<EipPair, BTreeSet<PolicyKey>>,
    /// How much of the pools is in use
    pub usage: Usage,
    /// Whether it can carry traffic
    pub verdict: Option<Verdict>,
    /// Whether every node has ports of its EIPs; said once some had none
    pub ports: Option<Verdict>,
    /// Whether all of its nodes are; said once some were not
    pub whole: Option<Verdict>,
}

impl GatewayStatus {
    /// Every EIP with the node that carries it and the policies that use it.
    pub fn eips(&self) -> impl Iterator<Item = (EipPair, Option<&str>, &BTreeSet<PolicyKey>)> {
        let placed = self.nodes.iter().flat_map(|(name, node)| {
            node.eips.iter().map(move |(eip, policies)| (*eip, Some(name.as_str()), policies))
        });
        placed.chain(self.unplaced.iter().map(|(eip, policies)| (*eip, None, policies)))
    }
}

/// A node of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayNode {
    /// Phase of its tunnel
    pub phase: Phase,
    /// EIPs that it carries, with the policies that use them
    pub eips: BTreeMap<EipPair, BTreeSet<PolicyKey>>,
    /// Policies whose pods leave with the node's own address
    pub lent_to: BTreeSet<PolicyKey>,
}

/// Sizes of pools, and what of them is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Addresses of the IPv4 pool
    pub v4_total: u128,
    /// Those that no policy holds
    pub v4_free: u128,
    /// Addresses of the IPv6 pool
    pub v6_total: u128,
    /// Those that no policy holds
    pub v6_free: u128,
}

/// A condition without its times: whether all is well, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verdict {
    /// Whether all is well
    pub ok: bool,
    /// [`Reason::code`]
    pub code: String,
    /// One sentence
    pub message: String,
}

impl From<&Reason> for Verdict {
    fn from(reason: &Reason) -> Self {
        Self { ok: reason.is_ok(), code: reason.code().to_owned(), message: reason.to_string() }
    }
}

/// An EgressPolicy or EgressClusterPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRecord {
    /// What it asks for, or why it can't be had
    pub spec: Result<Policy, Reason>,
    /// The gateway that it names, readable or not
    pub gateway: Option<String>,
    /// When it was made
    pub created_at_s: i64,
    /// Tells it from an earlier policy of the same name
    pub uid: String,
    /// What its status says now
    pub status: PolicyStatus,
}

/// State of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyStatus {
    /// The EIP in force; `None` as well where pods leave with a node's own address
    pub eip: Option<EipPair>,
    /// The node that carries it, or lends its own address
    pub node: Option<String>,
    /// Whether it is in force
    pub verdict: Option<Verdict>,
    /// Whether it is for all of its pods; said once it was not
    pub whole: Option<Verdict>,
}

/// An EgressTunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelRecord {
    /// What it says
    pub tunnel: Tunnel,
    /// Whether somebody has asked for its deletion
    pub deleting: bool,
}

/// An EgressPortLease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseRecord {
    /// What the node holds
    pub lease: PortLease,
    /// The generation that the node's agent has loaded
    pub observed_generation: i64,
    /// Ports in use by EIP, as the node's agent says
    pub ports_in_use: BTreeMap<EipPair, i64>,
    /// Draining blocks, by their first port, that no connection uses any more, as the node's agent says
    pub idle: BTreeSet<(EipPair, u16)>,
}

/// EgressClusterInfo `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInfoRecord {
    /// What it asks for
    pub spec: ClusterInfo,
    /// What its status says now
    pub status: ClusterNetworks,
}

/// Name of an endpoint slice; without a namespace it is an EgressClusterEndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceKey {
    /// `None` for a cluster slice
    pub namespace: Option<String>,
    /// Object name
    pub name: String,
}

/// An endpoint slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceRecord {
    /// The policy that it is of
    pub policy: PolicyKey,
    /// Tells that policy from an earlier one of the same name
    pub owner_uid: String,
    /// The pods
    pub endpoints: Vec<Endpoint>,
}

/// A pod in an endpoint slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod
    pub pod: PodKey,
    /// Its addresses of both families, in order
    pub addresses: Vec<IpAddr>,
    /// Where it runs
    pub node: String,
}

/// Something that the controller learns; `None` in the second place: it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed
    Now(i64),
    /// A node
    Node(String, Option<Node>),
    /// A namespace's labels
    Namespace(String, Option<Labels>),
    /// A pod
    Pod(PodKey, Option<Pod>),
    /// The last sign of life of a node's agent: any text that differs from the one before
    Heartbeat(String, Option<String>),
    /// An EgressGateway
    Gateway(String, Option<GatewayRecord>),
    /// An EgressPolicy or EgressClusterPolicy
    Policy(PolicyKey, Option<PolicyRecord>),
    /// An EgressTunnel
    Tunnel(String, Option<TunnelRecord>),
    /// An EgressPortLease
    Lease(LeaseName, Option<LeaseRecord>),
    /// A write of an EgressPortLease that nobody knows the end of; `None`: no such write can succeed any more
    UncertainLease(LeaseName, Option<PortLease>),
    /// EgressClusterInfo `default`
    ClusterInfo(Option<ClusterInfoRecord>),
    /// An endpoint slice of either kind
    Slice(SliceKey, Option<SliceRecord>),
    /// A ServiceCIDR
    ServiceCidr(String, Option<BTreeSet<IpNet>>),
    /// A pod of the control plane
    ControlPlane(PodKey, Option<ControlPlaneRanges>),
    /// Pod networks of a network plug-in
    PodPool(PoolKind, String, Option<BTreeSet<IpNet>>),
    /// A Service
    Service(PodKey, Option<BTreeSet<IpAddr>>),
}

impl ClusterSnapshot {
    /// A snapshot of nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// A number that changes whenever an agent falls silent or speaks again.
    #[must_use]
    pub fn silences(&self) -> u64 {
        self.heartbeats.changes()
    }

    /// Nodes whose agents have been heard.
    #[must_use]
    pub fn heard(&self) -> BTreeSet<String> {
        self.heartbeats.nodes()
    }

    /// Takes an event in. Whether anything changed that a plan may depend on.
    pub fn absorb(&mut self, event: Event) -> bool {
        match event {
            Event::Now(now_s) => {
                let waits = !self.gone_since_s.is_empty()
                    || !self.draining_since_s.is_empty()
                    || !self.moving.is_empty();
                let moved = std::mem::replace(&mut self.now_s, now_s) != now_s;
                let silence = moved && self.heartbeats.judge(now_s, self.settings.failover);
                moved && waits || silence
            }
            Event::Node(name, node) => {
                let changed = put(&mut self.nodes, &name, node);
                self.note_holder(&name);
                changed
            }
            Event::Heartbeat(node, text) => {
                self.heartbeats.hear(&node, text, self.now_s, self.settings.failover)
            }
            Event::Namespace(name, labels) => put(&mut self.namespaces, &name, labels),
            Event::Pod(key, pod) => put(&mut self.pods, &key, pod),
            Event::Gateway(name, gateway) => {
                self.note_moves(&name, gateway.as_ref());
                put(&mut self.gateways, &name, gateway)
            }
            Event::Policy(key, policy) => put(&mut self.policies, &key, policy),
            Event::Tunnel(name, tunnel) => put(&mut self.tunnels, &name, tunnel),
            Event::Lease(name, lease) => {
                let changed = put(&mut self.leases, &name, lease);
                self.note_holder(&name.node);
                self.note_draining(&name);
                changed
            }
            Event::UncertainLease(name, None) => self.uncertain_leases.remove(&name).is_some(),
            Event::UncertainLease(name, Some(lease)) => {
                // An earlier write may have succeeded after all: what both may have given counts.
                let known = self.uncertain_leases.entry(name).or_default();
                known.generation = known.generation.max(lease.generation);
                known.leases.extend(lease.leases);
                known.leases.sort_unstable();
                known.leases.dedup();
                true
            }
            Event::ClusterInfo(info) => std::mem::replace(&mut self.cluster_info, info.clone()) != info,
            Event::Slice(key, slice) => put(&mut self.slices, &key, slice),
            Event::ServiceCidr(name, ranges) => put(&mut self.service_cidrs, &name, ranges),
            Event::ControlPlane(key, ranges) => put(&mut self.control_plane_ranges, &key, ranges),
            Event::PodPool(kind, name, nets) => put(&mut self.pod_pools, &(kind, name), nets),
            Event::Service(key, addresses) => put(&mut self.services, &key, addresses),
        }
    }

    /// Starts or forgets the rest of a holder's blocks.
    fn note_holder(&mut self, name: &str) {
        let holds = parts_of(&self.leases, name).next().is_some();
        if holds && !self.nodes.contains_key(name) {
            self.gone_since_s.entry(name.to_owned()).or_insert(self.now_s);
        } else {
            self.gone_since_s.remove(name);
        }
    }

    /// Remembers since when a move has been asked for, and from where it is.
    fn note_moves(&mut self, name: &str, gateway: Option<&GatewayRecord>) {
        let requests = gateway.map(|gateway| gateway.moves.as_slice()).unwrap_or_default();
        self.moving
            .retain(|(known, text), _| known != name || requests.iter().any(|request| request.text == *text));
        for request in requests {
            let address = request.wanted.as_ref().ok().map(|(address, _)| *address);
            let mut eips = gateway.into_iter().flat_map(|gateway| gateway.status.eips());
            let from = eips.find(|(eip, _, _)| address.is_some_and(|address| eip.contains(address)));
            let from = from.and_then(|(_, node, _)| node.map(str::to_owned));
            let key = (name.to_owned(), request.text.clone());
            self.moving.entry(key).or_insert(Moving { since_s: self.now_s, from });
        }
    }

    fn note_draining(&mut self, name: &LeaseName) {
        let leases = self.leases.get(name).map(|record| record.lease.leases.as_slice()).unwrap_or_default();
        let draining: BTreeSet<(EipPair, PortBlock)> = leases
            .iter()
            .flat_map(|lease| lease.blocks.iter().map(move |leased| (lease.eip, leased)))
            .filter(|(_, leased)| leased.state == BlockState::Draining)
            .map(|(eip, leased)| (eip, leased.block))
            .collect();
        self.draining_since_s
            .retain(|(holder, eip, block), _| holder != name || draining.contains(&(*eip, *block)));
        for (eip, block) in draining {
            self.draining_since_s.entry((name.clone(), eip, block)).or_insert(self.now_s);
        }
    }
}

fn put<K: Ord + Clone, V: PartialEq>(map: &mut BTreeMap<K, V>, key: &K, value: Option<V>) -> bool {
    match value {
        None => map.remove(key).is_some(),
        Some(value) if map.get(key) == Some(&value) => false,
        Some(value) => {
            map.insert(key.clone(), value);
            true
        }
    }
}
