//! Webhook configurations, of which we write one field: whom the API server trusts.

use std::borrow::Cow;

use kube_core::{ObjectMeta, Resource};
use serde::Deserialize;
use serde_json::Value;

use crate::slim::slim;

slim!(
    ValidatingWebhooks,
    "ValidatingWebhookConfiguration",
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    ClusterResourceScope
);
slim!(
    MutatingWebhooks,
    "MutatingWebhookConfiguration",
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
    ClusterResourceScope
);

/// A ValidatingWebhookConfiguration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ValidatingWebhooks {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The webhooks as they are on the wire, so that nothing of them is lost when they are written back.
    #[serde(default)]
    pub webhooks: Vec<Value>,
}

/// A MutatingWebhookConfiguration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct MutatingWebhooks {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The webhooks as they are on the wire, so that nothing of them is lost when they are written back.
    #[serde(default)]
    pub webhooks: Vec<Value>,
}

/// What both kinds have.
pub trait Webhooks {
    /// The webhooks as they are on the wire.
    fn webhooks(&self) -> &[Value];
}

impl Webhooks for ValidatingWebhooks {
    fn webhooks(&self) -> &[Value] {
        &self.webhooks
    }
}

impl Webhooks for MutatingWebhooks {
    fn webhooks(&self) -> &[Value] {
        &self.webhooks
    }
}
