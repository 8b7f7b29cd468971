//! Webhooks as their configurations describe them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::matching::{Conditions, Constraints};
use crate::builtin::text;

/// Unless the configuration says how long it may take.
const TIMEOUT_SECONDS: u64 = 10;

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// At a URL.
    Url(String),
    /// Behind a Service.
    Service { namespace: String, name: String, port: u16, path: String },
}

/// One webhook of a configuration.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub(crate) name: String,
    pub(crate) place: Place,
    /// Certificates that it may prove itself by, as PEM; those of the system if empty.
    pub(crate) ca_bundle: Vec<u8>,
    pub(crate) constraints: Constraints,
    pub(crate) conditions: Conditions,
    /// Whether a failure lets the request through.
    pub(crate) ignores_failure: bool,
    pub(crate) timeout_seconds: u64,
    /// Whether a dry run may ask it.
    pub(crate) without_side_effects: bool,
    /// Whether it wants to be asked again if others changed the object after it.
    pub(crate) reinvoked: bool,
}

impl Webhook {
    /// The webhooks of a configuration object.
    pub(crate) fn all_of(configuration: &Value) -> impl Iterator<Item = Self> + '_ {
        configuration.get("webhooks").and_then(Value::as_array).into_iter().flatten().map(Self::of)
    }

    fn of(hook: &Value) -> Self {
        let config = hook.get("clientConfig").unwrap_or(&Value::Null);
        let service = config.get("service").filter(|service| service.is_object());
        let port = service.and_then(|service| service.get("port")).and_then(Value::as_u64);
        let place = match service {
            Some(service) => Place::Service {
                namespace: text(service, "/namespace").to_owned(),
                name: text(service, "/name").to_owned(),
                port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
                path: text(service, "/path").to_owned(),
            },
            None => Place::Url(text(config, "/url").to_owned()),
        };
        Self {
            name: text(hook, "/name").to_owned(),
            place,
            ca_bundle: STANDARD.decode(text(config, "/caBundle")).unwrap_or_default(),
            constraints: Constraints::of(hook, "rules"),
            conditions: Conditions::of(hook),
            ignores_failure: text(hook, "/failurePolicy") == "Ignore",
            timeout_seconds: hook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(TIMEOUT_SECONDS),
            without_side_effects: matches!(text(hook, "/sideEffects"), "None" | "NoneOnDryRun"),
            reinvoked: text(hook, "/reinvocationPolicy") == "IfNeeded",
        }
    }

    /// The URL that is posted to, as errors show it.
    pub(crate) fn url(&self) -> String {
        let url = match &self.place {
            Place::Url(url) => url.clone(),
            Place::Service { namespace, name, port, path } => {
                format!("https://{name}.{namespace}.svc:{port}/{}", path.trim_start_matches('/'))
            }
        };
        let separator = if url.contains('?') { '&' } else { '?' };
        format!("{url}{separator}timeout={}s", self.timeout_seconds)
    }
}
