use std::collections::{BTreeMap, BTreeSet};

use model::EipPair;

use super::*;

fn eip(n: u8) -> EipPair {
    std::net::Ipv4Addr::new(10, 6, 168, n).into()
}

fn node(key: u8) -> Node {
    Node { key: Some([key; 32]) }
}

fn topology(nodes: &[&str], group: &[&str], eips: &[EipPair], used: bool) -> Topology {
    let preferred = group.first().map(|node| (*node).to_owned());
    let group = EipGroup { nodes: group.iter().map(|node| (*node).to_owned()).collect(), preferred };
    Topology {
        nodes: nodes.iter().map(|name| ((*name).to_owned(), node(1))).collect(),
        eips: eips.iter().map(|eip| (*eip, group.clone())).collect(),
        used: if used { eips.iter().copied().collect() } else { BTreeSet::new() },
        ..Topology::default()
    }
}

/// A source node `s` that uses gateway `g`, and `g`, both one tick old.
fn pair() -> (Engine, Engine) {
    let (mut source, mut gateway) = (Engine::new("s", 5, 0), Engine::new("g", 5, 0));
    source.configure(0, topology(&["s", "g"], &["g"], &[eip(1)], true));
    gateway.configure(0, topology(&["s", "g"], &["g"], &[eip(1)], false));
    (source, gateway)
}

/// Hands what one sends to the other, and what that one answers back.
fn exchange(now_ms: u64, out: Vec<Outgoing>, to: &mut Engine, back: &mut Engine) {
    for outgoing in out {
        for answer in to.receive(now_ms, outgoing.message) {
            if answer.message.kind == Kind::Reply {
                back.receive(now_ms, answer.message);
            }
        }
    }
}

#[test]
fn an_answered_probe_makes_the_other_one_alive() {
    let (mut source, mut gateway) = pair();
    let out = source.tick(0);
    exchange(1, out, &mut gateway, &mut source);
    source.tick(20);
    assert_eq!(source.verdicts().collect::<Vec<_>>(), [("g", Verdict::Alive)]);
}

#[test]
fn a_recording_of_an_earlier_message_changes_nothing() {
    let (mut source, mut gateway) = pair();
    let out = source.tick(0);
    let old = gateway.receive(1, out[0].message.clone());
    let old_reply = old[0].message.clone();
    source.receive(2, old_reply.clone());
    source.tick(20);

    // Played back later, it keeps nobody alive.
    for now in (40..3000).step_by(20) {
        assert_eq!(source.receive(now, old_reply.clone()), []);
        source.tick(now);
    }
    assert_eq!(source.verdicts().collect::<Vec<_>>(), [("g", Verdict::Dead)]);
}

#[test]
fn claims_count_only_from_one_that_has_answered_this_run() {
    let (mut source, _) = pair();
    let mut former = Engine::new("g", 4, 0);
    former.adopt(eip(1), Claim { epoch: 9, preferred: false });
    let recorded = former.message(Kind::Probe, Stamp::default(), None);
    source.receive(1, recorded);
    assert!(source.peers["g"].claims.all().is_empty());
}

#[test]
fn an_answer_to_a_probe_of_another_run_is_no_sign_of_life() {
    let (mut source, mut gateway) = pair();
    source.tick(0);
    let answer = gateway.message(Kind::Reply, Stamp { epoch: 4, sequence: 1 }, None);
    source.receive(1, answer);
    source.tick(20);
    assert_eq!(source.verdicts().collect::<Vec<_>>(), [("g", Verdict::Unknown)]);
}

#[test]
fn more_claims_than_fit_arrive_in_turns() {
    let (mut source, mut gateway) = pair();
    let many: Vec<EipPair> = (0..100).map(eip).collect();
    source.configure(0, topology(&["s", "g"], &["g"], &many, true));
    gateway.configure(0, topology(&["s", "g"], &["g"], &many, false));
    for eip in &many {
        gateway.adopt(*eip, Claim { epoch: 1, preferred: false });
    }
    for now in (0..5000).step_by(20) {
        let out = source.tick(now);
        exchange(now, out, &mut gateway, &mut source);
    }
    assert_eq!(source.peers["g"].claims.all().len(), 100);
    assert!(source.carriers().values().all(|carrier| carrier.as_deref() == Some("g")));
}

#[test]
fn a_notice_is_repeated_to_those_who_do_not_confirm_it_and_no_more_than_three_times() {
    let mut gateway = Engine::new("g", 5, 0);
    gateway.configure(0, topology(&["s", "t", "g"], &["g"], &[eip(1)], false));
    gateway.set_ready(true);
    gateway.set_uplink(Uplink::Proven);
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for now in (0..1000).step_by(20) {
        for outgoing in gateway.tick(now) {
            if outgoing.message.kind != Kind::Notice {
                continue;
            }
            assert_eq!(outgoing.message.claims.len(), 1);
            for node in outgoing.to {
                *told.entry(node).or_default() += 1;
            }
            let mut answer = outgoing.message.clone();
            answer.kind = Kind::Reply;
            answer.node = "s".to_owned();
            answer.ack = outgoing.message.stamp;
            gateway.receive(now, answer);
        }
    }
    assert_eq!(told, BTreeMap::from([("s".to_owned(), 1), ("t".to_owned(), 3)]));
}

#[test]
fn a_message_of_an_unknown_node_is_ignored() {
    let (mut source, _) = pair();
    let mut stranger = Engine::new("x", 5, 0);
    let probe = stranger.message(Kind::Probe, Stamp::default(), None);
    assert_eq!(source.receive(1, probe), []);
}

#[test]
fn a_gateway_tells_a_node_that_its_leases_are_loaded() {
    let (mut source, mut gateway) = pair();
    gateway.set_loaded(BTreeMap::from([("s".to_owned(), 7)]));
    let out = source.tick(0);
    exchange(0, out, &mut gateway, &mut source);
    assert_eq!(source.confirmed(), BTreeMap::from([("g".to_owned(), 7)]));
    // A newer one is told once.
    gateway.set_loaded(BTreeMap::from([("s".to_owned(), 8)]));
    let out = gateway.tick(20);
    exchange(20, out, &mut source, &mut gateway);
    assert_eq!(source.confirmed(), BTreeMap::from([("g".to_owned(), 8)]));
    gateway.set_loaded(BTreeMap::from([("s".to_owned(), 8)]));
    assert!(gateway.tick(40).iter().all(|out| out.message.kind != Kind::Notice));
    // A word that got lost is in the answer to the next probe.
    gateway.set_loaded(BTreeMap::from([("s".to_owned(), 9)]));
    gateway.tick(60);
    for now in (80..3000).step_by(20) {
        let out = source.tick(now);
        exchange(now, out, &mut gateway, &mut source);
    }
    assert_eq!(source.confirmed(), BTreeMap::from([("g".to_owned(), 9)]));
}
