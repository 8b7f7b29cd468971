//! Runs one container: starts it, probes it, restarts it with growing pauses, and ends it in time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::container::process::{ContainerProcess, kill_family, signal};
use crate::container::spec::ContainerSpec;
use crate::kubelet::log::ContainerLog;
use crate::kubelet::probe::{self, Verdict};
use crate::kubelet::registry::Registry;
use crate::node::Node;
use crate::world::Key;

/// Pauses before the first, second, … restart.
const PAUSES_MS: [u64; 7] = [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000];
/// After that long a run, the next restart counts as the first.
const STEADY: Duration = Duration::from_secs(60);

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// Whenever it ends.
    Always,
    /// When it failed.
    OnFailure,
    /// Never.
    Never,
}

impl Restart {
    /// As a pod's specification names it.
    pub(super) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn again(self, code: u8) -> bool {
        self == Self::Always || (self == Self::OnFailure && code != 0)
    }
}

/// One run of a container that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: u8,
    pub(super) started: Timestamp,
    pub(super) ended: Timestamp,
}

/// How a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Waiting { reason: &'static str, message: String },
    Running { since: Timestamp, ready: bool, started: bool },
    Ended(Ended),
}

/// What a runner tells its pod's worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// Which container.
    pub(super) index: usize,
    /// How it is.
    pub(super) phase: Phase,
    /// How it ended before that.
    pub(super) last: Option<Ended>,
    /// How often it was restarted.
    pub(super) restarts: i32,
    /// Something to write an event about: level, reason, message.
    pub(super) event: Option<(&'static str, &'static str, String)>,
}

/// How a container is to be ended: within that time. `None` while it is to run.
pub(super) type Stop = Option<Duration>;

/// What a runner works with.
pub(super) struct Runner {
    pub(super) index: usize,
    pub(super) container: Container,
    pub(super) spec: ContainerSpec,
    pub(super) restart: Restart,
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) log: Arc<ContainerLog>,
    pub(super) registry: Registry,
    pub(super) node: Arc<Node>,
    /// The address that probes go to.
    pub(super) address: std::net::IpAddr,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) stop: watch::Receiver<Stop>,
}

impl Runner {
    /// Runs the container until it has ended for good.
    pub(super) async fn run(mut self) {
        let mut restarts = 0;
        let mut quick_ends = 0_usize;
        let mut last = None;
        loop {
            let begun = Instant::now();
            let ended = self.run_once(restarts, last.clone()).await;
            let again = self.restart.again(ended.code) && self.stop.borrow().is_none();
            self.report(Phase::Ended(ended.clone()), last.clone(), restarts, None).await;
            if !again {
                return;
            }
            quick_ends = if begun.elapsed() >= STEADY { 0 } else { quick_ends + 1 };
            let pause = PAUSES_MS.get(quick_ends.saturating_sub(1)).or(PAUSES_MS.last());
            let pause = Duration::from_millis(pause.copied().unwrap_or(0));
            last = Some(ended);
            if !pause.is_zero() {
                let name = &self.container.name;
                let message =
                    format!("back-off {pause:?} restarting failed container={name} pod={}", self.key);
                let event = ("Warning", "BackOff", format!("Back-off restarting failed container {name}"));
                let phase = Phase::Waiting { reason: "CrashLoopBackOff", message };
                self.log.wait_for_run();
                self.report(phase, last.clone(), restarts, Some(event)).await;
                let mut stop = self.stop.clone();
                let stopped = tokio::select! {
                    () = sleep(pause) => false,
                    _ = wait_for_stop(&mut stop) => true,
                };
                if stopped {
                    if let Some(ended) = last.take() {
                        self.report(Phase::Ended(ended), None, restarts, None).await;
                    }
                    return;
                }
            }
            restarts += 1;
        }
    }

    async fn run_once(&mut self, restarts: i32, last: Option<Ended>) -> Ended {
        let started = Timestamp::now();
        let ended = |code| Ended { code, started, ended: Timestamp::now() };
        self.log.begin_run().ok();
        let pipes = || std::process::Stdio::piped();
        let mut process = match ContainerProcess::start(&self.spec, pipes(), pipes()) {
            Ok(process) => process,
            Err(error) => {
                let event = Some(("Warning", "Failed", format!("Error: {error}")));
                let phase = Phase::Waiting { reason: "RunContainerError", message: error.to_string() };
                self.report(phase, last, restarts, event).await;
                self.log.end_run();
                return ended(128);
            }
        };
        // Whoever hears that it runs may enter it at once.
        process.entered().await;
        let pid = process.pid();
        self.registry.set_pid(&self.key, &self.uid, &self.container.name, Some(pid));
        let (stdout, stderr) = process.take_output();
        let recording = {
            let (log, other) = (Arc::clone(&self.log), Arc::clone(&self.log));
            async move {
                let out = async {
                    if let Some(out) = stdout {
                        log.record(out).await
                    }
                };
                let err = async {
                    if let Some(err) = stderr {
                        other.record(err).await
                    }
                };
                tokio::join!(out, err);
            }
        };
        let event = Some(("Normal", "Started", format!("Started container {}", self.container.name)));
        let mut health = Health::new(&self.container);
        self.report(health.phase(started), last.clone(), restarts, event).await;

        let (verdicts, mut heard) = mpsc::channel(8);
        let probing = probe::run(&self.container, &self.node, self.address, verdicts);
        let mut stop = self.stop.clone();
        let mut recorded = false;
        tokio::pin!(recording, probing);
        let code = loop {
            tokio::select! {
                code = process.wait() => break code.unwrap_or(255),
                () = &mut recording, if !recorded => recorded = true,
                () = &mut probing => {}
                Some(verdict) = heard.recv() => match health.take(verdict) {
                    Outcome::Same => {}
                    Outcome::Changed => self.report(health.phase(started), last.clone(), restarts, None).await,
                    Outcome::Kill(reason) => {
                        self.report(health.phase(started), last.clone(), restarts, Some(("Warning", "Unhealthy", reason))).await;
                        kill_family(pid);
                    }
                },
                Ok(grace) = wait_for_stop(&mut stop) => {
                    break end(&mut process, grace).await;
                }
            }
        };
        self.registry.set_pid(&self.key, &self.uid, &self.container.name, None);
        if !recorded {
            // All writers are dead, so this ends; unless one escaped, which must not hold up the pod.
            tokio::time::timeout(Duration::from_secs(1), recording).await.ok();
        }
        self.log.end_run();
        ended(code)
    }

    async fn report(
        &self,
        phase: Phase,
        last: Option<Ended>,
        restarts: i32,
        event: Option<(&'static str, &'static str, String)>,
    ) {
        // Nobody listens once the pod's worker is gone.
        self.reports.send(Report { index: self.index, phase, last, restarts, event }).await.ok();
    }
}

async fn wait_for_stop(stop: &mut watch::Receiver<Stop>) -> Result<Duration, watch::error::RecvError> {
    let grace = stop.wait_for(Option::is_some).await?;
    Ok(grace.unwrap_or_default())
}

/// Asks the container to end, and kills it when its time is over.
async fn end(process: &mut ContainerProcess, grace: Duration) -> u8 {
    let pid = process.pid();
    if !grace.is_zero() {
        signal(pid, Signal::SIGTERM);
        if let Ok(code) = tokio::time::timeout(grace, process.wait()).await {
            return code.unwrap_or(255);
        }
    }
    kill_family(pid);
    process.wait().await.unwrap_or(137)
}

enum Outcome {
    Same,
    Changed,
    Kill(String),
}

/// What the probes have found.
struct Health {
    ready: bool,
    started: bool,
    has_readiness: bool,
}

impl Health {
    fn new(container: &Container) -> Self {
        let started = container.startup_probe.is_none();
        let has_readiness = container.readiness_probe.is_some();
        Self { ready: started && !has_readiness, started, has_readiness }
    }

    fn phase(&self, since: Timestamp) -> Phase {
        Phase::Running { since, ready: self.ready, started: self.started }
    }

    fn take(&mut self, verdict: Verdict) -> Outcome {
        let before = (self.ready, self.started);
        match verdict {
            Verdict::Started => {
                self.started = true;
                self.ready |= !self.has_readiness;
            }
            Verdict::Ready(ready) => self.ready = ready,
            Verdict::Dead(reason) => return Outcome::Kill(reason),
        }
        if before == (self.ready, self.started) { Outcome::Same } else { Outcome::Changed }
    }
}
