//! Writes what differs between the plan and the objects.
//!
//! In steps, each complete before the next begins: what a step wrote is known to the one after it, ports are taken from
//! one node before another gets them, and a policy says that it is in force after everything that it needs is written.

mod job;

use std::collections::{BTreeMap, BTreeSet};

use api::names;
use api::resource::CustomResource;
use api::v1beta1::{
    EgressClusterEndpointSlice, EgressClusterPolicy, EgressEndpoint, EgressEndpointSlice, EgressPolicy,
    EgressPolicyStatus, EgressPortLease, EgressTunnel, condition,
};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::ObjectMeta;
use kube::{Api, Client, Resource};
use model::PortBlock;
use model::port_lease::PortLease;
use model::tunnel::Tunnel;
use plan::endpoint_slices::label_value;
use plan::outcome::TunnelPlan;
use plan::snapshot::{SliceKey, SliceRecord};
use plan::{Changed, Parts, Plan};
use runtime::writer::{Part, WriteError};
use tracing::{debug, warn};

use self::job::{Job, create_job, delete_job, patch_job, set_finalizer, with_ours};
use crate::render;
use crate::state::State;
use crate::watches::Input;

/// Writes at a time.
const CONCURRENCY: usize = 16;

/// What became of the writes of a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Done
    pub(crate) written: u64,
    /// Somebody else was faster; the watch will tell
    pub(crate) conflicts: u64,
    /// To be tried again
    pub(crate) failed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Objects,
    TakeLeases,
    GiveLeases,
    Gateways,
    Policies,
}

/// Writes what differs, as long as this replica leads. What was written is taken into the state.
pub(crate) async fn write(
    client: &Client,
    state: &mut State,
    changed: &Changed,
    now: &Time,
    leads: impl Fn() -> bool,
) -> Outcome {
    let parts = match changed {
        Changed::Everything => None,
        Changed::Parts(parts) => Some(parts),
    };
    let mut outcome = Outcome::default();
    for step in [Step::Objects, Step::TakeLeases, Step::GiveLeases, Step::Gateways, Step::Policies] {
        if !leads() {
            outcome.failed += 1;
            return outcome;
        }
        let writer = Writer { client, state, plan: state.planner.last(), parts, now };
        let leases = match step {
            Step::TakeLeases => writer.leases(true),
            Step::GiveLeases => writer.leases(false),
            Step::Objects | Step::Gateways | Step::Policies => Vec::new(),
        };
        let jobs = match step {
            Step::Objects => writer.objects(),
            Step::TakeLeases => writer.tunnel_statuses(),
            Step::GiveLeases => Vec::new(),
            Step::Gateways => writer.gateway_statuses(),
            Step::Policies => [writer.policy_statuses(), writer.cluster_info(), writer.slices()]
                .into_iter()
                .flatten()
                .collect(),
        };
        let before = outcome;
        let mut tagged: Vec<Tagged> = jobs.into_iter().map(|job| tag(None, job)).collect();
        tagged.extend(leases.into_iter().map(|(lease, job)| tag(lease, job)));
        let results: Vec<_> = stream::iter(tagged).buffer_unordered(CONCURRENCY).collect().await;
        for (lease, result) in results {
            if let (Some((node, lease)), Err(WriteError::Unavailable { .. })) = (lease, &result) {
                state.planner.absorb(plan::Event::UncertainLease(node, Some(lease)));
            }
            match result {
                Ok(input) => {
                    outcome.written += 1;
                    if let Some(input) = input {
                        state.absorb(input);
                    }
                }
                Err(error @ (WriteError::Conflict { .. } | WriteError::Gone { .. })) => {
                    outcome.conflicts += 1;
                    debug!(error = %error, "not written");
                }
                Err(error) => {
                    outcome.failed += 1;
                    warn!(error = %describe(&error), "could not write");
                }
            }
        }
        let is_complete = outcome.conflicts == before.conflicts && outcome.failed == before.failed;
        if step == Step::TakeLeases && !is_complete {
            // Ports that could not be taken must not be given.
            return outcome;
        }
    }
    outcome
}

/// A node and what its lease is to be, where it is a lease that is written.
type Lease = Option<(String, PortLease)>;
/// A write that tells at its end what it was.
type Tagged = BoxFuture<'static, (Lease, Result<Option<Input>, WriteError>)>;

fn tag(lease: Lease, job: Job) -> Tagged {
    async move { (lease, job.await) }.boxed()
}

fn describe(error: &WriteError) -> String {
    match error {
        WriteError::Unavailable { what, source } => format!("{what}: {source}"),
        other => other.to_string(),
    }
}

struct Writer<'a> {
    client: &'a Client,
    state: &'a State,
    plan: &'a Plan,
    /// What of the plan may differ from what is there; `None`: anything
    parts: Option<&'a Parts>,
    now: &'a Time,
}

impl Writer<'_> {
    fn api<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    fn namespaced<K>(&self, namespace: Option<&str>) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace.unwrap_or_default())
    }

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
            jobs.extend(patch_job(self.api(), object, &wanted, Part::Main, Input::Gateway));
        }
        for (key, planned) in &self.plan.policies {
            let Some(gateway) = &planned.fill_gateway else { continue };
            if let Some(object) = self.state.policies.get(key) {
                let mut wanted = object.clone();
                wanted.spec.egress_gateway_name.clone_from(gateway);
                let api = self.namespaced(key.namespace.as_deref());
                jobs.extend(patch_job(api, object, &wanted, Part::Main, Input::Policy));
            } else if let Some(object) = self.state.cluster_policies.get(key) {
                let mut wanted = object.clone();
                wanted.spec.egress_gateway_name.clone_from(gateway);
                jobs.extend(patch_job(self.api(), object, &wanted, Part::Main, Input::ClusterPolicy));
            }
        }
        jobs.extend(self.tunnels());
        jobs
    }

    fn tunnels(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for name in self.plan.tunnels.keys().filter(|name| !self.state.tunnels.contains_key(*name)) {
            jobs.push(create_job(self.api(), EgressTunnel::named(name), Input::Tunnel));
        }
        for (name, object) in &self.state.tunnels {
            if object.metadata.deletion_timestamp.is_some() {
                // Nothing is held for a tunnel but its own status: let it go, and make it anew.
                let mut wanted = object.clone();
                set_finalizer(&mut wanted.metadata, names::FINALIZER_TUNNEL, false, true);
                jobs.extend(patch_job(self.api(), object, &wanted, Part::Main, Input::Tunnel));
            } else if !self.plan.tunnels.contains_key(name) {
                jobs.push(delete_job::<EgressTunnel>(self.api(), object));
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
            jobs.extend(patch_job(self.api(), object, &wanted, Part::Status, Input::Tunnel));
        }
        jobs
    }

    /// Leases that lose a block, or those that lose none, each with what it is to be.
    fn leases(&self, losing: bool) -> Vec<(Lease, Job)> {
        let mut jobs = Vec::new();
        for (node, planned) in part_of(&self.plan.leases, self.parts.map(|parts| &parts.nodes)) {
            let object = self.state.leases.get(node);
            let known = self
                .state
                .planner
                .snapshot()
                .leases
                .get(node)
                .map(|record| record.lease.clone())
                .unwrap_or_default();
            if object.is_some() && planned.as_ref() == Some(&known) {
                continue;
            }
            if blocks(&known).is_subset(&planned.as_ref().map(blocks).unwrap_or_default()) == losing {
                continue;
            }
            let job = match (object, planned) {
                (Some(object), None) => Some(delete_job::<EgressPortLease>(self.api(), object)),
                (None, Some(lease)) => {
                    let mut object = EgressPortLease::named(node);
                    object.spec = api::convert::port_lease_spec(lease);
                    Some(create_job(self.api(), object, Input::Lease))
                }
                (Some(object), Some(lease)) => {
                    let mut wanted = object.clone();
                    wanted.spec = api::convert::port_lease_spec(lease);
                    patch_job(self.api(), object, &wanted, Part::Main, Input::Lease)
                }
                (None, None) => None,
            };
            let wanted = planned.clone().map(|lease| (node.clone(), lease));
            jobs.extend(job.map(|job| (wanted, job)));
        }
        jobs
    }

    fn gateway_statuses(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        if self.parts.is_some() {
            return jobs;
        }
        for (name, planned) in &self.plan.gateways {
            let Some(object) = self.state.gateways.get(name) else { continue };
            let before =
                object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            let status = render::gateway_status(planned, before, object.metadata.generation, self.now);
            let mut wanted = object.clone();
            wanted.status = Some(status);
            jobs.extend(patch_job(self.api(), object, &wanted, Part::Status, Input::Gateway));
        }
        jobs
    }

    fn policy_statuses(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (key, planned) in part_of(&self.plan.policies, self.parts.map(|parts| &parts.policies)) {
            let known = self.state.planner.snapshot().policies.get(key);
            let is_told = known.is_some_and(|known| known.status == planned.status);
            let wanted = |metadata: &ObjectMeta, status: Option<&EgressPolicyStatus>| {
                let before = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
                let needed = !(is_told && is_observed(metadata, status));
                needed.then(|| render::policy_status(planned, before, metadata.generation, self.now))
            };
            if let Some(object) = self.state.policies.get(key) {
                let Some(status) = wanted(&object.metadata, object.status.as_ref()) else { continue };
                let wanted = EgressPolicy { status: Some(status), ..object.clone() };
                let api = self.namespaced(key.namespace.as_deref());
                jobs.extend(patch_job(api, object, &wanted, Part::Status, Input::Policy));
            } else if let Some(object) = self.state.cluster_policies.get(key) {
                let Some(status) = wanted(&object.metadata, object.status.as_ref()) else { continue };
                let wanted = EgressClusterPolicy { status: Some(status), ..object.clone() };
                jobs.extend(patch_job(self.api(), object, &wanted, Part::Status, Input::ClusterPolicy));
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
        patch_job(self.api(), object, &wanted, Part::Status, Input::ClusterInfo).into_iter().collect()
    }

    fn slices(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        let (known, part) = (&self.state.planner.snapshot().slices, self.parts.map(|parts| &parts.slices));
        let planned = part_of(&self.plan.slices, part);
        for (key, slice) in planned.filter(|(key, slice)| known.get(*key) != Some(*slice)) {
            let metadata = self.slice_metadata(key, slice);
            let endpoints: Vec<EgressEndpoint> = slice.endpoints.iter().map(render::endpoint).collect();
            match &key.namespace {
                Some(namespace) => {
                    let api: Api<EgressEndpointSlice> = self.namespaced(Some(namespace));
                    match self.state.slices.get(key) {
                        None => jobs.push(create_job(
                            api,
                            EgressEndpointSlice { metadata, endpoints },
                            Input::Slice,
                        )),
                        Some(object) => {
                            let metadata = with_ours(&object.metadata, metadata);
                            let wanted = EgressEndpointSlice { metadata, endpoints };
                            jobs.extend(patch_job(api, object, &wanted, Part::Main, Input::Slice));
                        }
                    }
                }
                None => {
                    let api: Api<EgressClusterEndpointSlice> = self.api();
                    match self.state.cluster_slices.get(key) {
                        None => {
                            let object = EgressClusterEndpointSlice { metadata, endpoints };
                            jobs.push(create_job(api, object, Input::ClusterSlice));
                        }
                        Some(object) => {
                            let metadata = with_ours(&object.metadata, metadata);
                            let wanted = EgressClusterEndpointSlice { metadata, endpoints };
                            jobs.extend(patch_job(api, object, &wanted, Part::Main, Input::ClusterSlice));
                        }
                    }
                }
            }
        }
        // What the plan knows and does not want; slices without our label are not ours.
        for (key, _) in part_of(known, part).filter(|(key, _)| !self.plan.slices.contains_key(*key)) {
            if let Some(object) = self.state.slices.get(key) {
                jobs.push(delete_job::<EgressEndpointSlice>(
                    self.namespaced(key.namespace.as_deref()),
                    object,
                ));
            } else if let Some(object) = self.state.cluster_slices.get(key) {
                jobs.push(delete_job::<EgressClusterEndpointSlice>(self.api(), object));
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
}

/// Whether a policy's condition is about the object as it is now.
fn is_observed(metadata: &ObjectMeta, status: Option<&EgressPolicyStatus>) -> bool {
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ready = condition(conditions, names::CONDITION_READY);
    ready.is_some_and(|ready| ready.observed_generation == metadata.generation)
}

fn blocks(lease: &PortLease) -> BTreeSet<(model::EipPair, PortBlock)> {
    let of_eip =
        lease.leases.iter().map(|lease| lease.blocks.iter().map(move |leased| (lease.eip, leased.block)));
    of_eip.flatten().collect()
}
