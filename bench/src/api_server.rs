//! The embedded API server: writes per second and how fast watchers hear of them.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use apiserver::server::{ApiServer, ApiServerHandle, ServerConfig};
use futures::{AsyncBufReadExt, TryStreamExt, future};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::figure::Figures;
use crate::session::now_us;

const OBJECTS: usize = 10_000;
const WATCHERS: usize = 100;
const WRITERS: usize = 16;
const LISTS: usize = 20;
const PACED_SECONDS: usize = 5;

pub(crate) fn run(figures: &mut Figures) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(figures))
}

async fn measure(figures: &mut Figures) -> Result<()> {
    let alone = Server::start().await?;
    let (writes_alone, _) = write_all(&alone, OBJECTS).await?;
    alone.handle.shutdown().await;

    let server = Server::start().await?;
    let delivered = Arc::new(AtomicU64::new(0));
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        watchers.spawn(watch(server.client().await?, Arc::clone(&delivered), sender.clone()));
    }
    drop(sender);
    for _ in 0..WATCHERS {
        receiver.recv().await.context("a watcher ended early")?;
    }
    let (writes, took) = write_all(&server, OBJECTS).await?;
    figures.add_beside(
        "writes/s with 100 watchers (aim: 1,000)",
        writes,
        "/s",
        ("none watching", writes_alone),
    );
    let wanted = (OBJECTS * WATCHERS) as u64;
    let end = Instant::now() + Duration::from_secs(60);
    while delivered.load(Ordering::Relaxed) < wanted && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    watchers.abort_all();
    let mut delays: Vec<f64> = Vec::new();
    while let Some(delay) = receiver.recv().await {
        delays.push(delay);
    }
    figures.add("events delivered", delivered.load(Ordering::Relaxed) as f64, "");
    figures.add("events delivered/s", delivered.load(Ordering::Relaxed) as f64 / took.as_secs_f64(), "/s");
    figures.add_series("write -> watcher at full write load", &mut delays, "ms");
    let api = Api::<ConfigMap>::default_namespaced(server.client().await?);
    let mut lists = Vec::new();
    for _ in 0..LISTS {
        let start = Instant::now();
        api.list(&ListParams::default()).await?;
        lists.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    figures.add_series("list of 10,000 objects", &mut lists, "ms");
    paced_delivery(&server, figures, 100, "write -> watcher at 100 writes/s").await?;
    paced_delivery(&server, figures, 1000, "write -> watcher at 1,000 writes/s (aim: p99 20 ms)").await?;
    server.handle.shutdown().await;
    Ok(())
}

/// Delivery to 100 watchers at a fixed pace; says which pace was really kept, because a late writer measures less load.
async fn paced_delivery(server: &Server, figures: &mut Figures, pace: usize, name: &str) -> Result<()> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let delivered = Arc::new(AtomicU64::new(0));
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        watchers.spawn(watch(server.client().await?, Arc::clone(&delivered), sender.clone()));
    }
    drop(sender);
    for _ in 0..WATCHERS {
        receiver.recv().await.context("a watcher ended early")?;
    }
    let count = pace * PACED_SECONDS;
    let start = Instant::now();
    let writers = (0..WRITERS).map(|writer| async move {
        let api = Api::<ConfigMap>::default_namespaced(server.client().await?);
        for number in (writer..count).step_by(WRITERS) {
            let due = start + Duration::from_secs_f64(number as f64 / pace as f64);
            tokio::time::sleep_until(due.into()).await;
            create(&api, &format!("paced-{pace}-{number}")).await?;
        }
        anyhow::Ok(())
    });
    future::try_join_all(writers).await?;
    let kept = count as f64 / start.elapsed().as_secs_f64();
    let wanted = (count * WATCHERS) as u64;
    let end = Instant::now() + Duration::from_secs(30);
    while delivered.load(Ordering::Relaxed) < wanted && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let missing = wanted.saturating_sub(delivered.load(Ordering::Relaxed));
    watchers.abort_all();
    let mut delays = Vec::new();
    while let Some(delay) = receiver.recv().await {
        delays.push(delay);
    }
    figures.add(format!("pace kept of {pace} writes/s"), kept, "/s");
    figures.add(format!("events missing at {pace} writes/s"), missing as f64, "");
    figures.add_series(name, &mut delays, "ms");
    Ok(())
}

struct Server {
    handle: ApiServerHandle,
    kubeconfig: Kubeconfig,
}

impl Server {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("https://{}", listener.local_addr()?);
        let handle =
            ApiServer::start(ServerConfig { listeners: vec![listener], ..ServerConfig::default() }).await?;
        let kubeconfig = Kubeconfig::from_yaml(&handle.kubeconfig(&url))?;
        Ok(Self { handle, kubeconfig })
    }

    async fn client(&self) -> Result<Client> {
        let config =
            Config::from_custom_kubeconfig(self.kubeconfig.clone(), &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }
}

/// Writes from several clients at once; writes per second and the time it took.
async fn write_all(server: &Server, count: usize) -> Result<(f64, Duration)> {
    let start = Instant::now();
    let writers = (0..WRITERS).map(|writer| async move {
        let api = Api::<ConfigMap>::default_namespaced(server.client().await?);
        for number in (writer..count).step_by(WRITERS) {
            create(&api, &format!("object-{number}")).await?;
        }
        anyhow::Ok(())
    });
    future::try_join_all(writers).await?;
    Ok((count as f64 / start.elapsed().as_secs_f64(), start.elapsed()))
}

async fn create(api: &Api<ConfigMap>, name: &str) -> Result<()> {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object.data = Some([("sent".to_owned(), format!("us{}us", now_us()))].into());
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}

/// Counts events and sends the delay of each in milliseconds; the first value sent (0) says that the watch stands.
async fn watch(client: Client, delivered: Arc<AtomicU64>, delays: mpsc::UnboundedSender<f64>) -> Result<()> {
    let newest =
        Api::<ConfigMap>::default_namespaced(client.clone()).list(&ListParams::default().limit(1)).await?;
    let version = newest.metadata.resource_version.unwrap_or_default();
    let path = format!("/api/v1/namespaces/default/configmaps?watch=true&resourceVersion={version}");
    let stream = client.request_stream(http::Request::get(path).body(Vec::new())?).await?;
    delays.send(0.0).ok();
    let mut lines = stream.lines();
    while let Some(line) = lines.try_next().await? {
        let sent = line.split("us").find_map(|part| part.parse::<u64>().ok());
        if let Some(sent) = sent {
            delivered.fetch_add(1, Ordering::Relaxed);
            delays.send(now_us().saturating_sub(sent) as f64 / 1000.0).ok();
        }
    }
    Ok(())
}
