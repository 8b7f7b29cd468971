//! Which gateway carries an EIP when several could: a pure function that every node evaluates alike.

use std::collections::BTreeSet;

use crate::EipPair;

/// All gateway nodes in the order in which they are to take the EIP: the controller's preferred node first, then the
/// others by highest random weight (rendezvous hashing), so that the EIPs of a dead gateway spread over the rest and
/// the order of the rest does not change when a node comes or goes.
///
/// A preferred node that is not among the nodes is ignored.
#[must_use]
pub fn gateway_order<'a>(eip: &EipPair, nodes: &BTreeSet<&'a str>, preferred: Option<&str>) -> Vec<&'a str> {
    let key = eip.to_string();
    let mut order: Vec<&str> = nodes.iter().copied().collect();
    order.sort_by_key(|node| {
        let first = preferred != Some(*node);
        (first, std::cmp::Reverse(weight(&key, node)), *node)
    });
    order
}

/// FNV-1a over both texts, finished by the mixer of MurmurHash3: stable across versions and machines, which the
/// standard library's hasher does not promise.
fn weight(eip: &str, node: &str) -> u64 {
    let bytes = eip.bytes().chain([0]).chain(node.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eip(n: u8) -> EipPair {
        std::net::Ipv4Addr::new(10, 6, 168, n).into()
    }

    #[test]
    fn the_preferred_node_is_first_and_an_unknown_one_is_ignored() {
        let nodes = BTreeSet::from(["a", "b", "c"]);
        for preferred in ["a", "b", "c"] {
            assert_eq!(gateway_order(&eip(1), &nodes, Some(preferred)).first(), Some(&preferred));
        }
        assert_eq!(gateway_order(&eip(1), &nodes, Some("x")), gateway_order(&eip(1), &nodes, None));
    }

    #[test]
    fn a_node_that_goes_does_not_reorder_the_others() {
        let nodes = BTreeSet::from(["a", "b", "c", "d"]);
        for n in 0..=255 {
            let mut before = gateway_order(&eip(n), &nodes, None);
            let gone = before.remove(1);
            let rest = nodes.iter().copied().filter(|node| *node != gone).collect();
            assert_eq!(gateway_order(&eip(n), &rest, None), before);
        }
    }

    #[test]
    fn eips_spread_over_the_nodes() {
        let nodes = BTreeSet::from(["worker-node-1", "worker-node-2", "worker-node-3", "worker-node-4"]);
        for node in &nodes {
            let first =
                (0..=255).filter(|n| gateway_order(&eip(*n), &nodes, None).first() == Some(node)).count();
            assert!((32..=96).contains(&first), "{node} is first for {first} of 256");
        }
    }
}
