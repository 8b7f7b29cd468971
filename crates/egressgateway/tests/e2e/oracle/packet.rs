//! Packets as bytes: what a pod sends by a raw socket, and what is found again on the wire.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use datapath::trace::{ICMP, ICMPV6, Packet, SYN, TCP, Transport, UDP};
use kernel::Netns;
use socket2::{Domain, Protocol, Socket, Type};

/// GRE, which nothing here translates.
pub(super) const GRE: u8 = 47;
/// Stands in each packet before its number.
const MARK: &[u8; 8] = b"oracle! ";
const ETHERNET_HEADER: usize = 14;
const TUNNEL_PORT: u16 = 7789;

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    pub(super) number: u32,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// TCP, UDP, ICMP (of either family) or GRE
    pub(super) protocol: u8,
    /// Source port, or identifier of an echo
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
}

impl Outgoing {
    /// As the oracle sees it.
    pub(super) fn packet(&self) -> Packet {
        let transport = match self.protocol {
            GRE => Transport::Other(GRE),
            ICMP => Transport::Echo { reply: false, id: self.source_port },
            protocol => Transport::Ports {
                protocol,
                source: self.source_port,
                destination: self.destination_port,
                flags: if protocol == TCP { SYN } else { 0 },
            },
        };
        Packet::new(self.source, self.destination, transport)
    }

    /// Sends it from a namespace, once.
    pub(super) fn send(&self, netns: &Netns) -> Result<()> {
        let v6 = self.destination.is_ipv6();
        let protocol = if v6 && self.protocol == ICMP { ICMPV6 } else { self.protocol };
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket =
            netns.run(|| Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol)))))??;
        socket.bind(&SocketAddr::new(self.source, 0).into()).context("bind")?;
        let bytes = self.transport(protocol);
        // "Unreachable" is told here at once for some destinations; then nothing was sent, as the oracle should say.
        match socket.send_to(&bytes, &SocketAddr::new(self.destination, 0).into()) {
            Err(error) if error.kind() != std::io::ErrorKind::NetworkUnreachable => {
                Err(error).with_context(|| format!("sending {self:?}"))
            }
            _ => Ok(()),
        }
    }

    fn transport(&self, protocol: u8) -> Vec<u8> {
        let payload = [&MARK[..], &self.number.to_be_bytes()].concat();
        let ports = [self.source_port.to_be_bytes(), self.destination_port.to_be_bytes()].concat();
        let (header, sum_at): (Vec<u8>, usize) = match protocol {
            TCP => ([&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 0, 0, 0, 0]].concat(), 16),
            UDP => {
                let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
                ([&ports[..], &length.to_be_bytes(), &[0, 0]].concat(), 6)
            }
            ICMP => ([&[8, 0, 0, 0], &self.source_port.to_be_bytes()[..], &[0, 1]].concat(), 2),
            ICMPV6 => ([&[128, 0, 0, 0], &self.source_port.to_be_bytes()[..], &[0, 1]].concat(), 2),
            _ => (vec![0, 0, 8, 0], usize::MAX),
        };
        let mut bytes = [header, payload].concat();
        let covered = if protocol == ICMP {
            bytes.clone()
        } else {
            [self.pseudo_header(protocol, bytes.len()), bytes.clone()].concat()
        };
        if let Some(field) = bytes.get_mut(sum_at..sum_at.saturating_add(2)) {
            field.copy_from_slice(&checksum(&covered).to_be_bytes());
        }
        bytes
    }

    fn pseudo_header(&self, protocol: u8, length: usize) -> Vec<u8> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        [octets(self.source), octets(self.destination), length.to_vec(), vec![0, 0, 0, protocol]].concat()
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| {
        let [high, low] = [pair.first(), pair.get(1)].map(|byte| byte.copied().unwrap_or(0));
        u32::from(u16::from_be_bytes([high, low]))
    };
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !u16::try_from(sum).unwrap_or_default() {
        0 => 0xffff,
        sum => sum,
    }
}

/// A packet of ours in a frame on the wire: its number, its source, and its source port or what stands for it. `None` for
/// anything else: what the tunnel carries, answers, and errors that quote it.
pub(super) fn found(frame: &[u8]) -> Option<(u32, IpAddr, u16)> {
    let packet = frame.get(ETHERNET_HEADER..)?;
    let (protocol, source, header) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            (*packet.get(9)?, IpAddr::from(source), usize::from(packet.first()? & 0x0f) * 4)
        }
        [0x86, 0xdd] => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            (*packet.get(6)?, IpAddr::from(source), 40)
        }
        _ => return None,
    };
    let transport = packet.get(header..)?;
    let number_at = |at: usize| Some(u16::from_be_bytes(transport.get(at..at + 2)?.try_into().ok()?));
    let port = match protocol {
        TCP if *transport.get(13)? == SYN => number_at(0)?,
        UDP if number_at(2)? != TUNNEL_PORT => number_at(0)?,
        ICMP if *transport.first()? == 8 => number_at(4)?,
        ICMPV6 if *transport.first()? == 128 => number_at(4)?,
        GRE => 0,
        _ => return None,
    };
    let at = transport.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let number = u32::from_be_bytes(transport.get(at..at + 4)?.try_into().ok()?);
    Some((number, source, port))
}
