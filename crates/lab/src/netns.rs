//! Network namespaces that live as long as their file descriptor.
//!
//! Nothing is named under `/run/netns`: when the process that holds the descriptors dies, however it
//! dies, the kernel takes the namespaces and everything in them away.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sched::{CloneFlags, setns, unshare};

/// One network namespace.
#[derive(Debug)]
pub(crate) struct NetNs {
    file: File,
}

impl NetNs {
    /// Makes a new, empty namespace with its loopback device up.
    pub(crate) fn new() -> io::Result<Self> {
        let file = std::thread::spawn(|| -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            crate::rtnl::RouteSocket::open()?.set_up("lo")?;
            File::open("/proc/thread-self/ns/net")
        })
        .join()
        .map_err(|_| io::Error::other("the thread that made a namespace panicked"))??;
        Ok(Self { file })
    }

    /// Runs `work` inside the namespace, on a thread of its own, and waits for it.
    ///
    /// Sockets that `work` makes belong to the namespace for good, wherever they are used later.
    pub(crate) fn run<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send,
        F: FnOnce() -> io::Result<T> + Send,
    {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                    work()
                })
                .join()
                .map_err(|_| io::Error::other("a thread in a network namespace panicked"))?
        })
    }

    /// The number of the descriptor that keeps the namespace alive, for `/proc/PID/fd/N`.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// A second handle of the same namespace.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Writes one sysctl of the calling thread's network namespace, such as `net/ipv4/ip_forward`.
pub(crate) fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/{name}"), value)
        .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}={value}: {error}")))
}
