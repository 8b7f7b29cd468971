//! One program of a control plane, running in the network namespace where the API server's address is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use crate::netns::NetNs;

/// How much of a program's log is shown when it ends unexpectedly.
const LAST_LINES: usize = 3;

/// A running program; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program from `programs`, which logs to a file in `directory`.
    pub(super) fn start(
        namespace: &NetNs,
        programs: &Path,
        directory: &Path,
        name: &str,
        arguments: &[String],
    ) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let open = || fs::OpenOptions::new().create(true).append(true).open(&log);
        let out: File = open().with_context(|| format!("make the log of {name}"))?;
        let errors = out.try_clone().context("open a log twice")?;
        let mut command = Command::new(programs.join(name));
        command.args(arguments).current_dir(directory).env_clear();
        command.stdin(Stdio::null()).stdout(out).stderr(errors).kill_on_drop(true);
        let runtime = Handle::current();
        let spawn = || {
            let _entered = runtime.enter();
            command.spawn()
        };
        let child = namespace.run(spawn).with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_string(), child, log })
    }

    /// An error once the program has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().with_context(|| format!("look after {}", self.name))? {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} ended with {status}: {}", self.name, self.last_words()),
        }
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
