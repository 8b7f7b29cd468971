//! A node: a network namespace that forwards for its pods, as a host-routed CNI sets it up.
//!
//! ```text
//!   pod eth0 (10.244.N.H/32, default via 169.254.1.1)
//!        |
//!   podH (proxy ARP, route 10.244.N.H/32)      node      eth0 (10.6.0.11+N/16)
//! ```
//!
//! The node translates what its pods send out of the cluster to its own address, as the usual CNIs do; that
//! is what a cluster looks like before anybody installs an egress gateway.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;

use anyhow::Context;
use ipnet::IpNet;
use kernel::RouteSocket;
use kernel::link::{LinkChange, LinkKind, NewLink};
use kernel::route::RouteEntry;
use model::tunnel_mac::MacAddress;

use crate::addresses::{
    NodeNumber, POD_GATEWAY_V4, POD_GATEWAY_V6, default_v4, default_v6, host, on_fabric_v4, on_fabric_v6,
};
use crate::fabric::{Fabric, UPLINK, add_default_routes, quiet_ipv6};
use crate::masquerade;
use crate::netns::NetNs;

/// A node and the pods' addresses that it has given out.
#[derive(Debug)]
pub(crate) struct Node {
    number: NodeNumber,
    namespace: NetNs,
    pod_hosts: Mutex<PodHosts>,
}

/// The addresses of a node's pods. The next one is always the one after the last, as with the usual IPAM
/// plugins: an address that was just given back is not taken again at once.
#[derive(Debug, Default)]
struct PodHosts {
    taken: BTreeSet<u8>,
    last: u8,
}

/// A pod's network: its namespace and addresses. Dropping it gives the addresses back.
#[derive(Debug)]
pub(crate) struct PodNetwork {
    /// The pod's namespace.
    pub(crate) namespace: NetNs,
    /// The pod's IPv4 address.
    pub(crate) v4: Ipv4Addr,
    /// The pod's IPv6 address.
    pub(crate) v6: Ipv6Addr,
    host: u8,
}

impl Node {
    /// Builds the node and plugs it into the fabric; `nodes` are all nodes of the cluster.
    pub(crate) fn new(number: NodeNumber, nodes: &[NodeNumber], fabric: &Fabric) -> anyhow::Result<Self> {
        let namespace = NetNs::new()?;
        quiet_ipv6(&namespace)?;
        namespace.write_sysctls(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        fabric.plug_node(number, &namespace)?;
        let mut links = namespace.links()?;
        let uplink = links.index_of(UPLINK)?;
        links.add_address(uplink, on_fabric_v4(number.v4()))?;
        links.add_address(uplink, on_fabric_v6(number.v6()))?;
        add_routes(&mut links, uplink, number, nodes)?;
        masquerade::install(&namespace, number, nodes).context("install the node's masquerade")?;
        Ok(Self { number, namespace, pod_hosts: Mutex::default() })
    }

    /// The node's number.
    pub(crate) fn number(&self) -> NodeNumber {
        self.number
    }

    /// The node's namespace.
    pub(crate) fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    /// Restores what a carrier loss takes away: the kernel drops a node's IPv6 routes with it.
    pub(crate) fn after_heal(&self, nodes: &[NodeNumber]) -> kernel::Result<()> {
        let mut links = self.namespace.links()?;
        let uplink = links.index_of(UPLINK)?;
        add_routes(&mut links, uplink, self.number, nodes)
    }

    /// Makes a network for one more pod: what a CNI plugin does on ADD.
    pub(crate) fn add_pod(&self) -> anyhow::Result<PodNetwork> {
        let host_number = self.take_host()?;
        let made = self.wire_pod(host_number);
        if made.is_err() {
            self.give_back(host_number);
        }
        made
    }

    /// Takes a pod's network away: what a CNI plugin does on DEL.
    pub(crate) fn remove_pod(&self, pod: PodNetwork) -> kernel::Result<()> {
        let device = device_of(pod.host);
        let removed = self.namespace.links().and_then(|mut links| links.delete_link(&device));
        self.give_back(pod.host);
        removed
    }

    fn wire_pod(&self, host_number: u8) -> anyhow::Result<PodNetwork> {
        let namespace = NetNs::new()?;
        quiet_ipv6(&namespace)?;
        let (v4, v6) = self.number.pod(host_number);
        let (node_mac, pod_mac) = self.number.pod_macs(host_number);
        let (node_mac, pod_mac) = (MacAddress(node_mac), MacAddress(pod_mac));
        let device = device_of(host_number);
        let mut links = self.namespace.links()?;
        links.delete_link(&device)?;
        let kind = LinkKind::Veth { peer: UPLINK, peer_netns: Some(namespace.inner()) };
        links.add_link(&NewLink { mac: Some(node_mac), ..NewLink::new(&device, kind) })?;
        self.namespace.write_sysctls(&[(&format!("ipv4/conf/{device}/proxy_arp"), "1")])?;
        links.set_up(&device)?;

        let mut inside = namespace.links()?;
        let uplink = inside.index_of(UPLINK)?;
        let change = LinkChange { up: Some(true), mac: Some(pod_mac), ..LinkChange::default() };
        inside.change_link(uplink, &change)?;
        for address in [IpAddr::V4(v4), IpAddr::V6(v6)] {
            inside.add_address(uplink, host(address))?;
        }
        for (destination, gateway) in
            [(default_v4(), IpAddr::V4(POD_GATEWAY_V4)), (default_v6(), IpAddr::V6(POD_GATEWAY_V6))]
        {
            // Permanent entries: a pod's first packet must not wait for ARP or NDP.
            inside.set_neighbour(uplink, gateway, node_mac)?;
            let route = RouteEntry::new(destination, Some(uplink), Some(gateway));
            inside.set_route(&RouteEntry { onlink: true, ..route })?;
        }

        let index = links.index_of(&device)?;
        for address in [IpAddr::V4(v4), IpAddr::V6(v6)] {
            links.set_neighbour(index, address, pod_mac)?;
            links.set_route(&RouteEntry::new(host(address), Some(index), None))?;
        }
        Ok(PodNetwork { namespace, v4, v6, host: host_number })
    }

    fn take_host(&self) -> anyhow::Result<u8> {
        let mut hosts = self.pod_hosts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let after_last = (hosts.last.max(1) + 1..=254).chain(2..=254);
        let free = after_last.into_iter().find(|host| !hosts.taken.contains(host));
        let free = free.context("the node has no free pod address")?;
        hosts.taken.insert(free);
        hosts.last = if free == 254 { 0 } else { free };
        Ok(free)
    }

    fn give_back(&self, host: u8) {
        let mut hosts = self.pod_hosts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        hosts.taken.remove(&host);
    }
}

/// The way out, and the ways to the pods of the other nodes.
fn add_routes(
    links: &mut RouteSocket,
    uplink: u32,
    node: NodeNumber,
    nodes: &[NodeNumber],
) -> kernel::Result<()> {
    add_default_routes(links, uplink)?;
    for peer in nodes.iter().filter(|peer| **peer != node) {
        for (destination, via) in [
            (IpNet::V4(peer.pod_cidr_v4()), IpAddr::V4(peer.v4())),
            (IpNet::V6(peer.pod_cidr_v6()), IpAddr::V6(peer.v6())),
        ] {
            links.set_route(&RouteEntry::new(destination, Some(uplink), Some(via)))?;
        }
    }
    Ok(())
}

fn device_of(host: u8) -> String {
    format!("pod{host}")
}
