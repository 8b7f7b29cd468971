//! Transactions into the kernel.

use std::fmt;

use datapath::state::{ROUTE_PROTOCOL, Route, RouteTarget, TunnelDevice, TunnelPeer};
use datapath::transaction::{Interest, RouteChange, Transaction};
use ipnet::IpNet;

use crate::error::{Error, Result, allow_not_found};
use crate::link::{Link, LinkChange, LinkKind, NewLink, Vxlan};
use crate::neighbour::FdbEntry;
use crate::netns::Netns;
use crate::nft::{BatchError, NftSocket};
use crate::route::{RouteEntry, RouteKind};
use crate::rtnetlink::RouteSocket;
use crate::sysctl;

/// One network namespace's kernel state: read with [`Kernel::read`], changed with [`Kernel::apply`].
#[derive(Debug)]
pub struct Kernel {
    /// Links, routes, neighbours, rules
    pub route: RouteSocket,
    /// nf_tables; owns our tables
    pub nft: NftSocket,
    /// Set if it is not the callers' own namespace.
    netns: Option<Netns>,
}

/// What failed of a transaction. Everything else of it is done, but for the steps that come after the rules when the
/// rules failed.
#[derive(Debug, thiserror::Error)]
pub struct ApplyError {
    /// At least one
    pub failures: Vec<Failure>,
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failure) in self.failures.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{failure}")?;
        }
        Ok(())
    }
}

/// One part of a transaction that failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A step on links, neighbours, routes, rules or sysctls. The others were tried all the same
    #[error("{error}")]
    Route {
        /// The step
        change: Box<RouteChange>,
        /// Why
        error: Error,
    },
    /// The nf_tables batch. Nothing of it was done
    #[error(transparent)]
    Nft(#[from] BatchError),
}

impl Kernel {
    /// Opens the calling thread's namespace. It must be used by threads of that namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        Ok(Self { route: RouteSocket::open()?, nft: NftSocket::open()?, netns: None })
    }

    /// Opens another namespace, for use by any thread.
    ///
    /// # Errors
    /// When the namespace can't be entered, or the kernel gives no socket.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        let netns_kept = Some(netns.clone());
        Ok(Self { route: RouteSocket::open_in(netns)?, nft: NftSocket::open_in(netns)?, netns: netns_kept })
    }

    /// Applies a transaction: steps before the rules, the rules in one batch, steps after them. A step that fails holds
    /// up no other step and not the rules, for what fails is one route, while the rules guard everything; but a failed
    /// batch holds up the steps after it, which rely on it.
    ///
    /// # Errors
    /// Everything that failed.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), ApplyError> {
        let mut failures = Vec::new();
        self.steps(&transaction.before, &mut failures);
        match self.nft.apply(&transaction.nft) {
            Ok(()) => self.steps(&transaction.after, &mut failures),
            Err(error) => failures.push(error.into()),
        }
        if failures.is_empty() { Ok(()) } else { Err(ApplyError { failures }) }
    }

    /// Takes over the tables that outlived their owner, so that others can't change them.
    ///
    /// # Errors
    /// When another process owns one of them.
    pub fn adopt(&mut self, interest: &Interest) -> Result<(), BatchError> {
        interest.tables.iter().try_for_each(|id| self.nft.adopt(id))
    }

    /// Does one step on links, neighbours, routes, rules or sysctls. What is there or gone already is no error.
    ///
    /// # Errors
    /// When the kernel refuses, or a device that is needed is not there.
    pub fn apply_route(&mut self, change: &RouteChange) -> Result<()> {
        match change {
            RouteChange::SetTunnel(tunnel) => self.route.set_tunnel(tunnel),
            RouteChange::DeleteTunnel { name } => self.route.delete_link(name),
            RouteChange::SetPeer { device, peer } => self.route.set_peer(device, peer),
            RouteChange::DeletePeer { device, peer } => allow_not_found(self.route.delete_peer(device, peer)),
            RouteChange::SetRoute(route) => {
                let entry = self.route.entry(route)?;
                self.route.set_route(&entry)
            }
            RouteChange::DeleteRoute(route) => match self.route.entry(route) {
                Ok(entry) => self.route.delete_route(&entry),
                Err(error) => allow_not_found(Err(error)),
            },
            RouteChange::AddRule(rule) => self.route.add_rule(rule),
            RouteChange::DeleteRule(rule) => self.route.delete_rule(rule),
            RouteChange::AddProxyNeighbour(proxy) => {
                let index = self.route.index_of(&proxy.device)?;
                self.route.add_proxy_entry(index, proxy.address)
            }
            RouteChange::DeleteProxyNeighbour(proxy) => match self.route.index_of(&proxy.device) {
                Ok(index) => self.route.delete_proxy_entry(index, proxy.address),
                Err(error) => allow_not_found(Err(error)),
            },
            RouteChange::SetSysctl { path, value } => self.in_netns(|| sysctl::write(path, value))?,
        }
    }

    /// Runs what depends on the thread's namespace.
    pub(crate) fn in_netns<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        match &self.netns {
            Some(netns) => netns.run(work),
            None => Ok(work()),
        }
    }

    fn steps(&mut self, changes: &[RouteChange], failures: &mut Vec<Failure>) {
        for change in changes {
            if let Err(error) = self.apply_route(change) {
                failures.push(Failure::Route { change: Box::new(change.clone()), error });
            }
        }
    }
}

impl RouteSocket {
    /// Makes the tunnel device as described, or changes the one that is there; anew if that can't be changed.
    fn set_tunnel(&mut self, tunnel: &TunnelDevice) -> Result<()> {
        let vxlan = Vxlan {
            vni: tunnel.vni,
            port: tunnel.port,
            parent: Some(self.index_of(&tunnel.parent)?),
            local: Some(tunnel.local),
            learning: false,
        };
        let link = match self.link(&tunnel.name)? {
            Some(link) if link.vxlan == Some(vxlan) => link,
            other => {
                if other.is_some() {
                    self.delete_link(&tunnel.name)?;
                }
                self.make_tunnel(tunnel, vxlan)?
            }
        };
        let change = LinkChange {
            mac: (link.mac != Some(tunnel.mac)).then_some(tunnel.mac),
            mtu: (link.mtu != tunnel.mtu).then_some(tunnel.mtu),
            up: (!link.up).then_some(true),
            ..LinkChange::default()
        };
        if change.mac.is_some() || change.mtu.is_some() || change.up.is_some() {
            self.change_link(link.index, &change)?;
        }
        self.set_tunnel_addresses(link.index, tunnel)
    }

    fn make_tunnel(&mut self, tunnel: &TunnelDevice, vxlan: Vxlan) -> Result<Link> {
        let new = NewLink {
            mac: Some(tunnel.mac),
            mtu: Some(tunnel.mtu),
            ..NewLink::new(&tunnel.name, LinkKind::Vxlan(vxlan))
        };
        self.add_link(&new)?;
        let link = self.link(&tunnel.name)?.ok_or_else(|| Error::NoDevice(tunnel.name.clone()))?;
        // Router solicitations and the like have no place in the tunnel. A kernel without IPv6 has no such option.
        let quiet = LinkChange { no_link_local: true, ..LinkChange::default() };
        if let Err(error) = self.change_link(link.index, &quiet) {
            tracing::debug!(%error, device = tunnel.name, "the tunnel device keeps its link-local address");
        }
        Ok(link)
    }

    fn set_tunnel_addresses(&mut self, index: u32, tunnel: &TunnelDevice) -> Result<()> {
        let wanted: Vec<IpNet> = tunnel
            .ipv4
            .map(|address| IpNet::from(std::net::IpAddr::from(address)))
            .into_iter()
            .chain(tunnel.ipv6.map(|address| IpNet::from(std::net::IpAddr::from(address))))
            .collect();
        let there = self.addresses()?;
        let there: Vec<IpNet> = there
            .iter()
            .filter(|found| found.index == index && found.global)
            .map(|found| found.address)
            .collect();
        for address in there.iter().filter(|address| !wanted.contains(address)) {
            self.delete_address(index, *address)?;
        }
        for address in wanted.iter().filter(|address| !there.contains(address)) {
            self.add_address(index, *address)?;
        }
        Ok(())
    }

    fn set_peer(&mut self, device: &str, peer: &TunnelPeer) -> Result<()> {
        let index = self.index_of(device)?;
        // An Ethernet address of one device has one entry, which this replaces.
        self.set_fdb(FdbEntry { index, mac: peer.mac, destination: peer.underlay })?;
        tunnel_addresses(peer).try_for_each(|address| self.set_neighbour(index, address, peer.mac))
    }

    fn delete_peer(&mut self, device: &str, peer: &TunnelPeer) -> Result<()> {
        let index = self.index_of(device)?;
        if !peer.underlay.is_unspecified() {
            self.delete_fdb(FdbEntry { index, mac: peer.mac, destination: peer.underlay })?;
        }
        tunnel_addresses(peer).try_for_each(|address| self.delete_neighbour(index, address))
    }

    fn entry(&mut self, route: &Route) -> Result<RouteEntry> {
        let mut entry = RouteEntry::new(route.destination, None, None);
        entry.table = route.table;
        entry.metric = route.metric;
        entry.protocol = ROUTE_PROTOCOL;
        match &route.target {
            RouteTarget::Device { device, via } => {
                entry.device = Some(self.index_of(device)?);
                entry.gateway = *via;
                entry.onlink = via.is_some();
            }
            RouteTarget::Unreachable => entry.kind = RouteKind::Unreachable,
            RouteTarget::Blackhole => entry.kind = RouteKind::Blackhole,
        }
        Ok(entry)
    }
}

fn tunnel_addresses(peer: &TunnelPeer) -> impl Iterator<Item = std::net::IpAddr> {
    peer.ipv4.map(std::net::IpAddr::from).into_iter().chain(peer.ipv6.map(std::net::IpAddr::from))
}
