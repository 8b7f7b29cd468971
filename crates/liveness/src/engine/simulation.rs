//! Several nodes on a virtual clock and a lossy network, from one seed: first the faults, with what must never happen
//! checked after every step, then peace, in which everything must settle.

mod controller;

use std::collections::{BTreeMap, BTreeSet};

use model::EipPair;
use proptest::prelude::*;

use super::*;
use crate::detector::{FAST_DEAD_AFTER_MS, FAST_INTERVAL_MS, START_GRACE_MS, TICK_MS};
use crate::ownership::CONFIRMED_WITHIN_MS;

const STEP_MS: u64 = 5;

/// xorshift64*: any generator does, as long as a seed always gives the same run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

struct Cluster {
    now_ms: u64,
    gateways: Vec<String>,
    engines: BTreeMap<String, Engine>,
    topology: Topology,
    /// Arrival time, sender, receiver.
    wire: Vec<(u64, String, String, Message)>,
    /// Nodes that nobody reaches.
    cut: BTreeSet<String>,
    loss_percent: u64,
    random: Random,
    starts: u64,
    moves: Vec<(u64, String, EipPair)>,
}

fn eips() -> impl Iterator<Item = EipPair> {
    (0..6).map(|n| std::net::Ipv4Addr::new(10, 6, 168, n).into())
}

impl Cluster {
    fn new(gateways: usize, sources: usize, seed: u64) -> Self {
        let gateways: Vec<String> = (0..gateways).map(|n| format!("gateway-{n}")).collect();
        let sources = (0..sources).map(|n| format!("source-{n}"));
        let nodes: Vec<String> = gateways.iter().cloned().chain(sources).collect();
        let group = |n: usize| EipGroup {
            nodes: gateways.iter().cloned().collect(),
            preferred: gateways.get(n % gateways.len()).cloned(),
        };
        let topology = Topology {
            nodes: nodes.iter().map(|node| (node.clone(), Node { key: Some([1; 32]) })).collect(),
            eips: eips().enumerate().map(|(n, eip)| (eip, group(n))).collect(),
            used: eips().collect(),
            ..Topology::default()
        };
        let mut cluster = Self {
            now_ms: 0,
            gateways,
            engines: BTreeMap::new(),
            topology,
            wire: Vec::new(),
            cut: BTreeSet::new(),
            loss_percent: 0,
            random: Random(seed | 1),
            starts: 0,
            moves: Vec::new(),
        };
        nodes.iter().for_each(|node| cluster.start(node, &BTreeMap::new()));
        cluster
    }

    /// (Re)starts a node's agent, which finds these claims in its kernel.
    fn start(&mut self, node: &str, adopted: &BTreeMap<EipPair, Claim>) {
        self.starts += 1;
        let mut engine = Engine::new(node, self.starts, self.now_ms);
        adopted.keys().for_each(|eip| engine.adopt(*eip, Claim::default()));
        engine.configure(self.now_ms, self.topology.clone());
        engine.set_uplink(Uplink::Carrier);
        engine.set_ready(true);
        self.engines.insert(node.to_owned(), engine);
    }

    fn reconfigure(&mut self) {
        for engine in self.engines.values_mut() {
            engine.configure(self.now_ms, self.topology.clone());
        }
    }

    fn send(&mut self, from: &str, out: Vec<Outgoing>) {
        for Outgoing { to, message } in out {
            for receiver in to {
                if self.random.below(100) < self.loss_percent {
                    continue;
                }
                let at = self.now_ms + 1 + self.random.below(8);
                self.wire.push((at, from.to_owned(), receiver, message.clone()));
            }
        }
    }

    fn step(&mut self) {
        self.now_ms += STEP_MS;
        let (arrived, under_way) =
            std::mem::take(&mut self.wire).into_iter().partition(|(at, ..)| *at <= self.now_ms);
        self.wire = under_way;
        let mut arrived: Vec<_> = arrived;
        arrived.sort_by_key(|(at, ..)| *at);
        for (_, from, to, message) in arrived {
            if self.cut.contains(&from) || self.cut.contains(&to) {
                continue;
            }
            if let Some(engine) = self.engines.get_mut(&to) {
                let out = engine.receive(self.now_ms, message);
                self.send(&to, out);
            }
        }
        if !self.now_ms.is_multiple_of(TICK_MS) {
            return;
        }
        for node in self.engines.keys().cloned().collect::<Vec<_>>() {
            self.echo(&node);
            let engine = self.engines.get_mut(&node).unwrap();
            let out = engine.tick(self.now_ms);
            for event in engine.take_events() {
                if let Event::Claim(eip, Decision::Take(_)) = event {
                    self.moves.push((self.now_ms, node.clone(), eip));
                }
            }
            self.send(&node, out);
        }
    }

    /// Kernels of nodes that are not cut answer at once, also where no agent runs.
    fn echo(&mut self, node: &str) {
        let engine = self.engines.get_mut(node).unwrap();
        let silent: Vec<String> = engine.silent(self.now_ms).map(str::to_owned).collect();
        for peer in silent {
            if !self.cut.contains(node) && !self.cut.contains(&peer) {
                engine.kernel_answered(self.now_ms, &peer);
            }
        }
    }

    fn run(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.step();
        }
    }

    fn claimants(&self, eip: &EipPair) -> Vec<&str> {
        let claims = |(node, engine): (&'_ String, &Engine)| {
            (!self.cut.contains(node) && engine.claims().contains_key(eip)).then_some(())
        };
        let nodes = self.engines.iter().filter(|(node, engine)| claims((node, engine)).is_some());
        nodes.map(|(node, _)| node.as_str()).collect()
    }

    fn owners(&self) -> BTreeMap<EipPair, String> {
        eips()
            .filter_map(|eip| Some((eip, self.claimants(&eip).first().map(|node| (*node).to_owned())?)))
            .collect()
    }

    #[track_caller]
    fn assert_settled(&self, why: &str) {
        for eip in eips() {
            let claimants = self.claimants(&eip);
            assert_eq!(claimants.len(), 1, "{why}: {eip} is claimed by {claimants:?} at {} ms", self.now_ms);
            for (node, engine) in self.engines.iter().filter(|(node, _)| !self.cut.contains(*node)) {
                let carrier = engine.carriers().remove(&eip).flatten();
                assert_eq!(carrier.as_deref(), claimants.first().copied(), "{why}: {eip} as {node} sees it");
            }
        }
    }
}

#[test]
fn at_the_start_every_eip_goes_to_its_preferred_node() {
    let mut cluster = Cluster::new(3, 2, 1);
    cluster.run(2 * START_GRACE_MS);
    cluster.assert_settled("start");
    for (eip, node) in cluster.owners() {
        assert_eq!(cluster.topology.eips[&eip].preferred, Some(node));
    }
}

#[test]
fn a_dead_gateway_is_replaced_within_its_time_and_one_round() {
    for seed in 1..40 {
        let mut cluster = Cluster::new(3, 3, seed);
        cluster.run(2 * START_GRACE_MS + seed * 7);
        cluster.cut.insert("gateway-1".to_owned());
        cluster.run(FAST_DEAD_AFTER_MS + FAST_INTERVAL_MS);
        cluster.assert_settled("a gateway died");
    }
}

/// Acceptance: X-R4
#[test]
fn a_gateway_that_comes_back_from_a_cut_disturbs_nothing() {
    for seed in 1..20 {
        let mut cluster = Cluster::new(3, 2, seed);
        cluster.run(2 * START_GRACE_MS);
        cluster.cut.insert("gateway-0".to_owned());
        cluster.run(5000);
        let before = cluster.owners();
        cluster.cut.clear();
        cluster.moves.clear();
        cluster.run(5000);
        assert_eq!(cluster.owners(), before);
        assert_eq!(cluster.moves, []);
        cluster.assert_settled("a gateway came back");
    }
}

#[test]
fn an_agent_that_restarts_keeps_its_eips() {
    for away_ms in [50, 1000, 8000] {
        let mut cluster = Cluster::new(3, 2, 3);
        cluster.run(2 * START_GRACE_MS);
        let before = cluster.owners();
        let stopped = cluster.engines.remove("gateway-0").unwrap();
        cluster.moves.clear();
        cluster.run(away_ms);
        cluster.start("gateway-0", stopped.claims());
        cluster.run(5000);
        assert_eq!(cluster.owners(), before, "away for {away_ms} ms");
        assert_eq!(cluster.moves, []);
        cluster.assert_settled("an agent restarted");
    }
}

#[test]
fn an_agent_that_stays_away_loses_its_eips() {
    let mut cluster = Cluster::new(3, 2, 3);
    cluster.run(2 * START_GRACE_MS);
    cluster.engines.remove("gateway-0");
    cluster.run(crate::detector::AGENT_GRACE_MS + 1000);
    cluster.assert_settled("an agent stayed away");
}

#[test]
fn a_planned_move_is_never_without_a_claimant() {
    let mut cluster = Cluster::new(3, 2, 9);
    cluster.run(2 * START_GRACE_MS);
    for group in cluster.topology.eips.values_mut() {
        group.preferred = Some("gateway-2".to_owned());
    }
    cluster.reconfigure();
    for _ in 0..400 {
        cluster.step();
        assert!(eips().all(|eip| !cluster.claimants(&eip).is_empty()));
    }
    cluster.assert_settled("moved");
    assert!(cluster.owners().values().all(|node| node == "gateway-2"));
}

#[test]
fn a_gateway_that_leaves_its_group_carries_on_until_another_one_does() {
    let mut cluster = Cluster::new(3, 2, 5);
    cluster.run(2 * START_GRACE_MS);
    for group in cluster.topology.eips.values_mut() {
        group.nodes.remove("gateway-0");
        if group.preferred.as_deref() == Some("gateway-0") {
            group.preferred = Some("gateway-1".to_owned());
        }
    }
    cluster.reconfigure();
    for _ in 0..400 {
        cluster.step();
        assert!(eips().all(|eip| !cluster.claimants(&eip).is_empty()));
    }
    cluster.assert_settled("a gateway left");
    assert!(cluster.owners().values().all(|node| node != "gateway-0"));
}

#[test]
fn the_last_gateway_carries_everything_and_without_one_nobody_pretends() {
    let mut cluster = Cluster::new(2, 2, 4);
    cluster.run(2 * START_GRACE_MS);
    cluster.cut.insert("gateway-0".to_owned());
    cluster.run(1000);
    cluster.assert_settled("one of two died");
    cluster.cut.insert("gateway-1".to_owned());
    cluster.run(4000);
    let carriers = cluster.engines["source-0"].carriers();
    assert!(carriers.values().all(Option::is_none), "{carriers:?}");
}

/// A second gateway joins, the source hears of it at that time, and the first one is cut off then. Until the source sends to
/// the second one.
fn replaced_by_a_newcomer_after_ms(seed: u64, source_knows_at_ms: u64, cut_at_ms: u64) -> u64 {
    let mut cluster = Cluster::new(2, 1, seed);
    let first = Some("gateway-0".to_owned());
    cluster.topology.eips.values_mut().for_each(|group| group.preferred = first.clone());
    let with = |cluster: &Cluster, node: &str, gateways: &[&str]| {
        let mut topology = cluster.topology.clone();
        for group in topology.eips.values_mut() {
            group.nodes = gateways.iter().map(|gateway| (*gateway).to_owned()).collect();
        }
        if node.starts_with("gateway") {
            topology.used.clear();
            topology.eips.retain(|_, group| group.nodes.contains(node));
        }
        topology
    };
    for node in ["gateway-0", "gateway-1", "source-0"] {
        let alone = with(&cluster, node, &["gateway-0"]);
        cluster.engines.get_mut(node).unwrap().configure(0, alone);
    }
    cluster.run(3000 + seed * 13);
    // What the first one carries is in its object by now.
    cluster.topology.told =
        eips().map(|eip| (eip, cluster.engines["gateway-0"].claims()[&eip].epoch)).collect();
    let start = cluster.now_ms;
    loop {
        let passed = cluster.now_ms - start;
        for (node, at) in [("gateway-0", 0), ("gateway-1", 0), ("source-0", source_knows_at_ms)] {
            if passed == at {
                let both = with(&cluster, node, &["gateway-0", "gateway-1"]);
                let now_ms = cluster.now_ms;
                cluster.engines.get_mut(node).unwrap().configure(now_ms, both);
            }
        }
        if passed == cut_at_ms {
            cluster.cut.insert("gateway-0".to_owned());
        }
        cluster.step();
        let carriers = cluster.engines["source-0"].carriers();
        let is_replaced = carriers.values().all(|carrier| carrier.as_deref() == Some("gateway-1"));
        if is_replaced || passed > 10_000 {
            return (cluster.now_ms - start).saturating_sub(cut_at_ms);
        }
    }
}

#[test]
fn a_gateway_that_joined_just_before_another_one_died_replaces_it_as_soon_as_an_old_one_would() {
    for source_knows_at_ms in [0, 10, 30, 60] {
        for cut_at_ms in (0..400).step_by(10) {
            for seed in 1..6 {
                let after_ms = replaced_by_a_newcomer_after_ms(seed, source_knows_at_ms, cut_at_ms);
                let limit_ms = FAST_DEAD_AFTER_MS + FAST_INTERVAL_MS + TICK_MS;
                assert!(
                    after_ms <= limit_ms,
                    "{after_ms} ms, seed {seed}, known {source_knows_at_ms}, cut {cut_at_ms}"
                );
            }
        }
    }
}

#[test]
fn a_move_that_follows_another_one_closely_is_made_late_and_once() {
    let mut cluster = Cluster::new(3, 2, 1);
    cluster.run(2 * START_GRACE_MS);
    for node in ["gateway-0", "gateway-1"] {
        for group in cluster.topology.eips.values_mut() {
            group.preferred = Some(node.to_owned());
        }
        cluster.reconfigure();
        cluster.moves.clear();
        cluster.run(900);
    }
    cluster.run(CONFIRMED_WITHIN_MS);
    cluster.assert_settled("moved twice");
    assert!(cluster.owners().values().all(|node| node == "gateway-1"));
    let moved: BTreeSet<EipPair> = cluster.moves.iter().map(|(_, _, eip)| *eip).collect();
    assert_eq!(moved.len(), cluster.moves.len(), "{:?}", cluster.moves);
    cluster.moves.clear();
    cluster.run(2 * CONFIRMED_WITHIN_MS);
    assert_eq!(cluster.moves, []);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_settles_on_one_claimant_each(
        seed in any::<u64>(),
        gateways in 1_usize..6,
        loss in 0_u64..15,
        faults in proptest::collection::vec((0_usize..6, 0_u8..4, 0_u64..3000), 0..12),
    ) {
        let mut cluster = Cluster::new(gateways, 2, seed);
        cluster.loss_percent = loss;
        cluster.run(1500);
        for (which, fault, pause_ms) in faults {
            let node = cluster.gateways[which % gateways].clone();
            match fault {
                0 => { cluster.cut.insert(node); }
                1 => { cluster.cut.remove(&node); }
                2 => {
                    let claims = cluster.engines[&node].claims().clone();
                    cluster.start(&node, &claims);
                }
                _ => {
                    for group in cluster.topology.eips.values_mut() {
                        group.preferred = Some(node.clone());
                    }
                    cluster.reconfigure();
                }
            }
            cluster.run(pause_ms);
        }
        cluster.cut.clear();
        cluster.loss_percent = 0;
        // A move soon after another one is put off, and made then.
        cluster.run(CONFIRMED_WITHIN_MS + 4000);
        cluster.assert_settled("peace");
        // And then nothing moves any more.
        cluster.moves.clear();
        cluster.run(2000);
        prop_assert!(cluster.moves.is_empty());
    }
}
