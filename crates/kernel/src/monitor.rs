//! What changes in the kernel, as it changes: routing state, and commits to nf_tables.
//!
//! A monitor can be polled like any file descriptor ([`AsFd`]); `drain` then never blocks. When events come faster than
//! they are read, the kernel drops some and says so: then the whole state is to be read again.

use std::collections::BTreeSet;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use datapath::transaction::TableId;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;

use crate::address::{self, Address};
use crate::error::{Error, Result};
use crate::link::{self, Link};
use crate::neighbour::{self, Neighbour};
use crate::netns::Netns;
use crate::nft::{self, Generation};
use crate::route::{self, RouteEntry};
use crate::socket::NetlinkSocket;
use crate::uapi::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH,
    RTM_NEWROUTE,
};
use crate::wire::{self, Message};

const NETLINK_ROUTE: isize = 0;
const NETLINK_NETFILTER: isize = 12;
/// Groups of rtnetlink: link, neigh, ipv4-ifaddr, ipv4-route, ipv4-rule, ipv6-ifaddr, ipv6-route, ipv6-rule.
const ROUTE_GROUPS: [u32; 8] = [1, 3, 5, 7, 8, 9, 11, 19];
const RTM_NEWRULE: u16 = crate::uapi::RTM_NEWRULE;
const RTM_DELRULE: u16 = crate::uapi::RTM_DELRULE;
const NFT_GROUP: u32 = 7;
const BUFFER: usize = 1 << 20;

/// One change of the routing state. `removed` tells the end of a thing from its beginning or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteEvent {
    /// A device
    Link {
        /// As it is now, or was
        link: Link,
        /// Whether it is gone
        removed: bool,
    },
    /// An address of a device
    Address {
        /// As it is now, or was
        address: Address,
        /// Whether it is gone
        removed: bool,
    },
    /// A route
    Route {
        /// As it is now, or was
        route: RouteEntry,
        /// Whether it is gone
        removed: bool,
    },
    /// A neighbour
    Neighbour {
        /// As it is now, or was
        neighbour: Neighbour,
        /// Whether it is gone
        removed: bool,
    },
    /// A proxy entry or a forwarding entry
    Entry {
        /// Index of its device
        index: u32,
        /// Whether it is gone
        removed: bool,
    },
    /// Some policy routing rule was added or removed
    Rules,
    /// Events were lost: read everything again
    Lost,
}

/// Listens to changes of links, addresses, routes, neighbours and rules.
#[derive(Debug)]
pub struct RouteMonitor {
    socket: NetlinkSocket,
}

impl RouteMonitor {
    /// Opens it for the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let socket = NetlinkSocket::open(NETLINK_ROUTE)?;
        socket.grow_receive_buffer(BUFFER);
        ROUTE_GROUPS.into_iter().try_for_each(|group| socket.join(group))?;
        Ok(Self { socket })
    }

    /// Opens it for another namespace.
    ///
    /// # Errors
    /// When the namespace can't be entered, or the kernel gives no socket.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Self::open)?
    }

    /// Everything that has happened since the last call, without waiting.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn drain(&mut self) -> Result<Vec<RouteEvent>> {
        let mut events = Vec::new();
        drain(&mut self.socket, |heard| match heard {
            Some(message) => events.extend(parse_route_event(&message)),
            None => events.push(RouteEvent::Lost),
        })?;
        Ok(events)
    }

    /// Waits until something has happened, or the time is over; says which.
    ///
    /// # Errors
    /// When the kernel can't wait.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool> {
        wait(&self.socket, timeout)
    }
}

fn parse_route_event(message: &Message<'_>) -> Option<RouteEvent> {
    let removed = matches!(message.kind, RTM_DELLINK | RTM_DELADDR | RTM_DELROUTE | RTM_DELNEIGH);
    match message.kind {
        RTM_NEWLINK | RTM_DELLINK => {
            // Bridges tell of their ports in messages of the same type, where "gone" means gone from the bridge.
            (wire::u8_at(message.payload, 0)? == crate::uapi::AF_UNSPEC).then_some(())?;
            Some(RouteEvent::Link { link: link::parse_link(message)?, removed })
        }
        RTM_NEWADDR | RTM_DELADDR => {
            Some(RouteEvent::Address { address: address::parse_address(message)?, removed })
        }
        RTM_NEWROUTE | RTM_DELROUTE => {
            Some(RouteEvent::Route { route: route::parse_route(message)?, removed })
        }
        RTM_NEWNEIGH | RTM_DELNEIGH => match neighbour::parse_neighbour(message) {
            Some(neighbour) => Some(RouteEvent::Neighbour { neighbour, removed }),
            None => Some(RouteEvent::Entry { index: neighbour::device_of(message)?, removed }),
        },
        RTM_NEWRULE | RTM_DELRULE => Some(RouteEvent::Rules),
        _ => None,
    }
}

/// A commit to nf_tables, or several of which some were lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RulesetEvent {
    /// A process committed a batch
    Commit(Commit),
    /// Events were lost: read everything again
    Lost,
}

/// A batch that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The generation that it made, and the process that made it
    pub generation: Generation,
    /// Netlink port of the socket that sent it: [`crate::NftSocket::port`] tells one's own
    pub port: u32,
    /// The tables that it touched
    pub tables: BTreeSet<TableId>,
}

/// Listens to commits to nf_tables.
#[derive(Debug)]
pub struct RulesetMonitor {
    socket: NetlinkSocket,
    /// Tables of the commit whose end was not heard yet.
    tables: BTreeSet<TableId>,
}

impl RulesetMonitor {
    /// Opens it for the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let socket = NetlinkSocket::open(NETLINK_NETFILTER)?;
        socket.grow_receive_buffer(BUFFER);
        socket.join(NFT_GROUP)?;
        Ok(Self { socket, tables: BTreeSet::new() })
    }

    /// Opens it for another namespace.
    ///
    /// # Errors
    /// When the namespace can't be entered, or the kernel gives no socket.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Self::open)?
    }

    /// Everything that has happened since the last call, without waiting.
    ///
    /// # Errors
    /// When the socket is broken.
    pub fn drain(&mut self) -> Result<Vec<RulesetEvent>> {
        let mut events = Vec::new();
        let tables = &mut self.tables;
        drain(&mut self.socket, |heard| match heard {
            Some(message) => match nft::parse_generation(&message) {
                Some(generation) => {
                    let tables = mem::take(tables);
                    events.push(RulesetEvent::Commit(Commit { generation, port: message.port, tables }));
                }
                None => tables.extend(nft::table_of(&message)),
            },
            None => events.push(RulesetEvent::Lost),
        })?;
        Ok(events)
    }

    /// Waits until something has happened, or the time is over; says which.
    ///
    /// # Errors
    /// When the kernel can't wait.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool> {
        wait(&self.socket, timeout)
    }
}

impl AsFd for RouteMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for RouteMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

impl AsFd for RulesetMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for RulesetMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

/// Gives every waiting message to `hear`, and `None` where some were lost.
pub(crate) fn drain(socket: &mut NetlinkSocket, mut hear: impl FnMut(Option<Message<'_>>)) -> Result<()> {
    loop {
        match socket.receive("listening to the kernel", MsgFlags::MSG_DONTWAIT) {
            Ok(Some(datagram)) => wire::messages(datagram).for_each(|message| hear(Some(message))),
            Ok(None) => return Ok(()),
            Err(Error::Lost { .. }) => hear(None),
            Err(error) => return Err(error),
        }
    }
}

/// Waits until a socket has something, or the time is over.
pub(crate) fn wait(socket: &NetlinkSocket, timeout: Option<Duration>) -> Result<bool> {
    let limit = timeout
        .map_or(PollTimeout::NONE, |timeout| PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, limit) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(Error::system("waiting for the kernel", errno)),
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;
    use crate::wire::fuzz::any_datagram;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(fuzzing::config())]
        #[test]
        fn any_notification_is_read_without_panic(datagram in any_datagram()) {
            for message in wire::messages(&datagram) {
                for kind in 16u16..40 {
                    let message = Message { kind, ..message };
                    let _ = (parse_route_event(&message), nft::table_of(&message), nft::parse_generation(&message));
                }
            }
        }
    }
}
