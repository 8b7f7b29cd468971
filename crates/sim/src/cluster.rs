//! A cluster on one seed and a virtual clock: first with faults, then in peace.

use std::collections::BTreeMap;
use std::fmt;

use plan::Settings;

use crate::faults::{Fault, Faults};
use crate::judge::{self, Judge};
use crate::nodes::Nodes;
use crate::objects::Kind;
use crate::packets;
use crate::people::{Operation, People};
use crate::random::Random;
use crate::replica::{Controller, Election, LateWrite, Surroundings};
use crate::server::Server;

/// Steps with faults of a run.
pub const STEPS: u64 = 300;
/// So long everything has to settle once nothing goes wrong any more: long enough for what was written late, for ports to
/// drain, and for them to rest.
const SETTLED_WITHIN_MS: u64 = 600_000;
/// Nothing is written for that long: it is quiet. Longer than a move may be put off.
const QUIET_MS: u64 = 120_000;
/// So long a quiet cluster is watched.
const IDLE_MS: u64 = 40_000;
/// Lines of what happened last that a failure shows.
const TRAIL: usize = 40;

/// How a cluster is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything follows from it
    pub seed: u64,
    /// Steps with faults
    pub steps: u64,
    /// Whether all that happens is printed
    pub verbose: bool,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps, those in peace included
    pub steps: u64,
    /// Time that passed in the cluster
    pub virtual_ms: u64,
    /// What it took of that to settle
    pub settled_ms: u64,
    /// Writes by kind
    pub writes: BTreeMap<Kind, u64>,
    /// Times that another controller led
    pub leaders: u64,
    /// How often each fault happened
    pub faults: BTreeMap<Fault, u64>,
    /// What became of packets
    pub packets: packets::Counts,
    /// How often people did each thing
    pub operations: BTreeMap<Operation, u64>,
}

/// Something that must not be was.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Failure {
    /// The seed that gives it again
    pub seed: u64,
    /// When
    pub at_ms: u64,
    /// What
    pub what: String,
    /// What happened before
    pub trail: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trail {
            writeln!(f, "  {line}")?;
        }
        write!(f, "seed {} at {} ms: {}", self.seed, self.at_ms, self.what)
    }
}

/// Settings with short times, so that ports change hands often, leases of several parts, and gateways that list
/// EIPs late. Every other cluster counts as one that is too large to give ports before they are needed.
#[must_use]
pub fn settings(seed: u64) -> Settings {
    let settings = Settings::default();
    Settings {
        eager_nodes: if seed.is_multiple_of(2) { settings.eager_nodes } else { 0 },
        rest_s: 20,
        drain_s: 60,
        eips_per_lease: 1,
        long_list: 1,
        list_pause_ms_per_eip: 700,
        ..settings
    }
}

struct Cluster {
    options: Options,
    now_ms: u64,
    random: Random,
    server: Server,
    faults: Faults,
    people: People,
    nodes: Nodes,
    controllers: Vec<Controller>,
    election: Election,
    late: Vec<LateWrite>,
    outage_until_ms: u64,
    judge: Judge,
    steps: u64,
    packets: packets::Counts,
    trail: Vec<String>,
    /// Entries of logs that were told
    told: BTreeMap<Kind, usize>,
}

macro_rules! surroundings {
    ($cluster:ident) => {
        Surroundings {
            server: &mut $cluster.server,
            faults: &mut $cluster.faults,
            late: &mut $cluster.late,
            random: &mut $cluster.random,
            now_ms: $cluster.now_ms,
            is_outage: $cluster.now_ms < $cluster.outage_until_ms,
        }
    };
}

/// Runs a cluster.
pub fn run(options: Options) -> Result<Report, Box<Failure>> {
    let mut cluster = Cluster::new(options);
    match cluster.run() {
        Ok(settled_ms) => Ok(cluster.report(settled_ms)),
        Err(what) => Err(Box::new(Failure {
            seed: options.seed,
            at_ms: cluster.now_ms,
            what,
            trail: std::mem::take(&mut cluster.trail),
        })),
    }
}

impl Cluster {
    fn new(options: Options) -> Self {
        let mut random = Random::new(options.seed);
        let mut server = Server::new(random.split());
        let mut people = People::new(random.split());
        let faults = Faults::new(random.split());
        people.begin(&mut server);
        let replicas = 1 + random.below(2);
        let settings = settings(options.seed);
        let rest_s = u64::try_from(settings.rest_s.min(settings.drain_s)).unwrap_or(0);
        Self {
            options,
            now_ms: 0,
            controllers: (0..replicas).map(|index| Controller::new(index, settings.clone(), 0)).collect(),
            random,
            server,
            faults,
            people,
            nodes: Nodes::default(),
            election: Election::default(),
            late: Vec::new(),
            outage_until_ms: 0,
            judge: Judge::new(rest_s),
            steps: 0,
            packets: packets::Counts::default(),
            trail: Vec::new(),
            told: BTreeMap::new(),
        }
    }

    /// The whole of it. How long it took to settle.
    fn run(&mut self) -> Result<u64, String> {
        for _ in 0..self.options.steps {
            // Most of the time much happens at once, and sometimes nothing for long.
            let pause_ms = if self.random.permille(30) { 5_000 } else { 400 };
            let pause_ms = self.random.between(1, pause_ms);
            self.step(pause_ms)?;
        }
        self.say(|| "peace".to_owned());
        self.faults.at_peace = true;
        self.people.at_peace = true;
        self.outage_until_ms = 0;
        self.nodes.make_peace(self.now_ms);
        let settled_ms = self.settle()?;
        let mut orders = [self.random.split(), self.random.split()];
        judge::at_rest(&self.server, &settings(self.options.seed), &mut orders)?;
        // Before the packets: connections use ports, which nodes tell.
        self.idle()?;
        packets::at_rest(&self.server, &self.nodes, self.now_ms, &mut self.packets)?;
        Ok(settled_ms)
    }

    /// Until nothing is written any more.
    fn settle(&mut self) -> Result<u64, String> {
        let begun_ms = self.now_ms;
        let (mut written, mut quiet_since_ms) = (self.written(), self.now_ms);
        loop {
            let did = self.step(if self.is_busy() { 200 } else { 4_000 })?;
            if self.written() != written || did || self.is_busy() {
                (written, quiet_since_ms) = (self.written(), self.now_ms);
            }
            let waits = self.controllers.iter().any(|controller| controller.waits().0.is_some());
            if !waits && self.now_ms - quiet_since_ms >= QUIET_MS {
                return Ok(quiet_since_ms - begun_ms);
            }
            if self.now_ms - begun_ms > SETTLED_WITHIN_MS {
                let waits: Vec<_> = self.controllers.iter().map(Controller::waits).collect();
                return Err(format!("nothing has settled in {SETTLED_WITHIN_MS} ms: {waits:?}"));
            }
        }
    }

    fn idle(&mut self) -> Result<(), String> {
        let (written, begun_ms) = (self.server.writes.clone(), self.now_ms);
        while self.now_ms - begun_ms < IDLE_MS {
            self.step(4_000)?;
        }
        if self.server.writes != written {
            return Err(format!("a quiet cluster writes: {written:?} became {:?}", self.server.writes));
        }
        Ok(())
    }

    fn written(&self) -> u64 {
        self.server.writes.values().sum()
    }

    fn is_busy(&self) -> bool {
        !self.late.is_empty()
            || !self.nodes.is_idle(&self.server)
            || self.controllers.iter().any(|controller| !controller.is_idle(&self.server))
    }

    /// Everybody does something. Whether a controller or an agent did.
    fn step(&mut self, pause_ms: u64) -> Result<bool, String> {
        self.steps += 1;
        self.now_ms += pause_ms;
        self.server.advance(self.now_ms);
        self.check()?;
        self.arrive()?;
        if self.faults.strikes(Fault::Outage) {
            self.outage_until_ms = self.now_ms + self.faults.amount(1_000, 40_000);
        }
        if let Some(operation) = self.people.turn(&mut self.server) {
            self.say(|| format!("people: {operation:?}"));
        }
        self.check()?;
        let mut around = surroundings!(self);
        let mut did = self.nodes.turn(&mut around)?;
        self.check()?;
        for index in 0..self.controllers.len() {
            let mut around = surroundings!(self);
            if let Some(controller) = self.controllers.get_mut(index) {
                did |= controller.turn(&mut self.election, &mut around)?;
            }
            self.check()?;
        }
        packets::probe(&self.server, &self.nodes, &mut self.random, self.now_ms, &mut self.packets)?;
        Ok(did)
    }

    /// Writes that were given up long ago are done.
    fn arrive(&mut self) -> Result<(), String> {
        let (due, later) =
            std::mem::take(&mut self.late).into_iter().partition(|late| late.at_ms <= self.now_ms);
        self.late = later;
        let due: Vec<LateWrite> = due;
        for late in due {
            let answer = self.server.write(&late.write);
            self.say(|| {
                format!("late: {} ({})", late.write.what, if answer.is_ok() { "done" } else { "refused" })
            });
            self.check()?;
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        self.tell();
        self.judge.look(&self.server, self.now_ms)
    }

    /// Tells what was written.
    fn tell(&mut self) {
        for kind in Kind::ALL {
            let log = self.server.log(*kind);
            let from = self.told.insert(*kind, log.len()).unwrap_or(0);
            for entry in log.get(from..).unwrap_or_default() {
                let verb = if entry.is_gone { "gone" } else { "is" };
                let (namespace, name) = &entry.key;
                let line = format!("{:>8} {kind:?} {namespace}/{name} {verb}", self.now_ms);
                let line = if self.options.verbose { format!("{line} {:?}", entry.object) } else { line };
                note(&mut self.trail, self.options.verbose, line);
            }
        }
    }

    fn say(&mut self, what: impl Fn() -> String) {
        let line = format!("{:>8} {}", self.now_ms, what());
        note(&mut self.trail, self.options.verbose, line);
    }

    fn report(self, settled_ms: u64) -> Report {
        Report {
            steps: self.steps,
            virtual_ms: self.now_ms,
            settled_ms,
            writes: self.server.writes,
            leaders: self.election.changes,
            faults: self.faults.counts,
            packets: self.packets,
            operations: self.people.counts,
        }
    }
}

fn note(trail: &mut Vec<String>, verbose: bool, line: String) {
    if verbose {
        println!("{line}");
    }
    if trail.len() >= TRAIL {
        trail.remove(0);
    }
    trail.push(line);
}
