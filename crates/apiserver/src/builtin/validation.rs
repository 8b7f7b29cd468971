//! Rules of built-in kinds that clients notice.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::builtin::admission_validation::{policy, policy_binding, webhooks};
use crate::builtin::{crd, pod_validation};
use crate::limits::Limits;
use crate::meta;
use crate::resource::ResourceInfo;
use crate::selector::LabelSelector;
use crate::status_error::{FieldError, FieldProblem};

/// The items of a list, empty if there is none.
pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A text, empty if there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// What is invalid in an object of a built-in kind.
pub fn validate(info: &ResourceInfo, new: &Value, old: Option<&Value>, limits: &Limits) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match (info.gvk.group.as_str(), info.plural.as_str()) {
        ("", "pods") => pod_validation::validate(new, old, &mut errors),
        ("", "services") => service(new, old, &mut errors),
        ("", "configmaps") => config_data(new, old, &["data", "binaryData"], limits, &mut errors),
        ("", "secrets") => {
            config_data(new, old, &["data"], limits, &mut errors);
            immutable(new, old, "/type", &mut errors);
        }
        ("apps", "deployments" | "replicasets" | "daemonsets") => workload(info, new, old, &mut errors),
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => {
            for (index, rule) in items(new, "/rules").iter().enumerate() {
                policy_rule(rule, &format!("rules[{index}]"), info.namespaced, &mut errors);
            }
        }
        ("", "events") => event(new, old, &mut errors),
        ("coordination.k8s.io", "leases") => lease(new, &mut errors),
        ("rbac.authorization.k8s.io", _) => binding(new, old, &mut errors),
        ("scheduling.k8s.io", "priorityclasses")
            if old.is_some_and(|old| old.get("value") != new.get("value")) =>
        {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        ("discovery.k8s.io", "endpointslices") => {
            let kinds = ["FQDN", "IPv4", "IPv6"];
            one_of(new, "/addressType", &kinds, true, &mut errors);
            immutable(new, old, "/addressType", &mut errors);
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => errors.extend(crd::validate(new, old)),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => policy(new, &mut errors),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            policy_binding(new, &mut errors);
        }
        ("admissionregistration.k8s.io", _) => webhooks(new, &mut errors),
        _ => {}
    }
    errors
}

/// What a rule of a role has to say, which is of resources or of paths.
fn policy_rule(rule: &Value, path: &str, namespaced: bool, errors: &mut Vec<FieldError>) {
    let lacks = |key: &str| items(rule, key).is_empty();
    let mut require = |key: &str, why: &str| errors.push(FieldError::required(format!("{path}.{key}"), why));
    if lacks("/verbs") {
        require("verbs", "verbs must contain at least one value");
    }
    if lacks("/nonResourceURLs") {
        if lacks("/apiGroups") {
            require("apiGroups", "resource rules must supply at least one api group");
        }
        if lacks("/resources") {
            require("resources", "resource rules must supply at least one resource");
        }
        return;
    }
    let urls = rule.get("nonResourceURLs").unwrap_or(&Value::Null);
    let field = format!("{path}.nonResourceURLs");
    if namespaced {
        let why = "namespaced rules cannot apply to non-resource URLs";
        errors.push(FieldError::invalid(field.clone(), urls, why));
    }
    if !(lacks("/apiGroups") && lacks("/resources") && lacks("/resourceNames")) {
        let why = "rules cannot apply to both regular resources and non-resource URLs";
        errors.push(FieldError::invalid(field, urls, why));
    }
}

/// An event is in the namespace of what it is about; one about the cluster in `default`.
fn event(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    if old.is_some() {
        return;
    }
    let (own, about) = (meta::namespace(new), text(new, "/involvedObject/namespace"));
    if own != about && !(about.is_empty() && own == "default") {
        let why = "does not match event.namespace";
        errors.push(FieldError::invalid("involvedObject.namespace", &Value::from(about), why));
    }
}

fn lease(new: &Value, errors: &mut Vec<FieldError>) {
    let number = |key: &str| new.pointer(key).and_then(Value::as_i64);
    if let Some(seconds) = number("/spec/leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        let why = "must be greater than 0";
        errors.push(FieldError::invalid("spec.leaseDurationSeconds", &Value::from(seconds), why));
    }
    if let Some(count) = number("/spec/leaseTransitions").filter(|count| *count < 0) {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("spec.leaseTransitions", &Value::from(count), why));
    }
}

/// `/spec/a/0/b` as `spec.a[0].b`.
fn field_of(pointer: &str) -> String {
    let mut field = String::new();
    for step in pointer.split('/').skip(1) {
        if step.bytes().all(|b| b.is_ascii_digit()) && !step.is_empty() {
            field.push_str(&format!("[{step}]"));
        } else {
            field = crate::schema::child(&field, step);
        }
    }
    field
}

fn immutable(new: &Value, old: Option<&Value>, pointer: &str, errors: &mut Vec<FieldError>) {
    let Some(old) = old else { return };
    let value = new.pointer(pointer);
    if value != old.pointer(pointer) {
        errors.push(FieldError::immutable(field_of(pointer), value.unwrap_or(&Value::Null)));
    }
}

/// Checks that a text is one of those supported.
pub(super) fn one_of(
    value: &Value,
    pointer: &str,
    supported: &[&str],
    required: bool,
    errors: &mut Vec<FieldError>,
) {
    check_choice(text(value, pointer), &field_of(pointer), supported, required, errors);
}

pub(super) fn check_choice(
    found: &str,
    field: &str,
    supported: &[&str],
    required: bool,
    errors: &mut Vec<FieldError>,
) {
    if found.is_empty() {
        if required {
            errors.push(FieldError::required(field, ""));
        }
    } else if !supported.contains(&found) {
        errors.push(FieldError::not_supported(field, &Value::from(found), supported.iter().copied()));
    }
}

/// Checks that a port is one.
pub(super) fn check_port(port: Option<&Value>, field: &str, errors: &mut Vec<FieldError>) {
    match port.filter(|port| !port.is_null()) {
        None => errors.push(FieldError::required(field, "")),
        Some(port) if port.as_i64().is_some_and(|port| (1..=65_535).contains(&port)) => {}
        Some(port) => errors.push(FieldError::invalid(field, port, "must be between 1 and 65535, inclusive")),
    }
}

fn service(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    one_of(new, "/spec/type", &kinds, true, errors);
    let ports = items(new, "/spec/ports");
    let headless = text(new, "/spec/clusterIP") == "None";
    let external = text(new, "/spec/type") == "ExternalName";
    if ports.is_empty() && !headless && !external {
        errors.push(FieldError::required("spec.ports", ""));
    }
    if external && text(new, "/spec/externalName").is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    }
    let (mut names, mut pairs) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(port, "/name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            }
        } else if !names.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &Value::from(name)));
        } else if let Some(problem) = meta::dns_label_problem(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &Value::from(name), problem));
        }
        check_port(port.get("port"), &format!("{path}.port"), errors);
        let protocol = text(port, "/protocol");
        check_choice(protocol, &format!("{path}.protocol"), &["SCTP", "TCP", "UDP"], true, errors);
        if !pairs.insert((port.get("port").map(Value::to_string), protocol)) {
            let pair = serde_json::json!({"port": port.get("port"), "protocol": protocol});
            errors.push(FieldError::duplicate(path, &pair));
        }
    }
    let Some(old) = old else { return };
    let (before, after) = (text(old, "/spec/clusterIP"), text(new, "/spec/clusterIP"));
    let kept = text(old, "/spec/type") != "ExternalName" && !external;
    if kept && !before.is_empty() && before != after {
        let value = Value::from(vec![after]);
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &value, "may not change once set"));
    }
}

fn config_data(
    new: &Value,
    old: Option<&Value>,
    maps: &[&str],
    limits: &Limits,
    errors: &mut Vec<FieldError>,
) {
    let mut bytes = 0;
    for map in maps {
        for (key, value) in new.get(map).and_then(Value::as_object).into_iter().flatten() {
            let field = format!("{map}[{key}]");
            if key.len() > 253 {
                let why = "must be no more than 253 characters";
                errors.push(FieldError::invalid(field, &Value::from(key.as_str()), why));
            } else if let Some(problem) = config_key_problem(key) {
                errors.push(FieldError::invalid(field, &Value::from(key.as_str()), problem));
            }
            bytes += value.as_str().map_or(0, str::len);
        }
    }
    if bytes > limits.data_bytes {
        let detail = format!("may not be more than {} bytes", limits.data_bytes);
        errors.push(FieldError::new(
            maps.first().copied().unwrap_or_default(),
            FieldProblem::TooLong,
            detail,
        ));
    }
    let Some(old) = old.filter(|old| old.get("immutable") == Some(&Value::Bool(true))) else { return };
    let why = "field is immutable when `immutable` is set";
    if new.get("immutable") != Some(&Value::Bool(true)) {
        errors.push(FieldError::forbidden("immutable", why));
    }
    for map in maps.iter().filter(|map| new.get(map) != old.get(map)) {
        errors.push(FieldError::forbidden(*map, why));
    }
}

fn config_key_problem(key: &str) -> Option<String> {
    let fine =
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fine && key != "." && key != ".." && !key.starts_with("..") {
        return None;
    }
    Some(
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
         'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
            .to_owned(),
    )
}

const MISMATCH: &str = "`selector` does not match template `labels`";

fn workload(info: &ResourceInfo, new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let labels = new.pointer("/spec/template/metadata/labels");
    match new.pointer("/spec/selector").filter(|selector| !selector.is_null()) {
        None => {
            errors.push(FieldError::required("spec.selector", ""));
            if labels.and_then(Value::as_object).is_some_and(|labels| !labels.is_empty()) {
                let value = labels.unwrap_or(&Value::Null);
                errors.push(FieldError::invalid("spec.template.metadata.labels", value, MISMATCH));
            }
        }
        Some(selector) => match LabelSelector::from_object(selector) {
            None => errors.push(FieldError::invalid("spec.selector", selector, "invalid label selector")),
            Some(parsed) if parsed.is_empty() => {
                let why = format!("empty selector is invalid for {}", info.singular);
                errors.push(FieldError::invalid("spec.selector", selector, why));
            }
            Some(parsed) if !parsed.matches_labels(labels) => {
                let value = labels.cloned().unwrap_or(Value::Null);
                errors.push(FieldError::invalid("spec.template.metadata.labels", &value, MISMATCH));
            }
            Some(_) => {}
        },
    }
    immutable(new, old, "/spec/selector", errors);
    if let Some(replicas) =
        new.pointer("/spec/replicas").filter(|count| count.as_i64().is_some_and(|count| count < 0))
    {
        errors.push(FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0"));
    }
    meta::validate_labels(labels, "spec.template.metadata.labels", errors);
    let null = Value::Null;
    let spec = new.pointer("/spec/template/spec").unwrap_or(&null);
    pod_validation::validate_spec(spec, "spec.template.spec", errors);
    let policy = text(spec, "/restartPolicy");
    if ["Never", "OnFailure"].contains(&policy) {
        let field = "spec.template.spec.restartPolicy";
        errors.push(FieldError::not_supported(field, &Value::from(policy), ["Always"]));
    }
}

fn binding(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    one_of(new, "/roleRef/kind", &["ClusterRole", "Role"], true, errors);
    if text(new, "/roleRef/name").is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    for (index, subject) in items(new, "/subjects").iter().enumerate() {
        let path = format!("subjects[{index}]");
        check_choice(
            text(subject, "/kind"),
            &format!("{path}.kind"),
            &["Group", "ServiceAccount", "User"],
            true,
            errors,
        );
        if text(subject, "/name").is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
        if text(subject, "/kind") == "ServiceAccount" && text(subject, "/namespace").is_empty() {
            errors.push(FieldError::required(format!("{path}.namespace"), ""));
        }
    }
    if old.is_some_and(|old| old.get("roleRef") != new.get("roleRef")) {
        let value = new.get("roleRef").unwrap_or(&Value::Null);
        errors.push(FieldError::invalid("roleRef", value, "cannot change roleRef"));
    }
}
