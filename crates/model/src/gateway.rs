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

/// A wish that an EIP be carried by another node of its gateway, `10.6.1.55=node-b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveRequest {
    /// As it was written.
    pub text: String,
    /// An address of the EIP and the node, or what is wrong with the text.
    pub wanted: Result<(IpAddr, String), String>,
}

impl MoveRequest {
    /// Reads wishes that commas part.
    #[must_use]
    pub fn parse_list(text: &str) -> Vec<Self> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| Self { text: part.to_owned(), wanted: parse(part) }).collect()
    }
}

fn parse(text: &str) -> Result<(IpAddr, String), String> {
    let (address, node) = text.split_once('=').ok_or("is not of the form EIP=NODE, like 10.6.1.55=node-b")?;
    let address = address.trim();
    let parsed = address.parse().map_err(|_| format!("`{address}` is not an address"))?;
    match node.trim() {
        "" => Err("names no node".to_owned()),
        node => Ok((parsed, node.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moves_are_read_one_by_one() {
        let moves = MoveRequest::parse_list(" 10.6.1.55=b, fd00::1 = c ,nonsense,1.2.3=d,10.6.1.1=,");
        let texts: Vec<&str> = moves.iter().map(|request| request.text.as_str()).collect();
        assert_eq!(texts, ["10.6.1.55=b", "fd00::1 = c", "nonsense", "1.2.3=d", "10.6.1.1="]);
        let good: Vec<bool> = moves.iter().map(|request| request.wanted.is_ok()).collect();
        assert_eq!(good, [true, true, false, false, false]);
        assert_eq!(moves[1].wanted, Ok(("fd00::1".parse().unwrap(), "c".to_owned())));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in ".{0,200}") {
            for request in MoveRequest::parse_list(&text) {
                prop_assert!(!request.text.is_empty());
            }
        }
    }
}
