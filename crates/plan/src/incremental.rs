//! A plan that is kept up to date: an event costs what depends on it, and not what there is.
//!
//! ```text
//!   pod           -> its policies' slices, who wins how many pods, and the ports of their EIPs
//!   lease         -> the ports of its EIPs
//!   slice         -> its policy's slices
//!   own writes    -> nothing
//!   all else      -> everything
//! ```
//!
//! Whatever is planned again is planned by the same functions as the whole, so that [`Planner::plan`] always gives what
//! [`crate::plan()`] gives.

use std::collections::{BTreeMap, BTreeSet};

use model::EipPair;
use model::cluster::{Pod, PodKey};
use model::policy::PolicyKey;
use model::port_lease::{LeaseName, parts_of};

use crate::leases::{self, Former, Holders};
use crate::outcome::{self, Plan};
use crate::selection::Selection;
use crate::settings::Settings;
use crate::snapshot::{ClusterSnapshot, Event, LeaseRecord, SliceKey, SliceRecord, Verdict};
use crate::violations::{self, Violation};
use crate::{Workings, cluster_networks, compute, endpoint_slices};

/// A snapshot and its plan.
#[derive(Clone, Debug)]
pub struct Planner {
    snapshot: ClusterSnapshot,
    plan: Plan,
    workings: Workings,
    selection: Selection,
    holders: Holders,
    /// Slices of each policy, as they are and as they are to be
    slices_of: BTreeMap<PolicyKey, BTreeSet<SliceKey>>,
    /// When the ports of which EIP are to be looked at again
    wakes: BTreeSet<(i64, EipPair)>,
    stale: Stale,
}

/// What has to be planned again.
#[derive(Clone, Debug, Default)]
struct Stale {
    /// Everything
    whole: bool,
    /// Nothing of the last plan is to be relied on
    anew: bool,
    /// Which pods policies select
    selection: bool,
    /// Networks of the cluster
    networks: bool,
    policies: BTreeSet<PolicyKey>,
    eips: BTreeSet<EipPair>,
    /// Nodes whose leases were written or seen
    nodes: BTreeSet<String>,
}

/// What may have changed in a plan since the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Anything
    Everything,
    /// These, and nothing else
    Parts(Parts),
}

/// Parts of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Policies with another status
    pub policies: BTreeSet<PolicyKey>,
    /// Slices, as they were or are to be
    pub slices: BTreeSet<SliceKey>,
    /// Nodes with another lease
    pub nodes: BTreeSet<String>,
    /// What is planned for these nodes, object by object
    pub leases: BTreeSet<LeaseName>,
    /// EIPs whose ports were looked at
    pub eips: BTreeSet<EipPair>,
    /// Whether the cluster's networks were looked at
    pub networks: bool,
}

impl Planner {
    /// Of a cluster of which nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            snapshot: ClusterSnapshot::new(settings),
            plan: Plan::default(),
            workings: Workings::default(),
            selection: Selection::default(),
            holders: Holders::new(),
            slices_of: BTreeMap::new(),
            wakes: BTreeSet::new(),
            stale: Stale { whole: true, selection: true, ..Stale::default() },
        }
    }

    /// All that is known.
    #[must_use]
    pub fn snapshot(&self) -> &ClusterSnapshot {
        &self.snapshot
    }

    /// The plan as it was last made.
    #[must_use]
    pub fn last(&self) -> &Plan {
        &self.plan
    }

    /// Whether there is something to plan.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let Stale { whole, anew: _, selection, networks, policies, eips, nodes } = &self.stale;
        *whole || *selection || *networks || !policies.is_empty() || !eips.is_empty() || !nodes.is_empty()
    }

    /// The next plan is made from nothing, and counts as new as a whole: what was planned could not be written.
    pub fn forget(&mut self) {
        (self.stale.whole, self.stale.anew) = (true, true);
    }

    /// Takes an event in. Whether the plan may depend on it.
    pub fn absorb(&mut self, event: Event) -> bool {
        match event {
            Event::Pod(key, pod) => self.pod(key, pod),
            Event::Lease(name, lease) => self.lease(name, lease),
            Event::UncertainLease(name, lease) => {
                let before = self.snapshot.uncertain_leases.get(&name).cloned();
                if before.is_none() && lease.is_none() {
                    return false;
                }
                let leases = before.iter().chain(&lease).flat_map(|lease| &lease.leases);
                self.stale.eips.extend(leases.map(|lease| lease.eip));
                self.stale.nodes.insert(name.node.clone());
                self.snapshot.absorb(Event::UncertainLease(name, lease))
            }
            Event::Slice(key, slice) => self.slice(key, slice),
            Event::Now(now_s) => {
                let silences = self.snapshot.silences();
                let changed = self.snapshot.absorb(Event::Now(now_s));
                self.stale.whole |= self.snapshot.silences() != silences;
                let due = self.wakes.iter().take_while(|(at_s, _)| *at_s <= now_s);
                self.stale.eips.extend(due.map(|(_, eip)| *eip));
                let gone = self.snapshot.gone_since_s.iter();
                let ended =
                    gone.filter(|(_, since_s)| leases::object_ends_at_s(&self.snapshot, **since_s) <= now_s);
                self.stale.nodes.extend(ended.map(|(node, _)| node.clone()));
                self.stale.whole |= self.workings.moves_wake_at_s.is_some_and(|at_s| at_s <= now_s);
                changed
            }
            Event::ServiceCidr(..) | Event::ControlPlane(..) | Event::PodPool(..) => {
                let changed = self.snapshot.absorb(event);
                self.stale.networks |= changed;
                changed
            }
            // Somebody else may have written the status.
            Event::ClusterInfo(Some(new))
                if self.snapshot.cluster_info.as_ref().is_some_and(|known| known.spec == new.spec) =>
            {
                let differs = self.plan.cluster_networks.as_ref() != Some(&new.status);
                self.stale.networks |= differs;
                self.snapshot.absorb(Event::ClusterInfo(Some(new))) && differs
            }
            Event::Service(ref key, ref addresses) => {
                let before = self.snapshot.services.get(key);
                let mut addresses = before.into_iter().chain(addresses).flatten();
                self.stale.whole |= addresses.any(|address| self.workings.is_in_a_pool(*address));
                let changed = self.snapshot.absorb(event);
                self.stale.networks |= changed;
                changed
            }
            other => {
                let is_as_planned = self.is_as_planned(&other);
                let selects = match &other {
                    Event::Policy(key, record) => {
                        let spec = |record: Option<&crate::snapshot::PolicyRecord>| {
                            record.map(|record| (record.spec.clone(), record.created_at_s))
                        };
                        spec(record.as_ref()) != spec(self.snapshot.policies.get(key))
                    }
                    Event::Namespace(..) => true,
                    _ => false,
                };
                let changed = self.snapshot.absorb(other);
                self.stale.whole |= changed && !is_as_planned;
                self.stale.selection |= changed && selects;
                changed && !is_as_planned
            }
        }
    }

    /// Whether an object has become what the plan says, and nothing else of it has changed.
    fn is_as_planned(&self, event: &Event) -> bool {
        match event {
            Event::Policy(key, Some(new)) => {
                let (known, planned) = (self.snapshot.policies.get(key), self.plan.policies.get(key));
                known.zip(planned).is_some_and(|(known, planned)| {
                    let mut known = known.clone();
                    known.status.clone_from(&planned.status);
                    known == *new
                })
            }
            // Whether a move has ended shows once the status is written.
            Event::Gateway(_, Some(new)) if !new.moves.is_empty() => false,
            Event::Gateway(name, Some(new)) => {
                let (known, planned) = (self.snapshot.gateways.get(name), self.plan.gateways.get(name));
                known.zip(planned).is_some_and(|(known, planned)| {
                    let mut known = known.clone();
                    known.status.clone_from(&planned.status);
                    known == *new
                })
            }
            Event::Tunnel(name, Some(new)) => {
                let (known, planned) = (self.snapshot.tunnels.get(name), self.plan.tunnels.get(name));
                known.zip(planned).is_some_and(|(known, planned)| {
                    let mut known = known.clone();
                    let tunnel = &mut known.tunnel;
                    (tunnel.ipv4, tunnel.ipv6, tunnel.mark) = (planned.ipv4, planned.ipv6, planned.mark);
                    (tunnel.mac, tunnel.phase) = (Some(planned.mac), Some(planned.phase));
                    tunnel.message.clone_from(&planned.message);
                    known == *new
                })
            }
            _ => false,
        }
    }

    fn pod(&mut self, key: PodKey, pod: Option<Pod>) -> bool {
        let before = self.snapshot.pods.get(&key).cloned();
        if before == pod {
            return false;
        }
        let mut policies = BTreeSet::new();
        // Of a policy that runs on another node now, or no longer on one.
        let mut moved: BTreeSet<PolicyKey> = BTreeSet::new();
        if !self.stale.selection
            && let Some(before) = &before
        {
            let of_pod = self.selection.remove(&self.snapshot, &key, before);
            moved.extend(of_pod.iter().filter(|key| !self.selection.runs_on(key, &before.node)).cloned());
            policies.extend(of_pod);
        }
        self.snapshot.absorb(Event::Pod(key.clone(), pod.clone()));
        if !self.stale.selection
            && let Some(pod) = &pod
        {
            let of_pod = self.selection.add(&self.snapshot, &key, pod);
            // One that ran there and does again has not moved.
            for policy in &of_pod {
                let is_first = self.selection.pods_on(policy, &pod.node) == 1;
                let same =
                    before.as_ref().is_some_and(|before| before.node == pod.node) && moved.contains(policy);
                if same {
                    moved.remove(policy);
                } else if is_first {
                    moved.insert(policy.clone());
                }
            }
            policies.extend(of_pod);
        }
        let endpoints = before.iter().chain(&pod).filter(|pod| pod.is_endpoint());
        let mut addresses = endpoints.flat_map(|pod| &pod.addresses);
        let in_a_pool = addresses.any(|address| self.workings.is_in_a_pool(*address));
        self.stale.whole |= in_a_pool;
        if !self.workings.eager {
            self.stale.eips.extend(moved.iter().filter_map(|key| self.workings.eip_of.get(key)));
        }
        let changed = !policies.is_empty() || in_a_pool || self.stale.selection;
        self.stale.policies.extend(policies);
        changed
    }

    fn lease(&mut self, name: LeaseName, lease: Option<LeaseRecord>) -> bool {
        let before = self.snapshot.leases.get(&name).cloned();
        if before == lease {
            return false;
        }
        let eips = |record: &Option<LeaseRecord>| -> BTreeSet<EipPair> {
            record.iter().flat_map(|record| &record.lease.leases).map(|lease| lease.eip).collect()
        };
        let (old, new) = (eips(&before), eips(&lease));
        for eip in old.difference(&new) {
            if let Some(holders) = self.holders.get_mut(eip) {
                holders.remove(&name);
                if holders.is_empty() {
                    self.holders.remove(eip);
                }
            }
        }
        for eip in &new {
            self.holders.entry(*eip).or_default().insert(name.clone());
        }
        let status = |record: &Option<LeaseRecord>| {
            record
                .as_ref()
                .map(|record| (record.observed_generation, record.ports_in_use.clone(), record.idle.clone()))
        };
        let is_status_same =
            lease.is_none() || status(&before).unwrap_or_default() == status(&lease).unwrap_or_default();
        let planned = self.plan.leases.get(&name);
        if is_status_same
            && planned.is_some_and(|planned| *planned == lease.as_ref().map(|record| record.lease.clone()))
        {
            if lease.is_none() {
                self.plan.leases.remove(&name);
            }
            // What it has given back may be another's now.
            let gone = before.iter().flat_map(|record| &record.lease.leases).filter(|old| {
                let new = lease.iter().flat_map(|record| &record.lease.leases).find(|new| new.eip == old.eip);
                let has =
                    |block| new.is_some_and(|new| new.blocks.iter().any(|leased| leased.block == block));
                !old.blocks.iter().all(|leased| has(leased.block))
            });
            self.stale.eips.extend(gone.map(|lease| lease.eip));
            self.snapshot.absorb(Event::Lease(name, lease));
            return !self.stale.eips.is_empty();
        }
        let is_lease_planned =
            planned.is_some_and(|planned| planned.as_ref() == lease.as_ref().map(|record| &record.lease));
        let is_lease_same =
            before.as_ref().map(|record| &record.lease) == lease.as_ref().map(|record| &record.lease);
        if is_lease_planned && is_lease_same {
            let heeded: BTreeSet<EipPair> =
                new.into_iter().filter(|eip| self.heeds(*eip, &name, &lease)).collect();
            let is_heeded = !heeded.is_empty();
            self.stale.eips.extend(heeded);
            return self.snapshot.absorb(Event::Lease(name, lease)) && is_heeded;
        }
        self.stale.eips.extend(old.union(&new));
        self.stale.nodes.insert(name.node.clone());
        self.snapshot.absorb(Event::Lease(name, lease))
    }

    /// Whether the plan of an EIP may depend on what a node reports.
    fn heeds(&self, eip: EipPair, name: &LeaseName, record: &Option<LeaseRecord>) -> bool {
        let in_use = record.as_ref().and_then(|record| record.ports_in_use.get(&eip)).copied().unwrap_or(0);
        self.workings
            .ports
            .get(&eip)
            .is_none_or(|plan| plan.heeds_reports || leases::is_busy_with(plan, &name.node, in_use))
    }

    fn slice(&mut self, key: SliceKey, slice: Option<SliceRecord>) -> bool {
        let before = self.snapshot.slices.get(&key).cloned();
        if before == slice {
            return false;
        }
        let is_as_planned = self.plan.slices.get(&key) == slice.as_ref();
        for record in before.iter().chain(&slice) {
            let slices = self.slices_of.entry(record.policy.clone()).or_default();
            slices.insert(key.clone());
            if !is_as_planned {
                self.stale.policies.insert(record.policy.clone());
            }
        }
        self.snapshot.absorb(Event::Slice(key, slice)) && !is_as_planned
    }

    /// Brings the plan up to date. What may have changed in it.
    pub fn plan(&mut self) -> (&Plan, Changed) {
        let changed = match self.plan_parts() {
            Some(parts) => Changed::Parts(parts),
            None => {
                self.plan_whole();
                Changed::Everything
            }
        };
        (&self.plan, changed)
    }

    fn plan_whole(&mut self) {
        if self.stale.selection {
            self.selection = Selection::of(&self.snapshot);
        }
        let stale = (!self.stale.anew).then_some(&self.stale.eips);
        let former = Former { workings: std::mem::take(&mut self.workings), stale };
        (self.plan, self.workings) = compute(&self.snapshot, &self.selection, &self.holders, former);
        self.slices_of.clear();
        for (key, slice) in self.snapshot.slices.iter().chain(&self.plan.slices) {
            self.slices_of.entry(slice.policy.clone()).or_default().insert(key.clone());
        }
        let wakes = self.workings.ports.iter().filter_map(|(eip, plan)| Some((plan.wake_at_s?, *eip)));
        self.wakes = wakes.collect();
        self.stale = Stale::default();
    }

    /// Plans again what is stale; `None` where that is everything.
    fn plan_parts(&mut self) -> Option<Parts> {
        if self.stale.whole || self.stale.selection {
            return None;
        }
        self.plan.notices.clear();
        let Stale { policies, eips, mut nodes, networks, .. } = std::mem::take(&mut self.stale);
        for eip in &eips {
            nodes.extend(self.plan_ports(*eip)?);
        }
        let mut leases = BTreeSet::new();
        for node in &nodes {
            leases.extend(self.plan_lease(node, &eips));
        }
        if !eips.is_empty() {
            let ports = self.wakes.first().map(|(at_s, _)| *at_s);
            self.plan.wake_at_s = [ports, self.workings.moves_wake_at_s].into_iter().flatten().min();
        }
        let mut parts = Parts { nodes, leases, eips, networks, ..Parts::default() };
        for key in policies {
            self.plan_slices(&key, &mut parts.slices);
            if self.plan_overlap(&key) {
                parts.policies.insert(key);
            }
        }
        if networks {
            self.plan.cluster_networks = cluster_networks::plan(&self.snapshot);
        }
        Some(parts)
    }

    /// Plans the ports of an EIP. The nodes that hold others now; `None` if more than leases depends on it.
    fn plan_ports(&mut self, eip: EipPair) -> Option<BTreeSet<String>> {
        let snapshot = &self.snapshot;
        let (usage, holders) = (self.workings.uses.get(&eip), self.holders.get(&eip));
        let wanting = match usage {
            Some(_) if self.workings.eager => snapshot.nodes.keys().map(String::as_str).collect(),
            _ => leases::wanting(snapshot, usage, &self.selection),
        };
        let new = leases::of_eip(snapshot, eip, usage, holders, &wanting);
        let old = self.workings.ports.remove(&eip).unwrap_or_default();
        if new.unleased != old.unleased || new.crowded != old.crowded {
            // Of that the gateway's condition speaks.
            self.stale.whole = true;
            return None;
        }
        if let Some(at_s) = old.wake_at_s {
            self.wakes.remove(&(at_s, eip));
        }
        self.wakes.extend(new.wake_at_s.map(|at_s| (at_s, eip)));
        let nodes = old.blocks.keys().chain(new.blocks.keys());
        let differ =
            nodes.filter(|node| old.blocks.get(*node) != new.blocks.get(*node) || old.gateway != new.gateway);
        let differ = differ.cloned().collect();
        if usage.is_some() || holders.is_some() {
            self.workings.ports.insert(eip, new);
        }
        Some(differ)
    }

    /// Puts the objects of a node's lease together, of which only these EIPs may have changed.
    fn plan_lease(&mut self, node: &str, eips: &BTreeSet<EipPair>) -> Vec<LeaseName> {
        let mut names: Vec<LeaseName> =
            parts_of(&self.plan.leases, node).map(|(name, _)| name.clone()).collect();
        let known: Vec<_> = names.iter().filter_map(|name| self.plan.leases.remove(name)?).collect();
        let known = known.into_iter().flat_map(|lease| lease.leases);
        let mut leases: Vec<_> = known.filter(|lease| !eips.contains(&lease.eip)).collect();
        for eip in eips {
            let plan = self.workings.ports.get(eip);
            let blocks = plan.and_then(|plan| Some((plan, plan.blocks.get(node)?)));
            leases.extend(blocks.map(|(plan, blocks)| leases::lease_of(*eip, plan, blocks)));
        }
        leases.sort_unstable_by_key(|lease| lease.eip);
        let objects = leases::of_node(&self.snapshot, node, leases);
        names.extend(objects.iter().map(|(name, _)| name.clone()));
        self.plan.leases.extend(objects);
        names
    }

    fn plan_slices(&mut self, key: &PolicyKey, touched: &mut BTreeSet<SliceKey>) {
        let known = self.slices_of.remove(key).unwrap_or_default();
        for slice in &known {
            if self.plan.slices.get(slice).is_some_and(|planned| planned.policy == *key) {
                self.plan.slices.remove(slice);
            }
        }
        let existing: Vec<(&SliceKey, &SliceRecord)> = known
            .iter()
            .filter_map(|slice| self.snapshot.slices.get_key_value(slice))
            .filter(|(slice, record)| record.policy == *key && slice.namespace == key.namespace)
            .collect();
        let planned = match self.snapshot.policies.get(key) {
            Some(record) => endpoint_slices::of_one(&self.snapshot, &self.selection, key, record, &existing),
            None => Vec::new(),
        };
        let mut slices: BTreeSet<SliceKey> = existing.iter().map(|(slice, _)| (*slice).clone()).collect();
        touched.extend(known);
        for (slice, record) in planned {
            slices.insert(slice.clone());
            touched.insert(slice.clone());
            self.plan.slices.insert(slice, record);
        }
        if !slices.is_empty() {
            self.slices_of.insert(key.clone(), slices);
        }
    }

    /// Counts again which of a policy's pods others win. Whether its status says something else now.
    fn plan_overlap(&mut self, key: &PolicyKey) -> bool {
        let Some((record, planned)) = self.snapshot.policies.get(key).zip(self.plan.policies.get_mut(key))
        else {
            return false;
        };
        let whole = outcome::overlap(record, &self.selection, key);
        if whole == planned.whole && planned.status == record.status {
            return false;
        }
        planned.status.whole = whole.as_ref().map(Verdict::from);
        planned.whole = whole;
        self.plan.notices.extend(outcome::policy_notices(&self.snapshot, key, planned));
        true
    }

    /// What is wrong with these parts of the plan, as the judge sees it.
    #[must_use]
    pub fn violations(&self, changed: &Changed) -> Vec<Violation> {
        match changed {
            Changed::Everything => violations::violations(&self.snapshot, &self.plan),
            Changed::Parts(parts) => {
                // Everybody who holds or held some of these EIPs.
                let holders = parts.eips.iter().flat_map(|eip| {
                    let planned =
                        self.workings.ports.get(eip).into_iter().flat_map(|plan| plan.blocks.keys());
                    let recorded = self.holders.get(eip).into_iter().flatten();
                    planned.chain(recorded.map(|name| &name.node))
                });
                let nodes = holders.chain(&parts.nodes).map(String::as_str).collect();
                let in_use = |eip: EipPair| self.workings.uses.contains_key(&eip);
                let part =
                    violations::Part { nodes, eips: &parts.eips, slices: &parts.slices, in_use: &in_use };
                violations::of_part(&self.snapshot, &self.plan, &part)
            }
        }
    }
}
