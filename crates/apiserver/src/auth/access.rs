//! What a user may do: whatever the roles say that are bound to it, and all if it is in `system:masters`.

use std::ops::ControlFlow;

use super::roles::{Grant, RoleIndex};
use super::{MASTERS, User};
use crate::status_error::{Details, StatusError};

/// What a request wants to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Something with a resource.
    Resource(ResourceAction),
    /// A path that is no resource.
    Path {
        /// The path, without query.
        path: String,
        /// Lower-case HTTP method.
        verb: String,
    },
}

/// Something to do with a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceAction {
    /// `get`, `list`, `watch`, `create`, …
    pub verb: String,
    /// API group.
    pub group: String,
    /// Plural.
    pub resource: String,
    /// Subresource, empty if none.
    pub subresource: String,
    /// Namespace, empty for all and for cluster-scoped resources.
    pub namespace: String,
    /// Name, empty for all.
    pub name: String,
}

/// Whether a user may do it, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether.
    pub allowed: bool,
    /// Why, or what is wrong with the user's bindings; may be empty.
    pub reason: String,
}

/// Whether a user may do something.
pub fn allows(roles: &RoleIndex, user: &User, action: &Action) -> bool {
    let decided = |grant: Grant<'_>| match grant.rules {
        Some(rules) if rules.iter().any(|rule| rule.allows(action)) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    user.is_in(MASTERS) || roles.visit(user, place(action), decided).is_break()
}

/// Decides what a user may do, and says why.
pub fn decide(roles: &RoleIndex, user: &User, action: &Action) -> Decision {
    if user.is_in(MASTERS) {
        return Decision { allowed: true, reason: String::new() };
    }
    let mut problems = Vec::new();
    let decided = roles.visit(user, place(action), |grant| match grant.rules {
        Some(rules) if rules.iter().any(|rule| rule.allows(action)) => ControlFlow::Break(grant.reason()),
        Some(_) => ControlFlow::Continue(()),
        None => {
            problems.push(grant.problem());
            ControlFlow::Continue(())
        }
    });
    match decided {
        ControlFlow::Break(reason) => Decision { allowed: true, reason },
        ControlFlow::Continue(()) => Decision { allowed: false, reason: problem_text(&mut problems) },
    }
}

fn place(action: &Action) -> &str {
    match action {
        Action::Resource(action) => &action.namespace,
        Action::Path { .. } => "",
    }
}

fn problem_text(problems: &mut Vec<String>) -> String {
    problems.dedup();
    match problems.as_slice() {
        [] => String::new(),
        [one] => format!("RBAC: {one}"),
        several => format!("RBAC: [{}]", several.join(", ")),
    }
}

/// [`decide`] as an error that the client sees.
pub fn authorize(roles: &RoleIndex, user: &User, action: &Action) -> Result<(), StatusError> {
    if allows(roles, user, action) {
        return Ok(());
    }
    Err(forbidden(user, action, &decide(roles, user, action).reason))
}

/// Texts in the form `["a" "b"]`.
pub(super) fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(" "))
}

fn forbidden(user: &User, action: &Action, reason: &str) -> StatusError {
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    match action {
        Action::Path { path, .. } => {
            let message =
                format!("forbidden: User {:?} cannot {} path {path:?}{reason}", user.name, verb_of(action));
            StatusError::new(403, "Forbidden", message).with_details(Details::default())
        }
        Action::Resource(action_) => {
            let ResourceAction { verb, group, resource, subresource, namespace, name } = action_;
            let plural = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
            let subject = if name.is_empty() { plural } else { format!("{plural} {name:?}") };
            let part =
                if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
            let place = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {namespace:?}")
            };
            let message = format!(
                "{subject} is forbidden: User {:?} cannot {verb} resource {part:?} in API group {group:?} {place}{reason}",
                user.name
            );
            StatusError::new(403, "Forbidden", message).with_details(Details {
                name: name.clone(),
                group: group.clone(),
                kind: resource.clone(),
                ..Details::default()
            })
        }
    }
}

fn verb_of(action: &Action) -> &str {
    match action {
        Action::Resource(action) => &action.verb,
        Action::Path { verb, .. } => verb,
    }
}
