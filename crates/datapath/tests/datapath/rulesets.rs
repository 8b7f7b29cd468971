//! Rulesets of named situations, as nft text.

use std::fmt::Write;

use datapath::compile::compile;
use datapath::state::DatapathState;
use datapath::view::{ExistingFlows, NoGatewayAction, NodeView};

use datapath::violations::violations;

use crate::worlds::*;

/// Compiles a view, has it judged and shown.
#[track_caller]
fn check(name: &str, view: &NodeView) {
    let state = compile(view, &numbered(view));
    assert_eq!(violations(view, &state), []);
    insta::assert_snapshot!(name, show(&state));
}

fn show(state: &DatapathState) -> String {
    let mut text = String::new();
    writeln!(text, "{:?}", state.tunnel).unwrap();
    state.peers.iter().for_each(|peer| writeln!(text, "{peer:?}").unwrap());
    state.rules.iter().for_each(|rule| writeln!(text, "{rule:?}").unwrap());
    state.routes.iter().for_each(|route| writeln!(text, "{route:?}").unwrap());
    state.proxy_neighbours.iter().for_each(|entry| writeln!(text, "{entry:?}").unwrap());
    state.sysctls.iter().for_each(|(path, value)| writeln!(text, "{path} = {value}").unwrap());
    state.tables.values().for_each(|table| write!(text, "{table}").unwrap());
    text
}

#[test]
fn a_node_that_does_nothing() {
    check("idle", &node("node-1"));
}

#[test]
fn a_source_node() {
    check("source", &source());
}

#[test]
fn a_source_node_with_overlapping_policies() {
    let mut view = source();
    view.policies.push(policy("named", &["a"], &["1.1.1.0/24", "10.244.9.0/24"], Some(eip(2))));
    check("overlapping", &view);
}

#[test]
fn a_source_node_while_no_gateway_lives_and_all_may_leave() {
    let mut view = source();
    view.settings.no_gateway_action = NoGatewayAction::Direct;
    view.settings.existing_flows = ExistingFlows::Cut;
    view.eips.get_mut(&eip(1)).unwrap().carrier = None;
    check("direct", &view);
}

#[test]
fn a_gateway() {
    check("gateway", &gateway("node-3"));
}

#[test]
fn a_gateway_of_both_families() {
    let mut view = gateway("node-3");
    view.settings.ipv6 = true;
    let pair = "10.6.168.205+fd06::5".parse().unwrap();
    let own = view.gateway_eips.get(&eip(1)).unwrap().clone();
    view.gateway_eips.insert(pair, own);
    check("dual_stack", &view);
}
