//! What service accounts have asked for: the set, not the sequence, so that it stays small however long a server lives.
//!
//! It answers two questions: does a program get all that it needs, and is it given more than it ever asks for?

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::User;
use super::access::Action;

/// More different requests than that are not kept.
const ENTRIES_MAX: usize = 10_000;
/// Beginning of the user name of every service account.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// One kind of request of one service account, without the object's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Asked {
    /// `NAMESPACE:NAME` of the service account
    pub account: String,
    /// `get`, `list`, `watch`, `create`, …
    pub verb: String,
    /// API group
    pub group: String,
    /// Plural, `PLURAL/SUBRESOURCE` for a part
    pub resource: String,
    /// Namespace; empty for all, and for what is in none
    pub namespace: String,
    /// Whether the answer was 403, from roles or from an admission policy
    pub forbidden: bool,
}

impl Asked {
    /// What a line of Kubernetes' own audit log says; `None` where it is about no resource, of no service account, or only half
    /// written.
    #[must_use]
    pub fn in_log(line: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?;
        let text =
            |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let resource = Some(text("/objectRef/resource")).filter(|resource| !resource.is_empty())?;
        let part = text("/objectRef/subresource");
        Some(Self {
            account: text("/user/username").strip_prefix(SERVICE_ACCOUNT)?.to_owned(),
            verb: text("/verb"),
            group: text("/objectRef/apiGroup"),
            resource: if part.is_empty() { resource } else { format!("{resource}/{part}") },
            namespace: text("/objectRef/namespace"),
            forbidden: event.pointer("/responseStatus/code").and_then(Value::as_u64) == Some(403),
        })
    }
}

/// Everything that was asked.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    asked: Mutex<BTreeSet<Asked>>,
}

impl Audit {
    /// Takes note of a request about a resource.
    pub(crate) fn note(&self, user: &User, action: &Action, forbidden: bool) {
        let Action::Resource(action) = action else { return };
        let Some(account) = user.name.strip_prefix(SERVICE_ACCOUNT) else { return };
        let part = Some(&action.subresource).filter(|part| !part.is_empty());
        let asked = Asked {
            account: account.to_owned(),
            verb: action.verb.clone(),
            group: action.group.clone(),
            resource: part.map_or(action.resource.clone(), |part| format!("{}/{part}", action.resource)),
            namespace: action.namespace.clone(),
            forbidden,
        };
        let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < ENTRIES_MAX {
            all.insert(asked);
        }
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> BTreeSet<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::ResourceAction;
    use super::*;

    #[test]
    fn requests_of_service_accounts_are_kept_once_each_and_people_are_not_watched() {
        let audit = Audit::default();
        let action = |verb: &str, name: &str| {
            Action::Resource(ResourceAction {
                verb: verb.to_owned(),
                resource: "pods".to_owned(),
                subresource: "status".to_owned(),
                name: name.to_owned(),
                ..ResourceAction::default()
            })
        };
        let robot = User::new("system:serviceaccount:default:robot", &[]);
        audit.note(&robot, &action("get", "a"), false);
        audit.note(&robot, &action("get", "b"), false);
        audit.note(&robot, &action("patch", "b"), true);
        audit.note(&robot, &Action::Path { path: "/version".to_owned(), verb: "get".to_owned() }, false);
        audit.note(&User::new("jane", &[]), &action("delete", "a"), false);
        let asked: Vec<_> =
            audit.asked().into_iter().map(|it| (it.verb, it.resource, it.forbidden)).collect();
        let expected = [("get", false), ("patch", true)];
        assert_eq!(asked, expected.map(|(verb, no)| (verb.to_owned(), "pods/status".to_owned(), no)));
    }

    #[test]
    fn a_line_of_the_log_tells_who_asked_for_what_and_whether_it_was_refused() {
        let line = r#"{"kind":"Event","stage":"ResponseComplete","verb":"patch",
            "user":{"username":"system:serviceaccount:kube-system:egressgateway-agent"},
            "objectRef":{"resource":"egresstunnels","name":"a","apiGroup":"egressgateway.spidernet.io",
            "apiVersion":"v1beta1","subresource":"status"},"responseStatus":{"code":403}}"#;
        let expected = Asked {
            account: "kube-system:egressgateway-agent".to_owned(),
            verb: "patch".to_owned(),
            group: "egressgateway.spidernet.io".to_owned(),
            resource: "egresstunnels/status".to_owned(),
            namespace: String::new(),
            forbidden: true,
        };
        assert_eq!(Asked::in_log(line), Some(expected));
        assert_eq!(
            Asked::in_log(r#"{"verb":"get","user":{"username":"jane"},"objectRef":{"resource":"pods"}}"#),
            None
        );
        assert_eq!(Asked::in_log(r#"{"verb":"ge"#), None);
    }
}
