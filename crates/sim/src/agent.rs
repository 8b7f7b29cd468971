//! The agent of a node: the real one without its threads.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use agent::converge::{Converger, Outcome};
use agent::probe::{Report, Setup};
use agent::status::{LeaseStatus, Standing, TunnelStatus};
use datapath::view::{NodeView, Settings};
use liveness::detector::TICK_MS;
use liveness::{Engine, Message, Outgoing, Uplink};
use model::port_lease::LeaseName;
use runtime::writer::{Action, Part, Write};

use crate::faults::Fault;
use crate::feed::Feed;
use crate::machine::Machine;
use crate::objects::Kind;
use crate::replica::{Surroundings, send};

/// Probes are so many times as slow as in a real cluster, and with them all that follows from them: a failure takes seconds
/// to be found out, and costs a tenth of the work.
pub const SLOWNESS: u64 = 10;
/// The kernel is read anew at least this often: less than in a real cluster, where it is cheaper.
const RESYNC_MS: u64 = 30_000;
/// What was written and is not seen after that long is written again.
const AGAIN_MS: u64 = 2_000;

/// A message on the wire.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// When it arrives, in the time of probes
    pub at_ms: u64,
    /// Who sends it
    pub from: String,
    /// Whom it is for
    pub to: String,
    /// What it says
    pub message: Message,
}

/// A running agent.
pub struct Agent {
    node: String,
    converger: Converger<Machine>,
    engine: Engine,
    feeds: Vec<Feed>,
    setup: Setup,
    standing: Standing,
    /// What the last report was made of
    told: Option<(u64, bool)>,
    loaded: Option<BTreeMap<String, u64>>,
    is_due: bool,
    resync_at_ms: u64,
    ticked_ms: u64,
    written: Option<TunnelStatus>,
    written_leases: BTreeMap<LeaseName, LeaseStatus>,
    again_at_ms: u64,
    /// It does not reach the API server before that
    pub cut_until_ms: u64,
    /// Whether everything that it does not know yet may matter: it has not made a pass since it started, or since its kernel
    /// was changed by others
    pub is_behind: bool,
}

/// A moment of virtual time.
fn instant(now_ms: u64) -> Instant {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    *BEGIN.get_or_init(Instant::now) + Duration::from_millis(now_ms)
}

/// The public key of a node's probes.
fn key(node: &str) -> [u8; 32] {
    [crate::people::node_number(node) + 1; 32]
}

/// Base64 of a key of one repeated byte.
fn key_text(node: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes = key(node);
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut padded = [0; 3];
        padded.iter_mut().zip(chunk).for_each(|(into, from)| *into = *from);
        let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for position in 0..4 {
            let is_padding = position > chunk.len();
            let index = usize::try_from(bits >> (18 - 6 * position) & 63).unwrap_or(0);
            let letter = ALPHABET.get(index).copied().map_or('A', char::from);
            text.push(if is_padding { '=' } else { letter });
        }
    }
    text
}

impl Agent {
    /// An agent that starts now, on a machine that it finds as it is. `epoch` grows with every start.
    #[must_use]
    pub fn new(node: &str, machine: Machine, epoch: u64, now_ms: u64) -> Self {
        let mut engine = Engine::new(node, epoch, now_ms / SLOWNESS);
        engine.set_uplink(Uplink::Carrier);
        Self {
            node: node.to_owned(),
            converger: Converger::new(node, Settings::default(), machine),
            engine,
            feeds: Kind::OF_AGENTS.iter().map(|kind| Feed::of_node(*kind, node)).collect(),
            setup: Setup::default(),
            standing: Standing { probe_key: key_text(node), ..Standing::default() },
            told: None,
            loaded: None,
            is_due: false,
            resync_at_ms: now_ms,
            ticked_ms: now_ms / SLOWNESS,
            written: None,
            written_leases: BTreeMap::new(),
            again_at_ms: 0,
            cut_until_ms: 0,
            is_behind: true,
        }
    }

    /// What it made of its node in the last pass.
    #[must_use]
    pub fn view(&self) -> Option<&NodeView> {
        self.converger.view()
    }

    /// Its kernel has been changed by others.
    pub fn kernel_changed(&mut self) {
        self.converger.kernel_changed();
        self.is_due = true;
        self.is_behind = true;
    }

    /// Whether it has seen everything.
    #[must_use]
    pub fn is_idle(&self, around: &crate::server::Server) -> bool {
        self.feeds.iter().all(|feed| feed.behind(around) == 0) && !self.is_due
    }

    /// Takes a datagram in that was sent by this node.
    pub fn receive(&mut self, now_ms: u64, from: &str, message: Message) -> Vec<Outgoing> {
        let is_genuine = self.setup.topology.nodes.get(from).is_some_and(|node| node.key == Some(key(from)));
        if is_genuine { self.engine.receive(now_ms, message) } else { Vec::new() }
    }

    /// Whether it can send to a node, and which kernels it asks whether they live.
    #[must_use]
    pub fn reaches(&self, node: &str) -> bool {
        self.setup.own.is_some() && self.setup.addresses.contains_key(node)
    }

    /// Probes go out, if it is time. `answers` tells which kernels answer.
    pub fn tick(&mut self, now_ms: u64, answers: impl Fn(&str) -> bool) -> Vec<Outgoing> {
        if now_ms < self.ticked_ms + TICK_MS {
            return Vec::new();
        }
        self.ticked_ms = now_ms;
        let silent: Vec<String> = self.engine.silent(now_ms).map(str::to_owned).collect();
        for node in silent.iter().filter(|node| answers(node)) {
            self.engine.kernel_answered(now_ms, node);
        }
        let out = self.engine.tick(now_ms);
        self.engine.take_events();
        out
    }

    /// Takes in what there is, makes a pass if one is due, and says what is to be said. Whether it did anything.
    pub fn turn(&mut self, around: &mut Surroundings<'_>) -> Result<bool, String> {
        let now_ms = around.now_ms;
        let is_reachable = !around.is_outage && now_ms >= self.cut_until_ms;
        let mut did = is_reachable && self.watch(around);
        self.report();
        if now_ms >= self.resync_at_ms {
            self.resync_at_ms = now_ms + RESYNC_MS;
            let counted = self.converger.measure_ports(instant(now_ms));
            counted.map_err(|error| format!("{}: {error}", self.node))?;
            self.converger.kernel_changed();
            self.converger.forget_connections();
            self.is_due = true;
        }
        self.is_due |= self.converger.next_pass().is_some_and(|at| at <= instant(now_ms));
        if !self.converger.objects().in_sync() {
            return Ok(did);
        }
        if std::mem::take(&mut self.is_due) {
            let outcome = self.converger.pass(instant(now_ms));
            let outcome = outcome.map_err(|error| {
                let mut text = format!("{}: {error}", self.node);
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    text = format!("{text}: {cause}");
                    source = cause.source();
                }
                text
            })?;
            did |= outcome.changes > 0;
            self.passed(now_ms, outcome);
        }
        Ok(self.say(around, is_reachable) || did)
    }

    fn watch(&mut self, around: &mut Surroundings<'_>) -> bool {
        let mut did = false;
        for feed in &mut self.feeds {
            if feed.behind(around.server) == 0 {
                if around.faults.strikes(Fault::LostWatch) {
                    feed.lose();
                }
                continue;
            }
            for change in feed.told(around.server, around.faults, around.random, 8) {
                let Some(event) = feed.kind.event(change) else { continue };
                self.is_due |= self.converger.absorb(event);
                did = true;
            }
        }
        did
    }

    fn report(&mut self) {
        let state = (self.engine.revision(), self.engine.in_doubt());
        if !self.engine.is_configured() || self.told == Some(state) {
            return;
        }
        self.told = Some(state);
        let report = Report::of(&self.engine);
        self.standing.claims = Some(report.claims_to_tell());
        self.is_due |= self.converger.report(report);
    }

    fn passed(&mut self, now_ms: u64, outcome: Outcome) {
        if let Some(inheritance) = outcome.inheritance {
            for (eip, claim) in inheritance.claims {
                self.engine.adopt(eip, claim);
            }
            for (eip, node) in inheritance.carriers {
                self.engine.seed_carrier(eip, node);
            }
        }
        if let Some(setup) = outcome.setup {
            self.engine.configure(now_ms / SLOWNESS, setup.topology.clone());
            self.setup = setup;
        }
        self.standing.own_generations = self.converger.own_generations();
        self.standing.is_complete = outcome.complete;
        self.standing.passes += 1;
        self.is_behind = false;
        if outcome.complete {
            let loaded = self.converger.loaded();
            if self.loaded.as_ref() != Some(&loaded) {
                self.engine.set_ready(true);
                self.engine.set_loaded(loaded.clone());
                self.loaded = Some(loaded);
            }
        }
    }

    /// Writes what its objects shall say.
    fn say(&mut self, around: &mut Surroundings<'_>, is_reachable: bool) -> bool {
        let wish = self.converger.wish(&self.standing);
        let is_settled = wish.tunnel.as_ref().is_none_or(|tunnel| tunnel.told) && wish.leases.is_empty();
        if is_settled || !is_reachable {
            return false;
        }
        if around.now_ms >= self.again_at_ms {
            self.written = None;
            self.written_leases.clear();
            self.again_at_ms = around.now_ms + AGAIN_MS;
        }
        let mut did = false;
        if let Some(tunnel) = wish.tunnel.filter(|tunnel| !tunnel.told)
            && self.written.as_ref() != Some(&tunnel.status)
        {
            let now = around.server.wall();
            let patch = tunnel.status.patch(now, now);
            if send(around, &self.write("egresstunnels", &self.node, patch)).is_ok() {
                self.written = Some(tunnel.status);
            }
            did = true;
        }
        for (name, lease) in wish.leases {
            if self.written_leases.get(&name) == Some(&lease) {
                continue;
            }
            if send(around, &self.write("egressportleases", &name.object(), lease.patch())).is_ok() {
                self.written_leases.insert(name, lease);
            }
            did = true;
        }
        did
    }

    fn write(&self, plural: &str, name: &str, patch: serde_json::Value) -> Write {
        Write {
            what: format!("{plural} {name}"),
            collection: format!("/apis/{}/{plural}", api::names::API_VERSION),
            name: name.to_owned(),
            action: Action::Patch(Part::Status, patch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_base64() {
        assert_eq!(key_text("n0"), "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
    }
}
