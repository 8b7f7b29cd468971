//! The loop, and how the program starts and stops.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use api::v1beta1::{EgressGateway, EgressPortLease};
use kube::api::ListParams;
use kube::{Api, Client};
use plan::{Failover, Settings};
use runtime::admin::{self, Health};
use runtime::config::{Config, Feature};
use runtime::lease::{LeaderLease, Term, Timing};
use runtime::readiness::{Guard, Heartbeat, Readiness};
use runtime::supervisor::Supervisor;
use runtime::{client, telemetry};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::diagnosis::Diagnosis;
use crate::leadership::{Leadership, READ_DEADLINE};
use crate::metrics::Metrics;
use crate::replica::{Due, Listed, Planned, Replica};
use crate::watches::{self, Input, Kind};
use crate::webhook::{Knowledge, WebhookOptions};
use crate::{events, webhook, write};

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
    /// Where the agents are, and their Leases; `None`: the namespace of the API server's credentials
    pub namespace: Option<String>,
    /// How often to look whether agents have fallen silent
    pub monitor_period: Duration,
    /// Name of this replica
    pub identity: String,
    /// Where `/healthz` and `/readyz` are
    pub health_bind: admin::Bind,
    /// Where `/metrics` is
    pub metrics_bind: admin::Bind,
    /// How admission webhooks are served; `None`: they are not
    pub webhook: Option<WebhookOptions>,
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
            namespace: Some(config.pod_namespace.clone()).filter(|namespace| !namespace.is_empty()),
            monitor_period: config
                .feature
                .failover
                .map_or(BEAT, |failover| Duration::from_secs(failover.monitor_s.into())),
            leader_election: config.leader_election.then(|| (namespace, config.leader_election_id.clone())),
            identity,
            health_bind: config.health_bind,
            metrics_bind: config.metrics_bind,
            webhook: webhook(config),
        }
    }
}

fn webhook(config: &Config) -> Option<WebhookOptions> {
    let port = config.webhook_port?;
    Some(WebhookOptions {
        bind: WebhookOptions::any_address(port),
        certificate_directory: config.tls_cert_dir.clone(),
        namespace: config.pod_namespace.clone(),
        name: config.webhook_name.clone(),
    })
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
        failover: feature.failover.map(|failover| Failover {
            update_s: failover.update_s.into(),
            timeout_s: failover.timeout_s.into(),
        }),
        ..Settings::default()
    }
}

/// Runs the controller with that client under that supervisor, until the supervisor is told to stop.
pub async fn run_with(client: Client, options: Options, mut supervisor: Supervisor) -> anyhow::Result<()> {
    let (metrics, registry) = Metrics::new();
    let readiness = Readiness::default();
    let heartbeat = Heartbeat::new(STUCK);
    let listed = readiness.guard("first list of every kind");
    let webhook_served = readiness.guard("webhook");
    let (inputs, queue) = mpsc::channel(QUEUE);
    // Alone nobody can be asked whether it still leads: only what it wrote itself before it began is kept apart.
    let alone = options.leader_election.is_none().then(|| Term::new(format!("alone/{}", Clock::wall().0)));
    let (leading, term) = watch::channel(alone);
    // The lease outlives the loop: the last write is done before another replica may begin.
    let loop_ended = CancellationToken::new();

    let health = Health { readiness: readiness.clone(), heartbeats: vec![("plan", heartbeat.clone())] };
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
    let namespace = options.namespace.as_deref().unwrap_or(client.default_namespace());
    let knowledge = Arc::new(Knowledge::new(options.settings.clone()));
    watches::start(&mut supervisor, &client, namespace, &inputs, &knowledge);
    match options.webhook {
        Some(mut options) => {
            if options.namespace.is_empty() {
                options.namespace = client.default_namespace().to_owned();
            }
            let counts = metrics.admission.clone();
            webhook::start(&mut supervisor, &client, options, knowledge, counts, webhook_served);
        }
        None => drop(webhook_served),
    }
    let mut leader_lease = None;
    if let Some((namespace, name)) = &options.leader_election {
        let namespace = namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        let lease = LeaderLease::new(client.clone(), &namespace, name, &options.identity, Timing::default());
        leader_lease = Some(lease.clone());
        supervisor.spawn("leader election", lead(lease, leading, supervisor.shutdown(), loop_ended.clone()));
    }
    let (waiting_in, waiting) = watch::channel(None);
    let diagnosis = Diagnosis {
        client: client.clone(),
        namespace: namespace.to_owned(),
        pod: options.identity.clone(),
        readiness,
    };
    supervisor.spawn("diagnosis", diagnosis.run(waiting, supervisor.shutdown()));
    let planner = Planner {
        client,
        leader_lease,
        replica: Replica::new(options.settings),
        clock: Clock::new(),
        metrics,
        heartbeat,
        listed: Some(listed),
        reporter: options.identity,
        look_after: options.monitor_period.min(BEAT),
        waiting: waiting_in,
        counted_at: Instant::now(),
    };
    supervisor.spawn("plan", planner.run(queue, term, supervisor.shutdown(), loop_ended));
    supervisor.run().await
}

/// Leads whenever it can. A lease that is lost is competed for again: what is known stays known, and a restart would only
/// make the API server list everything once more.
async fn lead(
    lease: LeaderLease,
    leading: watch::Sender<Option<Term>>,
    shutdown: CancellationToken,
    loop_ended: CancellationToken,
) -> anyhow::Result<()> {
    while let Some(term) = lease.acquire(&shutdown).await {
        leading.send_replace(Some(term.clone()));
        let held = lease.hold(&term, loop_ended.clone()).await;
        leading.send_replace(None);
        match held {
            Ok(()) => return Ok(()),
            Err(error) => warn!(error = format!("{error:#}"), "no longer leading"),
        }
    }
    Ok(())
}

struct Planner {
    client: Client,
    /// `None`: it is alone
    leader_lease: Option<LeaderLease>,
    replica: Replica,
    clock: Clock,
    metrics: Metrics,
    heartbeat: Heartbeat,
    /// Until every kind has been listed
    listed: Option<Guard>,
    reporter: String,
    /// The longest pause between two looks at the clock
    look_after: Duration,
    /// Kinds that are waited for; `None`: that was not asked yet
    waiting: watch::Sender<Option<Vec<Kind>>>,
    /// When metrics last counted everything
    counted_at: Instant,
}

impl Planner {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<Input>,
        mut leads: watch::Receiver<Option<Term>>,
        shutdown: CancellationToken,
        loop_ended: CancellationToken,
    ) -> anyhow::Result<()> {
        let _ended = loop_ended.drop_guard();
        let mut batch = Vec::new();
        loop {
            let (most, again_at) = (self.look_after, self.replica.again_at());
            let pause = again_at.map_or(most, |at| at.saturating_sub(self.clock.now()).min(most));
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                count = queue.recv_many(&mut batch, QUEUE) => anyhow::ensure!(count > 0, "nothing is watched any more"),
                // Where there is no election nobody sends, and the value stays as it is.
                Ok(()) = leads.changed() => self.replica.leadership_changed(),
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
                self.replica.absorb(input);
            }
            if self.counted_at.elapsed() >= COUNT {
                self.metrics.counted(self.replica.state.planner.last());
                self.counted_at = Instant::now();
            }
            let term = leads.borrow_and_update().clone();
            self.metrics.leads(term.is_some());
            let due = self.replica.due(self.clock.now(), term.as_ref());
            self.tell_what_is_listed();
            let Some(term) = term else { continue };
            match due {
                Due::Nothing => {}
                Due::List => {
                    if self.list(&term).await {
                        self.pass(&term, &leads).await;
                    }
                }
                Due::Pass => self.pass(&term, &leads).await,
            }
        }
    }

    /// Reads who holds what.
    async fn list(&mut self, term: &Term) -> bool {
        let leases: Api<EgressPortLease> = Api::all(self.client.clone());
        let gateways: Api<EgressGateway> = Api::all(self.client.clone());
        let everything = ListParams::default();
        let both = async { tokio::try_join!(leases.list(&everything), gateways.list(&everything)) };
        let listed = match tokio::time::timeout(READ_DEADLINE, both).await {
            Ok(Ok((leases, gateways))) => Some(Listed { leases: leases.items, gateways: gateways.items }),
            Ok(Err(error)) => {
                warn!(error = %error, "can't read port leases and gateways");
                None
            }
            Err(_) => {
                warn!("no answer to a list of port leases and gateways");
                None
            }
        };
        let has_read = listed.is_some();
        self.replica.listed(self.clock.now(), term, listed);
        has_read
    }

    fn tell_what_is_listed(&mut self) {
        if self.listed.is_none() {
            return;
        }
        let waiting = self.replica.waiting_for();
        if waiting.is_empty() {
            info!("every kind has been listed");
            self.listed = None;
        }
        self.waiting.send_if_modified(|known| {
            let is_news = known.as_ref() != Some(&waiting);
            if is_news {
                debug!(?waiting, "waiting for the first list");
                *known = Some(waiting);
            }
            is_news
        });
    }

    /// Plans once and writes what differs.
    async fn pass(&mut self, term: &Term, leads: &watch::Receiver<Option<Term>>) {
        let start = Instant::now();
        let planned = self.replica.plan(self.clock.now());
        let took = start.elapsed();
        let plan = self.replica.state.planner.last();
        let Planned { changed, notices } = match planned {
            Ok(planned) => planned,
            Err(found) => {
                self.metrics.refused();
                for violation in found.iter().take(10) {
                    error!(%violation, "the plan is wrong and is not written");
                }
                return;
            }
        };
        self.metrics.planned(plan, &changed, took);
        let (wall, now, start) = (Clock::wall(), self.clock.now(), Instant::now());
        let state = &mut self.replica.state;
        let (term, lease) = (term.clone(), self.leader_lease.clone());
        let leadership = Leadership { term, now: leads.clone(), lease };
        let outcome = write::write(&self.client, state, changed, wall.clone(), now, &leadership).await;
        self.metrics.written(outcome, start.elapsed());
        if outcome != write::Outcome::default() {
            debug!(?outcome, planned = ?took, written = ?start.elapsed(), "plan written");
        }
        let told = self.replica.written(self.clock.now(), outcome, notices);
        events::publish(&self.client, &self.replica.state, &told, &self.reporter, &wall).await;
    }
}
