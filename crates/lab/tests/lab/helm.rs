//! Stock Helm, versions 3 and 4, against a lab: a chart's whole life.
//!
//! `cargo xtask real-cluster build --clients` makes them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lab::{ApiServerKind, Lab, PROGRAMS_VARIABLE};
use tempfile::TempDir;

use crate::setup::{alone, options, text, until, up};

const CHART: &[(&str, &str)] = &[
    ("Chart.yaml", "{apiVersion: v2, name: web, version: 1.2.3, appVersion: '4.5'}"),
    ("values.yaml", "{replicas: 1, greeting: hello}"),
    (
        "crds/widgets.yaml",
        "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.helm.test}
spec:
  group: helm.test
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties: {spec: {type: object, properties: {size: {type: integer, maximum: 9}}}}
",
    ),
    (
        "templates/web.yaml",
        "apiVersion: v1
kind: ConfigMap
metadata: {name: '{{ .Release.Name }}-config'}
data: {greeting: '{{ .Values.greeting }}', served: '{{ .Capabilities.APIVersions.Has \"apps/v1/Deployment\" }}'}
---
apiVersion: helm.test/v1
kind: Widget
metadata: {name: '{{ .Release.Name }}'}
spec: {size: {{ .Values.replicas }}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: '{{ .Release.Name }}-helm-test'}
rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: '{{ .Release.Name }}'}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: app, image: test, command: [sleep, '3600']}]}
",
    ),
    (
        "templates/hook.yaml",
        "apiVersion: v1
kind: Pod
metadata:
  name: '{{ .Release.Name }}-hook'
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  containers: [{name: app, image: test, command: ['true']}]
",
    ),
    ("templates/NOTES.txt", "{{ .Values.greeting }} from {{ .Release.Name }}, revision {{ .Release.Revision }}"),
];

/// One Helm that talks to one lab, with a home and a chart of its own.
struct Helm<'l> {
    binary: PathBuf,
    lab: &'l Lab,
    home: TempDir,
}

impl Helm<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.binary);
        command.args(arguments).current_dir(self.home.path()).env("HOME", self.home.path());
        command.env("KUBECONFIG", self.lab.kubeconfig()).output().expect("Helm runs")
    }

    fn ok(&self, arguments: &[&str]) -> String {
        text(&self.run(arguments))
    }
}

fn write_chart(directory: &Path) {
    for (name, content) in CHART {
        let path = directory.join("chart").join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(path, content).expect("written");
    }
}

/// The Helms that are there, with the kubectl that was built beside them.
fn programs() -> Option<PathBuf> {
    let directory = std::env::var_os(PROGRAMS_VARIABLE).map(PathBuf::from);
    let Ok(ApiServerKind::Real { programs: directory }) = ApiServerKind::real(directory) else {
        println!("SKIP: it is not known where the programs are");
        return None;
    };
    let missing: Vec<&str> =
        ["helm3", "helm4", "kubectl"].into_iter().filter(|name| !directory.join(name).is_file()).collect();
    if !missing.is_empty() {
        println!("SKIP: {} has no {}", directory.display(), missing.join(", "));
        return None;
    }
    Some(directory)
}

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls() {
    let _alone = alone();
    let Some(programs) = programs() else { return };
    let mut options = options("helm");
    options.install = false;
    options.api_server = ApiServerKind::from_environment().expect("a known API server");
    let Some(lab) = up(&options) else { return };
    for version in ["helm3", "helm4"] {
        let home = tempfile::tempdir().expect("a directory");
        write_chart(home.path());
        let helm = Helm { binary: programs.join(version), lab: &lab, home };
        whole_life(&helm, &programs.join("kubectl"));
    }
}

fn whole_life(helm: &Helm<'_>, kubectl: &Path) {
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(kubectl);
        command.args(arguments).env("KUBECONFIG", helm.lab.kubeconfig()).output().expect("kubectl runs")
    };
    let field = |what: &str, path: &str| {
        let path = format!("jsonpath={{{path}}}");
        text(&ask(&["get", what, "-n", "apps", "--ignore-not-found", "-o", &path]))
    };
    // A hook's pod needs the account that every namespace gets, some moments after it was made.
    ask(&["create", "namespace", "apps"]);
    until("the namespace has its account", || {
        match field("serviceaccount/default", ".metadata.name").as_str() {
            "default" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let wait = ["--wait", "--timeout", "60s", "-n", "apps"];
    let with = |arguments: &[&'static str]| [arguments, wait.as_slice()].concat();

    let installed = helm.ok(&with(&["install", "web", "chart"]));
    assert!(
        installed.contains("STATUS: deployed") && installed.contains("hello from web, revision 1"),
        "{installed}"
    );
    assert_eq!(field("configmap/web-config", ".data"), r#"{"greeting":"hello","served":"true"}"#);
    assert_eq!(field("deployment/web", ".status.readyReplicas"), "1", "Helm has waited");
    assert_eq!(field("widgets.helm.test/web", ".spec.size"), "1");
    assert_eq!(field("pod/web-hook", ".metadata.name"), "", "a hook that succeeded is deleted");
    let again = helm.run(&with(&["install", "web", "chart"]));
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && said.contains("still in use"), "{said}");

    let upgraded = helm.ok(&with(&["upgrade", "web", "chart", "--set", "replicas=2,greeting=bye"]));
    assert!(upgraded.contains("REVISION: 2") && upgraded.contains("bye from web, revision 2"), "{upgraded}");
    assert_eq!(field("deployment/web", ".status.readyReplicas"), "2");
    let refused = helm.run(&with(&["upgrade", "web", "chart", "--set", "replicas=10"]));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("spec.size"), "{said}");

    helm.ok(&with(&["rollback", "web", "1"]));
    assert_eq!(field("configmap/web-config", ".data.greeting"), "hello");
    until("one replica is left", || match field("deployment/web", ".status.replicas").as_str() {
        "1" => Ok(()),
        other => Err(other.to_owned()),
    });
    let history = helm.ok(&["history", "web", "-n", "apps"]);
    for part in ["superseded", "failed", "Rollback to 1"] {
        assert!(history.contains(part), "no {part} in {history}");
    }
    let manifest = helm.ok(&["get", "manifest", "web", "-n", "apps"]);
    assert!(manifest.contains("greeting: 'hello'") || manifest.contains("greeting: hello"), "{manifest}");

    helm.ok(&with(&["uninstall", "web"]));
    assert_eq!(helm.ok(&["list", "-n", "apps", "-q"]).trim(), "");
    for what in
        ["configmap/web-config", "deployment/web", "widgets.helm.test/web", "clusterrole/web-helm-test"]
    {
        assert_eq!(field(what, ".metadata.name"), "", "{what} is gone");
    }
    assert_eq!(field("crd/widgets.helm.test", ".metadata.name"), "widgets.helm.test", "definitions stay");
}
