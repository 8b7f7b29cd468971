//! Acceptance cases that a plan alone can show; each test's name begins with the case's ID.

use model::policy::EgressChoice::{Default, Exactly, Unshared};
use model::pool::Family;

use super::tables::three_nodes;
use super::*;
use crate::snapshot::SliceRecord;

fn usage(plan: &Plan, gateway: &str) -> (u128, u128, u128, u128) {
    let usage = plan.gateways[gateway].status.usage;
    (usage.v4_free, usage.v4_total, usage.v6_free, usage.v6_total)
}

#[test]
fn g_usage_counts_the_pools_of_a_gateway_without_nodes() {
    let mut world = World::dual_stack();
    world.node("a", false);
    world.gateway_of("g", &["10.6.1.21", "10.6.1.11-10.6.1.20"], &["fd00::1", "fd01::1-fd01::a"], |_| {});
    assert_eq!(usage(&world.settle(), "g"), (11, 11, 11, 11));
}

#[test]
fn g00006_g00007_g00008_g00018_pools_of_every_form_are_counted() {
    let mut world = three_nodes();
    let pools: [(&str, &[&str], u128); 5] = [
        ("one", &["10.6.1.55"], 1),
        ("range", &["10.6.2.1-10.6.2.10"], 10),
        ("cidr", &["10.6.3.0/24"], 254),
        ("small", &["10.6.4.8/31"], 2),
        ("none", &[], 0),
    ];
    for (name, pool, _) in pools {
        world.gateway(name, pool);
    }
    let plan = world.settle();
    for (name, _, count) in pools {
        assert_eq!(usage(&plan, name), (count, count, 0, 0), "{name}");
        let nodes: Vec<_> = plan.gateways[name].status.nodes.keys().collect();
        assert_eq!(nodes, ["a", "b"], "{name}");
        assert!(plan.gateways[name].reason.is_ok(), "{name}");
    }
}

#[test]
fn g00013_addresses_that_are_added_are_there_for_the_next_policy() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Unshared).policy("n/q", "g", Unshared);
    world.settle();
    assert!(world.verdict_of("n/q").starts_with("PoolExhausted"), "{}", world.verdict_of("n/q"));
    world.gateway("g", &["10.6.1.1", "10.6.1.9"]);
    let plan = world.settle();
    assert_eq!(usage(&plan, "g"), (0, 2, 0, 0));
    assert_eq!((world.eip_of("n/p"), world.eip_of("n/q")), (Some(eip("10.6.1.1")), Some(eip("10.6.1.9"))));
}

#[test]
fn p00022_an_address_of_the_pool_that_is_asked_for_is_given() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.9"]).policy("n/p", "g", Exactly(eip("10.6.1.7")));
    world.settle();
    assert_eq!(world.eip_of("n/p"), Some(eip("10.6.1.7")));
}

#[test]
fn g00012_addresses_that_are_added_to_a_pool_are_counted_and_no_eip_changes() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.2"]).policy("n/p", "g", Default);
    assert_eq!(usage(&world.settle(), "g"), (1, 2, 0, 0));
    world.gateway("g", &["10.6.1.1-10.6.1.2", "10.6.1.64/28"]);
    let plan = world.settle();
    assert_eq!(usage(&plan, "g"), (15, 16, 0, 0));
    assert_eq!((world.eip_of("n/p"), plan.notices), (Some(eip("10.6.1.1")), vec![]));
}

#[test]
fn x_g5_the_largest_pools_are_counted_and_used_without_being_enumerated() {
    let mut world = World::dual_stack();
    world.node("a", true).gateway("v4", &["10.0.0.0/8"]);
    world.gateway_of("v6", &[], &["fd00::/64"], |_| {});
    world.policy("n/p", "v4", Unshared).policy("n/q", "v6", Unshared);
    let plan = world.settle();
    assert_eq!(usage(&plan, "v4"), ((1 << 24) - 3, (1 << 24) - 2, 0, 0));
    assert_eq!(usage(&plan, "v6"), (0, 0, (1 << 64) - 1, 1 << 64));
    assert!(world.eip_of("n/p").is_some() && world.eip_of("n/q").is_some());
}

#[test]
fn x_g7_a_gateway_goes_with_its_only_policy_even_if_that_never_had_an_eip() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Exactly(eip("10.9.9.9")));
    world.edit_gateway("g", |record| record.deleting = true);
    assert!(world.settle().gateways["g"].keep);
    world.remove(Event::Policy(key("n/p"), None));
    assert!(!world.step().gateways["g"].keep);
}

#[test]
fn p00003_a_policy_without_a_gateway_takes_its_namespaces_before_the_clusters() {
    let mut world = three_nodes();
    world.gateway_of("cluster", &["10.6.1.1"], &[], |gateway| gateway.cluster_default = true);
    world.gateway("tenant", &["10.6.2.1"]);
    let label = BTreeMap::from([("spidernet.io/egressgateway-default".to_owned(), "tenant".to_owned())]);
    world.snapshot.absorb(Event::Namespace("labelled".to_owned(), Some(label)));
    world.policy("n/p", "", Default).policy("labelled/p", "", Default).policy("everywhere", "", Default);
    let plan = world.settle();
    let filled = |name: &str| plan.policies[&key(name)].fill_gateway.clone().unwrap_or_default();
    assert_eq!([filled("n/p"), filled("labelled/p"), filled("everywhere")], ["cluster", "tenant", "cluster"]);
    assert_eq!(world.eip_of("labelled/p"), Some(eip("10.6.2.1")));
}

#[test]
fn p00010_an_address_that_is_asked_for_goes_before_the_allocator() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.9"]).policy("n/p", "g", Exactly(eip("10.6.1.7")));
    world.settle();
    assert_eq!(world.eip_of("n/p"), Some(eip("10.6.1.7")));
}

#[test]
fn p_v6only_a_gateway_with_ipv6_alone_gives_the_address_that_is_asked_for() {
    let mut world = World::dual_stack();
    world.node("a", true).gateway_of("g", &[], &["fd09:6:100::10-fd09:6:100::20"], |_| {});
    world.policy("n/p", "g", Exactly(eip("fd09:6:100::20")));
    world.settle();
    assert_eq!(world.eip_of("n/p"), Some(eip("fd09:6:100::20")));
}

/// Acceptance: P00009
#[test]
fn r00008_as_many_policies_as_addresses_get_one_each_twice_over() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.50"]);
    for _ in 0..2 {
        for number in 0..70 {
            world.policy(&format!("n/p{number:02}"), "g", Unshared);
        }
        let plan = world.settle();
        let given: BTreeSet<EipPair> =
            plan.policies.values().filter_map(|policy| policy.status.eip).collect();
        let waiting = plan.policies.values().filter(|policy| policy.reason.code() == "PoolExhausted").count();
        assert_eq!((given.len(), waiting, usage(&plan, "g").0), (50, 20, 0));
        for number in 0..70 {
            world.remove(Event::Policy(key(&format!("n/p{number:02}")), None));
        }
        let plan = world.settle();
        assert_eq!(usage(&plan, "g").0, 50);
        assert!(plan.gateways["g"].status.eips().next().is_none());
    }
}

#[test]
fn x_p1_deleting_one_of_two_policies_leaves_the_other_its_eip() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default).policy("everywhere", "g", Default);
    let plan = world.settle();
    let listed = |plan: &Plan| {
        plan.gateways["g"].status.eips().map(|(_, _, policies)| policies.len()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&plan), [2]);
    world.remove(Event::Policy(key("n/p"), None));
    let plan = world.settle();
    assert_eq!((listed(&plan), world.eip_of("everywhere")), (vec![1], Some(eip("10.6.1.1"))));
}

#[test]
fn x_p15_the_eip_of_a_policy_that_went_while_nobody_looked_is_free() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Unshared);
    world.settle();
    // A controller that starts finds the gateway's status, but no policy.
    world.snapshot.policies.clear();
    assert_eq!(usage(&world.settle(), "g"), (1, 1, 0, 0));
}

#[test]
fn x_r7_the_eips_of_a_failed_node_spread_evenly() {
    let mut world = World::new();
    world.node("a", true).gateway("g", &["10.6.1.1-10.6.1.30"]);
    for number in 0..30 {
        world.policy(&format!("n/p{number:02}"), "g", Unshared);
    }
    world.settle();
    world.node("b", true).node("c", true);
    world.settle();
    world.edit_node("a", |node| node.ready = false);
    let plan = world.settle();
    let counts: Vec<usize> = plan.gateways["g"].status.nodes.values().map(|node| node.eips.len()).collect();
    assert_eq!(counts, [0, 15, 15]);
}

#[test]
fn x_r8_a_controller_that_dies_between_two_writes_leaves_nothing_that_is_not_mended() {
    for half in [true, false] {
        let mut world = three_nodes();
        world.gateway("g", &["10.6.1.1-10.6.1.9"]);
        for name in ["n/p", "n/q", "n/r"] {
            world.policy(name, "g", Unshared);
        }
        let whole = plan(&world.snapshot);
        let mut written = whole.clone();
        // Only the gateway's status, or only that of the policies, was written.
        if half {
            written.policies.clear();
        } else {
            written.gateways.clear();
        }
        apply(&mut world.snapshot, &written);
        let mended = world.settle();
        let eips = |plan: &Plan| -> BTreeMap<PolicyKey, Option<EipPair>> {
            plan.policies.iter().map(|(key, policy)| (key.clone(), policy.status.eip)).collect()
        };
        assert_eq!(eips(&mended), eips(&whole));
    }
}

#[test]
fn x_s1_slices_of_a_hundred_list_every_pod_once_whatever_comes_and_goes() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    let mut there: BTreeSet<usize> = BTreeSet::new();
    // A fixed walk through sizes, as a Deployment might be scaled.
    for (step, size) in
        [250, 3, 120, 99, 100, 101, 0, 250, 200, 201, 199, 50, 300, 1, 250].into_iter().enumerate()
    {
        for number in 0..300 {
            // Another part of the pods each time.
            let wanted = (number + 37 * step) % 300 < size;
            let name = format!("pod-{number:03}");
            if wanted && there.insert(number) {
                world.pod("n", &name, "p", |pod| {
                    let address = format!("10.244.{}.{}", number / 200, 1 + number % 200);
                    pod.addresses = BTreeSet::from([address.parse().unwrap()]);
                });
            } else if !wanted && there.remove(&number) {
                world.remove(Event::Pod(PodKey { namespace: "n".to_owned(), name }, None));
            }
        }
        let plan = world.settle();
        let lists: Vec<&SliceRecord> = plan.slices.values().collect();
        assert!(lists.iter().all(|slice| (1..=100).contains(&slice.endpoints.len())));
        let listed: Vec<&PodKey> =
            lists.iter().flat_map(|slice| &slice.endpoints).map(|endpoint| &endpoint.pod).collect();
        let distinct: BTreeSet<&PodKey> = listed.iter().copied().collect();
        assert_eq!((listed.len(), distinct.len()), (size, size), "step {step}");
    }
}

#[test]
fn x_s2_a_pod_that_moves_is_changed_in_its_place() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default).pod("n", "one", "p", |_| {});
    let before = world.settle().slices;
    let pod = PodKey { namespace: "n".to_owned(), name: "one".to_owned() };
    let mut moved = world.snapshot.pods[&pod].clone();
    (moved.node, moved.addresses) = ("b".to_owned(), BTreeSet::from(["10.244.9.9".parse().unwrap()]));
    world.snapshot.absorb(Event::Pod(pod, Some(moved)));
    let after = world.settle().slices;
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let endpoint = &after.values().next().unwrap().endpoints[0];
    assert_eq!((endpoint.node.as_str(), endpoint.addresses.len()), ("b", 1));
}

#[test]
fn x_t1_values_of_a_node_that_is_gone_serve_another_once() {
    let mut world = three_nodes();
    let before = world.settle().tunnels["b"].clone();
    world.remove(Event::Node("b".to_owned(), None));
    assert!(!world.settle().tunnels.contains_key("b"));
    world.node("d", false).node("e", false);
    let plan = world.settle();
    assert_eq!((plan.tunnels["d"].ipv4, plan.tunnels["d"].mark), (before.ipv4, before.mark));
    assert_ne!(plan.tunnels["e"].ipv4, before.ipv4);
    assert_ne!(plan.tunnels["d"].mac, before.mac);
}

#[test]
fn x_t3_a_restart_with_two_hundred_tunnels_changes_none() {
    let mut world = World::new();
    for number in (0..200).rev() {
        world.node(&format!("node-{number:03}"), false);
        if number % 7 == 0 {
            world.settle();
        }
    }
    let before = world.settle().tunnels;
    // A new process knows only what is written.
    let mut fresh = World::new();
    for (name, node) in &world.snapshot.nodes {
        fresh.snapshot.absorb(Event::Node(name.clone(), Some(node.clone())));
    }
    for (name, tunnel) in &world.snapshot.tunnels {
        fresh.snapshot.absorb(Event::Tunnel(name.clone(), Some(tunnel.clone())));
    }
    assert_eq!(fresh.settle().tunnels, before);
}

#[test]
fn x_t5_a_node_that_is_back_is_ready_and_gets_nothing_back() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    world.edit_node("a", |node| node.ready = false);
    let plan = world.settle();
    assert_eq!(plan.tunnels["a"].phase.to_string(), "NodeNotReady");
    assert_eq!(world.node_of("n/p"), Some("b"));
    world.edit_node("a", |node| node.ready = true);
    let plan = world.settle();
    assert_eq!((plan.tunnels["a"].phase.to_string().as_str(), world.node_of("n/p")), ("Ready", Some("b")));
}

#[test]
fn x_t4_the_eips_of_a_node_whose_agent_fell_silent_move_and_do_not_move_back() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    assert_eq!(world.node_of("n/p"), Some("a"));
    let beat = |world: &mut World, now_s: i64, nodes: &[&str]| {
        world.snapshot.absorb(Event::Now(now_s));
        for node in nodes {
            world.snapshot.absorb(Event::Heartbeat((*node).to_owned(), Some(now_s.to_string())));
        }
        world.settle()
    };
    for now_s in [100, 105, 110] {
        beat(&mut world, now_s, &["a", "b", "c"]);
    }
    for now_s in [115, 120, 124] {
        assert_eq!(beat(&mut world, now_s, &["b", "c"]).tunnels["a"].phase.to_string(), "Ready");
    }
    world.snapshot.absorb(Event::Now(125));
    let plan = crate::plan(&world.snapshot);
    let told = plan.notices.iter().find(|notice| notice.code == "StatusChanged").expect("an event");
    assert_eq!(
        told.message,
        "phase changed from Ready to HeartbeatTimeout: its agent no longer renews its Lease; look at the agent's pod on \
         this node"
    );
    let plan = beat(&mut world, 125, &["b", "c"]);
    assert_eq!(plan.tunnels["a"].phase.to_string(), "HeartbeatTimeout");
    assert_eq!(plan.gateways["g"].status.nodes["a"].phase.to_string(), "HeartbeatTimeout");
    assert_eq!(world.node_of("n/p"), Some("b"));
    let plan = beat(&mut world, 130, &["a", "b", "c"]);
    assert_eq!((plan.tunnels["a"].phase.to_string().as_str(), world.node_of("n/p")), ("Ready", Some("b")));
}

/// D61: two gateways with one address were let in at the same moment.
#[test]
fn x_g2_the_later_of_two_overlapping_gateways_says_so_and_gives_nothing_from_the_overlap() {
    let mut world = three_nodes();
    world.gateway("first", &["10.6.1.1-10.6.1.4"]).gateway("second", &["10.6.1.4-10.6.1.5"]);
    world.policy("n/p", "second", Exactly(eip("10.6.1.4"))).policy("n/q", "second", Unshared);
    let plan = world.settle();
    assert_eq!(plan.gateways["first"].reason.code(), "Ready");
    assert_eq!(
        plan.gateways["second"].reason.to_string(),
        "spec.ippools: 10.6.1.4 is also in the pool of EgressGateway `first`; take it out of one of them"
    );
    assert!(world.verdict_of("n/p").starts_with("PoolsOverlap"), "{}", world.verdict_of("n/p"));
    assert_eq!(world.eip_of("n/q"), Some(eip("10.6.1.5")));
}

/// Every broken set-up of a new user has a reason of its own, on the object that they look at.
#[test]
fn each_broken_set_up_can_be_told_from_the_others() {
    let mut world = World::new();
    world.node("plain", false);
    world.gateway("no-node", &["10.6.1.1"]).policy("n/no-node", "no-node", Default);
    world.policy("n/no-gateway", "", Default).policy("n/wrong-name", "defalt", Default);
    world.gateway_of("other", &["10.6.2.1"], &[], |gateway| {
        gateway.nodes = LabelSelector::equal_to([("kubernetes.io/hostname", "down")]);
    });
    world.node("down", false).edit_node("down", |node| node.ready = false).policy("n/down", "other", Default);
    let plan = world.settle();
    let codes: BTreeMap<String, &str> =
        plan.policies.iter().map(|(key, policy)| (key.name.clone(), policy.reason.code())).collect();
    let expected = [
        ("down", "NoReadyNode"),
        ("no-gateway", "NoDefaultGateway"),
        ("no-node", "NoGatewayNode"),
        ("wrong-name", "UnknownGateway"),
    ];
    assert_eq!(codes, expected.map(|(name, code)| (name.to_owned(), code)).into());
    // All of them say what to do, and so do the gateways.
    for name in ["no-node", "other"] {
        assert!(!plan.gateways[name].reason.is_ok());
    }
    assert!(IpPool::parse(Family::V4, &["10.6.1.9-10.6.1.1"]).is_err());
}
