//! Links, addresses, routes, neighbours and rules, one question at a time.
//!
//! The socket stays in the network namespace in which it was opened, wherever the thread goes. What each object can do
//! stands in the module of its name.

use crate::error::Result;
use crate::netns::Netns;
use crate::socket::NetlinkSocket;

const NETLINK_ROUTE: isize = 0;

/// A connection to one namespace's network configuration.
#[derive(Debug)]
pub struct RouteSocket {
    pub(crate) socket: NetlinkSocket,
}

impl RouteSocket {
    /// Opens it for the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let socket = NetlinkSocket::open(NETLINK_ROUTE)?;
        socket.check_strictly();
        Ok(Self { socket })
    }

    /// Opens it for another namespace.
    ///
    /// # Errors
    /// When the namespace can't be entered, or the kernel gives no socket.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Self::open)?
    }
}
