//! Connection tracking: the flows of one namespace, read, deleted, counted, and heard of as they come and go.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use crate::error::{Error, Result, allow_not_found};
use crate::ip_bytes::from_octets;
use crate::monitor;
use crate::netns::Netns;
use crate::socket::NetlinkSocket;
use crate::wire::{self, Attribute, Message, Writer};

const NETLINK_NETFILTER: isize = 12;
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const GET_STATISTICS: u16 = 1 << 8 | 5;
const HEADER: usize = 4;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const MARK_MASK: u16 = 21;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const STATISTICS_ENTRIES: u16 = 1;
const STATISTICS_LIMIT: u16 = 2;

/// Groups of ctnetlink: new, update, destroy.
const GROUPS: [u32; 3] = [1, 2, 3];
const BUFFER: usize = 4 << 20;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source
    pub source: IpAddr,
    /// Destination
    pub destination: IpAddr,
    /// Source port; of ICMP echo, the identifier
    pub source_port: u16,
    /// Destination port; of ICMP, 0
    pub destination_port: u16,
}

/// A tracked flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Layer 4 protocol
    pub protocol: u8,
    /// As the first packet said
    pub original: Tuple,
    /// As answers come: its destination is what the source was translated to
    pub reply: Tuple,
    /// Connection mark
    pub mark: u32,
    /// Status bits: seen reply 2, assured 4, confirmed 8, source NAT 16, destination NAT 32
    pub status: u32,
    /// Seconds that it would live on without packets
    pub timeout_seconds: u32,
    /// Zone
    pub zone: u16,
    /// What tells it from a later flow with the same tuples
    pub id: u32,
    /// The original tuple as the kernel wrote it, by which it is deleted.
    key: Vec<u8>,
}

/// Which flows are meant. What is `None` fits all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Value and bits of the mark that count
    pub mark: Option<(u32, u32)>,
    /// Source of the first packet
    pub source: Option<IpAddr>,
}

impl FlowFilter {
    /// Whether a flow fits.
    #[must_use]
    pub fn fits(&self, flow: &Flow) -> bool {
        self.mark.is_none_or(|(value, mask)| flow.mark & mask == value & mask)
            && self.source.is_none_or(|source| flow.original.source == source)
    }
}

/// How full the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Flows
    pub entries: u32,
    /// The most that there can be; 0 where the kernel doesn't say
    pub limit: u32,
}

/// A connection to one namespace's connection tracking.
#[derive(Debug)]
pub struct ConntrackSocket {
    socket: NetlinkSocket,
}

impl ConntrackSocket {
    /// Opens it for the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: NetlinkSocket::open(NETLINK_NETFILTER)? })
    }

    /// Opens it for another namespace.
    ///
    /// # Errors
    /// When the namespace can't be entered, or the kernel gives no socket.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Self::open)?
    }

    /// The flows that fit.
    ///
    /// # Errors
    /// When the kernel refuses (no connection tracking) or its reply makes no sense.
    pub fn flows(&mut self, filter: &FlowFilter) -> Result<Vec<Flow>> {
        let body = |w: &mut Writer| {
            w.raw(&[0; HEADER]);
            if let Some((value, mask)) = filter.mark {
                w.u32_be(MARK, value);
                w.u32_be(MARK_MASK, mask);
            }
        };
        let parse = |message: Message<'_>| parse_flow(&message).filter(|flow| filter.fits(flow));
        self.socket.dump("listing flows", GET, body, parse)
    }

    /// Deletes a flow, if it is still there. Its next packet counts as new.
    ///
    /// # Errors
    /// EPERM without the privilege.
    pub fn delete(&mut self, flow: &Flow) -> Result<()> {
        let family = if flow.original.source.is_ipv4() { 2 } else { 10 };
        allow_not_found(self.socket.request("deleting a flow", DELETE, 0, |w| {
            w.raw(&[family, 0, 0, 0]);
            w.bytes(TUPLE_ORIGINAL | NESTED, &flow.key);
            w.u32_be(ID, flow.id);
            if flow.zone != 0 {
                w.u16_be(ZONE, flow.zone);
            }
        }))
    }

    /// Deletes the flows that fit; says how many there were.
    ///
    /// # Errors
    /// EPERM without the privilege.
    pub fn delete_matching(&mut self, filter: &FlowFilter) -> Result<usize> {
        let flows = self.flows(filter)?;
        flows.iter().try_for_each(|flow| self.delete(flow))?;
        Ok(flows.len())
    }

    /// How full the table is.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn fill(&mut self) -> Result<Fill> {
        let what = "counting flows";
        let mut found = None;
        self.socket.query(
            what,
            GET_STATISTICS,
            |w| w.raw(&[0; HEADER]),
            |message| found = parse_fill(&message),
        )?;
        found.ok_or_else(|| Error::Malformed { what: what.to_owned() })
    }
}

const NESTED: u16 = 1 << 15;

/// What happened to a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowEvent {
    /// It was confirmed, or its state, mark or status changed
    Seen(Flow),
    /// It ended: it timed out or was deleted
    Ended(Flow),
    /// Events were lost
    Lost,
}

/// Listens to flows that come and go.
#[derive(Debug)]
pub struct ConntrackMonitor {
    socket: NetlinkSocket,
}

impl ConntrackMonitor {
    /// Opens it for the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let socket = NetlinkSocket::open(NETLINK_NETFILTER)?;
        socket.grow_receive_buffer(BUFFER);
        GROUPS.into_iter().try_for_each(|group| socket.join(group))?;
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
    pub fn drain(&mut self) -> Result<Vec<FlowEvent>> {
        let mut events = Vec::new();
        monitor::drain(&mut self.socket, |heard| match heard {
            Some(message) => events.extend(parse_flow(&message).map(|flow| match message.kind {
                DELETE => FlowEvent::Ended(flow),
                _ => FlowEvent::Seen(flow),
            })),
            None => events.push(FlowEvent::Lost),
        })?;
        Ok(events)
    }

    /// Waits until something has happened, or the time is over; says which.
    ///
    /// # Errors
    /// When the kernel can't wait.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool> {
        monitor::wait(&self.socket, timeout)
    }
}

impl AsFd for ConntrackMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for ConntrackMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }
}

fn parse_flow(message: &Message<'_>) -> Option<Flow> {
    if message.kind != NEW && message.kind != DELETE {
        return None;
    }
    let (mut original, mut reply, mut key) = (None, None, Vec::new());
    let (mut mark, mut status, mut timeout_seconds, mut zone, mut id) = (0, 0, 0, 0, 0);
    for attribute in wire::attributes_behind(message.payload, HEADER) {
        match attribute.kind {
            TUPLE_ORIGINAL => {
                original = parse_tuple(attribute);
                key = attribute.payload.to_vec();
            }
            TUPLE_REPLY => reply = parse_tuple(attribute),
            STATUS => status = attribute.u32_be()?,
            TIMEOUT => timeout_seconds = attribute.u32_be()?,
            MARK => mark = attribute.u32_be()?,
            ID => id = attribute.u32_be()?,
            ZONE => zone = attribute.u16_be()?,
            _ => {}
        }
    }
    let ((protocol, original), (_, reply)) = (original?, reply?);
    Some(Flow { protocol, original, reply, mark, status, timeout_seconds, zone, id, key })
}

/// Protocol number and tuple.
fn parse_tuple(attribute: Attribute<'_>) -> Option<(u8, Tuple)> {
    let (mut source, mut destination, mut protocol) = (None, None, 0);
    let (mut source_port, mut destination_port) = (0, 0);
    for part in attribute.nested() {
        for field in part.nested() {
            match (part.kind, field.kind) {
                // IPv4 and IPv6
                (TUPLE_ADDRESSES, 1 | 3) => source = from_octets(field.payload),
                (TUPLE_ADDRESSES, 2 | 4) => destination = from_octets(field.payload),
                (TUPLE_PROTOCOL, 1) => protocol = field.u8()?,
                // Ports, or the identifier of ICMP and ICMPv6
                (TUPLE_PROTOCOL, 2 | 4 | 7) => source_port = field.u16_be()?,
                (TUPLE_PROTOCOL, 3) => destination_port = field.u16_be()?,
                _ => {}
            }
        }
    }
    let tuple = Tuple { source: source?, destination: destination?, source_port, destination_port };
    Some((protocol, tuple))
}

fn parse_fill(message: &Message<'_>) -> Option<Fill> {
    let mut fill = None;
    let mut limit = 0;
    for attribute in wire::attributes_behind(message.payload, HEADER) {
        match attribute.kind {
            STATISTICS_ENTRIES => fill = attribute.u32_be(),
            STATISTICS_LIMIT => limit = attribute.u32_be()?,
            _ => {}
        }
    }
    Some(Fill { entries: fill?, limit })
}

#[cfg(test)]
mod fuzz {
    use super::*;
    use crate::wire::fuzz::any_datagram;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(fuzzing::config())]
        #[test]
        fn any_entry_is_read_without_panic(datagram in any_datagram()) {
            for message in wire::messages(&datagram) {
                let _ = (parse_flow(&message), parse_fill(&message));
            }
        }
    }
}
