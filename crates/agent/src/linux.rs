//! The real kernel behind [`converge::Kernel`], the announcer and the monitor.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use datapath::compile::names;
use datapath::nft::{FieldType, Rule, Source, Statement, TableFamily, Target, Timeout};
use datapath::transaction::{CounterValue, Found, Interest, NftCommand, SetShape, TableId, Transaction};
use datapath::view::Uplink;
use kernel::conntrack::{ConntrackSocket, FlowFilter};
use kernel::monitor::{RouteEvent, RouteMonitor, RulesetEvent, RulesetMonitor};
use kernel::{NftSocket, RouteSocket};
use model::mark::{BASE, BASE_MASK, EgressId};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::watch;

use crate::converge::{self, Surroundings};
use crate::port_use::UsedPort;
use crate::sysctl_record::SysctlRecord;

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
    connections: ConntrackSocket,
    choice: UplinkChoice,
    /// What was changed under /proc/sys/net, where that can be kept
    changed: Option<SysctlRecord>,
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

/// The table that iptables keeps in nf_tables.
const FILTER: &str = "filter";

/// Our table.
#[must_use]
pub fn table() -> TableId {
    TableId { family: TableFamily::Inet, name: names::TABLE.to_owned() }
}

/// All our tables.
#[must_use]
pub fn tables() -> BTreeSet<TableId> {
    BTreeSet::from([table(), TableId { family: TableFamily::Arp, name: names::ARP_TABLE.to_owned() }])
}

/// A table that is only asked about.
fn probe(family: TableFamily) -> TableId {
    TableId { family, name: "egressgateway_probe".to_owned() }
}

impl Linux {
    /// Opens it, and takes over the tables that an earlier run has left.
    pub fn open(choice: UplinkChoice, changed: Option<SysctlRecord>) -> Result<Self, LinuxError> {
        let mut kernel = kernel::Kernel::open()?;
        let interest = Interest { tables: tables(), ..Interest::default() };
        if let Err(error) = kernel.adopt(&interest) {
            // A run that has not quite ended; it is tried again with the first transaction.
            tracing::warn!(%error, "the table of an earlier run can't be taken over yet");
        }
        Ok(Self { kernel, connections: ConntrackSocket::open()?, choice, changed })
    }

    /// Netlink port of the socket that commits to nf_tables.
    pub fn port(&self) -> Result<u32, LinuxError> {
        Ok(self.kernel.nft.port()?)
    }

    /// Whether the kernel can filter ARP.
    pub fn can_filter_arp(&mut self) -> bool {
        self.offers(
            &[NftCommand::AddTable(probe(TableFamily::Arp))],
            "the kernel can't filter ARP; a gateway whose agent is gone answers on",
        )
    }

    /// Whether the kernel has zones of connection tracking.
    pub fn has_zones(&mut self) -> bool {
        let (table, chain) = (probe(TableFamily::Inet), "zone".to_owned());
        let source = Source::Constant(1u16.to_ne_bytes().to_vec());
        let statements = vec![Statement::Set { target: Target::OriginalZone, source }];
        let commands = [
            NftCommand::AddTable(table.clone()),
            NftCommand::AddChain { table: table.clone(), name: chain.clone(), hook: None },
            NftCommand::AddRule { table, chain, rule: Rule { statements, comment: "" } },
        ];
        self.offers(
            &commands,
            "the kernel has no zones of connection tracking; this node, as a gateway, gives no ports to nodes without a block",
        )
    }

    /// Whether the kernel counts packets at elements of sets.
    pub fn has_counting_sets(&mut self) -> bool {
        let table = probe(TableFamily::Inet);
        let shape = SetShape {
            key: vec![FieldType::Mark, FieldType::Ipv4],
            data: None,
            interval: false,
            timeout: false,
            counting: true,
        };
        let commands = [
            NftCommand::AddTable(table.clone()),
            NftCommand::AddSet { table, name: "counted".to_owned(), shape },
        ];
        self.offers(
            &commands,
            "the kernel does not count at elements of sets; there are no metrics of traffic by EIP",
        )
    }

    /// Whether the kernel can give connections timeouts of their own.
    pub fn has_timeouts(&mut self) -> bool {
        let table = probe(TableFamily::Inet);
        let timeout = Timeout { protocol: 17, seconds: BTreeMap::from([(1, 5), (2, 3)]) };
        let commands = [
            NftCommand::AddTable(table.clone()),
            NftCommand::AddTimeout { table, name: "udp".to_owned(), timeout },
        ];
        self.offers(
            &commands,
            "the kernel keeps answered UDP questions as long as other flows; ports towards one resolver are used up sooner",
        )
    }

    /// Whether the kernel would do that; where not, the log says what is missing then.
    fn offers(&mut self, commands: &[NftCommand], otherwise: &str) -> bool {
        let answer = self.kernel.nft.check(commands);
        answer.inspect_err(|error| tracing::warn!(%error, "{otherwise}")).is_ok()
    }

    /// Addresses that the kernel answers ARP and NDP for at anybody's word. It tells nobody when one is taken away.
    pub fn answered(&mut self) -> Result<BTreeSet<IpAddr>, LinuxError> {
        Ok(self.kernel.route.proxy_entries()?.into_iter().map(|entry| entry.address).collect())
    }

    /// Whether the uplink's wire is connected.
    pub fn has_carrier(&mut self, device: &str) -> Result<bool, LinuxError> {
        let link = self.kernel.route.link(device)?;
        Ok(link.is_some_and(|link| link.up && link.carrier))
    }
}

/// Connections that have an EIP.
pub(crate) fn ours() -> FlowFilter {
    FlowFilter { mark: Some((BASE, BASE_MASK)), source: None }
}

/// A kernel without connection tracking has no connections.
pub(crate) fn unless_absent<T: Default>(result: kernel::Result<T>) -> kernel::Result<T> {
    match result {
        Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOENT)) => {
            Ok(T::default())
        }
        other => other,
    }
}

impl converge::Kernel for Linux {
    type Error = LinuxError;

    fn surroundings(&mut self) -> Result<Surroundings, LinuxError> {
        surroundings(&mut self.kernel.route, &self.choice)
    }

    fn read(&mut self, interest: &Interest) -> Result<Found, LinuxError> {
        Ok(self.kernel.read(interest)?)
    }

    fn generation(&mut self) -> Result<u32, LinuxError> {
        Ok(self.kernel.nft.generation()?)
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), LinuxError> {
        if let Some(changed) = &mut self.changed {
            changed.remember(transaction, |path| kernel::sysctl::read(path).ok());
        }
        Ok(self.kernel.apply(transaction)?)
    }

    fn held_ids(&mut self) -> Result<BTreeSet<EgressId>, LinuxError> {
        let flows = unless_absent(self.connections.flows(&ours()))?;
        Ok(flows.iter().filter_map(|flow| EgressId::new(flow.mark & !BASE_MASK)).collect())
    }

    fn used_ports(&mut self) -> Result<BTreeSet<UsedPort>, LinuxError> {
        let flows = unless_absent(self.connections.flows(&ours()))?;
        let of_pods = flows.iter().filter(|flow| EgressId::new(flow.mark & !BASE_MASK).is_some());
        let used = of_pods.map(|flow| UsedPort {
            address: flow.reply.destination,
            port: flow.reply.destination_port,
            protocol: flow.protocol,
            destination: (flow.reply.source, flow.reply.source_port),
        });
        Ok(used.collect())
    }

    fn admit(&mut self, tunnel: &str) -> Result<Vec<String>, LinuxError> {
        let admission = self.kernel.nft.admit(tunnel, &tables())?;
        for chain in &admission.opened {
            tracing::info!(%chain, device = tunnel, "a filter that drops what is forwarded lets the tunnel pass now");
        }
        let refused = admission.refused.into_iter();
        Ok(refused.map(|(chain, why)| format!("{chain} drops what is forwarded and takes no rule ({why}); let it accept `iifname {tunnel}` and `oifname {tunnel}`")).collect())
    }

    fn end_flows(&mut self, source: IpAddr) -> Result<usize, LinuxError> {
        let filter = FlowFilter { source: Some(source), ..ours() };
        Ok(unless_absent(self.connections.delete_matching(&filter))?)
    }

    fn end_other_flows(
        &mut self,
        source: IpAddr,
        is_meant: &dyn Fn(IpAddr) -> bool,
    ) -> Result<usize, LinuxError> {
        let filter = FlowFilter { mark: None, source: Some(source) };
        let flows = unless_absent(self.connections.flows(&filter))?;
        // A Service's address is not where it goes: answers come from there.
        let meant = flows.iter().filter(|flow| flow.mark & BASE_MASK != BASE && is_meant(flow.reply.source));
        let mut ended = 0;
        for flow in meant {
            self.connections.delete(flow)?;
            ended += 1;
        }
        Ok(ended)
    }
}

/// Devices of a network namespace that are not ours.
pub fn surroundings(route: &mut RouteSocket, choice: &UplinkChoice) -> Result<Surroundings, LinuxError> {
    let choice = match choice {
        UplinkChoice::DefaultRoute => kernel::uplink::UplinkChoice::DefaultRoute,
        UplinkChoice::Named(name) => kernel::uplink::UplinkChoice::Interface(name),
    };
    let found = route.uplink(choice)?;
    let veth = |link: &kernel::link::Link| link.kind.as_deref() == Some("veth");
    let hosts = route.host_routes()?.into_iter().filter(|(_, link)| veth(link));
    let pod_interfaces: BTreeMap<IpAddr, u32> = hosts.map(|(address, link)| (address, link.index)).collect();
    Ok(Surroundings { uplink: found.and_then(uplink), pod_interfaces })
}

fn uplink(found: kernel::uplink::Uplink) -> Option<Uplink> {
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    };
    let v6 = |address: IpAddr| match address {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    };
    let uplink = Uplink {
        ipv4: found.addresses.iter().find_map(|own| v4(own.addr())),
        ipv6: found.addresses.iter().find_map(|own| v6(own.addr())),
        next_hop_ipv4: found.next_hop4.and_then(v4),
        next_hop_ipv6: found.next_hop6.and_then(v6),
        device: found.name,
        index: found.index,
        mtu: found.mtu,
    };
    Some(uplink).filter(|uplink| uplink.ipv4.is_some() || uplink.ipv6.is_some())
}

/// Sends one announcement of an address: to everybody, and to the next hop.
pub fn announcer() -> anyhow::Result<impl FnMut(&Uplink, IpAddr) + Send + 'static> {
    let socket = kernel::announce::Announcer::open().context("opening the socket for announcements")?;
    let mut links = RouteSocket::open()?;
    Ok(move |uplink: &Uplink, address: IpAddr| {
        let mut send = || -> kernel::Result<()> {
            // A point-to-point device has no neighbours to tell.
            let Some((index, mac)) =
                links.link(&uplink.device)?.and_then(|link| Some((link.index, link.mac?)))
            else {
                return Ok(());
            };
            socket.announce(index, mac, address)?;
            if let (IpAddr::V4(address), Some(next_hop)) = (address, uplink.next_hop_ipv4) {
                socket.ask_next_hop(index, mac, address, next_hop)?;
            }
            Ok(())
        };
        match send() {
            Ok(()) => tracing::debug!(%address, device = uplink.device, "announced"),
            Err(error) => tracing::warn!(%error, %address, device = uplink.device, "not announced"),
        }
    })
}

/// A number that grows whenever something in the kernel has changed that a pass looks at, and that was not committed by
/// the socket of that port. Its thread ends when nobody listens any more and something happens.
pub fn monitor(tunnel: &str, own_port: u32) -> anyhow::Result<watch::Receiver<u64>> {
    let (sender, receiver) = watch::channel(0);
    let mut routes = RouteMonitor::open()?;
    let mut rulesets = RulesetMonitor::open()?;
    let mut links = RouteSocket::open()?;
    let tunnel = tunnel.to_owned();
    let ours = tables();
    let work = move || {
        loop {
            let mut fds = [routes.as_fd(), rulesets.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            // An interrupted wait is a short one.
            let _ = poll(&mut fds, PollTimeout::NONE);
            let heard = || -> kernel::Result<bool> {
                let mut matters = false;
                for event in routes.drain()? {
                    matters |= concerns(&event, || links.index_of(&tunnel).ok());
                }
                for event in rulesets.drain()? {
                    matters |= match event {
                        RulesetEvent::Commit(commit) => {
                            let filter = |table: &TableId| table.name == FILTER || ours.contains(table);
                            commit.port != own_port && commit.tables.iter().any(filter)
                        }
                        RulesetEvent::Lost => true,
                    };
                }
                Ok(matters)
            };
            let mut heard = heard;
            match heard() {
                Ok(false) => {}
                Ok(true) => {
                    sender.send_modify(|number| *number += 1);
                    if sender.is_closed() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the kernel can't be listened to any more");
                    return;
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("monitor".to_owned());
    thread.spawn(work).context("starting the thread that listens to the kernel")?;
    Ok(receiver)
}

/// Whether a pass looks at what has changed. Neighbours come and go all the time: only the tunnel's matter, and only when
/// they go.
fn concerns(event: &RouteEvent, tunnel: impl FnOnce() -> Option<u32>) -> bool {
    match event {
        RouteEvent::Link { .. }
        | RouteEvent::Address { .. }
        | RouteEvent::Route { .. }
        | RouteEvent::Rules
        | RouteEvent::Lost => true,
        RouteEvent::Neighbour { neighbour, removed } => *removed && Some(neighbour.index) == tunnel(),
        // A proxy entry is on the uplink; forwarding entries of bridges come and go with traffic.
        RouteEvent::Entry { removed, .. } => *removed,
    }
}

/// The kernel's counters; none where they can't be read.
pub fn counters() -> Vec<(String, CounterValue)> {
    match NftSocket::open().and_then(|mut socket| socket.counters(&table())) {
        Ok(counters) => counters.into_iter().collect(),
        Err(error) => {
            tracing::warn!(%error, "the kernel's counters can't be read");
            Vec::new()
        }
    }
}

/// What left this node with each address of an EIP, by pods of this node; none where that can't be read.
pub fn eip_counters() -> Vec<(IpAddr, CounterValue)> {
    let read = || -> kernel::Result<Vec<(IpAddr, CounterValue)>> {
        let mut socket = NftSocket::open()?;
        let mut all = Vec::new();
        for family in ["4", "6"] {
            let counted = socket.element_counters(&table(), &format!("{}{family}", names::ID_EIP))?;
            all.extend(counted.into_iter().filter_map(|(key, value)| Some((eip_of(&key)?, value))));
        }
        Ok(all)
    };
    read().unwrap_or_else(|error| {
        tracing::warn!(%error, "the kernel's counters by EIP can't be read");
        Vec::new()
    })
}

/// The EIP in a key of connection mark and address.
fn eip_of(key: &[u8]) -> Option<IpAddr> {
    let address = key.get(4..)?;
    let v4 = <[u8; 4]>::try_from(address).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(address).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests;
