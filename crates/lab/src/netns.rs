//! Network namespaces that live as long as their file descriptor.
//!
//! Nothing is named under `/run/netns`: when the process that holds the descriptors dies, however it
//! dies, the kernel takes the namespaces and everything in them away.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use kernel::{Netns, RouteSocket};

/// One network namespace, with its loopback device up.
#[derive(Clone, Debug)]
pub(crate) struct NetNs(Netns);

impl NetNs {
    /// Makes a new one with nothing else in it.
    pub(crate) fn new() -> io::Result<Self> {
        let namespace = Netns::new().map_err(io::Error::other)?;
        RouteSocket::open_in(&namespace)
            .and_then(|mut links| links.set_up("lo"))
            .map_err(io::Error::other)?;
        Ok(Self(namespace))
    }

    /// Runs `work` inside the namespace, on a thread of its own, and waits for it.
    ///
    /// Sockets that `work` makes belong to the namespace for good, wherever they are used later.
    pub(crate) fn run<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send,
        F: FnOnce() -> io::Result<T> + Send,
    {
        self.0.run(work).map_err(io::Error::other)?
    }

    /// A socket for the namespace's links, addresses and routes.
    pub(crate) fn links(&self) -> kernel::Result<RouteSocket> {
        RouteSocket::open_in(&self.0)
    }

    /// Writes sysctls below `net`, such as `ipv4/ip_forward`.
    pub(crate) fn write_sysctls(&self, values: &[(&str, &str)]) -> kernel::Result<()> {
        self.0.run(|| values.iter().try_for_each(|(name, value)| kernel::sysctl::write(name, value)))?
    }

    /// The namespace as the kernel's crate knows it.
    pub(crate) fn inner(&self) -> &Netns {
        &self.0
    }

    /// The number of the descriptor that keeps the namespace alive, for `/proc/PID/fd/N`.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }

    /// A second handle of the same namespace.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(self.clone())
    }
}
