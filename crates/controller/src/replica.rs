//! What a replica of the controller does next: pure, so that the loop and simulations do the same.
//!
//! Time comes in as what has passed since the start; it only grows.

use std::time::Duration;

use api::v1beta1::EgressPortLease;
use plan::outcome::{Notice, Subject};
use plan::snapshot::GatewayStatus;
use plan::violations::Violation;
use plan::{Changed, Plan, Settings};
use runtime::watch::Change;
use runtime::writer::Backoff;

use crate::state::State;
use crate::watches::{Input, Kind};
use crate::write::Outcome;

/// A replica without its clock and its client.
pub struct Replica {
    /// All that it knows
    pub state: State,
    backoff: Backoff,
    /// Whether something has happened that a plan may depend on
    pending: bool,
    /// When to plan again though nothing has happened
    again_at: Option<Duration>,
    /// Whether leases have been read from the API server itself since this replica leads
    has_read_leases: bool,
    is_in_sync: bool,
}

/// What a replica does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing before something happens, or [`Replica::again_at`]
    Nothing,
    /// Read all port leases from the API server
    Leases,
    /// Plan, and write
    Pass,
}

/// A plan that is to be written.
pub struct Planned {
    /// Of what
    pub changed: Changed,
    /// What people are told of it
    pub notices: Vec<Notice>,
}

impl Replica {
    /// One that knows nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            state: State::new(settings),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(10)),
            pending: false,
            again_at: None,
            has_read_leases: false,
            is_in_sync: false,
        }
    }

    /// When to look again though nothing has happened.
    #[must_use]
    pub fn again_at(&self) -> Option<Duration> {
        self.again_at
    }

    /// Takes in what a watch says.
    pub fn absorb(&mut self, input: Input) {
        self.pending |= self.state.absorb(input);
    }

    /// It leads now, or does no longer.
    pub fn leadership_changed(&mut self) {
        self.pending = true;
    }

    /// What to do now.
    pub fn due(&mut self, now: Duration, leads: bool) -> Due {
        let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let silences = self.state.planner.snapshot().silences();
        self.state.planner.absorb(plan::Event::Now(now_s));
        self.pending |= self.state.planner.snapshot().silences() != silences;
        if !leads {
            (self.again_at, self.has_read_leases) = (None, false);
            return Due::Nothing;
        }
        let is_time = self.again_at.is_some_and(|at| at <= now);
        if !(self.pending || is_time) || !self.is_in_sync() {
            return Due::Nothing;
        }
        if self.has_read_leases { Due::Pass } else { Due::Leases }
    }

    /// A watch may be behind the last writes of the replica that led before. What that has given away must not be given
    /// again: here is what the API server itself says, or `None` where it does not.
    pub fn leases_read(&mut self, now: Duration, leases: Option<Vec<EgressPortLease>>) {
        match leases {
            Some(leases) => {
                self.pending |= self.state.absorb(Input::Lease(Change::Replaced(leases)));
                self.has_read_leases = true;
            }
            None => self.again_at = Some(now + self.backoff.pause()),
        }
    }

    /// Kinds that have not been listed yet.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<Kind> {
        if self.is_in_sync { Vec::new() } else { self.state.waiting_for() }
    }

    /// Never act on half a list.
    pub fn is_in_sync(&mut self) -> bool {
        self.is_in_sync = self.is_in_sync || self.state.waiting_for().is_empty();
        self.is_in_sync
    }

    /// Plans. A plan that the judge objects to must not be written, and is made anew after a while.
    pub fn plan(&mut self, now: Duration) -> Result<Planned, Vec<Violation>> {
        (self.pending, self.again_at) = (false, None);
        let (plan, changed) = self.state.planner.plan();
        let notices = plan.notices.clone();
        let found = self.state.planner.violations(&changed);
        if found.is_empty() {
            return Ok(Planned { changed, notices });
        }
        self.state.planner.forget();
        self.again_at = Some(now + self.backoff.pause());
        Err(found)
    }

    /// The writes of a plan have ended. Of the notices those that are true now.
    pub fn written(&mut self, now: Duration, outcome: Outcome, notices: Vec<Notice>) -> Vec<Notice> {
        let plan = self.state.planner.last();
        // What could not be written is told when it is.
        let told = notices.into_iter().filter(|notice| self.is_written(notice, plan)).collect();
        let wake_at_s = plan.wake_at_s;
        if outcome.conflicts > 0 || outcome.failed > 0 {
            self.state.planner.forget();
            self.again_at = Some(now + self.backoff.pause());
            return told;
        }
        self.backoff.reset();
        // What was written may make room for more.
        self.again_at = if self.state.planner.is_stale() {
            Some(now)
        } else {
            let wake_at = wake_at_s.map(|at_s| Duration::from_secs(u64::try_from(at_s).unwrap_or(0)));
            let wake_at = wake_at.map(|at| at.max(now + Duration::from_secs(1)));
            [wake_at, self.state.pace.next_due()].into_iter().flatten().min()
        };
        told
    }

    /// Whether the object that a notice is about is now as planned.
    fn is_written(&self, notice: &Notice, plan: &Plan) -> bool {
        let snapshot = self.state.planner.snapshot();
        match &notice.subject {
            Subject::Gateway(name) => {
                let known = snapshot.gateways.get(name).map(|record| &record.status);
                let told = |status: &GatewayStatus| {
                    (status.verdict.clone(), status.ports.clone(), status.whole.clone())
                };
                known.map(told) == plan.gateways.get(name).map(|planned| told(&planned.status))
            }
            Subject::Policy(key) => {
                let known = snapshot.policies.get(key).map(|record| &record.status);
                known == plan.policies.get(key).map(|planned| &planned.status)
            }
            Subject::Tunnel(name) => {
                let known = snapshot.tunnels.get(name).and_then(|record| record.tunnel.phase);
                known == plan.tunnels.get(name).map(|planned| planned.phase)
            }
        }
    }
}
