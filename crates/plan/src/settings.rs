//! What the operator has set.

use ipnet::{Ipv4Net, Ipv6Net};
use model::port_lease::EIPS_OF_AN_OBJECT;

/// Settings of the controller, with the defaults of the chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether IPv4 is served
    pub ipv4: bool,
    /// Whether IPv6 is served
    pub ipv6: bool,
    /// Where tunnel addresses are taken from
    pub tunnel_subnet_v4: Ipv4Net,
    /// Where tunnel addresses are taken from
    pub tunnel_subnet_v6: Ipv6Net,
    /// First byte of every mark, the other three zero
    pub mark_base: u32,
    /// Entries of an endpoint slice
    pub max_endpoints_per_slice: usize,
    /// EIPs that one EgressPortLease has room for
    pub eips_per_lease: usize,
    /// The largest cluster in which every node holds blocks before it needs them
    pub eager_nodes: usize,
    /// The most ports of an EIP that a node's new connections get
    pub max_ports_per_node: u32,
    /// Where the status of a gateway lists at least so many EIPs, writes that only add some, or leave some out, are gathered
    pub long_list: usize,
    /// The pause between two such writes, for each EIP that is listed
    pub list_pause_ms_per_eip: u64,
    /// How long the port blocks of a node that is gone rest before they are given to another
    pub rest_s: i64,
    /// How long blocks of an EIP that no policy uses any more are left to the connections that exist, unless their holder
    /// says that there are none
    pub drain_s: i64,
    /// How agents show that they live; `None`: only what Kubernetes says of a node counts
    pub failover: Option<Failover>,
}

/// How agents show that they live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    /// How often an agent renews its Lease
    pub update_s: i64,
    /// One that has not done so for that long is taken for dead
    pub timeout_s: i64,
}

impl Failover {
    /// When nobody was heard for longer than that, it is not the agents that are away.
    pub(crate) fn outage_s(self) -> i64 {
        self.update_s.saturating_mul(2).min(self.timeout_s)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ipv4: true,
            ipv6: false,
            tunnel_subnet_v4: Ipv4Net::new_assert([172, 31, 0, 0].into(), 16),
            tunnel_subnet_v6: Ipv6Net::new_assert([0xfd11, 0, 0, 0, 0, 0, 0, 0].into(), 112),
            mark_base: model::mark::BASE,
            max_endpoints_per_slice: 100,
            eips_per_lease: EIPS_OF_AN_OBJECT,
            // More could not all have a block out of half of the ports.
            eager_nodes: 376,
            // A third of what all nodes together have.
            max_ports_per_node: 16_384,
            long_list: 64,
            list_pause_ms_per_eip: 3,
            // Longer than any state that a peer of the dead node's connections keeps about them at a gateway.
            rest_s: 120,
            drain_s: 3600,
            failover: Some(Failover { update_s: 5, timeout_s: 15 }),
        }
    }
}
