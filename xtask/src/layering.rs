//! The arrows between the crates, checked against the manifests.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// For each crate the crates of ours that it may depend on (tests included), from the bottom up.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("fuzzing", &[]),
    ("plan", &["model"]),
    ("datapath", &["model"]),
    ("liveness", &["model"]),
    ("api", &["model"]),
    ("kernel", &["datapath", "model"]),
    ("runtime", &["model"]),
    ("apiserver", &[]),
    ("controller", &["plan", "api", "runtime", "model"]),
    ("agent", &["datapath", "liveness", "kernel", "api", "runtime", "model"]),
    ("lab", &["apiserver", "kernel", "datapath", "api", "model"]),
    ("sim", &["apiserver", "controller", "agent", "plan", "datapath", "liveness", "api", "runtime", "model"]),
    ("bench", &["apiserver", "kernel", "datapath", "plan", "api", "model", "lab"]),
    ("egressgateway", &["controller", "agent", "lab", "runtime", "api", "kernel", "datapath", "model"]),
    ("xtask", &["api"]),
];

/// What tests may use besides: a shell is tried against the real server and with the real kernel.
const ARROWS_OF_TESTS: &[(&str, &[&str])] = &[
    ("controller", &["apiserver"]),
    ("agent", &["apiserver", "fuzzing"]),
    ("kernel", &["fuzzing"]),
    ("liveness", &["fuzzing"]),
    ("runtime", &["fuzzing"]),
    ("apiserver", &["fuzzing"]),
    ("lab", &["fuzzing"]),
];

/// Crates that hold decisions and nothing else, and what they must not even be able to name.
const PURE: &[&str] = &["model", "plan", "datapath", "liveness"];
const IMPURE: &[&str] = &[
    "tokio",
    "futures",
    "kube",
    "kube-core",
    "k8s-openapi",
    "netlink-sys",
    "netlink-packet-route",
    "rtnetlink",
    "nix",
    "libc",
    "socket2",
    "axum",
    "hyper",
    "rustls",
    "ring",
    "jiff",
    "rand",
    "tracing",
    "serde",
    "serde_json",
];

/// An error that lists every arrow that points the wrong way.
pub(crate) fn check(root: &Path) -> Result<()> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("can't start cargo")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("reading `cargo metadata`")?;
    let wrong = violations(&metadata);
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(())
}

fn violations(metadata: &Value) -> Vec<String> {
    let allowed: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let allowed_in_tests: BTreeMap<_, _> = ARROWS_OF_TESTS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata.pointer("/packages").and_then(Value::as_array).into_iter().flatten() {
        let name = text(package, "name");
        let Some(targets) = allowed.get(name) else {
            wrong.push(format!("crate `{name}` has no place in the layering yet"));
            continue;
        };
        for dependency in package.pointer("/dependencies").and_then(Value::as_array).into_iter().flatten() {
            let to = text(dependency, "name");
            let in_tests = text(dependency, "kind") == "dev";
            let ours = allowed.contains_key(to);
            let test_arrow = in_tests && allowed_in_tests.get(name).is_some_and(|more| more.contains(&to));
            if ours && !targets.contains(&to) && !test_arrow {
                wrong.push(format!("`{name}` must not depend on `{to}`"));
            }
            if !in_tests && PURE.contains(&name) && IMPURE.contains(&to) {
                wrong.push(format!("`{name}` is pure and must not see `{to}`"));
            }
        }
    }
    wrong
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
        json!({"packages": [{"name": name, "dependencies": dependencies}]})
    }

    #[test]
    fn arrows_that_point_up_and_impure_cores_are_found() {
        assert!(violations(&package("plan", &[("model", None), ("proptest", Some("dev"))])).is_empty());
        assert_eq!(violations(&package("model", &[("plan", None)])).len(), 1);
        assert_eq!(violations(&package("plan", &[("tokio", None)])).len(), 1);
        assert_eq!(violations(&package("controller", &[("apiserver", None)])).len(), 1);
        assert!(violations(&package("controller", &[("apiserver", Some("dev"))])).is_empty());
        assert_eq!(violations(&package("stranger", &[])).len(), 1);
    }
}
