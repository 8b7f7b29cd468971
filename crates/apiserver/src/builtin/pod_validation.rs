//! Rules of pods and of the templates that they are made from.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::builtin::validation::{check_choice, check_port, items, text};
use crate::meta;
use crate::status_error::{FieldError, FieldProblem};

/// What is invalid in a pod.
pub(super) fn validate(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let null = Value::Null;
    let spec = new.get("spec").unwrap_or(&null);
    match old {
        None => validate_spec(spec, "spec", errors),
        // What was stored once is judged only by what may change in it.
        Some(old) => validate_change(spec, old.get("spec").unwrap_or(&null), errors),
    }
}

/// What is invalid in the spec of a pod or template that is found at `path`.
pub(super) fn validate_spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let volumes = validate_volumes(spec, path, errors);
    if items(spec, "/containers").is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut names = BTreeSet::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in items(spec, &format!("/{list}")).iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            validate_container(container, &path, &volumes, errors);
            let name = text(container, "/name");
            if !name.is_empty() && !names.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &Value::from(name)));
            }
        }
    }
    let policies = ["Always", "Never", "OnFailure"];
    check_choice(text(spec, "/restartPolicy"), &format!("{path}.restartPolicy"), &policies, true, errors);
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    check_choice(text(spec, "/dnsPolicy"), &format!("{path}.dnsPolicy"), &policies, true, errors);
    let grace = spec.get("terminationGracePeriodSeconds");
    if let Some(grace) = grace.filter(|grace| grace.as_i64().is_some_and(|seconds| seconds < 0)) {
        let field = format!("{path}.terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(field, grace, "must be greater than or equal to 0"));
    }
    meta::validate_labels(spec.get("nodeSelector"), &format!("{path}.nodeSelector"), errors);
    for key in ["nodeName", "serviceAccountName"] {
        let name = text(spec, &format!("/{key}"));
        if let Some(problem) = Some(name).filter(|name| !name.is_empty()).and_then(meta::subdomain_problem) {
            errors.push(FieldError::invalid(format!("{path}.{key}"), &Value::from(name), problem));
        }
    }
    for (index, toleration) in items(spec, "/tolerations").iter().enumerate() {
        validate_toleration(toleration, &format!("{path}.tolerations[{index}]"), errors);
    }
}

fn validate_volumes<'a>(spec: &'a Value, path: &str, errors: &mut Vec<FieldError>) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for (index, volume) in items(spec, "/volumes").iter().enumerate() {
        let field = format!("{path}.volumes[{index}].name");
        let name = text(volume, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if let Some(problem) = meta::dns_label_problem(name) {
            errors.push(FieldError::invalid(field, &Value::from(name), problem));
        } else if !names.insert(name) {
            errors.push(FieldError::duplicate(field, &Value::from(name)));
        }
    }
    names
}

fn validate_container(container: &Value, path: &str, volumes: &BTreeSet<&str>, errors: &mut Vec<FieldError>) {
    let name = text(container, "/name");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    } else if let Some(problem) = meta::dns_label_problem(name) {
        errors.push(FieldError::invalid(format!("{path}.name"), &Value::from(name), problem));
    }
    let image = text(container, "/image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(format!("{path}.image"), &Value::from(image), why));
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    check_choice(
        text(container, "/imagePullPolicy"),
        &format!("{path}.imagePullPolicy"),
        &policies,
        true,
        errors,
    );
    let mut port_names = BTreeSet::new();
    for (index, port) in items(container, "/ports").iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        check_port(port.get("containerPort"), &format!("{path}.containerPort"), errors);
        check_choice(
            text(port, "/protocol"),
            &format!("{path}.protocol"),
            &["SCTP", "TCP", "UDP"],
            true,
            errors,
        );
        let name = text(port, "/name");
        if !name.is_empty() && !port_names.insert(name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), &Value::from(name)));
        }
    }
    for (index, variable) in items(container, "/env").iter().enumerate() {
        if text(variable, "/name").is_empty() {
            errors.push(FieldError::required(format!("{path}.env[{index}].name"), ""));
        }
    }
    let mut mount_paths = BTreeSet::new();
    for (index, mount) in items(container, "/volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let name = text(mount, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !volumes.contains(name) {
            let error = FieldError::new(format!("{path}.name"), FieldProblem::NotFound, "");
            errors.push(error.with_value(Value::from(name).to_string()));
        }
        let mount_path = text(mount, "/mountPath");
        if mount_path.is_empty() {
            errors.push(FieldError::required(format!("{path}.mountPath"), ""));
        } else if !mount_paths.insert(mount_path) {
            let value = Value::from(mount_path);
            errors.push(FieldError::invalid(format!("{path}.mountPath"), &value, "must be unique"));
        }
    }
}

fn validate_toleration(toleration: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (key, operator) = (text(toleration, "/key"), text(toleration, "/operator"));
    check_choice(operator, &format!("{path}.operator"), &["Equal", "Exists"], false, errors);
    let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
    check_choice(text(toleration, "/effect"), &format!("{path}.effect"), &effects, false, errors);
    if key.is_empty() && operator != "Exists" {
        let why =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(format!("{path}.operator"), &Value::from(operator), why));
    }
    if operator == "Exists" && !text(toleration, "/value").is_empty() {
        let why = "value must be empty when `operator` is 'Exists'";
        let value = Value::from(text(toleration, "/value"));
        errors.push(FieldError::invalid(format!("{path}.operator"), &value, why));
    }
}

/// Only images, deadlines and added tolerations may change in a pod.
fn validate_change(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(map) = spec.as_object_mut() {
            for key in
                ["tolerations", "activeDeadlineSeconds", "terminationGracePeriodSeconds", "schedulingGates"]
            {
                map.remove(key);
            }
            for list in ["containers", "initContainers"] {
                for container in map.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(container) = container.as_object_mut() {
                        container.remove("image");
                        // The default of the policy follows the image.
                        container.remove("imagePullPolicy");
                    }
                }
            }
        }
        spec
    };
    if fixed(new) != fixed(old) {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
                   tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        errors.push(FieldError::forbidden("spec", why));
    }
    let tolerations = items(new, "/tolerations");
    if items(old, "/tolerations").iter().any(|toleration| !tolerations.contains(toleration)) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", why));
    }
    for (index, container) in items(new, "/containers").iter().enumerate() {
        if text(container, "/image").is_empty() {
            errors.push(FieldError::required(format!("spec.containers[{index}].image"), ""));
        }
    }
}
