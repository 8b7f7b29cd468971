//! Where a lab that runs in the background is found again: one directory per lab name.
//!
//! ```text
//! $XDG_RUNTIME_DIR (or the temporary directory)/egressgateway-lab-UID/NAME/
//!     pid           process that everything else of the lab dies with, and when it started
//!     control.sock  how the commands talk to the lab
//!     kubeconfig    an administrator's
//!     lab.log       what the lab itself has to say
//!     private/      mount point of a tmpfs that only the lab sees
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::error::LabError;

/// How long a process may take to vanish after SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// The directory of one lab.
#[derive(Clone, Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// The directory for a lab of this name; it need not exist.
    pub(crate) fn of(name: &str) -> Result<Self, LabError> {
        let valid = !name.is_empty()
            && name.len() <= 32
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !name.starts_with('-');
        if !valid {
            return Err(LabError::BadName { name: name.to_string() });
        }
        Ok(Self { path: base()?.join(name) })
    }

    /// The directory that an outer process of the lab has chosen. Inside its user namespace everything belongs
    /// to root, so the path can't be computed again.
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The lab's name.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in the directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where the lab listens for commands.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.file("control.sock")
    }

    /// Makes sure that nobody else starts or stops the lab of this name meanwhile.
    pub(crate) fn lock(&self) -> Result<Flock<fs::File>, LabError> {
        let base = base()?;
        let path = base.join(format!("{}.lock", self.name()));
        loop {
            make_private_dir(&base)?;
            let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = match file {
                // Whoever ended the last lab removed the directory between our two steps.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|source| LabError::StateDir { path: path.clone(), source })?,
            };
            let lock = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| LabError::StateDir { path: path.clone(), source: errno.into() })?;
            // The holder that we waited for may have removed the file: then ours is not the lock any more.
            let ours = lock.metadata().map(|metadata| metadata.ino()).ok();
            if ours.is_some() && ours == fs::metadata(&path).map(|metadata| metadata.ino()).ok() {
                return Ok(lock);
            }
        }
    }

    /// Whether a lab answers there.
    pub(crate) fn is_alive(&self) -> bool {
        UnixStream::connect(self.control_socket()).is_ok()
    }

    /// Makes an empty directory.
    pub(crate) fn create(&self) -> Result<(), LabError> {
        make_private_dir(&self.path)?;
        make_private_dir(&self.file("private"))
    }

    /// Ends what still runs of the lab, by force, and removes every file of it.
    pub(crate) fn destroy(&self) -> Result<(), LabError> {
        self.kill_init()?;
        self.remove_files()
    }

    /// Removes every file of the lab; the lock is not one of them.
    pub(crate) fn remove_files(&self) -> Result<(), LabError> {
        match fs::remove_dir_all(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(LabError::StateDir { path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }

    /// Removes the lock, if nobody holds it, and the directory of all labs, if this was the last one.
    pub(crate) fn remove_lock(&self) {
        let Some(base) = self.path.parent() else { return };
        let path = base.join(format!("{}.lock", self.name()));
        if let Ok(file) = fs::OpenOptions::new().write(true).open(&path)
            && Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
        {
            fs::remove_file(&path).ok();
        }
        fs::remove_dir(base).ok();
    }

    /// Writes down the process that the lab lives and dies with.
    pub(crate) fn record_init(&self, pid: u32) -> io::Result<()> {
        let started = start_time(pid)?;
        fs::write(self.file("pid"), format!("{pid} {started}\n"))
    }

    /// The process that the lab lives and dies with, while it runs.
    pub(crate) fn init(&self) -> Option<Init> {
        let text = fs::read_to_string(self.file("pid")).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let init = Init { pid: pid.parse().ok()?, started: started.parse().ok()? };
        init.is_alive().then_some(init)
    }

    /// The host's id of that process, while it runs.
    pub(crate) fn init_pid(&self) -> Option<i32> {
        self.init().map(|init| init.pid)
    }

    fn kill_init(&self) -> Result<(), LabError> {
        let Some(init) = self.init() else { return Ok(()) };
        match kill(Pid::from_raw(init.pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(LabError::Kill { pid: init.pid, source: errno.into() }),
        }
        let deadline = Instant::now() + KILL_DEADLINE;
        while init.is_alive() {
            if Instant::now() > deadline {
                return Err(LabError::Kill { pid: init.pid, source: io::ErrorKind::TimedOut.into() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// A lab's first process, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Init {
    pid: i32,
    started: u64,
}

impl Init {
    /// Whether it still runs. The same number may belong to another process by now; the start time tells.
    pub(crate) fn is_alive(self) -> bool {
        let started = u32::try_from(self.pid).ok().and_then(|pid| start_time(pid).ok());
        started == Some(self.started) && !is_zombie(self.pid)
    }
}

/// Names of the labs that have a directory.
pub(crate) fn known_labs() -> Vec<String> {
    let Ok(base) = base() else { return Vec::new() };
    let Ok(entries) = fs::read_dir(base) else {
        return Vec::new();
    };
    let directories = entries.flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> =
        directories.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn base() -> Result<PathBuf, LabError> {
    let parent = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_dir() && nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok())
        .unwrap_or_else(std::env::temp_dir);
    Ok(parent.join(format!("egressgateway-lab-{}", geteuid())))
}

/// A directory that is ours alone. In a shared temporary directory anybody may have made one of that name
/// first; such a one is refused.
fn make_private_dir(path: &Path) -> Result<(), LabError> {
    let explain = |source| LabError::StateDir { path: path.to_path_buf(), source };
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(explain(error)),
        _ => {}
    }
    let metadata = fs::symlink_metadata(path).map_err(explain)?;
    if !metadata.is_dir()
        || metadata.uid() != geteuid().as_raw()
        || metadata.permissions().mode() & 0o077 != 0
    {
        let message = "exists, but is not a directory that belongs to you alone";
        return Err(explain(io::Error::new(io::ErrorKind::PermissionDenied, message)));
    }
    Ok(())
}

/// Field 22 of `/proc/PID/stat`: clock ticks since boot.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the command's name in parentheses and may contain anything.
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let field = after_name.split_whitespace().nth(19).and_then(|field| field.parse().ok());
    field.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no start time")))
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_the_directory_is_refused() {
        for name in ["", "..", "a/b", "UPPER", "-x", "a b", &"x".repeat(33)] {
            assert!(StateDir::of(name).is_err(), "{name:?} was accepted");
        }
        assert!(StateDir::of("demo-2").is_ok());
    }

    #[test]
    fn the_start_time_of_this_process_is_stable() {
        let pid = std::process::id();
        assert_eq!(start_time(pid).expect("own"), start_time(pid).expect("own"));
    }
}
