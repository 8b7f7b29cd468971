//! Makes one pod run, tells how it is, and takes it away in the end.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::addresses::{API_SERVER_PORT, API_SERVER_V4};
use crate::cluster::namespace_path;
use crate::container::SEARCH_PATH;
use crate::container::spec::{ContainerSpec, Program};
use crate::kubelet::environment::{self, Place, References};
use crate::kubelet::log::ContainerLog;
use crate::kubelet::registry::{RunningContainer, RunningPod};
use crate::kubelet::runner::{Phase, Report, Restart, Runner, Stop};
use crate::kubelet::status::{self, Known};
use crate::kubelet::volumes::{self, VolumeMaker, Volumes};
use crate::kubelet::{Kubelet, RETRY, Wish};
use crate::node::PodNetwork;
use crate::pods::is_ready;
use crate::world::Key;

/// Time that a container gets to end when nobody said how long.
const GRACE_SECONDS: i64 = 30;

/// Runs a pod until it is gone.
pub(super) async fn run(kubelet: Arc<Kubelet>, wishes: watch::Receiver<Wish>) {
    let pod = Arc::clone(&wishes.borrow().pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let containers: Vec<Container> =
        spec.init_containers.iter().flatten().chain(&spec.containers).cloned().collect();
    let host_ip = kubelet.node.number().v4().to_string();
    let place = Place { node: kubelet.name(), host_ip: host_ip.clone(), pod_ips: Vec::new() };
    let worker = Worker {
        key: Key::of(pod.as_ref()),
        uid: pod.uid().unwrap_or_default(),
        directory: kubelet.directory.join("pods").join(pod.uid().unwrap_or_default()),
        reports: vec![None; containers.len()],
        init_containers: spec.init_containers.as_ref().map_or(0, Vec::len),
        containers,
        kubelet,
        wishes,
        pod,
        place,
        network: None,
        trouble: None,
        started: Timestamp::now(),
        dirty: true,
    };
    worker.run().await;
}

struct Worker {
    kubelet: Arc<Kubelet>,
    wishes: watch::Receiver<Wish>,
    pod: Arc<Pod>,
    key: Key,
    uid: String,
    directory: PathBuf,
    containers: Vec<Container>,
    init_containers: usize,
    place: Place,
    network: Option<PodNetwork>,
    reports: Vec<Option<Report>>,
    trouble: Option<String>,
    started: Timestamp,
    /// Whether there is something that the API server has not been told.
    dirty: bool,
}

impl Worker {
    async fn run(mut self) {
        let (stop, stopped) = watch::channel(None);
        let (reports, mut heard) = mpsc::channel(16);
        if let Some(prepared) = self.prepare().await {
            let mut runners = JoinSet::new();
            let mut next = 0;
            loop {
                next = self.start_due(next, &prepared, &mut runners, &reports, &stopped);
                if self.dirty {
                    self.tell_status().await;
                }
                if runners.is_empty() && !self.dirty {
                    break;
                }
                tokio::select! {
                    Some(report) = heard.recv() => self.take(report).await,
                    Some(_) = runners.join_next(), if !runners.is_empty() => {
                        while let Ok(report) = heard.try_recv() {
                            self.take(report).await;
                        }
                    }
                    changed = self.wishes.changed() => {
                        if changed.is_err() {
                            stop.send_replace(Some(Duration::ZERO));
                        }
                        self.follow_wish(&stop);
                    }
                    () = sleep(RETRY), if self.dirty => {}
                }
            }
        }
        self.take_away().await;
    }

    /// Starts the containers whose turn it is: init containers one after the other, then all others.
    fn start_due(
        &mut self,
        mut next: usize,
        prepared: &Prepared,
        runners: &mut JoinSet<()>,
        reports: &mpsc::Sender<Report>,
        stop: &watch::Receiver<Stop>,
    ) -> usize {
        while next < self.containers.len() && stop.borrow().is_none() {
            let before = next.checked_sub(1).filter(|_| next <= self.init_containers);
            if let Some(before) = before {
                let done = matches!(
                    self.reports.get(before),
                    Some(Some(Report { phase: Phase::Ended(ended), .. })) if ended.code == 0
                );
                if !done {
                    break;
                }
            }
            if let Some(runner) = self.runner(next, prepared, reports, stop) {
                runners.spawn(runner.run());
            }
            next += 1;
        }
        next
    }

    fn runner(
        &self,
        index: usize,
        prepared: &Prepared,
        reports: &mpsc::Sender<Report>,
        stop: &watch::Receiver<Stop>,
    ) -> Option<Runner> {
        let restart = Restart::parse(self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()));
        let is_init = index < self.init_containers;
        let (spec, log) = prepared.containers.get(index)?;
        Some(Runner {
            index,
            container: self.containers.get(index)?.clone(),
            spec: spec.clone(),
            restart: if is_init && restart == Restart::Always { Restart::OnFailure } else { restart },
            key: self.key.clone(),
            uid: self.uid.clone(),
            log: Arc::clone(log),
            registry: self.kubelet.registry.clone(),
            node: Arc::clone(&self.kubelet.node),
            address: prepared.address,
            reports: reports.clone(),
            stop: stop.clone(),
        })
    }

    async fn take(&mut self, mut report: Report) {
        let event = report.event.take();
        if let Some(slot) = self.reports.get_mut(report.index) {
            *slot = Some(report);
        }
        self.dirty = true;
        if let Some((level, reason, message)) = event {
            // Not awaited before the status: that is what people wait for.
            self.tell_status().await;
            self.kubelet.event(&self.pod, level, reason, &message).await;
        }
    }

    fn follow_wish(&mut self, stop: &watch::Sender<Stop>) {
        let wish = self.wishes.borrow_and_update().clone();
        if wish.gone {
            stop.send_replace(Some(Duration::ZERO));
            return;
        }
        self.pod = wish.pod;
        // Others call it unready when they have not heard of its node for a while.
        let reports = self.reports.get(self.init_containers..).unwrap_or_default();
        self.dirty |= status::all_ready(reports) && !is_ready(&self.pod);
        if self.pod.metadata.deletion_timestamp.is_some() {
            let seconds = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(GRACE_SECONDS);
            let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            stop.send_if_modified(|old| {
                let shorter = old.is_none_or(|old| grace < old);
                if shorter {
                    *old = Some(grace);
                }
                shorter
            });
        }
    }

    fn is_over(&self) -> bool {
        let wish = self.wishes.borrow();
        wish.gone || wish.pod.metadata.deletion_timestamp.is_some()
    }

    /// Everything that must be there before the first container starts; `None` if the pod was deleted before.
    async fn prepare(&mut self) -> Option<Prepared> {
        loop {
            if self.is_over() || self.wishes.has_changed().is_err() {
                return None;
            }
            match self.try_prepare().await {
                Ok(prepared) => return Some(prepared),
                Err(error) => {
                    let message = format!("{error:#}");
                    if self.trouble.as_deref() != Some(message.as_str()) {
                        self.kubelet.event(&self.pod, "Warning", "FailedMount", &message).await;
                        self.trouble = Some(message);
                        self.tell_status().await;
                    }
                }
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                _ = self.wishes.changed() => self.pod = Arc::clone(&self.wishes.borrow_and_update().pod),
            }
        }
    }

    async fn try_prepare(&mut self) -> anyhow::Result<Prepared> {
        self.make_network().await?;
        let maker = VolumeMaker {
            client: &self.kubelet.client,
            ca_pem: &self.kubelet.ca_pem,
            directory: self.directory.clone(),
            node_directory: self.kubelet.directory.join("nodes").join(self.kubelet.name()),
            place: &self.place,
        };
        let references = maker.references(&self.pod).await?;
        let volumes = maker.make(&self.pod, &references)?;
        let mut containers = Vec::new();
        let mut running = Vec::new();
        for container in &self.containers {
            let log_directory = self.directory.join("logs").join(&container.name);
            std::fs::create_dir_all(&log_directory).context("make a directory for the log")?;
            let log = ContainerLog::new(log_directory);
            let spec = self.container_spec(container, &volumes, &references)?;
            running.push(RunningContainer {
                name: container.name.clone(),
                pid: None,
                environment: spec.program.environment.clone(),
                working_directory: spec.program.working_directory.clone(),
                log: Arc::clone(&log),
            });
            containers.push((spec, log));
        }
        self.kubelet.registry.add(
            self.key.clone(),
            RunningPod {
                node: self.kubelet.name(),
                uid: self.uid.clone(),
                labels: self.pod.labels().clone(),
                containers: running,
            },
        );
        let address = self.place.pod_ips.first().and_then(|ip| ip.parse().ok());
        Ok(Prepared { containers, address: address.unwrap_or(IpAddr::V4(self.kubelet.node.number().v4())) })
    }

    async fn make_network(&mut self) -> anyhow::Result<()> {
        if !self.place.pod_ips.is_empty() {
            return Ok(());
        }
        if self.uses_host_network() {
            let number = self.kubelet.node.number();
            self.place.pod_ips = vec![number.v4().to_string(), number.v6().to_string()];
            return Ok(());
        }
        let node = Arc::clone(&self.kubelet.node);
        let network =
            tokio::task::spawn_blocking(move || node.add_pod()).await.context("make the pod's network")?;
        let network = network.context("make the pod's network")?;
        self.place.pod_ips = vec![network.v4.to_string(), network.v6.to_string()];
        self.network = Some(network);
        // The address is out before the first packet can be: agents learn of it from the status.
        self.tell_status().await;
        Ok(())
    }

    fn uses_host_network(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
    }

    fn container_spec(
        &self,
        container: &Container,
        volumes: &Volumes,
        references: &References,
    ) -> anyhow::Result<ContainerSpec> {
        let hostname = if self.uses_host_network() {
            self.kubelet.name()
        } else {
            let wanted = self.pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
            wanted.unwrap_or_else(|| self.key.name.chars().take(63).collect())
        };
        let base = [
            ("PATH", SEARCH_PATH.to_string()),
            ("HOME", "/root".to_string()),
            ("HOSTNAME", hostname.clone()),
            ("KUBERNETES_SERVICE_HOST", API_SERVER_V4.to_string()),
            ("KUBERNETES_SERVICE_PORT", API_SERVER_PORT.to_string()),
            ("KUBERNETES_SERVICE_PORT_HTTPS", API_SERVER_PORT.to_string()),
        ];
        let base = base.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        let environment = environment::of(container, &self.pod, &self.place, references, base)
            .map_err(|message| anyhow::anyhow!("CreateContainerConfigError: {message}"))?;
        let variables = environment.iter().cloned().collect();
        let expand = |words: &Option<Vec<String>>| -> Vec<String> {
            words.iter().flatten().map(|word| environment::expand(word, &variables)).collect()
        };
        let mut argv = expand(&container.command);
        if argv.is_empty() {
            argv = default_command(container.image.as_deref().unwrap_or_default());
        }
        argv.extend(expand(&container.args));
        let namespace = match &self.network {
            Some(network) => namespace_path(&network.namespace),
            None => namespace_path(self.kubelet.node.namespace()),
        };
        let ip = self.place.pod_ips.first().cloned().unwrap_or_default();
        Ok(ContainerSpec {
            network_namespace: namespace,
            hosts: format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n{ip}\t{hostname}\n"),
            hostname,
            root: self.kubelet.root.clone(),
            mounts: volumes::mounts(container, volumes)?,
            program: Program {
                argv,
                environment,
                working_directory: container.working_dir.clone().map(PathBuf::from),
            },
        })
    }

    /// Tells the API server how the pod is. What can't be told stays to be told.
    async fn tell_status(&mut self) {
        if !*self.kubelet.connected.borrow() {
            return;
        }
        let known = Known {
            pod: &self.pod,
            place: &self.place,
            reports: &self.reports,
            init_containers: self.init_containers,
            has_network: !self.place.pod_ips.is_empty(),
            trouble: self.trouble.as_deref(),
            started: self.started,
        };
        let patch = Patch::Merge(status::patch(&known, Timestamp::now()));
        match self.api().patch_status(&self.key.name, &PatchParams::default(), &patch).await {
            Ok(pod) => {
                // Another pod of the same name would be somebody else's business.
                if pod.uid().as_deref() == Some(self.uid.as_str()) {
                    self.pod = Arc::new(pod);
                }
                self.dirty = false;
            }
            Err(kube::Error::Api(status)) if status.code == 404 => self.dirty = false,
            Err(error) => {
                tracing::debug!(pod = %self.key, %error, "a status was not written");
                sleep(RETRY).await;
            }
        }
    }

    /// Takes everything of the pod away, and the pod itself if it was deleted.
    async fn take_away(mut self) {
        let finished_by_itself = !self.is_over();
        if let Some(network) = self.network.take() {
            let node = Arc::clone(&self.kubelet.node);
            let removed = tokio::task::spawn_blocking(move || node.remove_pod(network)).await;
            if !matches!(removed, Ok(Ok(()))) {
                tracing::warn!(pod = %self.key, ?removed, "the pod's network was not removed");
            }
        }
        if finished_by_itself {
            // Its log stays readable until somebody deletes the pod.
            self.wait_for_deletion().await;
        }
        self.kubelet.registry.remove(&self.key, &self.uid);
        std::fs::remove_dir_all(&self.directory).ok();
        if self.wishes.borrow().gone {
            return;
        }
        self.delete_object().await;
    }

    async fn wait_for_deletion(&mut self) {
        while !self.is_over() {
            if self.wishes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn delete_object(&self) {
        let preconditions = Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None });
        let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
        let final_status =
            Patch::Merge(serde_json::json!({"status": {"phase": status::final_phase(&self.reports)}}));
        loop {
            self.kubelet.reachable().await;
            // Controllers that count finished pods see how it ended.
            self.api().patch_status(&self.key.name, &PatchParams::default(), &final_status).await.ok();
            match self.api().delete(&self.key.name, &params).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => tracing::debug!(pod = %self.key, %error, "the pod was not deleted"),
            }
            sleep(RETRY).await;
        }
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.kubelet.client.clone(), &self.key.namespace)
    }
}

/// What containers are started from.
struct Prepared {
    containers: Vec<(ContainerSpec, Arc<ContainerLog>)>,
    address: IpAddr,
}

/// What an image runs by itself: those that this program can stand in for do, all others just exist.
fn default_command(image: &str) -> Vec<String> {
    let repository = image.split('@').next().unwrap_or_default();
    let name = repository.rsplit('/').next().unwrap_or_default();
    let name = name.split(':').next().unwrap_or_default();
    let command = match name {
        "egressgateway-controller" => "/usr/bin/controller",
        "egressgateway-agent" => "/usr/bin/agent",
        "egressgateway-nettools" => "/usr/bin/nettools-server",
        _ => {
            let program = format!("{}/egressgateway", crate::container::PROGRAMS_DIR);
            return vec![program, crate::sandbox::INNER.to_string(), "pause".to_string()];
        }
    };
    vec![command.to_string()]
}
