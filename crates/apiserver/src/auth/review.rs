//! Reviews: objects that are answered and not stored, about who somebody is and what they may do.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::access::{Action, Decision, ResourceAction, decide};
use super::roles::RoleIndex;
use super::rules::PolicyRule;
use super::{Authenticator, LiveObjects, User};
use crate::status_error::{FieldError, StatusError};

/// Answers a review of what somebody is or may do; `None` if the kind is no such review.
pub(crate) fn answer(
    kind: &str,
    review: Value,
    user: &User,
    roles: &RoleIndex,
) -> Option<Result<Value, StatusError>> {
    let status = match kind {
        "SelfSubjectReview" => Ok(json!({ "userInfo": user.to_json() })),
        "SelfSubjectRulesReview" => rules(roles, user, &review),
        "SelfSubjectAccessReview" => {
            action_of(kind, &review).map(|action| status_of(decide(roles, user, &action)))
        }
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            action_of(kind, &review).map(|action| status_of(decide(roles, &subject(&review), &action)))
        }
        _ => return None,
    };
    Some(status.map(|status| answered(review, status)))
}

/// Answers a review of a token.
pub(crate) fn answer_token(
    review: Value,
    authenticator: &Authenticator,
    objects: &dyn LiveObjects,
    now: jiff::Timestamp,
) -> Value {
    let status = token_status(&review, authenticator, objects, now);
    answered(review, status)
}

fn answered(mut review: Value, status: Value) -> Value {
    if let Some(map) = review.as_object_mut() {
        map.entry("metadata").or_insert_with(|| json!({}));
        map.insert("status".to_owned(), status);
    }
    review
}

fn status_of(decision: Decision) -> Value {
    let mut status = json!({ "allowed": decision.allowed });
    if let (false, Some(map)) = (decision.reason.is_empty(), status.as_object_mut()) {
        map.insert("reason".to_owned(), decision.reason.into());
    }
    status
}

/// All that a user may do in a namespace.
fn rules(roles: &RoleIndex, user: &User, review: &Value) -> Result<Value, StatusError> {
    let namespace = review.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default();
    if namespace.is_empty() {
        return Err(StatusError::bad_request("no namespace on request"));
    }
    let (rules, problems) = roles.all_rules(user, namespace);
    let (paths, resources): (Vec<PolicyRule>, Vec<PolicyRule>) =
        rules.into_iter().partition(|rule| rule.resources.is_empty());
    let show = |rules: &[PolicyRule]| rules.iter().map(PolicyRule::to_json).collect::<Vec<Value>>();
    let mut status = json!({
        "resourceRules": show(&resources),
        "nonResourceRules": show(&paths),
        "incomplete": !problems.is_empty(),
    });
    if !problems.is_empty()
        && let Some(map) = status.as_object_mut()
    {
        map.insert("evaluationError".to_owned(), problems.join(", ").into());
    }
    Ok(status)
}

/// The user that a SubjectAccessReview asks about.
fn subject(review: &Value) -> User {
    let groups = review.pointer("/spec/groups").and_then(Value::as_array);
    User {
        name: review.pointer("/spec/user").and_then(Value::as_str).unwrap_or_default().to_owned(),
        groups: groups.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        extra: extra_of(review),
        uid: review.pointer("/spec/uid").and_then(Value::as_str).unwrap_or_default().to_owned(),
    }
}

fn extra_of(review: &Value) -> BTreeMap<String, Vec<String>> {
    let extra = review.pointer("/spec/extra").and_then(Value::as_object);
    let texts = |values: &Value| -> Vec<String> {
        let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
        values.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    extra.into_iter().flatten().map(|(key, values)| (key.clone(), texts(values))).collect()
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
        None => json!({ "error": "invalid bearer token", "user": {} }),
    }
}
