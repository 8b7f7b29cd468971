//! Who a client is, and what it may do.

pub mod access;
pub mod audit;
pub mod certificate;
pub(crate) mod escalation;
pub(crate) mod impersonation;
pub(crate) mod review;
pub mod roles;
pub mod rules;
pub mod service_account;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use http::HeaderMap;
use serde_json::{Value, json};

use crate::status_error::StatusError;
use service_account::{ServiceAccountToken, TokenIssuer};

/// Group of everybody who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Group that may do all.
pub const MASTERS: &str = "system:masters";

/// A client's identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// Uid, of service accounts.
    pub uid: String,
    /// Groups, without `system:authenticated` until `Authenticator` adds it.
    pub groups: Vec<String>,
    /// Further facts, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of these groups.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Who a client is that shows nothing.
    pub fn anonymous() -> Self {
        Self::new("system:anonymous", &[UNAUTHENTICATED])
    }

    /// Whether the user is in the group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The `UserInfo` object of reviews.
    pub fn to_json(&self) -> Value {
        let mut info = json!({ "username": self.name, "groups": self.groups });
        if let Some(map) = info.as_object_mut() {
            if !self.uid.is_empty() {
                map.insert("uid".to_owned(), self.uid.as_str().into());
            }
            if !self.extra.is_empty() {
                map.insert("extra".to_owned(), json!(self.extra));
            }
        }
        info
    }

    fn into_authenticated(mut self) -> Self {
        if !self.is_in(AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// Looks up whether what a token is bound to still exists.
pub(crate) trait LiveObjects {
    /// The uid of a stored object.
    fn uid(&self, resource: &str, namespace: Option<&str>, name: &str) -> Option<String>;
}

/// Tells who a request comes from.
pub(crate) struct Authenticator {
    static_tokens: HashMap<String, User>,
    issuer: TokenIssuer,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authenticator({} static tokens)", self.static_tokens.len())
    }
}

impl Authenticator {
    pub(crate) fn new(static_tokens: impl IntoIterator<Item = (String, User)>, issuer: TokenIssuer) -> Self {
        Self { static_tokens: static_tokens.into_iter().collect(), issuer }
    }

    pub(crate) fn issuer(&self) -> &TokenIssuer {
        &self.issuer
    }

    /// The user of a request: by its bearer token, else by the connection's certificate, else nobody.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate_user: Option<&User>,
        objects: &dyn LiveObjects,
        now: jiff::Timestamp,
    ) -> Result<User, StatusError> {
        if let Some(token) = bearer_token(headers)? {
            return self.user_of_token(&token, objects, now).ok_or_else(StatusError::unauthorized);
        }
        Ok(certificate_user.map_or_else(User::anonymous, |user| user.clone().into_authenticated()))
    }

    /// The user of a token; `None` if it is wrong, over, or bound to something that is gone.
    pub(crate) fn user_of_token(
        &self,
        token: &str,
        objects: &dyn LiveObjects,
        now: jiff::Timestamp,
    ) -> Option<User> {
        // A lookup in a hash map with random keys does not tell how much of a guess was right.
        if let Some(user) = self.static_tokens.get(token) {
            return Some(user.clone().into_authenticated());
        }
        let token: ServiceAccountToken = self.issuer.verify(token, now)?;
        let alive = objects.uid("serviceaccounts", Some(&token.namespace), &token.name)? == token.uid;
        // The node of a pod may go before the pod does; a token of the node itself ends with the node.
        let own_node = token.node.as_ref().filter(|_| token.pod.is_none());
        let bound = [
            ("pods", Some(token.namespace.as_str()), token.pod.as_ref()),
            ("nodes", None, own_node),
            ("secrets", Some(token.namespace.as_str()), token.secret.as_ref()),
        ]
        .into_iter()
        .all(|(resource, namespace, bound)| {
            bound.is_none_or(|(name, uid)| objects.uid(resource, namespace, name).as_ref() == Some(uid))
        });
        (alive && bound).then(|| token.user().into_authenticated())
    }
}

fn bearer_token(headers: &HeaderMap) -> Result<Option<String>, StatusError> {
    let Some(header) = headers.get(http::header::AUTHORIZATION) else {
        return Ok(None);
    };
    let text = header.to_str().map_err(|_| StatusError::unauthorized())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(Some(token.trim().to_owned()))
        }
        // Another scheme was meant to prove something, and did not.
        _ => Err(StatusError::unauthorized()),
    }
}

#[cfg(test)]
mod tests;
