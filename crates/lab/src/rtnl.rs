//! Links, addresses, routes and neighbours of the calling thread's network namespace.
//!
//! Synchronous on purpose: the lab configures namespaces from short-lived threads that have entered them.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// One route to add.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// What it leads to; `0.0.0.0/0` or `::/0` is the default route.
    pub(crate) destination: IpNet,
    /// The next hop; without one the destination is on the link.
    pub(crate) via: Option<IpAddr>,
    /// Whether the next hop is on the link although no address says so.
    pub(crate) onlink: bool,
}

/// A route netlink socket.
pub(crate) struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Adds a bridge that forwards from the first moment: no spanning tree, no learning delay.
    pub(crate) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut message = named_link(name);
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.create_link(message).map_err(|error| explain(error, format!("add bridge {name}")))
    }

    /// Adds a pair of devices: `name` here and `peer_name` in `peer_namespace`.
    pub(crate) fn add_veth(
        &mut self,
        name: &str,
        mac: Mac,
        peer_name: &str,
        peer_mac: Mac,
        peer_namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut peer = named_link(peer_name);
        peer.attributes.push(LinkAttribute::Address(peer_mac.to_vec()));
        peer.attributes.push(LinkAttribute::NetNsFd(peer_namespace.as_raw_fd()));
        let mut message = named_link(name);
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.create_link(message).map_err(|error| explain(error, format!("add veth {name}")))
    }

    /// Adds a VXLAN device; used to find out whether the kernel has them.
    pub(crate) fn add_vxlan(&mut self, name: &str, id: u32, port: u16) -> io::Result<()> {
        let mut message = named_link(name);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vec![InfoVxlan::Id(id), InfoVxlan::Port(port)])),
        ]));
        self.create_link(message).map_err(|error| explain(error, format!("add vxlan {name}")))
    }

    /// Deletes a link, and with it the other end of a pair. One that is gone already is no error.
    pub(crate) fn delete_link(&mut self, name: &str) -> io::Result<()> {
        match self.request(RouteNetlinkMessage::DelLink(named_link(name)), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other.map(drop).map_err(|error| explain(error, format!("delete link {name}"))),
        }
    }

    /// The index of a link.
    pub(crate) fn index(&mut self, name: &str) -> io::Result<u32> {
        let replies = self
            .request(RouteNetlinkMessage::GetLink(named_link(name)), 0)
            .map_err(|error| explain(error, format!("look for link {name}")))?;
        for reply in replies {
            if let RouteNetlinkMessage::NewLink(link) = reply {
                return Ok(link.header.index);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("no link {name}")))
    }

    /// Sets a link up.
    pub(crate) fn set_up(&mut self, name: &str) -> io::Result<()> {
        self.set_flags(name, LinkFlags::Up)
    }

    /// Sets a link down; the other end of a pair loses its carrier.
    pub(crate) fn set_down(&mut self, name: &str) -> io::Result<()> {
        self.set_flags(name, LinkFlags::empty())
    }

    /// Makes a link a port of a bridge.
    pub(crate) fn set_bridge(&mut self, name: &str, bridge: &str) -> io::Result<()> {
        let bridge_index = self.index(bridge)?;
        let mut message = named_link(name);
        message.attributes.push(LinkAttribute::Controller(bridge_index));
        self.request(RouteNetlinkMessage::SetLink(message), 0)
            .map(drop)
            .map_err(|error| explain(error, format!("add {name} to bridge {bridge}")))
    }

    /// Gives a link an address, usable at once (no duplicate address detection).
    pub(crate) fn add_address(&mut self, name: &str, address: IpNet) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = self.index(name)?;
        if address.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes.push(AddressAttribute::Local(address.addr()));
        message.attributes.push(AddressAttribute::Address(address.addr()));
        if let IpNet::V4(net) = address {
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
        }
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|error| explain(error, format!("add address {address} to {name}")))
    }

    /// Adds or replaces a route over a link.
    pub(crate) fn add_route(&mut self, name: &str, route: Route) -> io::Result<()> {
        let index = self.index(name)?;
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(route.destination.addr()),
            destination_prefix_length: route.destination.prefix_len(),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: match route.via {
                None if route.destination.addr().is_ipv4() => RouteScope::Link,
                _ => RouteScope::Universe,
            },
            kind: RouteType::Unicast,
            flags: if route.onlink { RouteFlags::Onlink } else { RouteFlags::empty() },
            ..RouteHeader::default()
        };
        if route.destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
        }
        if let Some(via) = route.via {
            message.attributes.push(RouteAttribute::Gateway(via.into()));
        }
        message.attributes.push(RouteAttribute::Oif(index));
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|error| explain(error, format!("add route {route:?} over {name}")))
    }

    /// Tells the kernel for good which hardware address a neighbour has.
    pub(crate) fn add_neighbour(&mut self, name: &str, address: IpAddr, mac: Mac) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = self.index(name)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        }));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map(drop)
            .map_err(|error| explain(error, format!("add neighbour {address} on {name}")))
    }

    fn set_flags(&mut self, name: &str, flags: LinkFlags) -> io::Result<()> {
        let mut message = named_link(name);
        message.header.flags = flags;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0)
            .map(drop)
            .map_err(|error| explain(error, format!("set link {name} up or down")))
    }

    fn create_link(&mut self, message: LinkMessage) -> io::Result<()> {
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Sends one request and collects what comes before its acknowledgement.
    fn request(&mut self, inner: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(inner));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut replies = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let reply =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = usize::try_from(reply.header.length).map_err(io::Error::other)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if reply.header.sequence_number != self.sequence {
                    continue;
                }
                match reply.payload {
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(replies),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(message) => replies.push(message),
                    _ => {}
                }
            }
        }
    }
}

fn named_link(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn explain(error: io::Error, what: String) -> io::Error {
    match error.raw_os_error() {
        // The number is what callers branch on; keep it.
        Some(_) => {
            tracing::debug!(%error, what, "route netlink request refused");
            error
        }
        None => io::Error::new(error.kind(), format!("{what}: {error}")),
    }
}
