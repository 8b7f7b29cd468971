use super::*;

fn detector(peers: &[&str]) -> Detector {
    let mut detector = Detector::new(0);
    let wanted = peers.iter().map(|node| ((*node).to_owned(), (Pace::Fast, Some(0))));
    detector.watch(0, &wanted.collect());
    detector
}

/// Lets time pass in ticks; these peers answer every 100 ms.
fn run(detector: &mut Detector, from_ms: u64, to_ms: u64, answering: &[&str]) -> Vec<Change> {
    let mut changes = Vec::new();
    for now in (from_ms..to_ms).step_by(TICK_MS as usize) {
        if now.is_multiple_of(FAST_INTERVAL_MS) {
            answering.iter().for_each(|node| detector.heard(now, node));
        }
        changes.extend(detector.tick(now));
    }
    changes
}

#[test]
fn a_peer_that_falls_silent_is_dead_after_400_ms() {
    let mut detector = detector(&["a", "b", "c"]);
    run(&mut detector, 0, 1000, &["a", "b", "c"]);
    let changes = run(&mut detector, 1000, 2000, &["a", "b"]);
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].node.as_str(), changes[0].to), ("c", Verdict::Dead));
    assert!((1300..=1320).contains(&changes[0].at_ms), "{changes:?}");
    assert!(!detector.in_doubt());
}

#[test]
fn a_stall_of_our_own_kills_nobody() {
    let mut detector = detector(&["a", "b"]);
    run(&mut detector, 0, 1000, &["a", "b"]);
    assert_eq!(detector.tick(6000), []);
    assert_eq!(run(&mut detector, 6020, 6300, &[]), []);
    assert_eq!(detector.stalls(), 1);
    assert_eq!(run(&mut detector, 6300, 6700, &[]).len(), 2);
}

#[test]
fn a_peer_that_was_never_heard_is_waited_for_and_then_dead() {
    let mut detector = detector(&["a"]);
    run(&mut detector, 0, START_GRACE_MS, &[]);
    assert_eq!(detector.verdict("a"), Some(Verdict::Unknown));
    run(&mut detector, START_GRACE_MS, START_GRACE_MS + 100, &[]);
    assert_eq!(detector.verdict("a"), Some(Verdict::Dead));
}

#[test]
fn one_that_was_known_for_long_has_no_more_time_than_others_when_it_becomes_a_peer() {
    let mut detector = detector(&["b"]);
    run(&mut detector, 0, 5000, &["b"]);
    let fast = |since| (Pace::Fast, Some(since));
    let wanted = [("a", fast(0)), ("b", fast(0)), ("new", fast(4800))];
    detector.watch(5000, &wanted.map(|(node, how)| (node.to_owned(), how)).into());
    let changes = run(&mut detector, 5000, 7000, &["b"]);
    let dead: Vec<_> = changes.iter().map(|change| (change.node.as_str(), change.to, change.at_ms)).collect();
    assert_eq!(dead, [("a", Verdict::Dead, 5400), ("new", Verdict::Dead, 5800)]);
}

#[test]
fn an_agent_that_is_away_has_ten_seconds_while_its_kernel_answers() {
    let mut detector = detector(&["a", "b"]);
    run(&mut detector, 0, 1000, &["a", "b"]);
    let mut verdicts = Vec::new();
    for now in (1000..12_000).step_by(20) {
        detector.heard(now, "b");
        detector.kernel_answered(now, "a");
        verdicts.extend(detector.tick(now).into_iter().map(|c| (c.to, c.at_ms)));
    }
    assert_eq!(verdicts.first(), Some(&(Verdict::AgentAway, 1300)));
    assert_eq!(verdicts.get(1), Some(&(Verdict::Dead, 900 + AGENT_GRACE_MS)));
}

#[test]
fn who_loses_everyone_at_once_doubts_itself() {
    let mut detector = detector(&["a", "b", "c"]);
    run(&mut detector, 0, 1000, &["a", "b", "c"]);
    run(&mut detector, 1000, 1600, &[]);
    assert!(detector.in_doubt());
    for (uplink, may) in
        [(Uplink::Down, false), (Uplink::Unknown, false), (Uplink::Carrier, false), (Uplink::Proven, true)]
    {
        assert_eq!(detector.may_take(uplink), may, "{uplink:?}");
    }
    run(&mut detector, 1600, 2000, &["a", "b"]);
    assert!(!detector.in_doubt());
    assert!(detector.may_take(Uplink::Carrier));
}

#[test]
fn the_last_one_of_two_may_take_with_a_carrier_alone() {
    let mut detector = detector(&["a"]);
    run(&mut detector, 0, 1000, &["a"]);
    run(&mut detector, 1000, 1600, &[]);
    assert!(detector.in_doubt());
    assert!(detector.may_take(Uplink::Carrier));
    assert!(!detector.may_take(Uplink::Down));
}

#[test]
fn one_after_the_other_is_no_reason_for_doubt() {
    let mut detector = detector(&["a", "b", "c", "d"]);
    run(&mut detector, 0, 1000, &["a", "b", "c", "d"]);
    run(&mut detector, 1000, 3000, &["a", "b", "c"]);
    run(&mut detector, 3000, 5000, &["a", "b"]);
    assert!(!detector.in_doubt());
}

#[test]
fn a_gateway_that_is_only_used_is_asked_once_a_second_and_faster_when_silent() {
    let mut detector = Detector::new(0);
    detector.watch(0, &BTreeMap::from([("g".to_owned(), (Pace::Slow, Some(0)))]));
    detector.heard(10, "g");
    detector.tick(20);
    assert_eq!(detector.next_probe_ms("g", 0), Some(1000));
    assert_eq!(detector.next_probe_ms("g", 1000), Some(1100));
    assert_eq!(detector.next_probe_ms("x", 0), None);
}
