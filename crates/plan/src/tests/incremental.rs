//! A plan that is kept up to date is the plan.

use model::policy::EgressChoice;
use proptest::prelude::*;

use super::properties::{events, step, take};
use super::*;
use crate::{Changed, Parts, Planner};

/// The plan without what tells changes.
fn told(plan: &Plan) -> Plan {
    Plan { notices: Vec::new(), ..plan.clone() }
}

/// The events that lead from one snapshot to another.
fn difference(from: &ClusterSnapshot, to: &ClusterSnapshot) -> Vec<Event> {
    let (before, after) = (events(from), events(to));
    let gone = before.iter().filter_map(|event| match event {
        Event::Node(name, _) if !to.nodes.contains_key(name) => Some(Event::Node(name.clone(), None)),
        Event::Pod(key, _) if !to.pods.contains_key(key) => Some(Event::Pod(key.clone(), None)),
        Event::Gateway(name, _) if !to.gateways.contains_key(name) => {
            Some(Event::Gateway(name.clone(), None))
        }
        Event::Policy(key, _) if !to.policies.contains_key(key) => Some(Event::Policy(key.clone(), None)),
        Event::Tunnel(name, _) if !to.tunnels.contains_key(name) => Some(Event::Tunnel(name.clone(), None)),
        Event::Lease(name, _) if !to.leases.contains_key(name) => Some(Event::Lease(name.clone(), None)),
        Event::Slice(key, _) if !to.slices.contains_key(key) => Some(Event::Slice(key.clone(), None)),
        _ => None,
    });
    let mut difference = vec![Event::Now(to.now_s)];
    difference.extend(gone);
    difference.extend(after.into_iter().filter(|event| !before.contains(event)));
    difference
}

/// A cluster so large, or so it says, that nodes get ports only when they need them.
fn large() -> World {
    let mut world = World::new();
    for number in 0..400 {
        let name = format!("other-{number:03}");
        // Its address is in no pool here.
        let address = format!("10.9.{}.{}", number / 250, number % 250).parse().unwrap();
        world.node(&name, false).edit_node(&name, |node| node.addresses = BTreeSet::from([address]));
    }
    world
}

fn keeps_up(mut world: World, steps: &[super::properties::Step]) -> Result<(), TestCaseError> {
    let mut planner = Planner::new(Settings::default());
    let mut seen = ClusterSnapshot::new(Settings::default());
    let mut catch_up = |world: &World, planner: &mut Planner| {
        for event in difference(&seen, &world.snapshot) {
            planner.absorb(event);
        }
        seen = world.snapshot.clone();
    };
    for (at, step) in steps.iter().enumerate() {
        take(&mut world, step);
        catch_up(&world, &mut planner);
        if at % 3 == 1 {
            continue;
        }
        let whole = plan(planner.snapshot());
        let (planned, changed) = planner.plan();
        prop_assert_eq!(told(planned), told(&whole));
        prop_assert_eq!(planner.violations(&changed), vec![]);
        // What is written comes back by the watch.
        apply(&mut world.snapshot, &whole);
        catch_up(&world, &mut planner);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_that_is_kept_up_to_date_is_the_plan(steps in proptest::collection::vec(step(), 1..30)) {
        keeps_up(World::new(), &steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn and_so_it_is_where_nodes_get_ports_when_they_need_them(
        steps in proptest::collection::vec(step(), 1..20),
    ) {
        keeps_up(large(), &steps)?;
    }
}

#[test]
fn a_pod_concerns_its_own_policies_and_nothing_else() {
    let mut world = large();
    world.node("a", true).gateway("g", &["10.7.1.1-10.7.1.9"]);
    for name in ["n/p", "n/q"] {
        world.policy(name, "g", EgressChoice::Unshared).pod(
            "n",
            &format!("of-{}", &name[2..]),
            &name[2..],
            |_| {},
        );
    }
    world.settle();
    let mut planner = Planner::new(Settings::default());
    for event in difference(&ClusterSnapshot::default(), &world.snapshot) {
        planner.absorb(event);
    }
    assert_eq!(planner.plan().1, Changed::Everything);
    assert_eq!(planner.plan().1, Changed::Parts(Parts::default()), "nothing has happened");
    let pod = |app: &str, node: &str, number: u8| Pod {
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        node: node.to_owned(),
        addresses: BTreeSet::from([format!("10.244.9.{number}").parse().unwrap()]),
        ..Pod::default()
    };
    let key = PodKey { namespace: "n".to_owned(), name: "new".to_owned() };
    assert!(!planner.absorb(Event::Pod(key.clone(), Some(pod("nobody", "a", 1)))), "no policy is for it");
    assert!(planner.absorb(Event::Pod(key.clone(), Some(pod("p", "other-007", 2)))));
    let (plan, changed) = planner.plan();
    let Changed::Parts(parts) = changed else { panic!("{changed:?}") };
    assert_eq!(plan.slices.values().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(parts.slices.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["p-0"]);
    assert_eq!(parts.nodes.iter().map(String::as_str).collect::<Vec<_>>(), ["other-007"]);
    // The same pod with another address on the same node needs no other ports.
    assert!(planner.absorb(Event::Pod(key, Some(pod("p", "other-007", 3)))));
    let Changed::Parts(parts) = planner.plan().1 else { panic!() };
    assert!(parts.nodes.is_empty() && parts.eips.is_empty());
}
