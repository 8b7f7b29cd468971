//! Which agents have fallen silent, by the Leases that they renew.
//!
//! What counts is when a renewal was *seen*, on the controller's clock: the times that agents write are only compared for
//! equality, so that no node's clock matters. An agent that was never seen is not judged. While nobody at all is heard it is
//! the API server, or the way to it, that is away: then nobody is judged, and afterwards everybody has the whole time again.

use std::collections::{BTreeMap, BTreeSet};

use crate::settings::Failover;

/// The last sign of life of every agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heartbeats {
    last: BTreeMap<String, Beat>,
    /// When any agent was heard last
    heard_at_s: i64,
    silent: BTreeSet<String>,
    /// How often the set of silent agents has changed
    changes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Beat {
    /// What the Lease says; another text is another beat
    text: String,
    /// When that was first seen
    seen_at_s: i64,
}

impl Heartbeats {
    /// Whether the node's agent has been silent for too long.
    pub(crate) fn is_silent(&self, node: &str) -> bool {
        self.silent.contains(node)
    }

    /// Everybody who was heard.
    pub(crate) fn nodes(&self) -> BTreeSet<String> {
        self.last.keys().cloned().collect()
    }

    /// How often the set of silent agents has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// What a Lease says now; `None`: it is gone. Whether that ends a silence.
    pub(crate) fn hear(
        &mut self,
        node: &str,
        text: Option<String>,
        now_s: i64,
        failover: Option<Failover>,
    ) -> bool {
        let Some(text) = text else {
            self.last.remove(node);
            return self.speaks(node);
        };
        if self.last.get(node).is_some_and(|known| known.text == text) {
            return false;
        }
        if failover.is_some_and(|failover| now_s.saturating_sub(self.heard_at_s) > failover.outage_s()) {
            self.last.values_mut().for_each(|beat| beat.seen_at_s = now_s);
        }
        self.heard_at_s = now_s;
        self.last.insert(node.to_owned(), Beat { text, seen_at_s: now_s });
        self.speaks(node)
    }

    fn speaks(&mut self, node: &str) -> bool {
        let was_silent = self.silent.remove(node);
        self.changes += u64::from(was_silent);
        was_silent
    }

    /// Judges, now. Whether somebody has fallen silent.
    pub(crate) fn judge(&mut self, now_s: i64, failover: Option<Failover>) -> bool {
        let Some(failover) = failover else { return false };
        if now_s.saturating_sub(self.heard_at_s) > failover.outage_s() {
            return false;
        }
        let late = self.last.iter().filter(|(_, beat)| now_s - beat.seen_at_s >= failover.timeout_s);
        let before = self.silent.len();
        self.silent.extend(late.map(|(node, _)| node.clone()));
        let is_more = self.silent.len() > before;
        self.changes += u64::from(is_more);
        is_more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILOVER: Option<Failover> = Some(Failover { update_s: 5, timeout_s: 15 });

    /// Agents that beat every five seconds, but those that are said to be silent.
    fn live(
        heartbeats: &mut Heartbeats,
        seconds: std::ops::Range<i64>,
        silent: &[&str],
    ) -> Vec<(i64, String)> {
        let mut judged = Vec::new();
        for now_s in seconds {
            for node in ["a", "b", "c"].into_iter().filter(|node| now_s % 5 == 0 && !silent.contains(node)) {
                heartbeats.hear(node, Some(now_s.to_string()), now_s, FAILOVER);
            }
            let before = heartbeats.silent.clone();
            heartbeats.judge(now_s, FAILOVER);
            judged.extend(heartbeats.silent.difference(&before).map(|node| (now_s, node.clone())));
        }
        judged
    }

    #[test]
    fn x_t4_an_agent_is_silent_fifteen_seconds_after_its_last_beat() {
        let mut heartbeats = Heartbeats::default();
        assert_eq!(live(&mut heartbeats, 100..121, &[]), []);
        assert_eq!(live(&mut heartbeats, 121..200, &["b"]), [(135, "b".to_owned())]);
        assert!(heartbeats.hear("b", Some("again".to_owned()), 200, FAILOVER));
        assert!(!heartbeats.is_silent("b"));
    }

    #[test]
    fn x_r3_an_outage_of_the_api_server_silences_nobody() {
        let mut heartbeats = Heartbeats::default();
        live(&mut heartbeats, 100..121, &[]);
        assert_eq!(live(&mut heartbeats, 121..185, &["a", "b", "c"]), [], "nobody is heard");
        // The first one back is heard some seconds before the others.
        heartbeats.hear("c", Some("back".to_owned()), 185, FAILOVER);
        assert!(!heartbeats.judge(185, FAILOVER));
        assert_eq!(live(&mut heartbeats, 189..240, &[]), []);
        assert_eq!(live(&mut heartbeats, 240..300, &["a"]), [(250, "a".to_owned())]);
    }

    #[test]
    fn x_t7_no_clock_of_a_node_matters() {
        let mut heartbeats = Heartbeats::default();
        for now_s in (100..300).step_by(5) {
            heartbeats.hear("ahead", Some((now_s + 60).to_string()), now_s, FAILOVER);
            heartbeats.hear("behind", Some((now_s - 60).to_string()), now_s, FAILOVER);
            assert!(!heartbeats.judge(now_s, FAILOVER));
        }
    }

    #[test]
    fn neither_a_lease_that_is_seen_again_nor_one_that_never_was_counts() {
        let mut heartbeats = Heartbeats::default();
        heartbeats.hear("a", Some("old".to_owned()), 100, FAILOVER);
        for now_s in 100..200 {
            // Lists show what was known already.
            heartbeats.hear("a", Some("old".to_owned()), now_s, FAILOVER);
            heartbeats.hear("b", Some(now_s.to_string()), now_s, FAILOVER);
            heartbeats.judge(now_s, FAILOVER);
        }
        assert!(heartbeats.is_silent("a") && !heartbeats.is_silent("new"));
        assert!(heartbeats.hear("a", None, 200, FAILOVER), "a lease that is gone says nothing of its node");
        assert!(!heartbeats.judge(250, None), "without failover nobody is judged");
    }
}
