//! Everything that the agent keeps in one node's kernel, as data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::tunnel_mac::MacAddress;

use crate::nft;
use crate::view::addresses_of;

/// The wanted (or found) state of one node's kernel, as far as it is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatapathState {
    /// The tunnel device; `None` while this node has no tunnel address
    pub tunnel: Option<TunnelDevice>,
    /// Static entries that lead to the other nodes' tunnel devices
    pub peers: BTreeSet<TunnelPeer>,
    /// Routes
    pub routes: BTreeSet<Route>,
    /// Policy routing rules
    pub rules: BTreeSet<RoutingRule>,
    /// Addresses that the kernel answers ARP or NDP for
    pub proxy_neighbours: BTreeSet<ProxyNeighbour>,
    /// Values under /proc/sys/net, path with `/` and without that prefix
    pub sysctls: BTreeMap<String, String>,
    /// Our tables by name; all of one agent
    pub tables: BTreeMap<String, nft::Table>,
}

/// The VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelDevice {
    /// `egress.vxlan`
    pub name: String,
    /// VXLAN network identifier
    pub vni: u32,
    /// UDP port
    pub port: u16,
    /// Name of the underlay device
    pub parent: String,
    /// Outer source address
    pub local: IpAddr,
    /// Inner MAC address
    pub mac: MacAddress,
    /// Bytes
    pub mtu: u32,
    /// Own tunnel address, as a host address
    pub ipv4: Option<Ipv4Addr>,
    /// Own tunnel address, as a host address
    pub ipv6: Option<Ipv6Addr>,
}

impl TunnelDevice {
    /// Its tunnel addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        addresses_of(self.ipv4, self.ipv6)
    }
}

/// How to reach another node's tunnel device: one FDB entry and one permanent neighbour per family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelPeer {
    /// Inner MAC address
    pub mac: MacAddress,
    /// Outer address
    pub underlay: IpAddr,
    /// Tunnel address
    pub ipv4: Option<Ipv4Addr>,
    /// Tunnel address
    pub ipv6: Option<Ipv6Addr>,
}

impl TunnelPeer {
    /// Its tunnel addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        addresses_of(self.ipv4, self.ipv6)
    }
}

/// A route, marked as ours by its protocol number ([`ROUTE_PROTOCOL`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// 254 for main
    pub table: u32,
    /// Destination
    pub destination: IpNet,
    /// Where to
    pub target: RouteTarget,
    /// Metric; 0 for the kernel's default. IPv6 has no 0: the kernel makes it 1024, so say that
    pub metric: u32,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    /// Out of a device by name, perhaps via a gateway that is taken to be on-link
    Device {
        /// Device name
        device: String,
        /// Next hop, with the `onlink` flag
        via: Option<IpAddr>,
    },
    /// Refused with "host unreachable"
    Unreachable,
    /// Discarded
    Blackhole,
}

/// Route protocol number of all our routes and rules, so that we find them again and never touch others'.
pub const ROUTE_PROTOCOL: u8 = 149;

/// A policy routing rule: packets of this mark look up this table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingRule {
    /// Whether it is for IPv6
    pub ipv6: bool,
    /// Priority, lower first
    pub priority: u32,
    /// Mark
    pub mark: u32,
    /// Bits of the mark that count
    pub mask: u32,
    /// Table that is looked up
    pub table: u32,
}

/// A proxy ARP or NDP entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyNeighbour {
    /// Device that hears the question
    pub device: String,
    /// Address that is answered for
    pub address: IpAddr,
}
