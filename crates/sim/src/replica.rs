//! A replica of the controller: the real one without its loop, with everything that can happen to it.

use std::time::Duration;

use controller::replica::{Due, Listed, Planned, Replica};
use controller::watches::{Input, Kind as Watched};
use controller::write::{Job, Next, Writes};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use plan::Settings;
use plan::outcome::Notice;
use runtime::lease::Term;
use runtime::watch::Change;
use runtime::writer::Write;
use serde_json::Value;

use crate::faults::{Fault, Faults};
use crate::feed::Feed;
use crate::objects::{Kind, Object};
use crate::random::Random;
use crate::server::Server;

/// Without a renewal for that long the lease is anybody's.
const LEASE_MS: u64 = 15_000;
/// The holder gives up if it could not renew for that long.
const RENEW_DEADLINE_MS: u64 = 10_000;
/// How often it renews.
const RENEW_EVERY_MS: u64 = 2_000;
/// A server gives a request up long before this.
const LATE_WRITE_MAX_MS: u64 = 60_000;

/// The lease of the leader, in which all replicas believe.
#[derive(Clone, Debug, Default)]
pub struct Election {
    holder: Option<usize>,
    renewed_ms: u64,
    /// How often it was written
    pub renewals: u64,
    /// How often another replica got it
    pub changes: u64,
}

impl Election {
    /// Nobody holds it any more: it was not renewed for long.
    pub fn expire(&mut self) {
        self.holder = None;
    }

    fn term(&self) -> Term {
        Term::new(self.changes.to_string())
    }
}

/// A write that the server does some time later.
#[derive(Clone, Debug)]
pub struct LateWrite {
    /// When
    pub at_ms: u64,
    /// What
    pub write: Write,
}

/// What everybody has to do with.
pub struct Surroundings<'a> {
    /// The API server
    pub server: &'a mut Server,
    /// What goes wrong
    pub faults: &'a mut Faults,
    /// What is still under way to the server
    pub late: &'a mut Vec<LateWrite>,
    /// Chance, for what is no fault
    pub random: &'a mut Random,
    /// The time
    pub now_ms: u64,
    /// Whether the API server is away
    pub is_outage: bool,
}

/// The writes of a plan that are under way.
struct Pass {
    writes: Writes,
    jobs: Vec<Job>,
    /// The API server is to be asked whether the term has not ended
    asks: bool,
    notices: Vec<Notice>,
}

/// A replica and its process.
pub struct Controller {
    /// Which of them
    pub index: usize,
    settings: Settings,
    core: Replica,
    feeds: Vec<Feed>,
    started_ms: u64,
    pass: Option<Pass>,
    /// Until then it leads, as far as it knows
    leads_until_ms: u64,
    renewed_ms: u64,
    /// The term in which it leads, as far as it knows
    term: Option<Term>,
    /// It does nothing before that
    frozen_until_ms: u64,
    cut_until_ms: u64,
    /// What its wall clock is wrong by
    clock_error_s: i64,
}

impl Controller {
    /// A replica that starts now.
    #[must_use]
    pub fn new(index: usize, settings: Settings, now_ms: u64) -> Self {
        let mut core = Replica::new(settings.clone());
        // Kinds that this cluster has none of.
        for input in [
            Input::Heartbeat(Change::Replaced(Vec::new())),
            Input::Service(Change::Replaced(Vec::new())),
            Input::ServiceCidr(Change::Replaced(Vec::new())),
            Input::ControlPlane(Change::Replaced(Vec::new())),
            Input::CalicoPool(Change::Replaced(Vec::new())),
            Input::CiliumNode(Change::Replaced(Vec::new())),
            Input::CiliumPool(Change::Replaced(Vec::new())),
            Input::SpiderPool(Change::Replaced(Vec::new())),
            Input::SpiderCoordinator(Change::Replaced(Vec::new())),
        ] {
            core.absorb(input);
        }
        Self {
            index,
            settings,
            core,
            feeds: Kind::ALL.iter().map(|kind| Feed::new(*kind)).collect(),
            started_ms: now_ms,
            pass: None,
            leads_until_ms: 0,
            renewed_ms: 0,
            term: None,
            frozen_until_ms: 0,
            cut_until_ms: 0,
            clock_error_s: 0,
        }
    }

    /// Whether it believes that it leads.
    #[must_use]
    pub fn leads(&self, now_ms: u64) -> bool {
        now_ms < self.leads_until_ms
    }

    /// Writes that it is about to send, or has sent without an answer.
    pub fn under_way(&self) -> impl Iterator<Item = &Write> {
        self.pass.iter().flat_map(|pass| &pass.jobs).map(|job| &job.write)
    }

    /// Whether it has nothing to do, as far as it knows.
    #[must_use]
    pub fn is_idle(&self, server: &Server) -> bool {
        self.pass.is_none() && self.feeds.iter().all(|feed| feed.behind(server) == 0)
    }

    /// What it waits for, for people.
    #[must_use]
    pub fn waits(&self) -> (Option<Duration>, Vec<Watched>) {
        (self.core.again_at(), self.core.waiting_for())
    }

    /// Its process ends, whatever it was doing, and begins anew. What was under way to the server may still arrive.
    fn crash(&mut self, around: &mut Surroundings<'_>) {
        let under_way = self.pass.take().map(|pass| pass.jobs).unwrap_or_default();
        for job in under_way {
            if around.random.permille(300) {
                send_late(around, job.write);
            }
        }
        *self = Self::new(self.index, self.settings.clone(), around.now_ms);
        self.frozen_until_ms = around.now_ms + around.random.between(100, 5_000);
    }

    /// Everything that is under way to the server arrives some time later, and it stands still in the meantime.
    fn stick(&mut self, around: &mut Surroundings<'_>) {
        let jobs = self.pass.as_mut().map(|pass| std::mem::take(&mut pass.jobs)).unwrap_or_default();
        let Some(pass) = &mut self.pass else { return };
        for job in jobs {
            send_late(around, job.write.clone());
            pass.writes.answered(&mut self.core.state, &job, job.write.outcome(Err(unavailable())));
        }
        if around.random.permille(500) {
            self.crash(around);
        }
        self.frozen_until_ms = around.now_ms + around.random.between(1_000, 2 * LEASE_MS);
    }

    /// Something it does. Whether it did anything; an error is a plan that the plan's own judge objects to.
    pub fn turn(&mut self, election: &mut Election, around: &mut Surroundings<'_>) -> Result<bool, String> {
        let now_ms = around.now_ms;
        if now_ms < self.frozen_until_ms {
            return Ok(false);
        }
        self.suffer(election, around);
        if now_ms < self.frozen_until_ms {
            return Ok(false);
        }
        let is_reachable = !around.is_outage && now_ms >= self.cut_until_ms;
        // What watches say waits while writes are under way.
        let mut did = is_reachable && self.pass.is_none() && self.watch(around);
        // Writes that were begun go on before the loss of the lease is noticed.
        if self.pass.is_some() {
            self.write(around, is_reachable);
            self.ask(election, around, is_reachable);
            did = true;
        }
        self.elect(election, around, is_reachable);
        if self.pass.is_some() {
            return Ok(did);
        }
        Ok(self.think(around, is_reachable)? || did)
    }

    fn suffer(&mut self, election: &mut Election, around: &mut Surroundings<'_>) {
        let now_ms = around.now_ms;
        if around.faults.strikes(Fault::Restart) {
            self.crash(around);
        }
        if self.leads(now_ms) && self.pass.is_none() && around.faults.strikes(Fault::HandOver) {
            election.holder = None;
            self.crash(around);
        }
        if around.faults.strikes(Fault::Freeze) {
            self.frozen_until_ms = now_ms + around.faults.amount(1_000, 40_000);
        }
        if around.faults.strikes(Fault::Cut) {
            self.cut_until_ms = now_ms + around.faults.amount(1_000, 30_000);
        }
        if around.faults.strikes(Fault::ClockJump) {
            let hours = i64::try_from(around.faults.amount(0, 96)).unwrap_or(0) - 48;
            self.clock_error_s = hours * 3600;
        }
    }

    fn watch(&mut self, around: &mut Surroundings<'_>) -> bool {
        let mut did = false;
        for feed in &mut self.feeds {
            if feed.behind(around.server) == 0 {
                if around.faults.strikes(Fault::LostWatch) {
                    feed.lose();
                }
                let entries = 1 + around.random.below(3);
                if around.faults.strikes(Fault::RepeatedEvents) {
                    feed.repeat(entries);
                }
                continue;
            }
            for change in feed.told(around.server, around.faults, around.random, 6) {
                self.core.absorb(feed.kind.input(change));
                did = true;
            }
        }
        did
    }

    fn elect(&mut self, election: &mut Election, around: &Surroundings<'_>, is_reachable: bool) {
        let now_ms = around.now_ms;
        let is_free = election.holder.is_none() || now_ms >= election.renewed_ms + LEASE_MS;
        let is_own = election.holder == Some(self.index);
        let is_due = !self.leads(now_ms) || now_ms >= self.renewed_ms + RENEW_EVERY_MS;
        if is_reachable && is_due && (is_own || is_free) {
            // One that begins anew does not go on with what its last process had.
            if !(is_own && self.term.is_some() && self.leads(now_ms)) {
                election.changes += 1;
            }
            election.holder = Some(self.index);
            election.renewed_ms = now_ms;
            election.renewals += 1;
            self.renewed_ms = now_ms;
            self.leads_until_ms = now_ms + RENEW_DEADLINE_MS;
        } else if is_reachable && !is_own {
            // It sees that another one leads.
            self.leads_until_ms = 0;
        }
        let term = match self.leads(now_ms) {
            true if is_reachable && election.holder == Some(self.index) => Some(election.term()),
            true => self.term.clone(),
            false => None,
        };
        if term != self.term {
            self.term = term;
            self.core.leadership_changed();
        }
    }

    fn now(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.started_ms))
    }

    fn think(&mut self, around: &mut Surroundings<'_>, is_reachable: bool) -> Result<bool, String> {
        let now = self.now(around.now_ms);
        let term = self.term.clone();
        match (self.core.due(now, term.as_ref()), &term) {
            (Due::Nothing, _) | (_, None) => return Ok(false),
            (Due::List, Some(term)) => {
                let fails = !is_reachable || around.faults.strikes(Fault::FailedList);
                let listed = (!fails).then(|| listed(around.server));
                self.core.listed(now, term, listed);
                if fails {
                    return Ok(true);
                }
            }
            (Due::Pass, Some(_)) => {}
        }
        let Planned { changed, notices } = match self.core.plan(now) {
            Ok(planned) => planned,
            Err(found) => {
                let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
                return Err(format!(
                    "controller {} would write a wrong plan: {}",
                    self.index,
                    texts.join("; ")
                ));
            }
        };
        let wall = around.server.wall().as_second().saturating_add(self.clock_error_s);
        let wall = Time(jiff::Timestamp::from_second(wall).unwrap_or_default());
        self.pass = Some(Pass {
            writes: Writes::new(changed, wall, self.now(around.now_ms)),
            jobs: Vec::new(),
            asks: false,
            notices,
        });
        self.next_writes(around.now_ms);
        Ok(true)
    }

    /// The next step's writes, or the end of the pass.
    fn next_writes(&mut self, now_ms: u64) {
        let (now, leads) = (self.now(now_ms), self.leads(now_ms));
        let Some(pass) = &mut self.pass else { return };
        while pass.jobs.is_empty() && !pass.asks {
            match pass.writes.next(&mut self.core.state, leads) {
                Some(Next::Jobs(jobs)) => pass.jobs = jobs,
                Some(Next::Confirm) => pass.asks = true,
                None => {
                    let Some(pass) = self.pass.take() else { return };
                    self.core.written(now, pass.writes.outcome(), pass.notices);
                    return;
                }
            }
        }
    }

    /// Asks the API server whether the term has not ended, where that is to be done.
    fn ask(&mut self, election: &Election, around: &mut Surroundings<'_>, is_reachable: bool) {
        let Some(pass) = self.pass.as_mut().filter(|pass| pass.asks) else { return };
        let fails = !is_reachable || around.faults.strikes(Fault::FailedList);
        let holds = election.holder == Some(self.index) && self.term.as_ref() == Some(&election.term());
        pass.asks = false;
        pass.writes.confirmed(&mut self.core.state, (!fails).then_some(holds));
        self.next_writes(around.now_ms);
    }

    /// Some of the writes that are under way, in any order.
    fn write(&mut self, around: &mut Surroundings<'_>, is_reachable: bool) {
        let count = if around.faults.at_peace { usize::MAX } else { 1 + around.random.below(4) };
        for _ in 0..count {
            let Some(pass) = self.pass.as_mut().filter(|pass| !pass.asks) else { return };
            if pass.jobs.is_empty() {
                self.next_writes(around.now_ms);
                return;
            }
            let job = pass.jobs.swap_remove(around.random.below(pass.jobs.len()));
            if around.faults.strikes(Fault::Crash) {
                pass.jobs.push(job);
                self.crash(around);
                return;
            }
            if around.faults.strikes(Fault::StuckWrites) {
                pass.jobs.push(job);
                self.stick(around);
                return;
            }
            let answer = if is_reachable { send(around, &job.write) } else { Err(unavailable()) };
            pass.writes.answered(&mut self.core.state, &job, job.write.outcome(answer));
        }
        if self.pass.as_ref().is_some_and(|pass| pass.jobs.is_empty() && !pass.asks) {
            self.next_writes(around.now_ms);
        }
    }
}

/// Who holds what, as lists say it.
fn listed(server: &Server) -> Listed {
    let lease = |object: &std::sync::Arc<Object>| match &**object {
        Object::Lease(lease) => Some((**lease).clone()),
        _ => None,
    };
    let gateway = |object: &std::sync::Arc<Object>| match &**object {
        Object::Gateway(gateway) => Some((**gateway).clone()),
        _ => None,
    };
    Listed {
        leases: server.all(Kind::Lease).values().filter_map(lease).collect(),
        gateways: server.all(Kind::Gateway).values().filter_map(gateway).collect(),
    }
}

/// A write, with all that may happen on its way.
pub fn send(around: &mut Surroundings<'_>, write: &Write) -> Result<Value, kube::Error> {
    if around.is_outage || around.faults.strikes(Fault::LostWrite) {
        return Err(unavailable());
    }
    if around.faults.strikes(Fault::Conflict) {
        let status = kube::core::Status { code: 409, ..kube::core::Status::default() };
        return Err(kube::Error::Api(Box::new(status)));
    }
    if around.faults.strikes(Fault::LateWrite) {
        send_late(around, write.clone());
        return Err(unavailable());
    }
    let answer = around.server.write(write);
    if around.faults.strikes(Fault::LostAnswer) { Err(unavailable()) } else { answer }
}

fn send_late(around: &mut Surroundings<'_>, write: Write) {
    let at_ms = around.now_ms + around.random.between(500, LATE_WRITE_MAX_MS);
    around.late.push(LateWrite { at_ms, write });
}

fn unavailable() -> kube::Error {
    kube::Error::Service("no answer".into())
}
