//! The kernel's state as crate `datapath` describes it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use datapath::state::{
    DatapathState, ProxyNeighbour, ROUTE_PROTOCOL, Route, RouteTarget, TunnelDevice, TunnelPeer,
};
use datapath::transaction::{Found, Interest};
use model::tunnel_mac::MacAddress;
use nix::errno::Errno;

use crate::apply::Kernel;
use crate::error::Result;
use crate::link::Link;
use crate::route::{RouteEntry, RouteKind};
use crate::sysctl;

impl Kernel {
    /// Reads what is ours: the tables of interest, the tunnel device with its peers, everything that carries our protocol
    /// number, and the sysctls of interest.
    ///
    /// A tunnel device that is down, learns, or has more than one address of a family is reported as missing: setting it
    /// repairs it.
    ///
    /// # Errors
    /// When the kernel refuses, or its state changes all the time.
    pub fn read(&mut self, interest: &Interest) -> Result<Found> {
        let links = self.route.links()?;
        let names: HashMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
        let mut state = DatapathState::default();
        if let Some(device) = links.iter().find(|link| Some(&link.name) == interest.tunnel.as_ref()) {
            state.tunnel = self.read_tunnel(device, &names)?;
            state.peers = self.read_peers(device)?;
        }
        let routes = self.route.routes_of(ROUTE_PROTOCOL)?;
        state.routes = routes.into_iter().filter_map(|entry| to_route(entry, &names)).collect();
        state.rules = match self.route.rules() {
            // No policy routing, or no IPv6, in this kernel: no rules.
            Err(error) if matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => {
                BTreeSet::new()
            }
            other => other?.into_iter().collect(),
        };
        for entry in self.route.proxy_entries()?.into_iter().filter(|entry| entry.ours) {
            if let Some(device) = names.get(&entry.index) {
                state
                    .proxy_neighbours
                    .insert(ProxyNeighbour { device: (*device).to_owned(), address: entry.address });
            }
        }
        state.sysctls = self.read_sysctls(interest)?;

        let mut found = Found { state, tables: BTreeMap::new(), generation: self.nft.generation()? };
        for id in &interest.tables {
            if let Some(table) = self.nft.read(id)? {
                found.tables.insert(id.clone(), table);
            }
        }
        Ok(found)
    }

    fn read_sysctls(&self, interest: &Interest) -> Result<BTreeMap<String, String>> {
        self.in_netns(|| {
            let read = |path: &String| sysctl::read(path).ok().map(|value| (path.clone(), value));
            interest.sysctls.iter().filter_map(read).collect()
        })
    }

    fn read_tunnel(&mut self, device: &Link, names: &HashMap<u32, &str>) -> Result<Option<TunnelDevice>> {
        let (Some(vxlan), Some(mac), true) = (device.vxlan, device.mac, device.up) else {
            return Ok(None);
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for found in
            self.route.addresses()?.into_iter().filter(|found| found.index == device.index && found.global)
        {
            if found.address.prefix_len() != found.address.max_prefix_len() {
                return Ok(None);
            }
            addresses.push(found.address.addr());
        }
        let ipv4: Vec<_> =
            addresses.iter().filter_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None }).collect();
        let ipv6: Vec<_> =
            addresses.iter().filter_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None }).collect();
        if vxlan.learning || ipv4.len() > 1 || ipv6.len() > 1 {
            return Ok(None);
        }
        let parent = vxlan.parent.and_then(|index| names.get(&index)).copied().unwrap_or_default();
        Ok(Some(TunnelDevice {
            name: device.name.clone(),
            vni: vxlan.vni,
            port: vxlan.port,
            parent: parent.to_owned(),
            local: vxlan.local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            mac,
            mtu: device.mtu,
            ipv4: ipv4.first().copied(),
            ipv6: ipv6.first().copied(),
        }))
    }

    fn read_peers(&mut self, device: &Link) -> Result<BTreeSet<TunnelPeer>> {
        let fdb = self.route.fdb(device.index)?.into_iter().map(|entry| (entry.mac, entry.destination));
        let neighbours = self
            .route
            .neighbours()?
            .into_iter()
            .filter(|entry| entry.index == device.index && entry.permanent)
            .filter_map(|entry| Some((entry.mac?, entry.address)));
        Ok(join_peers(fdb.collect(), neighbours.collect()))
    }
}

/// Joins forwarding entries and neighbours by Ethernet address. What has no partner makes a peer that equals no wanted one,
/// so that it is removed: its outer address, or its tunnel addresses, are missing.
fn join_peers(fdb: Vec<(MacAddress, IpAddr)>, neighbours: Vec<(MacAddress, IpAddr)>) -> BTreeSet<TunnelPeer> {
    let mut left: BTreeSet<(MacAddress, IpAddr)> = neighbours.into_iter().collect();
    let mut peers = BTreeSet::new();
    for (mac, underlay) in fdb {
        let mut peer = TunnelPeer { mac, underlay, ipv4: None, ipv6: None };
        left.retain(|(other, address)| match address {
            IpAddr::V4(address) if *other == mac && peer.ipv4.is_none() => {
                peer.ipv4 = Some(*address);
                false
            }
            IpAddr::V6(address) if *other == mac && peer.ipv6.is_none() => {
                peer.ipv6 = Some(*address);
                false
            }
            _ => true,
        });
        peers.insert(peer);
    }
    for (mac, address) in left {
        let mut peer = TunnelPeer { mac, underlay: Ipv4Addr::UNSPECIFIED.into(), ipv4: None, ipv6: None };
        match address {
            IpAddr::V4(address) => peer.ipv4 = Some(address),
            IpAddr::V6(address) => peer.ipv6 = Some(address),
        }
        peers.insert(peer);
    }
    peers
}

fn to_route(entry: RouteEntry, names: &HashMap<u32, &str>) -> Option<Route> {
    let target = match entry.kind {
        RouteKind::Unicast => {
            RouteTarget::Device { device: (*names.get(&entry.device?)?).to_owned(), via: entry.gateway }
        }
        RouteKind::Unreachable => RouteTarget::Unreachable,
        RouteKind::Blackhole => RouteTarget::Blackhole,
        _ => return None,
    };
    Some(Route { table: entry.table, destination: entry.destination, target, metric: entry.metric })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_partner_becomes_a_peer_of_its_own() {
        let (a, b) = (MacAddress([1; 6]), MacAddress([2; 6]));
        let outer: IpAddr = [10, 0, 0, 2].into();
        let (four, stale) = (Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 9, 0, 3));
        let six = "fd09::2".parse().unwrap();
        let none = IpAddr::from([0; 4]);
        let peer = |mac, underlay, ipv4, ipv6| TunnelPeer { mac, underlay, ipv4, ipv6 };
        let found = join_peers(
            vec![(a, outer), (b, outer)],
            vec![
                (a, four.into()),
                (a, IpAddr::V6(six)),
                (a, stale.into()),
                (MacAddress([3; 6]), four.into()),
            ],
        );
        let expected = BTreeSet::from([
            peer(a, outer, Some(four), Some(six)),
            peer(a, none, Some(stale), None),
            peer(b, outer, None, None),
            peer(MacAddress([3; 6]), none, Some(four), None),
        ]);
        assert_eq!(found, expected);
    }
}
