//! Gateways as users describe them: a group of nodes and the addresses that live on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pool::Family;
use crate::selector::LabelSelector;
use crate::{EipPair, IpPool};

/// What an EgressGateway asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Whether policies that name no gateway may use this one.
    pub cluster_default: bool,
    /// The nodes of the group; never empty.
    pub nodes: LabelSelector,
    /// Its IPv4 addresses.
    pub pool_v4: IpPool,
    /// Its IPv6 addresses.
    pub pool_v6: IpPool,
    /// The IPv4 address of policies that ask for none, if the object says which.
    pub default_v4: Option<Ipv4Addr>,
    /// The IPv6 address of policies that ask for none, if the object says which.
    pub default_v6: Option<Ipv6Addr>,
}

impl Gateway {
    /// The pool of that family.
    #[must_use]
    pub fn pool(&self, family: Family) -> &IpPool {
        match family {
            Family::V4 => &self.pool_v4,
            Family::V6 => &self.pool_v6,
        }
    }

    /// Whether the address is one of the gateway's.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.pool(Family::of(address)).contains(address)
    }

    /// Whether there is no address at all.
    #[must_use]
    pub fn has_no_address(&self) -> bool {
        self.pool_v4.is_empty() && self.pool_v6.is_empty()
    }

    /// The default EIP as far as the object names it.
    #[must_use]
    pub fn named_default(&self) -> Option<EipPair> {
        EipPair::new(self.default_v4, self.default_v6)
    }
}
