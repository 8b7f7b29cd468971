//! Gateways that change while policies use them.

use model::policy::EgressChoice::{Default, Exactly, Unshared};

use super::tables::three_nodes;
use model::tunnel::Conflict;
use model::tunnel_mac::MacAddress;

use super::*;

fn default_is(world: &mut World, address: &str) {
    world.edit_gateway("g", |record| {
        let gateway = record.spec.as_mut().unwrap();
        gateway.default_v4 = Some(address.parse().unwrap());
    });
}

#[test]
fn another_default_is_for_new_policies_and_the_old_ones_say_so() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.5"]).policy("n/old", "g", Default);
    world.settle();
    default_is(&mut world, "10.6.1.2");
    world.policy("n/new", "g", Default);
    world.settle();
    assert_eq!(
        (world.eip_of("n/old"), world.eip_of("n/new")),
        (Some(eip("10.6.1.1")), Some(eip("10.6.1.2")))
    );
    assert!(
        world.verdict_of("n/old").starts_with("FormerDefault: the EIP is in force"),
        "{}",
        world.verdict_of("n/old")
    );
    // It is kept while no node is ready, too.
    world.edit_node("a", |node| node.ready = false).edit_node("b", |node| node.ready = false);
    world.settle();
    world.edit_node("b", |node| node.ready = true);
    world.settle();
    assert_eq!(world.eip_of("n/old"), Some(eip("10.6.1.1")));
}

#[test]
fn an_eip_that_is_taken_out_of_the_pool_changes_loudly() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.5"]).policy("n/p", "g", Default).policy("n/q", "g", Unshared);
    world.policy("n/named", "g", Exactly(eip("10.6.1.3")));
    world.settle();
    world.gateway("g", &["10.6.1.7-10.6.1.9"]);
    let plan = world.settle();
    assert_eq!(world.eip_of("n/p"), Some(eip("10.6.1.7")));
    let told: Vec<_> = plan.notices.iter().filter(|notice| notice.code == "EipChanged").collect();
    assert_eq!(told.len(), 2);
    assert!(told[0].warning);
    assert_eq!(
        told[0].message,
        "leaves with 10.6.1.7 on node a instead of 10.6.1.1: the gateway's pool no longer has it"
    );
    assert!(world.verdict_of("n/named").starts_with("OutsidePool"));
}

/// G00014a to c: the EIP goes with the selector, and stays reserved while it selects nothing.
#[test]
fn g00014_the_eip_goes_where_the_selector_goes() {
    let mut world = three_nodes();
    let select = |world: &mut World, name: &str| {
        let nodes = LabelSelector::equal_to([("kubernetes.io/hostname", name)]);
        world.edit_gateway("g", |record| record.spec.as_mut().unwrap().nodes = nodes);
        world.settle()
    };
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    select(&mut world, "a");
    assert_eq!(world.node_of("n/p"), Some("a"));
    let plan = select(&mut world, "b");
    let nodes: Vec<&str> = plan.gateways["g"].status.nodes.keys().map(String::as_str).collect();
    assert_eq!((nodes, world.node_of("n/p")), (vec!["b"], Some("b")));
    let plan = select(&mut world, "nothing");
    assert!(plan.gateways["g"].status.nodes.is_empty());
    assert_eq!((world.eip_of("n/p"), world.node_of("n/p")), (None, None));
    select(&mut world, "b");
    assert_eq!((world.eip_of("n/p"), world.node_of("n/p")), (Some(eip("10.6.1.1")), Some("b")));
}

/// R00008 and X-P10: as many policies as addresses get one each, and who waits gets what becomes free.
#[test]
fn r00008_x_p10_policies_beyond_the_pool_wait_with_a_reason_and_get_what_becomes_free() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.20"]);
    for number in 0..25 {
        world.policy(&format!("n/p{number:02}"), "g", Unshared);
    }
    let plan = world.settle();
    let eips: BTreeSet<_> = plan.policies.values().filter_map(|policy| policy.status.eip).collect();
    assert_eq!((eips.len(), plan.gateways["g"].status.usage.v4_free), (20, 0));
    assert!(world.verdict_of("n/p24").starts_with("PoolExhausted"));
    let freed = world.eip_of("n/p03");
    world.remove(Event::Policy(key("n/p03"), None));
    world.settle();
    assert_eq!(world.eip_of("n/p20"), freed);
    for number in 0..25 {
        world.remove(Event::Policy(key(&format!("n/p{number:02}")), None));
    }
    assert_eq!(world.settle().gateways["g"].status.usage.v4_free, 20);
}

/// X-P9: nobody is ready yet.
#[test]
fn x_p9_a_policy_waits_for_a_node_with_a_reason_and_gets_its_eip_then() {
    let mut world = three_nodes();
    world.agent("a", false).agent("b", false);
    world.gateway("g", &["10.6.1.1-10.6.1.3"]).policy("n/p", "g", Unshared);
    world.settle();
    assert!(world.verdict_of("n/p").starts_with("NoReadyNode"));
    world.agent("b", true);
    world.settle();
    assert_eq!((world.eip_of("n/p"), world.node_of("n/p")), (Some(eip("10.6.1.1")), Some("b")));
}

#[test]
fn a_gateway_with_a_failed_node_says_which() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).edit_node("b", |node| node.ready = false);
    let plan = world.settle();
    let whole = plan.gateways["g"].status.whole.clone().unwrap();
    assert_eq!(
        whole.message,
        "1 of 2 gateway nodes are not Ready (b); the others carry the EIPs; see `kubectl get egresstunnel`"
    );
    world.edit_node("b", |node| node.ready = true);
    assert!(world.settle().gateways["g"].status.whole.clone().unwrap().ok);
}

#[test]
fn a_gateway_whose_eip_somebody_else_has_says_who_and_where() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Unshared);
    world.settle();
    let conflict = Conflict { address: "10.6.1.1".parse().unwrap(), mac: MacAddress([2, 0, 0, 0, 0, 9]) };
    let tell = |world: &mut World, conflicts: Vec<Conflict>| {
        let mut record = world.snapshot.tunnels["a"].clone();
        record.tunnel.conflicts = conflicts;
        world.snapshot.absorb(Event::Tunnel("a".to_owned(), Some(record)));
    };
    tell(&mut world, vec![conflict]);
    let whole = world.settle().gateways["g"].status.whole.clone().unwrap();
    assert_eq!(
        whole.message,
        "10.6.1.1 is in use by somebody else, at 02:00:00:00:00:09 on the link of node a; it is not used until that ends"
    );
    tell(&mut world, Vec::new());
    assert!(world.settle().gateways["g"].status.whole.clone().unwrap().ok);
}
