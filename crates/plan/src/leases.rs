//! Which node holds which ports of which EIP.
//!
//! In a small cluster every node that may run a selected pod, which is every node, holds a block of every EIP in use before
//! the first such pod starts. In a large one a node gets its block when the first selected pod is bound to it.
//!
//! The first block is the largest power of two of which all these nodes get one out of half of the ports that can be leased.
//! What is there stays as it is when nodes come and go, until ports run low: then blocks that are larger than the
//! share that a node would get now are split, and what is split off drains. The top quarter of the ports is left for
//! overflow.
//!
//! No port ever has two holders. A block is given on only after its node has been gone, or after nobody had a use for it and
//! it drained, for long enough.

use std::collections::{BTreeMap, BTreeSet};

use model::port_lease::{BlockRole, BlockState, EipLease, LeasedBlock, PortLease};
use model::{EipPair, PortBlock, PortSpace};

use crate::eips::Allocation;
use crate::selection::Selection;
use crate::snapshot::{ClusterSnapshot, LeaseRecord};

/// The largest cluster in which every node holds blocks: more could not all have one out of half of the ports.
const EAGER_NODES: usize = 376;
/// The most leases that are made before they are needed.
const EAGER_LEASES: usize = 20_000;

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

type Blocks = BTreeMap<PortBlock, LeasedBlock>;
type Held = BTreeMap<String, BTreeMap<EipPair, (String, Blocks)>>;

/// Plans all leases.
#[must_use]
pub fn plan(snapshot: &ClusterSnapshot, allocation: &Allocation<'_>, selection: &Selection) -> Leases {
    let mut leases = Leases::default();
    let mut held: Held = Held::new();
    let mut spaces: BTreeMap<EipPair, PortSpace> = BTreeMap::new();
    let wanted = wanted(snapshot, allocation, selection);
    keep(snapshot, allocation, &wanted, &mut held, &mut spaces, &mut leases.wake_at_s);
    for (eip, nodes) in &wanted {
        let Some((gateway, _)) = allocation.eips.get(eip) else { continue };
        let space = spaces.entry(*eip).or_insert_with(PortSpace::source);
        let share = first_block_log2(nodes.len());
        let has_block = |node: &&&str| {
            let blocks = held.get(**node).and_then(|own| own.get(eip)).map(|(_, blocks)| blocks);
            blocks.is_some_and(|blocks| blocks.values().any(|leased| leased.state == BlockState::Active))
        };
        let missing: Vec<&str> = nodes.iter().filter(|node| !has_block(node)).copied().collect();
        let log2 = share.min(bound_log2(space, missing.len()));
        for node in missing {
            let Some(block) = take_up_to(space, log2) else {
                leases.unleased.insert((*eip, node.to_owned()));
                continue;
            };
            let of_node = held.entry(node.to_owned()).or_default();
            let (_, blocks) = of_node.entry(*eip).or_insert_with(|| ((*gateway).to_owned(), Blocks::new()));
            blocks.insert(block, LeasedBlock { block, state: BlockState::Active, role: BlockRole::Source });
        }
        if is_low(space) {
            for node in nodes {
                let own = held.get_mut(*node).and_then(|own| own.get_mut(eip));
                own.into_iter().for_each(|(_, blocks)| split(blocks, share));
            }
        }
    }
    leases.by_node = objects(snapshot, held);
    leases
}

/// The nodes that are to hold a block of each EIP.
fn wanted<'a>(
    snapshot: &'a ClusterSnapshot,
    allocation: &Allocation<'_>,
    selection: &Selection,
) -> BTreeMap<EipPair, BTreeSet<&'a str>> {
    let nodes = snapshot.nodes.len();
    if nodes <= EAGER_NODES && nodes.saturating_mul(allocation.eips.len()) <= EAGER_LEASES {
        let all: BTreeSet<&str> = snapshot.nodes.keys().map(String::as_str).collect();
        return allocation.eips.keys().map(|eip| (*eip, all.clone())).collect();
    }
    let of_eip = allocation.eips.iter().map(|(eip, (_, policies))| {
        let pods =
            policies.iter().flat_map(|key| selection.pods(key)).filter_map(|pod| snapshot.pods.get(pod));
        let nodes = pods.filter_map(|pod| snapshot.nodes.get_key_value(&pod.node));
        (*eip, nodes.map(|(name, _)| name.as_str()).collect())
    });
    of_eip.collect()
}

/// What stays with its holder, and in which state.
fn keep(
    snapshot: &ClusterSnapshot,
    allocation: &Allocation<'_>,
    wanted: &BTreeMap<EipPair, BTreeSet<&str>>,
    held: &mut Held,
    spaces: &mut BTreeMap<EipPair, PortSpace>,
    wake_at_s: &mut Option<i64>,
) {
    for (node, record) in &snapshot.leases {
        for lease in &record.lease.leases {
            let user = allocation.eips.get(&lease.eip).map(|(gateway, _)| *gateway);
            let is_wanted = wanted.get(&lease.eip).is_some_and(|nodes| nodes.contains(node.as_str()));
            let source = lease.blocks.iter().filter(|leased| leased.role == BlockRole::Source);
            let current = current(source.clone(), is_wanted);
            for leased in source {
                let state = match fate(
                    snapshot,
                    node,
                    record,
                    lease.eip,
                    leased.block,
                    current == Some(leased.block),
                ) {
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
                let (_, blocks) = of_node.entry(lease.eip).or_insert_with(|| (gateway, Blocks::new()));
                blocks.insert(leased.block, LeasedBlock { state, ..*leased });
            }
        }
    }
}

/// The one block of a node that new connections use: an active one, else the largest that drains, which serves again.
fn current<'a>(blocks: impl Iterator<Item = &'a LeasedBlock>, is_wanted: bool) -> Option<PortBlock> {
    let best = blocks.max_by_key(|leased| {
        let is_active = leased.state == BlockState::Active;
        (is_active, leased.block.log2_size(), std::cmp::Reverse(leased.block))
    });
    best.filter(|_| is_wanted).map(|leased| leased.block)
}

/// Ports run low: less than a quarter is free.
fn is_low(space: &PortSpace) -> bool {
    space.free_ports() < PortSpace::source().free_ports() / 4
}

/// So large may new blocks be that there is something left for the nodes after these.
fn bound_log2(space: &PortSpace, missing: usize) -> u8 {
    let part = if is_low(space) { 8 } else { 2 };
    block_log2(space.free_ports() / part, missing)
}

/// Cuts active blocks down to that size; the rest drains.
fn split(blocks: &mut Blocks, log2: u8) {
    let large: Vec<LeasedBlock> = blocks
        .values()
        .filter(|leased| leased.state == BlockState::Active && leased.block.log2_size() > log2)
        .copied()
        .collect();
    for leased in large {
        blocks.remove(&leased.block);
        let first = leased.block.first();
        let Some(kept) = PortBlock::new(first, log2) else { continue };
        blocks.insert(kept, LeasedBlock { block: kept, ..leased });
        // Above the kept part: a block of its size, then one of twice that, up to half of what it was.
        for log2 in log2..leased.block.log2_size() {
            let above = first.checked_add(1 << log2).and_then(|first| PortBlock::new(first, log2));
            blocks.extend(
                above.map(|block| (block, LeasedBlock { block, state: BlockState::Draining, ..leased })),
            );
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
    is_current: bool,
) -> Fate {
    let settings = &snapshot.settings;
    let until = |until_s: i64| {
        if until_s <= snapshot.now_s { Fate::Free } else { Fate::Stay(BlockState::Draining, Some(until_s)) }
    };
    if !snapshot.nodes.contains_key(node) {
        let since_s = snapshot.gone_since_s.get(node).copied().unwrap_or(snapshot.now_s);
        return until(since_s.saturating_add(settings.rest_s));
    }
    if is_current {
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
    block_log2(PortSpace::source().free_ports() / 2, nodes)
}

/// The largest power of two of which so many fit, between the smallest and the largest block there is.
fn block_log2(ports: u32, blocks: usize) -> u8 {
    let share = ports / u32::try_from(blocks.max(1)).unwrap_or(u32::MAX);
    let log2 = share.checked_ilog2().and_then(|log2| u8::try_from(log2).ok()).unwrap_or(0);
    log2.clamp(PortBlock::MIN_LOG2, PortBlock::MAX_LOG2 - 1)
}

/// A block of that size, or the largest smaller one that there is.
fn take_up_to(space: &mut PortSpace, log2: u8) -> Option<PortBlock> {
    (PortBlock::MIN_LOG2..=log2).rev().find_map(|log2| space.take(log2))
}

/// The objects that say so: of nodes that hold or held something. That of a node that holds nothing now stays, for its
/// generation must only grow.
fn objects(snapshot: &ClusterSnapshot, mut held: Held) -> BTreeMap<String, Option<PortLease>> {
    for node in snapshot.leases.keys() {
        held.entry(node.clone()).or_default();
    }
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
