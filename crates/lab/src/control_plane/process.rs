//! One program of a control plane, running in the network namespace where the API server's address is.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use anyhow::Context;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use crate::netns::NetNs;

/// How much of a program's log is shown when it ends unexpectedly.
const LAST_LINES: usize = 3;

/// How a program is started, as often as needed.
pub(super) struct Launch {
    pub(super) namespace: NetNs,
    /// Directory with the program.
    pub(super) programs: PathBuf,
    /// Directory that it works in, and logs to.
    pub(super) directory: PathBuf,
    pub(super) name: &'static str,
    pub(super) arguments: Vec<String>,
}

impl Launch {
    /// Starts the program.
    pub(super) fn start(&self) -> anyhow::Result<Process> {
        let name = self.name;
        let log = self.directory.join(format!("{name}.log"));
        let open = || fs::OpenOptions::new().create(true).append(true).open(&log);
        let out: File = open().with_context(|| format!("make the log of {name}"))?;
        let errors = out.try_clone().context("open a log twice")?;
        let mut command = Command::new(self.programs.join(name));
        command.args(&self.arguments).current_dir(&self.directory).env_clear();
        command.stdin(Stdio::null()).stdout(out).stderr(errors).kill_on_drop(true);
        let runtime = Handle::current();
        let spawn = || {
            let _entered = runtime.enter();
            command.spawn()
        };
        let child = self.namespace.run(spawn).with_context(|| format!("start {name}"))?;
        Ok(Process { name, child, log })
    }
}

/// A running program; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// An error once the program has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().with_context(|| format!("look after {}", self.name))? {
            None => Ok(()),
            Some(status) => Err(self.obituary(status)),
        }
    }

    /// Returns when the program has ended, with how it did.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => self.obituary(status),
            Err(error) => anyhow::Error::new(error).context(format!("look after {}", self.name)),
        }
    }

    fn obituary(&self, status: ExitStatus) -> anyhow::Error {
        anyhow::anyhow!("{} ended with {status}: {}", self.name, self.last_words())
    }

    /// Ends the program at once and waits until it is gone.
    pub(super) async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::debug!(program = self.name, %error, "a program was not killed");
        }
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines.iter().skip(lines.len().saturating_sub(LAST_LINES));
        last.copied().collect::<Vec<_>>().join(" | ")
    }
}
