//! Defaults of pods and of the templates that they are made from.

use serde_json::{Map, Value, json};

use crate::builtin::View;
use crate::builtin::defaults::{maps_in, or_insert, or_text};
use crate::meta;
use crate::store::{Context, new_suffix};

const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Defaults of a pod's spec.
pub(super) fn default_pod(spec: &mut Map<String, Value>) {
    default_spec(spec);
    or_insert(spec, "enableServiceLinks", true);
    for list in CONTAINER_LISTS {
        for container in maps_in(spec, list) {
            let resources = meta::map_mut(container, "resources");
            let limits = resources.get("limits").and_then(Value::as_object).cloned().unwrap_or_default();
            if !limits.is_empty() {
                let requests = meta::map_mut(resources, "requests");
                limits.into_iter().for_each(|(name, amount)| or_insert(requests, &name, amount));
            }
        }
    }
}

/// Defaults of the pod template in a workload's spec.
pub(super) fn default_template(workload_spec: &mut Map<String, Value>) {
    let template = meta::map_mut(workload_spec, "template");
    meta::drop_nulls(meta::map_mut(template, "metadata"));
    default_spec(meta::map_mut(template, "spec"));
}

fn default_spec(spec: &mut Map<String, Value>) {
    or_text(spec, "restartPolicy", "Always");
    or_text(spec, "dnsPolicy", "ClusterFirst");
    or_text(spec, "schedulerName", "default-scheduler");
    or_insert(spec, "terminationGracePeriodSeconds", 30);
    or_insert(spec, "securityContext", json!({}));
    let names = ["serviceAccountName", "serviceAccount"];
    let account = names.iter().find_map(|key| spec.get(*key)?.as_str().filter(|name| !name.is_empty()));
    if let Some(account) = account.map(str::to_owned) {
        for key in names {
            spec.insert(key.to_owned(), Value::from(account.as_str()));
        }
    }
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for list in CONTAINER_LISTS {
        maps_in(spec, list).for_each(|container| default_container(container, host_network));
    }
    maps_in(spec, "volumes").for_each(default_volume);
}

fn default_container(container: &mut Map<String, Value>, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    or_text(container, "imagePullPolicy", policy);
    or_text(container, "terminationMessagePath", "/dev/termination-log");
    or_text(container, "terminationMessagePolicy", "File");
    let resources = meta::map_mut(container, "resources");
    for amounts in ["limits", "requests"] {
        let amounts = resources.get_mut(amounts).and_then(Value::as_object_mut).into_iter().flatten();
        for (_, amount) in amounts.filter(|(_, amount)| amount.is_number()) {
            *amount = Value::from(amount.to_string());
        }
    }
    for port in maps_in(container, "ports") {
        or_text(port, "protocol", "TCP");
        if let Some(number) = port.get("containerPort").cloned().filter(|_| host_network) {
            or_insert(port, "hostPort", number);
        }
    }
    for variable in maps_in(container, "env") {
        let field = variable.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef"));
        if let Some(field) = field.and_then(Value::as_object_mut) {
            or_text(field, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
            default_probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        let hook = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(hook));
        if let Some(hook) = hook.and_then(Value::as_object_mut) {
            default_http_get(hook);
        }
    }
}

/// Whether an image reference has no tag, or the tag `latest`.
fn is_latest(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    if name.contains('@') {
        return false;
    }
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn default_probe(probe: &mut Map<String, Value>) {
    for (key, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        or_insert(probe, key, value);
    }
    default_http_get(probe);
    if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
        or_insert(grpc, "service", "");
    }
}

fn default_http_get(handler: &mut Map<String, Value>) {
    if let Some(get) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        or_text(get, "path", "/");
        or_text(get, "scheme", "HTTP");
    }
}

fn default_volume(volume: &mut Map<String, Value>) {
    let has_source = volume.iter().any(|(key, value)| key != "name" && !value.is_null());
    if !has_source {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
            or_insert(source, "defaultMode", 420);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        or_insert(path, "type", "");
    }
    let projected = volume.get_mut("projected").and_then(Value::as_object_mut);
    for source in projected.into_iter().flat_map(|projected| maps_in(projected, "sources")) {
        if let Some(token) = source.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
            or_insert(token, "expirationSeconds", 3600);
        }
    }
}

/// Sets what the server decides for a new pod.
pub(super) fn prepare_create(pod: &mut Value, ctx: &mut Context<'_>, view: &View<'_>) {
    let namespace = meta::namespace(pod).to_owned();
    let quality = quality_of_service(pod);
    let map = meta::map_of(pod);
    map.insert("status".to_owned(), json!({"phase": "Pending", "qosClass": quality}));
    let spec = meta::map_mut(map, "spec");
    for key in ["serviceAccountName", "serviceAccount"] {
        or_text(spec, key, "default");
    }
    add_tolerations(spec);
    set_priority(spec, view);
    let account = spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or_default();
    let of_account = view
        .object("", "serviceaccounts", &namespace, account)
        .and_then(|account| account.get("automountServiceAccountToken")?.as_bool());
    let of_pod = spec.get("automountServiceAccountToken").and_then(Value::as_bool);
    if of_pod.or(of_account).unwrap_or(true) {
        mount_token(spec, ctx);
    }
}

fn add_tolerations(spec: &mut Map<String, Value>) {
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list.iter().any(|toleration| {
            let text = |name: &str| toleration.get(name).and_then(Value::as_str).unwrap_or_default();
            (text("key").is_empty() || text("key") == key) && ["", "NoExecute"].contains(&text("effect"))
        });
        if !tolerated {
            list.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}

fn set_priority(spec: &mut Map<String, Value>, view: &View<'_>) {
    let name = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or_default();
    let class = view.object("scheduling.k8s.io", "priorityclasses", "", name);
    let value = class.and_then(|class| class.get("value")).cloned().unwrap_or(Value::from(0));
    let policy = class.and_then(|class| class.get("preemptionPolicy")).cloned();
    spec.insert("priority".to_owned(), value);
    or_insert(spec, "preemptionPolicy", policy.unwrap_or_else(|| Value::from("PreemptLowerPriority")));
}

/// Mounts the token of the service account, the CA and the namespace into each container.
fn mount_token(spec: &mut Map<String, Value>, ctx: &mut Context<'_>) {
    let name = format!("kube-api-access-{}", new_suffix(ctx));
    let mut used = false;
    for list in ["containers", "initContainers"] {
        for container in maps_in(spec, list) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().all(|mount| mount.get("mountPath").and_then(Value::as_str) != Some(TOKEN_MOUNT))
            {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_MOUNT}));
                used = true;
            }
        }
    }
    if !used {
        return;
    }
    let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
        ]}},
    ]}});
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if volumes.is_null() {
        *volumes = json!([]);
    }
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(volume);
    }
}

/// `Guaranteed` if all containers limit what they request, `BestEffort` if none names anything.
fn quality_of_service(pod: &Value) -> &'static str {
    let containers = ["/spec/containers", "/spec/initContainers"]
        .into_iter()
        .flat_map(|pointer| pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten());
    let (mut none, mut all_limited) = (true, true);
    for container in containers {
        let amount =
            |kind: &str, name: &str| container.pointer(&format!("/resources/{kind}/{name}")).cloned();
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount("requests", name), amount("limits", name));
            none &= request.is_none() && limit.is_none();
            all_limited &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    if none {
        "BestEffort"
    } else if all_limited {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_latest_and_untagged_images_are_pulled_always() {
        for (image, latest) in [
            ("busybox", true),
            ("busybox:latest", true),
            ("busybox:1.36", false),
            ("host:5000/a/b", true),
            ("host:5000/a/b:v1", false),
            ("a@sha256:00", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
