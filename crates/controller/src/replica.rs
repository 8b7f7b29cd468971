//! What a replica of the controller does next: pure, so that the loop and simulations do the same.
//!
//! Time comes in as what has passed since the start; it only grows.

use std::time::Duration;

use api::v1beta1::{EgressGateway, EgressPortLease};
use plan::outcome::{Notice, Subject};
use plan::snapshot::GatewayStatus;
use plan::violations::Violation;
use plan::{Changed, Plan, Settings};
use runtime::lease::Term;
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
    /// The term in which this replica leads, once all that has one holder has been read from the API server itself
    read_in: Option<Term>,
    is_in_sync: bool,
}

/// What a replica does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing before something happens, or [`Replica::again_at`]
    Nothing,
    /// Read all of [`Listed`] from the API server
    List,
    /// Plan, and write
    Pass,
}

/// All objects that say who holds what, as the API server itself says.
pub struct Listed {
    /// Who holds which ports
    pub leases: Vec<EgressPortLease>,
    /// Who holds which EIPs
    pub gateways: Vec<EgressGateway>,
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
            read_in: None,
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

    /// What to do now. It leads in this term, or does not.
    pub fn due(&mut self, now: Duration, term: Option<&Term>) -> Due {
        let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let silences = self.state.planner.snapshot().silences();
        self.state.planner.absorb(plan::Event::Now(now_s));
        self.pending |= self.state.planner.snapshot().silences() != silences;
        if term.is_none() || self.read_in.as_ref() != term {
            self.read_in = None;
        }
        let Some(term) = term else {
            self.again_at = None;
            return Due::Nothing;
        };
        let is_time = self.again_at.is_some_and(|at| at <= now);
        if !(self.pending || is_time) || !self.is_in_sync() {
            return Due::Nothing;
        }
        if self.read_in.as_ref() == Some(term) { Due::Pass } else { Due::List }
    }

    /// A watch may be behind the last writes of the replica that led before. What that has given away must not be given
    /// again: here is what the API server itself says, asked after the term had begun, or `None` where it does not.
    pub fn listed(&mut self, now: Duration, term: &Term, listed: Option<Listed>) {
        match listed {
            Some(Listed { leases, gateways }) => {
                self.state.fence.begin(term.clone());
                self.pending |= self.state.absorb(Input::Lease(Change::Replaced(leases)));
                self.pending |= self.state.absorb(Input::Gateway(Change::Replaced(gateways)));
                self.read_in = Some(term.clone());
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
