//! The stamp of the own term, on all of which each part has one holder.

use std::collections::BTreeMap;

use api::names;
use api::v1beta1::EgressPortLease;
use kube::Resource;
use model::port_lease::PortLease;
use runtime::writer::Part;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::job::{Job, create_job, patch_job};
use super::{Writer, conditions_of, is_observed, part_of};
use crate::fence::Exclusive;
use crate::watches::Input;

impl Writer<'_> {
    /// Whether anything is to be written that gives or takes.
    pub(super) fn gives_or_takes(&self) -> bool {
        let snapshot = self.state.planner.snapshot();
        let mut leases = part_of(&self.plan.leases, self.parts.map(|parts| &parts.leases));
        let of_leases = leases.any(|(name, planned)| match self.state.leases.get(name) {
            None => planned.is_some(),
            Some(_) => snapshot.leases.get(name).map(|record| &record.lease) != planned.as_ref(),
        });
        let of_gateways = || {
            let waiting = self.state.pace.waiting().cloned().collect();
            let mut planned = part_of(&self.plan.gateways, self.parts.map(|_| &waiting));
            planned.any(|(name, planned)| {
                let Some(object) = self.state.gateways.get(name) else { return false };
                let known = snapshot.gateways.get(name).map(|record| &record.status);
                known != Some(&planned.status) || !is_observed(&object.metadata, conditions_of(object))
            })
        };
        of_leases || of_gateways()
    }

    /// Puts the stamp of this term on all that does not carry it, and makes what is missing, empty.
    pub(super) fn stamps(&self) -> Vec<Job> {
        let (fence, mut jobs) = (&self.state.fence, Vec::new());
        if fence.has_open() {
            for object in self.state.leases.values() {
                jobs.extend(self.stamp(Exclusive::Lease, object, Input::Lease));
            }
            for object in self.state.gateways.values() {
                jobs.extend(self.stamp(Exclusive::Gateway, object, Input::Gateway));
            }
        }
        for (name, planned) in part_of(&self.plan.leases, self.parts.map(|parts| &parts.leases)) {
            if planned.is_none() || self.state.leases.contains_key(name) {
                continue;
            }
            let mut object = EgressPortLease::named(&name.object());
            object.metadata.annotations = Some(BTreeMap::from([self.annotation()]));
            object.spec = api::convert::port_lease_spec(name, &PortLease::default());
            jobs.extend(create_job(&object, Input::Lease));
        }
        jobs
    }

    fn stamp<K>(
        &self,
        kind: Exclusive,
        object: &K,
        wrap: fn(runtime::watch::Change<K>) -> Input,
    ) -> Option<Job>
    where
        K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + 'static,
    {
        let name = object.meta().name.as_deref().unwrap_or_default();
        if !self.state.fence.is_open(kind, name) {
            return None;
        }
        let mut wanted = object.clone();
        wanted.meta_mut().annotations.get_or_insert_default().extend([self.annotation()]);
        patch_job(object, &wanted, Part::Main, wrap).map(|job| job.of_stamp(kind, name))
    }

    fn annotation(&self) -> (String, String) {
        (names::ANNOTATION_LEADER_TERM.to_owned(), self.state.fence.stamp().to_owned())
    }
}
