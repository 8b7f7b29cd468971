use super::*;

fn eip() -> EipPair {
    std::net::Ipv4Addr::new(10, 6, 168, 201).into()
}

fn group(nodes: &[&str], preferred: Option<&str>) -> BTreeMap<EipPair, EipGroup> {
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    let preferred = preferred.map(str::to_owned);
    BTreeMap::from([(eip(), EipGroup { nodes, preferred })])
}

fn claim(epoch: u64, preferred: bool) -> Claim {
    Claim { epoch, preferred }
}

fn gateway(verdict: Verdict, claims: Option<Claim>) -> Gateway {
    Gateway {
        verdict,
        heard: verdict != Verdict::Unknown,
        uplink: true,
        ready: true,
        claims: claims.map(|claim| (eip(), claim)).into_iter().collect(),
    }
}

fn ownership(own: &str, preferred: Option<&str>) -> Ownership {
    let mut ownership = Ownership::new(own.to_owned());
    ownership.configure(0, group(&["a", "b", "c"], preferred), &BTreeMap::new());
    ownership
}

/// What node `a` decides that holds no claim and is preferred (or not), by what is seen of `b` and `c`.
#[track_caller]
fn check_free(preferred: &str, b: (Verdict, Option<Claim>), c: (Verdict, Option<Claim>), takes: Option<u64>) {
    let mut ownership = ownership("a", Some(preferred));
    let seen = BTreeMap::from([("b".to_owned(), gateway(b.0, b.1)), ("c".to_owned(), gateway(c.0, c.1))]);
    for gateway in seen.values() {
        gateway.claims.iter().for_each(|(eip, claim)| ownership.saw(*eip, claim.epoch));
    }
    let decided = ownership.decide(0, &seen, true);
    let taken = decided.first().map(|(_, decision)| match decision {
        Decision::Take(claim) => claim.epoch,
        other => panic!("{other:?}"),
    });
    assert_eq!(taken, takes);
}

#[test]
fn a_free_eip_goes_to_the_first_live_gateway_in_order() {
    use Verdict::{AgentAway, Alive, Dead, Unknown};
    check_free("a", (Alive, None), (Alive, None), Some(1));
    check_free("b", (Alive, None), (Alive, None), None);
    check_free("b", (Dead, Some(claim(4, true))), (Dead, None), Some(5));
    // It may be that an unknown one carries it.
    check_free("a", (Unknown, None), (Alive, None), None);
    check_free("a", (AgentAway, None), (Dead, None), Some(1));
    // Whoever carries it, carries it, also while only its kernel answers.
    check_free("a", (Alive, Some(claim(1, false))), (Alive, None), None);
    check_free("a", (AgentAway, Some(claim(1, false))), (Alive, None), None);
}

#[test]
fn a_new_eip_waits_for_the_controllers_choice_and_a_known_one_does_not() {
    // `a` is the first in order, whoever is preferred; a lease names the EIP before the gateway's status does.
    for (preferred, told, takes) in
        [(None, None, None), (None, Some(3), Some(claim(4, false))), (Some("a"), None, Some(claim(1, true)))]
    {
        let told = told.map(|epoch| (eip(), epoch)).into_iter().collect();
        let mut ownership = Ownership::new("a".to_owned());
        ownership.configure(0, group(&["a"], preferred), &told);
        let expected: Vec<_> = takes.map(|claim| (eip(), Decision::Take(claim))).into_iter().collect();
        assert_eq!(ownership.decide(0, &BTreeMap::new(), true), expected, "{preferred:?} {told:?}");
    }
}

#[test]
fn a_claim_that_was_only_told_is_outranked_and_older_than_a_move() {
    let mut ownership = ownership("a", Some("b"));
    ownership.configure(0, group(&["a", "b", "c"], Some("a")), &BTreeMap::from([(eip(), 7)]));
    let seen = BTreeMap::from([("b".to_owned(), gateway(Verdict::Alive, Some(claim(7, true))))]);
    assert_eq!(ownership.decide(0, &seen, true), [(eip(), Decision::Take(claim(8, true)))]);
}

#[test]
fn nothing_is_taken_without_a_connection_of_one_s_own() {
    let mut ownership = ownership("a", Some("a"));
    assert_eq!(ownership.decide(0, &BTreeMap::new(), false), []);
    assert_eq!(ownership.decide(0, &BTreeMap::new(), true).len(), 1);
}

#[test]
fn a_claimant_that_lost_its_uplink_is_relieved_and_one_that_restarts_is_not() {
    for (uplink, ready, taken) in [(true, false, 0), (false, true, 1)] {
        let mut ownership = ownership("a", Some("a"));
        let claimant = Gateway { uplink, ready, ..gateway(Verdict::Alive, Some(claim(1, false))) };
        let seen = BTreeMap::from([("b".to_owned(), claimant)]);
        assert_eq!(ownership.decide(0, &seen, true).len(), taken);
    }
}

#[test]
fn a_claim_of_a_gateway_outside_the_group_is_not_honoured() {
    let mut ownership = ownership("a", Some("a"));
    let seen = BTreeMap::from([("x".to_owned(), gateway(Verdict::Alive, Some(claim(9, true))))]);
    assert_eq!(ownership.decide(0, &seen, true).len(), 1);
    assert_eq!(ownership.carrier(&eip(), &seen).as_deref(), Some("a"));
}

#[test]
fn a_planned_move_is_taken_by_the_new_node_first_and_then_given_up_by_the_old_one() {
    let (mut old, mut new) = (ownership("a", Some("a")), ownership("b", Some("a")));
    old.decide(0, &BTreeMap::new(), true);
    let seen_by_new =
        BTreeMap::from([("a".to_owned(), gateway(Verdict::Alive, old.claims().get(&eip()).copied()))]);
    new.saw(eip(), 1);
    assert_eq!(new.decide(0, &seen_by_new, true), []);

    let moved = group(&["a", "b", "c"], Some("b"));
    old.configure(0, moved.clone(), &BTreeMap::new());
    let nothing = BTreeMap::from([("b".to_owned(), gateway(Verdict::Alive, None))]);
    assert_eq!(old.decide(0, &nothing, true), []);

    new.configure(0, moved, &BTreeMap::new());
    let taken = claim(2, true);
    assert_eq!(new.decide(0, &seen_by_new, true), [(eip(), Decision::Take(taken))]);
    let seen_by_old = BTreeMap::from([("b".to_owned(), gateway(Verdict::Alive, Some(taken)))]);
    old.saw(eip(), 2);
    assert_eq!(old.decide(0, &seen_by_old, true), [(eip(), Decision::GiveWay("b".to_owned()))]);
}

#[test]
fn a_preference_that_was_there_before_is_no_planned_move() {
    // `a` starts anew, preferred all along, while `b` has carried the EIP since `a` died.
    let mut returning = ownership("a", Some("a"));
    returning.saw(eip(), 2);
    let seen = BTreeMap::from([("b".to_owned(), gateway(Verdict::Alive, Some(claim(2, false))))]);
    assert_eq!(returning.decide(0, &seen, true), []);
    // The controller confirms, which is no move to `a`.
    returning.configure(0, group(&["a", "b", "c"], Some("b")), &BTreeMap::new());
    assert_eq!(returning.decide(0, &seen, true), []);
}

#[test]
fn a_returning_claimant_gives_way_to_the_newer_claim() {
    let mut returning = ownership("a", Some("a"));
    returning.adopt(eip(), claim(1, true));
    returning.saw(eip(), 2);
    let seen = BTreeMap::from([("b".to_owned(), gateway(Verdict::Alive, Some(claim(2, false))))]);
    assert_eq!(returning.decide(0, &seen, true), [(eip(), Decision::GiveWay("b".to_owned()))]);
}

#[test]
fn of_two_claims_exactly_one_outranks_the_other() {
    let claims = [claim(1, false), claim(1, true), claim(2, false)];
    for (i, one) in claims.iter().enumerate() {
        for (j, other) in claims.iter().enumerate() {
            let there = compare(&eip(), ("a", *one), ("b", *other));
            let back = compare(&eip(), ("b", *other), ("a", *one));
            assert_eq!(there, back.reverse());
            assert_ne!(there, Ordering::Equal);
            if i != j {
                assert_eq!(there, i.cmp(&j));
            }
        }
    }
}

#[test]
fn an_eip_that_is_gone_or_has_no_gateway_left_is_left() {
    for eips in [BTreeMap::new(), group(&["b"], None)] {
        let mut ownership = ownership("a", Some("a"));
        ownership.decide(0, &BTreeMap::new(), true);
        ownership.configure(0, eips, &BTreeMap::new());
        let dead = BTreeMap::from([("b".to_owned(), gateway(Verdict::Dead, None))]);
        assert_eq!(ownership.decide(0, &dead, true), [(eip(), Decision::Leave)]);
    }
}

#[test]
fn a_node_that_leaves_the_group_leaves_the_eip() {
    let mut ownership = ownership("a", Some("a"));
    ownership.decide(0, &BTreeMap::new(), true);
    ownership.configure(0, group(&["b", "c"], Some("b")), &BTreeMap::new());
    // Not before another one has it.
    let b = |claims| BTreeMap::from([("b".to_owned(), gateway(Verdict::Alive, claims))]);
    assert_eq!(ownership.decide(0, &b(None), true), []);
    assert_eq!(ownership.decide(0, &b(Some(claim(2, true))), true), [(eip(), Decision::Leave)]);
    assert!(ownership.claims().is_empty());
}

/// Where a source node `s` sends to.
#[track_caller]
fn check_carrier(seed: Option<&str>, seen: &[(&str, Verdict, Option<Claim>)], expected: Option<&str>) {
    let mut source = ownership("s", Some("a"));
    if let Some(seed) = seed {
        source.seed(eip(), seed.to_owned());
    }
    let seen = seen.iter().map(|(node, verdict, claim)| ((*node).to_owned(), gateway(*verdict, *claim)));
    assert_eq!(source.carrier(&eip(), &seen.collect()).as_deref(), expected);
}

#[test]
fn a_source_uses_the_live_claimant_with_the_newest_claim() {
    use Verdict::{AgentAway, Alive, Dead, Unknown};
    check_carrier(None, &[], Some("a"));
    check_carrier(None, &[("a", Unknown, None), ("b", Unknown, None)], Some("a"));
    check_carrier(Some("b"), &[("a", Unknown, None), ("b", Unknown, None)], Some("b"));
    check_carrier(Some("x"), &[], Some("a"));
    check_carrier(Some("b"), &[("a", Alive, Some(claim(3, true))), ("b", Unknown, None)], Some("a"));
    check_carrier(
        None,
        &[("a", Alive, Some(claim(1, true))), ("b", Alive, Some(claim(2, false)))],
        Some("b"),
    );
    check_carrier(None, &[("a", AgentAway, Some(claim(1, true))), ("b", Alive, None)], Some("a"));
    check_carrier(None, &[("a", Dead, Some(claim(1, true))), ("b", Alive, None)], Some("b"));
    let dead = |node| (node, Dead, Some(claim(1, true)));
    check_carrier(None, &[dead("a"), dead("b"), dead("c")], None);
}

#[test]
fn a_node_that_took_the_eip_a_moment_ago_takes_a_confirmation_for_no_move() {
    // `b` takes over from `a`, and `c` from `b`, before the controller's word that `b` has it comes.
    let mut b = ownership("b", Some("a"));
    b.saw(eip(), 1);
    let dead = |node: &str| (node.to_owned(), gateway(Verdict::Dead, None));
    let nobody = BTreeMap::from([dead("a"), dead("c")]);
    assert_eq!(b.decide(0, &nobody, true), [(eip(), Decision::Take(claim(2, false)))]);
    let c = ("c".to_owned(), gateway(Verdict::Alive, Some(claim(3, false))));
    b.saw(eip(), 3);
    let seen = BTreeMap::from([dead("a"), c]);
    assert_eq!(b.decide(100, &seen, true), [(eip(), Decision::GiveWay("c".to_owned()))]);
    b.configure(200, group(&["a", "b", "c"], Some("b")), &BTreeMap::new());
    assert_eq!(b.decide(200, &seen, true), []);
    // It stays with that: a move.
    assert_eq!((b.moves(200), b.moves(CONFIRMED_WITHIN_MS)), (0, 1));
    let taken = Decision::Take(claim(4, true));
    assert_eq!(b.decide(CONFIRMED_WITHIN_MS, &seen, true), [(eip(), taken)]);
}
