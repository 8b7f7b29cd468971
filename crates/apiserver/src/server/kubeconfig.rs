//! Kubeconfig files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::auth::certificate::CertificateAndKey;

/// How a kubeconfig's user proves who it is.
pub(super) enum Credential<'a> {
    Token(&'a str),
    Certificate(&'a CertificateAndKey),
}

/// Name of the cluster and of the context.
const CLUSTER: &str = "kubernetes";

/// A kubeconfig with one cluster and one user, as YAML.
pub(super) fn render(url: &str, ca_pem: &str, user: &str, credential: &Credential<'_>) -> String {
    let credential = match credential {
        Credential::Token(token) => json!({ "token": token }),
        Credential::Certificate(pair) => json!({
            "client-certificate-data": STANDARD.encode(&pair.certificate_pem),
            "client-key-data": STANDARD.encode(&pair.key_pem),
        }),
    };
    let context = format!("{user}@{CLUSTER}");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": CLUSTER,
            "cluster": { "server": url, "certificate-authority-data": STANDARD.encode(ca_pem) },
        }],
        "users": [{ "name": user, "user": credential }],
        "contexts": [{ "name": context, "context": { "cluster": CLUSTER, "user": user } }],
        "current-context": context,
        "preferences": {},
    });
    // JSON is YAML, which every reader of kubeconfigs takes, should the writer ever refuse.
    serde_saphyr::to_string(&config).unwrap_or_else(|_| config.to_string())
}
