//! The process that a lab is: builds it, answers commands, and ends it.

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use nix::mount::{MntFlags, umount2};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::control::{Answer, REQUEST_BYTES_MAX, Request};
use crate::handle::LabOptions;
use crate::launch::{StartMessage, say};
use crate::state_dir::StateDir;

/// How many commands are answered at once.
const COMMANDS_MAX: usize = 32;

/// `supervisor`: runs a lab until it is told to stop.
pub(crate) fn supervise(state_dir: &str, options: &str) -> anyhow::Result<ExitCode> {
    let options: LabOptions = serde_json::from_str(options).context("read the lab's options")?;
    let state = StateDir::at(state_dir);
    let filter = tracing_subscriber::EnvFilter::try_from_env("EGRESSGATEWAY_LAB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,kube=warn,tower=warn,hyper=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(run(&state, options));
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    // The mount point can only be removed once nothing is mounted on it here.
    umount2(&state.file("private"), MntFlags::MNT_DETACH).ok();
    if outcome.is_ok() {
        state.remove_files().ok();
        state.remove_lock();
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn run(state: &StateDir, options: LabOptions) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    watch_the_tie(stop.clone());
    let listener = UnixListener::bind(state.control_socket()).context("listen for commands")?;
    let building = Cluster::build(state, options, stop.clone());
    let cluster = tokio::select! {
        built = building => Arc::new(built?),
        () = stop.cancelled() => return Ok(()),
    };
    let mut commands = JoinSet::new();
    commands.spawn(answer_commands(listener, Arc::clone(&cluster), stop.clone()));
    let started = tokio::select! {
        started = cluster.start() => started,
        () = stop.cancelled() => Ok(()),
    };
    if started.is_ok() && !stop.is_cancelled() {
        say(&StartMessage::Ready);
        stop.cancelled().await;
    }
    cluster.shutdown().await;
    commands.shutdown().await;
    started
}

/// Stdin is the tie to the process that started the lab: its end is the lab's end, unless a byte comes first.
fn watch_the_tie(stop: CancellationToken) {
    // A thread, because a read of stdin can't be cancelled; it ends with the process.
    std::thread::spawn(move || {
        let mut byte = [0];
        if !matches!(std::io::stdin().read(&mut byte), Ok(1)) {
            stop.cancel();
        }
    });
}

async fn answer_commands(listener: UnixListener, cluster: Arc<Cluster>, stop: CancellationToken) {
    let mut commands = JoinSet::new();
    loop {
        while commands.len() >= COMMANDS_MAX {
            commands.join_next().await;
        }
        while commands.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (cluster, stop) = (Arc::clone(&cluster), stop.clone());
        commands.spawn(async move {
            if let Err(error) = answer(stream, &cluster, &stop).await {
                tracing::debug!(%error, "a command went away");
            }
        });
    }
}

async fn answer(stream: UnixStream, cluster: &Cluster, stop: &CancellationToken) -> anyhow::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(Request::Status) => to_line(Ok(cluster.status().await)),
        Ok(Request::Target { name }) => to_line(cluster.target(&name)),
        Ok(Request::Fault(fault)) => to_line(cluster.fault(fault).await),
        Ok(Request::Asked) => to_line(cluster.asked()),
        Ok(Request::OutsideLog) => to_line(Ok(cluster.outside_log())),
        Ok(Request::Down) => {
            stop.cancel();
            to_line(Ok(()))
        }
        Err(error) => to_line::<()>(Err(error.into())),
    };
    write.write_all(reply.as_bytes()).await?;
    Ok(())
}

fn to_line<T: Serialize>(outcome: anyhow::Result<T>) -> String {
    let answer = match outcome {
        Ok(value) => Answer::Done(value),
        Err(error) => Answer::Refused(format!("{error:#}")),
    };
    let mut line = serde_json::to_string(&answer).unwrap_or_default();
    line.push('\n');
    line
}
