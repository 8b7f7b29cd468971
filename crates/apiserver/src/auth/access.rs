//! What a user may do.
//!
//! RBAC objects are stored and not consulted: whoever is authenticated may do all, everybody else may see whether the
//! server is alive and which version it is.

use super::{AUTHENTICATED, MASTERS, User};
use crate::status_error::{Details, StatusError};

/// First segments of the paths that need no identity.
const PUBLIC_ROOTS: &[&str] = &["version", "healthz", "livez", "readyz"];

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether.
    pub allowed: bool,
    /// Why, for reviews; may be empty.
    pub reason: &'static str,
}

/// Decides what a user may do.
pub fn decide(user: &User, action: &Action) -> Decision {
    if user.is_in(MASTERS) || user.is_in(AUTHENTICATED) {
        return Decision { allowed: true, reason: "" };
    }
    let public = match action {
        Action::Path { path, verb } => {
            // The checks of the health paths are public too.
            let root = path.strip_prefix('/').and_then(|rest| rest.split('/').next()).unwrap_or_default();
            verb == "get" && PUBLIC_ROOTS.contains(&root)
        }
        Action::Resource(_) => false,
    };
    Decision { allowed: public, reason: "" }
}

/// [`decide`] as an error that the client sees.
pub fn authorize(user: &User, action: &Action) -> Result<(), StatusError> {
    if decide(user, action).allowed { Ok(()) } else { Err(forbidden(user, action)) }
}

fn forbidden(user: &User, action: &Action) -> StatusError {
    match action {
        Action::Path { path, .. } => {
            let message = format!("forbidden: User {:?} cannot {} path {path:?}", user.name, verb_of(action));
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
                "{subject} is forbidden: User {:?} cannot {verb} resource {part:?} in API group {group:?} {place}",
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
