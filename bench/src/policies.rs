//! Many policies: how soon each has an EIP and a node in its status, and what a cluster that is left alone writes.
//!
//! On the embedded API server, or on a real one with `EGRESSGATEWAY_LAB_API_SERVER=real`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::figure::Figures;
use crate::session::Session;

/// Created at once.
const AT_ONCE: usize = 1_000;
/// Created one after the other, beside those.
const ONE_BY_ONE: usize = 200;
/// Requests at a time.
const CLIENTS: usize = 8;
const POOL: &str = "10.6.160.1-10.6.164.232";
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the cluster is left alone before its writes are counted, and while they are.
const SETTLE: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_secs(30);

pub(crate) fn run(figures: &mut Figures) -> Result<()> {
    let session = Session::up(false)?;
    session.gateways_with_pool(&["worker-node-1", "worker-node-2"], POOL)?;
    let policies = session.api("EgressPolicy", Some("default"));
    let (sender, mut told) = mpsc::unbounded_channel();
    session.runtime.spawn(report_statuses(policies.clone(), sender));
    session.runtime.block_on(async {
        let start = Instant::now();
        let creating =
            stream::iter((0..AT_ONCE).map(|number| create(&policies, format!("at-once-{number}"))));
        creating.buffer_unordered(CLIENTS).try_collect::<Vec<()>>().await?;
        let created = start.elapsed();
        let mut seen = BTreeMap::new();
        while seen.len() < AT_ONCE {
            let (name, at) = next(&mut told).await?;
            seen.entry(name).or_insert(at);
        }
        let last = seen.values().max().copied().unwrap_or(start).saturating_duration_since(start);
        figures.add_beside(
            format!("{AT_ONCE} policies at once: all have an EIP and a node (aim: 10 s)"),
            last.as_secs_f64(),
            "s",
            ("creating them alone", created.as_secs_f64()),
        );
        let mut took_ms = Vec::new();
        for number in 0..ONE_BY_ONE {
            let (name, start) = (format!("one-by-one-{number}"), Instant::now());
            create(&policies, name.clone()).await?;
            let at = loop {
                let (told, at) = next(&mut told).await?;
                if told == name {
                    break at;
                }
            };
            took_ms.push(at.saturating_duration_since(start).as_secs_f64() * 1000.0);
        }
        figures.add_series(
            "one more policy -> its status (aim: median 20 ms, p99 100 ms)",
            &mut took_ms,
            "ms",
        );
        tokio::time::sleep(SETTLE).await;
        let (writes, leases) = writes_while_idle(Api::all(session.client.clone())).await?;
        let beside = ("those to Leases", leases as f64);
        let seconds = IDLE.as_secs();
        figures.add_beside(
            format!("writes in {seconds} s of an idle cluster (aim: 0)"),
            writes as f64,
            "",
            beside,
        );
        Ok(())
    })
}

async fn create(policies: &Api<DynamicObject>, name: String) -> Result<()> {
    let policy: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "egressgateway.spidernet.io/v1beta1",
        "kind": "EgressPolicy",
        "metadata": {"name": name},
        "spec": {
            "egressGatewayName": "default",
            "egressIP": {"allocatorPolicy": "rr"},
            "appliedTo": {"podSelector": {"matchLabels": {"app": name}}},
            "destSubnet": ["10.6.168.63/32"],
        },
    }))?;
    policies.create(&PostParams::default(), &policy).await.context("create a policy").map(drop)
}

/// Tells when each policy was first seen with all that its status is for.
async fn report_statuses(
    policies: Api<DynamicObject>,
    told: mpsc::UnboundedSender<(String, Instant)>,
) -> Result<()> {
    let mut version = "0".to_owned();
    loop {
        let mut events = policies.watch(&WatchParams::default(), &version).await?.boxed();
        while let Some(event) = events.try_next().await? {
            let (WatchEvent::Added(policy) | WatchEvent::Modified(policy)) = event else { continue };
            version = policy.resource_version().unwrap_or(version);
            let has =
                |path| policy.data.pointer(path).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
            if has("/status/eip/ipv4")
                && has("/status/node")
                && told.send((policy.name_any(), Instant::now())).is_err()
            {
                return Ok(());
            }
        }
    }
}

async fn next(told: &mut mpsc::UnboundedReceiver<(String, Instant)>) -> Result<(String, Instant)> {
    match tokio::time::timeout(PATIENCE, told.recv()).await {
        Ok(Some(told)) => Ok(told),
        Ok(None) => bail!("the watch of policies ended"),
        Err(_) => bail!("waited {} s in vain for a policy's status", PATIENCE.as_secs()),
    }
}

/// Writes to other objects than Leases, and to these, while nobody does anything: every write raises the version that all
/// objects share.
async fn writes_while_idle(leases: Api<Lease>) -> Result<(u64, u64)> {
    let version = |text: Option<String>| -> Result<u64> { Ok(text.context("a version")?.parse()?) };
    let before = leases.list(&ListParams::default()).await?.metadata.resource_version;
    let mut events = leases.watch(&WatchParams::default(), before.as_deref().unwrap_or("0")).await?.boxed();
    let (before, end) = (version(before)?, tokio::time::Instant::now() + IDLE);
    let (mut count, mut after) = (0, before);
    while let Ok(event) = tokio::time::timeout_at(end, events.try_next()).await {
        let event = event?.context("the watch of Leases ended")?;
        if let WatchEvent::Added(lease) | WatchEvent::Modified(lease) | WatchEvent::Deleted(lease) = event {
            count += 1;
            after = version(lease.resource_version())?;
        }
    }
    Ok(((after - before).saturating_sub(count), count))
}
