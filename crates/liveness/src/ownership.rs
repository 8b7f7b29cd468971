//! Who carries an EIP: claims, and the rules by which gateways make them, keep them and give way.
//!
//! ```text
//!            nobody usable claims it, and this node is the first usable one in order      (take over)
//!   not mine ---------------------------------------------------------------------------> mine
//!            the controller has moved it here since the present claim was made            (planned move)
//!
//!   mine     ---------------------------------------------------------------------------> not mine
//!            a gateway that forwards holds a claim that outranks mine; or this node has left the EIP's group, and another
//!            gateway has taken the EIP or there is none
//! ```
//!
//! Of two claims the one with the higher epoch outranks the other: it was made later, by someone who knew of the other. That
//! is what keeps an EIP where it works when a node comes back that still believes to hold it. Claims of one epoch were
//! made without knowledge of each other; then the controller's preferred node wins, then the order of gateways. All of that is
//! in the claims themselves, so that both sides come to one answer whatever they know of the cluster.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use model::EipPair;
use model::gateway_order::gateway_order;

use crate::detector::Verdict;

/// A gateway's word that it carries an EIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Claim {
    /// One more than the highest that the claimant had seen for this EIP.
    pub epoch: u64,
    /// Whether the claimant was the controller's preferred node when it claimed.
    pub preferred: bool,
}

/// What the cluster says about an EIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EipGroup {
    /// The gateway nodes that may carry it
    pub nodes: BTreeSet<String>,
    /// Where the controller wants it
    pub preferred: Option<String>,
}

impl EipGroup {
    /// The nodes in the order in which they are to take it.
    fn order(&self, eip: &EipPair) -> Vec<&str> {
        let nodes = self.nodes.iter().map(String::as_str).collect();
        gateway_order(eip, &nodes, self.preferred.as_deref())
    }
}

/// A gateway as it is seen from here.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Verdict of the detector
    pub verdict: Verdict,
    /// Whether it was ever heard, so that `claims` means something
    pub heard: bool,
    /// It says that it reaches the outside
    pub uplink: bool,
    /// It says that its kernel state is complete, so that it may take an EIP
    pub ready: bool,
    /// What it claims
    pub claims: BTreeMap<EipPair, Claim>,
}

/// What a gateway does about one EIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Carry it from now on
    Take(Claim),
    /// Stop, this other node does
    GiveWay(String),
    /// Stop, it is none of this node's groups any more
    Leave,
}

/// Compares the claims of two nodes on an EIP: `Greater` when the first outranks the second.
#[must_use]
pub fn compare(eip: &EipPair, first: (&str, Claim), second: (&str, Claim)) -> Ordering {
    let ((a, claim_a), (b, claim_b)) = (first, second);
    let by_claims = (claim_a.epoch, claim_a.preferred).cmp(&(claim_b.epoch, claim_b.preferred));
    by_claims.then_with(|| {
        let order = gateway_order(eip, &BTreeSet::from([a, b]), None);
        match order.first() {
            _ if a == b => Ordering::Equal,
            Some(node) if *node == a => Ordering::Greater,
            _ => Ordering::Less,
        }
    })
}

/// One node's part in the ownership of the EIPs.
#[derive(Debug)]
pub struct Ownership {
    own: String,
    eips: BTreeMap<EipPair, EipGroup>,
    claims: BTreeMap<EipPair, Claim>,
    /// Highest epoch seen of each EIP, by anybody.
    highest: BTreeMap<EipPair, u64>,
    /// EIPs that the controller has moved while this process watched, with the highest epoch at that time: claims up to
    /// it are older than the move.
    moved: BTreeMap<EipPair, u64>,
    /// Where a source found the EIP when it started, from its kernel.
    seeds: BTreeMap<EipPair, String>,
    /// Changes with `claims`.
    version: u32,
}

impl Ownership {
    /// Of this node, with nothing to own.
    #[must_use]
    pub fn new(own: String) -> Self {
        Self {
            own,
            eips: BTreeMap::new(),
            claims: BTreeMap::new(),
            highest: BTreeMap::new(),
            moved: BTreeMap::new(),
            seeds: BTreeMap::new(),
            version: 0,
        }
    }

    /// Goes on with a claim of this node's last run.
    pub fn adopt(&mut self, eip: EipPair, claim: Claim) {
        self.claims.insert(eip, claim);
        self.version = self.version.wrapping_add(1);
    }

    /// Remembers who carried an EIP for this node before this run; believed until something newer is known.
    pub fn seed(&mut self, eip: EipPair, carrier: String) {
        self.seeds.insert(eip, carrier);
    }

    /// Takes over what the cluster says now.
    pub fn configure(&mut self, eips: BTreeMap<EipPair, EipGroup>) {
        for (eip, group) in &eips {
            let before = self.eips.get(eip).map(|old| &old.preferred);
            if before.is_some_and(|before| *before != group.preferred) {
                let highest = self.highest.get(eip).copied().unwrap_or_default();
                let own = self.claims.get(eip).map_or(0, |claim| claim.epoch);
                self.moved.insert(*eip, highest.max(own));
            }
        }
        self.highest.retain(|eip, _| eips.contains_key(eip));
        self.moved.retain(|eip, _| eips.contains_key(eip));
        self.eips = eips;
    }

    /// What the cluster says about an EIP.
    #[must_use]
    pub fn group(&self, eip: &EipPair) -> Option<&EipGroup> {
        self.eips.get(eip)
    }

    /// All EIPs that concern this node.
    pub fn groups(&self) -> impl Iterator<Item = (&EipPair, &EipGroup)> {
        self.eips.iter()
    }

    /// Notes a claim that was heard.
    pub fn saw(&mut self, eip: EipPair, epoch: u64) {
        if self.eips.contains_key(&eip) {
            let highest = self.highest.entry(eip).or_default();
            *highest = epoch.max(*highest);
        }
    }

    /// What this node claims.
    #[must_use]
    pub fn claims(&self) -> &BTreeMap<EipPair, Claim> {
        &self.claims
    }

    /// Changes whenever [`Self::claims`] does.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Decides on every EIP and changes the claims accordingly. `may_take` is false while this node has no connection of its
    /// own or its kernel state is not complete.
    pub fn decide(
        &mut self,
        gateways: &BTreeMap<String, Gateway>,
        may_take: bool,
    ) -> Vec<(EipPair, Decision)> {
        let concerned: BTreeSet<EipPair> = self.eips.keys().chain(self.claims.keys()).copied().collect();
        let decisions: Vec<_> = concerned
            .into_iter()
            .filter_map(|eip| Some((eip, self.decide_one(&eip, gateways, may_take)?)))
            .collect();
        for (eip, decision) in &decisions {
            match decision {
                Decision::Take(claim) => {
                    self.claims.insert(*eip, *claim);
                    self.saw(*eip, claim.epoch);
                }
                Decision::GiveWay(_) | Decision::Leave => {
                    self.claims.remove(eip);
                }
            }
        }
        if !decisions.is_empty() {
            self.version = self.version.wrapping_add(1);
        }
        decisions
    }

    fn decide_one(
        &self,
        eip: &EipPair,
        gateways: &BTreeMap<String, Gateway>,
        may_take: bool,
    ) -> Option<Decision> {
        let mine = self.claims.get(eip);
        let Some(group) = self.eips.get(eip) else {
            return mine.map(|_| Decision::Leave);
        };
        let rival = Self::best_claim(eip, group, gateways, |gateway| gateway.verdict.forwards());
        if !group.nodes.contains(&self.own) {
            let nobody = !group
                .nodes
                .iter()
                .any(|node| gateways.get(node).is_some_and(|gateway| gateway.verdict != Verdict::Dead));
            return mine.filter(|_| rival.is_some() || nobody).map(|_| Decision::Leave);
        }
        if let Some(mine) = mine {
            let (node, claim) = rival?;
            let outranked = compare(eip, (node, claim), (&self.own, *mine)) == Ordering::Greater;
            return outranked.then(|| Decision::GiveWay(node.to_owned()));
        }
        if !may_take || Self::too_early(&self.own, group, gateways) {
            return None;
        }
        // One that has lost its uplink keeps its claim until another one takes the EIP. One whose agent has just started again
        // carries on.
        let usable = |gateway: &Gateway| {
            gateway.verdict == Verdict::AgentAway || gateway.verdict == Verdict::Alive && gateway.uplink
        };
        let preferred = group.preferred.as_deref() == Some(self.own.as_str());
        let wanted = match Self::best_claim(eip, group, gateways, usable) {
            None => self.is_first(eip, group, gateways),
            Some((_, claim)) => preferred && self.moved.get(eip).is_some_and(|upto| claim.epoch <= *upto),
        };
        let epoch = self.highest.get(eip).copied().unwrap_or_default().saturating_add(1);
        wanted.then_some(Decision::Take(Claim { epoch, preferred }))
    }

    /// The claim on an EIP that outranks all others, among gateways of its group that pass the filter.
    fn best_claim<'a>(
        eip: &EipPair,
        group: &EipGroup,
        gateways: &'a BTreeMap<String, Gateway>,
        counts: impl Fn(&Gateway) -> bool,
    ) -> Option<(&'a str, Claim)> {
        gateways
            .iter()
            .filter(|(node, gateway)| group.nodes.contains(*node) && counts(gateway))
            .filter_map(|(node, gateway)| Some((node.as_str(), *gateway.claims.get(eip)?)))
            .max_by(|a, b| compare(eip, *a, *b))
    }

    /// Whether some gateway of the group may still turn out to carry the EIP.
    fn too_early(own: &str, group: &EipGroup, gateways: &BTreeMap<String, Gateway>) -> bool {
        group.nodes.iter().filter(|node| *node != own).any(|node| match gateways.get(node) {
            None => false,
            Some(gateway) => match gateway.verdict {
                Verdict::Unknown => true,
                Verdict::AgentAway => !gateway.heard,
                Verdict::Alive | Verdict::Dead => false,
            },
        })
    }

    fn is_first(&self, eip: &EipPair, group: &EipGroup, gateways: &BTreeMap<String, Gateway>) -> bool {
        let eligible = |node: &&str| {
            *node == self.own
                || gateways.get(*node).is_some_and(|gateway| {
                    gateway.verdict == Verdict::Alive && gateway.uplink && gateway.ready
                })
        };
        group.order(eip).into_iter().find(eligible) == Some(self.own.as_str())
    }

    /// Which gateway this node sends an EIP's packets to; `None` when none lives.
    #[must_use]
    pub fn carrier(&self, eip: &EipPair, gateways: &BTreeMap<String, Gateway>) -> Option<String> {
        let group = self.eips.get(eip)?;
        let heard = Self::best_claim(eip, group, gateways, |gateway| gateway.verdict.forwards());
        let own = self.claims.get(eip).map(|claim| (self.own.as_str(), *claim));
        let claimant = heard.into_iter().chain(own).max_by(|a, b| compare(eip, *a, *b));
        if let Some((node, _)) = claimant {
            return Some(node.to_owned());
        }
        // Before anything was heard: who carried it before this run, then who shall.
        let order = group.order(eip);
        let verdict = |node: &str| {
            let own = (node == self.own).then_some(Verdict::Alive);
            own.or_else(|| gateways.get(node).map(|gateway| gateway.verdict))
        };
        let not_dead = |node: &&str| verdict(node).is_none_or(|verdict| verdict != Verdict::Dead);
        let seed = self.seeds.get(eip).map(String::as_str);
        let seed = seed.filter(|node| group.nodes.contains(*node));
        if let Some(node) = seed.filter(not_dead) {
            return Some(node.to_owned());
        }
        // Nobody says that he carries it, but any gateway of the group can send a packet out.
        let alive = order.iter().find(|node| verdict(node) == Some(Verdict::Alive) && **node != self.own);
        let preferred = order.first().filter(|node| not_dead(node));
        let likely = preferred.or(alive).or_else(|| order.iter().find(|node| not_dead(node)));
        likely.map(|node| (*node).to_owned())
    }
}

#[cfg(test)]
mod tests {
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
        ownership.configure(group(&["a", "b", "c"], preferred));
        ownership
    }

    /// What node `a` decides that holds no claim and is preferred (or not), by what is seen of `b` and `c`.
    #[track_caller]
    fn check_free(
        preferred: &str,
        b: (Verdict, Option<Claim>),
        c: (Verdict, Option<Claim>),
        takes: Option<u64>,
    ) {
        let mut ownership = ownership("a", Some(preferred));
        let seen = BTreeMap::from([("b".to_owned(), gateway(b.0, b.1)), ("c".to_owned(), gateway(c.0, c.1))]);
        for gateway in seen.values() {
            gateway.claims.iter().for_each(|(eip, claim)| ownership.saw(*eip, claim.epoch));
        }
        let decided = ownership.decide(&seen, true);
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
    fn nothing_is_taken_without_a_connection_of_one_s_own() {
        let mut ownership = ownership("a", Some("a"));
        assert_eq!(ownership.decide(&BTreeMap::new(), false), []);
        assert_eq!(ownership.decide(&BTreeMap::new(), true).len(), 1);
    }

    #[test]
    fn a_claimant_that_lost_its_uplink_is_relieved_and_one_that_restarts_is_not() {
        for (uplink, ready, taken) in [(true, false, 0), (false, true, 1)] {
            let mut ownership = ownership("a", Some("a"));
            let claimant = Gateway { uplink, ready, ..gateway(Verdict::Alive, Some(claim(1, false))) };
            let seen = BTreeMap::from([("b".to_owned(), claimant)]);
            assert_eq!(ownership.decide(&seen, true).len(), taken);
        }
    }

    #[test]
    fn a_claim_of_a_gateway_outside_the_group_is_not_honoured() {
        let mut ownership = ownership("a", Some("a"));
        let seen = BTreeMap::from([("x".to_owned(), gateway(Verdict::Alive, Some(claim(9, true))))]);
        assert_eq!(ownership.decide(&seen, true).len(), 1);
        assert_eq!(ownership.carrier(&eip(), &seen).as_deref(), Some("a"));
    }

    #[test]
    fn a_planned_move_is_taken_by_the_new_node_first_and_then_given_up_by_the_old_one() {
        let (mut old, mut new) = (ownership("a", Some("a")), ownership("b", Some("a")));
        old.decide(&BTreeMap::new(), true);
        let seen_by_new =
            BTreeMap::from([("a".to_owned(), gateway(Verdict::Alive, old.claims().get(&eip()).copied()))]);
        new.saw(eip(), 1);
        assert_eq!(new.decide(&seen_by_new, true), []);

        let moved = group(&["a", "b", "c"], Some("b"));
        old.configure(moved.clone());
        let nothing = BTreeMap::from([("b".to_owned(), gateway(Verdict::Alive, None))]);
        assert_eq!(old.decide(&nothing, true), []);

        new.configure(moved);
        let taken = claim(2, true);
        assert_eq!(new.decide(&seen_by_new, true), [(eip(), Decision::Take(taken))]);
        let seen_by_old = BTreeMap::from([("b".to_owned(), gateway(Verdict::Alive, Some(taken)))]);
        old.saw(eip(), 2);
        assert_eq!(old.decide(&seen_by_old, true), [(eip(), Decision::GiveWay("b".to_owned()))]);
    }

    #[test]
    fn a_preference_that_was_there_before_is_no_planned_move() {
        // `a` starts anew, preferred all along, while `b` has carried the EIP since `a` died.
        let mut returning = ownership("a", Some("a"));
        returning.saw(eip(), 2);
        let seen = BTreeMap::from([("b".to_owned(), gateway(Verdict::Alive, Some(claim(2, false))))]);
        assert_eq!(returning.decide(&seen, true), []);
        // The controller confirms, which is no move to `a`.
        returning.configure(group(&["a", "b", "c"], Some("b")));
        assert_eq!(returning.decide(&seen, true), []);
    }

    #[test]
    fn a_returning_claimant_gives_way_to_the_newer_claim() {
        let mut returning = ownership("a", Some("a"));
        returning.adopt(eip(), claim(1, true));
        returning.saw(eip(), 2);
        let seen = BTreeMap::from([("b".to_owned(), gateway(Verdict::Alive, Some(claim(2, false))))]);
        assert_eq!(returning.decide(&seen, true), [(eip(), Decision::GiveWay("b".to_owned()))]);
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
            ownership.decide(&BTreeMap::new(), true);
            ownership.configure(eips);
            let dead = BTreeMap::from([("b".to_owned(), gateway(Verdict::Dead, None))]);
            assert_eq!(ownership.decide(&dead, true), [(eip(), Decision::Leave)]);
        }
    }

    #[test]
    fn a_node_that_leaves_the_group_leaves_the_eip() {
        let mut ownership = ownership("a", Some("a"));
        ownership.decide(&BTreeMap::new(), true);
        ownership.configure(group(&["b", "c"], Some("b")));
        // Not before another one has it.
        let b = |claims| BTreeMap::from([("b".to_owned(), gateway(Verdict::Alive, claims))]);
        assert_eq!(ownership.decide(&b(None), true), []);
        assert_eq!(ownership.decide(&b(Some(claim(2, true))), true), [(eip(), Decision::Leave)]);
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
}
