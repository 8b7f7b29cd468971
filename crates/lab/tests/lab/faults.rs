//! What is broken on purpose breaks, and heals.

use lab::{Fault, Lab};

use crate::setup::{alone, has_kubectl, kubectl, options, text, until, up};

fn restarts_of_agent(lab: &Lab, node: &str) -> String {
    let path = "jsonpath={.items[0].status.containerStatuses[0].restartCount}";
    let (selector, field) =
        ("app.kubernetes.io/component=egressgateway-agent", format!("spec.nodeName={node}"));
    let arguments =
        ["get", "pods", "-n", "kube-system", "-l", selector, "--field-selector", &field, "-o", path];
    text(&kubectl(lab, &arguments))
}

fn ready(lab: &Lab, node: &str) -> String {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    text(&kubectl(lab, &["get", "node", node, "-o", path]))
}

#[test]
fn a_cut_node_becomes_not_ready_and_returns() {
    let _alone = alone();
    if !has_kubectl() {
        return;
    }
    let mut options = options("cut");
    options.install = false;
    options.node_grace = std::time::Duration::from_secs(2);
    let Some(lab) = up(&options) else { return };
    let pod = "apiVersion: v1
kind: Pod
metadata: {name: app}
spec: {nodeName: worker-node-1, containers: [{name: app, image: test, command: [sleep, '3600']}]}
";
    text(&crate::setup::kubectl_with_input(&lab, &["apply", "-f", "-"], pod));
    let pod_is_ready = |wanted: &str| {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let seen = text(&kubectl(&lab, &["get", "pod", "app", "-o", path]));
        if seen == wanted { Ok(()) } else { Err(seen) }
    };
    until("the pod is ready", || pod_is_ready("True"));
    let reach =
        || lab.exec("worker-node-1", &["curl", "-sS", "-m", "1", "http://10.6.168.63"]).expect("runs");
    text(&reach());
    lab.fault(Fault::Cut { node: "worker-node-1".to_string() }).expect("cut");
    assert!(!reach().status.success(), "a cut node reaches the outside");
    assert!(lab.status().expect("a status").nodes.iter().any(|node| node.cut));
    until("the node is not ready", || match ready(&lab, "worker-node-1").as_str() {
        "Unknown" => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(ready(&lab, "worker-node-2"), "True");
    until("nobody vouches for its pod", || pod_is_ready("False"));
    lab.fault(Fault::Heal { node: "worker-node-1".to_string() }).expect("healed");
    until("the node is ready again", || match ready(&lab, "worker-node-1").as_str() {
        "True" => Ok(()),
        other => Err(other.to_string()),
    });
    until("its taint is gone", || {
        let taints = text(&kubectl(&lab, &["get", "node", "worker-node-1", "-o", "jsonpath={.spec.taints}"]));
        if taints.is_empty() { Ok(()) } else { Err(taints) }
    });
    until("its pod is ready again", || pod_is_ready("True"));
    // A carrier that returns is noticed within a second or so.
    until("the node reaches the outside again", || {
        let curl = reach();
        if curl.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&curl.stderr).into_owned()) }
    });
    let wrong = lab.fault(Fault::Cut { node: "worker-node-9".to_string() }).expect_err("no such node");
    assert!(wrong.to_string().contains("there is no node \"worker-node-9\""), "{wrong}");
}

#[test]
fn a_killed_agent_is_started_again() {
    let _alone = alone();
    if !has_kubectl() {
        return;
    }
    let Some(lab) = up(&options("agent")) else { return };
    assert_eq!(restarts_of_agent(&lab, "worker-node-2"), "0");
    lab.fault(Fault::KillAgent { node: "worker-node-2".to_string() }).expect("killed");
    until("the agent was restarted", || match restarts_of_agent(&lab, "worker-node-2").as_str() {
        "1" => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(restarts_of_agent(&lab, "worker-node-1"), "0");
}

/// As a new build does: the file goes, and another one takes its name.
fn replace(program: &std::path::Path) {
    std::fs::remove_file(program).expect("removed");
    std::fs::write(program, "no program\n").expect("written");
}

#[test]
fn a_lab_goes_on_with_the_program_that_it_began_with() {
    let _alone = alone();
    if !has_kubectl() {
        return;
    }
    let mut options = options("rebuilt");
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("egressgateway");
    std::fs::copy(&options.program, &copy).expect("copied");
    let whole = std::mem::replace(&mut options.program, copy.clone());
    let Some(lab) = up(&options) else { return };
    replace(&copy);
    // A container that starts again, a pod that is new, and a command in it.
    lab.fault(Fault::KillAgent { node: "worker-node-2".to_string() }).expect("killed");
    until("the agent was restarted", || match restarts_of_agent(&lab, "worker-node-2").as_str() {
        "1" => Ok(()),
        other => Err(other.to_string()),
    });
    text(&kubectl(&lab, &["rollout", "restart", "-n", "kube-system", "daemonset/egressgateway-agent"]));
    let arguments =
        ["rollout", "status", "-n", "kube-system", "daemonset/egressgateway-agent", "--timeout=60s"];
    text(&kubectl(&lab, &arguments));
    let deployed = crate::setup::deployment("web", 1);
    text(&crate::setup::kubectl_with_input(&lab, &["apply", "-f", "-"], &deployed));
    text(&kubectl(&lab, &["rollout", "status", "deployment", "web", "--timeout=60s"]));
    let said = text(&kubectl(
        &lab,
        &["exec", "deployment/web", "--", "/opt/egressgateway/bin/egressgateway", "--help"],
    ));
    assert!(said.starts_with("usage: egressgateway"), "{said}");
    // Another program of the same project asks it, as after every new build.
    let mut exec = std::process::Command::new(whole);
    let name = options.name.as_str();
    exec.args(["lab", "exec", "--name", name, "worker-node-1", "--", "hostname"]);
    assert_eq!(text(&exec.output().expect("runs")).trim(), "worker-node-1");
}

#[test]
fn pods_live_through_an_outage_of_the_api_server() {
    let _alone = alone();
    if !has_kubectl() {
        return;
    }
    let mut options = options("outage");
    options.install = false;
    options.node_grace = std::time::Duration::from_secs(2);
    let Some(lab) = up(&options) else { return };
    let deployed = crate::setup::deployment("web", 1);
    text(&crate::setup::kubectl_with_input(&lab, &["apply", "-f", "-"], &deployed));
    text(&kubectl(&lab, &["rollout", "status", "deployment", "web", "--timeout=60s"]));
    let status = lab.status().expect("a status");
    let pod = status.pods.keys().find(|pod| pod.starts_with("default/")).expect("a pod").clone();

    lab.fault(Fault::StopApiServer).expect("stopped");
    assert!(!kubectl(&lab, &["get", "nodes", "--request-timeout=2s"]).status.success());
    assert!(!lab.status().expect("a status").api_server_running);
    let seen = text(&lab.exec(&pod, &["curl", "-sS", "-m", "5", "http://10.6.168.63"]).expect("runs"));
    assert!(seen.starts_with("Remote IP: 10.6.0."), "{seen}");

    lab.fault(Fault::StartApiServer).expect("started");
    until("everything is as it was", || {
        let nodes = kubectl(&lab, &["get", "nodes"]);
        let nodes = String::from_utf8_lossy(&nodes.stdout).into_owned();
        if nodes.matches(" Ready ").count() == 3 { Ok(()) } else { Err(nodes) }
    });
    text(&kubectl(&lab, &["scale", "deployment", "web", "--replicas=2"]));
    text(&kubectl(&lab, &["rollout", "status", "deployment", "web", "--timeout=60s"]));
    assert!(lab.status().expect("a status").pods.contains_key(&pod), "the old pod was left alone");
}
