//! The program: settings, threads and tasks, and how they are wired.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use api::slim::SlimNode;
use datapath::view::{Settings, ShortUdp};
use kube::{Api, Client};
use prometheus_client::registry::Registry;
use runtime::admin::{self, Health};
use runtime::config::{Config, CustomInterface, Feature};
use runtime::readiness::Heartbeat;
use runtime::supervisor::Supervisor;
use tokio::sync::{mpsc, oneshot, watch};

use crate::announcer::Announcer;
use crate::control_loop::{ControlLoop, Disk, Inbox, Outbox};
use crate::converge::Converger;
use crate::debug;
use crate::defence::{Conflicts, Defence};
use crate::heartbeat::Renewer;
use crate::keys::NodeKey;
use crate::linux::{self, Linux, UplinkChoice};
use crate::metrics::{KernelCounters, Metrics};
use crate::probe::{Probe, Report};
use crate::snapshot::{Snapshot, SnapshotWriter};
use crate::status::{Wish, Writer};
use crate::sysctl_record::SysctlRecord;
use crate::watches;

/// Names the directory that keeps the probe key and the objects over restarts; without it each start makes a new key, and
/// waits for the API server.
pub(crate) const STATE_DIR: &str = "STATE_DIR";
/// Time that tasks have to end.
const GRACE: Duration = Duration::from_secs(3);
/// The loop beats at least as often as it looks at the uplink; a pass never takes this long.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Events on their way to the loop.
const EVENTS: usize = 1024;

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When the settings are wrong, or a task fails.
pub fn run() -> Result<()> {
    let (config, warnings) = Config::load()?;
    runtime::telemetry::init(config.log).context("starting the log")?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if config.node_name.is_empty() {
        bail!("NODE_NAME is not set; it must name the node that the agent runs on");
    }
    tracing::info!(node = config.node_name, ?config, "agent starts");
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build();
    executor.context("starting the executor")?.block_on(serve(config))
}

async fn serve(config: Config) -> Result<()> {
    let node = config.node_name.as_str();
    let client = runtime::client::connect("egressgateway-agent").await?;
    let mut supervisor = Supervisor::new(GRACE);
    let choice = uplink_choice(&config.feature, &client, node).await?;

    let state_dir = std::env::var_os(STATE_DIR).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let key = Arc::new(NodeKey::load(state_dir.as_deref(), wall_clock_ms())?);
    let (report_in, reports) = watch::channel(Report::default());
    let probe = Probe::start(node, key.clone(), move |report| drop(report_in.send_replace(report)))?;
    let probe = Arc::new(probe);

    let mut registry = Registry::default();
    let kernel_counters = Arc::new(KernelCounters::new(linux::counters, linux::eip_counters));
    let metrics = Metrics::register(&mut registry, probe.counters(), kernel_counters);
    let health = Health::default();
    let heartbeat = Heartbeat::new(STUCK_AFTER);
    let not_ready = health.readiness.guard("the first pass over the kernel");
    let health = Health { heartbeats: vec![("control loop", heartbeat.clone())], ..health };
    if let Some(failover) = config.feature.failover {
        let namespace = Some(config.pod_namespace.as_str()).filter(|namespace| !namespace.is_empty());
        let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
        let period = Duration::from_secs(failover.update_s.into());
        let renewer = Renewer::new(client.clone(), &namespace, node, period, heartbeat.clone());
        let stop = supervisor.shutdown();
        supervisor.spawn("heartbeat", async move {
            renewer.run(stop).await;
            Ok(())
        });
    }
    let (mut announce, announced) = (linux::announcer()?, metrics.announced.clone());
    let (conflicts_in, conflicts) = watch::channel(Conflicts::new());
    let (wishes, wishes_out) = watch::channel(Wish::default());
    let outbox = Outbox {
        probe: probe.clone(),
        probe_key: key.public(),
        announcer: Announcer::start(move |uplink, address| {
            announce(uplink, address);
            announced.count(address);
        })?,
        defence: Defence::start(move |conflicts| drop(conflicts_in.send_replace(conflicts)))?,
        wishes,
        disk: state_dir.as_deref().map(disk).transpose()?,
        metrics,
        heartbeat,
        not_ready: Some(not_ready),
    };

    let (events, events_out) = mpsc::channel(EVENTS);
    let shutdown = supervisor.shutdown();
    let changed = state_dir.as_deref().map(SysctlRecord::load).transpose()?;
    let mut linux = Linux::open(choice, changed)?;
    let settings = Settings {
        arp_filter: linux.can_filter_arp(),
        zones: linux.has_zones(),
        timeouts: linux.has_timeouts(),
        counting_sets: linux.has_counting_sets(),
        ..settings(&config.feature)
    };
    let kernel = linux::monitor(&config.feature.vxlan.name, linux.port()?)?;
    let (asked, questions) = mpsc::channel(1);
    debug::listen(asked)?;
    let inbox =
        Inbox { events: events_out, reports, kernel, conflicts, questions, shutdown: shutdown.clone() };
    let converger = Converger::new(node, settings, linux);
    let ended = start_loop(ControlLoop::new(converger, outbox), inbox)?;
    supervisor.spawn("control loop", async { ended.await.context("the loop's thread is gone")? });
    watches::start(&mut supervisor, &client, node, &events);
    let writer = Writer::new(client, node);
    let stop = shutdown.clone();
    supervisor.spawn("status", async move {
        writer.run(wishes_out, stop).await;
        Ok(())
    });
    let admin = admin::serve(config.health_bind, config.metrics_bind, health, Arc::new(registry), shutdown);
    supervisor.spawn("health and metrics", admin);
    let outcome = supervisor.run().await;
    tracing::info!("agent stops; the kernel stays as it is");
    outcome
}

fn disk(dir: &Path) -> Result<Disk> {
    let lists = Snapshot::load(dir).unwrap_or_else(|error| {
        tracing::warn!(error = format!("{error:#}"), "what the last run knew can't be read");
        Vec::new()
    });
    Ok(Disk { lists, writer: SnapshotWriter::start(dir.to_owned())?, snapshot: Snapshot::default() })
}

/// The loop on its own thread, for its passes block.
fn start_loop(control: ControlLoop, inbox: Inbox) -> Result<oneshot::Receiver<Result<()>>> {
    let (ended_in, ended) = oneshot::channel();
    let executor = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let executor = executor.context("starting the loop's executor")?;
    let work = move || drop(ended_in.send(executor.block_on(control.run(inbox))));
    let thread = std::thread::Builder::new().name("loop".to_owned());
    thread.spawn(work).context("starting the loop's thread")?;
    Ok(ended)
}

fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn settings(feature: &Feature) -> Settings {
    Settings {
        tunnel_device: feature.vxlan.name.clone(),
        vni: feature.vxlan.id,
        tunnel_port: feature.vxlan.port,
        tunnel_mtu: feature.vxlan.mtu,
        ipv4: feature.ipv4,
        ipv6: feature.ipv6,
        no_gateway_action: feature.no_gateway_action,
        start_guard: feature.start_guard,
        short_udp: ShortUdp {
            ports: feature.short_udp_ports.clone(),
            unreplied_seconds: feature.short_udp_unreplied_s,
            replied_seconds: feature.short_udp_replied_s,
        },
        existing_flows: feature.existing_flows,
        ..Settings::default()
    }
}

/// The device of this node; its labels are asked for only where they matter.
async fn uplink_choice(feature: &Feature, client: &Client, node: &str) -> Result<UplinkChoice> {
    let Some(interface) = &feature.tunnel_interface else {
        return Ok(UplinkChoice::DefaultRoute);
    };
    if feature.tunnel_custom_interfaces.is_empty() {
        return Ok(UplinkChoice::Named(interface.clone()));
    }
    let nodes: Api<SlimNode> = Api::all(client.clone());
    let own = nodes.get(node).await.with_context(|| {
        format!("reading the labels of node {node}, which tunnelDetectCustomInterface asks for")
    })?;
    let labels = own.metadata.labels.unwrap_or_default();
    Ok(UplinkChoice::Named(interface_of(interface, &feature.tunnel_custom_interfaces, &labels).to_owned()))
}

/// The interface of a node with these labels: that of the first entry that fits, else the one that is meant for all.
fn interface_of<'a>(
    of_all: &'a str,
    custom: &'a [CustomInterface],
    labels: &BTreeMap<String, String>,
) -> &'a str {
    let fits = |custom: &&CustomInterface| {
        custom.node_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    custom.iter().find(fits).map_or(of_all, |custom| &custom.interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x_t8_the_first_entry_whose_labels_a_node_has_names_its_interface() {
        let entry = |labels: &[(&str, &str)], interface: &str| CustomInterface {
            node_labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            interface: interface.to_owned(),
        };
        let custom = [
            entry(&[("zone", "a"), ("fast", "yes")], "eth3"),
            entry(&[("zone", "a")], "eth2"),
            entry(&[("zone", "a")], "never"),
        ];
        let named = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            interface_of("eth1", &custom, &labels).to_owned()
        };
        assert_eq!(named(&[("zone", "a"), ("fast", "yes"), ("other", "x")]), "eth3");
        assert_eq!(named(&[("zone", "a"), ("fast", "no")]), "eth2");
        assert_eq!(named(&[("zone", "b")]), "eth1");
        assert_eq!(named(&[]), "eth1");
    }
}
