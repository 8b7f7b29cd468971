//! What Kubernetes' own API server writes of our programs' requests: the same that the embedded one remembers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;
use api::permissions::PROGRAMS;
use apiserver::auth::audit::Asked;
use serde_json::Value;

/// Beginning of the user name of every service account.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The policy of kube-apiserver's log: requests of our programs, without what they carry.
pub(super) fn policy() -> String {
    let users = PROGRAMS.map(|program| format!("\"{SERVICE_ACCOUNT}kube-system:{}\"", program.account));
    format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n  - level: Metadata\n    \
         users: [{}]\n  - level: None\n",
        users.join(", ")
    )
}

/// Reads the log.
pub(super) fn asked(log: &Path) -> anyhow::Result<BTreeSet<Asked>> {
    let text = fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    Ok(text.lines().filter_map(entry).collect())
}

/// What a line says; `None` where it is about no resource, or only half written.
fn entry(line: &str) -> Option<Asked> {
    let event: Value = serde_json::from_str(line).ok()?;
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let resource = Some(text("/objectRef/resource")).filter(|resource| !resource.is_empty())?;
    let part = text("/objectRef/subresource");
    Some(Asked {
        account: text("/user/username").strip_prefix(SERVICE_ACCOUNT)?.to_owned(),
        verb: text("/verb"),
        group: text("/objectRef/apiGroup"),
        resource: if part.is_empty() { resource } else { format!("{resource}/{part}") },
        namespace: text("/objectRef/namespace"),
        forbidden: event.pointer("/responseStatus/code").and_then(Value::as_u64) == Some(403),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_tells_who_asked_for_what_and_whether_it_was_refused() {
        let line = r#"{"kind":"Event","stage":"ResponseComplete","verb":"patch",
            "user":{"username":"system:serviceaccount:kube-system:egressgateway-agent"},
            "objectRef":{"resource":"egresstunnels","name":"a","apiGroup":"egressgateway.spidernet.io",
            "apiVersion":"v1beta1","subresource":"status"},"responseStatus":{"code":403}}"#;
        let expected = Asked {
            account: "kube-system:egressgateway-agent".to_owned(),
            verb: "patch".to_owned(),
            group: "egressgateway.spidernet.io".to_owned(),
            resource: "egresstunnels/status".to_owned(),
            namespace: String::new(),
            forbidden: true,
        };
        assert_eq!(entry(line), Some(expected));
        assert_eq!(
            entry(r#"{"verb":"get","user":{"username":"jane"},"objectRef":{"resource":"pods"}}"#),
            None
        );
        assert_eq!(entry(r#"{"verb":"ge"#), None);
    }

    #[test]
    fn the_policy_is_yaml_and_names_both_programs() {
        let policy: Value = serde_saphyr::from_str(&policy()).expect("YAML");
        let users = policy.pointer("/rules/0/users").and_then(Value::as_array).expect("users");
        assert_eq!(users.len(), PROGRAMS.len());
    }
}
