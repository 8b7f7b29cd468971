//! One pass: from what is known to what the kernel holds.
//!
//! ```text
//! objects ──┐
//! carriers ─┼─ node_view ─ compile ─ wanted ─┐
//! uplink ───┘                                ├─ diff ─ one transaction ─ kernel
//!                             kernel ─ found ┘
//! ```
//!
//! The kernel is read on every pass that may have something to do: what others have changed, of which the kernel tells, is
//! mended as a matter of course, and a restart, which knows nothing, finds its numbers and claims where the last run left
//! them. A pass that finds nothing to do writes nothing, and where neither the view nor the kernel has changed since the last
//! one it reads nothing.

mod describe;
mod inherit;
mod known_tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use datapath::class::selects;
use datapath::compile::alive::renew;
use datapath::compile::{compile, names};
use datapath::diff::diff;
use datapath::nft::TableFamily;
use datapath::numbering::{Exhausted, Numbering};
use datapath::state::DatapathState;
use datapath::transaction::{Found, FoundTable, Interest, TableId, Transaction};
use datapath::view::{ExistingFlows, NodeView, OwnTunnel, PodKey, Settings, SourceEip, Uplink};
use model::EipPair;
use model::mark::EgressId;
use model::port_lease::LeaseName;
use model::tunnel::Conflict;

use crate::activation::Activation;
use crate::defence::{Charge, Conflicts};
use crate::keys::Keyring;
use crate::node_view::{Derived, Local, charge, node_view, probe_addresses, topology};
use crate::objects::{Event, Objects};
use crate::port_use::{InUse, PortUse, UsedPort, in_use};
use crate::probe::{Inheritance, Report, Setup};

/// So long the kernel answers for EIPs without an agent: as long as liveness lets an agent be away before another gateway
/// takes over.
const ANSWERS_FOR_MS: u64 = 10_000;

/// What a pass needs of Linux.
pub trait Kernel {
    /// Why it may fail.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Devices that are not ours.
    fn surroundings(&mut self) -> Result<Surroundings, Self::Error>;
    /// What is there.
    fn read(&mut self, interest: &Interest) -> Result<Found, Self::Error>;
    /// Generation of the ruleset: every commit by anybody raises it by one.
    fn generation(&mut self) -> Result<u32, Self::Error>;
    /// Changes it.
    fn apply(&mut self, transaction: &Transaction) -> Result<(), Self::Error>;
    /// Egress ids that live connections have.
    fn held_ids(&mut self) -> Result<BTreeSet<EgressId>, Self::Error>;
    /// Ports that connections of local pods hold.
    fn used_ports(&mut self) -> Result<BTreeSet<UsedPort>, Self::Error>;
    /// Lets what comes from the tunnel and goes there pass filters of others that forward nothing. What must be told to a
    /// person: filters that can't be opened, and why.
    fn admit(&mut self, tunnel: &str) -> Result<Vec<String>, Self::Error>;
    /// Ends the connections of ours that this address began; says how many.
    fn end_flows(&mut self, source: IpAddr) -> Result<usize, Self::Error>;
    /// Ends those that are not ours, to these destinations.
    fn end_other_flows(
        &mut self,
        source: IpAddr,
        is_meant: &dyn Fn(IpAddr) -> bool,
    ) -> Result<usize, Self::Error>;
}

/// Devices that are not ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The device that leads outside; `None` while it has no address
    pub uplink: Option<Uplink>,
    /// Addresses that have a veth of their own, and its index
    pub pod_interfaces: BTreeMap<IpAddr, u32>,
}

/// A pass failed; what was there before is still there, or most of it. Trying again may help.
#[derive(Debug, thiserror::Error)]
pub enum PassError<E: std::error::Error + 'static> {
    /// The devices could not be read.
    #[error("looking for the uplink and the pods' devices")]
    Surroundings(#[source] E),
    /// The kernel could not be read.
    #[error("reading the kernel's state")]
    Read(#[source] E),
    /// The connections could not be read.
    #[error("reading the egress ids of live connections")]
    Connections(#[source] E),
    /// Filters of others could not be read.
    #[error("reading the filters of others")]
    Admit(#[source] E),
    /// The transaction was refused.
    #[error("applying {changes} changes")]
    Apply {
        /// How many there were
        changes: usize,
        /// Why
        #[source]
        source: E,
    },
}

/// What a pass did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Number of changes that were made
    pub changes: usize,
    /// The node's own tunnel is there, with all that it needs
    pub complete: bool,
    /// Whether the changes mended what somebody else had done: nothing else had changed
    pub repaired: bool,
    /// EIPs that this node answers for since this pass, and did not before
    pub newly_answered: BTreeSet<EipPair>,
    /// What has no number left
    pub exhausted: Vec<Exhausted>,
    /// For the probe thread, once: what the last run left
    pub inheritance: Option<Inheritance>,
    /// For the probe thread, when it has changed
    pub setup: Option<Setup>,
}

/// Holds what is known, and makes passes.
pub struct Converger<K> {
    kernel: K,
    objects: Objects,
    derived: Option<Derived>,
    local: Local,
    numbering: Option<Numbering>,
    /// Last tunnel of this node, for when its object is gone for a while.
    tunnel: Option<OwnTunnel>,
    answered: BTreeSet<EipPair>,
    numbered: BTreeSet<EipPair>,
    held_ids: BTreeSet<EgressId>,
    setup: Option<SetupKey>,
    last_view: Option<NodeView>,
    last_wanted: Option<DatapathState>,
    connections_due: bool,
    surroundings_due: bool,
    /// Whether the kernel may differ from what the last pass left
    kernel_due: bool,
    activation: Activation,
    /// Filters of others that drop what this node forwards
    closed: Option<Vec<String>>,
    /// `None` before the first measurement
    port_use: Option<PortUse>,
    own_since: OwnSince,
    /// The tables as they are while the ruleset has that generation
    known_tables: Option<(u32, BTreeMap<TableId, FoundTable>)>,
    in_use: BTreeMap<IpAddr, InUse>,
}

/// Of each part of this node's lease its generation, and how far the whole had come when it got that.
type OwnSince = BTreeMap<LeaseName, (i64, u64)>;

/// What a [`Setup`] is made of, comparable.
type SetupKey = (liveness::Topology, Option<IpAddr>, BTreeMap<String, IpAddr>);

impl<K: Kernel> Converger<K> {
    /// Of this node, with nothing known.
    pub fn new(node: &str, settings: Settings, kernel: K) -> Self {
        Self {
            kernel,
            objects: Objects::new(node),
            derived: None,
            local: Local { node: node.to_owned(), settings, ..Local::default() },
            numbering: None,
            tunnel: None,
            answered: BTreeSet::new(),
            numbered: BTreeSet::new(),
            held_ids: BTreeSet::new(),
            setup: None,
            last_view: None,
            last_wanted: None,
            connections_due: true,
            surroundings_due: true,
            kernel_due: true,
            activation: Activation::default(),
            closed: None,
            port_use: None,
            own_since: OwnSince::new(),
            known_tables: None,
            in_use: BTreeMap::new(),
        }
    }

    /// Takes in what a watch says. Returns whether it matters.
    pub fn absorb(&mut self, event: Event) -> bool {
        let matters = self.objects.absorb(event);
        if matters {
            self.derived = None;
        }
        matters
    }

    /// Takes in lists of an earlier run, of kinds that were not listed yet.
    pub fn absorb_old(&mut self, lists: Vec<Event>) {
        self.objects.absorb_old(lists);
        self.derived = None;
    }

    /// Name of this node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.local.node
    }

    /// What the API server says.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Takes in what the probe thread says. Returns whether it matters.
    pub fn report(&mut self, report: Report) -> bool {
        let claims: BTreeSet<EipPair> = report.claims.into_keys().collect();
        let is_confirmed = self.local.confirmed == report.confirmed && self.local.claimed == report.claimed;
        let changed = self.local.carriers != report.carriers
            || self.local.claims != claims
            || (!is_confirmed && self.activation.next().is_some());
        self.local.confirmed = report.confirmed;
        self.local.claimed = report.claimed;
        self.local.carriers = report.carriers;
        self.local.claims = claims;
        changed
    }

    /// Takes in which EIPs somebody else has. Returns whether that is new.
    pub fn conflicts_found(&mut self, conflicts: Conflicts) -> bool {
        let is_new = self.local.conflicts != conflicts;
        self.local.conflicts = conflicts;
        is_new
    }

    /// Addresses of EIPs that somebody else has.
    #[must_use]
    pub fn conflicts(&self) -> Vec<Conflict> {
        let known = self.local.conflicts.iter();
        known.map(|(address, mac)| Conflict { address: *address, mac: *mac }).collect()
    }

    /// What is to be defended against other holders; `None` while nothing is known.
    #[must_use]
    pub fn charge(&self) -> Option<Charge> {
        let (view, derived) = (self.last_view.as_ref()?, self.derived.as_ref()?);
        let device = view.uplink.as_ref().map(|uplink| uplink.device.clone()).unwrap_or_default();
        Some(Charge { device, nodes: view.node_addresses.clone(), eips: charge(derived, &self.local) })
    }

    /// Connections may have ended: those that keep an EIP here are looked at on the next pass.
    pub fn forget_connections(&mut self) {
        self.connections_due = true;
    }

    /// Something in the kernel has changed: it is read, and devices are looked at, on the next pass.
    pub fn kernel_changed(&mut self) {
        (self.surroundings_due, self.kernel_due) = (true, true);
    }

    /// The device that leads outside.
    #[must_use]
    pub fn uplink(&self) -> Option<&Uplink> {
        self.local.uplink.as_ref()
    }

    /// The view of the last pass.
    #[must_use]
    pub fn view(&self) -> Option<&NodeView> {
        self.last_view.as_ref()
    }

    /// What the last pass wanted.
    #[must_use]
    pub fn wanted(&self) -> Option<&DatapathState> {
        self.last_wanted.as_ref()
    }

    /// The kernel, for what is not part of a pass.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Makes the kernel what it shall be. Only with complete lists.
    pub fn pass(&mut self, now: Instant) -> Result<Outcome, PassError<K::Error>> {
        let mut outcome = Outcome::default();
        let is_changed = self.surroundings_due;
        // What a pass that fails has left behind, nobody knows.
        let kernel_due = std::mem::replace(&mut self.kernel_due, true);
        self.look_around()?;
        if self.numbering.is_none() {
            outcome.inheritance = Some(self.recover(now)?);
        }
        self.update_held()?;
        let view = self.view_at(now);
        let numbering = self.numbering.get_or_insert_default();
        outcome.exhausted = numbering.update(&view, &self.held_ids);
        self.numbered = view.eips.keys().copied().collect();
        if let (false, Some(wanted)) =
            (kernel_due || self.last_view.as_ref() != Some(&view), &self.last_wanted)
        {
            outcome.complete = wanted.tunnel.is_some();
            outcome.setup = self.setup_for(&view);
            self.kernel_due = false;
            return Ok(outcome);
        }

        let wanted = compile(&view, numbering);
        let found = self.read(interest(&wanted, &self.local.settings)).map_err(PassError::Read)?;
        let mut transaction = diff(&found, &wanted);
        outcome.changes = transaction.before.len() + transaction.nft.len() + transaction.after.len();
        outcome.repaired = outcome.changes > 0 && self.last_wanted.as_ref() == Some(&wanted);
        outcome.setup = self.setup_for(&view);
        if transaction.nft.is_empty() {
            self.known_tables = Some((found.generation, found.tables));
        }
        if !transaction.is_empty() {
            let changes = outcome.changes;
            // A switch that is new must be on before anything is answered.
            transaction.nft.extend(renew(&wanted, ANSWERS_FOR_MS));
            let applied = self.kernel.apply(&transaction);
            applied.map_err(|source| PassError::Apply { changes, source })?;
            if !transaction.nft.is_empty() {
                self.remember_tables(found.generation, &wanted).map_err(PassError::Read)?;
            }
        }
        outcome.complete = wanted.tunnel.is_some();
        if let (true, Some(tunnel)) = (is_changed || self.closed.is_none(), &wanted.tunnel) {
            self.closed = Some(self.kernel.admit(&tunnel.name).map_err(PassError::Admit)?);
        }
        let answered = view.gateway_eips.iter().filter(|(_, gateway)| gateway.answers && outcome.complete);
        let answered: BTreeSet<EipPair> = answered.map(|(eip, _)| *eip).collect();
        outcome.newly_answered = answered.difference(&self.answered).copied().collect();
        self.answered = answered;
        self.end_flows_of_gone_pods(&view);
        self.cut_older_flows(&view);
        self.last_view = Some(view);
        self.last_wanted = Some(wanted);
        self.kernel_due = false;
        Ok(outcome)
    }

    /// Reads the devices, where they may have changed.
    fn look_around(&mut self) -> Result<(), PassError<K::Error>> {
        if !self.surroundings_due {
            return Ok(());
        }
        let Surroundings { uplink, pod_interfaces } =
            self.kernel.surroundings().map_err(PassError::Surroundings)?;
        // An uplink that loses its address for a moment must not take the tunnel down.
        self.local.uplink = uplink.or(self.local.uplink.take());
        self.local.pod_interfaces = pod_interfaces;
        self.surroundings_due = false;
        Ok(())
    }

    /// A pod's connections end with it; else they would hold its ports for days.
    fn end_flows_of_gone_pods(&mut self, view: &NodeView) {
        let addresses = |view: &NodeView| -> BTreeSet<IpAddr> {
            view.pods.values().flat_map(|pod| pod.addresses.iter().copied()).collect()
        };
        let Some(before) = self.last_view.as_ref().map(addresses) else { return };
        for gone in before.difference(&addresses(view)) {
            match self.kernel.end_flows(*gone) {
                Ok(0) => {}
                Ok(ended) => tracing::debug!(address = %gone, ended, "connections of a pod that is gone"),
                Err(error) => {
                    tracing::warn!(address = %gone, %error, "connections of a pod that is gone stay")
                }
            }
        }
    }

    /// Connections that are older than the policy that selects them now, where they shall not go on. What they still send
    /// begins a new one, with the EIP, which the other end refuses.
    fn cut_older_flows(&mut self, view: &NodeView) {
        let Some(before) = &self.last_view else { return };
        if view.settings.existing_flows != ExistingFlows::Cut {
            return;
        }
        for policy in &view.policies {
            let key = &policy.precedence.key;
            let old = before.policies.iter().find(|old| old.precedence.key == *key);
            let old = old.filter(|old| old.destinations == policy.destinations && old.eip == policy.eip);
            let is_new = |pod: &&PodKey| old.is_none_or(|old| !old.pods.contains(*pod));
            let pods = policy.pods.iter().filter(is_new).filter_map(|pod| view.pods.get(pod));
            for address in pods.flat_map(|pod| &pod.addresses) {
                let is_meant = |destination| selects(view, policy, destination);
                match self.kernel.end_other_flows(*address, &is_meant) {
                    Ok(0) => {}
                    Ok(ended) => tracing::info!(policy = %key, %address, ended, "older connections are cut"),
                    Err(error) => tracing::warn!(policy = %key, %address, %error, "older connections stay"),
                }
            }
        }
    }

    fn view_at(&mut self, now: Instant) -> NodeView {
        let derived = self.derived.get_or_insert_with(|| Derived::of(&self.objects, &self.local.node));
        let mut view = node_view(&self.objects, derived, &self.local);
        // An object that is deleted and made anew must not take the tunnel down in between.
        match &view.tunnel {
            Some(tunnel) => self.tunnel = Some(tunnel.clone()),
            None => view.tunnel = self.tunnel.clone(),
        }
        self.note_own_changes();
        let ready = ready_eips(&self.objects, &self.local, &view, &self.own_since);
        self.activation.apply(&mut view, self.last_view.as_ref(), now, |eip| ready.contains(eip));
        view
    }

    /// Filters of others that drop what this node forwards, and can't be opened.
    #[must_use]
    pub fn closed_filters(&self) -> &[String] {
        self.closed.as_deref().unwrap_or_default()
    }

    /// Lets the kernel answer for EIPs for some seconds more. To be called more often than that.
    pub fn renew_answers(&mut self) -> Result<(), K::Error> {
        let Some(wanted) = &self.last_wanted else { return Ok(()) };
        let nft = renew(wanted, ANSWERS_FOR_MS);
        if nft.is_empty() {
            return Ok(());
        }
        self.kernel.apply(&Transaction { nft, ..Transaction::default() })?;
        if let Some((before, tables)) = self.known_tables.take() {
            let now = self.kernel.generation()?;
            self.known_tables = (now == before.wrapping_add(1)).then_some((now, tables));
        }
        Ok(())
    }

    /// Measures how many ports are in use.
    pub fn measure_ports(&mut self, now: Instant) -> Result<(), K::Error> {
        let Some(view) = &self.last_view else { return Ok(()) };
        let used = if view.eips.is_empty() { BTreeSet::new() } else { self.kernel.used_ports()? };
        self.in_use = in_use(&view.eips, &used);
        let reports = self.objects.reports.values();
        let port_use = self.port_use.get_or_insert_with(|| {
            PortUse::told_before(reports.flat_map(|report| report.eips.clone()).collect())
        });
        port_use.update(now, &view.eips, &used);
        Ok(())
    }

    /// What local pods use of each address of an EIP, as of the last measurement.
    #[must_use]
    pub fn in_use(&self) -> &BTreeMap<IpAddr, InUse> {
        &self.in_use
    }

    /// Ports in use of each EIP, as the controller is to hear it; `None` before the first measurement.
    #[must_use]
    pub fn port_use(&self) -> Option<&PortUse> {
        self.port_use.as_ref()
    }

    /// When a pass is due though nothing happens.
    #[must_use]
    pub fn next_pass(&self) -> Option<Instant> {
        self.activation.next()
    }

    /// Generations of the other nodes' leases that the kernel holds since the last pass.
    #[must_use]
    pub fn loaded(&self) -> BTreeMap<String, u64> {
        let Some(view) = &self.last_view else { return BTreeMap::new() };
        let others = self.objects.leases.iter().filter(|(name, _)| name.node != self.local.node);
        let carried = others
            .filter(|(_, part)| part.leases.iter().any(|lease| view.gateway_eips.contains_key(&lease.eip)));
        let nodes: BTreeSet<&str> = carried.map(|(name, _)| name.node.as_str()).collect();
        let generation = |node: &str| (node.to_owned(), self.objects.lease_generation(node));
        nodes.into_iter().map(generation).collect()
    }

    /// Generation of each part of this node's lease, as it is known.
    #[must_use]
    pub fn own_generations(&self) -> BTreeMap<LeaseName, i64> {
        let own = self.objects.leases_of(&self.local.node);
        own.map(|(name, part)| (name.clone(), part.generation)).collect()
    }

    /// Notes which parts of this node's lease have changed: a gateway has them once it has seen as much as this node now.
    fn note_own_changes(&mut self) {
        let (own, now) = (self.own_generations(), self.objects.lease_generation(&self.local.node));
        self.own_since.retain(|name, _| own.contains_key(name));
        for (name, generation) in own {
            let known = self.own_since.get(&name).filter(|(known, _)| *known == generation);
            let since = known.map_or(now, |(_, since)| *since);
            self.own_since.insert(name, (generation, since));
        }
    }

    /// EIPs that no policy and no lease of this node names any more stay while connections use them; and no id is given
    /// out that connections have. The connections are read only when an EIP comes or goes.
    fn update_held(&mut self) -> Result<(), PassError<K::Error>> {
        let numbering = self.numbering.get_or_insert_default();
        let derived = self.derived.get_or_insert_with(|| Derived::of(&self.objects, &self.local.node));
        let used = derived.used();
        let held = std::mem::take(&mut self.local.held);
        let leaving: BTreeSet<&EipPair> =
            self.numbered.iter().chain(&held).filter(|eip| !used.contains(eip)).collect();
        let coming = used.iter().any(|eip| numbering.id(eip).is_none());
        let unsure = leaving.iter().any(|eip| self.connections_due || !held.contains(eip));
        if !coming && !unsure {
            self.local.held = held;
            return Ok(());
        }
        self.connections_due = false;
        match self.kernel.held_ids() {
            Ok(ids) => {
                self.local.held = ids.iter().filter_map(|id| numbering.eip_of(*id)).collect();
                self.held_ids = ids;
                Ok(())
            }
            Err(error) => {
                self.local.held = held;
                Err(PassError::Connections(error))
            }
        }
    }

    /// What the probe thread has to know, if that has changed.
    fn setup_for(&mut self, view: &NodeView) -> Option<Setup> {
        let derived = self.derived.get_or_insert_with(|| Derived::of(&self.objects, &self.local.node));
        let topology = topology(&self.objects, derived, &self.local);
        let (own, addresses) = probe_addresses(view);
        let key: SetupKey = (topology, own, addresses);
        if self.setup.as_ref() == Some(&key) {
            return None;
        }
        self.setup = Some(key.clone());
        let (topology, own, addresses) = key;
        let keys = topology.nodes.iter().filter_map(|(node, info)| Some((node.clone(), info.key?)));
        Some(Setup { keyring: Keyring::new(keys.collect()), topology, own, addresses })
    }
}

/// EIPs that new connections can leave with right now, and get their answers.
fn ready_eips(objects: &Objects, local: &Local, view: &NodeView, own_since: &OwnSince) -> BTreeSet<EipPair> {
    let mut since_of: BTreeMap<EipPair, u64> = BTreeMap::new();
    for (name, part) in objects.leases_of(&local.node) {
        let since = own_since.get(name).map_or(u64::MAX, |(_, since)| *since);
        for lease in &part.leases {
            let latest = since_of.entry(lease.eip).or_default();
            *latest = since.max(*latest);
        }
    }
    let is_ready = |(eip, source): &(&EipPair, &SourceEip)| {
        let answered_here = || view.gateway_eips.get(eip).is_some_and(|own| own.answers);
        let since = since_of.get(eip).copied().unwrap_or(u64::MAX);
        let confirmed = |node: &String| local.confirmed.get(node).is_some_and(|at| *at >= since);
        if source.node_address {
            return source.carrier.is_some();
        }
        source.block.is_some()
            && local.claimed.contains(eip)
            && source
                .carrier
                .as_ref()
                .is_some_and(|node| if *node == local.node { answered_here() } else { confirmed(node) })
    };
    view.eips.iter().filter(is_ready).map(|(eip, _)| *eip).collect()
}

fn interest(wanted: &DatapathState, settings: &Settings) -> Interest {
    let main = TableId { family: TableFamily::Inet, name: names::TABLE.to_owned() };
    let arp = TableId { family: TableFamily::Arp, name: names::ARP_TABLE.to_owned() };
    Interest {
        tables: [main].into_iter().chain(settings.arp_filter.then_some(arp)).collect(),
        tunnel: Some(settings.tunnel_device.clone()),
        sysctls: wanted.sysctls.keys().cloned().collect(),
    }
}
