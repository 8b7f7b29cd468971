//! All roles and bindings, indexed by who they are for: a decision looks at the user's own bindings only.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use serde_json::Value;

use super::User;
use super::rules::PolicyRule;
use crate::meta;
use crate::resource::GroupResource;

/// The group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles and bindings as far as decisions need them.
#[derive(Clone, Debug, Default)]
pub struct RoleIndex {
    /// By namespace, cluster roles under the empty one, and name.
    roles: HashMap<String, HashMap<String, Arc<[PolicyRule]>>>,
    /// By namespace; those of the whole cluster under the empty one.
    bindings: HashMap<String, Subjects>,
}

/// Bindings by name, each with the subject's own kind.
type Bindings = BTreeMap<String, Bound>;

#[derive(Clone, Debug, Default)]
struct Subjects {
    users: HashMap<String, Bindings>,
    groups: HashMap<String, Bindings>,
}

#[derive(Debug, Clone)]
struct Bound {
    role: RoleRef,
    /// The subject as reasons name it.
    subject: String,
}

/// The role that a binding gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleRef {
    /// Whether it is a role of a namespace and not one of the cluster.
    pub namespaced: bool,
    /// Name.
    pub name: String,
}

impl RoleRef {
    /// The role that a binding object names.
    pub fn of_binding(binding: &Value) -> Self {
        let text = |key: &str| {
            binding.pointer(&format!("/roleRef/{key}")).and_then(Value::as_str).unwrap_or_default()
        };
        Self { namespaced: text("kind") == "Role", name: text("name").to_owned() }
    }

    fn kind(&self) -> &'static str {
        if self.namespaced { "Role" } else { "ClusterRole" }
    }
}

/// A binding that counts for a user, with the rules of its role if there is that role.
pub struct Grant<'a> {
    binding: &'a str,
    namespace: &'a str,
    bound: &'a Bound,
    /// The role's rules; `None` if there is no such role.
    pub rules: Option<&'a Arc<[PolicyRule]>>,
}

impl Grant<'_> {
    /// Why something is allowed by this binding.
    pub fn reason(&self) -> String {
        let (kind, binding) = if self.namespace.is_empty() {
            ("ClusterRoleBinding", self.binding.to_owned())
        } else {
            ("RoleBinding", format!("{}/{}", self.binding, self.namespace))
        };
        let RoleRef { name, .. } = &self.bound.role;
        let role = self.bound.role.kind();
        format!("RBAC: allowed by {kind} {binding:?} of {role} {name:?} to {}", self.bound.subject)
    }

    /// What is wrong with a binding whose role is missing.
    pub fn problem(&self) -> String {
        format!("{}.{GROUP} {:?} not found", self.bound.role.kind().to_lowercase(), self.bound.role.name)
    }
}

impl RoleIndex {
    /// Takes note of a write.
    pub(crate) fn observe(&mut self, resource: &GroupResource, old: Option<&Value>, new: Option<&Value>) {
        if resource.group != GROUP {
            return;
        }
        match resource.resource.as_str() {
            "roles" | "clusterroles" => self.observe_role(old, new),
            _ => {
                if let Some(old) = old {
                    self.unbind(old);
                }
                if let Some(new) = new {
                    self.bind(new);
                }
            }
        }
    }

    fn observe_role(&mut self, old: Option<&Value>, new: Option<&Value>) {
        let Some(role) = new.or(old) else { return };
        let (namespace, name) = (meta::namespace(role), meta::name(role));
        let of_namespace = self.roles.entry(namespace.to_owned()).or_default();
        match new {
            Some(new) => {
                of_namespace.insert(name.to_owned(), PolicyRule::of_role(new).into());
            }
            None => {
                of_namespace.remove(name);
                if of_namespace.is_empty() {
                    self.roles.remove(namespace);
                }
            }
        }
    }

    fn bind(&mut self, binding: &Value) {
        let subjects = self.bindings.entry(meta::namespace(binding).to_owned()).or_default();
        let role = RoleRef::of_binding(binding);
        for (is_group, name, subject) in subjects_of(binding) {
            let of_subject = subjects.of_kind(is_group).entry(name).or_default();
            of_subject.insert(meta::name(binding).to_owned(), Bound { role: role.clone(), subject });
        }
    }

    fn unbind(&mut self, binding: &Value) {
        let Some(subjects) = self.bindings.get_mut(meta::namespace(binding)) else { return };
        for (is_group, name, _) in subjects_of(binding) {
            let of_kind = subjects.of_kind(is_group);
            if let Some(bindings) = of_kind.get_mut(&name) {
                bindings.remove(meta::name(binding));
                if bindings.is_empty() {
                    of_kind.remove(&name);
                }
            }
        }
        if subjects.users.is_empty() && subjects.groups.is_empty() {
            self.bindings.remove(meta::namespace(binding));
        }
    }

    /// Visits the bindings of a user that count in a namespace, those of the cluster first.
    pub fn visit<'a, B>(
        &'a self,
        user: &User,
        namespace: &str,
        mut visit: impl FnMut(Grant<'a>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let places = [""].into_iter().chain(Some(namespace).filter(|namespace| !namespace.is_empty()));
        for place in places {
            let Some((place, subjects)) = self.bindings.get_key_value(place) else { continue };
            let own = subjects.users.get(&user.name);
            let of_groups = user.groups.iter().filter_map(|group| subjects.groups.get(group));
            for (binding, bound) in own.into_iter().chain(of_groups).flatten() {
                let rules = self.rules_of(&bound.role, place);
                visit(Grant { binding, namespace: place, bound, rules })?;
            }
        }
        ControlFlow::Continue(())
    }

    /// The rules of a role that a binding in the namespace names.
    pub fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<&Arc<[PolicyRule]>> {
        let namespace = if role.namespaced { namespace } else { "" };
        self.roles.get(namespace)?.get(&role.name)
    }

    /// All rules of a user in a namespace, and what is wrong with the bindings.
    pub fn all_rules(&self, user: &User, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        let _: ControlFlow<()> = self.visit(user, namespace, |grant| {
            match grant.rules {
                Some(granted) => rules.extend(granted.iter().cloned()),
                None => problems.push(grant.problem()),
            }
            ControlFlow::Continue(())
        });
        (rules, problems)
    }
}

impl Subjects {
    fn of_kind(&mut self, is_group: bool) -> &mut HashMap<String, Bindings> {
        if is_group { &mut self.groups } else { &mut self.users }
    }
}

/// The subjects of a binding: whether it is a group, its name as users and groups have it, and its text in reasons.
fn subjects_of(binding: &Value) -> Vec<(bool, String, String)> {
    let subjects = binding.get("subjects").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let read = |subject: &Value| {
        let text = |key: &str| subject.get(key).and_then(Value::as_str).unwrap_or_default();
        let name = text("name");
        match text("kind") {
            "Group" => Some((true, name.to_owned(), format!("Group {name:?}"))),
            "User" => Some((false, name.to_owned(), format!("User {name:?}"))),
            "ServiceAccount" => {
                let namespace = match text("namespace") {
                    "" => meta::namespace(binding),
                    namespace => namespace,
                };
                let user = format!("system:serviceaccount:{namespace}:{name}");
                Some((false, user, format!("ServiceAccount \"{name}/{namespace}\"")))
            }
            _ => None,
        }
    };
    subjects.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests;
