//! What Kubernetes' own API server writes of our programs' requests: the same that the embedded one remembers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;
use api::permissions::PROGRAMS;
use apiserver::auth::audit::Asked;

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
    Ok(text.lines().filter_map(Asked::in_log).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_policy_is_yaml_and_names_both_programs() {
        let policy: Value = serde_saphyr::from_str(&policy()).expect("YAML");
        let users = policy.pointer("/rules/0/users").and_then(Value::as_array).expect("users");
        assert_eq!(users.len(), PROGRAMS.len());
    }
}
