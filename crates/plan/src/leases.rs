//! Which node holds which ports of which EIP.
//!
//! In a small cluster every node that may run a selected pod, which is every node, holds a block of every EIP in use before
//! the first such pod starts. In a large one a node gets its block when the first selected pod is bound to it.
//!
//! The first block is the largest power of two of which all these nodes get one out of half of the ports that can be leased.
//! A node that says that it uses most of its block gets one of twice the size, and the old one drains. What is there stays as
//! it is when nodes come and go, until ports run low: then blocks that are larger than the share that a node would get now are
//! split, unless their node uses them, those of idle nodes down to the smallest, and what is split off drains.
//!
//! The top quarter of the ports is for overflow: every node of the EIP's gateway holds a block of it.
//!
//! No port ever has two holders. A block is given on only after its node has been gone, or after nobody had a use for it and
//! it drained, for long enough, and only by a plan that sees it gone from its last holder's lease. A write whose end is not known counts as done until a later one of the same object is.
//!
//! EIPs share no ports, so each is planned by itself ([`of_eip`]), and again only when something of its own has changed.

mod objects;

use std::collections::{BTreeMap, BTreeSet};

use model::policy::PolicyKey;
use model::port_lease::{BlockRole, BlockState, EipLease, LeaseName, LeasedBlock, parts_of};
use model::{EipPair, PortBlock, PortSpace};

pub(crate) use self::objects::of_node;
pub use self::objects::{lease_of, object_ends_at_s, objects};
use crate::Workings;
use crate::eips::Allocation;
use crate::gateways::Gateways;
use crate::selection::Selection;
use crate::snapshot::{ClusterSnapshot, LeaseRecord};

/// The most leases that are made before they are needed.
const EAGER_LEASES: usize = 20_000;
/// Within that time a write has succeeded or never will: an API server gives up long before.
pub const WRITE_LIFETIME_S: i64 = 90;
/// A node that uses more than so many percent of its block gets a larger one.
const BUSY_PERCENT: i64 = 70;
/// Largest block for overflow: a gateway that comes later finds one as well.
const MAX_OVERFLOW_LOG2: u8 = 12;

/// Who uses an EIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EipUse {
    /// The gateway whose pool it is of
    pub gateway: String,
    /// The nodes of that gateway
    pub gateway_nodes: BTreeSet<String>,
    /// The policies that leave with it
    pub policies: BTreeSet<PolicyKey>,
}

/// Who uses each EIP in use.
pub type EipUses = BTreeMap<EipPair, EipUse>;
/// The recorded leases that name each EIP.
pub type Holders = BTreeMap<EipPair, BTreeSet<LeaseName>>;
/// Blocks of a node and an EIP.
pub type Blocks = BTreeMap<PortBlock, LeasedBlock>;

/// Who holds which ports of one EIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EipPlan {
    /// The gateway whose pool it is of
    pub gateway: String,
    /// The blocks of each node
    pub blocks: BTreeMap<String, Blocks>,
    /// Nodes that got no block, because all ports are leased
    pub unleased: BTreeSet<String>,
    /// Nodes that use most of their block and got no larger one, of so many ports, because too few are free
    pub crowded: BTreeMap<String, u32>,
    /// When the next block will have rested
    pub wake_at_s: Option<i64>,
    /// Whether what nodes report of their use, as long as none of them gets busy, may change this
    pub heeds_reports: bool,
}

/// Who uses which EIP, out of the parts of a plan.
#[must_use]
pub fn uses(gateways: &Gateways<'_>, allocation: &Allocation<'_>) -> EipUses {
    let of_eip = allocation.eips.iter().map(|(eip, (gateway, policies))| {
        let nodes = gateways.by_name.get(gateway).map(|examined| &examined.nodes);
        let usage = EipUse {
            gateway: (*gateway).to_owned(),
            gateway_nodes: nodes.into_iter().flatten().map(|node| (*node).to_owned()).collect(),
            policies: policies.iter().map(|key| (*key).clone()).collect(),
        };
        (*eip, usage)
    });
    of_eip.collect()
}

/// Who has which EIP in its lease.
#[must_use]
pub fn holders(snapshot: &ClusterSnapshot) -> Holders {
    let mut holders = Holders::new();
    for (name, record) in &snapshot.leases {
        for lease in &record.lease.leases {
            holders.entry(lease.eip).or_default().insert(name.clone());
        }
    }
    holders
}

/// Whether every node gets a block of every EIP before it needs one.
#[must_use]
pub fn is_eager(snapshot: &ClusterSnapshot, uses: &EipUses) -> bool {
    let nodes = snapshot.nodes.len();
    nodes <= snapshot.settings.eager_nodes && nodes.saturating_mul(uses.len()) <= EAGER_LEASES
}

/// What was planned last, of which that stays on which nothing that it was made from has changed.
#[derive(Default)]
pub(crate) struct Former<'a> {
    pub(crate) workings: Workings,
    /// EIPs of which something has changed but their use
    pub(crate) stale: Option<&'a BTreeSet<EipPair>>,
}

impl Former<'_> {
    /// The plan of an EIP that is used like that, by every node.
    fn take(&mut self, eip: EipPair, usage: Option<&EipUse>) -> Option<EipPlan> {
        let is_stale = self.stale.is_none_or(|stale| stale.contains(&eip));
        if is_stale || self.workings.uses.get(&eip) != usage {
            return None;
        }
        self.workings.ports.remove(&eip)
    }
}

/// Plans the ports of every EIP.
#[must_use]
pub(crate) fn plan(
    snapshot: &ClusterSnapshot,
    uses: &EipUses,
    holders: &Holders,
    selection: &Selection,
    mut former: Former<'_>,
) -> BTreeMap<EipPair, EipPlan> {
    let (nobody, all) = (BTreeSet::new(), snapshot.nodes.keys().map(String::as_str).collect());
    let eager = is_eager(snapshot, uses);
    let eips: BTreeSet<EipPair> = uses.keys().chain(holders.keys()).copied().collect();
    let is_like_before = eager && former.workings.eager && snapshot.nodes.keys().eq(&former.workings.nodes);
    let plans = eips.into_iter().map(|eip| {
        let (usage, holders) = (uses.get(&eip), holders.get(&eip));
        let known = if is_like_before { former.take(eip, usage) } else { None };
        let plan = if let Some(known) = known {
            known
        } else if eager {
            of_eip(snapshot, eip, usage, holders, if usage.is_some() { &all } else { &nobody })
        } else {
            of_eip(snapshot, eip, usage, holders, &wanting(snapshot, usage, selection))
        };
        (eip, plan)
    });
    plans.collect()
}

/// The nodes that run pods of an EIP's policies.
#[must_use]
pub fn wanting<'a>(
    snapshot: &'a ClusterSnapshot,
    usage: Option<&EipUse>,
    selection: &Selection,
) -> BTreeSet<&'a str> {
    let policies = usage.into_iter().flat_map(|usage| &usage.policies);
    let nodes = policies.flat_map(|key| selection.nodes(key));
    let nodes = nodes.filter_map(|node| snapshot.nodes.get_key_value(node));
    nodes.map(|(name, _)| name.as_str()).collect()
}

/// Plans the ports of one EIP.
#[must_use]
pub fn of_eip(
    snapshot: &ClusterSnapshot,
    eip: EipPair,
    usage: Option<&EipUse>,
    holders: Option<&BTreeSet<LeaseName>>,
    wanting: &BTreeSet<&str>,
) -> EipPlan {
    let mut planner = Planner {
        snapshot,
        eip,
        spaces: [PortSpace::source(), PortSpace::overflow()],
        freed: Vec::new(),
        plan: EipPlan {
            gateway: usage.map(|usage| usage.gateway.clone()).unwrap_or_default(),
            ..EipPlan::default()
        },
    };
    let gateway_nodes = usage.map(|usage| &usage.gateway_nodes);
    for (node, held) in planner.held(holders) {
        let is_gateway = gateway_nodes.is_some_and(|nodes| nodes.contains(node));
        planner.keep(node, &held, BlockRole::Source, wanting.contains(node));
        planner.keep(node, &held, BlockRole::Overflow, is_gateway);
    }
    planner.reserve_freed();
    planner.reserve_uncertain();
    planner.give(BlockRole::Source, wanting);
    let of_gateway = gateway_nodes.into_iter().flatten().filter(|node| snapshot.nodes.contains_key(*node));
    planner.give(BlockRole::Overflow, &of_gateway.map(String::as_str).collect());
    planner.grow(wanting);
    planner.shrink(wanting);
    planner.plan.heeds_reports = planner.heeds_reports(wanting);
    planner.plan.blocks.retain(|_, blocks| !blocks.is_empty());
    planner.plan
}

/// What an object says of the EIP.
struct Held<'a> {
    name: &'a LeaseName,
    record: &'a LeaseRecord,
    lease: &'a EipLease,
}

impl<'a> Held<'a> {
    fn of_role(&self, role: BlockRole) -> impl Iterator<Item = &'a LeasedBlock> + use<'a> {
        self.lease.blocks.iter().filter(move |leased| leased.role == role)
    }
}

struct Planner<'a> {
    snapshot: &'a ClusterSnapshot,
    eip: EipPair,
    /// What is free, for sources and for overflow
    spaces: [PortSpace; 2],
    /// What its holder has to give back first
    freed: Vec<LeasedBlock>,
    plan: EipPlan,
}

impl<'a> Planner<'a> {
    fn space(&mut self, role: BlockRole) -> &mut PortSpace {
        let [source, overflow] = &mut self.spaces;
        match role {
            BlockRole::Source => source,
            BlockRole::Overflow => overflow,
        }
    }

    /// What each node holds, from whichever of its objects.
    fn held(&self, holders: Option<&BTreeSet<LeaseName>>) -> BTreeMap<&'a str, Vec<Held<'a>>> {
        let mut held: BTreeMap<&str, Vec<Held<'a>>> = BTreeMap::new();
        for name in holders.into_iter().flatten() {
            let Some((name, record)) = self.snapshot.leases.get_key_value(name) else { continue };
            if let Some(lease) = record.lease.of_eip(self.eip) {
                held.entry(&name.node).or_default().push(Held { name, record, lease });
            }
        }
        held
    }

    /// What stays with its holder, and in which state.
    fn keep(&mut self, node: &str, held: &[Held<'_>], role: BlockRole, is_wanted: bool) {
        let current = current(held.iter().flat_map(|held| held.of_role(role)), is_wanted);
        for held in held {
            if self.plan.gateway.is_empty() {
                self.plan.gateway.clone_from(&held.lease.gateway);
            }
            for leased in held.of_role(role) {
                let is_current = current == Some(leased.block);
                let fate = fate(self.snapshot, held, self.eip, leased.block, is_current);
                let Fate::Stay(state, until_s) = fate else {
                    self.freed.push(*leased);
                    continue;
                };
                self.plan.wake_at_s = [self.plan.wake_at_s, until_s].into_iter().flatten().min();
                // Of two holders, which is never planned, the first by name keeps the block.
                if self.space(role).take_exactly(leased.block) {
                    let blocks = self.plan.blocks.entry(node.to_owned()).or_default();
                    blocks.insert(leased.block, LeasedBlock { state, ..*leased });
                }
            }
        }
    }

    /// What is taken from a node is given to another once it is known to be gone from the first one's lease.
    fn reserve_freed(&mut self) {
        for leased in self.freed.clone() {
            reserve(self.space(leased.role), leased.block);
        }
    }

    /// Nobody else gets what a write may have given away of which nobody knows how it ended.
    fn reserve_uncertain(&mut self) {
        let (snapshot, eip) = (self.snapshot, self.eip);
        let uncertain = snapshot.uncertain_leases.values().flat_map(|lease| &lease.leases);
        for lease in uncertain.filter(|lease| lease.eip == eip) {
            for leased in &lease.blocks {
                reserve(self.space(leased.role), leased.block);
            }
        }
    }

    /// Gives a block to each node that has none for new connections.
    fn give(&mut self, role: BlockRole, nodes: &BTreeSet<&str>) {
        let missing: Vec<&str> =
            nodes.iter().filter(|node| self.active(node, role).is_none()).copied().collect();
        let (full, max) = match role {
            BlockRole::Source => (PortSpace::source(), log2_of(self.snapshot.settings.max_ports_per_node)),
            BlockRole::Overflow => (PortSpace::overflow(), MAX_OVERFLOW_LOG2),
        };
        let share = block_log2(full.free_ports() / 2, nodes.len()).min(max);
        let space = self.space(role);
        let part = if is_low(space, &full) { 8 } else { 2 };
        let log2 = share.min(block_log2(space.free_ports() / part, missing.len()));
        for node in missing {
            let Some(block) = take_up_to(self.space(role), log2) else {
                if role == BlockRole::Source {
                    self.plan.unleased.insert(node.to_owned());
                }
                continue;
            };
            let blocks = self.plan.blocks.entry(node.to_owned()).or_default();
            blocks.insert(block, LeasedBlock { block, state: BlockState::Active, role });
        }
    }

    /// The block that a node's new connections use.
    fn active(&self, node: &str, role: BlockRole) -> Option<PortBlock> {
        let blocks = self.plan.blocks.get(node)?;
        let active = blocks.values().find(|leased| leased.state == BlockState::Active && leased.role == role);
        active.map(|leased| leased.block)
    }

    /// Ports that a node says it uses; `None` as long as it speaks of other blocks than it has now.
    fn in_use(&self, node: &str) -> Option<i64> {
        let record = self.record(node)?;
        let is_loaded = record.observed_generation >= record.lease.generation;
        record.ports_in_use.get(&self.eip).copied().filter(|_| is_loaded)
    }

    /// The object in which a node speaks of the EIP.
    fn record(&self, node: &str) -> Option<&'a LeaseRecord> {
        let mut records = parts_of(&self.snapshot.leases, node).map(|(_, record)| record);
        records.find(|record| record.lease.of_eip(self.eip).is_some())
    }

    /// Ports that a node last said it uses, of whatever blocks.
    fn last_in_use(&self, node: &str) -> i64 {
        let record = self.record(node);
        record.and_then(|record| record.ports_in_use.get(&self.eip).copied()).unwrap_or(0)
    }

    /// Gives busy nodes a block of twice the size, as long as there is enough for the others.
    fn grow(&mut self, wanting: &BTreeSet<&str>) {
        let max = log2_of(self.snapshot.settings.max_ports_per_node);
        // What is being given back is there with the next plan: nobody is told of a shortage in between.
        let mut soon = self.spaces[0].clone();
        for leased in self.freed.iter().filter(|leased| leased.role == BlockRole::Source) {
            soon.give_back(leased.block);
        }
        let takes = |space: &mut PortSpace, log2| {
            let is_low = is_low(space, &PortSpace::source());
            if is_low { None } else { space.take(log2) }
        };
        for node in wanting {
            let Some(block) = self.active(node, BlockRole::Source) else { continue };
            let log2 = block.log2_size() + 1;
            if !is_busy(block, self.last_in_use(node)) || log2 > max {
                continue;
            }
            if takes(&mut soon, log2).is_none() {
                self.plan.crowded.insert((*node).to_owned(), 2 * block.size());
                continue;
            }
            // What it says may be of its blocks before it got this one.
            if self.in_use(node).is_none() {
                continue;
            }
            let Some(larger) = takes(self.space(BlockRole::Source), log2) else { continue };
            let blocks = self.plan.blocks.entry((*node).to_owned()).or_default();
            if let Some(leased) = blocks.get_mut(&block) {
                leased.state = BlockState::Draining;
            }
            let leased = LeasedBlock { block: larger, state: BlockState::Active, role: BlockRole::Source };
            blocks.insert(larger, leased);
        }
    }

    /// Reports are of blocks that drain, of ports that run low, and of busy nodes; else they change nothing.
    fn heeds_reports(&self, wanting: &BTreeSet<&str>) -> bool {
        let mut blocks = self.plan.blocks.values().flat_map(BTreeMap::values);
        let drains = blocks.any(|leased| leased.state == BlockState::Draining);
        let is_busy = |node: &&&str| {
            let block = self.active(node, BlockRole::Source);
            block.is_some_and(|block| is_busy(block, self.last_in_use(node)))
        };
        drains
            || !self.freed.is_empty()
            || is_low(&self.spaces[0], &PortSpace::source())
            || wanting.iter().find(is_busy).is_some()
    }

    /// Splits blocks that are larger than their node's share, once ports run low.
    fn shrink(&mut self, wanting: &BTreeSet<&str>) {
        if !is_low(&self.spaces[0], &PortSpace::source()) {
            return;
        }
        let share = first_block_log2(wanting.len());
        for node in wanting {
            let log2 = match self.in_use(node) {
                Some(0) => PortBlock::MIN_LOG2,
                Some(used) => share.max(log2_of_use(used)),
                // What it said of earlier blocks is the best that is known: a busy node must not lose its ports to that.
                None => share.max(log2_of_use(self.last_in_use(node))),
            };
            if let Some(blocks) = self.plan.blocks.get_mut(*node) {
                split(blocks, log2);
            }
        }
    }
}

/// Takes whatever is still free of a block.
fn reserve(space: &mut PortSpace, block: PortBlock) {
    let free: Vec<PortBlock> = space.free_blocks().filter(|free| free.overlaps(&block)).collect();
    for free in free {
        space.take_exactly(if free.size() < block.size() { free } else { block });
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

/// Whether a node that uses so many ports of its block needs a larger one.
fn is_busy(block: PortBlock, in_use: i64) -> bool {
    in_use.saturating_mul(100) > i64::from(block.size()).saturating_mul(BUSY_PERCENT)
}

/// Whether a report of so many ports in use says that a node gets busy.
pub(crate) fn is_busy_with(plan: &EipPlan, node: &str, in_use: i64) -> bool {
    let blocks = plan.blocks.get(node).into_iter().flat_map(BTreeMap::values);
    blocks.map(|leased| leased.block).any(|block| is_busy(block, in_use))
}

/// Ports run low: less than a quarter is free.
fn is_low(space: &PortSpace, full: &PortSpace) -> bool {
    space.free_ports() < full.free_ports() / 4
}

/// Cuts active source blocks down to that size; the rest drains.
fn split(blocks: &mut Blocks, log2: u8) {
    let large: Vec<LeasedBlock> = blocks
        .values()
        .filter(|leased| leased.role == BlockRole::Source && leased.state == BlockState::Active)
        .filter(|leased| leased.block.log2_size() > log2)
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
    held: &Held<'_>,
    eip: EipPair,
    block: PortBlock,
    is_current: bool,
) -> Fate {
    let (settings, Held { name, record, .. }) = (&snapshot.settings, held);
    let until = |until_s: i64| {
        if until_s <= snapshot.now_s { Fate::Free } else { Fate::Stay(BlockState::Draining, Some(until_s)) }
    };
    if !snapshot.nodes.contains_key(&name.node) {
        let since_s = snapshot.gone_since_s.get(&name.node).copied().unwrap_or(snapshot.now_s);
        return until(since_s.saturating_add(settings.rest_s));
    }
    if is_current {
        return Fate::Stay(BlockState::Active, None);
    }
    let since_s = snapshot.draining_since_s.get(&((*name).clone(), eip, block)).copied();
    let Some(since_s) = since_s else {
        let until_s = snapshot.now_s.saturating_add(settings.drain_s);
        return Fate::Stay(BlockState::Draining, Some(until_s));
    };
    let is_loaded = record.observed_generation >= record.lease.generation;
    let is_unused = record.idle.contains(&(eip, block.first())) || record.ports_in_use.get(&eip) == Some(&0);
    let is_idle = is_loaded && is_unused;
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
    log2_of(ports / u32::try_from(blocks.max(1)).unwrap_or(u32::MAX)).min(PortBlock::MAX_LOG2 - 1)
}

/// The largest power of two that is no more, and that a block can have.
fn log2_of(ports: u32) -> u8 {
    let log2 = ports.checked_ilog2().and_then(|log2| u8::try_from(log2).ok()).unwrap_or(0);
    log2.clamp(PortBlock::MIN_LOG2, PortBlock::MAX_LOG2)
}

/// The smallest block in which so many ports don't make its node busy.
fn log2_of_use(used: i64) -> u8 {
    let needed = u32::try_from(used.saturating_mul(100) / BUSY_PERCENT + 1).unwrap_or(u32::MAX);
    log2_of(needed.checked_next_power_of_two().unwrap_or(u32::MAX))
}

/// A block of that size, or the largest smaller one that there is.
fn take_up_to(space: &mut PortSpace, log2: u8) -> Option<PortBlock> {
    (PortBlock::MIN_LOG2..=log2).rev().find_map(|log2| space.take(log2))
}
