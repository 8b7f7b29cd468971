//! The cluster with a controller that is late: it hears of claims late, and its word comes late, to each node another time.

use super::*;

const LAG_MAX_MS: u64 = 150;

type Word = BTreeMap<EipPair, Option<String>>;

/// What the controller knows and what is under way.
#[derive(Default)]
struct Controller {
    preferred: Word,
    claims: BTreeMap<String, BTreeMap<EipPair, Claim>>,
    /// What each node has told last.
    told: BTreeMap<String, BTreeMap<EipPair, Claim>>,
    /// Arrival time, and what arrives there.
    reports: Vec<(u64, String, BTreeMap<EipPair, Claim>)>,
    words: Vec<(u64, String, Word)>,
}

impl Controller {
    fn run(&mut self, cluster: &mut Cluster, ms: u64) {
        let end = cluster.now_ms + ms;
        while cluster.now_ms < end {
            self.step(cluster);
        }
    }

    fn step(&mut self, cluster: &mut Cluster) {
        cluster.step();
        let now = cluster.now_ms;
        for (node, engine) in cluster.engines.iter().filter(|(node, _)| !cluster.cut.contains(*node)) {
            if self.told.get(node) != Some(engine.claims()) {
                self.told.insert(node.clone(), engine.claims().clone());
                let at = now + 1 + cluster.random.below(LAG_MAX_MS);
                self.reports.push((at, node.clone(), engine.claims().clone()));
            }
        }
        for (_, node, claims) in arrived(&mut self.reports, now) {
            self.claims.insert(node, claims);
        }
        let confirmed = self.confirm();
        if confirmed != self.preferred {
            self.place(cluster, confirmed);
        }
        for (_, node, word) in arrived(&mut self.words, now) {
            let mut topology = cluster.topology.clone();
            for (eip, group) in &mut topology.eips {
                group.preferred = word.get(eip).cloned().flatten();
            }
            cluster.engines.get_mut(&node).unwrap().configure(now, topology);
        }
    }

    /// The newest claim is what is; without one nothing changes.
    fn confirm(&self) -> Word {
        let newest = |eip: &EipPair, current: &Option<String>| {
            let claims = self.claims.iter().filter_map(|(node, claims)| Some((claims.get(eip)?.epoch, node)));
            let newest = claims.clone().max_by_key(|(epoch, _)| *epoch);
            let stays =
                claims.filter(|(_, node)| Some(*node) == current.as_ref()).map(|(epoch, _)| epoch).next();
            newest.filter(|(epoch, _)| stays.is_none_or(|own| own < *epoch)).map(|(_, node)| node.clone())
        };
        let word = self.preferred.iter();
        word.map(|(eip, current)| (*eip, newest(eip, current).or_else(|| current.clone()))).collect()
    }

    fn place(&mut self, cluster: &mut Cluster, word: Word) {
        self.preferred = word;
        for node in cluster.engines.keys() {
            // One after the other to each node, as a watch delivers them.
            let last = self.words.iter().filter(|(_, to, _)| to == node).map(|(at, ..)| *at).max();
            let at = (cluster.now_ms + 1 + cluster.random.below(LAG_MAX_MS)).max(last.unwrap_or_default());
            self.words.push((at, node.clone(), self.preferred.clone()));
        }
    }
}

fn arrived<T>(under_way: &mut Vec<(u64, String, T)>, now: u64) -> Vec<(u64, String, T)> {
    let (arrived, rest) = std::mem::take(under_way).into_iter().partition(|(at, ..)| *at <= now);
    *under_way = rest;
    let mut arrived: Vec<_> = arrived;
    arrived.sort_by_key(|(at, ..)| *at);
    arrived
}

/// A cluster whose EIPs have just got ports, and no place yet.
fn unplaced(gateways: usize, seed: u64) -> (Cluster, Controller) {
    let mut cluster = Cluster::new(gateways, 2, seed);
    let preferred =
        cluster.topology.eips.iter().map(|(eip, group)| (*eip, group.preferred.clone())).collect();
    for group in cluster.topology.eips.values_mut() {
        group.preferred = None;
    }
    for node in cluster.engines.keys().cloned().collect::<Vec<_>>() {
        cluster.start(&node, &BTreeMap::new());
    }
    cluster.run(START_GRACE_MS + seed % 100);
    let mut controller = Controller::default();
    controller.place(&mut cluster, preferred);
    (cluster, controller)
}

#[test]
fn a_new_eip_is_carried_where_it_is_placed_and_never_moves() {
    for seed in 1..20 {
        let (mut cluster, mut controller) = unplaced(3, seed);
        let placed = controller.preferred.clone();
        controller.run(&mut cluster, 2000);
        cluster.assert_settled("placed");
        let owners: Word = cluster.owners().into_iter().map(|(eip, node)| (eip, Some(node))).collect();
        assert_eq!(owners, placed, "seed {seed}");
        assert_eq!(cluster.moves.len(), placed.len(), "seed {seed}: {:?}", cluster.moves);
    }
}

#[test]
fn late_confirmations_make_no_eip_go_to_and_fro() {
    for seed in 1..12 {
        let (mut cluster, mut controller) = unplaced(3, seed);
        controller.run(&mut cluster, 2000);
        // Two deaths, the second before the controller has confirmed what came of the first.
        cluster.cut.insert("gateway-0".to_owned());
        controller.run(&mut cluster, FAST_DEAD_AFTER_MS + FAST_INTERVAL_MS + seed * 3);
        cluster.cut = BTreeSet::from(["gateway-1".to_owned()]);
        controller.run(&mut cluster, 2000);
        cluster.cut.clear();
        controller.run(&mut cluster, 2000);
        cluster.assert_settled("back");
        cluster.moves.clear();
        controller.run(&mut cluster, 12_000);
        assert_eq!(cluster.moves, [], "seed {seed}");
        cluster.assert_settled("later");
        for (eip, node) in cluster.owners() {
            assert_eq!(controller.preferred[&eip].as_ref(), Some(&node), "seed {seed}");
        }
    }
}
