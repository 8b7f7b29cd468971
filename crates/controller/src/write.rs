//! Writes what differs between the plan and the objects.
//!
//! Where a pass gives or takes ports or EIPs, a later leader must be able to rely on what it sees: see `crate::fence`.
//!
//! In steps, each complete before the next begins: what a step wrote is known to the one after it, ports are taken from
//! one node before another gets them, as are EIPs from gateways, and a policy says that it is in force after everything that
//! it needs is written. A long list of EIPs in a gateway's status is nothing that it needs, and may come later.

mod job;
mod stamp;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use api::names;
use api::resource::CustomResource;
use api::v1beta1::{
    EgressClusterEndpointSlice, EgressClusterPolicy, EgressEndpoint, EgressEndpointSlice, EgressGateway,
    EgressPolicy, EgressPolicyStatus, EgressTunnel, condition,
};
use futures::{StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use kube::Client;
use kube::api::ObjectMeta;
use model::port_lease::PortLease;
use model::tunnel::Tunnel;
use model::{EipPair, PortBlock};
use plan::endpoint_slices::label_value;
use plan::outcome::{GatewayPlan, TunnelPlan};
use plan::snapshot::{SliceKey, SliceRecord};
use plan::{Changed, Parts, Plan};
use runtime::writer::{Part, WriteError};
use serde_json::Value;
use tracing::{debug, warn};

pub use self::job::Job;
use self::job::{create_job, delete_job, delete_unchanged_job, patch_job, set_finalizer, with_ours};
use crate::leadership::Leadership;
use crate::pace::only_lists_others;
use crate::render;
use crate::state::State;
use crate::watches::Input;

/// Writes at a time.
const CONCURRENCY: usize = 16;
/// A write that takes longer has failed. Shorter than what is left of a lease when its holder gives up, so that none is
/// under way when another replica begins.
const DEADLINE: Duration = Duration::from_secs(4);

/// What became of the writes of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Done
    pub written: u64,
    /// Somebody else was faster; the watch will tell
    pub conflicts: u64,
    /// To be tried again
    pub failed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Objects,
    Stamp,
    Confirm,
    TakeLeases,
    GiveLeases,
    TakeEips,
    GiveEips,
    Policies,
}

const STEPS: [Step; 8] = [
    Step::Objects,
    Step::Stamp,
    Step::Confirm,
    Step::TakeLeases,
    Step::GiveLeases,
    Step::TakeEips,
    Step::GiveEips,
    Step::Policies,
];

/// What is done next.
pub enum Next {
    /// These writes, in any order, each to be answered
    Jobs(Vec<Job>),
    /// The API server is asked whether the term has not ended, and [`Writes::confirmed`] is told
    Confirm,
}

/// The writes of one plan, step by step. What goes into it are answers, what comes out are the next writes.
pub struct Writes {
    changed: Changed,
    wall: Time,
    now: Duration,
    /// How many steps have been begun
    begun: usize,
    /// What had become of them before the last one
    before: Outcome,
    outcome: Outcome,
}

impl Writes {
    /// Of the last plan of a state, of which this has changed. The first time is what people read, the second what has passed
    /// since the start.
    #[must_use]
    pub fn new(changed: Changed, wall: Time, now: Duration) -> Self {
        Self { changed, wall, now, begun: 0, before: Outcome::default(), outcome: Outcome::default() }
    }

    /// What became of them so far.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// What is next; to be asked for after all of the last has been answered. `None`: that is all, or what is left must wait
    /// for another plan.
    pub fn next(&mut self, state: &mut State, leads: bool) -> Option<Next> {
        let is_complete =
            (self.before.conflicts, self.before.failed) == (self.outcome.conflicts, self.outcome.failed);
        let last = self.begun.checked_sub(1).and_then(|last| STEPS.get(last));
        // Ports that could not be taken must not be given, and nothing where an earlier leader might.
        if matches!(last, Some(Step::Stamp | Step::Confirm | Step::TakeLeases)) && !is_complete {
            return None;
        }
        let step = *STEPS.get(self.begun)?;
        if !leads {
            self.outcome.failed += 1;
            self.begun = STEPS.len();
            return None;
        }
        self.begun += 1;
        self.before = self.outcome;
        let parts = match &self.changed {
            Changed::Everything => None,
            Changed::Parts(parts) => Some(parts),
        };
        let writer = Writer { state, plan: state.planner.last(), parts, now: &self.wall };
        let mut gateways = Gateways::default();
        let mut jobs = match step {
            Step::Objects => writer.objects(),
            Step::Stamp if writer.gives_or_takes() => writer.stamps(),
            Step::Confirm if writer.gives_or_takes() && !state.fence.is_closed() => {
                return Some(Next::Confirm);
            }
            Step::Stamp | Step::Confirm => Vec::new(),
            Step::TakeLeases => writer.tunnel_statuses().into_iter().chain(writer.leases(true)).collect(),
            Step::GiveLeases => writer.leases(false),
            Step::TakeEips | Step::GiveEips => {
                gateways = writer.gateway_statuses(None);
                Vec::new()
            }
            Step::Policies => {
                // What may wait goes with the last step: nothing waits for it.
                gateways = writer.gateway_statuses(Some(self.now));
                let statuses = writer.policy_statuses().into_iter();
                statuses.chain(writer.cluster_info()).chain(writer.slices()).collect()
            }
        };
        if step == Step::Policies {
            state.pace.wait(gateways.waiting);
        }
        state.pace.writes(gateways.jobs.iter().map(|(name, _)| name.clone()), self.now);
        jobs.extend(gateways.jobs.into_iter().map(|(_, job)| job));
        Some(Next::Jobs(jobs))
    }

    /// Whether the term has not ended; `None`: the API server does not say.
    pub fn confirmed(&mut self, state: &mut State, holds: Option<bool>) {
        match holds {
            Some(true) => state.fence.confirm(),
            // It shows soon that another replica leads.
            Some(false) => self.outcome.conflicts += 1,
            None => self.outcome.failed += 1,
        }
    }

    /// Takes in how a write has ended. What was written is known at once.
    pub fn answered(&mut self, state: &mut State, job: &Job, answer: Result<Value, WriteError>) {
        let known = job.known(answer);
        if let (Some((name, lease)), Err(WriteError::Unavailable { .. })) = (job.lease(), &known) {
            state.planner.absorb(plan::Event::UncertainLease(name.clone(), Some(lease.clone())));
        }
        if let (Some((kind, name)), Err(WriteError::Refused { .. })) = (job.stamps(), &known) {
            state.fence.pass_over(*kind, name);
        }
        match known {
            Ok(input) => {
                self.outcome.written += 1;
                if let Some(input) = input {
                    state.absorb(input);
                }
            }
            Err(error @ (WriteError::Conflict { .. } | WriteError::Gone { .. })) => {
                self.outcome.conflicts += 1;
                debug!(error = %error, "not written");
            }
            Err(error) => {
                self.outcome.failed += 1;
                warn!(error = %describe(&error), "could not write");
            }
        }
    }
}

/// Writes what differs, as long as this replica leads. What was written is taken into the state.
pub(crate) async fn write(
    client: &Client,
    state: &mut State,
    changed: Changed,
    wall: Time,
    now: Duration,
    leadership: &Leadership,
) -> Outcome {
    let mut writes = Writes::new(changed, wall, now);
    while let Some(next) = writes.next(state, leadership.goes_on()) {
        let jobs = match next {
            Next::Jobs(jobs) => jobs,
            Next::Confirm => {
                let holds = leadership.confirm().await;
                writes.confirmed(state, holds);
                continue;
            }
        };
        let under_way = jobs.into_iter().map(|job| async {
            let answer = in_time(client, &job).await;
            (job, answer)
        });
        let answers: Vec<_> = stream::iter(under_way).buffer_unordered(CONCURRENCY).collect().await;
        for (job, answer) in answers {
            writes.answered(state, &job, answer);
        }
    }
    writes.outcome()
}

async fn in_time(client: &Client, job: &Job) -> Result<Value, WriteError> {
    let late = |_| WriteError::Unavailable {
        what: job.write.what.clone(),
        source: Box::new(kube::Error::Service(format!("no answer in {} s", DEADLINE.as_secs()).into())),
    };
    tokio::time::timeout(DEADLINE, job.write.send(client)).await.map_err(late)?
}

fn describe(error: &WriteError) -> String {
    match error {
        WriteError::Unavailable { what, source } => format!("{what}: {source}"),
        other => other.to_string(),
    }
}

/// Statuses of gateways that are not as planned.
#[derive(Default)]
struct Gateways {
    jobs: Vec<(String, Job)>,
    /// Those that are written later, and when
    waiting: BTreeMap<String, Duration>,
}

struct Writer<'a> {
    state: &'a State,
    plan: &'a Plan,
    /// What of the plan may differ from what is there; `None`: anything
    parts: Option<&'a Parts>,
    now: &'a Time,
}

impl Writer<'_> {
    /// Objects that are to be or not to be, and what admission would have filled in.
    fn objects(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        if self.parts.is_some() {
            return jobs;
        }
        for (name, planned) in &self.plan.gateways {
            let Some(object) = self.state.gateways.get(name) else { continue };
            let mut wanted = object.clone();
            let deleting = object.metadata.deletion_timestamp.is_some();
            set_finalizer(&mut wanted.metadata, names::FINALIZER_GATEWAY, planned.keep, deleting);
            render::moves(&mut wanted.metadata, &planned.moves);
            let pools = &mut wanted.spec.ippools;
            if let Some(address) = planned.fill_default_v4.filter(|_| pools.ipv4_default_eip.is_empty()) {
                pools.ipv4_default_eip = address.to_string();
            }
            if let Some(address) = planned.fill_default_v6.filter(|_| pools.ipv6_default_eip.is_empty()) {
                pools.ipv6_default_eip = address.to_string();
            }
            jobs.extend(patch_job(object, &wanted, Part::Main, Input::Gateway));
        }
        for (key, planned) in &self.plan.policies {
            let Some(gateway) = &planned.fill_gateway else { continue };
            if let Some(object) = self.state.policies.get(key) {
                let mut wanted = object.clone();
                wanted.spec.egress_gateway_name.clone_from(gateway);
                jobs.extend(patch_job(object, &wanted, Part::Main, Input::Policy));
            } else if let Some(object) = self.state.cluster_policies.get(key) {
                let mut wanted = object.clone();
                wanted.spec.egress_gateway_name.clone_from(gateway);
                jobs.extend(patch_job(object, &wanted, Part::Main, Input::ClusterPolicy));
            }
        }
        jobs.extend(self.tunnels());
        jobs
    }

    fn tunnels(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for name in self.plan.tunnels.keys().filter(|name| !self.state.tunnels.contains_key(*name)) {
            jobs.extend(create_job(&EgressTunnel::named(name), Input::Tunnel));
        }
        for (name, object) in &self.state.tunnels {
            if object.metadata.deletion_timestamp.is_some() {
                // Nothing is held for a tunnel but its own status: let it go, and make it anew.
                let mut wanted = object.clone();
                set_finalizer(&mut wanted.metadata, names::FINALIZER_TUNNEL, false, true);
                jobs.extend(patch_job(object, &wanted, Part::Main, Input::Tunnel));
            } else if !self.plan.tunnels.contains_key(name) {
                jobs.push(delete_job(object));
            }
        }
        jobs
    }

    fn tunnel_statuses(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        if self.parts.is_some() {
            return jobs;
        }
        for (name, planned) in &self.plan.tunnels {
            let Some(object) = self.state.tunnels.get(name) else { continue };
            let known = self.state.planner.snapshot().tunnels.get(name).map(|record| &record.tunnel);
            if known.is_some_and(|known| is_as_planned(known, planned)) {
                continue;
            }
            let mut wanted = object.clone();
            wanted.status = Some(render::tunnel_status(planned, object.status.clone().unwrap_or_default()));
            jobs.extend(patch_job(object, &wanted, Part::Status, Input::Tunnel));
        }
        jobs
    }

    /// Leases that lose a block, or those that lose none, each with what it is to be.
    fn leases(&self, losing: bool) -> Vec<Job> {
        let mut jobs = Vec::new();
        let nothing = PortLease::default();
        for (name, planned) in part_of(&self.plan.leases, self.parts.map(|parts| &parts.leases)) {
            let object = self.state.leases.get(name);
            let known = self.state.planner.snapshot().leases.get(name);
            let known = known.map_or(&nothing, |record| &record.lease);
            if object.is_some() && planned.as_ref() == Some(known) {
                continue;
            }
            if blocks(known).is_subset(&planned.as_ref().map(blocks).unwrap_or_default()) == losing {
                continue;
            }
            let job = match (object, planned) {
                (Some(object), None) => Some(delete_unchanged_job(object)),
                (Some(object), Some(lease)) => {
                    let mut wanted = object.clone();
                    wanted.spec = api::convert::port_lease_spec(name, lease);
                    patch_job(object, &wanted, Part::Main, Input::Lease)
                }
                // It is made when all is stamped.
                (None, _) => None,
            };
            let lease = planned.clone().map(|lease| (name.clone(), lease));
            jobs.extend(job.map(|job| job.of_lease(lease)));
        }
        jobs
    }

    /// Statuses of gateways, without the EIPs that they get from another one whose status has them still, as far as is known.
    /// So the same step takes EIPs, and gives them when it is done once more.
    /// At that time those that may wait are written, as far as they are due, else only those that may not.
    fn gateway_statuses(&self, others_at: Option<Duration>) -> Gateways {
        let (known, pace) = (&self.state.planner.snapshot().gateways, &self.state.pace);
        let waiting: BTreeSet<String> = pace.waiting().cloned().collect();
        let differs = |(name, planned): &(&String, &GatewayPlan)| {
            let (record, object) = (known.get(*name), self.state.gateways.get(*name));
            let is_told = record.is_some_and(|record| record.status == planned.status);
            !(is_told && object.is_some_and(|object| is_observed(&object.metadata, conditions_of(object))))
        };
        let concerned = part_of(&self.plan.gateways, self.parts.map(|_| &waiting));
        let concerned: Vec<_> = concerned.filter(differs).collect();
        let mut gateways = Gateways::default();
        if concerned.is_empty() {
            return gateways;
        }
        let (mut holders, mut wanted_by): (Holders<'_>, Holders<'_>) = (BTreeMap::new(), BTreeMap::new());
        for (name, record) in known {
            for address in record.status.eips().flat_map(|(eip, _, _)| eip.addresses()) {
                holders.entry(address).or_default().push(name);
            }
        }
        for (name, planned) in &self.plan.gateways {
            for address in planned.status.eips().flat_map(|(eip, _, _)| eip.addresses()) {
                wanted_by.entry(address).or_default().push(name);
            }
        }
        for (name, planned) in concerned {
            let Some(object) = self.state.gateways.get(name) else { continue };
            let is_wanted_elsewhere = |eip: EipPair| {
                let wanted_by = eip.addresses().filter_map(|address| wanted_by.get(&address));
                wanted_by.into_iter().flatten().any(|other| other != name)
            };
            let (eips, settings) = (planned.status.eips().count(), &self.state.planner.snapshot().settings);
            let may_wait = known.get(name).filter(|_| eips >= settings.long_list).is_some_and(|record| {
                record.moves.is_empty()
                    && is_observed(&object.metadata, conditions_of(object))
                    && only_lists_others(&record.status, &planned.status)
                    && !record.status.eips().any(|(eip, _, _)| is_wanted_elsewhere(eip))
            });
            if may_wait != others_at.is_some() {
                continue;
            }
            let due_at = pace.due_at(name, eips, settings);
            if others_at.is_some_and(|now| due_at > now) {
                gateways.waiting.insert(name.clone(), due_at);
                continue;
            }
            let waits = |eip: &EipPair| {
                let holders = eip.addresses().filter_map(|address| holders.get(&address));
                holders.into_iter().any(|holders| !holders.contains(&name.as_str()))
            };
            let mut planned = Cow::Borrowed(planned);
            if planned.status.eips().any(|(eip, _, _)| waits(&eip)) {
                let status = &mut planned.to_mut().status;
                status.unplaced.retain(|eip, _| !waits(eip));
                status.nodes.values_mut().for_each(|node| node.eips.retain(|eip, _| !waits(eip)));
            }
            let before = conditions_of(object);
            let status = render::gateway_status(&planned, before, object.metadata.generation, self.now);
            let mut wanted = object.clone();
            wanted.status = Some(status);
            let job = patch_job(object, &wanted, Part::Status, Input::Gateway);
            gateways.jobs.extend(job.map(|job| (name.clone(), job)));
        }
        gateways
    }

    fn policy_statuses(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (key, planned) in part_of(&self.plan.policies, self.parts.map(|parts| &parts.policies)) {
            let known = self.state.planner.snapshot().policies.get(key);
            let is_told = known.is_some_and(|known| known.status == planned.status);
            let wanted = |metadata: &ObjectMeta, status: Option<&EgressPolicyStatus>| {
                let before = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
                let needed = !(is_told && is_observed(metadata, before));
                needed.then(|| render::policy_status(planned, before, metadata.generation, self.now))
            };
            if let Some(object) = self.state.policies.get(key) {
                let Some(status) = wanted(&object.metadata, object.status.as_ref()) else { continue };
                let wanted = EgressPolicy { status: Some(status), ..object.clone() };
                jobs.extend(patch_job(object, &wanted, Part::Status, Input::Policy));
            } else if let Some(object) = self.state.cluster_policies.get(key) {
                let Some(status) = wanted(&object.metadata, object.status.as_ref()) else { continue };
                let wanted = EgressClusterPolicy { status: Some(status), ..object.clone() };
                jobs.extend(patch_job(object, &wanted, Part::Status, Input::ClusterPolicy));
            }
        }
        jobs
    }

    fn cluster_info(&self) -> Vec<Job> {
        if self.parts.is_some_and(|parts| !parts.networks) {
            return Vec::new();
        }
        let object = self.state.cluster_infos.get(names::CLUSTER_INFO);
        let (Some(object), Some(networks)) = (object, &self.plan.cluster_networks) else { return Vec::new() };
        let mut wanted = object.clone();
        wanted.status = Some(render::cluster_info_status(networks));
        patch_job(object, &wanted, Part::Status, Input::ClusterInfo).into_iter().collect()
    }

    fn slices(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        let (known, part) = (&self.state.planner.snapshot().slices, self.parts.map(|parts| &parts.slices));
        let planned = part_of(&self.plan.slices, part);
        for (key, slice) in planned.filter(|(key, slice)| known.get(*key) != Some(*slice)) {
            let metadata = self.slice_metadata(key, slice);
            let endpoints: Vec<EgressEndpoint> = slice.endpoints.iter().map(render::endpoint).collect();
            match &key.namespace {
                Some(_) => match self.state.slices.get(key) {
                    None => {
                        jobs.extend(create_job(&EgressEndpointSlice { metadata, endpoints }, Input::Slice));
                    }
                    Some(object) => {
                        let metadata = with_ours(&object.metadata, metadata);
                        let wanted = EgressEndpointSlice { metadata, endpoints };
                        jobs.extend(patch_job(object, &wanted, Part::Main, Input::Slice));
                    }
                },
                None => match self.state.cluster_slices.get(key) {
                    None => {
                        let object = EgressClusterEndpointSlice { metadata, endpoints };
                        jobs.extend(create_job(&object, Input::ClusterSlice));
                    }
                    Some(object) => {
                        let metadata = with_ours(&object.metadata, metadata);
                        let wanted = EgressClusterEndpointSlice { metadata, endpoints };
                        jobs.extend(patch_job(object, &wanted, Part::Main, Input::ClusterSlice));
                    }
                },
            }
        }
        // What the plan knows and does not want; slices without our label are not ours.
        for (key, _) in part_of(known, part).filter(|(key, _)| !self.plan.slices.contains_key(*key)) {
            if let Some(object) = self.state.slices.get(key) {
                jobs.push(delete_job(object));
            } else if let Some(object) = self.state.cluster_slices.get(key) {
                jobs.push(delete_job(object));
            }
        }
        jobs
    }

    fn slice_metadata(&self, key: &SliceKey, slice: &SliceRecord) -> ObjectMeta {
        let label = label_value(&slice.policy.name);
        let is_short = label != slice.policy.name;
        let annotation = (names::ANNOTATION_POLICY_NAME.to_owned(), slice.policy.name.clone());
        let kind =
            if key.namespace.is_some() { EgressPolicy::INFO.kind } else { EgressClusterPolicy::INFO.kind };
        let owner = OwnerReference {
            api_version: names::API_VERSION.to_owned(),
            kind: kind.to_owned(),
            name: slice.policy.name.clone(),
            uid: slice.owner_uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        ObjectMeta {
            name: Some(key.name.clone()),
            namespace: key.namespace.clone(),
            labels: Some(BTreeMap::from([(names::LABEL_POLICY_NAME.to_owned(), label)])),
            annotations: is_short.then(|| BTreeMap::from([annotation])),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        }
    }
}

/// The entries with these keys, or all.
fn part_of<'a, K: Ord, V>(
    all: &'a BTreeMap<K, V>,
    part: Option<&'a BTreeSet<K>>,
) -> Box<dyn Iterator<Item = (&'a K, &'a V)> + 'a> {
    match part {
        None => Box::new(all.iter()),
        Some(keys) => Box::new(keys.iter().filter_map(|key| all.get_key_value(key))),
    }
}

/// Whether a tunnel's status says the controller's part already. Saves a look at the whole object.
fn is_as_planned(known: &Tunnel, planned: &TunnelPlan) -> bool {
    known.ipv4 == planned.ipv4
        && known.ipv6 == planned.ipv6
        && known.mac == Some(planned.mac)
        && known.mark == planned.mark
        && known.phase == Some(planned.phase)
        && known.message == planned.message
}

/// Gateways by an address of theirs.
type Holders<'a> = BTreeMap<IpAddr, Vec<&'a str>>;

fn conditions_of(gateway: &EgressGateway) -> &[Condition] {
    gateway.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
}

/// Whether an object's condition is about the object as it is now.
fn is_observed(metadata: &ObjectMeta, conditions: &[Condition]) -> bool {
    let ready = condition(conditions, names::CONDITION_READY);
    ready.is_some_and(|ready| ready.observed_generation == metadata.generation)
}

fn blocks(lease: &PortLease) -> BTreeSet<(EipPair, PortBlock)> {
    let of_eip =
        lease.leases.iter().map(|lease| lease.blocks.iter().map(move |leased| (lease.eip, leased.block)));
    of_eip.flatten().collect()
}

#[cfg(test)]
mod tests;
