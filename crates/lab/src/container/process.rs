//! A container's process, seen from the lab.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::container::exit_code;
use crate::container::spec::{ContainerSpec, EnterSpec};
use crate::sandbox::inner_command;

/// A started container: the process that becomes its program, and everything that this one starts.
#[derive(Debug)]
pub(crate) struct ContainerProcess {
    child: Child,
    pid: i32,
    /// Ends when the process has entered the container's namespaces, or is gone.
    entering: UnixStream,
}

impl ContainerProcess {
    /// Starts a container; its program's stdin is empty. Until it has entered its namespaces, its id leads elsewhere.
    pub(crate) fn start(spec: &ContainerSpec, stdout: Stdio, stderr: Stdio) -> io::Result<Self> {
        let argument = serde_json::to_string(spec)?;
        let mut command = Command::from(inner_command("container"));
        let (entering, theirs) = UnixStream::pair()?;
        command.arg(argument).stdin(OwnedFd::from(theirs)).stdout(stdout).stderr(stderr).kill_on_drop(true);
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        Ok(Self { child, pid: pid.ok_or_else(|| io::Error::other("the process has no id"))?, entering })
    }

    /// Waits until it has entered its namespaces, or is gone.
    pub(crate) fn wait_until_entered(&self) {
        // Nothing is ever written: whatever comes, it is the end.
        drop((&self.entering).read(&mut [0]));
    }

    /// Waits until it has entered its namespaces, or is gone.
    pub(crate) async fn entered(&self) {
        let Ok(entering) = self.entering.try_clone() else { return };
        if entering.set_nonblocking(true).is_ok()
            && let Ok(mut entering) = tokio::net::UnixStream::from_std(entering)
        {
            drop(tokio::io::AsyncReadExt::read(&mut entering, &mut [0]).await);
        }
    }

    /// Its id in the lab's process namespace.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Takes the reading ends of its output.
    pub(crate) fn take_output(
        &mut self,
    ) -> (Option<tokio::process::ChildStdout>, Option<tokio::process::ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Waits for its end; then everything that it started is killed. Cancel-safe.
    pub(crate) async fn wait(&mut self) -> io::Result<u8> {
        let family = mount_namespace(self.pid);
        let status = self.child.wait().await?;
        if let Some(family) = family {
            kill_in_mount_namespace(&family);
        }
        Ok(exit_code(status))
    }
}

/// Sends a signal to a container's first process. One that is gone is no error.
pub(crate) fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).ok();
}

/// Kills a container's first process and everything that it started.
pub(crate) fn kill_family(pid: i32) {
    if let Some(family) = mount_namespace(pid) {
        kill_in_mount_namespace(&family);
    }
    signal(pid, Signal::SIGKILL);
}

/// Starts a command beside a container's first process.
pub(crate) fn enter(pid: i32, mut spec: EnterSpec, streams: [Stdio; 3]) -> io::Result<Child> {
    let process = format!("/proc/{pid}");
    let kinds = ["net", "uts", "ipc", "mnt"];
    spec.namespaces = kinds.iter().map(|kind| PathBuf::from(format!("{process}/ns/{kind}"))).collect();
    spec.root = Some(PathBuf::from(format!("{process}/root")));
    let [stdin, stdout, stderr] = streams;
    let mut command = Command::from(inner_command("enter"));
    command.arg(serde_json::to_string(&spec)?).stdin(stdin).stdout(stdout).stderr(stderr).kill_on_drop(true);
    command.spawn()
}

/// Each container has a mount namespace of its own; what it is called.
fn mount_namespace(pid: i32) -> Option<PathBuf> {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let own = of("self");
    // A process that has not unshared yet still shares the lab's.
    of(&pid.to_string()).filter(|namespace| Some(namespace) != own.as_ref())
}

fn kill_in_mount_namespace(namespace: &Path) {
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if fs::read_link(process.path().join("ns/mnt")).is_ok_and(|of| of == namespace) {
            signal(pid, Signal::SIGKILL);
        }
    }
}
