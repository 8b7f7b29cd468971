//! Port blocks with their holder: what an EgressPortLease says.

use std::collections::BTreeMap;
use std::fmt;

use crate::short_name::shortened;
use crate::{EipPair, PortBlock};

/// EIPs of one object: a change of one of them writes, and tells everybody who watches, no more than these.
pub const EIPS_OF_AN_OBJECT: usize = 32;

/// Which EgressPortLease: what a node holds of many EIPs is spread over several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseName {
    /// The node
    pub node: String,
    /// 0 for the first one
    pub part: u16,
}

impl LeaseName {
    /// The longest name that an object can have.
    const MAX: usize = 253;

    /// A part of what a node holds.
    #[must_use]
    pub fn new(node: &str, part: u16) -> Self {
        Self { node: node.to_owned(), part }
    }

    /// The name of the object: the node's for the first part.
    #[must_use]
    pub fn object(&self) -> String {
        let suffix = match self.part {
            0 => return self.node.clone(),
            part => format!(".part-{part}"),
        };
        format!("{}{suffix}", shortened(&self.node, Self::MAX - suffix.len()))
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.object())
    }
}

/// The parts of one node.
pub fn parts_of<'a, T>(
    all: &'a BTreeMap<LeaseName, T>,
    node: &str,
) -> impl DoubleEndedIterator<Item = (&'a LeaseName, &'a T)> {
    all.range(LeaseName::new(node, 0)..=LeaseName::new(node, u16::MAX))
}

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockRole {
    /// The holder's own pods leave with it.
    Source,
    /// The holder, a gateway, translates into it for nodes that have no block or a full one.
    Overflow,
}

/// Whether new connections may use a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockState {
    /// They may.
    Active,
    /// Only connections that exist go on.
    Draining,
}

/// A block and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeasedBlock {
    /// The ports
    pub block: PortBlock,
    /// Whether new connections may use it
    pub state: BlockState,
    /// What it is for
    pub role: BlockRole,
}

/// A node's blocks of one EIP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EipLease {
    /// The EgressGateway whose pool the EIP is of
    pub gateway: String,
    /// The EIP
    pub eip: EipPair,
    /// The blocks, in order
    pub blocks: Vec<LeasedBlock>,
}

/// Blocks of one node: what one EgressPortLease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortLease {
    /// Grows with every change
    pub generation: i64,
    /// Leases in order of their EIPs
    pub leases: Vec<EipLease>,
}

impl PortLease {
    /// What it says of an EIP.
    #[must_use]
    pub fn of_eip(&self, eip: EipPair) -> Option<&EipLease> {
        let at = self.leases.binary_search_by_key(&eip, |lease| lease.eip);
        self.leases.get(at.ok()?)
    }

    /// Number of all blocks.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.leases.iter().map(|lease| lease.blocks.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_is_named_as_its_node_and_no_name_is_too_long() {
        assert_eq!(LeaseName::new("n1", 0).object(), "n1");
        assert_eq!(LeaseName::new("n1", 12).object(), "n1.part-12");
        let long = |last: &str| LeaseName::new(&format!("{}{last}", "a".repeat(252)), 7).object();
        assert_eq!(long("a").len(), 253);
        assert_ne!(long("a"), long("b"), "they differ where they are cut");
    }

    #[test]
    fn parts_of_a_node_are_not_those_of_another_whose_name_begins_alike() {
        let names = [("n", 0), ("n", 3), ("n.part-3", 0), ("n1", 0)];
        let all = names.map(|(node, part)| (LeaseName::new(node, part), ()));
        let all = BTreeMap::from(all);
        assert_eq!(parts_of(&all, "n").map(|(name, ())| name.part).collect::<Vec<_>>(), [0, 3]);
        assert_eq!(parts_of(&all, "x").count(), 0);
    }
}
