//! Which peers are alive.
//!
//! A peer is heard when it answers a probe of ours. Silence kills it, except for what this process slept through itself,
//! and except while its kernel still answers: then only its agent is away (restart, upgrade), the kernel forwards without it,
//! and it is given some time.

use std::collections::BTreeMap;

/// How often a gateway probes its peers.
pub const FAST_INTERVAL_MS: u64 = 100;
/// How long a fast peer may be silent.
pub const FAST_DEAD_AFTER_MS: u64 = 400;
/// How often a source node probes the gateways that it uses.
pub const SLOW_INTERVAL_MS: u64 = 1000;
/// How long such a gateway may be silent: one interval, and then as long as a fast peer.
pub const SLOW_DEAD_AFTER_MS: u64 = SLOW_INTERVAL_MS + FAST_DEAD_AFTER_MS + 200;
/// How long an agent may be away from a node that answers.
pub const AGENT_GRACE_MS: u64 = 10_000;
/// How long a peer that was never heard is waited for, counted from when its key is known: it may not know this node yet. A
/// fast peer whose key is known for longer must only answer in the time that it always has.
pub const START_GRACE_MS: u64 = 1000;
/// The same for one whose key is not known yet, which can't be heard before.
pub const KEYLESS_GRACE_MS: u64 = 3000;
/// From this silence on the peer's kernel is asked too.
pub const ASK_KERNEL_AFTER_MS: u64 = 150;
/// The detector wants to be asked at least this often; a longer gap was a stall of this process.
pub const TICK_MS: u64 = 20;
/// A peer that was heard this long ago vouches for our own connection.
const WITNESS_MS: u64 = 2 * FAST_INTERVAL_MS;
const STALL_MS: u64 = 4 * TICK_MS;

/// How closely a peer is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A gateway of a common group, or a witness of this gateway's own connection
    Fast,
    /// A gateway that this node only uses
    Slow,
}

impl Pace {
    fn interval_ms(self) -> u64 {
        match self {
            Self::Fast => FAST_INTERVAL_MS,
            Self::Slow => SLOW_INTERVAL_MS,
        }
    }

    fn dead_after_ms(self) -> u64 {
        match self {
            Self::Fast => FAST_DEAD_AFTER_MS,
            Self::Slow => SLOW_DEAD_AFTER_MS,
        }
    }
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too early to tell
    Unknown,
    /// Its agent answers
    Alive,
    /// Its kernel answers, its agent does not, and that is not so for long
    AgentAway,
    /// Neither, or its agent is away for too long
    Dead,
}

impl Verdict {
    /// Whether the node can still carry packets.
    #[must_use]
    pub fn forwards(self) -> bool {
        matches!(self, Self::Alive | Self::AgentAway)
    }
}

/// What this node knows of its own way outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uplink {
    /// Not looked at yet
    #[default]
    Unknown,
    /// No carrier, or the next hop does not answer
    Down,
    /// Carrier, and there is no next hop that could be asked
    Carrier,
    /// The next hop answered just now
    Proven,
}

/// A verdict that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose
    pub node: String,
    /// Before
    pub from: Verdict,
    /// Now
    pub to: Verdict,
    /// When, on the caller's clock
    pub at_ms: u64,
}

#[derive(Clone, Debug)]
struct Peer {
    pace: Pace,
    /// Since when its key is known
    key_since_ms: Option<u64>,
    /// Since when it is watched, and can be heard
    known_since_ms: u64,
    heard_ms: Option<u64>,
    kernel_ms: Option<u64>,
    verdict: Verdict,
    verdict_since_ms: u64,
}

impl Peer {
    fn judge(&self, now_ms: u64) -> Verdict {
        let silent = |since: Option<u64>| since.map(|at| now_ms.saturating_sub(at));
        let dead_after = self.pace.dead_after_ms();
        if silent(self.heard_ms).is_some_and(|silence| silence < dead_after) {
            return Verdict::Alive;
        }
        let kernel_answers = silent(self.kernel_ms).is_some_and(|silence| silence < FAST_DEAD_AFTER_MS);
        let since = self.heard_ms.unwrap_or(self.known_since_ms);
        if kernel_answers && now_ms.saturating_sub(since) < AGENT_GRACE_MS {
            return Verdict::AgentAway;
        }
        if self.heard_ms.is_none() && now_ms < self.waited_for_until_ms() {
            return Verdict::Unknown;
        }
        Verdict::Dead
    }

    /// When a peer that was never heard is given up.
    fn waited_for_until_ms(&self) -> u64 {
        let grace = match (self.key_since_ms, self.pace) {
            (None, _) => KEYLESS_GRACE_MS,
            (Some(_), Pace::Slow) => START_GRACE_MS,
            (Some(_), Pace::Fast) => FAST_DEAD_AFTER_MS,
        };
        let knows_us = self.key_since_ms.map_or(0, |since| since + START_GRACE_MS);
        knows_us.max(self.known_since_ms + grace)
    }
}

/// More than half of the fast peers went away at once.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    peers_before: usize,
}

/// Watches the peers of one node.
#[derive(Debug)]
pub struct Detector {
    peers: BTreeMap<String, Peer>,
    last_tick_ms: u64,
    stalls: u64,
    doubt: Option<Doubt>,
}

impl Detector {
    /// Without peers.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self { peers: BTreeMap::new(), last_tick_ms: now_ms, stalls: 0, doubt: None }
    }

    /// Watches exactly these peers, each with its pace and since when its key is known. What is known of those that stay,
    /// stays.
    pub fn watch(&mut self, now_ms: u64, wanted: &BTreeMap<String, (Pace, Option<u64>)>) {
        self.peers.retain(|node, _| wanted.contains_key(node));
        for (node, (pace, key_since_ms)) in wanted {
            let peer = self.peers.entry(node.clone()).or_insert_with(|| Peer {
                pace: *pace,
                key_since_ms: *key_since_ms,
                known_since_ms: now_ms,
                heard_ms: None,
                kernel_ms: None,
                verdict: Verdict::Unknown,
                verdict_since_ms: now_ms,
            });
            if key_since_ms.is_some() && peer.key_since_ms.is_none() && peer.heard_ms.is_none() {
                peer.known_since_ms = now_ms;
            }
            if *pace == Pace::Fast && peer.pace == Pace::Slow {
                // It was asked once a second until now: let it answer at the new pace first.
                peer.heard_ms = peer.heard_ms.map(|_| now_ms).filter(|_| peer.verdict == Verdict::Alive);
            }
            peer.pace = *pace;
            // A later time than the given one is one that a stall has put off.
            peer.key_since_ms =
                key_since_ms.map(|since| peer.key_since_ms.map_or(since, |known| known.max(since)));
        }
    }

    /// The peer's agent answered a probe.
    pub fn heard(&mut self, now_ms: u64, node: &str) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.heard_ms = Some(now_ms);
        }
    }

    /// The peer's kernel answered an echo request.
    pub fn kernel_answered(&mut self, now_ms: u64, node: &str) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.kernel_ms = Some(now_ms);
        }
    }

    /// Judges every peer anew. To be called after all datagrams that wait have been handed in: what arrived while this
    /// process slept counts as heard now.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Change> {
        self.discount_stall(now_ms);
        let before = self.fast().filter(|peer| peer.verdict.forwards()).count();
        let mut changes = Vec::new();
        let mut lost = 0;
        for (node, peer) in &mut self.peers {
            let verdict = peer.judge(now_ms);
            if verdict == peer.verdict {
                continue;
            }
            changes.push(Change { node: node.clone(), from: peer.verdict, to: verdict, at_ms: now_ms });
            lost += usize::from(peer.pace == Pace::Fast && peer.verdict.forwards() && !verdict.forwards());
            peer.verdict = verdict;
            peer.verdict_since_ms = now_ms;
        }
        self.update_doubt(now_ms, before, lost);
        if before == 0 && self.fast().any(|peer| peer.verdict.forwards()) {
            changes.extend(self.rejoin(now_ms));
        }
        changes
    }

    /// Silence during our own stall says nothing about a peer: time stands still for all of them.
    fn discount_stall(&mut self, now_ms: u64) {
        let gap = now_ms.saturating_sub(self.last_tick_ms);
        self.last_tick_ms = now_ms;
        if gap <= STALL_MS {
            return;
        }
        self.stalls += 1;
        for peer in self.peers.values_mut() {
            peer.known_since_ms = (peer.known_since_ms + gap).min(now_ms);
            for at in [&mut peer.key_since_ms, &mut peer.heard_ms, &mut peer.kernel_ms].into_iter().flatten()
            {
                *at = (*at + gap).min(now_ms);
            }
        }
    }

    /// After a time alone, the first voice says that the silence was ours: what we thought dead is waited for anew.
    fn rejoin(&mut self, now_ms: u64) -> Vec<Change> {
        let dead = self.peers.iter_mut().filter(|(_, peer)| peer.verdict == Verdict::Dead);
        dead.map(|(node, peer)| {
            peer.known_since_ms = now_ms;
            peer.key_since_ms = peer.key_since_ms.map(|_| now_ms);
            peer.heard_ms = None;
            peer.verdict = Verdict::Unknown;
            peer.verdict_since_ms = now_ms;
            Change { node: node.clone(), from: Verdict::Dead, to: Verdict::Unknown, at_ms: now_ms }
        })
        .collect()
    }

    fn update_doubt(&mut self, now_ms: u64, before: usize, lost_now: usize) {
        if lost_now > 0 && self.doubt.is_none() {
            // Peers that die of one cause are noticed within one probe interval of each other, and a bit.
            let window = 2 * FAST_INTERVAL_MS;
            let lost = self
                .fast()
                .filter(|peer| {
                    peer.verdict == Verdict::Dead
                        && peer.heard_ms.is_some()
                        && now_ms.saturating_sub(peer.verdict_since_ms) <= window
                })
                .count();
            let peers_before = before - lost_now + lost.max(lost_now);
            if lost * 2 > peers_before {
                self.doubt = Some(Doubt { peers_before });
            }
        }
        let reachable = self.fast().filter(|peer| peer.verdict.forwards()).count();
        if self.doubt.is_some_and(|doubt| reachable * 2 >= doubt.peers_before) {
            self.doubt = None;
        }
    }

    fn fast(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().filter(|peer| peer.pace == Pace::Fast)
    }

    /// Whether this node may take over anything, seen from its own connection: not when the silence around it is more
    /// likely its own fault.
    #[must_use]
    pub fn may_take(&self, uplink: Uplink) -> bool {
        let peers = self.fast().filter(|peer| peer.key_since_ms.is_some()).count();
        // Peers that one cause has taken away are not all noticed in one tick: only who was heard just now is a witness.
        let heard_now =
            |at: Option<u64>| at.is_some_and(|at| self.last_tick_ms.saturating_sub(at) <= WITNESS_MS);
        let reachable = self.fast().any(|peer| heard_now(peer.heard_ms) || heard_now(peer.kernel_ms));
        match uplink {
            Uplink::Unknown | Uplink::Down => false,
            Uplink::Proven => true,
            Uplink::Carrier => reachable || self.doubt.map_or(peers, |doubt| doubt.peers_before) <= 1,
        }
    }

    /// Whether more than half of the peers went away at once and have not come back: the uplink is to be looked at now.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Verdict on a peer; `None` for a node that is not watched.
    #[must_use]
    pub fn verdict(&self, node: &str) -> Option<Verdict> {
        self.peers.get(node).map(|peer| peer.verdict)
    }

    /// Whether the peer was ever heard.
    #[must_use]
    pub fn was_heard(&self, node: &str) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.heard_ms.is_some())
    }

    /// When the next probe to a peer is due after one at that time: at once the fast way while it is silent.
    #[must_use]
    pub fn next_probe_ms(&self, node: &str, last_probe_ms: u64) -> Option<u64> {
        let peer = self.peers.get(node)?;
        let waits = peer.heard_ms.is_none_or(|heard| heard < last_probe_ms);
        // A dead gateway need not be asked ten times a second for ever by everyone who once used it.
        let fast = waits && peer.verdict != Verdict::Dead;
        let interval = if fast { FAST_INTERVAL_MS } else { peer.pace.interval_ms() };
        Some(last_probe_ms + interval)
    }

    /// Peers that are silent, whose kernels are to be asked.
    pub fn silent(&self, now_ms: u64) -> impl Iterator<Item = &str> {
        self.peers.iter().filter_map(move |(node, peer)| {
            let since = peer.heard_ms.unwrap_or(peer.known_since_ms);
            let overdue = match peer.pace {
                Pace::Fast => 0,
                Pace::Slow => SLOW_INTERVAL_MS,
            };
            let silence = now_ms.saturating_sub(since);
            (silence > ASK_KERNEL_AFTER_MS + overdue && silence < AGENT_GRACE_MS).then_some(node.as_str())
        })
    }

    /// The watched peers and the verdicts on them.
    pub fn verdicts(&self) -> impl Iterator<Item = (&str, Verdict)> {
        self.peers.iter().map(|(node, peer)| (node.as_str(), peer.verdict))
    }

    /// How often this process was late.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stalls
    }
}

#[cfg(test)]
mod tests;
