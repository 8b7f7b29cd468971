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
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Mutex;

use ipnet::IpNet;

use crate::addresses::{
    NodeNumber, POD_GATEWAY_V4, POD_GATEWAY_V6, default_v4, default_v6, host, on_fabric_v4, on_fabric_v6,
};
use crate::fabric::{Fabric, add_default_routes, quiet_ipv6};
use crate::masquerade;
use crate::netns::{NetNs, write_sysctl};
use crate::rtnl::{Route, RouteSocket};

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
    pub(crate) fn new(number: NodeNumber, nodes: &[NodeNumber], fabric: &Fabric) -> io::Result<Self> {
        let namespace = NetNs::new()?;
        fabric.plug_node(number, &namespace)?;
        namespace.run(|| {
            quiet_ipv6()?;
            write_sysctl("net/ipv4/ip_forward", "1")?;
            write_sysctl("net/ipv6/conf/all/forwarding", "1")?;
            let mut links = RouteSocket::open()?;
            links.add_address("eth0", on_fabric_v4(number.v4()))?;
            links.add_address("eth0", on_fabric_v6(number.v6()))?;
            links.set_up("eth0")?;
            add_default_routes(&mut links)?;
            for peer in nodes.iter().filter(|peer| **peer != number) {
                for (destination, via) in [
                    (IpNet::V4(peer.pod_cidr_v4()), IpAddr::V4(peer.v4())),
                    (IpNet::V6(peer.pod_cidr_v6()), IpAddr::V6(peer.v6())),
                ] {
                    links.add_route("eth0", Route { destination, via: Some(via), onlink: false })?;
                }
            }
            masquerade::install(number, nodes)
        })?;
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
    pub(crate) fn after_heal(&self, nodes: &[NodeNumber]) -> io::Result<()> {
        self.namespace.run(|| {
            let mut links = RouteSocket::open()?;
            add_default_routes(&mut links)?;
            for peer in nodes.iter().filter(|peer| **peer != self.number) {
                let destination = IpNet::V6(peer.pod_cidr_v6());
                let via = Some(IpAddr::V6(peer.v6()));
                links.add_route("eth0", Route { destination, via, onlink: false })?;
            }
            Ok(())
        })
    }

    /// Makes a network for one more pod: what a CNI plugin does on ADD.
    pub(crate) fn add_pod(&self) -> io::Result<PodNetwork> {
        let host_number = self.take_host()?;
        let made = self.wire_pod(host_number);
        if made.is_err() {
            self.give_back(host_number);
        }
        made
    }

    /// Takes a pod's network away: what a CNI plugin does on DEL.
    pub(crate) fn remove_pod(&self, pod: PodNetwork) -> io::Result<()> {
        let device = device_of(pod.host);
        let removed = self.namespace.run(|| RouteSocket::open()?.delete_link(&device));
        self.give_back(pod.host);
        removed
    }

    fn wire_pod(&self, host_number: u8) -> io::Result<PodNetwork> {
        let namespace = NetNs::new()?;
        let (v4, v6) = self.number.pod(host_number);
        let (node_mac, pod_mac) = self.number.pod_macs(host_number);
        let device = device_of(host_number);
        self.namespace.run(|| {
            let mut links = RouteSocket::open()?;
            links.delete_link(&device)?;
            links.add_veth(&device, node_mac, "eth0", pod_mac, namespace.as_fd())?;
            write_sysctl(&format!("net/ipv4/conf/{device}/proxy_arp"), "1")?;
            write_sysctl(&format!("net/ipv6/conf/{device}/accept_dad"), "0")?;
            links.set_up(&device)
        })?;
        namespace.run(|| {
            quiet_ipv6()?;
            let mut links = RouteSocket::open()?;
            write_sysctl("net/ipv6/conf/eth0/accept_dad", "0")?;
            links.add_address("eth0", host(v4.into()))?;
            links.add_address("eth0", host(v6.into()))?;
            links.set_up("eth0")?;
            for (destination, gateway) in
                [(default_v4(), IpAddr::V4(POD_GATEWAY_V4)), (default_v6(), IpAddr::V6(POD_GATEWAY_V6))]
            {
                // Permanent entries: a pod's first packet must not wait for ARP or NDP.
                links.add_neighbour("eth0", gateway, node_mac)?;
                links.add_route("eth0", Route { destination, via: Some(gateway), onlink: true })?;
            }
            Ok(())
        })?;
        self.namespace.run(|| {
            let mut links = RouteSocket::open()?;
            for address in [IpAddr::V4(v4), IpAddr::V6(v6)] {
                links.add_neighbour(&device, address, pod_mac)?;
                let route = Route { destination: host(address), via: None, onlink: false };
                links.add_route(&device, route)?;
            }
            Ok(())
        })?;
        Ok(PodNetwork { namespace, v4, v6, host: host_number })
    }

    fn take_host(&self) -> io::Result<u8> {
        let mut hosts = self.pod_hosts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let after_last = (hosts.last.max(1) + 1..=254).chain(2..=254);
        let free = after_last.into_iter().find(|host| !hosts.taken.contains(host));
        let free = free.ok_or_else(|| io::Error::other("the node has no free pod address"))?;
        hosts.taken.insert(free);
        hosts.last = if free == 254 { 0 } else { free };
        Ok(free)
    }

    fn give_back(&self, host: u8) {
        let mut hosts = self.pod_hosts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        hosts.taken.remove(&host);
    }
}

fn device_of(host: u8) -> String {
    format!("pod{host}")
}
