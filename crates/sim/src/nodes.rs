//! All nodes of a cluster, their agents, and the wire between them.

use std::collections::{BTreeMap, BTreeSet};

use liveness::Outgoing;
use liveness::detector::TICK_MS;

use crate::agent::{Agent, Datagram, SLOWNESS};
use crate::faults::Fault;
use crate::machine::Machine;
use crate::objects::Kind;
use crate::people::set_ready;
use crate::replica::Surroundings;

/// A node.
pub struct Node {
    /// Its kernel
    pub machine: Machine,
    /// Its agent; `None` while the node is dead
    pub agent: Option<Agent>,
    /// Others don't reach it before that
    pub cut_until_ms: u64,
    /// It is dead until then
    dead_until_ms: u64,
}

/// All nodes.
#[derive(Default)]
pub struct Nodes {
    /// By name
    pub nodes: BTreeMap<String, Node>,
    wire: Vec<Datagram>,
    probe_ms: u64,
    starts: u64,
}

impl Nodes {
    /// Everybody does something. Whether anybody did.
    pub fn turn(&mut self, around: &mut Surroundings<'_>) -> Result<bool, String> {
        self.join(around);
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in &names {
            self.suffer(name, around);
        }
        self.probe(around);
        let mut did = false;
        for node in self.nodes.values_mut() {
            if let Some(agent) = &mut node.agent {
                did |= agent.turn(around)?;
            }
        }
        Ok(did)
    }

    /// Whether everybody has seen everything.
    #[must_use]
    pub fn is_idle(&self, server: &crate::server::Server) -> bool {
        self.nodes.values().all(|node| node.agent.as_ref().is_some_and(|agent| agent.is_idle(server)))
    }

    /// All that is cut off, or dead, comes back.
    pub fn make_peace(&mut self, now_ms: u64) {
        for node in self.nodes.values_mut() {
            node.cut_until_ms = now_ms;
            node.dead_until_ms = now_ms;
            if let Some(agent) = &mut node.agent {
                agent.cut_until_ms = now_ms;
            }
        }
    }

    /// Nodes are those that have an object.
    fn join(&mut self, around: &Surroundings<'_>) {
        let wanted: BTreeSet<&str> =
            around.server.all(Kind::Node).keys().map(|(_, name)| name.as_str()).collect();
        self.nodes.retain(|name, _| wanted.contains(name.as_str()));
        for name in wanted {
            if !self.nodes.contains_key(name) {
                let node =
                    Node { machine: Machine::new(name), agent: None, cut_until_ms: 0, dead_until_ms: 0 };
                self.nodes.insert(name.to_owned(), node);
            }
        }
    }

    fn suffer(&mut self, name: &str, around: &mut Surroundings<'_>) {
        let now_ms = around.now_ms;
        let Some(node) = self.nodes.get_mut(name) else { return };
        if now_ms < node.dead_until_ms {
            return;
        }
        let Some(agent) = &mut node.agent else {
            // It begins, or is back.
            self.starts += 1;
            node.agent = Some(Agent::new(name, node.machine.clone(), self.starts, now_ms));
            if node.dead_until_ms > 0 {
                set_ready(around.server, name, true);
            }
            return;
        };
        if around.faults.strikes(Fault::NodeDeath) {
            node.agent = None;
            node.machine = Machine::new(name);
            node.dead_until_ms = now_ms + around.faults.amount(2_000, 60_000);
            set_ready(around.server, name, false);
            return;
        }
        if around.faults.strikes(Fault::ForeignFlush) {
            node.machine.flush();
            agent.kernel_changed();
        }
        if around.faults.strikes(Fault::AgentCut) {
            agent.cut_until_ms = now_ms + around.faults.amount(1_000, 40_000);
        }
        if around.faults.strikes(Fault::PeersCut) {
            node.cut_until_ms = now_ms + around.faults.amount(1_000, 40_000);
        }
        if around.faults.strikes(Fault::AgentRestart) {
            self.starts += 1;
            node.agent = Some(Agent::new(name, node.machine.clone(), self.starts, now_ms));
        }
    }

    /// Probes until now, tick by tick.
    fn probe(&mut self, around: &mut Surroundings<'_>) {
        let end_ms = around.now_ms / SLOWNESS;
        while self.probe_ms + TICK_MS <= end_ms {
            self.probe_ms += TICK_MS;
            self.deliver(around);
            let cut: BTreeSet<String> = self
                .nodes
                .iter()
                .filter(|(_, node)| node.agent.is_none() || around.now_ms < node.cut_until_ms)
                .map(|(name, _)| name.clone())
                .collect();
            let mut out = Vec::new();
            for (name, node) in &mut self.nodes {
                let Some(agent) = &mut node.agent else { continue };
                let answers = |other: &str| !cut.contains(name) && !cut.contains(other);
                out.push((name.clone(), agent.tick(self.probe_ms, answers)));
            }
            for (from, out) in out {
                self.send(&from, out, around);
            }
        }
    }

    fn deliver(&mut self, around: &mut Surroundings<'_>) {
        let now_ms = self.probe_ms;
        let (arrived, later) = std::mem::take(&mut self.wire).into_iter().partition(|it| it.at_ms <= now_ms);
        self.wire = later;
        let arrived: Vec<Datagram> = arrived;
        for Datagram { from, to, message, .. } in arrived {
            let is_cut =
                |name: &str| self.nodes.get(name).is_none_or(|node| around.now_ms < node.cut_until_ms);
            if is_cut(&from) || is_cut(&to) {
                continue;
            }
            let agent = self.nodes.get_mut(&to).and_then(|node| node.agent.as_mut());
            let out = agent.map(|agent| agent.receive(now_ms, &from, message)).unwrap_or_default();
            self.send(&to, out, around);
        }
    }

    fn send(&mut self, from: &str, out: Vec<Outgoing>, around: &mut Surroundings<'_>) {
        let Some(agent) = self.nodes.get(from).and_then(|node| node.agent.as_ref()) else { return };
        for Outgoing { to, message } in out {
            for to in to.into_iter().filter(|to| agent.reaches(to)) {
                if around.faults.strikes(Fault::LostDatagram) {
                    continue;
                }
                let at_ms = self.probe_ms + around.random.between(1, 2 * TICK_MS);
                self.wire.push(Datagram { at_ms, from: from.to_owned(), to, message: message.clone() });
            }
        }
    }
}
