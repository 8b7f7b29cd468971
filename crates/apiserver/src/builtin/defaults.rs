//! Defaults of built-in kinds, as far as clients notice them.

use serde_json::{Map, Value, json};

use crate::builtin::{crd, pod_defaults};
use crate::meta;
use crate::resource::ResourceInfo;

const RBAC: &str = "rbac.authorization.k8s.io";

/// Sets a key unless it is there and not null.
pub(super) fn or_insert(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets a text unless there is one that isn't empty.
pub(super) fn or_text(map: &mut Map<String, Value>, key: &str, text: &str) {
    if map.get(key).is_none_or(|value| value.is_null() || value.as_str() == Some("")) {
        map.insert(key.to_owned(), Value::from(text));
    }
}

/// The maps in a list.
pub(super) fn maps_in<'a>(
    map: &'a mut Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten();
    list.filter_map(Value::as_object_mut)
}

/// Fills in the defaults of a built-in kind.
pub fn default(info: &ResourceInfo, object: &mut Value) {
    let map = meta::map_of(object);
    match (info.gvk.group.as_str(), info.plural.as_str()) {
        ("", "namespaces") => label_namespace(object),
        ("", "pods") => pod_defaults::default_pod(meta::map_mut(map, "spec")),
        ("", "services") => service(meta::map_mut(map, "spec")),
        ("", "secrets") => secret(map),
        ("", "endpoints") => {
            for subset in maps_in(map, "subsets") {
                maps_in(subset, "ports").for_each(|port| or_text(port, "protocol", "TCP"));
            }
        }
        ("apps", "deployments") => deployment(meta::map_mut(map, "spec")),
        ("apps", "replicasets") => {
            let spec = meta::map_mut(map, "spec");
            or_insert(spec, "replicas", 1);
            pod_defaults::default_template(spec);
        }
        ("apps", "daemonsets") => daemon_set(meta::map_mut(map, "spec")),
        ("apps", "statefulsets") => stateful_set(meta::map_mut(map, "spec")),
        ("batch", "jobs") => job(meta::map_mut(map, "spec")),
        ("batch", "cronjobs") => {
            let spec = meta::map_mut(map, "spec");
            or_text(spec, "concurrencyPolicy", "Allow");
            or_insert(spec, "suspend", false);
            or_insert(spec, "successfulJobsHistoryLimit", 3);
            or_insert(spec, "failedJobsHistoryLimit", 1);
            pod_defaults::default_template(meta::map_mut(meta::map_mut(spec, "jobTemplate"), "spec"));
        }
        ("networking.k8s.io", "networkpolicies") => {
            let spec = meta::map_mut(map, "spec");
            let egress = spec.get("egress").is_some_and(|rules| !rules.is_null());
            let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            or_insert(spec, "policyTypes", types);
        }
        ("discovery.k8s.io", "endpointslices") => maps_in(map, "ports").for_each(|port| {
            or_text(port, "protocol", "TCP");
            or_insert(port, "name", "");
        }),
        ("scheduling.k8s.io", "priorityclasses") => or_text(map, "preemptionPolicy", "PreemptLowerPriority"),
        (RBAC, "rolebindings" | "clusterrolebindings") => binding(map),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            let spec = meta::map_mut(map, "spec");
            or_text(spec, "failurePolicy", "Fail");
            if let Some(constraints) = spec.get_mut("matchConstraints").and_then(Value::as_object_mut) {
                match_resources(constraints);
            }
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            let spec = meta::map_mut(map, "spec");
            if let Some(constraints) = spec.get_mut("matchResources").and_then(Value::as_object_mut) {
                match_resources(constraints);
            }
        }
        ("admissionregistration.k8s.io", plural) => {
            let mutating = plural == "mutatingwebhookconfigurations";
            maps_in(map, "webhooks").for_each(|hook| webhook(hook, mutating));
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::default(object),
        _ => {}
    }
}

fn match_resources(constraints: &mut Map<String, Value>) {
    or_text(constraints, "matchPolicy", "Equivalent");
    or_insert(constraints, "namespaceSelector", json!({}));
    or_insert(constraints, "objectSelector", json!({}));
    for rules in ["resourceRules", "excludeResourceRules"] {
        maps_in(constraints, rules).for_each(|rule| or_text(rule, "scope", "*"));
    }
}

fn stateful_set(spec: &mut Map<String, Value>) {
    or_insert(spec, "replicas", 1);
    or_text(spec, "podManagementPolicy", "OrderedReady");
    or_insert(spec, "revisionHistoryLimit", 10);
    let strategy = meta::map_mut(spec, "updateStrategy");
    or_text(strategy, "type", "RollingUpdate");
    if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
        or_insert(meta::map_mut(strategy, "rollingUpdate"), "partition", 0);
    }
    let kept = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    or_insert(spec, "persistentVolumeClaimRetentionPolicy", kept);
    pod_defaults::default_template(spec);
}

fn job(spec: &mut Map<String, Value>) {
    let is_absent = |spec: &Map<String, Value>, key: &str| spec.get(key).is_none_or(Value::is_null);
    if is_absent(spec, "completions") && is_absent(spec, "parallelism") {
        spec.insert("completions".to_owned(), 1.into());
    }
    or_insert(spec, "parallelism", 1);
    or_insert(spec, "backoffLimit", 6);
    or_text(spec, "completionMode", "NonIndexed");
    or_insert(spec, "suspend", false);
    or_insert(spec, "manualSelector", false);
    or_text(spec, "podReplacementPolicy", "TerminatingOrFailed");
    pod_defaults::default_template(spec);
}

/// Gives a job a selector and its pods the labels that it selects, unless its writer wants to do so.
pub(super) fn select_pods_of_job(job: &mut Value) {
    let (name, uid) = (meta::name(job).to_owned(), meta::uid(job).to_owned());
    let spec = meta::map_mut(meta::map_of(job), "spec");
    if spec.get("manualSelector").and_then(Value::as_bool) == Some(true) {
        return;
    }
    let template = meta::map_mut(meta::map_mut(spec, "template"), "metadata");
    let labels = meta::map_mut(template, "labels");
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels.insert(key.to_owned(), Value::from(value.as_str()));
    }
    let selector = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    spec.insert("selector".to_owned(), selector);
}

/// Each namespace can be selected by its name.
pub(super) fn label_namespace(object: &mut Value) {
    let name = meta::name(object).to_owned();
    // A generated name isn't known yet.
    if !name.is_empty() {
        let labels = meta::map_mut(meta::metadata_mut(object), "labels");
        labels.insert("kubernetes.io/metadata.name".to_owned(), Value::from(name));
    }
}

fn secret(secret: &mut Map<String, Value>) {
    use base64::Engine as _;
    or_text(secret, "type", "Opaque");
    let Some(Value::Object(texts)) = secret.remove("stringData") else { return };
    let data = meta::map_mut(secret, "data");
    for (key, text) in texts {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
        data.insert(key, Value::from(encoded));
    }
}

fn deployment(spec: &mut Map<String, Value>) {
    or_insert(spec, "replicas", 1);
    or_insert(spec, "revisionHistoryLimit", 10);
    or_insert(spec, "progressDeadlineSeconds", 600);
    let strategy = meta::map_mut(spec, "strategy");
    or_text(strategy, "type", "RollingUpdate");
    if strategy.get("type") == Some(&json!("RollingUpdate")) {
        let rolling = meta::map_mut(strategy, "rollingUpdate");
        or_insert(rolling, "maxUnavailable", "25%");
        or_insert(rolling, "maxSurge", "25%");
    }
    pod_defaults::default_template(spec);
}

fn daemon_set(spec: &mut Map<String, Value>) {
    or_insert(spec, "revisionHistoryLimit", 10);
    let strategy = meta::map_mut(spec, "updateStrategy");
    or_text(strategy, "type", "RollingUpdate");
    if strategy.get("type") == Some(&json!("RollingUpdate")) {
        let rolling = meta::map_mut(strategy, "rollingUpdate");
        or_insert(rolling, "maxUnavailable", 1);
        or_insert(rolling, "maxSurge", 0);
    }
    pod_defaults::default_template(spec);
}

fn service(spec: &mut Map<String, Value>) {
    or_text(spec, "type", "ClusterIP");
    or_text(spec, "sessionAffinity", "None");
    if spec.get("sessionAffinity") == Some(&json!("ClientIP")) {
        let config = meta::map_mut(meta::map_mut(spec, "sessionAffinityConfig"), "clientIP");
        or_insert(config, "timeoutSeconds", 10_800);
    }
    for port in maps_in(spec, "ports") {
        or_text(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        if port
            .get("targetPort")
            .is_none_or(|target| target.is_null() || *target == json!(0) || *target == json!(""))
        {
            port.insert("targetPort".to_owned(), number);
        }
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind == "ExternalName" {
        return;
    }
    or_text(spec, "internalTrafficPolicy", "Cluster");
    if let Some(address) = spec.get("clusterIP").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        let addresses = json!([address]);
        or_insert(spec, "clusterIPs", addresses);
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        or_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        or_insert(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn binding(binding: &mut Map<String, Value>) {
    or_text(meta::map_mut(binding, "roleRef"), "apiGroup", RBAC);
    for subject in maps_in(binding, "subjects") {
        if subject.get("kind").and_then(Value::as_str) != Some("ServiceAccount") {
            or_text(subject, "apiGroup", RBAC);
        }
    }
}

fn webhook(hook: &mut Map<String, Value>, mutating: bool) {
    or_text(hook, "failurePolicy", "Fail");
    or_text(hook, "matchPolicy", "Equivalent");
    or_insert(hook, "timeoutSeconds", 10);
    or_insert(hook, "namespaceSelector", json!({}));
    or_insert(hook, "objectSelector", json!({}));
    if mutating {
        or_text(hook, "reinvocationPolicy", "Never");
    }
    maps_in(hook, "rules").for_each(|rule| or_text(rule, "scope", "*"));
    if let Some(service) =
        meta::map_mut(hook, "clientConfig").get_mut("service").and_then(Value::as_object_mut)
    {
        or_insert(service, "port", 443);
    }
}

/// The status that a new object of a built-in kind shows before its controller has seen it.
pub(super) fn initial_status(info: &ResourceInfo, object: &mut Value) {
    let status = match info.plural.as_str() {
        "replicasets" => json!({"replicas": 0}),
        "statefulsets" => json!({"availableReplicas": 0, "replicas": 0}),
        "ingresses" => json!({"loadBalancer": {}}),
        "daemonsets" => json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        }),
        "poddisruptionbudgets" => {
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
        }
        _ => json!({}),
    };
    meta::map_of(object).insert("status".to_owned(), status);
}

/// Which kinds of addresses a Service gets. Chosen by the server, so that the writer doesn't own it.
pub(super) fn choose_address_families(service: &mut Value) {
    let spec = meta::map_mut(meta::map_of(service), "spec");
    if spec.get("type").and_then(Value::as_str) != Some("ExternalName") {
        or_insert(spec, "ipFamilies", json!(["IPv4"]));
        or_text(spec, "ipFamilyPolicy", "SingleStack");
    }
}

/// A Service keeps its addresses and node ports over updates that don't name them.
pub(super) fn keep_service_addresses(old: &Value, new: &mut Value) {
    let kind = |service: &Value| {
        service.pointer("/spec/type").and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (before, after) = (kind(old), kind(new));
    let old_ports = old.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let old_spec = old.get("spec").cloned().unwrap_or_default();
    let spec = meta::map_mut(meta::map_of(new), "spec");
    if after != "ExternalName" && before != "ExternalName" {
        let missing = spec.get("clusterIP").and_then(Value::as_str).is_none_or(str::is_empty);
        for key in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old_spec.get(key).filter(|_| missing) {
                spec.insert(key.to_owned(), value.clone());
            }
        }
    }
    let exposed = |kind: &str| kind == "NodePort" || kind == "LoadBalancer";
    for port in maps_in(spec, "ports") {
        if !exposed(&after) {
            if exposed(&before) {
                port.remove("nodePort");
            }
            continue;
        }
        let same =
            |old: &&Value| old.get("port") == port.get("port") && old.get("protocol") == port.get("protocol");
        let before = old_ports.iter().find(same).and_then(|old| old.get("nodePort")).cloned();
        if let Some(number) = before {
            or_insert(port, "nodePort", number);
        }
    }
}
