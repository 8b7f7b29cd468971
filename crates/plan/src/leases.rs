//! Which node holds which ports of which EIP.
//!
//! Eager: every node that may run a selected pod, which is every node, holds a block of every EIP in use before the first
//! such pod starts. The first block is the largest power of two of which all nodes get one out of half of the ports that
//! can be leased; what is there stays as it is when nodes come and go. The top quarter of the ports is left for overflow.
//!
//! No block ever has two holders. A block is given on only after its node has been gone, or its EIP unused and drained,
//! for long enough.

use std::collections::{BTreeMap, BTreeSet};

use model::port_lease::{BlockRole, BlockState, EipLease, LeasedBlock, PortLease};
use model::{EipPair, PortBlock, PortSpace};

use crate::eips::Allocation;
use crate::snapshot::{ClusterSnapshot, LeaseRecord};

/// What nodes hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// By node; `None`: the object is to be deleted
    pub by_node: BTreeMap<String, Option<PortLease>>,
    /// Nodes that got no block of an EIP, because all its ports are leased
    pub unleased: BTreeSet<(EipPair, String)>,
    /// When the next block will have rested
    pub wake_at_s: Option<i64>,
}

type Held = BTreeMap<String, BTreeMap<EipPair, (String, BTreeMap<PortBlock, LeasedBlock>)>>;

/// Plans all leases.
#[must_use]
pub fn plan(snapshot: &ClusterSnapshot, allocation: &Allocation<'_>) -> Leases {
    let mut leases = Leases::default();
    let mut held: Held = snapshot.nodes.keys().map(|node| (node.clone(), BTreeMap::new())).collect();
    let mut spaces: BTreeMap<EipPair, PortSpace> = BTreeMap::new();
    keep(snapshot, allocation, &mut held, &mut spaces, &mut leases.wake_at_s);
    for (eip, (gateway, _)) in &allocation.eips {
        let space = spaces.entry(*eip).or_insert_with(PortSpace::source);
        let first_log2 = first_block_log2(snapshot.nodes.len());
        for node in snapshot.nodes.keys() {
            let Some(own) = held.get_mut(node) else { continue };
            let (_, blocks) = own.entry(*eip).or_insert_with(|| ((*gateway).to_owned(), BTreeMap::new()));
            if blocks.values().any(|leased| leased.state == BlockState::Active) {
                continue;
            }
            match take_up_to(space, first_log2) {
                Some(block) => {
                    let leased = LeasedBlock { block, state: BlockState::Active, role: BlockRole::Source };
                    blocks.insert(block, leased);
                }
                None => {
                    leases.unleased.insert((*eip, node.clone()));
                }
            }
        }
    }
    leases.by_node = objects(snapshot, held);
    leases
}

/// What stays with its holder, and in which state.
fn keep(
    snapshot: &ClusterSnapshot,
    allocation: &Allocation<'_>,
    held: &mut Held,
    spaces: &mut BTreeMap<EipPair, PortSpace>,
    wake_at_s: &mut Option<i64>,
) {
    for (node, record) in &snapshot.leases {
        for lease in &record.lease.leases {
            let user = allocation.eips.get(&lease.eip).map(|(gateway, _)| *gateway);
            for leased in lease.blocks.iter().filter(|leased| leased.role == BlockRole::Source) {
                let state = match fate(snapshot, node, record, lease.eip, leased.block, user.is_some()) {
                    Fate::Stay(state, until_s) => {
                        *wake_at_s = [*wake_at_s, until_s].into_iter().flatten().min();
                        state
                    }
                    Fate::Free => continue,
                };
                // Of two holders, which is never planned, the first by name keeps the block.
                if !spaces.entry(lease.eip).or_insert_with(PortSpace::source).take_exactly(leased.block) {
                    continue;
                }
                let of_node = held.entry(node.clone()).or_default();
                let gateway = user.unwrap_or(&lease.gateway).to_owned();
                let (_, blocks) = of_node.entry(lease.eip).or_insert_with(|| (gateway, BTreeMap::new()));
                blocks.insert(leased.block, LeasedBlock { state, ..*leased });
            }
        }
    }
}

enum Fate {
    /// Stays in this state, and if it does not stay for ever, until then
    Stay(BlockState, Option<i64>),
    /// May be given to another
    Free,
}

fn fate(
    snapshot: &ClusterSnapshot,
    node: &str,
    record: &LeaseRecord,
    eip: EipPair,
    block: PortBlock,
    in_use: bool,
) -> Fate {
    let settings = &snapshot.settings;
    let until = |until_s: i64| {
        if until_s <= snapshot.now_s { Fate::Free } else { Fate::Stay(BlockState::Draining, Some(until_s)) }
    };
    if !snapshot.nodes.contains_key(node) {
        let since_s = snapshot.gone_since_s.get(node).copied().unwrap_or(snapshot.now_s);
        return until(since_s.saturating_add(settings.rest_s));
    }
    if in_use {
        return Fate::Stay(BlockState::Active, None);
    }
    let since_s = snapshot.draining_since_s.get(&(node.to_owned(), eip, block)).copied();
    let Some(since_s) = since_s else {
        let until_s = snapshot.now_s.saturating_add(settings.drain_s);
        return Fate::Stay(BlockState::Draining, Some(until_s));
    };
    let is_loaded = record.observed_generation >= record.lease.generation;
    let is_idle = is_loaded && record.ports_in_use.get(&eip) == Some(&0);
    until(since_s.saturating_add(if is_idle {
        settings.rest_s.min(settings.drain_s)
    } else {
        settings.drain_s
    }))
}

/// Size of a node's first block of an EIP, as a power of two.
#[must_use]
pub fn first_block_log2(nodes: usize) -> u8 {
    let half = PortSpace::source().free_ports() / 2;
    let share = half / u32::try_from(nodes.max(1)).unwrap_or(u32::MAX);
    let log2 = share.checked_ilog2().and_then(|log2| u8::try_from(log2).ok()).unwrap_or(0);
    log2.clamp(PortBlock::MIN_LOG2, PortBlock::MAX_LOG2 - 1)
}

/// A block of that size, or the largest smaller one that there is.
fn take_up_to(space: &mut PortSpace, log2: u8) -> Option<PortBlock> {
    (PortBlock::MIN_LOG2..=log2).rev().find_map(|log2| space.take(log2))
}

/// The objects that say so: of nodes that hold or held something.
fn objects(snapshot: &ClusterSnapshot, held: Held) -> BTreeMap<String, Option<PortLease>> {
    let mut objects: BTreeMap<String, Option<PortLease>> =
        snapshot.leases.keys().map(|node| (node.clone(), None)).collect();
    for (node, leases) in held {
        let recorded = snapshot.leases.get(&node).map(|record| &record.lease);
        let leases = leases.into_iter().filter(|(_, (_, blocks))| !blocks.is_empty());
        let leases: Vec<EipLease> = leases
            .map(|(eip, (gateway, blocks))| EipLease { gateway, eip, blocks: blocks.into_values().collect() })
            .collect();
        let is_wanted = !leases.is_empty() || (recorded.is_some() && snapshot.nodes.contains_key(&node));
        if !is_wanted {
            continue;
        }
        let generation = match recorded {
            Some(recorded) if recorded.leases == leases => recorded.generation,
            Some(recorded) => recorded.generation.saturating_add(1),
            None => 1,
        };
        objects.insert(node, Some(PortLease { generation, leases }));
    }
    objects
}
