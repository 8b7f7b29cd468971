//! Reviews: objects that are answered and not stored, about who somebody is and what they may do.

use serde_json::{Value, json};

use super::access::{Action, Decision, ResourceAction, decide};
use super::{Authenticator, LiveObjects, User};
use crate::status_error::{FieldError, StatusError};

/// Answers a review of this kind; `None` if the kind is no review.
pub(crate) fn answer(
    kind: &str,
    mut review: Value,
    user: &User,
    authenticator: &Authenticator,
    objects: &dyn LiveObjects,
    now: jiff::Timestamp,
) -> Option<Result<Value, StatusError>> {
    let status = match kind {
        "SelfSubjectReview" => json!({ "userInfo": user.to_json() }),
        "SelfSubjectRulesReview" => rules(user),
        "SelfSubjectAccessReview" => match action_of(kind, &review) {
            Ok(action) => status_of(decide(user, &action)),
            Err(error) => return Some(Err(error)),
        },
        "SubjectAccessReview" | "LocalSubjectAccessReview" => match action_of(kind, &review) {
            Ok(action) => status_of(decide(&subject(&review), &action)),
            Err(error) => return Some(Err(error)),
        },
        "TokenReview" => token_status(&review, authenticator, objects, now),
        _ => return None,
    };
    if let Some(map) = review.as_object_mut() {
        map.entry("metadata").or_insert_with(|| json!({}));
        map.insert("status".to_owned(), status);
    }
    Some(Ok(review))
}

fn status_of(decision: Decision) -> Value {
    let mut status = json!({ "allowed": decision.allowed });
    if let (false, Some(map)) = (decision.reason.is_empty(), status.as_object_mut()) {
        map.insert("reason".to_owned(), decision.reason.into());
    }
    status
}

fn rules(user: &User) -> Value {
    let anything = Action::Resource(ResourceAction { verb: "*".to_owned(), ..ResourceAction::default() });
    if decide(user, &anything).allowed {
        json!({
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
            "incomplete": false,
        })
    } else {
        json!({ "resourceRules": [], "nonResourceRules": [], "incomplete": false })
    }
}

/// The user that a SubjectAccessReview asks about.
fn subject(review: &Value) -> User {
    let groups = review.pointer("/spec/groups").and_then(Value::as_array);
    User {
        name: review.pointer("/spec/user").and_then(Value::as_str).unwrap_or_default().to_owned(),
        groups: groups.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        ..User::default()
    }
}

fn action_of(kind: &str, review: &Value) -> Result<Action, StatusError> {
    let resource = review.pointer("/spec/resourceAttributes").filter(|attributes| attributes.is_object());
    let path = review.pointer("/spec/nonResourceAttributes").filter(|attributes| attributes.is_object());
    let text = |attributes: &Value, key: &str| {
        attributes.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    match (resource, path) {
        (Some(attributes), None) => Ok(Action::Resource(ResourceAction {
            verb: text(attributes, "verb"),
            group: text(attributes, "group"),
            resource: text(attributes, "resource"),
            subresource: text(attributes, "subresource"),
            namespace: text(attributes, "namespace"),
            name: text(attributes, "name"),
        })),
        (None, Some(attributes)) => {
            Ok(Action::Path { path: text(attributes, "path"), verb: text(attributes, "verb") })
        }
        _ => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let spec = review.get("spec").cloned().unwrap_or(Value::Null);
            let error = FieldError::invalid("spec.resourceAttributes", &spec, why);
            Err(StatusError::invalid_kind("authorization.k8s.io", kind, "", &[error]))
        }
    }
}

fn token_status(
    review: &Value,
    authenticator: &Authenticator,
    objects: &dyn LiveObjects,
    now: jiff::Timestamp,
) -> Value {
    let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
    match authenticator.user_of_token(token, objects, now) {
        Some(user) => json!({
            "authenticated": true,
            "user": user.to_json(),
            "audiences": [super::service_account::ISSUER],
        }),
        None => json!({ "authenticated": false, "error": "invalid bearer token" }),
    }
}
