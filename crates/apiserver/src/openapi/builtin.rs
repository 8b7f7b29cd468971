//! Schemas of built-in kinds, out of the types that Kubernetes' own documents generate.

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, authentication::v1 as authentication,
    authorization::v1 as authorization, autoscaling::v1 as autoscaling, batch::v1 as batch,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::list_types;
use crate::resource::{Gvk, ResourceInfo};

/// Name of the schema of `ObjectMeta`, which every kind refers to.
pub(super) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The schemas of one document, gathered.
pub(super) struct Schemas {
    generator: SchemaGenerator,
    /// Schema names and the kinds that they are the schema of.
    kinds: Vec<(String, Gvk)>,
    custom: Map<String, Value>,
}

impl Default for Schemas {
    fn default() -> Self {
        Self { generator: SchemaSettings::openapi3().into_generator(), kinds: Vec::new(), custom: Map::new() }
    }
}

impl Schemas {
    /// Adds the schema of a built-in kind; answers its name.
    pub(super) fn add_builtin(&mut self, gvk: &Gvk) -> String {
        let (name, schema) = match type_of(gvk) {
            Some((name, add)) => {
                add(&mut self.generator);
                (name, None)
            }
            None => (custom_name(gvk), Some(permissive())),
        };
        if let Some(schema) = schema {
            self.custom.insert(name.clone(), schema);
        }
        self.kinds.push((name.clone(), gvk.clone()));
        name
    }

    /// Adds the schema of a custom kind; answers its name.
    pub(super) fn add_custom(&mut self, info: &ResourceInfo) -> String {
        self.generator.subschema_for::<meta::ObjectMeta>();
        let name = custom_name(&info.gvk);
        self.custom.insert(name.clone(), super::custom::schema(info));
        self.kinds.push((name.clone(), info.gvk.clone()));
        name
    }

    /// Adds the schema of what a subresource takes and answers.
    pub(super) fn add_subresource(&mut self, info: &ResourceInfo, gvk: &Gvk) -> String {
        if *gvk == info.gvk && !info.builtin { custom_name(gvk) } else { self.add_builtin(gvk) }
    }

    /// All schemas by name.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        self.generator.subschema_for::<meta::Status>();
        self.generator.subschema_for::<meta::DeleteOptions>();
        let mut schemas = self.generator.take_definitions(true);
        schemas.extend(self.custom);
        list_types::annotate(&mut schemas);
        self.kinds.sort();
        self.kinds.dedup();
        for (name, gvk) in &self.kinds {
            let Some(schema) = schemas.get_mut(name).and_then(Value::as_object_mut) else {
                continue;
            };
            let kinds = schema.entry("x-kubernetes-group-version-kind").or_insert_with(|| json!([]));
            if let Some(kinds) = kinds.as_array_mut() {
                kinds.push(json!({ "group": gvk.group, "version": gvk.version, "kind": gvk.kind }));
            }
        }
        schemas
    }
}

/// `Widget` of `lab.example.com/v1` as `com.example.lab.v1.Widget`.
pub(super) fn custom_name(gvk: &Gvk) -> String {
    let mut parts: Vec<&str> = gvk.group.split('.').rev().filter(|part| !part.is_empty()).collect();
    parts.extend([gvk.version.as_str(), gvk.kind.as_str()]);
    parts.join(".")
}

/// Anything goes.
fn permissive() -> Value {
    json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

type AddSchema = fn(&mut SchemaGenerator) -> Schema;

fn of<T: JsonSchema>() -> Option<(String, AddSchema)> {
    Some((T::schema_name().into_owned(), |generator| generator.subschema_for::<T>()))
}

/// Name of a built-in kind's schema and the function that adds it.
fn type_of(gvk: &Gvk) -> Option<(String, AddSchema)> {
    match (gvk.group.as_str(), gvk.version.as_str(), gvk.kind.as_str()) {
        ("", "v1", "Binding") => of::<core::Binding>(),
        ("", "v1", "ConfigMap") => of::<core::ConfigMap>(),
        ("", "v1", "Endpoints") => of::<core::Endpoints>(),
        ("", "v1", "Event") => of::<core::Event>(),
        ("", "v1", "LimitRange") => of::<core::LimitRange>(),
        ("", "v1", "Namespace") => of::<core::Namespace>(),
        ("", "v1", "Node") => of::<core::Node>(),
        ("", "v1", "PersistentVolume") => of::<core::PersistentVolume>(),
        ("", "v1", "PersistentVolumeClaim") => of::<core::PersistentVolumeClaim>(),
        ("", "v1", "Pod") => of::<core::Pod>(),
        ("", "v1", "ReplicationController") => of::<core::ReplicationController>(),
        ("", "v1", "ResourceQuota") => of::<core::ResourceQuota>(),
        ("", "v1", "Secret") => of::<core::Secret>(),
        ("", "v1", "Service") => of::<core::Service>(),
        ("", "v1", "ServiceAccount") => of::<core::ServiceAccount>(),
        ("admissionregistration.k8s.io", "v1", kind) => match kind {
            "MutatingWebhookConfiguration" => of::<admission::MutatingWebhookConfiguration>(),
            "ValidatingAdmissionPolicy" => of::<admission::ValidatingAdmissionPolicy>(),
            "ValidatingAdmissionPolicyBinding" => of::<admission::ValidatingAdmissionPolicyBinding>(),
            "ValidatingWebhookConfiguration" => of::<admission::ValidatingWebhookConfiguration>(),
            _ => None,
        },
        ("apps", "v1", "ControllerRevision") => of::<apps::ControllerRevision>(),
        ("apps", "v1", "DaemonSet") => of::<apps::DaemonSet>(),
        ("apps", "v1", "Deployment") => of::<apps::Deployment>(),
        ("apps", "v1", "ReplicaSet") => of::<apps::ReplicaSet>(),
        ("apps", "v1", "StatefulSet") => of::<apps::StatefulSet>(),
        ("authentication.k8s.io", "v1", "SelfSubjectReview") => of::<authentication::SelfSubjectReview>(),
        ("authentication.k8s.io", "v1", "TokenRequest") => of::<authentication::TokenRequest>(),
        ("authentication.k8s.io", "v1", "TokenReview") => of::<authentication::TokenReview>(),
        ("authorization.k8s.io", "v1", kind) => match kind {
            "LocalSubjectAccessReview" => of::<authorization::LocalSubjectAccessReview>(),
            "SelfSubjectAccessReview" => of::<authorization::SelfSubjectAccessReview>(),
            "SelfSubjectRulesReview" => of::<authorization::SelfSubjectRulesReview>(),
            "SubjectAccessReview" => of::<authorization::SubjectAccessReview>(),
            _ => None,
        },
        ("autoscaling", "v1", "Scale") => of::<autoscaling::Scale>(),
        ("batch", "v1", "CronJob") => of::<batch::CronJob>(),
        ("batch", "v1", "Job") => of::<batch::Job>(),
        ("coordination.k8s.io", "v1", "Lease") => of::<coordination::Lease>(),
        ("discovery.k8s.io", "v1", "EndpointSlice") => of::<discovery::EndpointSlice>(),
        ("events.k8s.io", "v1", "Event") => of::<events::Event>(),
        ("networking.k8s.io", "v1", "Ingress") => of::<networking::Ingress>(),
        ("networking.k8s.io", "v1", "NetworkPolicy") => of::<networking::NetworkPolicy>(),
        ("policy", "v1", "Eviction") => of::<policy::Eviction>(),
        ("policy", "v1", "PodDisruptionBudget") => of::<policy::PodDisruptionBudget>(),
        ("rbac.authorization.k8s.io", "v1", "ClusterRole") => of::<rbac::ClusterRole>(),
        ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding") => of::<rbac::ClusterRoleBinding>(),
        ("rbac.authorization.k8s.io", "v1", "Role") => of::<rbac::Role>(),
        ("rbac.authorization.k8s.io", "v1", "RoleBinding") => of::<rbac::RoleBinding>(),
        ("apiextensions.k8s.io", "v1", "CustomResourceDefinition") => {
            of::<apiextensions::CustomResourceDefinition>()
        }
        _ => None,
    }
}
