//! Port blocks, from their first lease to their next holder.

use model::Reason;
use model::policy::EgressChoice::Default;
use model::port_lease::{BlockRole, BlockState, LeasedBlock};

use super::tables::three_nodes;
use super::*;
use crate::leases::first_block_log2;

#[test]
fn blocks_are_the_largest_of_which_every_node_gets_one_out_of_half() {
    for (nodes, size) in [(1, 16384), (2, 8192), (3, 4096), (100, 128), (376, 64), (5000, 64)] {
        assert_eq!(1 << first_block_log2(nodes), size, "{nodes} nodes");
    }
}

/// Nodes of which there is a lease.
fn holders(plan: &Plan) -> Vec<&str> {
    plan.leases.keys().map(|name| name.node.as_str()).collect()
}

#[test]
fn blocks_stay_as_they_are_when_nodes_come() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    let before = world.settle().leases;
    for name in ["d", "e", "f", "g", "h"] {
        world.node(name, false);
    }
    let after = world.settle().leases;
    for node in ["a", "b", "c"] {
        assert_eq!(before[&whole(node)], after[&whole(node)]);
    }
    assert_eq!(after[&whole("h")].as_ref().unwrap().leases[0].blocks[0].block.size(), 2048);
}

#[test]
fn the_block_of_a_node_that_is_gone_rests_before_it_is_free() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    let block = world.snapshot.leases[&whole("c")].lease.leases[0].blocks[0].block;
    world.remove(Event::Node("c".to_owned(), None));
    let plan = world.settle();
    assert_eq!(plan.wake_at_s, Some(world.snapshot.settings.rest_s));
    assert_eq!(plan.leases[&whole("c")].as_ref().unwrap().leases[0].blocks[0].state, BlockState::Draining);
    world.node("d", false);
    let plan = world.settle();
    assert!(!plan.leases[&whole("d")].as_ref().unwrap().leases[0].blocks[0].block.overlaps(&block));
    world.pass_s(119);
    assert!(world.settle().leases[&whole("c")].is_some());
    world.pass_s(1);
    let plan = world.step();
    assert_eq!((plan.leases[&whole("c")].clone(), plan.wake_at_s), (None, None));
}

#[test]
fn a_node_that_returns_in_time_has_its_block_again() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    let before = world.snapshot.leases[&whole("c")].lease.leases.clone();
    world.remove(Event::Node("c".to_owned(), None));
    world.settle();
    world.pass_s(60).node("c", false);
    world.settle();
    assert_eq!(world.snapshot.leases[&whole("c")].lease.leases, before);
    assert_eq!(world.snapshot.leases[&whole("c")].lease.generation, 3);
}

#[test]
fn blocks_of_an_eip_that_nobody_uses_drain_until_they_are_idle() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    world.remove(Event::Policy(key("n/p"), None));
    let plan = world.settle();
    assert_eq!(plan.leases[&whole("a")].as_ref().unwrap().leases[0].blocks[0].state, BlockState::Draining);
    // In use again: the same block serves again.
    world.policy("n/q", "g", Default);
    assert_eq!(
        world.settle().leases[&whole("a")].as_ref().unwrap().leases[0].blocks[0].state,
        BlockState::Active
    );
    world.remove(Event::Policy(key("n/q"), None));
    world.settle();
    // One node says that there are no connections any more, the others say nothing.
    let mut record = world.snapshot.leases[&whole("a")].clone();
    record.observed_generation = record.lease.generation;
    record.ports_in_use.insert(eip("10.6.1.1"), 0);
    world.snapshot.absorb(Event::Lease(whole("a"), Some(record)));
    world.pass_s(world.snapshot.settings.rest_s);
    world.step();
    assert_eq!(world.snapshot.leases[&whole("a")].lease.block_count(), 0);
    assert_eq!(world.snapshot.leases[&whole("b")].lease.block_count(), 2);
    world.pass_s(world.snapshot.settings.drain_s);
    world.step();
    assert_eq!(world.snapshot.leases[&whole("b")].lease.block_count(), 0);
}

#[test]
fn a_cluster_that_grows_splits_large_blocks_before_ports_run_out() {
    let mut world = World::new();
    world.node("node-000", true).gateway("g", &["10.6.168.1"]).policy("n/p", "g", Default);
    world.settle();
    for number in 1..40 {
        world.node(&format!("node-{number:03}"), false);
        let plan = world.settle();
        assert!(plan.unleased.is_empty(), "node {number} got nothing");
        // Nobody has any connection, and all say so.
        for (node, record) in world.snapshot.leases.clone() {
            let mut record = record;
            record.observed_generation = record.lease.generation;
            record.ports_in_use.insert(eip("10.6.168.1"), 0);
            world.snapshot.absorb(Event::Lease(node, Some(record)));
        }
        world.pass_s(world.snapshot.settings.rest_s);
    }
    let plan = world.settle();
    let sizes = plan
        .leases
        .values()
        .flatten()
        .flat_map(|lease| &lease.leases[0].blocks)
        .map(|leased| leased.block.size());
    assert!(sizes.clone().max() < Some(16384), "{:?}", sizes.collect::<Vec<_>>());
}

#[test]
fn what_is_split_off_drains_and_stays_with_its_holder() {
    let mut world = World::new();
    world.node("a", true).gateway("g", &["10.6.168.1"]).policy("n/p", "g", Default);
    let before = world.settle().leases[&whole("a")].clone().unwrap().leases[0].blocks[0].block;
    for number in 0..12 {
        world.node(&format!("later-{number:02}"), false);
        world.settle();
    }
    let blocks = source_blocks(&world, "a");
    assert!(blocks.len() > 1);
    assert_eq!((blocks[0].block.first(), blocks[0].state), (before.first(), BlockState::Active));
    assert!(blocks[1..].iter().all(|leased| leased.state == BlockState::Draining));
    assert_eq!(blocks.iter().map(|leased| leased.block.size()).sum::<u32>(), before.size());
}

#[test]
fn in_a_large_cluster_only_nodes_that_run_selected_pods_hold_blocks() {
    let mut world = World::new();
    for number in 0..800 {
        world.node(&format!("node-{number:03}"), number == 0);
    }
    world.gateway("g", &["10.6.168.1"]).policy("n/p", "g", Default);
    // A pod of the host's network needs none.
    world.pod("n", "host", "p", |pod| (pod.node, pod.host_network) = ("node-003".to_owned(), true));
    assert_eq!(holders(&world.settle()), ["node-000"], "the gateway's, for overflow");
    // Bound, and without an address yet: the block is there before the pod's first packet.
    world.pod("n", "first", "p", |pod| {
        pod.node = "node-007".to_owned();
        pod.addresses.clear();
    });
    let plan = world.settle();
    assert_eq!(holders(&plan), ["node-000", "node-007"]);
    let key = PodKey { namespace: "n".to_owned(), name: "first".to_owned() };
    world.remove(Event::Pod(key, None));
    let plan = world.settle();
    assert_eq!(
        plan.leases[&whole("node-007")].as_ref().unwrap().leases[0].blocks[0].state,
        BlockState::Draining
    );
}

#[test]
fn more_nodes_than_blocks_leave_some_without() {
    let mut world = World::new();
    for number in 0..800 {
        world.node(&format!("node-{number:03}"), number == 0);
        world.pod("n", &format!("pod-{number}"), "p", |pod| pod.node = format!("node-{number:03}"));
    }
    world.gateway("g", &["10.6.168.1"]).policy("n/p", "g", Default);
    let plan = world.settle();
    assert_eq!(plan.unleased.len(), 800 - 752);
    assert_eq!(plan.gateways["g"].ports, Some(Reason::PortsShort { nodes: 48, crowded: 0, eips: 1 }));
    for number in 700..800 {
        let key = PodKey { namespace: "n".to_owned(), name: format!("pod-{number}") };
        world.remove(Event::Pod(key, None));
    }
    assert_eq!(world.settle().gateways["g"].ports, Some(Reason::PortsAvailable));
}

#[test]
fn an_eip_has_as_many_of_the_smallest_blocks_as_we_say() {
    let mut space = model::PortSpace::source();
    assert_eq!(std::iter::from_fn(|| space.take(model::PortBlock::MIN_LOG2)).count(), 752);
}

fn source_blocks(world: &World, node: &str) -> Vec<LeasedBlock> {
    let leases = &world.snapshot.leases[&whole(node)].lease.leases;
    let blocks = leases.iter().flat_map(|lease| &lease.blocks);
    blocks.filter(|leased| leased.role == BlockRole::Source).copied().collect()
}

/// The node's agent says that it has loaded its lease, and how many ports it uses.
fn report(world: &mut World, node: &str, used: i64) {
    let mut record = world.snapshot.leases[&whole(node)].clone();
    record.observed_generation = record.lease.generation;
    record.ports_in_use.insert(eip("10.6.1.1"), used);
    world.snapshot.absorb(Event::Lease(whole(node), Some(record)));
}

#[test]
fn a_node_that_uses_most_of_its_block_gets_one_of_twice_the_size_and_the_old_one_drains() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    let first = source_blocks(&world, "c")[0].block;
    report(&mut world, "c", i64::from(first.size()) * 70 / 100);
    world.settle();
    assert_eq!(source_blocks(&world, "c").len(), 1, "70 % is not more than 70 %");
    report(&mut world, "c", i64::from(first.size()) * 71 / 100);
    world.settle();
    let blocks = source_blocks(&world, "c");
    let sizes: Vec<_> = blocks.iter().map(|leased| (leased.block.size(), leased.state)).collect();
    assert_eq!(sizes, [(4096, BlockState::Draining), (8192, BlockState::Active)]);
    // The old one is given back once it has drained.
    world.pass_s(world.snapshot.settings.drain_s);
    world.settle();
    assert_eq!(source_blocks(&world, "c").len(), 1);
    // There is a limit, and it can be set.
    world.snapshot.settings.max_ports_per_node = 8192;
    report(&mut world, "c", 8192);
    world.settle();
    assert_eq!(source_blocks(&world, "c").len(), 1);
}

#[test]
fn gateways_hold_blocks_of_the_upper_quarter_for_nodes_without() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    let overflow = |world: &World, node: &str| -> Vec<(String, BlockState)> {
        let leases = &world.snapshot.leases[&whole(node)].lease.leases;
        let blocks = leases.iter().flat_map(|lease| &lease.blocks);
        let blocks = blocks.filter(|leased| leased.role == BlockRole::Overflow);
        blocks.map(|leased| (leased.block.to_string(), leased.state)).collect()
    };
    assert_eq!(overflow(&world, "a"), [("49152-53247".to_owned(), BlockState::Active)]);
    assert_eq!(overflow(&world, "b"), [("53248-57343".to_owned(), BlockState::Active)]);
    assert_eq!(overflow(&world, "c"), []);
    // A node that is no gateway any more lets its connections end, one that becomes one gets a block of its own.
    world.edit_node("a", |node| drop(node.labels.remove("egress")));
    world.edit_node("c", |node| drop(node.labels.insert("egress".to_owned(), "true".to_owned())));
    world.settle();
    assert_eq!(overflow(&world, "a")[0].1, BlockState::Draining);
    assert_eq!(overflow(&world, "c").len(), 1);
    world.pass_s(world.snapshot.settings.drain_s);
    world.settle();
    assert_eq!(overflow(&world, "a"), []);
}

#[test]
fn blocks_of_idle_nodes_shrink_as_an_eip_fills_and_those_of_busy_ones_stay() {
    let mut world = World::new();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    for node in ["busy", "idle"] {
        world.node(node, false);
    }
    world.settle();
    report(&mut world, "busy", 5000);
    report(&mut world, "idle", 0);
    let before = source_blocks(&world, "busy");
    assert_eq!(before[0].block.size(), 8192);
    for number in 0..12 {
        world.node(&format!("late-{number:02}"), false);
        world.settle();
        report(&mut world, "busy", 5000);
        report(&mut world, "idle", 0);
    }
    let active = |node: &str| {
        let blocks = source_blocks(&world, node);
        blocks.iter().find(|leased| leased.state == BlockState::Active).map(|leased| leased.block.size())
    };
    assert_eq!((active("busy"), active("idle")), (Some(8192), Some(64)));
}

#[test]
fn a_gateway_alone_holds_no_more_for_overflow_than_others_find_as_well() {
    let mut world = World::new();
    world.node("a", true).gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    let blocks = &world.snapshot.leases[&whole("a")].lease.leases[0].blocks;
    let overflow: Vec<u32> = blocks
        .iter()
        .filter(|leased| leased.role == BlockRole::Overflow)
        .map(|leased| leased.block.size())
        .collect();
    assert_eq!(overflow, [4096]);
}

#[test]
fn a_draining_block_that_nothing_uses_is_free_after_the_rest_while_the_node_goes_on() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    let first = source_blocks(&world, "c")[0].block;
    report(&mut world, "c", 4000);
    world.settle();
    let mut record = world.snapshot.leases[&whole("c")].clone();
    record.observed_generation = record.lease.generation;
    record.idle.insert((eip("10.6.1.1"), first.first()));
    world.snapshot.absorb(Event::Lease(whole("c"), Some(record)));
    world.pass_s(world.snapshot.settings.rest_s - 1);
    world.settle();
    assert_eq!(source_blocks(&world, "c").len(), 2);
    world.pass_s(1);
    world.settle();
    assert_eq!(source_blocks(&world, "c").len(), 1);
    assert_ne!(source_blocks(&world, "c")[0].block, first);
}

#[test]
fn busy_nodes_without_a_larger_block_are_told_with_the_number_of_eips_that_would_help() {
    let mut world = World::new();
    for number in 0..40 {
        world.node(&format!("node-{number:02}"), number == 0);
    }
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    // All are busy, again and again, until nothing is left.
    for _ in 0..6 {
        for number in 0..40 {
            let node = format!("node-{number:02}");
            let active =
                source_blocks(&world, &node).into_iter().find(|leased| leased.state == BlockState::Active);
            report(&mut world, &node, active.map_or(0, |leased| leased.block.size().into()));
        }
        // What one plan frees the next one gives.
        world.step();
        world.settle();
        world.pass_s(world.snapshot.settings.drain_s);
    }
    world.step();
    let plan = world.step();
    let Some(Reason::PortsShort { nodes: 0, crowded, eips }) = plan.gateways["g"].ports else {
        panic!("{:?}", plan.gateways["g"].ports);
    };
    assert!(crowded > 0 && eips > 0, "{crowded} nodes, {eips} EIPs");
    for number in 0..40 {
        report(&mut world, &format!("node-{number:02}"), 1);
    }
    assert_eq!(world.settle().gateways["g"].ports, Some(Reason::PortsAvailable));
}

#[test]
fn a_busy_node_keeps_its_ports_while_it_has_not_loaded_its_latest_lease() {
    let mut world = World::new();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.node("busy", false).node("other", false);
    world.settle();
    report(&mut world, "busy", 5000);
    let mut record = world.snapshot.leases[&whole("busy")].clone();
    record.observed_generation -= 1;
    world.snapshot.absorb(Event::Lease(whole("busy"), Some(record)));
    for number in 0..12 {
        world.node(&format!("late-{number:02}"), false);
        world.settle();
    }
    assert_eq!(source_blocks(&world, "busy")[0].block.size(), 8192);
}

/// The EIPs that each part of a node's lease has.
fn parts(world: &World, node: &str) -> Vec<Vec<EipPair>> {
    let parts = model::port_lease::parts_of(&world.snapshot.leases, node);
    parts.map(|(_, record)| record.lease.leases.iter().map(|lease| lease.eip).collect()).collect()
}

#[test]
fn an_eip_stays_in_its_part_and_a_new_one_fills_the_first_gap() {
    let mut world = three_nodes();
    world.snapshot.settings.eips_per_lease = 2;
    world.gateway("g", &["10.6.1.1-10.6.1.9"]);
    for policy in ["n/p1", "n/p2", "n/p3", "n/p4", "n/p5"] {
        world.policy(policy, "g", EgressChoice::Unshared);
    }
    world.settle();
    let eips = |last: &[u8]| last.iter().map(|last| eip(&format!("10.6.1.{last}"))).collect::<Vec<_>>();
    assert_eq!(parts(&world, "b"), [eips(&[1, 2]), eips(&[3, 4]), eips(&[5])]);
    let generations = |world: &World| {
        let parts = model::port_lease::parts_of(&world.snapshot.leases, "b");
        parts.map(|(_, record)| record.lease.generation).collect::<Vec<_>>()
    };
    let before = generations(&world);
    // Of one policy less, and one more with another address, the part that had the EIP is all that changes.
    world.remove(Event::Policy(key("n/p3"), None));
    world.settle();
    world.pass_s(world.snapshot.settings.drain_s);
    world.settle();
    assert_eq!(parts(&world, "b"), [eips(&[1, 2]), eips(&[4]), eips(&[5])]);
    world.policy("n/p6", "g", EgressChoice::Exactly(eip("10.6.1.9")));
    world.settle();
    assert_eq!(parts(&world, "b"), [eips(&[1, 2]), eips(&[4, 9]), eips(&[5])]);
    let after = generations(&world);
    assert_eq!((before[0], before[2]), (after[0], after[2]));
    assert!(after[1] > before[1]);
}
