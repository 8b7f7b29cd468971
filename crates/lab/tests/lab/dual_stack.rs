//! A lab whose agents serve both families.

use lab::Lab;

use crate::setup::{alone, deployment, has_kubectl, kubectl, kubectl_with_input, options, text, until, up};

/// A gateway with pools of one size.
const GATEWAY: &str = r#"apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressGateway
metadata: {name: even}
spec:
  ippools: {ipv4: ["10.6.168.201-10.6.168.202"], ipv6: ["fd06::168:201-fd06::168:202"]}
  nodeSelector: {selector: {matchLabels: {egressgateway: "true"}}}
"#;

/// A gateway with pools that can't be paired.
const UNEVEN: &str = r#"apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressGateway
metadata: {name: uneven}
spec:
  ippools: {ipv4: ["10.6.168.211-10.6.168.213"], ipv6: ["fd06::168:211"]}
  nodeSelector: {selector: {matchLabels: {egressgateway: "true"}}}
"#;

/// All traffic of the pods `web` to the outside host.
const POLICY: &str = r#"apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressPolicy
metadata: {name: web, namespace: default}
spec:
  egressGatewayName: even
  appliedTo: {podSelector: {matchLabels: {app: web}}}
  destSubnet: ["10.6.168.63/32", "fd06::168:63/128"]
"#;

#[test]
fn pods_leave_with_the_pair_of_addresses_of_their_policy_and_uneven_pools_say_what_is_wrong() {
    let _alone = alone();
    if !has_kubectl() {
        return;
    }
    let mut options = options("dual");
    options.ipv6 = true;
    let Some(lab) = up(&options) else { return };
    let run = |arguments: &[&str]| text(&kubectl(&lab, arguments));
    run(&["label", "node", "worker-node-1", "egressgateway=true"]);
    for objects in [GATEWAY, POLICY, &deployment("web", 2)] {
        text(&kubectl_with_input(&lab, &["apply", "-f", "-"], objects));
    }
    run(&["rollout", "status", "deployment", "web", "--timeout=60s"]);
    refused(&lab, UNEVEN, "spec.ippools: Invalid value: 3 IPv4 and 1 IPv6 addresses");

    let pods = run(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"]);
    assert_eq!(pods.split_whitespace().count(), 2, "one on the gateway, one elsewhere: {pods}");
    for pod in pods.split_whitespace() {
        for (url, eip) in
            [("http://10.6.168.63", "10.6.168.201:"), ("http://[fd06::168:63]", "[fd06::168:201]:")]
        {
            until(&format!("{pod} is seen as {eip}"), || {
                let seen = lab.exec(pod, &["curl", "-sS", "-m", "5", url]).expect("runs");
                let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
                if seen.starts_with(&format!("Remote IP: {eip}")) { Ok(()) } else { Err(seen) }
            });
        }
    }
}

#[test]
fn without_the_option_an_ipv6_pool_is_refused_as_such() {
    let _alone = alone();
    if !has_kubectl() {
        return;
    }
    let Some(lab) = up(&options("single")) else { return };
    refused(&lab, GATEWAY, "spec.ippools.ipv6: Invalid value: IPv6 is not enabled here");
}

/// Objects that are not created, and what kubectl says.
#[track_caller]
fn refused(lab: &Lab, objects: &str, told: &str) {
    let answer = kubectl_with_input(lab, &["apply", "-f", "-"], objects);
    let said = String::from_utf8_lossy(&answer.stderr);
    assert!(!answer.status.success() && said.contains(told), "{}: {said}", answer.status);
}
