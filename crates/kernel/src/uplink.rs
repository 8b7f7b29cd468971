//! How this node reaches the outside, and how it reaches its own pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::tunnel_mac::MacAddress;

use crate::error::Result;
use crate::link::Link;
use crate::route::{RouteEntry, RouteKind, TABLE_MAIN};
use crate::rtnetlink::RouteSocket;

/// How the uplink is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkChoice<'a> {
    /// The device of the default route with the lowest metric, IPv4 before IPv6
    DefaultRoute,
    /// The device of this name
    Interface(&'a str),
}

/// A device that leads outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Index
    pub index: u32,
    /// Name
    pub name: String,
    /// Ethernet address; none on point-to-point devices
    pub mac: Option<MacAddress>,
    /// Bytes
    pub mtu: u32,
    /// Whether it is up and its wire is connected
    pub carrier: bool,
    /// Addresses that others may know, primary ones first
    pub addresses: Vec<IpNet>,
    /// Next hop of its default route
    pub next_hop4: Option<IpAddr>,
    /// Next hop of its default route
    pub next_hop6: Option<IpAddr>,
}

impl RouteSocket {
    /// Finds the uplink. `None` while there is no default route, or no device of that name.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn uplink(&mut self, choice: UplinkChoice<'_>) -> Result<Option<Uplink>> {
        let routes = self.default_routes()?;
        let link = match choice {
            UplinkChoice::Interface(name) => self.link(name)?,
            UplinkChoice::DefaultRoute => match routes.iter().find_map(|route| route.device) {
                Some(index) => self.link_by_index(index)?,
                None => None,
            },
        };
        let Some(link) = link else { return Ok(None) };
        let mut addresses = self.addresses()?;
        addresses.retain(|found| found.index == link.index && found.global);
        addresses.sort_by_key(|found| found.secondary);
        let next_hop = |ipv6: bool| {
            let through = |route: &&RouteEntry| {
                route.device == Some(link.index) && route.destination.addr().is_ipv6() == ipv6
            };
            routes.iter().find(through).and_then(|route| route.gateway)
        };
        Ok(Some(Uplink {
            next_hop4: next_hop(false),
            next_hop6: next_hop(true),
            addresses: addresses.into_iter().map(|found| found.address).collect(),
            index: link.index,
            mac: link.mac,
            mtu: link.mtu,
            carrier: link.up && link.carrier,
            name: link.name,
        }))
    }

    /// Default routes of table main, IPv4 before IPv6, lowest metric first.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn default_routes(&mut self) -> Result<Vec<RouteEntry>> {
        let mut routes = self.routes()?;
        routes.retain(|route| {
            route.table == TABLE_MAIN
                && route.kind == RouteKind::Unicast
                && route.destination.prefix_len() == 0
        });
        routes.sort_by_key(|route| (route.destination.addr().is_ipv6(), route.metric));
        Ok(routes)
    }

    /// Devices that single addresses are routed to: for pods with a veth of their own, address to that veth.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn host_routes(&mut self) -> Result<BTreeMap<IpAddr, Link>> {
        let links: BTreeMap<u32, Link> = self.links()?.into_iter().map(|link| (link.index, link)).collect();
        let mut found = BTreeMap::new();
        for route in self.routes()? {
            let host = route.destination.prefix_len() == route.destination.max_prefix_len();
            let direct =
                route.table == TABLE_MAIN && route.kind == RouteKind::Unicast && route.gateway.is_none();
            if let (true, true, Some(link)) = (host, direct, route.device.and_then(|index| links.get(&index)))
            {
                found.entry(route.destination.addr()).or_insert_with(|| link.clone());
            }
        }
        Ok(found)
    }
}
