//! From objects to what the cores need: the view of this node for `datapath`, the topology for `liveness`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use datapath::view::{
    Destinations, GatewayEip, Lease, LeaseRole, NodeView, OwnTunnel, Peer, Pod, PodKey, PolicyView, Settings,
    SourceEip, Uplink,
};
use liveness::{EipGroup, Node, Topology};
use model::EipPair;
use model::cluster;
use model::gateway_order::gateway_order;
use model::policy::{EgressChoice, Namespaces, PodSelection};
use model::port_lease::{BlockRole, BlockState, LeasedBlock};
use model::tunnel::Phase;
use model::tunnel_mac::MacAddress;

use crate::defence::Conflicts;
use crate::objects::{Objects, PlacedPolicy};

/// Routes to this many gateways of an EIP are there before they are needed.
const CANDIDATES: usize = 16;

/// What this node knows from elsewhere than the API server.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// Name of this node
    pub node: String,
    /// Settings
    pub settings: Settings,
    /// The device that leads outside
    pub uplink: Option<Uplink>,
    /// Addresses that have a veth of their own, and its index
    pub pod_interfaces: BTreeMap<IpAddr, u32>,
    /// Who carries each EIP, as far as liveness knows
    pub carriers: BTreeMap<EipPair, Option<String>>,
    /// EIPs whose carrier is known, not guessed
    pub claimed: BTreeSet<EipPair>,
    /// Generation of this node's leases that each gateway has said to hold
    pub confirmed: BTreeMap<String, u64>,
    /// EIPs that this node claims
    pub claims: BTreeSet<EipPair>,
    /// EIPs that connections of this node still use
    pub held: BTreeSet<EipPair>,
    /// Addresses of this gateway's EIPs that somebody else on the link has
    pub conflicts: Conflicts,
}

/// What follows from the objects alone, kept for as long as they don't change: liveness changes far more often.
#[derive(Clone, Debug, Default)]
pub struct Derived {
    /// The groups of all EIPs of the cluster
    groups: BTreeMap<EipPair, EipGroup>,
    /// Local pods that each policy selects, in the order of [`Objects::all_policies`]
    selected: Vec<BTreeSet<PodKey>>,
    /// EIPs that pods of this node leave with, or may at once: those of policies that select one, and those of its leases;
    /// and what stands for the nodes whose own addresses they leave with
    used: BTreeSet<EipPair>,
    /// Whether policies let pods leave with this node's own address
    lends_address: bool,
}

impl Derived {
    /// Of these objects, on that node.
    #[must_use]
    pub fn of(objects: &Objects, node: &str) -> Self {
        let selected: Vec<BTreeSet<PodKey>> =
            objects.all_policies().map(|policy| selected(objects, policy)).collect();
        let leased = objects
            .held_by(node)
            .filter(|lease| lease.blocks.iter().any(|block| block.role == BlockRole::Source));
        let mut used: BTreeSet<EipPair> = leased.map(|lease| lease.eip).collect();
        for (policy, _) in objects.all_policies().zip(&selected).filter(|(_, pods)| !pods.is_empty()) {
            used.extend(policy.eip);
            if is_of_node(policy) {
                used.extend(
                    lenders(objects, policy).into_iter().filter_map(|node| own_address(objects, node)),
                );
            }
        }
        let lends = |policy: &PlacedPolicy| is_of_node(policy) && lenders(objects, policy).contains(&node);
        let lends_address = objects.all_policies().any(lends);
        Self { groups: groups(objects), selected, used, lends_address }
    }

    /// EIPs that pods of this node leave with, or may at once.
    #[must_use]
    pub fn used(&self) -> &BTreeSet<EipPair> {
        &self.used
    }
}

/// Whether pods of the policy leave with the own address of a gateway node.
fn is_of_node(policy: &PlacedPolicy) -> bool {
    policy.policy.egress == EgressChoice::NodeAddress
}

/// The nodes that may lend their address to the policy's pods, the controller's choice first.
fn lenders<'a>(objects: &'a Objects, policy: &'a PlacedPolicy) -> Vec<&'a str> {
    let named = policy.policy.gateway.as_ref().and_then(|name| objects.gateways.get(name));
    let chosen = policy.node.as_deref();
    let others = named.into_iter().flat_map(|group| &group.nodes).map(String::as_str);
    let others = others.filter(|node| Some(*node) != chosen);
    chosen.into_iter().chain(others).take(CANDIDATES).collect()
}

/// What stands for a node's own address among EIPs: its tunnel address.
fn own_address(objects: &Objects, node: &str) -> Option<EipPair> {
    objects.tunnels.get(node)?.addresses()
}

/// The node whose own address this stands for.
fn lender_of<'a>(objects: &'a Objects, eip: &EipPair) -> Option<&'a str> {
    let mut tunnels = objects.tunnels.iter();
    tunnels.find(|(_, tunnel)| tunnel.addresses() == Some(*eip)).map(|(node, _)| node.as_str())
}

/// Whether the node still lends its address, as far as is known.
fn lends(local: &Local, node: &str, own: &EipPair) -> bool {
    node == local.node || local.carriers.get(own).is_none_or(Option::is_some)
}

/// A node's own address, as its borrower sees it.
fn borrowed(local: &Local, node: &str, own: &EipPair) -> SourceEip {
    SourceEip {
        carrier: lends(local, node, own).then(|| node.to_owned()),
        candidates: BTreeSet::from([node.to_owned()]),
        node_address: true,
        ..SourceEip::default()
    }
}

fn groups(objects: &Objects) -> BTreeMap<EipPair, EipGroup> {
    let mut groups: BTreeMap<EipPair, EipGroup> = BTreeMap::new();
    for group in objects.gateways.values() {
        for (eip, preferred) in &group.eips {
            groups.insert(*eip, EipGroup { nodes: group.nodes.clone(), preferred: preferred.clone() });
        }
    }
    // The objects are written one after the other: what only a policy or a lease names yet is carried all the same.
    for policy in objects.all_policies() {
        let (Some(eip), Some(node)) = (policy.eip, &policy.node) else {
            continue;
        };
        let named = policy.policy.gateway.as_ref().and_then(|name| objects.gateways.get(name));
        let group = groups.entry(eip).or_insert_with(|| EipGroup {
            nodes: named.map(|group| group.nodes.clone()).unwrap_or_default(),
            preferred: None,
        });
        if group.preferred.is_none() {
            group.preferred = Some(node.clone());
            group.nodes.insert(node.clone());
        }
    }
    for lease in objects.leases.values().flat_map(|part| &part.leases) {
        if let Some(group) = objects.gateways.get(&lease.gateway) {
            groups
                .entry(lease.eip)
                .or_insert_with(|| EipGroup { nodes: group.nodes.clone(), preferred: None });
        }
    }
    groups
}

/// Local pods that have packets of their own.
fn endpoints(objects: &Objects) -> impl Iterator<Item = (&cluster::PodKey, &cluster::Pod)> {
    objects.pods.iter().filter(|(_, pod)| pod.is_endpoint())
}

fn selected(objects: &Objects, policy: &PlacedPolicy) -> BTreeSet<PodKey> {
    let (namespaces, by_pod): (_, &dyn Fn(&cluster::Pod) -> bool) = match &policy.policy.pods {
        PodSelection::Labels(namespaces, selector) => (namespaces, &|pod| selector.matches(&pod.labels)),
        PodSelection::Subnets(namespaces, subnets) => (namespaces, &|pod| {
            pod.addresses.iter().any(|address| subnets.iter().any(|net| net.contains(address)))
        }),
    };
    // Most policies are for one namespace, and most namespaces have no pod here.
    let first = match namespaces {
        Namespaces::One(namespace) => namespace.as_str(),
        Namespaces::All | Namespaces::Matching(_) => "",
    };
    let from = cluster::PodKey { namespace: first.to_owned(), name: String::new() };
    let in_range = |key: &cluster::PodKey| first.is_empty() || key.namespace == first;
    objects
        .pods
        .range(from..)
        .take_while(|(key, _)| in_range(key))
        .filter(|(key, pod)| {
            let labels = objects.namespaces.get(&key.namespace);
            pod.is_endpoint() && namespaces.contain(&key.namespace, labels) && by_pod(pod)
        })
        .map(|(key, _)| PodKey::new(&key.namespace, &key.name))
        .collect()
}

/// What liveness has to know.
#[must_use]
pub fn topology(objects: &Objects, derived: &Derived, local: &Local) -> Topology {
    let used: BTreeSet<EipPair> = derived.used.union(&local.held).copied().collect();
    let concerned =
        derived.groups.iter().filter(|(eip, group)| used.contains(eip) || is_gateway_of(local, eip, group));
    let concerned = concerned.map(|(eip, group)| (*eip, group.clone()));
    // Whether a node lives that lends its address is all that has to be known of it: nobody else can take that over.
    let borrowed = used.iter().filter(|eip| !derived.groups.contains_key(*eip)).filter_map(|eip| {
        let node = lender_of(objects, eip).filter(|node| *node != local.node)?;
        let nodes = BTreeSet::from([node.to_owned()]);
        Some((*eip, EipGroup { nodes, preferred: Some(node.to_owned()) }))
    });
    let eips: BTreeMap<EipPair, EipGroup> = concerned.chain(borrowed).collect();
    let others = objects.tunnels.iter().filter(|(node, _)| **node != local.node);
    let nodes =
        others.filter(|(_, tunnel)| tunnel.ipv4.is_some() || tunnel.ipv6.is_some()).map(|(node, tunnel)| {
            let key = tunnel.probe_key.as_deref().and_then(public_key);
            (node.clone(), Node { key })
        });
    let mut told = BTreeMap::new();
    for claim in objects.tunnels.values().flat_map(|tunnel| &tunnel.claims) {
        let epoch: &mut u64 = told.entry(claim.eip).or_default();
        *epoch = u64::try_from(claim.epoch).unwrap_or_default().max(*epoch);
    }
    told.retain(|eip, _| eips.contains_key(eip));
    Topology { nodes: nodes.collect(), eips, used, told }
}

/// Whether this node has to have the EIP's maps: it is of its group, or was and carries on until another one does.
fn is_gateway_of(local: &Local, eip: &EipPair, group: &EipGroup) -> bool {
    group.nodes.contains(&local.node) || local.claims.contains(eip)
}

/// A probe key as a tunnel's status spells it.
fn public_key(text: &str) -> Option<[u8; 32]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// What `datapath` has to know.
#[must_use]
pub fn node_view(objects: &Objects, derived: &Derived, local: &Local) -> NodeView {
    let groups = &derived.groups;
    let networks = objects.cluster_networks().cloned().unwrap_or_default();
    let underlays = objects.tunnels.values().filter_map(|tunnel| tunnel.underlay);
    let own = local.uplink.iter().flat_map(Uplink::addresses);
    let pods = endpoints(objects).map(|(key, pod)| {
        let interface = pod.addresses.iter().find_map(|address| local.pod_interfaces.get(address).copied());
        let pod = Pod { addresses: pod.addresses.clone(), interface };
        (PodKey::new(&key.namespace, &key.name), pod)
    });
    let own_lease = own_blocks(objects, &local.node);
    let conflicts = in_conflict(objects, derived, local);
    let source_eips = derived.used.union(&local.held).map(|eip| {
        // Most are EIPs; only of the others it is worth looking for their node.
        let group = groups.get(eip);
        if group.is_none()
            && let Some(node) = lender_of(objects, eip)
        {
            return (*eip, borrowed(local, node, eip));
        }
        let blocks = own_lease.get(eip).map(Vec::as_slice).unwrap_or_default();
        let mut source = source_eip(objects, local, group, eip, blocks);
        if conflicts.contains(eip) {
            // Answers would go to whoever else has it.
            source.carrier = None;
        }
        (*eip, source)
    });
    let own_groups = groups.iter().filter(|(eip, group)| is_gateway_of(local, eip, group));
    let mut gateway_eips: BTreeMap<EipPair, GatewayEip> = own_groups
        .filter(|(eip, _)| !conflicts.contains(*eip))
        .map(|(eip, _)| {
            let answers = local.claims.contains(eip);
            (*eip, GatewayEip { answers, ..GatewayEip::default() })
        })
        .collect();
    let leases = objects.leases.iter();
    for (node, lease) in
        leases.flat_map(|(name, part)| part.leases.iter().map(move |lease| (&name.node, lease)))
    {
        if let Some(gateway_eip) = gateway_eips.get_mut(&lease.eip) {
            gateway_eip.leases.extend(lease.blocks.iter().map(|block| Lease {
                block: block.block,
                node: node.clone(),
                role: match block.role {
                    BlockRole::Source => LeaseRole::Source,
                    BlockRole::Overflow => LeaseRole::Overflow,
                },
                draining: block.state == BlockState::Draining,
            }));
        }
    }
    let policies = objects.all_policies().zip(&derived.selected);
    let policy_eips = objects.all_policies().filter_map(|policy| policy.eip);
    NodeView {
        node: local.node.clone(),
        settings: local.settings.clone(),
        uplink: local.uplink.clone(),
        tunnel: own_tunnel(objects, local),
        peers: peers(objects, local),
        pods: pods.collect(),
        policies: policies.map(|(policy, pods)| policy_view(objects, local, policy, pods)).collect(),
        cluster_cidrs: networks.all,
        node_addresses: networks.nodes.iter().copied().chain(underlays).chain(own).collect(),
        eips: source_eips.collect(),
        all_eips: groups.keys().copied().chain(policy_eips).collect(),
        gateway_eips,
        lends_address: derived.lends_address,
    }
}

/// EIPs that somebody else on the link of a gateway has, as this node or another gateway says. Of a pair one address is
/// enough. What a node says that is gone counts no more.
fn in_conflict(objects: &Objects, derived: &Derived, local: &Local) -> BTreeSet<EipPair> {
    let able = objects.tunnels.values().filter(|tunnel| tunnel.phase == Some(Phase::Ready));
    let told = able.flat_map(|tunnel| &tunnel.conflicts).map(|told| told.address);
    let all: BTreeSet<IpAddr> = local.conflicts.keys().copied().chain(told).collect();
    if all.is_empty() {
        return BTreeSet::new();
    }
    let known = derived.groups.keys().chain(&derived.used).chain(&local.held);
    known.filter(|eip| eip.addresses().any(|address| all.contains(&address))).copied().collect()
}

/// Addresses of the EIPs that this node is a gateway of, and whether it claims them.
#[must_use]
pub fn charge(derived: &Derived, local: &Local) -> BTreeMap<IpAddr, bool> {
    let own = derived.groups.iter().filter(|(eip, group)| is_gateway_of(local, eip, group));
    own.flat_map(|(eip, _)| {
        let claimed = local.claims.contains(eip);
        eip.addresses().map(move |address| (address, claimed))
    })
    .collect()
}

fn own_tunnel(objects: &Objects, local: &Local) -> Option<OwnTunnel> {
    let tunnel = objects.tunnels.get(&local.node)?;
    let (ipv4, ipv6) = families(local, tunnel.ipv4, tunnel.ipv6)?;
    Some(OwnTunnel { mac: tunnel.mac.unwrap_or_else(|| MacAddress::of_tunnel(&local.node)), ipv4, ipv6 })
}

/// The addresses of the families that are served; `None` when none is left.
fn families<A, B>(local: &Local, ipv4: Option<A>, ipv6: Option<B>) -> Option<(Option<A>, Option<B>)> {
    let ipv4 = ipv4.filter(|_| local.settings.ipv4);
    let ipv6 = ipv6.filter(|_| local.settings.ipv6);
    (ipv4.is_some() || ipv6.is_some()).then_some((ipv4, ipv6))
}

fn peers(objects: &Objects, local: &Local) -> BTreeMap<String, Peer> {
    let others = objects.tunnels.iter().filter(|(node, _)| **node != local.node);
    others
        .filter_map(|(node, tunnel)| {
            let (ipv4, ipv6) = families(local, tunnel.ipv4, tunnel.ipv6)?;
            let peer = Peer {
                mac: tunnel.mac.unwrap_or_else(|| MacAddress::of_tunnel(node)),
                underlay: tunnel.underlay?,
                ipv4,
                ipv6,
            };
            Some((node.clone(), peer))
        })
        .collect()
}

/// Tunnel address of each other node, for probes: IPv4 where both ends have it.
#[must_use]
pub fn probe_addresses(view: &NodeView) -> (Option<IpAddr>, BTreeMap<String, IpAddr>) {
    let own = view.tunnel.as_ref();
    let v4 = own.and_then(|own| own.ipv4);
    let pick = |peer: &Peer| match v4 {
        Some(_) => peer.ipv4.map(IpAddr::V4),
        None => peer.ipv6.map(IpAddr::V6),
    };
    let own = v4.map(IpAddr::V4).or_else(|| own.and_then(|own| own.ipv6).map(IpAddr::V6));
    let peers = view.peers.iter().filter_map(|(node, peer)| Some((node.clone(), pick(peer)?)));
    (own, peers.collect())
}

/// The first node that lives and lends its address to the policy's pods, or the first at all: that refuses them.
fn lent_address(objects: &Objects, local: &Local, policy: &PlacedPolicy) -> Option<EipPair> {
    let lenders = lenders(objects, policy).into_iter();
    let own: Vec<(&str, EipPair)> =
        lenders.filter_map(|node| Some((node, own_address(objects, node)?))).collect();
    let lives = own.iter().find(|(node, own)| lends(local, node, own));
    lives.or(own.first()).map(|(_, own)| *own)
}

fn policy_view(
    objects: &Objects,
    local: &Local,
    policy: &PlacedPolicy,
    pods: &BTreeSet<PodKey>,
) -> PolicyView {
    let eip = if is_of_node(policy) { lent_address(objects, local, policy) } else { policy.eip };
    let by_eip = || {
        let eip = eip?;
        let holder = objects.gateways.iter().find(|(_, group)| group.eips.contains_key(&eip));
        holder.map(|(name, _)| name.clone())
    };
    PolicyView {
        precedence: policy.precedence.clone(),
        pods: pods.clone(),
        destinations: if policy.policy.destinations.is_empty() {
            Destinations::Outside
        } else {
            Destinations::Subnets(policy.policy.destinations.clone())
        },
        eip,
        is_young: false,
        gateway: policy.policy.gateway.clone().or_else(by_eip).unwrap_or_default(),
    }
}

/// The node's own blocks by EIP.
fn own_blocks(objects: &Objects, node: &str) -> BTreeMap<EipPair, Vec<LeasedBlock>> {
    let mut blocks: BTreeMap<EipPair, Vec<LeasedBlock>> = BTreeMap::new();
    for lease in objects.held_by(node) {
        let own = lease.blocks.iter().filter(|block| block.role == BlockRole::Source);
        blocks.entry(lease.eip).or_default().extend(own.copied());
    }
    blocks
}

/// Whether the node translates flows of the EIP for nodes that have no block.
fn translates(objects: &Objects, node: &str, eip: &EipPair) -> bool {
    let open = |block: &LeasedBlock| block.role == BlockRole::Overflow && block.state == BlockState::Active;
    let of_eip = objects.leases_of(node).filter_map(|(_, part)| part.of_eip(*eip));
    of_eip.flat_map(|lease| &lease.blocks).any(open)
}

fn source_eip(
    objects: &Objects,
    local: &Local,
    group: Option<&EipGroup>,
    eip: &EipPair,
    blocks: &[LeasedBlock],
) -> SourceEip {
    let preferred = group.and_then(|group| group.preferred.clone());
    let carrier = match local.carriers.get(eip) {
        Some(carrier) => carrier.clone(),
        None => preferred.clone(),
    };
    let order = group.map(|group| {
        let nodes = group.nodes.iter().map(String::as_str).collect();
        gateway_order(eip, &nodes, preferred.as_deref())
    });
    let candidates = order.unwrap_or_default().into_iter().take(CANDIDATES).map(str::to_owned);
    let mut source = SourceEip {
        candidates: candidates.chain(carrier.clone()).collect(),
        overflow: carrier.as_ref().is_some_and(|node| translates(objects, node, eip)),
        carrier,
        ..SourceEip::default()
    };
    for leased in blocks {
        if leased.state == BlockState::Active && source.block.is_none() {
            source.block = Some(leased.block);
        } else {
            source.draining.insert(leased.block);
        }
    }
    source
}

#[cfg(test)]
mod tests;
