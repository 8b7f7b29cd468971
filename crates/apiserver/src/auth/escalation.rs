//! Nobody gives away by a role or a binding what they may not do themselves.

use serde_json::Value;

use super::access::{Action, ResourceAction, allows, quoted};
use super::roles::{GROUP, RoleIndex, RoleRef};
use super::rules::{PolicyRule, not_covered};
use super::{MASTERS, User};
use crate::meta;
use crate::resource::ResourceInfo;
use crate::status_error::StatusError;

/// Checks a write of a role or a binding; all else is fine.
pub(crate) fn check(
    roles: &RoleIndex,
    user: &User,
    info: &ResourceInfo,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), StatusError> {
    if !info.builtin || info.gvk.group != GROUP || user.is_in(MASTERS) {
        return Ok(());
    }
    if old.is_some_and(|old| only_lets_go(old, new)) {
        return Ok(());
    }
    match info.plural.as_str() {
        "roles" | "clusterroles" => check_role(roles, user, info, new, old),
        _ => check_binding(roles, user, info, new),
    }
}

/// Whether a write does nothing but let the object be collected.
fn only_lets_go(old: &Value, new: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        let metadata = meta::metadata_mut(&mut object);
        for key in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
            metadata.remove(key);
        }
        object
    };
    rest(old) == rest(new)
}

fn may(roles: &RoleIndex, user: &User, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let action = ResourceAction {
        verb: verb.to_owned(),
        group: GROUP.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..ResourceAction::default()
    };
    allows(roles, user, &Action::Resource(action))
}

fn check_role(
    roles: &RoleIndex,
    user: &User,
    info: &ResourceInfo,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), StatusError> {
    let namespace = meta::namespace(new);
    if may(roles, user, "escalate", &info.plural, namespace, meta::name(new)) {
        return Ok(());
    }
    check_rules(roles, user, info, new, &PolicyRule::of_role(new))?;
    let aggregates = |role: &Value| role.get("aggregationRule").is_some_and(|rule| !rule.is_null());
    if aggregates(new) || old.is_some_and(aggregates) {
        // Whoever says what is gathered, gives away all that may ever be.
        let everything = PolicyRule {
            verbs: vec!["*".to_owned()],
            api_groups: vec!["*".to_owned()],
            resources: vec!["*".to_owned()],
            non_resource_urls: vec!["*".to_owned()],
            ..PolicyRule::default()
        };
        if !not_covered(&roles.all_rules(user, "").0, &[everything]).is_empty() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(StatusError::forbidden(info, meta::name(new), why));
        }
    }
    Ok(())
}

fn check_binding(
    roles: &RoleIndex,
    user: &User,
    info: &ResourceInfo,
    new: &Value,
) -> Result<(), StatusError> {
    let namespace = meta::namespace(new);
    let role = RoleRef::of_binding(new);
    let resource = if role.namespaced { "roles" } else { "clusterroles" };
    if may(roles, user, "bind", resource, namespace, &role.name) {
        return Ok(());
    }
    let Some(rules) = roles.rules_of(&role, namespace) else {
        return Err(StatusError::not_found(info, &role.name));
    };
    check_rules(roles, user, info, new, rules)
}

fn check_rules(
    roles: &RoleIndex,
    user: &User,
    info: &ResourceInfo,
    new: &Value,
    wanted: &[PolicyRule],
) -> Result<(), StatusError> {
    let (held, _) = roles.all_rules(user, meta::namespace(new));
    let missing = not_covered(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        lines.join("\n")
    );
    Err(StatusError::forbidden(info, meta::name(new), &why))
}
