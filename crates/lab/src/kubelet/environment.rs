//! A container's environment: what its specification says, with references resolved.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};
use kube::ResourceExt;

/// ConfigMaps and Secrets of the pod's namespace that its specification refers to, and its service account's token.
#[derive(Clone, Debug, Default)]
pub(crate) struct References {
    /// ConfigMaps by name.
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    /// Secrets by name.
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// The token by which the pod proves who it is.
    pub(crate) token: String,
}

impl References {
    fn config_value(&self, name: &str, key: &str) -> Option<String> {
        self.config_maps.get(name)?.data.as_ref()?.get(key).cloned()
    }

    fn secret_value(&self, name: &str, key: &str) -> Option<String> {
        let value = self.secrets.get(name)?.data.as_ref()?.get(key)?;
        Some(String::from_utf8_lossy(&value.0).into_owned())
    }
}

/// What a pod can learn of itself and its place.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The node's name.
    pub(crate) node: String,
    /// The node's address.
    pub(crate) host_ip: String,
    /// The pod's addresses, the first of which is *the* address.
    pub(crate) pod_ips: Vec<String>,
}

/// The environment of a container: `base` first, then what the specification adds.
pub(crate) fn of(
    container: &Container,
    pod: &Pod,
    place: &Place,
    references: &References,
    base: Vec<(String, String)>,
) -> Result<Vec<(String, String)>, String> {
    let mut variables: BTreeMap<String, String> = base.into_iter().collect();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let data = references.config_maps.get(&reference.name).and_then(|map| map.data.clone());
            for (name, value) in data.unwrap_or_default() {
                variables.insert(format!("{prefix}{name}"), value);
            }
        }
        if let Some(reference) = &source.secret_ref {
            let data = references.secrets.get(&reference.name).and_then(|secret| secret.data.clone());
            for (name, value) in data.unwrap_or_default() {
                variables.insert(format!("{prefix}{name}"), String::from_utf8_lossy(&value.0).into_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &variables)),
            (None, Some(source)) => resolve(source, pod, place, references)?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            variables.insert(variable.name.clone(), value);
        }
    }
    Ok(variables.into_iter().collect())
}

fn resolve(
    source: &EnvVarSource,
    pod: &Pod,
    place: &Place,
    references: &References,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return field_value(&field.field_path, pod, place)
            .map(Some)
            .ok_or_else(|| format!("fieldPath {:?} is not supported", field.field_path));
    }
    if let Some(reference) = &source.config_map_key_ref {
        let value = references.config_value(&reference.name, &reference.key);
        let missing = || format!("couldn't find key {} in ConfigMap {}", reference.key, reference.name);
        return required(value, reference.optional, missing);
    }
    if let Some(reference) = &source.secret_key_ref {
        let value = references.secret_value(&reference.name, &reference.key);
        let missing = || format!("couldn't find key {} in Secret {}", reference.key, reference.name);
        return required(value, reference.optional, missing);
    }
    // Resources are not limited here; the whole machine is what there is.
    Ok(source.resource_field_ref.as_ref().map(|_| "0".to_string()))
}

fn required(
    value: Option<String>,
    optional: Option<bool>,
    missing: impl FnOnce() -> String,
) -> Result<Option<String>, String> {
    match value {
        None if optional != Some(true) => Err(missing()),
        other => Ok(other),
    }
}

/// The value of a downward API path such as `metadata.labels['app']`.
pub(crate) fn field_value(path: &str, pod: &Pod, place: &Place) -> Option<String> {
    let spec = pod.spec.as_ref();
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels['") {
        return Some(pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations['") {
        return Some(pod.annotations().get(key).cloned().unwrap_or_default());
    }
    let lines = |map: &BTreeMap<String, String>| {
        map.iter().map(|(name, value)| format!("{name}={value:?}\n")).collect::<String>()
    };
    Some(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "metadata.labels" => lines(pod.labels()),
        "metadata.annotations" => lines(pod.annotations()),
        "spec.nodeName" => place.node.clone(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" | "status.hostIPs" => place.host_ip.clone(),
        "status.podIP" => place.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => place.pod_ips.join(","),
        _ => return None,
    })
}

/// Replaces `$(NAME)` by the value of a variable that is set; `$$` is a dollar.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
            continue;
        }
        let name = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match name.and_then(|(name, tail)| variables.get(name).map(|value| (value, tail))) {
            Some((value, tail)) => {
                expanded.push_str(value);
                rest = tail;
            }
            None => {
                expanded.push('$');
                rest = after;
            }
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_are_replaced_and_unknown_ones_stay() {
        let variables = BTreeMap::from([("A".to_string(), "1".to_string())]);
        assert_eq!(expand("$(A)-$(B)-$$(A)-$A", &variables), "1-$(B)-$(A)-$A");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_expansion_panic(text in ".*") {
            let _ = expand(&text, &BTreeMap::new());
        }
    }
}
