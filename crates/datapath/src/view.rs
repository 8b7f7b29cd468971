//! What one node knows, as plain values: the input of [`compile`](crate::compile::compile).
//!
//! Only local pods are here, and no labels: which pods a policy selects is decided before. A gateway knows the leases
//! of the EIPs of its own groups, a source node the blocks that it holds itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
pub use model::flow::{ExistingFlows, NoGatewayAction};
use model::policy::Precedence;
use model::tunnel_mac::MacAddress;
use model::{EipPair, PortBlock};

/// All that one node knows. The same view always compiles to the same state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Name of this node
    pub node: String,
    /// Settings of the cluster and of this node
    pub settings: Settings,
    /// The device that leads to the other nodes and outside; `None` while it has no address
    pub uplink: Option<Uplink>,
    /// This node's own end of the tunnel; `None` until the controller has given it an address
    pub tunnel: Option<OwnTunnel>,
    /// All other nodes by name. An entry for this node itself is ignored
    pub peers: BTreeMap<String, Peer>,
    /// Local pods that do not share the host's network
    pub pods: BTreeMap<PodKey, Pod>,
    /// Policies that are in force, in any order. One that was refused is left out: it harms only itself
    pub policies: Vec<PolicyView>,
    /// Networks that belong to the cluster: pods, services, and what the user adds
    pub cluster_cidrs: BTreeSet<IpNet>,
    /// Addresses of all nodes, this one included: never outside, and tunnel datagrams from elsewhere are forged
    pub node_addresses: BTreeSet<IpAddr>,
    /// EIPs that local pods may leave with: those of `policies`, and those that live connections still use.
    /// A flow whose EIP is not here any more is refused
    pub eips: BTreeMap<EipPair, SourceEip>,
    /// EIPs of the groups that this node is a gateway of
    pub gateway_eips: BTreeMap<EipPair, GatewayEip>,
    /// Whether pods of other nodes may leave with this node's own address
    pub lends_address: bool,
    /// Every EIP of the cluster: pods don't reach them, strays to them are dropped
    pub all_eips: BTreeSet<EipPair>,
}

impl NodeView {
    /// Local pods that policies select.
    #[must_use]
    pub fn selected_pods(&self) -> BTreeSet<&PodKey> {
        let selected = self.policies.iter().flat_map(|policy| &policy.pods);
        selected.filter(|pod| self.pods.contains_key(*pod)).collect()
    }

    /// Whether this node, as a gateway, translates for nodes that have no ports of their own.
    #[must_use]
    pub fn translates(&self) -> bool {
        let is_own = |lease: &Lease| lease.role == LeaseRole::Overflow && lease.node == self.node;
        self.settings.zones && self.gateway_eips.values().flat_map(|own| &own.leases).any(is_own)
    }
}

/// Settings, with the defaults of the chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the VXLAN device
    pub tunnel_device: String,
    /// VXLAN network identifier
    pub vni: u32,
    /// UDP port of the tunnel
    pub tunnel_port: u16,
    /// MTU of the tunnel device; 0 derives it from the uplink's
    pub tunnel_mtu: u32,
    /// Whether IPv4 is served
    pub ipv4: bool,
    /// Whether IPv6 is served
    pub ipv6: bool,
    /// What happens to selected traffic while no gateway lives
    pub no_gateway_action: NoGatewayAction,
    /// What happens to connections that are older than the policy that would select them
    pub existing_flows: ExistingFlows,
    /// Whether the kernel has tables of family ARP
    pub arp_filter: bool,
    /// Whether new connections of pods that are not known yet are held while any policy exists
    pub start_guard: bool,
    /// UDP flows that end soon after their answer
    pub short_udp: ShortUdp,
    /// Whether the kernel can give connections timeouts of their own, which `short_udp` needs
    pub timeouts: bool,
    /// Whether the kernel has zones of connection tracking, which overflow needs
    pub zones: bool,
    /// Whether the kernel counts packets at elements of sets, which traffic by EIP is told from
    pub counting_sets: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tunnel_device: "egress.vxlan".to_owned(),
            vni: 100,
            tunnel_port: 7789,
            tunnel_mtu: 0,
            ipv4: true,
            ipv6: false,
            no_gateway_action: NoGatewayAction::default(),
            existing_flows: ExistingFlows::default(),
            arp_filter: true,
            start_guard: true,
            short_udp: ShortUdp::default(),
            timeouts: true,
            zones: true,
            counting_sets: true,
        }
    }
}

/// UDP flows that are a question and its answer, and how long they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortUdp {
    /// Destination ports
    pub ports: BTreeSet<u16>,
    /// Seconds without an answer
    pub unreplied_seconds: u32,
    /// Seconds after the last packet, once there was an answer
    pub replied_seconds: u32,
}

/// DNS and NTP: 5 s for an answer, 3 s after it.
impl Default for ShortUdp {
    fn default() -> Self {
        Self { ports: BTreeSet::from([53, 123]), unreplied_seconds: 5, replied_seconds: 3 }
    }
}

/// The addresses that there are.
pub(crate) fn addresses_of(ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> impl Iterator<Item = IpAddr> {
    ipv4.map(IpAddr::V4).into_iter().chain(ipv6.map(IpAddr::V6))
}

/// The device that leads outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Device name
    pub device: String,
    /// Interface index
    pub index: u32,
    /// MTU of the device
    pub mtu: u32,
    /// Own address
    pub ipv4: Option<Ipv4Addr>,
    /// Own address, global scope
    pub ipv6: Option<Ipv6Addr>,
    /// Next hop of the default route
    pub next_hop_ipv4: Option<Ipv4Addr>,
    /// Next hop of the default route
    pub next_hop_ipv6: Option<Ipv6Addr>,
}

impl Uplink {
    /// Its own addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        addresses_of(self.ipv4, self.ipv6)
    }
}

/// This node's end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTunnel {
    /// Inner MAC address
    pub mac: MacAddress,
    /// Tunnel address
    pub ipv4: Option<Ipv4Addr>,
    /// Tunnel address
    pub ipv6: Option<Ipv6Addr>,
}

impl OwnTunnel {
    /// Its tunnel addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        addresses_of(self.ipv4, self.ipv6)
    }
}

/// Another node's end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Inner MAC address
    pub mac: MacAddress,
    /// Outer address
    pub underlay: IpAddr,
    /// Tunnel address
    pub ipv4: Option<Ipv4Addr>,
    /// Tunnel address
    pub ipv6: Option<Ipv6Addr>,
}

impl Peer {
    /// Its tunnel addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        addresses_of(self.ipv4, self.ipv6)
    }
}

/// Namespace and name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Namespace
    pub namespace: String,
    /// Name
    pub name: String,
}

impl PodKey {
    /// A key of these two.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// `namespace/name`.
impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A local pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its addresses, of both families
    pub addresses: BTreeSet<IpAddr>,
    /// Index of the host's end of its own veth, where it has one and it is known; packets with the pod's address from
    /// anywhere else are then dropped
    pub interface: Option<u32>,
}

/// A policy that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyView {
    /// Its place among those that select the same pod, and its name
    pub precedence: Precedence,
    /// Local pods that it selects; keys that are not in [`NodeView::pods`] are ignored
    pub pods: BTreeSet<PodKey>,
    /// Where to
    pub destinations: Destinations,
    /// The EIP that they leave with; while there is none, they are treated as if no gateway lived
    pub eip: Option<EipPair>,
    /// Whether it was made so lately that its EIP is likely to be on its way; new connections wait for it then
    pub is_young: bool,
    /// Name of the EgressGateway
    pub gateway: String,
}

/// Destinations that a policy selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destinations {
    /// All but the cluster itself and what never leaves a link: no `destSubnet` was given
    Outside,
    /// Exactly these; one of prefix length 0 stands for all that is outside in its family
    Subnets(BTreeSet<IpNet>),
}

/// An EIP as a source node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceEip {
    /// Node that carries the EIP now, as far as is known alive; may be this node; `None`: no gateway lives
    pub carrier: Option<String>,
    /// Nodes that may come to carry it, its carrier included: their routes are there before they are needed
    pub candidates: BTreeSet<String>,
    /// This node's block for new connections; `None`: not leased yet, new connections wait
    pub block: Option<PortBlock>,
    /// Blocks of connections that live on
    pub draining: BTreeSet<PortBlock>,
    /// Whether its carrier translates for nodes that have no block
    pub overflow: bool,
    /// Whether the pair is the tunnel address of a node, and stands for that node's own address: the carrier masquerades
    pub node_address: bool,
}

impl SourceEip {
    /// All blocks that this node holds, the draining ones included.
    pub fn blocks(&self) -> impl Iterator<Item = &PortBlock> {
        self.block.iter().chain(&self.draining)
    }
}

/// An EIP as one of its gateways sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayEip {
    /// Whether this node answers ARP and NDP for it now
    pub answers: bool,
    /// Who holds which of its ports, draining blocks included
    pub leases: BTreeSet<Lease>,
}

/// A block of an EIP's ports and its holder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease {
    /// The ports
    pub block: PortBlock,
    /// Name of the node that holds them
    pub node: String,
    /// What they are for
    pub role: LeaseRole,
    /// Whether only connections that exist go on with it
    pub draining: bool,
}

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseRole {
    /// The holder's own pods leave with it
    Source,
    /// The holder, a gateway, translates into it for others
    Overflow,
}
