//! The loop: takes in what has happened, makes a pass, tells the others.
//!
//! It has a thread and a runtime of its own, for passes block. The API server is not in its way: without it no objects come, and
//! the loop goes on with those that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use liveness::Uplink as UplinkState;
use model::EipPair;
use model::port_lease::LeaseName;
use model::tunnel::Claim;
use runtime::readiness::{Guard, Heartbeat};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::announcer::Announcer;
use crate::converge::{Converger, Outcome};
use crate::debug::Asked;
use crate::defence::{Charge, Conflicts, Defence};
use crate::linux::Linux;
use crate::metrics::Metrics;
use crate::objects::Event;
use crate::probe::{Probe, Report};
use crate::snapshot::{Snapshot, SnapshotWriter};
use crate::status::{Standing, Wish};

/// Events that are taken in before a pass is made.
const BATCH: usize = 4096;
/// Objects come in groups: a pass waits this long for the rest. What the probe thread says does not wait.
const DEBOUNCE: Duration = Duration::from_millis(3);
/// The kernel is read anew at least this often, whatever it tells.
const RESYNC: Duration = Duration::from_secs(10);
/// The API server has this long to list everything; then an earlier run's lists stand in for what is missing.
const LISTS_WITHIN: Duration = Duration::from_secs(5);
/// How often changed objects are written to disk.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(5);
/// How often the kernel is told that the agent lives.
const ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How often the uplink's wire is looked at, and whether the kernel still answers for EIPs: it tells nobody when a proxy
/// entry goes.
const UPLINK_INTERVAL: Duration = Duration::from_millis(200);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A node that could not be programmed for this long says so.
const FAILING_AFTER: Duration = Duration::from_secs(5);

/// What comes in.
pub struct Inbox {
    /// What watches say
    pub events: mpsc::Receiver<Event>,
    /// What the probe thread says; the latest counts
    pub reports: watch::Receiver<Report>,
    /// Something in the kernel has changed
    pub kernel: watch::Receiver<u64>,
    /// EIPs that somebody else has
    pub conflicts: watch::Receiver<Conflicts>,
    /// What people want to know
    pub questions: mpsc::Receiver<Asked>,
    /// Stop
    pub shutdown: CancellationToken,
}

/// What goes out.
pub struct Outbox {
    /// To the probe thread
    pub probe: Arc<Probe>,
    /// Public key of its probes
    pub probe_key: String,
    /// To the network
    pub announcer: Announcer,
    /// To the thread that looks for other holders of EIPs
    pub defence: Defence,
    /// To the API server
    pub wishes: watch::Sender<Wish>,
    /// To the disk, for a start without API server
    pub disk: Option<Disk>,
    /// To whom asks for metrics
    pub metrics: Metrics,
    /// To whom asks whether the loop lives
    pub heartbeat: Heartbeat,
    /// To whom asks whether the node is programmed
    pub not_ready: Option<Guard>,
}

/// Objects on disk.
pub struct Disk {
    /// What the last run left
    pub lists: Vec<Event>,
    /// Writes what this run knows
    pub writer: SnapshotWriter,
    /// All objects
    pub snapshot: Snapshot,
}

/// The loop's own state.
pub struct ControlLoop {
    converger: Converger<Linux>,
    outbox: Outbox,
    /// What the probe thread claims, once it has said so.
    claims: Option<Vec<Claim>>,
    own_generations: BTreeMap<LeaseName, i64>,
    /// What the defence was told to look after.
    charge: Option<Charge>,
    /// What the probe thread was told of leases.
    loaded: Option<BTreeMap<String, u64>>,
    /// Since when passes fail.
    failing: Option<(Instant, String)>,
    retry_pause: Duration,
    is_complete: bool,
    passes: u64,
    is_saved: bool,
    is_patient_no_more: bool,
}

impl ControlLoop {
    /// Ready to run.
    #[must_use]
    pub fn new(converger: Converger<Linux>, outbox: Outbox) -> Self {
        Self {
            converger,
            outbox,
            claims: None,
            own_generations: BTreeMap::new(),
            charge: None,
            loaded: None,
            failing: None,
            retry_pause: FIRST_PAUSE,
            is_complete: false,
            passes: 0,
            is_saved: true,
            is_patient_no_more: false,
        }
    }

    /// Runs until it is told to stop; leaves the kernel as it is.
    pub async fn run(mut self, mut inbox: Inbox) -> anyhow::Result<()> {
        let mut events = Vec::new();
        let mut resync = tokio::time::interval(RESYNC);
        let mut alive = tokio::time::interval(ALIVE_INTERVAL);
        let mut uplink = tokio::time::interval(UPLINK_INTERVAL);
        let mut snapshot = tokio::time::interval(SNAPSHOT_INTERVAL);
        let patience = tokio::time::sleep(LISTS_WITHIN);
        tokio::pin!(patience);
        let mut retry: Option<tokio::time::Instant> = None;
        loop {
            self.outbox.heartbeat.beat();
            let next_pass =
                self.converger.next_pass().map(tokio::time::Instant::from_std).filter(|_| retry.is_none());
            let retry_at = retry.unwrap_or_else(tokio::time::Instant::now);
            let is_due = tokio::select! {
                () = inbox.shutdown.cancelled() => return Ok(()),
                changed = inbox.reports.changed() => {
                    changed?;
                    let report = inbox.reports.borrow_and_update().clone();
                    self.report(report)
                }
                1.. = inbox.events.recv_many(&mut events, BATCH) => {
                    // Lists of several kinds, or an object that is written in two steps, make one pass.
                    tokio::time::sleep(DEBOUNCE).await;
                    while let Ok(event) = inbox.events.try_recv() {
                        events.push(event);
                    }
                    let mut matters = false;
                    for event in events.drain(..) {
                        if let Some(disk) = &mut self.outbox.disk {
                            disk.snapshot.absorb(&event);
                            self.is_saved = false;
                        }
                        matters |= self.converger.absorb(event);
                    }
                    matters
                }
                changed = inbox.kernel.changed() => {
                    changed?;
                    tokio::time::sleep(DEBOUNCE).await;
                    inbox.kernel.mark_unchanged();
                    self.converger.kernel_changed();
                    true
                }
                changed = inbox.conflicts.changed() => {
                    changed?;
                    let conflicts = inbox.conflicts.borrow_and_update().clone();
                    self.converger.conflicts_found(conflicts)
                }
                Some((question, reply)) = inbox.questions.recv() => {
                    // Who asked may be gone.
                    reply.send(self.converger.answer(&question)).ok();
                    false
                }
                () = &mut patience, if !self.is_patient_no_more => {
                    self.is_patient_no_more = true;
                    self.use_old_lists();
                    true
                }
                _ = snapshot.tick() => {
                    self.save();
                    false
                }
                _ = alive.tick() => {
                    if let Err(error) = self.converger.renew_answers() {
                        tracing::warn!(%error, "the kernel may stop to answer for EIPs; the node is read anew");
                        self.converger.kernel_changed();
                    }
                    false
                }
                _ = uplink.tick() => {
                    self.look_at_uplink();
                    self.misses_answers()
                }
                _ = resync.tick() => {
                    if let Err(error) = self.converger.measure_ports(Instant::now()) {
                        tracing::warn!(%error, "ports in use are not counted");
                    }
                    self.outbox.metrics.in_use(self.converger.in_use());
                    self.converger.kernel_changed();
                    self.converger.forget_connections();
                    true
                }
                () = tokio::time::sleep_until(next_pass.unwrap_or(retry_at)), if next_pass.is_some() => true,
                () = tokio::time::sleep_until(retry_at), if retry.is_some() => {
                    retry = None;
                    true
                }
            };
            if !self.converger.objects().in_sync() {
                continue;
            }
            if is_due && retry.is_none() {
                retry = self.pass();
            }
            self.wish();
        }
    }

    /// Without API server, what the last run knew is better than nothing.
    fn use_old_lists(&mut self) {
        let Some(disk) = &mut self.outbox.disk else { return };
        let lists = std::mem::take(&mut disk.lists);
        if self.converger.objects().in_sync() || lists.is_empty() {
            return;
        }
        tracing::warn!("the API server has not listed everything; going on with what the last run knew");
        // Kinds that the API server does list must stay on disk too.
        for event in lists.iter().filter(|event| !self.converger.objects().is_listed(event)) {
            disk.snapshot.absorb(event);
        }
        self.converger.absorb_old(lists);
    }

    /// Writes the objects to disk, once all are known.
    fn save(&mut self) {
        let Some(disk) = &self.outbox.disk else { return };
        if !self.is_saved && self.converger.objects().in_sync() {
            self.is_saved = disk.writer.write(&disk.snapshot);
        }
    }

    fn report(&mut self, report: Report) -> bool {
        self.claims = Some(report.claims_to_tell());
        if report.in_doubt {
            self.look_at_uplink();
        }
        self.converger.report(report)
    }

    /// Makes a pass. Returns when to try again, if it failed.
    fn pass(&mut self) -> Option<tokio::time::Instant> {
        let start = Instant::now();
        match self.converger.pass(start) {
            Ok(outcome) => {
                self.outbox.metrics.pass_seconds.observe(start.elapsed().as_secs_f64());
                self.failing = None;
                self.retry_pause = FIRST_PAUSE;
                self.passed(outcome, start.elapsed());
                None
            }
            Err(error) => {
                self.outbox.metrics.errors.inc();
                let text = format!("{:#}", anyhow::Error::new(error));
                tracing::warn!(error = text, retry_in_ms = self.retry_pause.as_millis(), "pass failed");
                let since = self.failing.take().map_or(start, |(since, _)| since);
                self.failing = Some((since, text));
                let at = tokio::time::Instant::now() + self.retry_pause;
                self.retry_pause = (self.retry_pause * 2).min(LONGEST_PAUSE);
                Some(at)
            }
        }
    }

    fn passed(&mut self, outcome: Outcome, took: Duration) {
        let Outcome { changes, complete, repaired, newly_answered, exhausted, inheritance, setup } = outcome;
        if changes > 0 {
            self.outbox.metrics.transactions.inc();
            tracing::info!(changes, repaired, took_us = took.as_micros(), "kernel changed");
        }
        if repaired {
            self.outbox.metrics.repairs.inc();
        }
        for one in exhausted {
            tracing::error!(reason = %one, "out of numbers");
        }
        if let Some(inheritance) = inheritance {
            self.outbox.probe.inherit(inheritance);
        }
        if let Some(setup) = setup {
            self.outbox.probe.setup(setup);
        }
        self.own_generations = self.converger.own_generations();
        self.is_complete = complete;
        self.passes += 1;
        if complete {
            let loaded = self.converger.loaded();
            if self.loaded.as_ref() != Some(&loaded) {
                self.outbox.probe.ready(loaded.clone());
                self.loaded = Some(loaded);
            }
            self.outbox.not_ready = None;
        }
        self.announce(newly_answered);
        if let Some(charge) = self.converger.charge().filter(|charge| self.charge.as_ref() != Some(charge)) {
            self.outbox.defence.charge(charge.clone());
            self.charge = Some(charge);
        }
        self.measure();
        self.look_at_uplink();
    }

    fn announce(&self, eips: impl IntoIterator<Item = EipPair>) {
        if let Some(uplink) = self.converger.uplink() {
            let addresses: Vec<_> = eips.into_iter().flat_map(|eip| eip.addresses()).collect();
            if !addresses.is_empty() {
                self.outbox.announcer.announce(uplink.clone(), addresses);
            }
        }
    }

    fn measure(&self) {
        let Some(view) = self.converger.view() else { return };
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let metrics = &self.outbox.metrics;
        metrics.answered.set(count(view.gateway_eips.values().filter(|eip| eip.answers).count()));
        metrics.without_carrier.set(count(view.eips.values().filter(|eip| eip.carrier.is_none()).count()));
        metrics.policies.set(count(view.policies.len()));
        metrics.selected_pods.set(count(view.selected_pods().len()));
        metrics.policies_in_force(view);
    }

    /// Whether somebody has taken away that the kernel answers for an EIP; the next pass sees to it.
    fn misses_answers(&mut self) -> bool {
        let Some(wanted) = self.converger.wanted() else { return false };
        let due: BTreeSet<IpAddr> = wanted.proxy_neighbours.iter().map(|entry| entry.address).collect();
        if due.is_empty() {
            return false;
        }
        match self.converger.kernel().answered() {
            Ok(answered) if answered.is_superset(&due) => false,
            Ok(_) => {
                self.converger.kernel_changed();
                true
            }
            Err(error) => {
                tracing::debug!(%error, "can't look at what the kernel answers for");
                false
            }
        }
    }

    /// Tells the probe thread whether this node reaches the outside.
    fn look_at_uplink(&mut self) {
        let Some(uplink) = self.converger.uplink().cloned() else { return };
        let state = match self.converger.kernel().has_carrier(&uplink.device) {
            Ok(true) => UplinkState::Carrier,
            Ok(false) => UplinkState::Down,
            Err(error) => {
                tracing::debug!(%error, "can't look at the uplink");
                return;
            }
        };
        self.outbox.probe.uplink(state);
    }

    /// Says what the node's objects shall say.
    fn wish(&self) {
        let now = Instant::now();
        let failing = self.failing.as_ref();
        let state = Standing {
            passes: self.passes,
            is_complete: self.is_complete,
            own_generations: self.own_generations.clone(),
            is_failing: failing.is_some(),
            trouble: failing
                .filter(|(since, _)| now.saturating_duration_since(*since) >= FAILING_AFTER)
                .map(|(_, why)| why.clone()),
            probe_key: self.outbox.probe_key.clone(),
            claims: self.claims.clone(),
        };
        let wish = self.converger.wish(&state);
        self.outbox.wishes.send_if_modified(|last| {
            let is_new = *last != wish;
            *last = wish;
            is_new
        });
    }
}
