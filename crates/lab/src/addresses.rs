//! The address plan of a lab: who has which address on the fabric, and which pods live where.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// The most nodes that a lab can have: their last octets run from 11 to 210.
pub const MAX_NODES: usize = 200;

/// The cluster's Service network; nothing of it is ever routed in the lab.
pub(crate) const SERVICE_CIDRS: [&str; 2] = ["10.96.0.0/12", "fd96::/108"];
/// Address of the switch, the default gateway of everything on the fabric.
pub(crate) const SWITCH_V4: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 1);
/// IPv6 address of the switch.
pub(crate) const SWITCH_V6: Ipv6Addr = Ipv6Addr::new(0xfd06, 0, 0, 0, 0, 0, 0, 1);
/// Address of the API server on the fabric.
pub(crate) const API_SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 10);
/// IPv6 address of the API server on the fabric.
pub(crate) const API_SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd06, 0, 0, 0, 0, 0, 0, 0x10);
/// Port of the API server on the fabric.
pub(crate) const API_SERVER_PORT: u16 = 6443;
/// Address of the host outside the cluster.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(10, 6, 168, 63);
/// IPv6 address of the host outside the cluster.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0xfd06, 0, 0, 0, 0, 0, 0x168, 0x63);
/// What a pod sees as its default gateway.
pub(crate) const POD_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// What a pod sees as its IPv6 default gateway.
pub(crate) const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// All pods of all nodes.
pub(crate) const CLUSTER_POD_V4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 0);
/// All pods of all nodes, IPv6.
pub(crate) const CLUSTER_POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0x244, 0, 0, 0, 0, 0, 0);

/// Where a node is: its number, from 0, decides everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeNumber(u8);

impl NodeNumber {
    /// `None` beyond [`MAX_NODES`].
    pub(crate) fn new(number: usize) -> Option<Self> {
        (number < MAX_NODES).then(|| u8::try_from(number).ok().map(Self)).flatten()
    }

    /// The node's name: the first is the control plane's, the others are workers.
    pub(crate) fn name(self) -> String {
        match self.0 {
            0 => "controller-node-1".to_string(),
            worker => format!("worker-node-{worker}"),
        }
    }

    /// The node's address on the fabric.
    pub(crate) fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 6, 0, 11 + self.0)
    }

    /// The node's IPv6 address on the fabric; its last group reads like the last octet of the other.
    pub(crate) fn v6(self) -> Ipv6Addr {
        let decimal = u16::from(11 + self.0);
        let as_read = (decimal / 100) << 8 | (decimal / 10 % 10) << 4 | (decimal % 10);
        Ipv6Addr::new(0xfd06, 0, 0, 0, 0, 0, 0, as_read)
    }

    /// The network that the node's pods get their addresses from.
    pub(crate) fn pod_cidr_v4(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(10, 244, self.0, 0), 24)
    }

    /// The IPv6 network that the node's pods get their addresses from.
    pub(crate) fn pod_cidr_v6(self) -> Ipv6Net {
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd10, 0x244, u16::from(self.0), 0, 0, 0, 0, 0), 64)
    }

    /// Hardware address of the node's fabric device.
    pub(crate) fn mac(self) -> Mac {
        [0x02, 0x06, 0x00, 0x00, 0x00, 11 + self.0]
    }

    /// The addresses of the node's pod number `host` (1 to 254).
    pub(crate) fn pod(self, host: u8) -> (Ipv4Addr, Ipv6Addr) {
        let v6 = self.pod_cidr_v6().network().segments();
        let [a, b, c, d, ..] = v6;
        (Ipv4Addr::new(10, 244, self.0, host), Ipv6Addr::new(a, b, c, d, 0, 0, 0, u16::from(host)))
    }

    /// Hardware addresses of the two ends of the veth of the node's pod number `host`.
    pub(crate) fn pod_macs(self, host: u8) -> (Mac, Mac) {
        ([0x02, 0xee, 0xee, 0x00, self.0, host], [0x02, 0x24, 0x40, 0x00, self.0, host])
    }
}

/// The fabric's IPv4 network with `address` as host part.
pub(crate) fn on_fabric_v4(address: Ipv4Addr) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, 16))
}

/// The fabric's IPv6 network with `address` as host part.
pub(crate) fn on_fabric_v6(address: Ipv6Addr) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, 64))
}

/// One single address as a network.
pub(crate) fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// `0.0.0.0/0`.
pub(crate) fn default_v4() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0))
}

/// `::/0`.
pub(crate) fn default_v6() -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))
}

/// The cluster's pod networks.
pub(crate) fn cluster_pod_cidrs() -> [IpNet; 2] {
    [IpNet::V4(Ipv4Net::new_assert(CLUSTER_POD_V4, 16)), IpNet::V6(Ipv6Net::new_assert(CLUSTER_POD_V6, 32))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_nodes_have_the_names_and_addresses_of_the_walk_through() {
        let node = |number| NodeNumber::new(number).expect("in range");
        assert_eq!(node(0).name(), "controller-node-1");
        assert_eq!(node(2).name(), "worker-node-2");
        assert_eq!(node(0).v4().to_string(), "10.6.0.11");
        assert_eq!(node(1).v6().to_string(), "fd06::12");
        assert_eq!(node(0).pod(7).0.to_string(), "10.244.0.7");
        assert_eq!(node(3).pod(7).1.to_string(), "fd10:244:3::7");
    }

    #[test]
    fn no_node_takes_an_address_that_the_fabric_uses_otherwise() {
        assert_eq!(NodeNumber::new(MAX_NODES), None);
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..MAX_NODES {
            let node = NodeNumber::new(number).expect("in range");
            assert!(seen.insert(node.v6()), "two nodes with {}", node.v6());
            assert!(![SWITCH_V4, API_SERVER_V4, OUTSIDE_V4].contains(&node.v4()));
            assert!(![SWITCH_V6, API_SERVER_V6, OUTSIDE_V6].contains(&node.v6()));
        }
    }
}
