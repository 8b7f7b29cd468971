//! Stock kubectl against a lab: what people do every day behaves as they know it.

use std::collections::BTreeSet;

use lab::Lab;

use crate::setup::{
    Background, alone, deployment, has_kubectl, kubectl, kubectl_with_input, options, text, until, up,
};

#[test]
fn kubectl_applies_scales_rolls_out_logs_execs_and_deletes() {
    let _alone = alone();
    if !has_kubectl() {
        return;
    }
    let mut options = options("kubectl");
    options.install = false;
    let Some(lab) = up(&options) else { return };
    let run = |arguments: &[&str]| text(&kubectl(&lab, arguments));

    let applied = text(&kubectl_with_input(&lab, &["apply", "-f", "-"], &deployment("web", 2)));
    assert_eq!(applied, "deployment.apps/web created\n");
    let rolled = run(&["rollout", "status", "deployment", "web", "--timeout=60s"]);
    assert!(rolled.contains("successfully rolled out"), "{rolled}");
    let wide = run(&["get", "pods", "-o", "wide"]);
    assert_eq!(wide.matches("10.244.").count(), 2, "{wide}");
    assert!(wide.contains("worker-node-1") && wide.contains("worker-node-2"), "replicas apart: {wide}");

    run(&["scale", "deployment", "web", "--replicas=4"]);
    run(&["rollout", "status", "deployment", "web", "--timeout=60s"]);
    let ready = run(&["get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"]);
    assert_eq!(ready, "4");

    let pod = first_pod(&lab);
    until("the pod's log", || {
        let log = run(&["logs", &pod]);
        if log == format!("hello from {pod}\n") { Ok(()) } else { Err(log) }
    });
    let out = text(&kubectl_with_input(&lab, &["exec", "-i", &pod, "--", "tr", "a-z", "A-Z"], "shout\n"));
    assert_eq!(out, "SHOUT\n");
    let failed = kubectl(&lab, &["exec", &pod, "--", "sh", "-c", "exit 3"]);
    assert_eq!(failed.status.code(), Some(3));
    let token = run(&["exec", &pod, "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/namespace"]);
    assert_eq!(token, "default");

    run(&["set", "image", "deployment/web", "app=test:2"]);
    run(&["rollout", "status", "deployment", "web", "--timeout=60s"]);
    let history = run(&["rollout", "history", "deployment", "web"]);
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    run(&["rollout", "undo", "deployment", "web"]);
    run(&["rollout", "status", "deployment", "web", "--timeout=60s"]);
    let image =
        run(&["get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}"]);
    assert_eq!(image, "test");

    run(&["delete", "deployment", "web", "--wait"]);
    until("all pods are gone", || {
        let pods = run(&["get", "pods", "-o", "name"]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
}

#[test]
fn kubectl_attaches_and_forwards_ports() {
    let _alone = alone();
    if !has_kubectl() {
        return;
    }
    let mut options = options("forward");
    options.install = false;
    let Some(lab) = up(&options) else { return };
    let pods = "apiVersion: v1
kind: Pod
metadata: {name: server}
spec:
  containers:
    - {name: app, image: nettools, command: [nettools-server, -protocol, web, -webPort, '8080']}
---
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  restartPolicy: Never
  containers:
    - {name: app, image: test, command: [sh, -c, 'until [ -e /tmp/go ]; do sleep 0.05; done; echo here I am']}
";
    text(&kubectl_with_input(&lab, &["apply", "-f", "-"], pods));
    text(&kubectl(
        &lab,
        &["wait", "--for=jsonpath={.status.phase}=Running", "pod", "--all", "--timeout=60s"],
    ));

    let mut forwarding = Background::start(&lab, &["port-forward", "pod/server", ":8080", ":81"]);
    let ports = forwarding.lines(4);
    let local = |remote: &str| {
        let line =
            ports.iter().find(|line| line.contains("127.0.0.1:") && line.ends_with(&format!("-> {remote}")));
        let line = line.unwrap_or_else(|| panic!("no port for {remote}: {ports:?}"));
        let (_, rest) = line.split_once("127.0.0.1:").expect("an address");
        rest.split(' ').next().expect("a port").to_string()
    };
    let curl = |url: String| {
        std::process::Command::new("curl").args(["-s", "-m", "20", &url]).output().expect("curl runs")
    };
    for _ in 0..2 {
        let answer = curl(format!("http://127.0.0.1:{}/", local("8080")));
        assert!(String::from_utf8_lossy(&answer.stdout).contains("127.0.0.1"), "{answer:?}");
    }
    assert!(!curl(format!("http://127.0.0.1:{}/", local("81"))).status.success(), "nobody listens there");
    let said = forwarding.end();
    assert!(said.contains("error forwarding port 81"), "{said}");

    let attached = Background::start(&lab, &["attach", "talker"]);
    text(&kubectl(&lab, &["exec", "talker", "--", "touch", "/tmp/go"]));
    let said = attached.wait();
    assert!(said.contains("here I am"), "{said}");
}

#[test]
fn a_container_that_exits_is_restarted_and_its_last_words_are_kept() {
    let _alone = alone();
    if !has_kubectl() {
        return;
    }
    let mut options = options("restart");
    options.install = false;
    let Some(lab) = up(&options) else { return };
    let pod = "apiVersion: v1
kind: Pod
metadata: {name: flaky}
spec:
  containers:
    - {name: app, image: test, command: [sh, -c, 'echo run; sleep 0.2; exit 5']}
";
    text(&kubectl_with_input(&lab, &["apply", "-f", "-"], pod));
    until("a second restart", || {
        let count = "jsonpath={.status.containerStatuses[0].restartCount}";
        let restarts = text(&kubectl(&lab, &["get", "pod", "flaky", "-o", count]));
        if restarts.parse::<u32>().is_ok_and(|restarts| restarts >= 2) { Ok(()) } else { Err(restarts) }
    });
    let code = "jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}";
    assert_eq!(text(&kubectl(&lab, &["get", "pod", "flaky", "-o", code])), "5");
    assert_eq!(text(&kubectl(&lab, &["logs", "flaky", "--previous"])), "run\n");
}

#[test]
fn what_a_container_said_can_be_read_after_its_end() {
    let _alone = alone();
    if !has_kubectl() {
        return;
    }
    let mut options = options("last-words");
    options.install = false;
    let Some(lab) = up(&options) else { return };
    let pods = "apiVersion: v1
kind: Pod
metadata: {name: done}
spec:
  restartPolicy: Never
  initContainers:
    - {name: before, image: test, command: [sh, -c, 'echo prepared']}
  containers:
    - {name: app, image: test, command: [sh, -c, 'echo one; echo two; echo three >&2']}
---
apiVersion: v1
kind: Pod
metadata: {name: broken}
spec:
  restartPolicy: Never
  containers:
    - {name: app, image: test, command: [sh, -c, 'echo no good; exit 4']}
---
apiVersion: v1
kind: Pod
metadata: {name: crashing}
spec:
  containers:
    - {name: app, image: test, command: [sh, -c, 'echo ouch; exit 1']}
";
    text(&kubectl_with_input(&lab, &["apply", "-f", "-"], pods));
    let run = |arguments: &[&str]| text(&kubectl(&lab, arguments));
    run(&["wait", "pod", "done", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"]);
    run(&["wait", "pod", "broken", "--for=jsonpath={.status.phase}=Failed", "--timeout=60s"]);
    let all = run(&["logs", "done"]);
    let lines: BTreeSet<&str> = all.lines().collect();
    assert_eq!(lines, BTreeSet::from(["one", "two", "three"]));
    assert_eq!(run(&["logs", "done", "-f"]), all, "following what is over ends at once");
    assert_eq!(run(&["logs", "done", "--tail=1"]).lines().count(), 1);
    assert_eq!(run(&["logs", "done", "--since=1h"]), all);
    assert_eq!(run(&["logs", "done", "--since-time=2999-01-01T00:00:00Z"]), "");
    assert_eq!(run(&["logs", "done", "-c", "before"]), "prepared\n");
    assert_eq!(run(&["logs", "broken"]), "no good\n");
    let never_before = kubectl(&lab, &["logs", "done", "--previous"]);
    assert_eq!(never_before.status.code(), Some(1));
    let said = String::from_utf8_lossy(&never_before.stderr).into_owned();
    assert!(said.contains("previous terminated container \"app\" in pod \"done\" not found"), "{said}");

    until("a pause before a restart", || {
        let reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        let reason = run(&["get", "pod", "crashing", "-o", reason]);
        if reason == "CrashLoopBackOff" { Ok(()) } else { Err(reason) }
    });
    assert_eq!(run(&["logs", "crashing", "--previous"]), "ouch\n");
    assert_eq!(run(&["logs", "crashing"]), "ouch\n");

    run(&["delete", "pod", "done", "--wait"]);
    let gone = kubectl(&lab, &["logs", "done"]);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("pods \"done\" not found"));
}

#[test]
fn a_pod_that_fits_nowhere_says_why() {
    let _alone = alone();
    if !has_kubectl() {
        return;
    }
    let mut options = options("nowhere");
    options.install = false;
    let Some(lab) = up(&options) else { return };
    let pod = "apiVersion: v1
kind: Pod
metadata: {name: picky}
spec:
  nodeSelector: {disk: tape}
  containers:
    - {name: app, image: test}
";
    text(&kubectl_with_input(&lab, &["apply", "-f", "-"], pod));
    until("the scheduler's reason", || {
        let message = "jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].message}";
        let seen = text(&kubectl(&lab, &["get", "pod", "picky", "-o", message]));
        let expected = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.";
        if seen == expected { Ok(()) } else { Err(seen) }
    });
    text(&kubectl(&lab, &["label", "node", "worker-node-1", "disk=tape"]));
    text(&kubectl(&lab, &["wait", "pod", "picky", "--for=condition=Ready", "--timeout=60s"]));
}

fn first_pod(lab: &Lab) -> String {
    let names = text(&kubectl(lab, &["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]));
    names.trim().to_string()
}
