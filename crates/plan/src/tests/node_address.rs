//! Policies with `useNodeIP`.

use model::policy::EgressChoice::{Default, NodeAddress};

use super::tables::three_nodes;
use super::*;

/// P00015: the policy has a node and no EIP, the gateway needs no pool.
#[test]
fn p00015_pods_leave_with_a_gateway_nodes_own_address_where_there_is_no_pool() {
    let mut world = three_nodes();
    world.gateway("g", &[]).policy("n/p", "g", NodeAddress).policy("cluster", "g", NodeAddress);
    insta::assert_snapshot!(summary(&world.settle()), @r#"
    gateway g: Ready (v4 0/0 free, v6 0/0 free)
      a Ready
        own address cluster
      b Ready
        own address n/p
    policy cluster: - a NodeAddress
    policy n/p: - b NodeAddress
    tunnel a: 172.31.0.1 - 0x26000001 Ready
    tunnel b: 172.31.0.2 - 0x26000002 Ready
    tunnel c: 172.31.0.3 - 0x26000003 Ready
    Normal gateway g Ready: ready
    Normal policy cluster NodeAddress: pods leave with the gateway node's own address; unlike with an EIP, connections end when that node fails
    Normal policy n/p NodeAddress: pods leave with the gateway node's own address; unlike with an EIP, connections end when that node fails
    "#);
}

/// P00016: the gateway's selector leaves the node, the policy follows.
#[test]
fn p00016_a_policy_follows_the_selector_to_another_node() {
    let mut world = three_nodes();
    world.gateway("g", &[]).policy("n/p", "g", NodeAddress);
    world.settle();
    assert_eq!((world.eip_of("n/p"), world.node_of("n/p")), (None, Some("a")));
    world.edit_node("a", |node| drop(node.labels.remove("egress")));
    let plan = world.settle();
    assert_eq!(world.node_of("n/p"), Some("b"));
    assert_eq!(plan.notices[0].message, "pods leave with the address of node b instead of node a's");
    // Issue 2116: nothing is left, and the status says so.
    world.edit_node("b", |node| drop(node.labels.remove("egress")));
    let plan = world.settle();
    assert!(plan.gateways["g"].status.nodes.is_empty());
    assert!(world.verdict_of("n/p").starts_with("NoGatewayNode"));
}

#[test]
fn a_lender_that_works_is_kept_and_new_policies_go_to_the_node_with_the_fewest() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/eip", "g", Default).policy("n/p", "g", NodeAddress);
    world.settle();
    assert_eq!((world.node_of("n/eip"), world.node_of("n/p")), (Some("a"), Some("b")));
    world.edit_node("b", |node| node.ready = false);
    world.settle();
    assert_eq!(world.node_of("n/p"), Some("a"));
    world.edit_node("b", |node| node.ready = true);
    world.settle();
    assert_eq!(world.node_of("n/p"), Some("a"), "nothing moves back");
}
