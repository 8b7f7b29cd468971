//! When the status of a gateway with many EIPs is written.
//!
//! It lists them all, so that each write, and each reader, costs as much as there are. Agents take what is new from the
//! policies' own statuses and from leases; the list is for people, and for a controller that begins. So what only adds to it,
//! or takes away what nobody else waits for, may come later, and many changes with one write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::EipPair;
use plan::Settings;
use plan::snapshot::GatewayStatus;

/// Which statuses were written when, and which wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    written_at: BTreeMap<String, Duration>,
    waiting: BTreeMap<String, Duration>,
}

impl Pace {
    /// When the status of a gateway with so many EIPs may be written again.
    pub(crate) fn due_at(&self, gateway: &str, eips: usize, settings: &Settings) -> Duration {
        let eips = u64::try_from(eips).unwrap_or(u64::MAX);
        let pause = Duration::from_millis(settings.list_pause_ms_per_eip.saturating_mul(eips));
        self.written_at.get(gateway).map_or(Duration::ZERO, |at| at.saturating_add(pause))
    }

    /// Gateways whose status waits.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &String> {
        self.waiting.keys()
    }

    /// When the first of them is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.waiting.values().min().copied()
    }

    /// These are being written now.
    pub(crate) fn writes(&mut self, gateways: impl IntoIterator<Item = String>, now: Duration) {
        self.written_at.extend(gateways.into_iter().map(|gateway| (gateway, now)));
    }

    /// These wait, and no others.
    pub(crate) fn wait(&mut self, waiting: BTreeMap<String, Duration>) {
        self.waiting = waiting;
    }
}

/// Whether a status may wait: all it does is to list EIPs that it did not, and to leave out others. None moves.
pub(crate) fn only_lists_others(known: &GatewayStatus, planned: &GatewayStatus) -> bool {
    let rest = |status: &GatewayStatus| {
        let nodes = status.nodes.iter().map(|(name, node)| (name.clone(), node.phase, node.lent_to.clone()));
        let unplaced = status.unplaced.keys().copied().collect::<BTreeSet<EipPair>>();
        let verdicts = (status.verdict.clone(), status.ports.clone(), status.whole.clone());
        (nodes.collect::<Vec<_>>(), unplaced, verdicts)
    };
    let places = |status: &GatewayStatus| -> BTreeMap<EipPair, String> {
        let placed = status.eips().filter_map(|(eip, node, _)| Some((eip, node?.to_owned())));
        placed.collect()
    };
    let (before, after) = (places(known), places(planned));
    let none_moves = before.iter().all(|(eip, node)| after.get(eip).is_none_or(|after| after == node));
    rest(known) == rest(planned) && none_moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::policy::PolicyKey;
    use plan::snapshot::GatewayNode;

    fn status(placed: &[(&str, &str)]) -> GatewayStatus {
        let mut status = GatewayStatus::default();
        for node in ["a", "b"] {
            status.nodes.insert(node.to_owned(), GatewayNode::default());
        }
        let policies = BTreeSet::from([PolicyKey { namespace: None, name: "p".to_owned() }]);
        for (eip, node) in placed {
            let node = status.nodes.get_mut(*node).unwrap();
            node.eips.insert(eip.parse().unwrap(), policies.clone());
        }
        status
    }

    #[test]
    fn what_comes_and_goes_may_wait_and_what_moves_may_not() {
        let known = status(&[("10.6.1.1", "a"), ("10.6.1.2", "b")]);
        let one_more = status(&[("10.6.1.1", "a"), ("10.6.1.2", "b"), ("10.6.1.3", "b")]);
        assert!(only_lists_others(&known, &one_more) && only_lists_others(&one_more, &known));
        assert!(!only_lists_others(&known, &status(&[("10.6.1.1", "b"), ("10.6.1.2", "b")])));
        let mut unplaced = known.clone();
        unplaced.unplaced.insert("10.6.1.9".parse().unwrap(), BTreeSet::new());
        assert!(!only_lists_others(&known, &unplaced));
        let mut failed = known.clone();
        failed.nodes.get_mut("b").unwrap().phase = model::tunnel::Phase::Failed;
        assert!(!only_lists_others(&known, &failed));
    }

    #[test]
    fn the_more_eips_a_status_lists_the_longer_is_the_pause() {
        let mut pace = Pace::default();
        let settings = Settings::default();
        assert_eq!(pace.due_at("g", 1000, &settings), Duration::ZERO);
        pace.writes(["g".to_owned()], Duration::from_secs(10));
        assert_eq!(pace.due_at("g", 100, &settings), Duration::from_millis(10_300));
        assert_eq!(pace.due_at("g", 1000, &settings), Duration::from_secs(13));
        pace.wait(BTreeMap::from([("g".to_owned(), Duration::from_secs(13))]));
        assert_eq!(pace.next_due(), Some(Duration::from_secs(13)));
    }
}
