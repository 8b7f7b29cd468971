//! Answers to "why does this packet leave with that address?".

use std::net::IpAddr;

use datapath::compile::compile;
use datapath::explain::{Question, explain};
use datapath::view::NodeView;
use model::EipPair;

use crate::worlds::*;

fn answer(view: &NodeView, pod: u8, to: &str, protocol: u8) -> String {
    let numbering = numbered(view);
    let state = compile(view, &numbering);
    let source: IpAddr = pod_address("node-1", pod).into();
    let question = Question { source, destination: to.parse().unwrap(), protocol, port: 443 };
    explain(view, &numbering, &state, &question).to_string()
}

#[track_caller]
fn says(answer: &str, sentences: &[&str]) {
    for sentence in sentences {
        assert!(answer.contains(sentence), "{sentence:?} is not in\n{answer}");
    }
}

#[test]
fn the_policy_that_decides_is_named_with_its_eip_ports_and_gateway() {
    let mut view = source();
    view.policies.push(policy("narrow", &["a"], &["1.1.1.0/24"], Some(eip(1))));
    let text = answer(&view, 5, "1.1.1.1", 6);
    says(
        &text,
        &[
            "pod       default/a on node node-1",
            "default/narrow decides: destSubnet 1.1.1.0/24",
            "default/test comes after it: everything outside the cluster",
            "EIP       10.6.168.201, connection mark 0x26000001",
            "ports     4096-8191, leased to this node",
            "gateway   node-3",
            "leaves through the tunnel to 172.31.0.3, from 10.6.168.201",
        ],
    );
}

#[test]
fn what_is_left_alone_says_why() {
    let view = source();
    says(&answer(&view, 7, "1.1.1.1", 6), &["none selects this pod", "left alone: it leaves by eth0"]);
    says(&answer(&view, 9, "1.1.1.1", 6), &["10.244.1.9 is no pod of node node-1"]);
    says(
        &answer(&view, 5, "10.96.0.1", 6),
        &[
            "default/test does not apply: the destination is in 10.96.0.0/12, a network of the cluster",
            "left alone",
        ],
    );
    says(&answer(&view, 5, "10.6.0.12", 6), &["the destination is a node of the cluster"]);
    says(&answer(&view, 5, "169.254.169.254", 6), &["never leaves a link"]);
}

#[test]
fn what_is_refused_says_why() {
    let mut view = source();
    says(&answer(&view, 5, "1.1.1.1", 47), &["refused with an ICMP answer", "refuse_protocol: "]);
    says(&answer(&view, 5, "10.6.168.202", 6), &["refuse_to_eip: "]);
    view.eips.get_mut(&eip(1)).unwrap().carrier = None;
    says(&answer(&view, 5, "1.1.1.1", 17), &["gateway   none lives", "refuse_no_gateway: "]);
    view.eips.get_mut(&eip(1)).unwrap().block = None;
    says(&answer(&view, 5, "1.1.1.1", 17), &["new connections wait", "hold_no_lease: "]);
    let mut pending = source();
    pending.policies[0].eip = None::<EipPair>;
    says(&answer(&pending, 5, "1.1.1.1", 6), &["none was given yet", "refused"]);
}
