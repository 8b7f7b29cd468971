//! Several nodes, the wire between them, and the outside.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::host::{Host, Outcome};
use super::{Packet, Transport};

/// How often a packet is sent on before it is called a loop.
const TTL: u8 = 16;

/// A cluster on one wire. Its hosts' uplinks have one name.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Nodes by name
    pub hosts: BTreeMap<String, Host>,
    /// Name of the device that is on the wire
    pub uplink: String,
    /// Every packet that was on the wire outside of the tunnel, and the node that sent it, in order
    pub wire: Vec<(String, Packet)>,
}

/// Where a packet ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// On the wire, for nobody here
    Outside {
        /// The node that it left
        node: String,
        /// As it left
        packet: Packet,
    },
    /// At a pod, or whatever else is behind a device
    Behind {
        /// Its node
        node: String,
        /// The device
        device: String,
        /// As it arrived
        packet: Packet,
    },
    /// At a process of a node
    Process {
        /// The node
        node: String,
        /// As it arrived
        packet: Packet,
    },
    /// Nowhere
    Lost {
        /// The node that lost it
        node: String,
        /// How
        outcome: Outcome,
    },
    /// It went round and round
    Loop,
}

impl Network {
    /// A packet comes to a node by a device.
    pub fn receive(&mut self, node: &str, device: &str, packet: Packet) -> End {
        let Some(host) = self.hosts.get_mut(node) else { return End::Loop };
        let outcome = host.receive(device, packet);
        self.follow(node, outcome)
    }

    /// A process of a node sends.
    pub fn send(&mut self, node: &str, packet: Packet) -> End {
        let Some(host) = self.hosts.get_mut(node) else { return End::Loop };
        let outcome = host.send(packet);
        self.follow(node, outcome)
    }

    /// Somebody outside sends: whoever answers for the destination gets it.
    pub fn send_from_outside(&mut self, packet: Packet) -> Option<End> {
        let node = self.on_wire(packet.destination)?;
        let uplink = self.uplink.clone();
        Some(self.receive(&node, &uplink, packet))
    }

    /// The node that answers ARP or NDP for the address.
    fn on_wire(&self, address: IpAddr) -> Option<String> {
        let answers = |host: &Host| {
            host.addresses.contains(&address)
                || host.state.proxy_neighbours.iter().any(|proxy| proxy.address == address)
        };
        self.hosts.iter().find(|(_, host)| answers(host)).map(|(name, _)| name.clone())
    }

    fn follow(&mut self, node: &str, outcome: Outcome) -> End {
        let (mut node, mut outcome) = (node.to_owned(), outcome);
        for _ in 0..TTL {
            let (device, next_hop, mut packet) = match outcome {
                Outcome::Sent { device, next_hop, packet } => (device, next_hop, packet),
                Outcome::Delivered(packet) => return End::Process { node, packet },
                outcome => return End::Lost { node, outcome },
            };
            let Some(host) = self.hosts.get(&node) else { return End::Loop };
            let tunnel = host.state.tunnel.as_ref().filter(|tunnel| tunnel.name == device);
            let next = if let Some(tunnel) = tunnel {
                packet.ether_source = Some(tunnel.mac);
                // Left on the packet, our mark would route the outer datagram into the tunnel again.
                if packet.mark & model::mark::BASE_MASK == model::mark::BASE {
                    return End::Loop;
                }
                let peer = host.state.peers.iter().find(|peer| {
                    peer.ipv4.map(IpAddr::V4) == Some(next_hop) || peer.ipv6.map(IpAddr::V6) == Some(next_hop)
                });
                let next = peer.and_then(|peer| self.on_wire(peer.underlay));
                // Where there is no tunnel device nobody takes the datagram.
                let has_tunnel = |host: &Host| host.state.tunnel.is_some();
                next.filter(|next| self.hosts.get(next).is_some_and(has_tunnel)).map(|next| (next, device))
            } else if device == self.uplink {
                self.wire.push((node.clone(), packet.clone()));
                match self.on_wire(packet.destination) {
                    Some(next) => Some((next, device)),
                    None => return End::Outside { node, packet },
                }
            } else {
                return End::Behind { node, device, packet };
            };
            let Some((next, device)) = next else {
                // No neighbour: the kernel drops it after a while.
                return End::Lost { node, outcome: Outcome::Unreachable };
            };
            packet.mark = 0;
            let Some(host) = self.hosts.get_mut(&next) else { return End::Loop };
            outcome = host.receive(&device, packet);
            node = next;
        }
        End::Loop
    }

    /// What the kernel of the node answers where a packet was too big: "fragmentation needed", or "packet too big".
    #[must_use]
    pub fn too_big_error(packet: &Packet, from: IpAddr) -> Packet {
        let kind = if packet.source.is_ipv4() { 3 } else { 2 };
        let quoted = Box::new(Packet { mark: 0, ether_source: None, ..packet.clone() });
        Packet::new(from, packet.source, Transport::Error { kind, quoted })
    }
}
