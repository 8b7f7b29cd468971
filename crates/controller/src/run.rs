//! The loop, and how the program starts and stops.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use api::v1beta1::EgressPortLease;
use kube::api::ListParams;
use kube::{Api, Client};
use plan::outcome::{Notice, Subject};
use plan::snapshot::GatewayStatus;
use plan::{Plan, Settings};
use runtime::admin::{self, Health};
use runtime::config::{Config, Feature};
use runtime::lease::{LeaderLease, Timing};
use runtime::readiness::{Guard, Heartbeat, Readiness};
use runtime::supervisor::Supervisor;
use runtime::watch::Change;
use runtime::writer::Backoff;
use runtime::{client, telemetry};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::state::State;
use crate::watches::{self, Input, Kind};
use crate::{events, write};

/// Changes that wait to be taken in; a watch waits while there are more.
const QUEUE: usize = 1024;
/// After a change, others that belong to it (a Deployment's pods) are waited for that long.
const DEBOUNCE: Duration = Duration::from_millis(4);
/// How often the loop shows that it lives.
const BEAT: Duration = Duration::from_secs(5);
/// A loop that has been silent for that long is stuck: longer than all writes of a plan may take.
const STUCK: Duration = Duration::from_secs(180);
/// What stopping may take, the lease's release included.
const GRACE: Duration = Duration::from_secs(8);

/// A list of all port leases that takes longer has failed.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// How often metrics count everything, which a pass for one pod does not.
const COUNT: Duration = Duration::from_secs(15);

const USAGE: &str = "usage: egressgateway controller

Runs the controller. Settings come from the environment (CONFIGMAP_PATH names a file with more) and the API server from
KUBECONFIG or the pod's service account.";

/// Runs the controller until it is stopped. Takes no arguments.
#[must_use]
pub fn run(arguments: &[String]) -> ExitCode {
    match arguments {
        [] => {}
        [help] if matches!(help.as_str(), "-h" | "--help" | "help") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [first, ..] => {
            eprintln!("error: `{first}` is not expected\n\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!(error = format!("{problem:#}"), "stopped");
            eprintln!("error: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let (config, warnings) = Config::load().context("settings")?;
    telemetry::init(config.log).context("set up logs")?;
    for warning in warnings {
        warn!("{warning}");
    }
    info!(version = env!("CARGO_PKG_VERSION"), config = ?config, "controller starts");
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    threads.context("start the threads")?.block_on(async {
        let client = client::connect("egressgateway-controller").await?;
        let supervisor = Supervisor::new(GRACE);
        run_with(client, Options::of(&config), supervisor).await
    })
}

/// How a controller runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the operator has set
    pub settings: Settings,
    /// The Lease's namespace and name; `None`: this is the only replica
    pub leader_election: Option<(Option<String>, String)>,
    /// Name of this replica
    pub identity: String,
    /// Where `/healthz` and `/readyz` are
    pub health_bind: admin::Bind,
    /// Where `/metrics` is
    pub metrics_bind: admin::Bind,
}

impl Options {
    fn of(config: &Config) -> Self {
        let namespace = [&config.leader_election_namespace, &config.pod_namespace];
        let namespace = namespace.into_iter().find(|namespace| !namespace.is_empty()).cloned();
        let identity = if config.pod_name.is_empty() {
            format!("egressgateway-controller-{}", std::process::id())
        } else {
            config.pod_name.clone()
        };
        Self {
            settings: settings(&config.feature),
            leader_election: config.leader_election.then(|| (namespace, config.leader_election_id.clone())),
            identity,
            health_bind: config.health_bind,
            metrics_bind: config.metrics_bind,
        }
    }
}

fn settings(feature: &Feature) -> Settings {
    Settings {
        ipv4: feature.ipv4,
        ipv6: feature.ipv6,
        tunnel_subnet_v4: feature.tunnel_subnet_v4,
        tunnel_subnet_v6: feature.tunnel_subnet_v6,
        mark_base: feature.mark_base,
        max_endpoints_per_slice: feature.max_endpoints_per_slice,
        max_ports_per_node: feature.max_ports_per_node,
        rest_s: feature.port_rest_s.into(),
        drain_s: feature.port_drain_s.into(),
    }
}

/// Runs the controller with that client under that supervisor, until the supervisor is told to stop.
pub async fn run_with(client: Client, options: Options, mut supervisor: Supervisor) -> anyhow::Result<()> {
    let (metrics, registry) = Metrics::new();
    let readiness = Readiness::default();
    let heartbeat = Heartbeat::new(STUCK);
    let listed = readiness.guard("first list of every kind");
    let (inputs, queue) = mpsc::channel(QUEUE);
    let (leading, leads) = watch::channel(options.leader_election.is_none());
    // The lease outlives the loop: the last write is done before another replica may begin.
    let loop_ended = CancellationToken::new();

    let health = Health { readiness, heartbeats: vec![("plan", heartbeat.clone())] };
    supervisor.spawn(
        "admin",
        admin::serve(
            options.health_bind,
            options.metrics_bind,
            health,
            Arc::new(registry),
            supervisor.shutdown(),
        ),
    );
    watches::start(&mut supervisor, &client, &inputs);
    if let Some((namespace, name)) = &options.leader_election {
        let namespace = namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let lease = LeaderLease::new(client.clone(), &namespace, name, &options.identity, Timing::default());
        supervisor.spawn("leader election", lead(lease, leading, supervisor.shutdown(), loop_ended.clone()));
    }
    let planner = Planner {
        client,
        state: State::new(options.settings),
        clock: Clock::new(),
        metrics,
        heartbeat,
        listed: Some(listed),
        reporter: options.identity,
        backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(10)),
        waiting: Vec::new(),
        counted_at: Instant::now(),
        has_read_leases: false,
    };
    supervisor.spawn("plan", planner.run(queue, leads, supervisor.shutdown(), loop_ended));
    supervisor.run().await
}

/// Leads whenever it can. A lease that is lost is competed for again: what is known stays known, and a restart would only
/// make the API server list everything once more.
async fn lead(
    lease: LeaderLease,
    leading: watch::Sender<bool>,
    shutdown: CancellationToken,
    loop_ended: CancellationToken,
) -> anyhow::Result<()> {
    while lease.acquire(&shutdown).await {
        leading.send_replace(true);
        let held = lease.hold(loop_ended.clone()).await;
        leading.send_replace(false);
        match held {
            Ok(()) => return Ok(()),
            Err(error) => warn!(error = format!("{error:#}"), "no longer leading"),
        }
    }
    Ok(())
}

struct Planner {
    client: Client,
    state: State,
    clock: Clock,
    metrics: Metrics,
    heartbeat: Heartbeat,
    /// Until every kind has been listed
    listed: Option<Guard>,
    reporter: String,
    backoff: Backoff,
    /// Kinds that were waited for when that was last said
    waiting: Vec<Kind>,
    /// When metrics last counted everything
    counted_at: Instant,
    /// Whether leases have been read from the API server itself since this replica leads
    has_read_leases: bool,
}

impl Planner {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<Input>,
        mut leads: watch::Receiver<bool>,
        shutdown: CancellationToken,
        loop_ended: CancellationToken,
    ) -> anyhow::Result<()> {
        let _ended = loop_ended.drop_guard();
        let mut batch = Vec::new();
        let mut again_at: Option<Instant> = None;
        let mut pending = false;
        loop {
            let pause = again_at.map_or(BEAT, |at| at.saturating_duration_since(Instant::now()).min(BEAT));
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                count = queue.recv_many(&mut batch, QUEUE) => anyhow::ensure!(count > 0, "nothing is watched any more"),
                // Where there is no election nobody sends, and the value stays as it is.
                Ok(()) = leads.changed() => pending = true,
                () = tokio::time::sleep(pause) => {}
            }
            self.heartbeat.beat();
            if !batch.is_empty() {
                tokio::time::sleep(DEBOUNCE).await;
                while let Ok(input) = queue.try_recv() {
                    batch.push(input);
                }
            }
            for input in batch.drain(..) {
                pending |= self.state.absorb(input);
            }
            let is_time = again_at.is_some_and(|at| at <= Instant::now());
            let now = plan::Event::Now(self.clock.now_s());
            self.state.planner.absorb(now);
            if self.counted_at.elapsed() >= COUNT {
                self.metrics.counted(self.state.planner.last());
                self.counted_at = Instant::now();
            }
            let is_leading = *leads.borrow_and_update();
            self.metrics.leads(is_leading);
            if !is_leading {
                (again_at, self.has_read_leases) = (None, false);
                continue;
            }
            if !(pending || is_time) || !self.is_in_sync() {
                continue;
            }
            if !self.has_read_leases && !self.read_leases().await {
                again_at = Some(Instant::now() + self.backoff.pause());
                continue;
            }
            (pending, again_at) = (false, self.pass(&leads).await);
        }
    }

    /// A watch may be behind the last writes of the replica that led before. What that has given away must not be given again.
    async fn read_leases(&mut self) -> bool {
        let leases: Api<EgressPortLease> = Api::all(self.client.clone());
        let everything = ListParams::default();
        match tokio::time::timeout(READ_DEADLINE, leases.list(&everything)).await {
            Ok(Ok(listed)) => {
                self.state.absorb(Input::Lease(Change::Replaced(listed.items)));
                self.has_read_leases = true;
            }
            Ok(Err(error)) => warn!(error = %error, "can't read port leases"),
            Err(_) => warn!("no answer to a list of port leases"),
        }
        self.has_read_leases
    }

    /// Never act on half a list.
    fn is_in_sync(&mut self) -> bool {
        if self.listed.is_none() {
            return true;
        }
        let waiting = self.state.waiting_for();
        if waiting.is_empty() {
            info!("every kind has been listed");
            self.listed = None;
        } else if waiting != self.waiting {
            debug!(?waiting, "waiting for the first list");
            self.waiting = waiting;
        }
        self.listed.is_none()
    }

    /// Plans once and writes what differs. When to plan again though nothing has happened.
    async fn pass(&mut self, leads: &watch::Receiver<bool>) -> Option<Instant> {
        let start = Instant::now();
        let (plan, changed) = self.state.planner.plan();
        self.metrics.planned(plan, &changed, start.elapsed());
        let notices = plan.notices.clone();
        let found = self.state.planner.violations(&changed);
        if !found.is_empty() {
            self.metrics.refused();
            self.state.planner.forget();
            for violation in found.iter().take(10) {
                error!(%violation, "the plan is wrong and is not written");
            }
            return Some(Instant::now() + self.backoff.pause());
        }
        let (now, planned) = (Clock::wall(), start.elapsed());
        let start = Instant::now();
        let outcome = write::write(&self.client, &mut self.state, &changed, &now, || *leads.borrow()).await;
        self.metrics.written(outcome, start.elapsed());
        if outcome != write::Outcome::default() {
            debug!(?outcome, ?planned, written = ?start.elapsed(), "plan written");
        }
        let plan = self.state.planner.last();
        // What could not be written is told when it is.
        let told: Vec<Notice> = notices.into_iter().filter(|notice| self.is_written(notice, plan)).collect();
        events::publish(&self.client, &self.state, &told, &self.reporter, &now).await;
        let wake_at_s = plan.wake_at_s;
        if outcome.conflicts > 0 || outcome.failed > 0 {
            self.state.planner.forget();
        }
        if outcome.conflicts == 0 && outcome.failed == 0 {
            self.backoff.reset();
            // What was written may make room for more.
            if self.state.planner.is_stale() {
                return Some(Instant::now());
            }
            let wake_s = wake_at_s.map(|at_s| u64::try_from(at_s - self.clock.now_s()).unwrap_or(0).max(1));
            return wake_s.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        }
        Some(Instant::now() + self.backoff.pause())
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
