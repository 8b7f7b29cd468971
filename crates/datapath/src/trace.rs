//! Walks a packet through what nodes' kernels hold: the oracle of tests, and an answer to "where does this go, and why".
//!
//! ```text
//! Host     one node: our state, and what is not ours (devices, other routes, others' masquerade)
//! Network  several nodes with a wire between them and an outside
//! ```
//!
//! It evaluates rules as the kernel does and knows nothing of how they were compiled. Connection tracking is as much of it as
//! decides about marks and addresses: no timeouts, no sequence numbers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::tunnel_mac::MacAddress;

mod conntrack;
mod eval;
mod host;
mod network;

pub use conntrack::{Flow, Tuple};
pub use host::{Host, Outcome};
pub use network::{End, Network};

/// TCP
pub const TCP: u8 = 6;
/// UDP
pub const UDP: u8 = 17;
/// SCTP
pub const SCTP: u8 = 132;
/// UDP-Lite
pub const UDP_LITE: u8 = 136;
/// ICMP
pub const ICMP: u8 = 1;
/// ICMPv6
pub const ICMPV6: u8 = 58;
/// TCP flag SYN
pub const SYN: u8 = 2;

/// A packet, as far as rules can see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address
    pub source: IpAddr,
    /// Destination address
    pub destination: IpAddr,
    /// What is inside
    pub transport: Transport,
    /// Source of the Ethernet frame, where there is one
    pub ether_source: Option<MacAddress>,
    /// Packet mark; ends with the node
    pub mark: u32,
    /// Bytes, IP header included
    pub length: u16,
    /// IPv4: must not be cut up
    pub dont_fragment: bool,
    /// Makes connection tracking call it invalid, as for a wrong sequence number
    pub out_of_window: bool,
}

/// What is inside a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, UDP, SCTP or UDP-Lite
    Ports {
        /// Protocol number
        protocol: u8,
        /// Source port
        source: u16,
        /// Destination port
        destination: u16,
        /// TCP flags
        flags: u8,
    },
    /// ICMP or ICMPv6 echo
    Echo {
        /// Whether it is the reply
        reply: bool,
        /// Identifier
        id: u16,
    },
    /// ICMP or ICMPv6 error
    Error {
        /// ICMP type
        kind: u8,
        /// The packet that it is about
        quoted: Box<Packet>,
    },
    /// Any other protocol
    Other(u8),
}

impl Packet {
    /// A packet of this kind, of 100 bytes.
    #[must_use]
    pub fn new(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, transport: Transport) -> Self {
        Self {
            source: source.into(),
            destination: destination.into(),
            transport,
            ether_source: None,
            mark: 0,
            length: 100,
            dont_fragment: false,
            out_of_window: false,
        }
    }

    /// The answer that the receiver would send: addresses and ports swapped.
    #[must_use]
    pub fn reply(&self) -> Self {
        let transport = match &self.transport {
            Transport::Ports { protocol, source, destination, .. } => Transport::Ports {
                protocol: *protocol,
                source: *destination,
                destination: *source,
                flags: 0x10,
            },
            Transport::Echo { id, .. } => Transport::Echo { reply: true, id: *id },
            other => other.clone(),
        };
        Self { mark: 0, ether_source: None, ..Self::new(self.destination, self.source, transport) }
    }

    /// An ICMP error about this packet.
    #[must_use]
    pub fn error(&self, from: impl Into<IpAddr>, kind: u8) -> Self {
        Self::new(from, self.source, Transport::Error { kind, quoted: Box::new(self.clone()) })
    }

    /// Protocol number.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        let icmp = if self.source.is_ipv4() { ICMP } else { ICMPV6 };
        match self.transport {
            Transport::Ports { protocol, .. } | Transport::Other(protocol) => protocol,
            Transport::Echo { .. } | Transport::Error { .. } => icmp,
        }
    }

    /// Source port, or what stands for it.
    #[must_use]
    pub fn source_port(&self) -> Option<u16> {
        match self.transport {
            Transport::Ports { source, .. } => Some(source),
            Transport::Echo { id, .. } => Some(id),
            _ => None,
        }
    }

    /// The bytes of its IP header, as far as rules read them.
    fn network_bytes(&self) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut bytes = vec![0; 12];
                bytes.splice(0..1, [0x45]);
                bytes.splice(2..4, self.length.to_be_bytes());
                bytes.splice(6..7, [if self.dont_fragment { 0x40 } else { 0 }]);
                bytes.splice(9..10, [self.protocol()]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes
            }
            (source, destination) => {
                let mut bytes = vec![0; 8];
                bytes.splice(4..6, self.length.saturating_sub(40).to_be_bytes());
                bytes.splice(6..7, [self.protocol()]);
                for address in [source, destination] {
                    if let IpAddr::V6(address) = address {
                        bytes.extend(address.octets());
                    }
                }
                bytes
            }
        }
    }

    /// The bytes of its transport header, and of what an error quotes.
    fn transport_bytes(&self) -> Vec<u8> {
        let v4 = self.source.is_ipv4();
        match &self.transport {
            Transport::Ports { protocol, source, destination, flags } => {
                let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
                bytes.resize(if *protocol == TCP { 20 } else { 8 }, 0);
                if *protocol == TCP {
                    bytes.splice(13..14, [*flags]);
                }
                bytes
            }
            Transport::Echo { reply, id } => {
                let kind = match (v4, reply) {
                    (true, false) => 8,
                    (true, true) => 0,
                    (false, false) => 128,
                    (false, true) => 129,
                };
                let [high, low] = id.to_be_bytes();
                vec![kind, 0, 0, 0, high, low, 0, 0]
            }
            Transport::Error { kind, quoted } => {
                let mut bytes = vec![*kind, 0, 0, 0, 0, 0, 0, 0];
                bytes.extend(quoted.network_bytes());
                bytes.extend(quoted.transport_bytes());
                bytes
            }
            Transport::Other(_) => vec![0; 8],
        }
    }
}

/// Packets counted by name.
pub type Counters = BTreeMap<String, u64>;
