//! What holds in every cluster, however it came about.

use model::policy::EgressChoice;
use proptest::prelude::*;

use super::*;

/// Something that happens to a cluster.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Node(u8, bool),
    NodeGone(u8),
    NodeReady(u8, bool),
    Agent(u8, bool),
    Gateway(u8, u8, u8),
    GatewayDeleted(u8),
    Policy(u8, u8, u8),
    PolicyGone(u8),
    Pod(u8, u8),
    PodGone(u8),
    Claim(u8, u8, i64),
    Pass(i64),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..5, any::<bool>()).prop_map(|(node, gateway)| Step::Node(node, gateway)),
        1 => (0u8..5).prop_map(Step::NodeGone),
        2 => (0u8..5, any::<bool>()).prop_map(|(node, ready)| Step::NodeReady(node, ready)),
        1 => (0u8..5, any::<bool>()).prop_map(|(node, programmed)| Step::Agent(node, programmed)),
        2 => (0u8..3, 0u8..12, 0u8..6).prop_map(|(gateway, first, size)| Step::Gateway(gateway, first, size)),
        1 => (0u8..3).prop_map(Step::GatewayDeleted),
        4 => (0u8..6, 0u8..3, 0u8..20).prop_map(|(policy, gateway, choice)| Step::Policy(policy, gateway, choice)),
        1 => (0u8..6).prop_map(Step::PolicyGone),
        2 => (0u8..8, 0u8..6).prop_map(|(pod, app)| Step::Pod(pod, app)),
        1 => (0u8..8).prop_map(Step::PodGone),
        2 => (0u8..5, 0u8..16, 0i64..4).prop_map(|(node, eip, epoch)| Step::Claim(node, eip, epoch)),
        1 => (0i64..5000).prop_map(Step::Pass),
    ]
}

fn policy_name(number: u8) -> String {
    // Every third one is a cluster policy.
    if number.is_multiple_of(3) { format!("p{number}") } else { format!("n/p{number}") }
}

pub(super) fn take(world: &mut World, step: &Step) {
    match step.clone() {
        Step::Node(node, gateway) => {
            world.node(&format!("node-{node}"), gateway);
        }
        Step::NodeGone(node) => {
            world.remove(Event::Node(format!("node-{node}"), None));
        }
        Step::NodeReady(node, ready) => {
            if world.snapshot.nodes.contains_key(&format!("node-{node}")) {
                world.edit_node(&format!("node-{node}"), |node| node.ready = ready);
            }
        }
        Step::Agent(node, programmed) => {
            if world.snapshot.nodes.contains_key(&format!("node-{node}")) {
                world.agent(&format!("node-{node}"), programmed);
            }
        }
        Step::Gateway(gateway, first, size) => {
            let pool = format!("10.6.0.{first}-10.6.0.{}", first + size);
            world.gateway(&format!("g{gateway}"), &[&pool]);
        }
        Step::GatewayDeleted(gateway) => {
            let name = format!("g{gateway}");
            if world.snapshot.gateways.contains_key(&name) {
                world.edit_gateway(&name, |record| record.deleting = true);
            }
        }
        Step::Policy(policy, gateway, choice) => {
            let egress = match choice {
                0..8 => EgressChoice::Default,
                8..12 => EgressChoice::Unshared,
                12..14 => EgressChoice::NodeAddress,
                other => EgressChoice::Exactly(eip(&format!("10.6.0.{other}"))),
            };
            let status =
                world.snapshot.policies.get(&key(&policy_name(policy))).map(|record| record.status.clone());
            world.policy(&policy_name(policy), &format!("g{gateway}"), egress);
            // An edited policy keeps its status.
            let record = world.snapshot.policies.get_mut(&key(&policy_name(policy))).unwrap();
            record.status = status.unwrap_or_default();
        }
        Step::PolicyGone(policy) => {
            world.remove(Event::Policy(key(&policy_name(policy)), None));
        }
        Step::Pod(pod, app) => {
            world.pod("n", &format!("pod-{pod}"), &format!("p{app}"), |_| {});
        }
        Step::PodGone(pod) => {
            let key = PodKey { namespace: "n".to_owned(), name: format!("pod-{pod}") };
            world.remove(Event::Pod(key, None));
        }
        Step::Claim(node, number, epoch) => {
            if world.snapshot.nodes.contains_key(&format!("node-{node}")) {
                world.claim(&format!("node-{node}"), eip(&format!("10.6.0.{number}")), epoch);
            }
        }
        Step::Pass(seconds) => {
            world.pass_s(seconds);
        }
    }
}

/// Everything that a snapshot holds, as events.
pub(super) fn events(snapshot: &ClusterSnapshot) -> Vec<Event> {
    let mut events = Vec::new();
    let s = snapshot.clone();
    events.extend(s.nodes.into_iter().map(|(name, node)| Event::Node(name, Some(node))));
    events.extend(s.namespaces.into_iter().map(|(name, labels)| Event::Namespace(name, Some(labels))));
    events.extend(s.pods.into_iter().map(|(key, pod)| Event::Pod(key, Some(pod))));
    events.extend(s.gateways.into_iter().map(|(name, record)| Event::Gateway(name, Some(record))));
    events.extend(s.policies.into_iter().map(|(key, record)| Event::Policy(key, Some(record))));
    events.extend(s.tunnels.into_iter().map(|(name, record)| Event::Tunnel(name, Some(record))));
    events.extend(s.leases.into_iter().map(|(name, record)| Event::Lease(name, Some(record))));
    events.extend(s.slices.into_iter().map(|(key, record)| Event::Slice(key, Some(record))));
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_is_lawful_and_leaves_nothing_to_do(steps in proptest::collection::vec(step(), 1..30)) {
        let mut world = World::new();
        for (at, step) in steps.iter().enumerate() {
            take(&mut world, step);
            // Some changes come alone, others together.
            if at % 3 != 0 {
                world.settle();
            }
        }
        world.settle();
    }

    #[test]
    fn the_order_in_which_objects_are_seen_does_not_matter(
        steps in proptest::collection::vec(step(), 1..30),
        keys in proptest::collection::vec(any::<u32>(), 64),
    ) {
        let mut world = World::new();
        for step in &steps {
            take(&mut world, step);
        }
        world.step();
        let snapshot_of = |events: Vec<Event>| {
            let mut snapshot = ClusterSnapshot::new(Settings::default());
            snapshot.absorb(Event::Now(1000));
            for event in events {
                snapshot.absorb(event);
            }
            snapshot
        };
        let sorted = events(&world.snapshot);
        let mut shuffled: Vec<(u32, Event)> = keys.iter().copied().cycle().zip(sorted.clone()).collect();
        shuffled.sort_by_key(|(key, _)| *key);
        let shuffled: Vec<Event> = shuffled.into_iter().map(|(_, event)| event).collect();
        prop_assert_eq!(plan(&snapshot_of(sorted)), plan(&snapshot_of(shuffled)));
    }
}
