//! ICMP echo: the question to a node's kernel, which it answers without its agent.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// Time between two questions to the same silent node.
const INTERVAL_MS: u64 = 60;
/// The socket sees all ICMP of the node, so it is closed when nobody has been silent for this long.
const LINGER_MS: u64 = 2000;

/// Asks kernels. The socket is open only while somebody is silent.
#[derive(Debug, Default)]
pub(super) struct Echo {
    socket: Option<Socket>,
    last_ms: u64,
    sequence: u16,
    failed: bool,
    off: bool,
}

impl Echo {
    /// Asks nobody: whoever does not answer probes is dead.
    #[cfg(test)]
    pub(super) fn off() -> Self {
        Self { off: true, ..Self::default() }
    }

    /// What to poll.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(|socket| socket.as_fd())
    }

    /// Asks these nodes, if the last question is long enough ago. IPv4 only: where the tunnel has no IPv4, an agent that is
    /// away counts as a node that is gone.
    pub(super) fn ask(&mut self, now_ms: u64, own: Option<IpAddr>, silent: &[IpAddr]) {
        let silent: Vec<Ipv4Addr> = silent
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(v4) => Some(*v4),
                IpAddr::V6(_) => None,
            })
            .collect();
        let Some(IpAddr::V4(own)) = own else { return };
        if silent.is_empty() {
            if now_ms.saturating_sub(self.last_ms) > LINGER_MS {
                self.socket = None;
            }
            return;
        }
        if now_ms.saturating_sub(self.last_ms) < INTERVAL_MS {
            return;
        }
        self.last_ms = now_ms;
        self.open(own);
        let Some(socket) = &self.socket else { return };
        self.sequence = self.sequence.wrapping_add(1);
        let packet = request(identifier(), self.sequence);
        for address in silent {
            let to = SocketAddr::new(address.into(), 0);
            let _ = socket.send_to(&packet, &to.into());
        }
    }

    fn open(&mut self, own: Ipv4Addr) {
        if self.off || self.socket.is_some() {
            return;
        }
        let open = || {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
            socket.set_nonblocking(true)?;
            socket.bind(&SocketAddr::new(own.into(), 0).into())?;
            Ok::<_, std::io::Error>(socket)
        };
        match open() {
            Ok(socket) => {
                self.socket = Some(socket);
                self.failed = false;
            }
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(%error, "no socket for echo requests; a restarting agent counts as a dead node");
            }
            Err(_) => {}
        }
    }

    /// Addresses that answered a question of ours.
    pub(super) fn receive(&mut self, at_most: usize) -> BTreeSet<IpAddr> {
        let mut answered = BTreeSet::new();
        let Some(socket) = &mut self.socket else {
            return answered;
        };
        let mut buffer = [0; 256];
        for _ in 0..at_most {
            match socket.read(&mut buffer) {
                Ok(length) => answered.extend(reply(buffer.get(..length).unwrap_or_default(), identifier())),
                Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {}
                Err(_) => break,
            }
        }
        answered
    }
}

/// Tells our echoes from those of other programs.
fn identifier() -> u16 {
    (std::process::id() & 0xffff) as u16 ^ 0x4547
}

fn request(identifier: u16, sequence: u16) -> [u8; 16] {
    let mut packet = [0; 16];
    packet[0] = ECHO_REQUEST;
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[8..16].copy_from_slice(b"egressgw");
    let sum: u32 = packet
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The source of an echo reply with that identifier, from a whole IPv4 packet.
fn reply(packet: &[u8], identifier: u16) -> Option<IpAddr> {
    let header_length = usize::from(packet.first()? & 0x0f) * 4;
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let icmp = packet.get(header_length..)?;
    let genuine = *icmp.first()? == ECHO_REPLY && icmp.get(4..6)? == identifier.to_be_bytes();
    genuine.then(|| IpAddr::V4(source.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_to_our_own_question_counts() {
        let mut packet = vec![0x45, 0, 0, 36, 0, 0, 0, 0, 64, 1, 0, 0, 172, 31, 0, 7, 172, 31, 0, 1];
        packet.extend(request(77, 1));
        assert_eq!(reply(&packet, 77), None);
        packet[20] = ECHO_REPLY;
        assert_eq!(reply(&packet, 77), Some("172.31.0.7".parse().unwrap()));
        assert_eq!(reply(&packet, 78), None);
        for length in 0..packet.len() {
            let _ = reply(&packet[..length], 77);
        }
    }

    #[test]
    fn the_checksum_of_a_request_is_right() {
        let packet = request(0x1234, 9);
        let sum: u32 =
            packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
