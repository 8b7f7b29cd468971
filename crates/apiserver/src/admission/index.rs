//! All configurations and policies, read once when they are written.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::policy::{Binding, Policy};
use super::webhook::Webhook;
use super::{Attributes, GROUP, Stage};
use crate::meta;
use crate::resource::GroupResource;

/// Configurations and policies by name.
#[derive(Clone, Debug, Default)]
pub struct AdmissionIndex {
    mutating: BTreeMap<String, Vec<Arc<Webhook>>>,
    validating: BTreeMap<String, Vec<Arc<Webhook>>>,
    policies: BTreeMap<String, Arc<Policy>>,
    bindings: BTreeMap<String, Arc<Binding>>,
}

impl AdmissionIndex {
    /// Takes note of a write.
    pub(crate) fn observe(&mut self, resource: &GroupResource, old: Option<&Value>, new: Option<&Value>) {
        if resource.group != GROUP {
            return;
        }
        let Some(name) = new.or(old).map(|object| meta::name(object).to_owned()) else { return };
        let hooks = || new.map(|new| Webhook::all_of(new).map(Arc::new).collect());
        match resource.resource.as_str() {
            "mutatingwebhookconfigurations" => set(&mut self.mutating, name, hooks()),
            "validatingwebhookconfigurations" => set(&mut self.validating, name, hooks()),
            "validatingadmissionpolicies" => set(&mut self.policies, name, new.map(Policy::of).map(Arc::new)),
            "validatingadmissionpolicybindings" => {
                set(&mut self.bindings, name, new.map(Binding::of).map(Arc::new));
            }
            _ => {}
        }
    }

    /// Whether nothing is configured.
    pub(crate) fn is_empty(&self) -> bool {
        !self.has_webhooks() && self.bindings.is_empty()
    }

    /// Whether any webhook is configured.
    pub(crate) fn has_webhooks(&self) -> bool {
        !self.mutating.is_empty() || !self.validating.is_empty()
    }

    /// The webhooks that are about a request by its resource, in the order in which they are asked.
    pub(crate) fn webhooks(&self, stage: Stage, attributes: &Attributes) -> Vec<Arc<Webhook>> {
        let configurations = match stage {
            Stage::Mutating => &self.mutating,
            Stage::Validating => &self.validating,
        };
        let all = configurations.values().flatten();
        all.filter(|hook| hook.constraints.are_about(attributes)).cloned().collect()
    }

    /// The policies that are in force, each with one of its bindings.
    pub(crate) fn policies(&self) -> impl Iterator<Item = (&Arc<Policy>, &Arc<Binding>)> {
        self.bindings
            .values()
            .filter_map(|binding| self.policies.get(&binding.policy).map(|policy| (policy, binding)))
    }
}

fn set<T>(map: &mut BTreeMap<String, T>, name: String, value: Option<T>) {
    match value {
        Some(value) => map.insert(name, value),
        None => map.remove(&name),
    };
}
