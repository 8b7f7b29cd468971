//! Acting as somebody else, for those who may.

use http::HeaderMap;

use super::access::{Action, ResourceAction};
use super::{AUTHENTICATED, UNAUTHENTICATED, User};
use crate::http::percent_decode;
use crate::status_error::StatusError;

const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whom a request wants to act as, and what the requester has to be allowed for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Impersonation {
    pub(crate) user: User,
    pub(crate) needed: Vec<Action>,
}

impl Impersonation {
    /// What the headers ask for; `None` if they ask for nothing.
    pub(crate) fn requested(headers: &HeaderMap) -> Result<Option<Self>, StatusError> {
        let texts = |name: &str| -> Vec<String> {
            let values = headers.get_all(name).iter();
            values.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
        };
        let first = |name: &str| texts(name).into_iter().next().filter(|text| !text.is_empty());
        let (name, uid) = (first("impersonate-user"), first("impersonate-uid"));
        let mut user = User { groups: texts("impersonate-group"), ..User::default() };
        for (header, value) in headers {
            let Some(key) = header.as_str().strip_prefix("impersonate-extra-") else { continue };
            if let (Some(key), Ok(value)) = (percent_decode(key, false), value.to_str()) {
                user.extra.entry(key).or_default().push(value.to_owned());
            }
        }
        let Some(name) = name else {
            if user.groups.is_empty() && user.extra.is_empty() && uid.is_none() {
                return Ok(None);
            }
            let why = "a user has to be named by whoever wants to act as one of a group, uid or extra";
            return Err(StatusError::new(500, "InternalError", format!("Internal error occurred: {why}")));
        };
        user.name = name;
        user.uid = uid.unwrap_or_default();
        let needed = needed(&user);
        Ok(Some(Self { user: completed(user), needed }))
    }
}

fn needed(user: &User) -> Vec<Action> {
    let action = |group: &str, resource: &str, name: &str| ResourceAction {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..ResourceAction::default()
    };
    let mut needed = vec![match service_account(&user.name) {
        Some((namespace, name)) => {
            ResourceAction { namespace: namespace.to_owned(), ..action("", "serviceaccounts", name) }
        }
        None => action("", "users", &user.name),
    }];
    needed.extend(user.groups.iter().map(|group| action("", "groups", group)));
    for (key, values) in &user.extra {
        needed.extend(values.iter().map(|value| ResourceAction {
            subresource: key.clone(),
            ..action(AUTHENTICATION, "userextras", value)
        }));
    }
    if !user.uid.is_empty() {
        needed.push(action(AUTHENTICATION, "uids", &user.uid));
    }
    needed.into_iter().map(Action::Resource).collect()
}

fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The user with the groups that every user of its kind is in.
fn completed(mut user: User) -> User {
    if let Some((namespace, _)) = service_account(&user.name)
        && user.groups.is_empty()
    {
        user.groups =
            vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let everybody = if user.name == "system:anonymous" { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.is_in(AUTHENTICATED) && !user.is_in(UNAUTHENTICATED) {
        user.groups.push(everybody.to_owned());
    }
    user
}
