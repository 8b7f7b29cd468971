//! What exists from the start, and in each namespace.

use std::sync::Arc;

use serde_json::{Value, json};

use super::default_roles;
use crate::auth::roles::GROUP as RBAC;
use crate::meta;
use crate::resource::ResourceInfo;
use crate::store::{Context, ObjectKey, Store, WriteOptions};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const ROOT_CA: &str = "kube-root-ca.crt";

/// Whether the server restores this object when it is deleted.
pub(super) fn is_wanted_in_each_namespace(key: &ObjectKey) -> bool {
    let name = key.key.name.as_str();
    super::is_resource(&key.resource, "", "serviceaccounts") && name == "default"
        || super::is_resource(&key.resource, "", "configmaps") && name == ROOT_CA
}

impl Store {
    /// Creates the default namespaces, classes and roles, and the `kubernetes` Service.
    pub(crate) fn bootstrap(&mut self, ctx: &mut Context<'_>) {
        for name in NAMESPACES {
            self.ensure(ctx, "", "namespaces", None, json!({"metadata": {"name": name}}));
        }
        for (name, value) in
            [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)]
        {
            let class = json!({"metadata": {"name": name}, "value": value, "description": "Used for system critical pods."});
            self.ensure(ctx, "scheduling.k8s.io", "priorityclasses", None, class);
        }
        self.bootstrap_roles(ctx);
        self.bootstrap_service(ctx);
        self.tick(ctx);
    }

    fn bootstrap_roles(&mut self, ctx: &mut Context<'_>) {
        for (resource, object) in default_roles::objects() {
            let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
            self.ensure(ctx, RBAC, resource, namespace.as_deref(), object);
        }
    }

    fn bootstrap_service(&mut self, ctx: &mut Context<'_>) {
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let address = self.service_addresses.first().to_string();
        let target = self.options.endpoint.map_or(6443, |endpoint| endpoint.port());
        let service = json!({
            "metadata": {"name": "kubernetes", "labels": labels},
            "spec": {"clusterIP": address, "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": target}]},
        });
        self.ensure(ctx, "", "services", Some("default"), service);
        let Some(endpoint) = self.options.endpoint else {
            return;
        };
        let family = if endpoint.is_ipv4() { "IPv4" } else { "IPv6" };
        let slice = json!({
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "endpoints": [{"addresses": [endpoint.ip().to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": endpoint.port(), "protocol": "TCP"}],
        });
        self.ensure(ctx, "discovery.k8s.io", "endpointslices", Some("default"), slice);
        let endpoints = json!({
            "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{
                "addresses": [{"ip": endpoint.ip().to_string()}],
                "ports": [{"name": "https", "port": endpoint.port(), "protocol": "TCP"}],
            }],
        });
        self.ensure(ctx, "", "endpoints", Some("default"), endpoints);
    }

    /// Gives a namespace its `default` ServiceAccount and the certificate of the server.
    pub(super) fn furnish_namespace(&mut self, ctx: &mut Context<'_>, namespace: &str) {
        let alive =
            self.object("", "namespaces", "", namespace).is_some_and(|object| !meta::is_deleting(object));
        if !alive {
            return;
        }
        self.ensure(ctx, "", "serviceaccounts", Some(namespace), json!({"metadata": {"name": "default"}}));
        let description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
                           such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
                           distributions of Kubernetes clusters.";
        let ca = json!({
            "metadata": {"name": ROOT_CA, "annotations": {"kubernetes.io/description": description}},
            "data": {"ca.crt": self.options.root_ca_pem},
        });
        self.ensure(ctx, "", "configmaps", Some(namespace), ca);
    }

    /// Creates an object unless there is one of that name.
    fn ensure(
        &mut self,
        ctx: &mut Context<'_>,
        group: &str,
        plural: &str,
        namespace: Option<&str>,
        object: Value,
    ) {
        let Some(info): Option<Arc<ResourceInfo>> = self.registry().get(group, "v1", plural).cloned() else {
            return;
        };
        let name = meta::name(&object);
        if self.object(group, plural, namespace.unwrap_or_default(), name).is_some() {
            return;
        }
        if let Err(error) = self.create(ctx, &info, namespace, object, &WriteOptions::default()) {
            tracing::warn!(%error, "a default object is not created");
        }
    }
}
