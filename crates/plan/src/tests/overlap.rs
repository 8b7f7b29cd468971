//! Policies that select the same pods.

use model::policy::EgressChoice::Default;

use super::tables::three_nodes;
use super::*;

fn edit(world: &mut World, name: &str, edit: impl FnOnce(&mut Policy)) {
    let mut record = world.snapshot.policies[&key(name)].clone();
    edit(record.spec.as_mut().unwrap());
    world.snapshot.absorb(Event::Policy(key(name), Some(record)));
}

fn selecting_app(world: &mut World, name: &str) {
    edit(world, name, |policy| {
        let namespaces = policy.pods.namespaces().clone();
        policy.pods = PodSelection::Labels(namespaces, LabelSelector::equal_to([("app", "x")]));
    });
}

fn overlap_of(world: &World, name: &str) -> String {
    let whole = world.snapshot.policies[&key(name)].status.whole.clone();
    whole.map(|verdict| verdict.message).unwrap_or_default()
}

fn world_of(names: &[&str]) -> World {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.9"]);
    for name in names {
        world.policy(name, "g", Default);
        selecting_app(&mut world, name);
    }
    world.pod("n", "one", "x", |_| {}).pod("n", "two", "x", |_| {}).pod("m", "three", "x", |_| {});
    world
}

/// X-P7: one total order, and each policy says who goes before it.
#[test]
fn x_p7_a_policy_says_how_many_of_its_pods_others_win_and_which() {
    let mut world = world_of(&["cluster", "n/younger", "n/youngest"]);
    let plan = world.settle();
    assert_eq!(
        overlap_of(&world, "cluster"),
        "2 of 3 pods leave by other policies, for the destinations that both select: n/younger wins 2, n/youngest wins \
         2; a lower spec.priority goes first"
    );
    assert!(overlap_of(&world, "n/youngest").starts_with("2 of 2 pods"));
    assert_eq!(overlap_of(&world, "n/younger"), "");
    let told: Vec<_> = plan.notices.iter().filter(|notice| notice.code == "OtherPoliciesWin").collect();
    assert_eq!(told.len(), 2);
    // Priority goes before everything else.
    edit(&mut world, "cluster", |policy| policy.priority = Some(7));
    world.settle();
    assert_eq!(overlap_of(&world, "cluster"), "nothing is missing");
    assert!(overlap_of(&world, "n/younger").contains("cluster wins 2"));
}

#[test]
fn policies_for_different_destinations_take_nothing_from_one_another() {
    let mut world = world_of(&["n/p", "n/q"]);
    edit(&mut world, "n/p", |policy| policy.destinations = ["192.0.2.0/24".parse().unwrap()].into());
    edit(&mut world, "n/q", |policy| policy.destinations = ["198.51.100.0/24".parse().unwrap()].into());
    world.settle();
    assert_eq!((overlap_of(&world, "n/p"), overlap_of(&world, "n/q")), (String::new(), String::new()));
    // The longer prefix goes before the older policy.
    edit(&mut world, "n/q", |policy| policy.destinations = ["192.0.2.7/32".parse().unwrap()].into());
    world.settle();
    assert!(overlap_of(&world, "n/p").contains("n/q wins 2"));
    assert_eq!(overlap_of(&world, "n/q"), "");
    // But not before a priority.
    edit(&mut world, "n/p", |policy| policy.priority = Some(1));
    world.settle();
    assert!(overlap_of(&world, "n/q").contains("n/p wins 2"));
}

/// X-P16: labels of a namespace decide for cluster policies.
#[test]
fn x_p16_a_namespaces_label_takes_its_pods_in_and_out() {
    let mut world = world_of(&["cluster"]);
    edit(&mut world, "cluster", |policy| {
        let namespaces = Namespaces::Matching(LabelSelector::equal_to([("team", "red")]));
        policy.pods = PodSelection::Labels(namespaces, LabelSelector::equal_to([("app", "x")]));
    });
    let mut seen = Vec::new();
    for labels in [BTreeMap::new(), BTreeMap::from([("team".to_owned(), "red".to_owned())]), BTreeMap::new()]
    {
        world.snapshot.absorb(Event::Namespace("m".to_owned(), Some(labels)));
        let plan = world.settle();
        seen.push(plan.slices.values().map(|slice| slice.endpoints.len()).sum::<usize>());
    }
    assert_eq!(seen, [0, 1, 0]);
}

/// X-P8: names that look alike when they are joined.
#[test]
fn x_p8_policies_whose_joined_names_are_equal_are_independent() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.9"]);
    for name in ["a-b/c", "a/b-c", "a-b-c"] {
        world.policy(name, "g", model::policy::EgressChoice::Unshared);
    }
    world.settle();
    let eips: BTreeSet<_> = ["a-b/c", "a/b-c", "a-b-c"].iter().map(|name| world.eip_of(name)).collect();
    assert_eq!(eips.len(), 3);
}
