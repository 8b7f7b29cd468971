//! ValidatingAdmissionPolicy: rules in CEL about any object.

use serde_json::Value;

use super::Attributes;
use super::expression::{Expression, Scope};
use super::matching::{Conditions, Constraints, Held};
use crate::builtin::text;
use crate::resource::{Gvk, split_api_version};
use crate::selector::LabelSelector;
use crate::status_error::StatusError;

/// A policy, compiled.
#[derive(Debug)]
pub(crate) struct Policy {
    name: String,
    constraints: Constraints,
    conditions: Conditions,
    ignores_failure: bool,
    /// The kind of its parameters.
    pub(crate) param_kind: Option<Gvk>,
    variables: Vec<(String, Result<Expression, String>)>,
    validations: Vec<Validation>,
}

#[derive(Debug)]
struct Validation {
    source: String,
    expression: Result<Expression, String>,
    message: String,
    message_expression: Option<Expression>,
    reason: &'static str,
    code: u16,
}

/// Where a policy is in force, and what for.
#[derive(Debug)]
pub(crate) struct Binding {
    name: String,
    /// The policy's name.
    pub(crate) policy: String,
    constraints: Option<Constraints>,
    denies: bool,
    warns: bool,
    /// Which parameters it uses.
    pub(crate) params: Option<ParamRef>,
}

/// Which parameters a binding uses.
#[derive(Debug)]
pub(crate) struct ParamRef {
    /// The only one, by name.
    pub(crate) name: Option<String>,
    /// All that these labels choose.
    pub(crate) selector: Option<LabelSelector>,
    /// Their namespace, that of the request if none is named.
    pub(crate) namespace: Option<String>,
    /// Whether requests go through if there are none.
    pub(crate) allows_without: bool,
}

impl Policy {
    pub(crate) fn of(object: &Value) -> Self {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let list = |key: &str| spec.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let param_kind = spec.get("paramKind").filter(|kind| kind.is_object()).map(|kind| {
            let (group, version) = split_api_version(text(kind, "/apiVersion"));
            Gvk::new(group, version, text(kind, "/kind"))
        });
        let variable =
            |one: &Value| (text(one, "/name").to_owned(), Expression::compile(text(one, "/expression")));
        Self {
            name: text(object, "/metadata/name").to_owned(),
            constraints: Constraints::of(
                spec.get("matchConstraints").unwrap_or(&Value::Null),
                "resourceRules",
            ),
            conditions: Conditions::of(spec),
            ignores_failure: text(spec, "/failurePolicy") == "Ignore",
            param_kind,
            variables: list("variables").iter().map(variable).collect(),
            validations: list("validations").iter().map(Validation::of).collect(),
        }
    }
}

impl Validation {
    fn of(value: &Value) -> Self {
        let (reason, code) = match text(value, "/reason") {
            "Unauthorized" => ("Unauthorized", 401),
            "Forbidden" => ("Forbidden", 403),
            "RequestEntityTooLarge" => ("RequestEntityTooLarge", 413),
            _ => ("Invalid", 422),
        };
        let message_expression = match text(value, "/messageExpression") {
            "" => None,
            source => Expression::compile(source).ok(),
        };
        Self {
            source: text(value, "/expression").trim().to_owned(),
            expression: Expression::compile(text(value, "/expression")),
            message: text(value, "/message").trim().to_owned(),
            message_expression,
            reason,
            code,
        }
    }

    /// What a request is told that breaks the rule.
    fn explanation(&self, scope: &Scope<'_>) -> String {
        let computed =
            self.message_expression.as_ref().and_then(|expression| match expression.value(scope) {
                Ok(cel::Value::String(text)) if !text.trim().is_empty() => Some(text.trim().to_owned()),
                _ => None,
            });
        match computed {
            Some(text) => text,
            None if self.message.is_empty() => format!("failed expression: {}", self.source),
            None => self.message.clone(),
        }
    }
}

impl Binding {
    pub(crate) fn of(object: &Value) -> Self {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let actions =
            spec.get("validationActions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let acts = |wanted: &str| actions.iter().any(|action| action == wanted);
        let constraints = spec.get("matchResources").filter(|constraints| constraints.is_object());
        let params = spec.get("paramRef").filter(|params| params.is_object()).map(|params| {
            let optional = |key: &str| Some(text(params, key).to_owned()).filter(|text| !text.is_empty());
            ParamRef {
                name: optional("/name"),
                selector: params.get("selector").and_then(LabelSelector::from_object),
                namespace: optional("/namespace"),
                allows_without: text(params, "/parameterNotFoundAction") == "Allow",
            }
        });
        Self {
            name: text(object, "/metadata/name").to_owned(),
            policy: text(spec, "/policyName").to_owned(),
            constraints: constraints.map(|constraints| Constraints::of(constraints, "resourceRules")),
            denies: acts("Deny"),
            warns: acts("Warn"),
            params,
        }
    }
}

/// A rule that a request breaks.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    text: String,
    reason: &'static str,
    code: u16,
}

impl Breach {
    fn of_policy(text: String) -> Self {
        Self { text, reason: "Invalid", code: 422 }
    }
}

/// Whether a policy with a binding is about a request at all.
pub(crate) fn is_about(policy: &Policy, binding: &Binding, attributes: &Attributes) -> bool {
    let about = |constraints: &Constraints| {
        (constraints.names_nothing() || constraints.are_about(attributes)) && constraints.select(attributes)
    };
    policy.constraints.are_about(attributes)
        && policy.constraints.select(attributes)
        && binding.constraints.as_ref().is_none_or(about)
}

/// Judges a request by a policy with a binding, once for each of the parameters; `params` is `None` if the policy uses
/// none, and an error if there should be some.
pub(crate) fn judge(
    policy: &Policy,
    binding: &Binding,
    attributes: &Attributes,
    params: Option<Result<Vec<Value>, String>>,
    warn: &dyn Fn(String),
) -> Result<(), StatusError> {
    let breaches = match params {
        None => evaluate(policy, attributes, None),
        Some(Ok(params)) => {
            params.iter().flat_map(|params| evaluate(policy, attributes, Some(params))).collect()
        }
        Some(Err(_)) if policy.ignores_failure => Vec::new(),
        Some(Err(why)) => vec![Breach::of_policy(why)],
    };
    let by = format!("ValidatingAdmissionPolicy '{}' with binding '{}'", policy.name, binding.name);
    if binding.warns {
        breaches.iter().for_each(|breach| warn(format!("Validation failed for {by}: {}", breach.text)));
    }
    match breaches.first() {
        Some(breach) if binding.denies => {
            let why = format!("{by} denied request: {}", breach.text);
            let refused = StatusError::forbidden(&attributes.resource, &attributes.name, &why);
            Err(refused.with_code(breach.code, breach.reason).with_cause("", why, ""))
        }
        _ => Ok(()),
    }
}

fn evaluate(policy: &Policy, attributes: &Attributes, params: Option<&Value>) -> Vec<Breach> {
    let mut scope = Scope::of(attributes);
    if let Some(params) = params {
        scope.set_json("params", params);
    }
    match policy.conditions.hold(&scope) {
        Held::Yes => {}
        Held::No => return Vec::new(),
        Held::Unknown(_) if policy.ignores_failure => return Vec::new(),
        Held::Unknown(why) => return vec![Breach::of_policy(why)],
    }
    let mut variables = Vec::new();
    scope.set_map("variables", &variables);
    for (name, expression) in &policy.variables {
        // One that can't be evaluated is missed by whoever uses it, and by nobody else.
        if let Ok(value) = expression.as_ref().map_err(String::clone).and_then(|one| one.value(&scope)) {
            variables.push((name.clone(), value));
            scope.set_map("variables", &variables);
        }
    }
    let judge = |validation: &Validation| {
        let truth = match &validation.expression {
            Ok(expression) => expression.truth(&scope),
            Err(error) => Err(error.clone()),
        };
        let text = match truth {
            Ok(true) => return None,
            Ok(false) => validation.explanation(&scope),
            Err(_) if policy.ignores_failure => return None,
            Err(error) => {
                return Some(Breach::of_policy(format!(
                    "expression '{}' resulted in error: {error}",
                    validation.source
                )));
            }
        };
        Some(Breach { text, reason: validation.reason, code: validation.code })
    };
    policy.validations.iter().filter_map(judge).collect()
}

#[cfg(test)]
mod tests;
