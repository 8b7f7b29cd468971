//! One node's liveness: probes, replies, notices, verdicts and claims, driven by datagrams and a clock.

mod assembly;
mod notice;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::EipPair;
use model::gateway_order::gateway_order;

use crate::detector::{Change, Detector, Pace, Uplink, Verdict};
use crate::ownership::{Claim, Decision, EipGroup, Gateway, Ownership};
use crate::wire::{Kind, MAX_CLAIMS, Message, Stamp};
use assembly::Assembly;
use notice::Notices;

/// Public key of a node's probes.
pub type PublicKey = [u8; 32];

/// Gateways without enough company ask some other nodes too, to know whether it is themselves who are cut off.
const WITNESSES: usize = 2;
/// A source node watches this many gateways of an EIP, and whoever claims it.
const WATCHED_GATEWAYS: usize = 8;
/// Confirmations of leases that are sent in one tick.
const CONFIRMATIONS: usize = 64;
/// Probes whose answers still count.
const OPEN_PROBES: usize = 16;
/// An answer to an older probe says nothing about now.
const ANSWER_MAX_MS: u64 = 1000;

/// What the node's objects say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// All other nodes that have a tunnel address
    pub nodes: BTreeMap<String, Node>,
    /// The EIPs of this node's own groups, and those that its pods use
    pub eips: BTreeMap<EipPair, EipGroup>,
    /// Those of `eips` that pods of this node use
    pub used: BTreeSet<EipPair>,
    /// Highest epoch with which each EIP is known to have been claimed: who never heard a claimant must outrank it all the
    /// same
    pub told: BTreeMap<EipPair, u64>,
}

/// Another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Key that its datagrams are checked with, once it is known
    pub key: Option<PublicKey>,
}

/// A message and whom it goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Names of the nodes
    pub to: Vec<String>,
    /// The same for all of them
    pub message: Message,
}

/// Something that a person may want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer came or went
    Verdict(Change),
    /// This node took an EIP or gave it up
    Claim(EipPair, Decision),
}

/// What is known of a node from its datagrams.
#[derive(Debug, Default)]
struct Peer {
    key: Option<PublicKey>,
    /// Since when this key is known
    key_since_ms: u64,
    /// Stamp of the newest datagram. `None` until it has answered a probe of this run: before that an old recording can't
    /// be told from a new message.
    newest: Option<Stamp>,
    uplink: bool,
    ready: bool,
    /// Generation of this node's leases that it has loaded; 0 before it has said so
    confirmed: u64,
    claims: Assembly,
    /// Probes that were sent to it: sequence and time.
    probes: VecDeque<(u64, u64)>,
}

/// One node's liveness.
#[derive(Debug)]
pub struct Engine {
    own: String,
    stamp: Stamp,
    ready: bool,
    /// Generation of each node's leases that this node's kernel holds.
    loaded: BTreeMap<String, u64>,
    /// Nodes that are to be told so.
    to_confirm: VecDeque<String>,
    uplink: Uplink,
    nodes: BTreeMap<String, Node>,
    used: BTreeSet<EipPair>,
    peers: BTreeMap<String, Peer>,
    detector: Detector,
    ownership: Ownership,
    notices: Notices,
    /// First claim of the next message, where not all fit.
    claims_offset: usize,
    events: Vec<Event>,
    configured: bool,
    /// Grows whenever something has changed that claims and carriers follow from.
    revision: u64,
    /// Revision, permission and moves of the last decision: with the same ones it would be the same.
    decided: Option<(u64, bool, usize)>,
}

impl Engine {
    /// Of this node. `epoch` must be higher than that of every earlier run with the same key.
    #[must_use]
    pub fn new(own: impl Into<String>, epoch: u64, now_ms: u64) -> Self {
        let own = own.into();
        Self {
            ownership: Ownership::new(own.clone()),
            own,
            stamp: Stamp { epoch, sequence: 0 },
            ready: false,
            loaded: BTreeMap::new(),
            to_confirm: VecDeque::new(),
            uplink: Uplink::Unknown,
            nodes: BTreeMap::new(),
            used: BTreeSet::new(),
            peers: BTreeMap::new(),
            detector: Detector::new(now_ms),
            notices: Notices::default(),
            claims_offset: 0,
            events: Vec::new(),
            configured: false,
            revision: 0,
            decided: None,
        }
    }

    /// Goes on with a claim of this node's last run. To be called before anything is sent.
    pub fn adopt(&mut self, eip: EipPair, claim: Claim) {
        self.ownership.adopt(eip, claim);
    }

    /// Remembers who carried an EIP for this node's pods before this run.
    pub fn seed_carrier(&mut self, eip: EipPair, node: String) {
        self.ownership.seed(eip, node);
    }

    /// Whether the kernel state of this node is complete: it can carry EIPs.
    pub fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
    }

    /// Which generation of each node's leases this node's kernel holds, as a gateway. Nodes whose leases are new here are
    /// told so; a lost word is made up for by the answer to their next probe.
    pub fn set_loaded(&mut self, loaded: BTreeMap<String, u64>) {
        let is_new = |(node, generation): &(&String, &u64)| self.loaded.get(*node) != Some(*generation);
        let new: Vec<String> = loaded.iter().filter(is_new).map(|(node, _)| node.clone()).collect();
        self.to_confirm.retain(|node| loaded.contains_key(node) && !new.contains(node));
        self.to_confirm.extend(new.into_iter().filter(|node| *node != self.own));
        self.loaded = loaded;
    }

    /// What each gateway has said about the leases of this node: the generation that its kernel holds.
    #[must_use]
    pub fn confirmed(&self) -> BTreeMap<String, u64> {
        let peers = self.peers.iter().filter(|(_, peer)| peer.confirmed != 0);
        peers.map(|(node, peer)| (node.clone(), peer.confirmed)).collect()
    }

    /// EIPs that somebody is known to carry: this node itself, or one whose claim was heard.
    #[must_use]
    pub fn claimed(&self) -> BTreeSet<EipPair> {
        let gateways = self.gateways();
        let eips = self.ownership.groups().map(|(eip, _)| *eip);
        eips.filter(|eip| self.ownership.is_claimed(eip, &gateways)).collect()
    }

    /// Confirmations that are due, a few at a time: a signature takes time.
    fn confirmations(&mut self) -> Vec<Outgoing> {
        let due: Vec<String> = (0..CONFIRMATIONS).map_while(|_| self.to_confirm.pop_front()).collect();
        let known = due.into_iter().filter(|node| self.nodes.contains_key(node)).collect::<Vec<_>>();
        known
            .into_iter()
            .map(|node| {
                let mut message = self.message(Kind::Notice, Stamp::default(), Some(Vec::new()));
                message.generation = self.loaded.get(&node).copied().unwrap_or_default();
                Outgoing { to: vec![node], message }
            })
            .collect()
    }

    /// What is known of the way outside.
    pub fn set_uplink(&mut self, uplink: Uplink) {
        self.uplink = uplink;
    }

    /// Takes over what the objects say. To be called only with complete lists.
    pub fn configure(&mut self, now_ms: u64, topology: Topology) {
        let Topology { mut nodes, eips, used, told } = topology;
        nodes.remove(&self.own);
        for (node, info) in &nodes {
            let peer = self.peers.entry(node.clone()).or_default();
            if peer.key != info.key {
                *peer = Peer {
                    key: info.key,
                    key_since_ms: now_ms,
                    claims: std::mem::take(&mut peer.claims),
                    uplink: peer.uplink,
                    ready: peer.ready,
                    ..Peer::default()
                };
            }
        }
        self.peers.retain(|node, _| nodes.contains_key(node));
        self.nodes = nodes;
        self.used = used;
        self.ownership.configure(now_ms, eips, &told);
        self.configured = true;
        self.revision += 1;
        self.watch(now_ms);
    }

    /// Chooses who is watched, and how closely.
    fn watch(&mut self, now_ms: u64) {
        let mut fast: BTreeSet<&str> = BTreeSet::new();
        let mut slow: BTreeSet<&str> = BTreeSet::new();
        for (eip, group) in self.ownership.groups() {
            // Who has left a group carries on until another one does.
            if group.nodes.contains(&self.own) || self.ownership.claims().contains_key(eip) {
                fast.extend(group.nodes.iter().map(String::as_str));
            }
            if self.used.contains(eip) {
                let nodes = group.nodes.iter().map(String::as_str).collect();
                let order = gateway_order(eip, &nodes, group.preferred.as_deref());
                slow.extend(order.into_iter().take(WATCHED_GATEWAYS));
                let claims =
                    |node: &&str| self.peers.get(*node).is_some_and(|peer| peer.claims.get(eip).is_some());
                slow.extend(nodes.into_iter().filter(claims));
            }
        }
        let is_gateway = !fast.is_empty();
        let own = self.own.as_str();
        let known = |node: &&str| *node != own && self.nodes.contains_key(*node);
        fast.retain(known);
        if is_gateway && fast.len() <= WITNESSES {
            // The next ones by name, in a ring, so that not everybody asks the same ones.
            let with_key =
                |(node, info): (&'_ String, &Node)| info.key.is_some() && !fast.contains(node.as_str());
            let after = self.nodes.iter().filter(|(node, _)| node.as_str() > own);
            let ring = after.chain(self.nodes.iter().filter(|(node, _)| node.as_str() < own));
            let witnesses: Vec<&str> = ring
                .filter(|(node, info)| with_key((node, info)))
                .map(|(node, _)| node.as_str())
                .take(WITNESSES)
                .collect();
            fast.extend(witnesses);
        }
        slow.retain(known);
        let key_since_ms = |node: &str| {
            let peer = self.peers.get(node)?;
            peer.key.map(|_| peer.key_since_ms)
        };
        let slow = slow.into_iter().map(|node| (node, Pace::Slow));
        let all = slow.chain(fast.into_iter().map(|node| (node, Pace::Fast)));
        let wanted = all.map(|(node, pace)| (node.to_owned(), (pace, key_since_ms(node)))).collect();
        self.detector.watch(now_ms, &wanted);
    }

    /// Takes a message whose signature was found to be its node's. Returns what is to be sent at once.
    pub fn receive(&mut self, now_ms: u64, message: Message) -> Vec<Outgoing> {
        let Some(peer) = self.peers.get_mut(&message.node) else {
            return Vec::new();
        };
        if peer.newest.is_some_and(|newest| message.stamp <= newest) {
            return Vec::new();
        }
        let mut fresh = peer.newest.is_some();
        if message.kind == Kind::Reply && message.ack.epoch == self.stamp.epoch {
            let asked = peer.probes.iter().any(|(sequence, sent_ms)| {
                *sequence == message.ack.sequence && now_ms.saturating_sub(*sent_ms) <= ANSWER_MAX_MS
            });
            if asked {
                self.detector.heard(now_ms, &message.node);
                fresh = true;
            } else {
                self.notices.acknowledged(&message.node, message.ack.sequence);
            }
        }
        let node = message.node.clone();
        let (kind, stamp) = (message.kind, message.stamp);
        if fresh {
            self.absorb(now_ms, message);
        }
        let mut out = Vec::new();
        if matches!(kind, Kind::Probe | Kind::Notice) {
            let mut reply = self.message(Kind::Reply, stamp, None);
            reply.generation = self.loaded.get(&node).copied().unwrap_or_default();
            out.push(Outgoing { to: vec![node.clone()], message: reply });
        }
        if kind == Kind::Notice && !fresh {
            out.push(self.probe(now_ms, vec![node]));
        }
        out
    }

    fn absorb(&mut self, now_ms: u64, message: Message) {
        let Some(peer) = self.peers.get_mut(&message.node) else {
            return;
        };
        if peer.newest.is_some_and(|newest| newest.epoch != message.stamp.epoch) {
            peer.claims.restarted();
        }
        let state_changed = (peer.uplink, peer.ready) != (message.uplink, message.ready);
        peer.newest = Some(message.stamp);
        peer.uplink = message.uplink;
        peer.ready = message.ready;
        // Messages to several nodes speak of no one's leases.
        let news = message.generation != 0 && peer.confirmed != message.generation;
        if news {
            peer.confirmed = message.generation;
        }
        for (eip, claim) in &message.claims {
            self.ownership.saw(*eip, claim.epoch);
        }
        let claims_changed = match message.kind {
            Kind::Notice => peer.claims.add(message.claims),
            Kind::Probe | Kind::Reply => peer.claims.absorb(&message),
        };
        if state_changed || claims_changed || news {
            self.revision += 1;
        }
        if claims_changed {
            // Whoever claims what this node uses is watched from now on.
            self.watch(now_ms);
        }
    }

    /// The kernel of a node answered an echo request of ours.
    pub fn kernel_answered(&mut self, now_ms: u64, node: &str) {
        self.detector.kernel_answered(now_ms, node);
    }

    /// Nodes whose kernels are to be asked now, by an echo request to the tunnel address.
    pub fn silent(&self, now_ms: u64) -> impl Iterator<Item = &str> {
        self.detector.silent(now_ms)
    }

    /// Judges, decides, and returns what is to be sent. To be called every [`crate::detector::TICK_MS`], after all waiting
    /// datagrams were handed in.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Outgoing> {
        if !self.configured {
            return Vec::new();
        }
        let changes = self.detector.tick(now_ms);
        self.revision += u64::from(!changes.is_empty());
        self.events.extend(changes.into_iter().map(Event::Verdict));
        let mut out = self.decide(now_ms);
        out.extend(self.confirmations());
        let due: Vec<String> = self
            .detector
            .verdicts()
            .map(|(node, _)| node)
            .filter(|node| {
                let last = self.peers.get(*node).and_then(|peer| peer.probes.back());
                last.is_none_or(|(_, sent_ms)| {
                    self.detector.next_probe_ms(node, *sent_ms).is_some_and(|next| next <= now_ms)
                })
            })
            .map(str::to_owned)
            .collect();
        if !due.is_empty() {
            out.push(self.probe(now_ms, due));
        }
        out
    }

    fn decide(&mut self, now_ms: u64) -> Vec<Outgoing> {
        let may_take = self.ready && self.detector.may_take(self.uplink);
        let moves = self.ownership.moves(now_ms);
        let decisions = if self.decided == Some((self.revision, may_take, moves)) {
            Vec::new()
        } else {
            self.decided = Some((self.revision, may_take, moves));
            self.ownership.decide(now_ms, &self.gateways(), may_take)
        };
        self.revision += u64::from(!decisions.is_empty());
        let taken: BTreeSet<EipPair> = decisions
            .iter()
            .filter(|(_, decision)| matches!(decision, Decision::Take(_)))
            .map(|(eip, _)| *eip)
            .collect();
        self.events.extend(decisions.into_iter().map(|(eip, decision)| Event::Claim(eip, decision)));
        let nodes: BTreeSet<String> = self.nodes.keys().cloned().collect();
        self.notices.announce(now_ms, taken, &nodes);
        let due = self.notices.due(now_ms);
        due.into_iter()
            .flat_map(|(id, to, eips)| {
                let held = self.ownership.claims();
                let claims = eips.iter().filter_map(|eip| Some((*eip, *held.get(eip)?)));
                let claims: Vec<_> = claims.collect();
                let parts: Vec<_> = claims.chunks(MAX_CLAIMS).map(<[_]>::to_vec).collect();
                parts.into_iter().map(move |part| (id, to.clone(), part))
            })
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(id, to, claims)| {
                let message = self.message(Kind::Notice, Stamp::default(), Some(claims));
                self.notices.sent(id, message.stamp.sequence);
                Outgoing { to, message }
            })
            .collect()
    }

    fn gateways(&self) -> BTreeMap<String, Gateway> {
        let seen = |(node, verdict): (&str, Verdict)| {
            let peer = self.peers.get(node)?;
            let gateway = Gateway {
                verdict,
                heard: self.detector.was_heard(node),
                uplink: peer.uplink,
                ready: peer.ready,
                claims: peer.claims.all().clone(),
            };
            Some((node.to_owned(), gateway))
        };
        self.detector.verdicts().filter_map(seen).collect()
    }

    fn probe(&mut self, now_ms: u64, to: Vec<String>) -> Outgoing {
        let message = self.message(Kind::Probe, Stamp::default(), None);
        for node in &to {
            if let Some(peer) = self.peers.get_mut(node) {
                peer.probes.push_back((message.stamp.sequence, now_ms));
                if peer.probes.len() > OPEN_PROBES {
                    peer.probes.pop_front();
                }
            }
        }
        Outgoing { to, message }
    }

    /// A message with the next stamp; with these claims (a notice), or with the next ones of all.
    fn message(&mut self, kind: Kind, ack: Stamp, only: Option<Vec<(EipPair, Claim)>>) -> Message {
        self.stamp.sequence += 1;
        let held = self.ownership.claims();
        let (offset, total, claims) = match only {
            Some(claims) => (0, claims.len(), claims),
            None => {
                let offset = if self.claims_offset < held.len() { self.claims_offset } else { 0 };
                let part = held.iter().skip(offset).take(MAX_CLAIMS);
                let claims: Vec<_> = part.map(|(eip, claim)| (*eip, *claim)).collect();
                self.claims_offset = offset + claims.len();
                (offset, held.len(), claims)
            }
        };
        Message {
            kind,
            node: self.own.clone(),
            stamp: self.stamp,
            ack,
            uplink: self.uplink != Uplink::Down,
            ready: self.ready,
            generation: 0,
            claims_version: self.ownership.version(),
            claims_total: u16::try_from(total).unwrap_or(u16::MAX),
            claims_offset: u16::try_from(offset).unwrap_or(u16::MAX),
            claims,
        }
    }

    /// Whether it was told what the objects say; before that nothing that it says means anything.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.configured
    }

    /// Grows whenever [`Self::claims`], [`Self::carriers`] or [`Self::verdicts`] may have changed.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What this node claims.
    #[must_use]
    pub fn claims(&self) -> &BTreeMap<EipPair, Claim> {
        self.ownership.claims()
    }

    /// Who carries each EIP that concerns this node; `None`: nobody lives.
    #[must_use]
    pub fn carriers(&self) -> BTreeMap<EipPair, Option<String>> {
        let gateways = self.gateways();
        let eips = self.ownership.groups().map(|(eip, _)| *eip);
        eips.map(|eip| (eip, self.ownership.carrier(&eip, &gateways))).collect()
    }

    /// The verdicts on all watched nodes.
    pub fn verdicts(&self) -> impl Iterator<Item = (&str, Verdict)> {
        self.detector.verdicts()
    }

    /// What happened since this was asked last.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether the silence around is so great that this node's own connection is to be looked at.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.detector.in_doubt()
    }

    /// How often this process was late.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.detector.stalls()
    }
}
