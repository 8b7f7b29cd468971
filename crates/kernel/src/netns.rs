//! Network namespaces, held by file descriptor: they need no name and vanish with their last holder.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;

use crate::error::{Error, Result};

/// A network namespace. Cloning shares it; it lives as long as someone holds it or a process is in it.
#[derive(Clone, Debug)]
pub struct Netns {
    fd: Arc<OwnedFd>,
}

impl Netns {
    /// Makes a new namespace, with nothing in it but a loopback device that is down.
    ///
    /// # Errors
    /// When the process may not make namespaces (it needs CAP_SYS_ADMIN in its user namespace).
    pub fn new() -> Result<Self> {
        in_new_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::system("making a network namespace", errno))?;
            Self::current()
        })?
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn current() -> Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// When there is no such process, or it is somebody else's.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// The namespace that is bound to a file, as `ip netns` does it.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path)
            .map_err(|source| Error::system(format!("opening the namespace {}", path.display()), source))?;
        Ok(Self { fd: Arc::new(file.into()) })
    }

    /// Moves the calling thread into the namespace. It stays there: better use [`Netns::run`].
    ///
    /// # Errors
    /// When the descriptor is of no network namespace, or the process may not enter it.
    pub fn enter(&self) -> Result<()> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::system("entering a network namespace", errno))
    }

    /// Runs `work` in the namespace, in a thread of its own, and waits for it. Sockets and child processes that it makes
    /// are of this namespace. A panic of `work` goes on in the caller.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        in_new_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }

    /// What tells this namespace from all others: device and inode.
    ///
    /// # Errors
    /// When the kernel has no memory for the answer.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let stat = fstat(&self.fd).map_err(|errno| Error::system("looking at a network namespace", errno))?;
        Ok((stat.st_dev, stat.st_ino))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn in_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|source| Error::system("starting a thread", source))
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
