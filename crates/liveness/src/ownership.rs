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
//!
//! An EIP that nobody has ever claimed waits for the controller's choice: there are no connections to keep alive yet. Later the
//! controller names a node for one of two reasons: it moves the EIP, or it confirms a claim, perhaps when newer ones have long
//! been made. A node that is named after it has taken the EIP a moment ago can't tell which, and waits: the controller comes
//! to know of the newer claims.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use model::EipPair;
use model::gateway_order::gateway_order;

use crate::detector::Verdict;

/// For this long after a node has taken an EIP the controller may come to confirm that.
pub(crate) const CONFIRMED_WITHIN_MS: u64 = 10_000;

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

/// The controller has named another node for an EIP.
#[derive(Clone, Copy, Debug)]
struct Move {
    /// Highest epoch that was known then: claims up to it are older than the move
    upto: u64,
    /// When it counts
    from_ms: u64,
}

/// One node's part in the ownership of the EIPs.
#[derive(Debug)]
pub struct Ownership {
    own: String,
    eips: BTreeMap<EipPair, EipGroup>,
    claims: BTreeMap<EipPair, Claim>,
    /// Highest epoch seen of each EIP, by anybody.
    highest: BTreeMap<EipPair, u64>,
    /// EIPs that the controller has moved while this process watched.
    moved: BTreeMap<EipPair, Move>,
    /// When this node took an EIP.
    taken_ms: BTreeMap<EipPair, u64>,
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
            taken_ms: BTreeMap::new(),
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

    /// Takes over what the cluster says now, and the highest epochs that it tells of.
    pub fn configure(
        &mut self,
        now_ms: u64,
        eips: BTreeMap<EipPair, EipGroup>,
        told: &BTreeMap<EipPair, u64>,
    ) {
        for (eip, epoch) in told.iter().filter(|(eip, _)| eips.contains_key(*eip)) {
            let highest = self.highest.entry(*eip).or_default();
            *highest = (*epoch).max(*highest);
        }
        for (eip, group) in &eips {
            let before = self.eips.get(eip).map(|old| &old.preferred);
            if before.is_some_and(|before| *before != group.preferred) {
                let highest = self.highest.get(eip).copied().unwrap_or_default();
                let own = self.claims.get(eip).map_or(0, |claim| claim.epoch);
                let from_ms = self.taken_ms.get(eip).map_or(now_ms, |at_ms| at_ms + CONFIRMED_WITHIN_MS);
                self.moved.insert(*eip, Move { upto: highest.max(own), from_ms });
            }
        }
        self.highest.retain(|eip, _| eips.contains_key(eip));
        self.moved.retain(|eip, _| eips.contains_key(eip));
        self.taken_ms.retain(|eip, _| eips.contains_key(eip));
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

    /// How many moves count by now: with more of them, other decisions may be due.
    #[must_use]
    pub fn moves(&self, now_ms: u64) -> usize {
        self.moved.values().filter(|planned| planned.from_ms <= now_ms).count()
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
        now_ms: u64,
        gateways: &BTreeMap<String, Gateway>,
        may_take: bool,
    ) -> Vec<(EipPair, Decision)> {
        let concerned: BTreeSet<EipPair> = self.eips.keys().chain(self.claims.keys()).copied().collect();
        let decisions: Vec<_> = concerned
            .into_iter()
            .filter_map(|eip| Some((eip, self.decide_one(now_ms, &eip, gateways, may_take)?)))
            .collect();
        for (eip, decision) in &decisions {
            match decision {
                Decision::Take(claim) => {
                    self.claims.insert(*eip, *claim);
                    self.taken_ms.insert(*eip, now_ms);
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
        now_ms: u64,
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
        let overrides =
            |claim: Claim| move |planned: &Move| claim.epoch <= planned.upto && planned.from_ms <= now_ms;
        let highest = self.highest.get(eip).copied();
        // A new EIP whose node the controller has not told yet: whoever took it now might have to hand it over at once.
        let is_unplaced = group.preferred.is_none() && highest.is_none();
        let wanted = match Self::best_claim(eip, group, gateways, usable) {
            None => !is_unplaced && self.is_first(eip, group, gateways),
            Some((_, claim)) => preferred && self.moved.get(eip).is_some_and(overrides(claim)),
        };
        let epoch = highest.unwrap_or_default().saturating_add(1);
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

    /// Whether somebody is known to carry an EIP, rather than likely to.
    #[must_use]
    pub fn is_claimed(&self, eip: &EipPair, gateways: &BTreeMap<String, Gateway>) -> bool {
        let heard = |group| Self::best_claim(eip, group, gateways, |gateway| gateway.verdict.forwards());
        self.claims.contains_key(eip) || self.eips.get(eip).is_some_and(|group| heard(group).is_some())
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
mod tests;
