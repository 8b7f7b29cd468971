//! Routes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::{Result, allow_not_found};
use crate::ip_bytes::{default_net, family, from_octets, octets};
use crate::rtnetlink::RouteSocket;
use crate::uapi::{AF_UNSPEC, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE};
use crate::wire::{self, CREATE, EXCLUSIVE, Message, REPLACE, Writer};

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const HEADER: usize = 12;
const NEXTHOP_HEADER: usize = 8;

const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const SCOPE_NOWHERE: u8 = 255;
const FLAG_ONLINK: u32 = 4;
/// Copies that the kernel makes of IPv6 routes for single destinations.
const FLAG_CLONED: u32 = 0x200;

/// Table `main`.
pub const TABLE_MAIN: u32 = 254;
/// Table `local`.
pub const TABLE_LOCAL: u32 = 255;
/// Protocol of routes that an administrator or a script sets (`static`).
pub const PROTOCOL_STATIC: u8 = 4;

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Sends it on
    Unicast,
    /// Delivers it here
    Local,
    /// Discards it
    Blackhole,
    /// Answers "host unreachable"
    Unreachable,
    /// Answers "administratively prohibited"
    Prohibit,
    /// Anything else (broadcast, multicast, anycast, throw), by number
    Other(u8),
}

impl RouteKind {
    fn number(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Local => 2,
            Self::Blackhole => 6,
            Self::Unreachable => 7,
            Self::Prohibit => 8,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            2 => Self::Local,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            number => Self::Other(number),
        }
    }
}

/// A route as the kernel keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// Table
    pub table: u32,
    /// Destination
    pub destination: IpNet,
    /// What it does
    pub kind: RouteKind,
    /// Index of the outgoing device
    pub device: Option<u32>,
    /// Next hop
    pub gateway: Option<IpAddr>,
    /// Whether the next hop is taken to be on the device's link, whatever other routes say
    pub onlink: bool,
    /// Preferred source address
    pub source: Option<IpAddr>,
    /// Metric; 0 for the kernel's default (IPv6 shows that as 1024)
    pub metric: u32,
    /// Who set it
    pub protocol: u8,
}

impl RouteEntry {
    /// A unicast route in table main, set as `static`.
    #[must_use]
    pub fn new(destination: IpNet, device: Option<u32>, gateway: Option<IpAddr>) -> Self {
        Self {
            table: TABLE_MAIN,
            destination,
            kind: RouteKind::Unicast,
            device,
            gateway,
            onlink: false,
            source: None,
            metric: 0,
            protocol: PROTOCOL_STATIC,
        }
    }

    fn same_place(&self, other: &Self) -> bool {
        let metric = |route: &Self| match (route.destination, route.metric) {
            (IpNet::V6(_), 0) => DEFAULT_METRIC_6,
            (_, metric) => metric,
        };
        self.table == other.table && self.destination == other.destination && metric(self) == metric(other)
    }
}

/// What the kernel makes of an IPv6 route's metric 0.
const DEFAULT_METRIC_6: u32 = 1024;

impl RouteSocket {
    /// All routes of all tables, IPv4 and IPv6.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn routes(&mut self) -> Result<Vec<RouteEntry>> {
        self.dump_routes(0)
    }

    /// Routes of this protocol number.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn routes_of(&mut self, protocol: u8) -> Result<Vec<RouteEntry>> {
        let mut routes = self.dump_routes(protocol)?;
        routes.retain(|route| route.protocol == protocol);
        Ok(routes)
    }

    /// Adds a route. One of the same destination and metric in its table is replaced if it has the same protocol number;
    /// another's is left alone.
    ///
    /// # Errors
    /// EEXIST when another's route is in the way; ENETUNREACH when the next hop is not reachable.
    pub fn set_route(&mut self, route: &RouteEntry) -> Result<()> {
        match self.add_route(route, CREATE | EXCLUSIVE) {
            Err(error) if error.is_exists() => {
                let there = self.routes_of(route.protocol)?;
                match there.iter().find(|other| other.same_place(route)) {
                    Some(other) if other == route => Ok(()),
                    Some(_) => self.add_route(route, CREATE | REPLACE),
                    None => Err(error),
                }
            }
            other => other,
        }
    }

    /// Removes a route of this protocol number, if it is there.
    ///
    /// # Errors
    /// EPERM without the privilege.
    pub fn delete_route(&mut self, route: &RouteEntry) -> Result<()> {
        let what = format!("removing the route to {}", route.destination);
        allow_not_found(self.socket.request(&what, RTM_DELROUTE, 0, |w| {
            put_route(w, route, SCOPE_NOWHERE);
        }))
    }

    fn add_route(&mut self, route: &RouteEntry, flags: u16) -> Result<()> {
        let scope = match (route.kind, route.gateway) {
            (RouteKind::Local, _) => SCOPE_HOST,
            (RouteKind::Unicast, None) => SCOPE_LINK,
            _ => SCOPE_UNIVERSE,
        };
        let what = format!("adding the route to {}", route.destination);
        self.socket.request(&what, RTM_NEWROUTE, flags, |w| put_route(w, route, scope))
    }

    fn dump_routes(&mut self, protocol: u8) -> Result<Vec<RouteEntry>> {
        // Kernels that know strict checking filter by protocol; on others the caller does.
        let header = [AF_UNSPEC, 0, 0, 0, 0, protocol, 0, 0, 0, 0, 0, 0];
        self.socket.dump("listing routes", RTM_GETROUTE, |w| w.raw(&header), |m| parse_route(&m))
    }
}

fn put_route(w: &mut Writer, route: &RouteEntry, scope: u8) {
    let address = route.destination.network();
    let short_table = u8::try_from(route.table).unwrap_or(0);
    let flags = if route.onlink && route.gateway.is_some() { FLAG_ONLINK } else { 0 };
    w.raw(&[family(address), route.destination.prefix_len(), 0, 0]);
    w.raw(&[short_table, route.protocol, scope, route.kind.number()]);
    w.raw(&flags.to_ne_bytes());
    w.bytes(RTA_DST, &octets(address));
    w.u32(RTA_TABLE, route.table);
    if let Some(device) = route.device {
        w.u32(RTA_OIF, device);
    }
    if let Some(gateway) = route.gateway {
        w.bytes(RTA_GATEWAY, &octets(gateway));
    }
    if let Some(source) = route.source {
        w.bytes(RTA_PREFSRC, &octets(source));
    }
    if route.metric != 0 {
        w.u32(RTA_PRIORITY, route.metric);
    }
}

pub(crate) fn parse_route(message: &Message<'_>) -> Option<RouteEntry> {
    if message.kind != RTM_NEWROUTE && message.kind != RTM_DELROUTE {
        return None;
    }
    let family = wire::u8_at(message.payload, 0)?;
    let prefix = wire::u8_at(message.payload, 1)?;
    let mut flags = wire::u32_at(message.payload, 8)?;
    if flags & FLAG_CLONED != 0 {
        return None;
    }
    let mut route = RouteEntry::new(default_net(family)?, None, None);
    route.table = u32::from(wire::u8_at(message.payload, 4)?);
    route.protocol = wire::u8_at(message.payload, 5)?;
    route.kind = RouteKind::from_number(wire::u8_at(message.payload, 7)?);
    for attribute in wire::attributes_behind(message.payload, HEADER) {
        match attribute.kind {
            RTA_DST => route.destination = IpNet::new(from_octets(attribute.payload)?, prefix).ok()?,
            RTA_OIF => route.device = attribute.u32(),
            RTA_GATEWAY => route.gateway = from_octets(attribute.payload),
            RTA_PRIORITY => route.metric = attribute.u32()?,
            RTA_PREFSRC => route.source = from_octets(attribute.payload),
            RTA_TABLE => route.table = attribute.u32()?,
            RTA_MULTIPATH => {
                // Of several next hops the first stands for all.
                flags |= u32::from(wire::u8_at(attribute.payload, 2)?);
                route.device = wire::u32_at(attribute.payload, 4);
                route.gateway = wire::attributes_behind(attribute.payload, NEXTHOP_HEADER)
                    .find(|nested| nested.kind == RTA_GATEWAY)
                    .and_then(|nested| from_octets(nested.payload));
            }
            _ => {}
        }
    }
    route.onlink = flags & FLAG_ONLINK != 0;
    Some(route)
}
