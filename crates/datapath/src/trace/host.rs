//! One node: hooks in their order, connection tracking, routing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::conntrack::{Flow, Side, Tuple};
use super::eval::{Connection, End, Nat, Passage, filters, nats};
use super::{Counters, Packet, SCTP, TCP, Transport, UDP, UDP_LITE};
use crate::nft::{Hook, Reject, Table, TableFamily};
use crate::state::{DatapathState, Route, RouteTarget};

const CONNTRACK: i32 = -200;
const DNAT: i32 = -100;
const SNAT: i32 = 100;

/// A node: our part of its kernel, and what else is there.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// What is ours
    pub state: DatapathState,
    /// Devices with their indexes, the tunnel's included
    pub devices: BTreeMap<String, u32>,
    /// MTU of devices that are not ours
    pub mtu: u16,
    /// Addresses of the host itself
    pub addresses: BTreeSet<IpAddr>,
    /// Routes of others, in the main table
    pub routes: Vec<Route>,
    /// Sources that others masquerade on their way to what is not in here either
    pub masquerade: Vec<IpNet>,
    /// Destination NAT of others, as for Services
    pub services: BTreeMap<(IpAddr, u16), (IpAddr, u16)>,
    /// Connections
    pub flows: Vec<Flow>,
    /// What our counters say
    pub counters: Counters,
    /// Whether connection tracking picks up TCP in mid stream
    pub strict: bool,
    /// What happened to the last packet: each rule that decided
    pub steps: Vec<String>,
}

/// What a node does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Sent on
    Sent {
        /// Out of this device
        device: String,
        /// To this neighbour
        next_hop: IpAddr,
        /// As this
        packet: Packet,
    },
    /// Given to a process of the host
    Delivered(Packet),
    /// Dropped by a rule of ours
    Dropped,
    /// Refused by a rule of ours, with an answer
    Rejected(Reject),
    /// No way there: the sender gets "unreachable"
    Unreachable,
    /// The sender gets "fragmentation needed" about the packet as it is here
    TooBig(Packet),
    /// No free port, or a connection of the same kind: dropped without a trace
    Clash,
}

impl Host {
    /// A packet comes in.
    pub fn receive(&mut self, device: &str, packet: Packet) -> Outcome {
        self.pass(Some(device), packet)
    }

    /// A process of the host sends.
    pub fn send(&mut self, packet: Packet) -> Outcome {
        self.pass(None, packet)
    }

    fn pass(&mut self, input: Option<&str>, packet: Packet) -> Outcome {
        let state = std::mem::take(&mut self.state);
        let mut counters = std::mem::take(&mut self.counters);
        let mut steps = Vec::new();
        let outcome = self.pass_with(&state, input, packet, &mut counters, &mut steps);
        self.state = state;
        self.counters = counters;
        self.steps = steps;
        outcome
    }

    fn pass_with(
        &mut self,
        state: &DatapathState,
        input: Option<&str>,
        packet: Packet,
        counters: &mut Counters,
        steps: &mut Vec<String>,
    ) -> Outcome {
        let (addresses, broadcasts) = (self.addresses.clone(), self.broadcasts());
        let address_type = move |address: IpAddr| match address {
            address if addresses.contains(&address) => 2,
            address if broadcasts.contains(&address) => 3,
            IpAddr::V4(v4) if v4.is_broadcast() => 3,
            address if address.is_multicast() => 5,
            _ => 1,
        };
        let mut passage = Passage {
            input: input.map(|device| (device, self.index(device))),
            output: None,
            packet,
            connection: Connection::Pending,
            zone: 0,
            address_type: &address_type,
            counters,
            steps,
            nat: None,
        };
        match self.walk(state, &mut passage) {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }

    fn index(&self, device: &str) -> u32 {
        self.devices.get(device).copied().unwrap_or_default()
    }

    fn broadcasts(&self) -> BTreeSet<IpAddr> {
        let connected =
            self.routes.iter().filter(|route| matches!(&route.target, RouteTarget::Device { via: None, .. }));
        connected
            .filter(|route| route.destination.prefix_len() < 31)
            .map(|route| route.destination.broadcast())
            .collect()
    }

    fn walk(&mut self, state: &DatapathState, passage: &mut Passage<'_>) -> Result<Outcome, Outcome> {
        let local_out = passage.input.is_none();
        let first = if local_out { Hook::Output } else { Hook::Prerouting };
        self.hook(state, passage, first)?;
        // A broadcast is for this host as well, and is not sent on.
        if !local_out && matches!((passage.address_type)(passage.packet.destination), 2 | 3) {
            self.hook(state, passage, Hook::Input)?;
            self.confirm(passage)?;
            return Ok(Outcome::Delivered(passage.packet.clone()));
        }
        let (device, next_hop) = self.route(state, &passage.packet).ok_or(Outcome::Unreachable)?;
        let mtu = match &state.tunnel {
            Some(tunnel) if tunnel.name == device => u16::try_from(tunnel.mtu).unwrap_or(u16::MAX),
            _ => self.mtu,
        };
        // What exceeds the next device is answered before the forward hook.
        let fixed = passage.packet.dont_fragment || passage.packet.source.is_ipv6();
        if fixed && passage.packet.length > mtu {
            return Ok(Outcome::TooBig(passage.packet.clone()));
        }
        passage.output = Some((device.clone(), self.index(&device)));
        if !local_out {
            self.hook(state, passage, Hook::Forward)?;
        }
        self.hook(state, passage, Hook::Postrouting)?;
        self.confirm(passage)?;
        Ok(Outcome::Sent { device, next_hop, packet: passage.packet.clone() })
    }

    /// All that is at a hook, by priority.
    fn hook(&mut self, state: &DatapathState, passage: &mut Passage<'_>, hook: Hook) -> Result<(), Outcome> {
        let mut events: Vec<(i32, Option<(&Table, &str)>)> = state
            .tables
            .values()
            .filter(|table| table.family != TableFamily::Arp)
            .flat_map(|table| {
                filters(table, hook)
                    .into_iter()
                    .map(move |(priority, chain)| (priority, Some((table, chain))))
            })
            .collect();
        let own = match hook {
            Hook::Prerouting | Hook::Output => vec![CONNTRACK, DNAT],
            Hook::Postrouting | Hook::Input => vec![SNAT],
            Hook::Forward => vec![],
        };
        events.extend(own.into_iter().map(|priority| (priority, None)));
        events.sort_by_key(|(priority, _)| *priority);
        for (priority, event) in events {
            match event {
                Some((table, chain)) => match passage.chain(table, chain, 0) {
                    None | Some(End::Accept) => {}
                    Some(End::Drop) => return Err(Outcome::Dropped),
                    Some(End::Reject(reject)) => return Err(Outcome::Rejected(reject)),
                },
                None if priority == CONNTRACK => self.track(passage),
                None => self.translate(state, passage, hook)?,
            }
        }
        Ok(())
    }

    fn track(&self, passage: &mut Passage<'_>) {
        if passage.connection != Connection::Pending {
            return;
        }
        let packet = &passage.packet;
        let tracked = |flow: &Flow, is_reply: bool, related: bool| {
            let mut flow = flow.clone();
            flow.replied |= is_reply && !related;
            Connection::Tracked { flow: Box::new(flow), is_reply, related }
        };
        let find = |tuple: Tuple| {
            let begun = |flow: &Flow| flow.zone == passage.zone && flow.original == tuple;
            let hit = |flow: &&Flow| begun(flow) || flow.reply == tuple;
            self.flows.iter().find(hit).map(|flow| (flow, !begun(flow)))
        };
        passage.connection = if let Transport::Error { quoted, .. } = &packet.transport {
            match Tuple::of(quoted).map(Tuple::inverted).and_then(find) {
                Some((flow, is_reply)) => tracked(flow, is_reply, true),
                None => Connection::Invalid,
            }
        } else if packet.out_of_window {
            Connection::Invalid
        } else {
            match Tuple::of(packet) {
                None => Connection::Invalid,
                Some(tuple) => match find(tuple) {
                    Some((flow, is_reply)) => tracked(flow, is_reply, false),
                    None if self.begins_nothing(packet) => Connection::Invalid,
                    None => tracked(&Flow::begin(tuple, passage.zone), false, false),
                },
            }
        };
    }

    fn begins_nothing(&self, packet: &Packet) -> bool {
        match packet.transport {
            Transport::Ports { protocol: TCP, flags, .. } => self.strict && flags & super::SYN == 0,
            Transport::Echo { reply, .. } => reply,
            _ => false,
        }
    }

    fn translate(
        &mut self,
        state: &DatapathState,
        passage: &mut Passage<'_>,
        hook: Hook,
    ) -> Result<(), Outcome> {
        let side = match hook {
            Hook::Prerouting | Hook::Output => Side::Destination,
            _ => Side::Source,
        };
        let Connection::Tracked { flow, related, .. } = &passage.connection else { return Ok(()) };
        let n = usize::from(side == Side::Source);
        if !related && !flow.bound.get(n).copied().unwrap_or(true) {
            self.bind(state, passage, hook, side)?;
        }
        if let Connection::Tracked { flow, is_reply, .. } = &passage.connection {
            flow.translate(&mut passage.packet, *is_reply, side);
        }
        Ok(())
    }

    /// Decides NAT of one side, once per connection: our chains first, then others'.
    fn bind(
        &self,
        state: &DatapathState,
        passage: &mut Passage<'_>,
        hook: Hook,
        side: Side,
    ) -> Result<(), Outcome> {
        passage.nat = None;
        for table in state.tables.values() {
            for (_, chain) in nats(table, hook) {
                if passage.nat.is_none() {
                    passage.chain(table, chain, 0);
                }
            }
        }
        let packet = passage.packet.clone();
        if passage.nat.is_none() && hook == Hook::Postrouting {
            let own = |address: IpAddr| self.masquerade.iter().any(|net| net.contains(&address));
            if own(packet.source) && !own(packet.destination) {
                passage.nat = Some(Nat::Masquerade);
            }
        }
        let nat = passage.nat.take();
        let service = match &packet.transport {
            Transport::Ports { destination, .. } if side == Side::Destination => {
                self.services.get(&(packet.destination, *destination)).copied()
            }
            _ => None,
        };
        let out = passage.output.as_ref().map(|(device, _)| device.clone());
        let Connection::Tracked { flow, .. } = &mut passage.connection else { return Ok(()) };
        if let Some(bound) = flow.bound.get_mut(usize::from(side == Side::Source)) {
            *bound = true;
        }
        match nat {
            Some(Nat::Destination { address }) => flow.reply.source = address,
            Some(Nat::Source { address, ports }) => {
                flow.reply.destination = address;
                flow.reply.destination_port = self.free_port(flow, ports).ok_or(Outcome::Clash)?;
            }
            Some(Nat::Masquerade) => {
                flow.reply.destination = self.source_for(state, out.as_deref(), packet.source.is_ipv4());
                flow.reply.destination_port = self.free_port(flow, (1024, u16::MAX)).ok_or(Outcome::Clash)?;
            }
            None => {
                if let Some((address, port)) = service {
                    (flow.reply.source, flow.reply.source_port) = (address, port);
                }
            }
        }
        if matches!(packet.transport, Transport::Echo { .. }) {
            flow.reply.source_port = flow.reply.destination_port;
        }
        Ok(())
    }

    /// The own port if it is in the range and free, else the lowest that is. What has no ports gets none, and is told from
    /// others by its addresses only.
    fn free_port(&self, flow: &Flow, (first, last): (u16, u16)) -> Option<u16> {
        let echo = flow.original.protocol == super::ICMP || flow.original.protocol == super::ICMPV6;
        let taken = |port: u16| {
            let mut reply = Tuple { destination_port: port, ..flow.reply };
            if echo {
                reply.source_port = port;
            }
            self.flows.iter().any(|other| other.reply == reply)
        };
        let own = flow.original.source_port;
        if !matches!(flow.original.protocol, TCP | UDP | UDP_LITE | SCTP) && !echo {
            return (!taken(own)).then_some(own);
        }
        let range = first..=last;
        if range.contains(&own) && !taken(own) {
            Some(own)
        } else {
            range.into_iter().find(|port| !taken(*port))
        }
    }

    fn source_for(&self, state: &DatapathState, device: Option<&str>, v4: bool) -> IpAddr {
        let tunnel = state.tunnel.as_ref().filter(|tunnel| Some(tunnel.name.as_str()) == device);
        let of_tunnel = tunnel
            .and_then(|tunnel| if v4 { tunnel.ipv4.map(IpAddr::V4) } else { tunnel.ipv6.map(IpAddr::V6) });
        let own = || self.addresses.iter().copied().find(|address| address.is_ipv4() == v4);
        of_tunnel.or_else(own).unwrap_or(IpAddr::from([0; 4]))
    }

    /// Keeps the connection once its first packet leaves.
    fn confirm(&mut self, passage: &Passage<'_>) -> Result<(), Outcome> {
        let Connection::Tracked { flow, related, .. } = &passage.connection else { return Ok(()) };
        if *related {
            return Ok(());
        }
        let kept = Flow { confirmed: true, ..(**flow).clone() };
        if let Some(known) =
            self.flows.iter_mut().find(|known| known.zone == flow.zone && known.original == flow.original)
        {
            *known = kept;
            return Ok(());
        }
        if self.flows.iter().any(|known| known.reply == flow.reply) {
            return Err(Outcome::Clash);
        }
        self.flows.push(kept);
        Ok(())
    }

    /// Device and neighbour for a packet; `None` where the lookup ends in a refusal.
    fn route(&self, state: &DatapathState, packet: &Packet) -> Option<(String, IpAddr)> {
        let mut rules: Vec<_> = state.rules.iter().collect();
        rules.sort_by_key(|rule| rule.priority);
        let family = |net: &IpNet| net.addr().is_ipv4() == packet.destination.is_ipv4();
        let tables = rules
            .iter()
            .filter(|rule| rule.ipv6 == packet.destination.is_ipv6() && packet.mark & rule.mask == rule.mark)
            .map(|rule| rule.table)
            .chain([254]);
        for table in tables {
            let others = self.routes.iter().filter(|_| table == 254);
            let best = state
                .routes
                .iter()
                .filter(|route| route.table == table)
                .chain(others)
                .filter(|route| family(&route.destination) && route.destination.contains(&packet.destination))
                .min_by_key(|route| (std::cmp::Reverse(route.destination.prefix_len()), route.metric));
            match best.map(|route| &route.target) {
                Some(RouteTarget::Device { device, via }) => {
                    return Some((device.clone(), via.unwrap_or(packet.destination)));
                }
                Some(RouteTarget::Unreachable | RouteTarget::Blackhole) => return None,
                None => {}
            }
        }
        None
    }
}
