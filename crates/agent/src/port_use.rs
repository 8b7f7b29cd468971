//! How many of a node's leased ports are in use, as the controller is to hear it.
//!
//! Ports are unique per destination, so what counts is the busiest destination of each EIP. What is said is coarse and calm:
//! rounded up to an eighth of the node's block, more at once, less only after a while. A node whose connections come and go
//! evenly writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use datapath::view::SourceEip;
use model::{EipPair, PortBlock};

/// Less is said only after it has been less for so long.
const CALM: Duration = Duration::from_secs(300);
/// Steps of a block.
const STEPS: u32 = 8;

/// A port that a connection of a local pod holds towards a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsedPort {
    /// Address that the source was translated to
    pub address: IpAddr,
    /// Port that it was translated to
    pub port: u16,
    /// Protocol number
    pub protocol: u8,
    /// Where to: address and port
    pub destination: (IpAddr, u16),
}

/// What is told of an EIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EipUse {
    /// Ports in use towards the busiest destination
    pub in_use: u32,
    /// First ports of draining blocks that no connection uses any more
    pub idle: BTreeSet<u16>,
}

/// What the controller is to be told, and since when less is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortUse {
    told: BTreeMap<EipPair, EipUse>,
    less_since: BTreeMap<EipPair, Instant>,
}

impl PortUse {
    /// Goes on with what an earlier run has told.
    #[must_use]
    pub fn told_before(told: BTreeMap<EipPair, EipUse>) -> Self {
        Self { told, ..Self::default() }
    }

    /// What the controller is to be told, of each EIP that this node holds ports of.
    #[must_use]
    pub fn told(&self) -> &BTreeMap<EipPair, EipUse> {
        &self.told
    }

    /// Takes in which ports are in use.
    pub fn update(&mut self, now: Instant, eips: &BTreeMap<EipPair, SourceEip>, used: &BTreeSet<UsedPort>) {
        let (busiest, mut idle) = (busiest(eips, used), idle(eips, used));
        self.told.retain(|eip, _| busiest.contains_key(eip));
        self.less_since.retain(|eip, _| busiest.contains_key(eip));
        for (eip, in_use) in &busiest {
            let size = eips.get(eip).and_then(|source| source.block).map_or(STEPS, |block| block.size());
            let rounded = in_use.next_multiple_of((size / STEPS).max(1));
            let told = self.told.entry(*eip).or_default();
            told.idle = idle.remove(eip).unwrap_or_default();
            if rounded >= told.in_use {
                told.in_use = rounded;
                self.less_since.remove(eip);
                continue;
            }
            let since = *self.less_since.entry(*eip).or_insert(now);
            if now.saturating_duration_since(since) >= CALM {
                told.in_use = rounded;
                self.less_since.remove(eip);
            }
        }
    }
}

/// What local pods use of one address of an EIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Connections that connection tracking holds
    pub connections: u32,
    /// Ports in use towards the busiest destination
    pub ports: u32,
    /// Ports that this node holds for new connections
    pub leased: u32,
}

/// What is in use of each address that local pods may leave with.
#[must_use]
pub fn in_use(eips: &BTreeMap<EipPair, SourceEip>, used: &BTreeSet<UsedPort>) -> BTreeMap<IpAddr, InUse> {
    let mut all: BTreeMap<IpAddr, InUse> = BTreeMap::new();
    for (eip, source) in eips.iter().filter(|(_, source)| !source.node_address) {
        let leased = source.block.map_or(0, |block| block.size());
        all.extend(eip.addresses().map(|address| (address, InUse { leased, ..InUse::default() })));
    }
    let mut towards: BTreeMap<(IpAddr, u8, (IpAddr, u16)), u32> = BTreeMap::new();
    for used in used {
        if let Some(known) = all.get_mut(&used.address) {
            known.connections += 1;
            *towards.entry((used.address, used.protocol, used.destination)).or_default() += 1;
        }
    }
    for ((address, ..), count) in towards {
        if let Some(known) = all.get_mut(&address) {
            known.ports = count.max(known.ports);
        }
    }
    all
}

/// Ports in use towards the busiest destination, of each EIP that this node holds ports of.
fn busiest(eips: &BTreeMap<EipPair, SourceEip>, used: &BTreeSet<UsedPort>) -> BTreeMap<EipPair, u32> {
    let leased = eips.iter().filter(|(_, source)| source.blocks().next().is_some());
    let mut of_address: BTreeMap<IpAddr, EipPair> = BTreeMap::new();
    let mut busiest: BTreeMap<EipPair, u32> = BTreeMap::new();
    for (eip, _) in leased {
        busiest.insert(*eip, 0);
        of_address.extend(eip.addresses().map(|address| (address, *eip)));
    }
    let mut counts: BTreeMap<(EipPair, u8, (IpAddr, u16)), u32> = BTreeMap::new();
    for used in used {
        let Some(eip) = of_address.get(&used.address) else { continue };
        let holds = |source: &SourceEip| source.blocks().any(|block| block.contains(used.port));
        if eips.get(eip).is_some_and(holds) {
            *counts.entry((*eip, used.protocol, used.destination)).or_default() += 1;
        }
    }
    for ((eip, ..), count) in counts {
        let most = busiest.entry(eip).or_default();
        *most = count.max(*most);
    }
    busiest
}

/// First ports of draining blocks that no connection uses any more.
fn idle(eips: &BTreeMap<EipPair, SourceEip>, used: &BTreeSet<UsedPort>) -> BTreeMap<EipPair, BTreeSet<u16>> {
    let of_eip = eips.iter().map(|(eip, source)| {
        let is_used = |block: &&PortBlock| {
            used.iter().any(|used| eip.contains(used.address) && block.contains(used.port))
        };
        let idle = source.draining.iter().filter(|block| !is_used(block)).map(PortBlock::first);
        (*eip, idle.collect::<BTreeSet<u16>>())
    });
    of_eip.filter(|(_, idle)| !idle.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eip() -> EipPair {
        "10.6.168.201".parse().unwrap()
    }

    fn eips(size: u32) -> BTreeMap<EipPair, SourceEip> {
        let source = SourceEip { block: PortBlock::from_size(4096, size), ..SourceEip::default() };
        BTreeMap::from([(eip(), source)])
    }

    fn used(port: u16, destination: u8) -> UsedPort {
        let destination = (IpAddr::from([1, 1, 1, destination]), 443);
        UsedPort { address: [10, 6, 168, 201].into(), port, protocol: 6, destination }
    }

    #[test]
    fn the_busiest_destination_counts_and_ports_of_others_do_not() {
        let mut ports: BTreeSet<UsedPort> = (4096..4106).map(|port| used(port, 1)).collect();
        ports.extend((4096..4100).map(|port| used(port, 2)));
        // Of a block that this node does not hold: overflow.
        ports.extend((50000..50100).map(|port| used(port, 3)));
        assert_eq!(busiest(&eips(64), &ports), BTreeMap::from([(eip(), 10)]));
        assert_eq!(busiest(&eips(64), &BTreeSet::new()), BTreeMap::from([(eip(), 0)]));
        assert_eq!(busiest(&BTreeMap::new(), &ports), BTreeMap::new());
    }

    #[test]
    fn connections_are_counted_whatever_port_they_have_and_ports_by_destination() {
        let mut ports: BTreeSet<UsedPort> = (4096..4106).map(|port| used(port, 1)).collect();
        ports.extend((50_000..50_003).map(|port| used(port, 2)));
        ports.insert(UsedPort { address: [10, 6, 168, 209].into(), ..used(4096, 1) });
        let expected = InUse { connections: 13, ports: 10, leased: 64 };
        assert_eq!(in_use(&eips(64), &ports), BTreeMap::from([([10, 6, 168, 201].into(), expected)]));
    }

    #[test]
    fn a_draining_block_is_idle_once_no_connection_uses_it() {
        let mut eips = eips(64);
        let draining =
            [(8192, 64), (8256, 64)].map(|(first, size)| PortBlock::from_size(first, size).unwrap());
        eips.get_mut(&eip()).unwrap().draining = draining.into();
        let ports = BTreeSet::from([used(8200, 1)]);
        assert_eq!(idle(&eips, &ports), BTreeMap::from([(eip(), BTreeSet::from([8256]))]));
        assert_eq!(idle(&eips, &BTreeSet::new())[&eip()], BTreeSet::from([8192, 8256]));
    }

    #[test]
    fn more_is_told_at_once_and_less_after_a_while() {
        let start = Instant::now();
        let eips = eips(64);
        let mut port_use = PortUse::default();
        let mut tell = |seconds: u64, used: u16| {
            let ports = (4096..4096 + used).map(|port| super::tests::used(port, 1)).collect();
            port_use.update(start + Duration::from_secs(seconds), &eips, &ports);
            port_use.told()[&eip()].in_use
        };
        assert_eq!(tell(0, 0), 0);
        assert_eq!(tell(10, 1), 8);
        assert_eq!(tell(20, 8), 8);
        assert_eq!(tell(30, 45), 48);
        assert_eq!(tell(40, 3), 48);
        assert_eq!(tell(300, 3), 48);
        // A peak in between begins the wait anew.
        assert_eq!(tell(310, 47), 48);
        assert_eq!(tell(320, 0), 48);
        assert_eq!(tell(619, 0), 48);
        assert_eq!(tell(620, 0), 0);
    }

    #[test]
    fn an_eip_that_is_not_held_any_more_is_forgotten() {
        let mut port_use = PortUse::default();
        port_use.update(Instant::now(), &eips(64), &(4096..4105).map(|port| used(port, 1)).collect());
        port_use.update(Instant::now(), &BTreeMap::new(), &BTreeSet::new());
        assert_eq!(port_use, PortUse::default());
    }
}
