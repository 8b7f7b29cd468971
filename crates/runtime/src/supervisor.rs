//! The owner of every task of a program.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Owns every task. The first one that ends, or SIGTERM or SIGINT, stops the others; a second signal ends the process at
/// once.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<(&'static str, Result<()>)>,
    shutdown: CancellationToken,
    grace: Duration,
}

impl Supervisor {
    /// A supervisor that gives its tasks that long to end.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { tasks: JoinSet::new(), shutdown: CancellationToken::new(), grace }
    }

    /// Cancelled when tasks are to end.
    #[must_use]
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task. It should end soon after [`Self::shutdown`] is cancelled; that it ends before stops the program.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = Result<()>> + Send + 'static) {
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// Runs until a task has ended or a signal has come, then stops the others. The error is that of the task that ended
    /// first.
    pub async fn run(mut self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
        let outcome = tokio::select! {
            ended = self.tasks.join_next() => first_end(ended, self.shutdown.is_cancelled()),
            _ = terminate.recv() => { info!("SIGTERM: stopping"); Ok(()) }
            _ = interrupt.recv() => { info!("SIGINT: stopping"); Ok(()) }
            () = self.shutdown.cancelled() => Ok(()),
        };
        self.shutdown.cancel();
        let rest = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Ok((name, Err(error))) = ended {
                    warn!(task = name, error = format!("{error:#}"), "task failed while stopping");
                }
            }
        };
        tokio::select! {
            () = rest => {}
            () = tokio::time::sleep(self.grace) => warn!(grace = ?self.grace, "tasks did not end in time"),
            _ = terminate.recv() => bail!("second signal: stopped at once"),
            _ = interrupt.recv() => bail!("second signal: stopped at once"),
        }
        outcome
    }
}

type Ended = Option<Result<(&'static str, Result<()>), tokio::task::JoinError>>;

fn first_end(ended: Ended, is_stopping: bool) -> Result<()> {
    match ended {
        None => Ok(()),
        Some(Ok((_, Ok(())))) if is_stopping => Ok(()),
        Some(Ok((name, Ok(())))) => bail!("task `{name}` ended"),
        Some(Ok((name, Err(error)))) => Err(error.context(format!("task `{name}` failed"))),
        Some(Err(error)) => Err(error).context("a task panicked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_fails_stops_the_others_and_names_itself() {
        let mut supervisor = Supervisor::new(Duration::from_secs(10));
        let shutdown = supervisor.shutdown();
        supervisor.spawn("patient", async move {
            shutdown.cancelled().await;
            Ok(())
        });
        supervisor.spawn("broken", async { bail!("no luck") });
        let error = supervisor.run().await.unwrap_err();
        assert_eq!(format!("{error:#}"), "task `broken` failed: no luck");
    }

    #[tokio::test]
    async fn a_task_that_ends_by_itself_is_an_error() {
        let mut supervisor = Supervisor::new(Duration::from_secs(10));
        supervisor.spawn("short", async { Ok(()) });
        assert_eq!(supervisor.run().await.unwrap_err().to_string(), "task `short` ended");
    }

    #[tokio::test]
    async fn a_stop_that_was_asked_for_is_none() {
        let mut supervisor = Supervisor::new(Duration::from_secs(10));
        let shutdown = supervisor.shutdown();
        supervisor.spawn("patient", async move {
            shutdown.cancelled().await;
            Ok(())
        });
        supervisor.shutdown().cancel();
        supervisor.run().await.unwrap();
    }
}
