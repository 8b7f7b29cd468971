//! What stands in for a container: a process in the pod's network namespace, with a root directory that is
//! the machine's own, but for `/tmp`, `/run`, the pod's volumes and a few links to this program.
//!
//! A helper process does the entering: namespaces are a matter of threads and processes, and a program that
//! has just started has one of each. It ends by becoming the pod's program.

pub(crate) mod process;
pub(crate) mod root;
pub(crate) mod spec;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{fchdir, sethostname, setsid};

use crate::container::spec::{ContainerSpec, EnterSpec, Program};

/// Where a pod finds this program under all its names.
pub(crate) const PROGRAMS_DIR: &str = "/opt/egressgateway/bin";
/// The names that this program answers to; `curl` serves machines that have none.
pub(crate) const PROGRAM_NAMES: [&str; 5] =
    ["agent", "controller", "nettools-server", "nettools-client", "curl"];
/// A pod's search path; the machine's own tools come first.
pub(crate) const SEARCH_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/egressgateway/bin";
/// Exit status of a program that could not be started, as a shell gives it.
pub(crate) const NOT_STARTED: u8 = 127;

/// `container`: enters a pod's namespaces, builds its root directory and becomes its program.
pub(crate) fn start(spec: &str) -> anyhow::Result<ExitCode> {
    let spec: ContainerSpec = serde_json::from_str(spec).context("read what to start")?;
    setsid().ok();
    let network = File::open(&spec.network_namespace).context("open the pod's network namespace")?;
    setns(&network, CloneFlags::CLONE_NEWNET).context("enter the pod's network namespace")?;
    drop(network);
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
        .context("make the container's namespaces")?;
    sethostname(&spec.hostname).context("set the host name")?;
    root::build_and_enter(&spec)?;
    // The end of what was stdin until now tells the lab that commands can follow.
    let null = File::open("/dev/null").context("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).context("give the program an empty stdin")?;
    become_program(&spec.program)
}

/// `enter`: joins the namespaces of a running process (or just a network) and becomes a program there.
pub(crate) fn enter(spec: &str) -> anyhow::Result<ExitCode> {
    let spec: EnterSpec = serde_json::from_str(spec).context("read what to start")?;
    match &spec.terminal {
        Some(terminal) => take_terminal(terminal)?,
        None if spec.new_session => drop(setsid()),
        None => {}
    }
    join_namespaces(&spec)?;
    become_program(&spec.program)
}

/// `exec`: as `enter`, from outside the lab: the program becomes a child, because a process can't move itself
/// into another process namespace.
pub(crate) fn exec(spec: &EnterSpec) -> anyhow::Result<ExitCode> {
    join_namespaces(spec)?;
    let mut command = command_of(&spec.program)?;
    // The child gets the terminal's signals too; this process only waits.
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(not_started(&spec.program, &error)),
    };
    let mut ignored = SigSet::empty();
    ignored.add(Signal::SIGINT);
    ignored.add(Signal::SIGQUIT);
    ignored.thread_block().ok();
    let status = child.wait().context("wait for the command")?;
    Ok(ExitCode::from(exit_code(status)))
}

/// `pause`: what runs in a container whose image this machine has no program for.
pub(crate) fn pause() -> anyhow::Result<ExitCode> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("block signals")?;
    signals.wait().context("wait for a signal")?;
    Ok(ExitCode::SUCCESS)
}

/// The exit code that a shell would show.
pub(crate) fn exit_code(status: std::process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn join_namespaces(spec: &EnterSpec) -> anyhow::Result<()> {
    let open = |path: &PathBuf| File::open(path).with_context(|| format!("open {}", path.display()));
    // All are opened before the first is entered: entering one changes what the paths mean.
    let namespaces = spec.namespaces.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let root = spec.root.as_ref().map(open).transpose()?;
    for (namespace, path) in namespaces.iter().zip(&spec.namespaces) {
        setns(namespace, CloneFlags::empty()).with_context(|| format!("enter {}", path.display()))?;
    }
    if let Some(root) = root {
        fchdir(&root).context("change to the container's root directory")?;
        nix::unistd::chroot(".").context("change the root directory")?;
        std::env::set_current_dir("/").context("change to the root directory")?;
    }
    Ok(())
}

/// Makes the terminal the controlling one of a new session: the first that a session leader opens is.
fn take_terminal(path: &Path) -> anyhow::Result<()> {
    setsid().context("begin a session")?;
    let terminal = fs::OpenOptions::new().read(true).write(true).open(path).context("open the terminal")?;
    rustix::stdio::dup2_stdin(&terminal).context("connect stdin")?;
    rustix::stdio::dup2_stdout(&terminal).context("connect stdout")?;
    rustix::stdio::dup2_stderr(&terminal).context("connect stderr")?;
    Ok(())
}

fn become_program(program: &Program) -> anyhow::Result<ExitCode> {
    let mut command = command_of(program)?;
    let error = command.exec();
    Ok(not_started(program, &error))
}

fn not_started(program: &Program, error: &std::io::Error) -> ExitCode {
    let name = program.argv.first().map(String::as_str).unwrap_or_default();
    if error.kind() == std::io::ErrorKind::NotFound {
        eprintln!("exec: {name:?}: executable file not found in $PATH");
    } else {
        eprintln!("exec: {name:?}: {error}");
    }
    ExitCode::from(NOT_STARTED)
}

fn command_of(program: &Program) -> anyhow::Result<Command> {
    let (name, arguments) = program.argv.split_first().context("no command")?;
    let mut command = Command::new(resolve(name));
    command.arg0(name).args(arguments).env_clear();
    command.envs(program.environment.iter().map(|(name, value)| (name, value)));
    if let Some(directory) = &program.working_directory {
        command.current_dir(directory);
    }
    Ok(command)
}

/// An image of ours has its programs in `/usr/bin`; here they are in a directory of their own.
fn resolve(name: &str) -> OsString {
    let path = Path::new(name);
    let base = path.file_name().map(|base| base.to_string_lossy().into_owned()).unwrap_or_default();
    if path.is_absolute() && !path.exists() && PROGRAM_NAMES.contains(&base.as_str()) {
        return Path::new(PROGRAMS_DIR).join(base).into_os_string();
    }
    OsString::from(name)
}
