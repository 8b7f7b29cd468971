//! Port blocks: how the ports of one egress IP are shared out between nodes.

use std::collections::BTreeSet;
use std::fmt;

/// First port that may be leased. Lower ones are privileged, and many firewalls treat them apart.
pub const FIRST_PORT: u16 = 1024;

/// First port of the overflow range, the top quarter of the port space, which belongs to an EIP's gateways.
pub const FIRST_OVERFLOW_PORT: u16 = 49152;

/// Aligned range of an EIP's ports that one node holds: `1 << log2_size` ports from `first`.
///
/// Aligned to its own size, so that `port & mask == first` tells membership with one bit operation; the kernel's hash
/// maps of the gateways have exactly that as their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortBlock {
    first: u16,
    log2_size: u8,
}

impl PortBlock {
    /// Smallest block: 64 ports.
    pub const MIN_LOG2: u8 = 6;
    /// Largest block: 32,768 ports.
    pub const MAX_LOG2: u8 = 15;

    /// `None` unless the block is aligned, of 64 to 32,768 ports, and inside 1024..=65535.
    #[must_use]
    pub fn new(first: u16, log2_size: u8) -> Option<Self> {
        let sized = (Self::MIN_LOG2..=Self::MAX_LOG2).contains(&log2_size);
        let aligned = first.trailing_zeros() >= u32::from(log2_size);
        (sized && aligned && first >= FIRST_PORT).then_some(Self { first, log2_size })
    }

    /// `None` unless `size` is a power of two and the block is valid.
    #[must_use]
    pub fn from_size(first: u16, size: u32) -> Option<Self> {
        size.is_power_of_two().then(|| Self::new(first, size.trailing_zeros() as u8)).flatten()
    }

    /// First port.
    #[must_use]
    pub fn first(&self) -> u16 {
        self.first
    }

    /// Last port, included.
    #[must_use]
    pub fn last(&self) -> u16 {
        self.first | !self.mask()
    }

    /// Number of ports.
    #[must_use]
    pub fn size(&self) -> u32 {
        1 << self.log2_size
    }

    /// Binary logarithm of the number of ports, 6 to 15.
    #[must_use]
    pub fn log2_size(&self) -> u8 {
        self.log2_size
    }

    /// `port & mask == first` holds for the block's ports and no others.
    #[must_use]
    pub fn mask(&self) -> u16 {
        u16::MAX << self.log2_size
    }

    /// Whether the port is inside.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        port & self.mask() == self.first
    }

    /// Whether the two share a port (then one contains the other).
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// Whether the block lies in the gateways' overflow range.
    #[must_use]
    pub fn is_overflow(&self) -> bool {
        self.first >= FIRST_OVERFLOW_PORT
    }
}

/// `4096-8191`.
impl fmt::Display for PortBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last())
    }
}

/// The free ports of one EIP, as a buddy allocator: deterministic (lowest fitting block first), never fragmented by
/// more than the blocks that are really held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpace {
    free: BTreeSet<PortBlock>,
}

impl PortSpace {
    /// Ports that source nodes lease: 1024..=49151.
    #[must_use]
    pub fn source() -> Self {
        Self::of(&[(1024, 10), (2048, 11), (4096, 12), (8192, 13), (16384, 14), (32768, 14)])
    }

    /// Ports that gateways lease for overflow: 49152..=65535.
    #[must_use]
    pub fn overflow() -> Self {
        Self::of(&[(FIRST_OVERFLOW_PORT, 14)])
    }

    fn of(blocks: &[(u16, u8)]) -> Self {
        Self { free: blocks.iter().filter_map(|&(first, log2)| PortBlock::new(first, log2)).collect() }
    }

    /// Number of free ports.
    #[must_use]
    pub fn free_ports(&self) -> u32 {
        self.free.iter().map(PortBlock::size).sum()
    }

    /// The free blocks, lowest first.
    pub fn free_blocks(&self) -> impl Iterator<Item = PortBlock> + '_ {
        self.free.iter().copied()
    }

    /// Takes a block of `1 << log2_size` ports: out of the smallest free block that fits, the lowest of these.
    pub fn take(&mut self, log2_size: u8) -> Option<PortBlock> {
        let fitting = self.free.iter().copied().filter(|free| free.log2_size >= log2_size);
        let mut block = fitting.min_by_key(|free| (free.log2_size, free.first))?;
        if !(PortBlock::MIN_LOG2..=PortBlock::MAX_LOG2).contains(&log2_size) {
            return None;
        }
        self.free.remove(&block);
        while block.log2_size > log2_size {
            let [low, high] = halves(block);
            self.free.insert(high);
            block = low;
        }
        Some(block)
    }

    /// Takes exactly this block; `false` (and nothing changes) if any of its ports is not free.
    pub fn take_exactly(&mut self, wanted: PortBlock) -> bool {
        let Some(mut block) = self.free.iter().copied().find(|free| free.contains(wanted.first)) else {
            return false;
        };
        if block.log2_size < wanted.log2_size {
            return false;
        }
        self.free.remove(&block);
        while block != wanted {
            let [low, high] = halves(block);
            let (inside, rest) = if low.contains(wanted.first) { (low, high) } else { (high, low) };
            self.free.insert(rest);
            block = inside;
        }
        true
    }

    /// Gives a block back and joins it with its free buddies. A block that is (partly) free already is ignored.
    pub fn give_back(&mut self, mut block: PortBlock) {
        if self.free.iter().any(|free| free.overlaps(&block)) {
            return;
        }
        while let Some(parent) = parent(block) {
            let [low, high] = halves(parent);
            let buddy = if low == block { high } else { low };
            if !self.free.remove(&buddy) {
                break;
            }
            block = parent;
        }
        self.free.insert(block);
    }
}

fn halves(block: PortBlock) -> [PortBlock; 2] {
    let log2_size = block.log2_size - 1;
    [
        PortBlock { first: block.first, log2_size },
        PortBlock { first: block.first | 1 << log2_size, log2_size },
    ]
}

/// The block that this one is a half of; `None` across the border of the overflow range or below port 1024.
fn parent(block: PortBlock) -> Option<PortBlock> {
    let log2_size = block.log2_size + 1;
    let parent = PortBlock::new(block.first & u16::MAX.checked_shl(log2_size.into())?, log2_size)?;
    let one_range = (parent.first >= FIRST_OVERFLOW_PORT) == (parent.last() >= FIRST_OVERFLOW_PORT);
    one_range.then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_block_is_aligned_and_above_the_privileged_ports() {
        assert_eq!(
            PortBlock::new(4096, 12).map(|b| (b.first(), b.last(), b.size())),
            Some((4096, 8191, 4096))
        );
        assert_eq!(PortBlock::new(32768, 15).map(|b| b.last()), Some(65535));
        for (first, log2) in [(4096, 13), (0, 10), (512, 9), (1024, 5), (1040, 6), (0, 16), (32768, 16)] {
            assert_eq!(PortBlock::new(first, log2), None, "{first} {log2}");
        }
        assert_eq!(PortBlock::from_size(4096, 4095), None);
        assert_eq!(PortBlock::from_size(4096, 0), None);
    }

    #[test]
    fn the_two_spaces_cover_every_unprivileged_port_once() {
        assert_eq!(PortSpace::source().free_ports(), 49152 - 1024);
        assert_eq!(PortSpace::overflow().free_ports(), 16384);
    }

    proptest! {
        #[test]
        fn blocks_taken_never_overlap_and_giving_all_back_restores_the_space(
            sizes in proptest::collection::vec(0u8..18, 0..200),
            keep in proptest::collection::vec(any::<bool>(), 200),
        ) {
            let mut space = PortSpace::source();
            let mut taken: Vec<PortBlock> = Vec::new();
            for (size, keep) in sizes.into_iter().zip(keep) {
                let Some(block) = space.take(size) else { continue };
                prop_assert!(taken.iter().all(|other| !other.overlaps(&block)));
                prop_assert!(!block.is_overflow());
                if keep { taken.push(block) } else { space.give_back(block) }
            }
            let mut again = PortSpace::source();
            for block in &taken {
                prop_assert!(again.take_exactly(*block));
                prop_assert!(!again.take_exactly(*block));
            }
            prop_assert_eq!(again.free_ports(), space.free_ports());
            for block in taken { space.give_back(block); space.give_back(block); }
            prop_assert_eq!(space, PortSpace::source());
        }
    }
}
