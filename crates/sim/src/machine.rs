//! What of a node outlives its agent: the kernel, made up, with the connections that it knows.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use agent::converge::{Kernel, Surroundings};
use agent::port_use::UsedPort;
use datapath::fake_kernel::{FakeKernel, Refusal};
use datapath::state::{Route, RouteTarget};
use datapath::trace::Host;
use datapath::transaction::{Found, Interest, Transaction};
use datapath::view::Uplink;
use model::mark::{BASE, BASE_MASK, EgressId};

use crate::people::{node_address, node_number};

/// The device that leads outside.
pub const UPLINK: &str = "eth0";
/// The last number of a pod's address on its node.
const LAST_POD: u8 = 20;
/// Connections that a node keeps; older ones have ended.
const FLOWS: usize = 40;

/// A node's kernel.
#[derive(Clone)]
pub struct Machine(Rc<RefCell<Inner>>);

struct Inner {
    name: String,
    fake: FakeKernel,
    host: Host,
    /// Whether the host's copy of the state is the kernel's
    is_current: bool,
}

/// The device of a pod on its node.
#[must_use]
pub fn veth(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("veth{}", address.octets()[3]),
        IpAddr::V6(_) => String::new(),
    }
}

impl Machine {
    /// A node that has just started.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let inner = Inner {
            name: name.to_owned(),
            fake: FakeKernel::new([UPLINK.to_owned()]),
            host: host(name),
            is_current: false,
        };
        Self(Rc::new(RefCell::new(inner)))
    }

    /// Somebody removes all tables.
    pub fn flush(&self) {
        let mut inner = self.0.borrow_mut();
        inner.fake.flush_ruleset();
        inner.is_current = false;
    }

    /// The host as packets see it, to be given back by [`Self::put_host`].
    #[must_use]
    pub fn take_host(&self) -> Host {
        let mut inner = self.0.borrow_mut();
        if !inner.is_current {
            inner.host.state = inner.fake.state();
            inner.is_current = true;
        }
        std::mem::take(&mut inner.host)
    }

    /// The host after packets have passed.
    pub fn put_host(&self, mut host: Host) {
        let ended = host.flows.len().saturating_sub(FLOWS);
        host.flows.drain(..ended);
        self.0.borrow_mut().host = host;
    }

    fn inner(&self) -> Ref<'_, Inner> {
        self.0.borrow()
    }

    fn inner_mut(&self) -> RefMut<'_, Inner> {
        self.0.borrow_mut()
    }
}

fn route(net: &str, device: &str, via: Option<IpAddr>) -> Option<Route> {
    let target = RouteTarget::Device { device: device.to_owned(), via };
    Some(Route { table: 254, destination: net.parse().ok()?, target, metric: 0 })
}

fn host(name: &str) -> Host {
    let number = node_number(name);
    let pods = (0..LAST_POD).map(|last| IpAddr::from([10, 244, number, last]));
    let routes = pods.clone().filter_map(|address| route(&format!("{address}/32"), &veth(address), None));
    let outside =
        [route("10.6.0.0/16", UPLINK, None), route("0.0.0.0/0", UPLINK, Some(IpAddr::from([10, 6, 0, 1])))];
    let devices = pods.zip(10..).map(|(address, index)| (veth(address), index));
    Host {
        devices: devices.chain([(UPLINK.to_owned(), 2), ("egress.vxlan".to_owned(), 3)]).collect(),
        mtu: 1500,
        addresses: BTreeSet::from([IpAddr::from(node_address(name))]),
        routes: routes.chain(outside.into_iter().flatten()).collect(),
        masquerade: [format!("10.244.{number}.0/24"), "10.244.0.0/16".to_owned()]
            .iter()
            .filter_map(|net| net.parse().ok())
            .collect(),
        ..Host::default()
    }
}

impl Kernel for Machine {
    type Error = Refusal;

    fn surroundings(&mut self) -> Result<Surroundings, Refusal> {
        let uplink = Uplink {
            device: UPLINK.to_owned(),
            index: 2,
            mtu: 1500,
            ipv4: Some(node_address(&self.inner().name)),
            ipv6: None,
            next_hop_ipv4: Some([10, 6, 0, 1].into()),
            next_hop_ipv6: None,
        };
        Ok(Surroundings { uplink: Some(uplink), pod_interfaces: BTreeMap::new() })
    }

    fn read(&mut self, _: &Interest) -> Result<Found, Refusal> {
        Ok(self.inner().fake.found())
    }

    fn generation(&mut self) -> Result<u32, Refusal> {
        Ok(self.inner().fake.found().generation)
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        let mut inner = self.inner_mut();
        inner.is_current = false;
        inner.fake.apply(transaction)?;
        // The tunnel's addresses are the host's own.
        let tunnel = inner.fake.found().state.tunnel;
        let own = IpAddr::from(node_address(&inner.name));
        let tunnel = tunnel.and_then(|tunnel| tunnel.ipv4).map(IpAddr::from);
        inner.host.addresses = [own].into_iter().chain(tunnel).collect();
        Ok(())
    }

    fn held_ids(&mut self) -> Result<BTreeSet<EgressId>, Refusal> {
        let inner = self.inner();
        let marks = inner.host.flows.iter().map(|flow| flow.mark).filter(|mark| mark & BASE_MASK == BASE);
        Ok(marks.filter_map(|mark| EgressId::new(mark & !BASE_MASK)).collect())
    }

    fn used_ports(&mut self) -> Result<BTreeSet<UsedPort>, Refusal> {
        let inner = self.inner();
        let is_own = |mark: u32| mark & BASE_MASK == BASE && EgressId::new(mark & !BASE_MASK).is_some();
        let used = inner.host.flows.iter().filter(|flow| is_own(flow.mark)).map(|flow| UsedPort {
            address: flow.reply.destination,
            port: flow.reply.destination_port,
            protocol: flow.original.protocol,
            destination: (flow.reply.source, flow.reply.source_port),
        });
        Ok(used.collect())
    }

    fn admit(&mut self, _: &str) -> Result<Vec<String>, Refusal> {
        Ok(Vec::new())
    }

    fn end_flows(&mut self, source: IpAddr) -> Result<usize, Refusal> {
        let mut inner = self.inner_mut();
        let before = inner.host.flows.len();
        inner.host.flows.retain(|flow| flow.original.source != source || flow.mark & BASE_MASK != BASE);
        Ok(before - inner.host.flows.len())
    }

    fn end_other_flows(
        &mut self,
        source: IpAddr,
        is_meant: &dyn Fn(IpAddr) -> bool,
    ) -> Result<usize, Refusal> {
        let mut inner = self.inner_mut();
        let before = inner.host.flows.len();
        let is_cut = |flow: &datapath::trace::Flow| {
            flow.original.source == source
                && flow.mark & BASE_MASK != BASE
                && is_meant(flow.original.destination)
        };
        inner.host.flows.retain(|flow| !is_cut(flow));
        Ok(before - inner.host.flows.len())
    }
}
