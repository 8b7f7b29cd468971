//! Rules of admission configurations and policies.

use serde_json::Value;

use super::validation::{check_choice, items, text};
use crate::admission::expression::Expression;
use crate::meta;
use crate::status_error::FieldError;

pub(super) fn webhooks(new: &Value, errors: &mut Vec<FieldError>) {
    for (index, hook) in items(new, "/webhooks").iter().enumerate() {
        let path = format!("webhooks[{index}]");
        let name = text(hook, "/name");
        if name.split('.').count() < 3 || meta::subdomain_problem(name).is_some() {
            let why = "should be a domain with at least three segments separated by dots";
            errors.push(FieldError::invalid(format!("{path}.name"), &Value::from(name), why));
        }
        check_choice(
            text(hook, "/failurePolicy"),
            &format!("{path}.failurePolicy"),
            &["Fail", "Ignore"],
            true,
            errors,
        );
        let effects = ["None", "NoneOnDryRun"];
        check_choice(text(hook, "/sideEffects"), &format!("{path}.sideEffects"), &effects, true, errors);
        if items(hook, "/admissionReviewVersions").is_empty() {
            let why = "must specify one of v1, v1beta1";
            errors.push(FieldError::required(format!("{path}.admissionReviewVersions"), why));
        }
        let config = hook.get("clientConfig").cloned().unwrap_or_default();
        if config.get("url").is_some() == config.get("service").is_some() {
            let why = "exactly one of url or service is required";
            errors.push(FieldError::required(format!("{path}.clientConfig"), why));
        }
        if let Some(seconds) =
            hook.get("timeoutSeconds").filter(|it| !it.as_i64().is_some_and(|it| (1..=30).contains(&it)))
        {
            let why = "the timeout value must be between 1 and 30 seconds";
            errors.push(FieldError::invalid(format!("{path}.timeoutSeconds"), seconds, why));
        }
    }
}

pub(super) fn policy(new: &Value, errors: &mut Vec<FieldError>) {
    let is_missing = |pointer: &str| new.pointer(pointer).is_none_or(Value::is_null);
    if is_missing("/spec/matchConstraints") {
        errors.push(FieldError::required("spec.matchConstraints", ""));
    } else if items(new, "/spec/matchConstraints/resourceRules").is_empty() {
        errors.push(FieldError::required("spec.matchConstraints.resourceRules", ""));
    }
    check_choice(text(new, "/spec/failurePolicy"), "spec.failurePolicy", &["Fail", "Ignore"], true, errors);
    let validations = items(new, "/spec/validations");
    if validations.is_empty() && items(new, "/spec/auditAnnotations").is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.push(FieldError::required("spec.validations", why));
        errors.push(FieldError::required("spec.auditAnnotations", why));
    }
    for (list, keys) in [
        ("matchConditions", &["expression"][..]),
        ("variables", &["expression"]),
        ("validations", &["expression", "messageExpression"]),
    ] {
        for (index, entry) in items(new, &format!("/spec/{list}")).iter().enumerate() {
            for key in keys {
                let field = format!("spec.{list}[{index}].{key}");
                expression(text(entry, &format!("/{key}")), *key == "expression", field, errors);
            }
        }
    }
    for (index, validation) in validations.iter().enumerate() {
        let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
        let field = format!("spec.validations[{index}].reason");
        check_choice(text(validation, "/reason"), &field, &reasons, false, errors);
    }
}

fn expression(source: &str, required: bool, field: String, errors: &mut Vec<FieldError>) {
    if source.trim().is_empty() {
        if required {
            errors.push(FieldError::required(field, "expression is not specified"));
        }
    } else if let Err(why) = Expression::compile(source) {
        errors.push(FieldError::invalid(field, &Value::from(source), format!("compilation failed: {why}")));
    }
}

pub(super) fn policy_binding(new: &Value, errors: &mut Vec<FieldError>) {
    let name = text(new, "/spec/policyName");
    if name.is_empty() {
        errors.push(FieldError::required("spec.policyName", ""));
    } else if let Some(problem) = meta::subdomain_problem(name) {
        errors.push(FieldError::invalid("spec.policyName", &Value::from(name), problem));
    }
    let actions = items(new, "/spec/validationActions");
    if actions.is_empty() {
        errors.push(FieldError::required(
            "spec.validationActions",
            "at least one validation action is required",
        ));
    }
    for (index, action) in actions.iter().enumerate() {
        let field = format!("spec.validationActions[{index}]");
        check_choice(action.as_str().unwrap_or_default(), &field, &["Audit", "Deny", "Warn"], true, errors);
    }
    let Some(params) = new.pointer("/spec/paramRef").filter(|params| params.is_object()) else { return };
    let has = |key: &str| params.get(key).is_some_and(|value| !value.is_null() && value != "");
    if has("name") == has("selector") {
        errors.push(FieldError::required("spec.paramRef", "one of name or selector must be specified"));
    }
    let action = text(params, "/parameterNotFoundAction");
    check_choice(action, "spec.paramRef.parameterNotFoundAction", &["Deny", "Allow"], true, errors);
}
