//! A controller that begins with what is there: it must find nothing to do, in whatever order it reads.

use std::sync::Arc;
use std::time::Duration;

use controller::state::State;
use controller::write::{Next, Writes};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use plan::{Changed, Plan, Settings};
use runtime::watch::Change;

use crate::objects::{Kind, Object};
use crate::random::Random;
use crate::server::Server;

/// The plan of a controller that reads all objects in a random order. An error if it would write anything.
pub fn plan(server: &Server, settings: &Settings, order: &mut Random) -> Result<Plan, String> {
    let mut state = State::new(settings.clone());
    let mut objects: Vec<(Kind, Arc<Object>)> = Kind::ALL
        .iter()
        .flat_map(|kind| server.all(*kind).values().map(|object| (*kind, Arc::clone(object))))
        .collect();
    order.shuffle(&mut objects);
    for (kind, object) in objects {
        state.absorb(kind.input(Change::Applied(object)));
        // A plan in between must not change the one at the end.
        if order.permille(100) {
            state.planner.plan();
        }
    }
    state.planner.plan();
    let found = state.planner.violations(&Changed::Everything);
    if let Some(violation) = found.first() {
        return Err(format!("a cold plan is wrong: {violation}"));
    }
    let mut writes = Writes::new(Changed::Everything, Time(server.wall()), Duration::MAX);
    while let Some(next) = writes.next(&mut state, true) {
        let Next::Jobs(jobs) = next else { return Err("a cold controller would give or take".to_owned()) };
        if let Some(job) = jobs.first() {
            return Err(format!("a cold controller would write {}: {:?}", job.write.what, job.write.action));
        }
    }
    let mut plan = state.planner.last().clone();
    plan.notices.clear();
    plan.wake_at_s = None;
    Ok(plan)
}
