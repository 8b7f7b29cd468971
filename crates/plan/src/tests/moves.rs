//! EIPs that people want on another node.

use model::gateway::MoveRequest;
use model::policy::EgressChoice::Default;

use super::tables::three_nodes;
use super::*;

/// Nodes a, b (gateways) and c; the EIP is on a.
fn world() -> World {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.5"]).policy("n/p", "g", Default).policy("n/q", "g", Default);
    world.settle();
    assert_eq!(world.node_of("n/p"), Some("a"));
    world
}

fn ask(world: &mut World, text: &str) -> Plan {
    world.edit_gateway("g", |record| record.moves = MoveRequest::parse_list(text));
    world.step()
}

fn ended(plan: &Plan) -> Vec<String> {
    let ended = &plan.gateways["g"].moves.ended;
    ended.iter().map(|(_, reason)| format!("{}: {reason}", reason.code())).collect()
}

/// C00001: the EIP and all of its policies are on the other node, and both say so.
#[test]
fn c00001_an_eip_moves_to_another_ready_node_when_somebody_asks_for_it() {
    let mut world = world();
    world.claim("a", eip("10.6.1.1"), 7);
    world.settle();
    let plan = ask(&mut world, "10.6.1.1=b");
    assert_eq!((world.node_of("n/p"), world.node_of("n/q")), (Some("b"), Some("b")));
    assert_eq!(ended(&plan), [""; 0]);
    // The old node's claim does not bring it back while the new one has not claimed it.
    let plan = world.step();
    assert_eq!((world.node_of("n/p"), ended(&plan).len()), (Some("b"), 0));
    assert_eq!(plan.wake_at_s, Some(crate::moves::TIMEOUT_S));
    world.claim("b", eip("10.6.1.1"), 8);
    let plan = world.step();
    assert_eq!(ended(&plan), ["Moved: 10.6.1.1 moved from node a to node b, as asked"]);
    assert!(world.snapshot.gateways["g"].moves.is_empty());
    let plan = world.settle();
    assert_eq!((world.node_of("n/p"), plan.wake_at_s), (Some("b"), None));
}

/// X-C1: what can't be done is said, and nothing is touched.
#[test]
fn x_c1_impossible_moves_are_refused_and_change_nothing() {
    let mut world = world();
    world.node("d", true).edit_node("d", |node| node.ready = false);
    world.settle();
    let before = world.snapshot.gateways["g"].status.clone();
    let plan = ask(&mut world, "10.6.1.1=d,10.6.1.1=c,10.6.1.2=b,10.6.1.1=a,10.6.1.1,10.6.1.1=nowhere");
    insta::assert_snapshot!(ended(&plan).join("\n"), @"
    MoveRefused: metadata.annotations[egressgateway.spidernet.io/move-eip]: `10.6.1.1=d`: node d is NodeNotReady, and only a Ready one can carry it
    MoveRefused: metadata.annotations[egressgateway.spidernet.io/move-eip]: `10.6.1.1=c`: node `c` is not one of this gateway's; see status.nodeList
    MoveRefused: metadata.annotations[egressgateway.spidernet.io/move-eip]: `10.6.1.2=b`: 10.6.1.2 is no EIP in use of this gateway; see status.nodeList
    MoveUnneeded: 10.6.1.1 is on node a already
    MoveRefused: metadata.annotations[egressgateway.spidernet.io/move-eip]: `10.6.1.1`: is not of the form EIP=NODE, like 10.6.1.55=node-b
    MoveRefused: metadata.annotations[egressgateway.spidernet.io/move-eip]: `10.6.1.1=nowhere`: node `nowhere` is not one of this gateway's; see status.nodeList
    ");
    assert_eq!(world.snapshot.gateways["g"].status, before);
    assert!(world.snapshot.gateways["g"].moves.is_empty());
    // Each is told once.
    assert_eq!(plan.notices.len(), 6);
    assert_eq!(world.settle().notices, []);
}

#[test]
fn a_node_that_does_not_take_the_eip_in_time_loses_it_again() {
    let mut world = world();
    world.claim("a", eip("10.6.1.1"), 7);
    world.settle();
    ask(&mut world, "10.6.1.1=b");
    world.pass_s(crate::moves::TIMEOUT_S - 1);
    assert_eq!(ended(&world.step()).len(), 0);
    world.pass_s(1);
    let plan = world.step();
    assert!(ended(&plan)[0].contains("node b did not take it over in 30 s"), "{:?}", ended(&plan));
    world.settle();
    assert_eq!(world.node_of("n/p"), Some("a"));
}

#[test]
fn where_nobody_claims_anything_a_move_is_done_once_it_is_written() {
    let mut world = world();
    ask(&mut world, "10.6.1.1=b");
    assert_eq!(ended(&world.step()), ["Moved: 10.6.1.1 moved from node a to node b, as asked"]);
    world.settle();
    assert_eq!(world.node_of("n/p"), Some("b"));
}

#[test]
fn a_target_that_fails_during_the_move_ends_it() {
    let mut world = world();
    world.claim("a", eip("10.6.1.1"), 7);
    world.settle();
    ask(&mut world, "10.6.1.1=b");
    world.edit_node("b", |node| node.ready = false);
    let plan = world.step();
    assert!(ended(&plan)[0].contains("node b is NodeNotReady"), "{:?}", ended(&plan));
    world.settle();
    assert_eq!(world.node_of("n/p"), Some("a"));
}
