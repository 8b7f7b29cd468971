//! Connections, as far as they decide about marks and addresses.

use std::net::IpAddr;

use super::{Packet, Transport};

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tuple {
    /// Source address
    pub source: IpAddr,
    /// Destination address
    pub destination: IpAddr,
    /// Protocol number
    pub protocol: u8,
    /// Source port, or ICMP identifier
    pub source_port: u16,
    /// Destination port, or ICMP identifier
    pub destination_port: u16,
}

impl Tuple {
    /// The tuple of a packet; `None` for ICMP errors.
    #[must_use]
    pub fn of(packet: &Packet) -> Option<Self> {
        let (source_port, destination_port) = match packet.transport {
            Transport::Ports { source, destination, .. } => (source, destination),
            Transport::Echo { id, .. } => (id, id),
            Transport::Other(_) => (0, 0),
            Transport::Error { .. } => return None,
        };
        Some(Self {
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol(),
            source_port,
            destination_port,
        })
    }

    /// The same connection from the other end.
    #[must_use]
    pub fn inverted(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self
        }
    }
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Of its first packet
    pub original: Tuple,
    /// Zone of that direction; answers are all in zone 0
    pub zone: u16,
    /// Of the answer to it, NAT included
    pub reply: Tuple,
    /// Connection mark
    pub mark: u32,
    /// Whether its first packet has left
    pub confirmed: bool,
    /// Whether it was answered
    pub replied: bool,
    /// Whether NAT of its source, and of its destination, is decided
    pub(super) bound: [bool; 2],
}

impl Flow {
    /// The flow that a packet would begin.
    pub(super) fn begin(tuple: Tuple, zone: u16) -> Self {
        Self {
            original: tuple,
            zone,
            reply: tuple.inverted(),
            mark: 0,
            confirmed: false,
            replied: false,
            bound: [false; 2],
        }
    }

    /// Rewrites one side of a packet, as NAT does: the destination before routing, the source after it. What an error
    /// quotes went the other way, so of it the other side is rewritten.
    pub(super) fn translate(&self, packet: &mut Packet, is_reply: bool, side: Side) {
        let translated = match (side, is_reply) {
            (Side::Source, false) | (Side::Destination, true) => {
                (self.original.source, self.original.source_port)
                    != (self.reply.destination, self.reply.destination_port)
            }
            (Side::Source, true) | (Side::Destination, false) => {
                (self.original.destination, self.original.destination_port)
                    != (self.reply.source, self.reply.source_port)
            }
        };
        if !translated {
            return;
        }
        let other = if is_reply { self.original } else { self.reply };
        let target = other.inverted();
        match side {
            Side::Source => packet.source = target.source,
            Side::Destination => packet.destination = target.destination,
        }
        match &mut packet.transport {
            Transport::Ports { source, destination, .. } => match side {
                Side::Source => *source = target.source_port,
                Side::Destination => *destination = target.destination_port,
            },
            Transport::Echo { id, .. } => {
                *id = if side == Side::Source { target.source_port } else { target.destination_port };
            }
            Transport::Error { quoted, .. } => match side {
                Side::Source => set_end(quoted, Side::Destination, other.destination, other.destination_port),
                Side::Destination => set_end(quoted, Side::Source, other.source, other.source_port),
            },
            Transport::Other(_) => {}
        }
    }
}

/// A side of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Destination,
}

fn set_end(packet: &mut Packet, side: Side, address: IpAddr, port: u16) {
    match side {
        Side::Source => packet.source = address,
        Side::Destination => packet.destination = address,
    }
    match &mut packet.transport {
        Transport::Ports { source, .. } if side == Side::Source => *source = port,
        Transport::Ports { destination, .. } => *destination = port,
        Transport::Echo { id, .. } => *id = port,
        _ => {}
    }
}
