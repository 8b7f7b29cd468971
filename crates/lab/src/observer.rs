//! What the world outside sees: every packet that reaches the outside host, by source.
//!
//! A packet socket in the outside host's namespace, so nothing that the cluster does can hide from it. Per
//! packet it costs one hash map update; only the first bytes are read. Whoever asks gets all that has arrived by then,
//! however far the watching thread is.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::addresses::{OUTSIDE_V4, OUTSIDE_V6};
use crate::netns::NetNs;

/// Most flows that are kept apart; beyond, packets are counted with their source's first flow.
const FLOWS_MAX: usize = 65_536;
/// Packets that are read before others get a turn.
const BURST: usize = 1024;
const ETHERNET_HEADER: usize = 14;
const ETH_P_ALL: i32 = 3;

/// One flow as the outside host saw it arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Protocol number: 6 for TCP, 17 for UDP, 1 for ICMP.
    pub protocol: u8,
    /// Where the packets came from.
    pub source: IpAddr,
    /// The port that they came from, 0 where there is none.
    pub source_port: u16,
    /// The port that they went to, 0 where there is none.
    pub destination_port: u16,
    /// When the first one came, in microseconds since 1970.
    pub first_us: u64,
    /// When the last one came.
    pub last_us: u64,
    /// How many came.
    pub packets: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    protocol: u8,
    source: IpAddr,
    source_port: u16,
    destination_port: u16,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first_us: u64,
    last_us: u64,
    packets: u64,
}

/// Watches the outside host for as long as the lab lives.
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    socket: Arc<Socket>,
    flows: Arc<Mutex<Flows>>,
}

#[derive(Debug, Default)]
struct Flows(HashMap<Flow, Seen>);

impl Observer {
    /// Starts watching in a thread of its own.
    pub(crate) fn start(outside: &NetNs) -> io::Result<Self> {
        let socket = outside.run(|| {
            // Big-endian, as the kernel wants the protocol of a packet socket.
            let protocol = Protocol::from(i32::from(u16::try_from(ETH_P_ALL).unwrap_or(0).to_be()));
            Socket::new(Domain::PACKET, Type::RAW, Some(protocol))
        })?;
        socket.set_nonblocking(true)?;
        let observer = Self { socket: Arc::new(socket), flows: Arc::default() };
        let watching = observer.clone();
        std::thread::Builder::new().name("observer".to_string()).stack_size(128 * 1024).spawn(move || {
            watching.watch();
        })?;
        Ok(observer)
    }

    /// Everything seen so far, in order of first appearance.
    pub(crate) fn sightings(&self) -> Vec<Sighting> {
        let mut flows = self.lock();
        // What is still in the socket has arrived too. A burst: others may send faster than this reads.
        flows.read(&self.socket).ok();
        let mut sightings: Vec<Sighting> = flows
            .0
            .iter()
            .map(|(flow, seen)| Sighting {
                protocol: flow.protocol,
                source: flow.source,
                source_port: flow.source_port,
                destination_port: flow.destination_port,
                first_us: seen.first_us,
                last_us: seen.last_us,
                packets: seen.packets,
            })
            .collect();
        sightings.sort_by_key(|sighting| (sighting.first_us, sighting.source, sighting.source_port));
        sightings
    }

    fn watch(&self) {
        loop {
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            // An interrupted wait is a short one.
            poll(&mut ready, PollTimeout::NONE).ok();
            match self.lock().read(&self.socket) {
                // The device went down; it may come back.
                Err(error) if error.raw_os_error() != Some(libc::ENETDOWN) => return,
                _ => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flows {
    /// Counts what has arrived.
    fn read(&mut self, socket: &Socket) -> io::Result<()> {
        // Longer frames are cut off, which is what makes this cheap.
        let mut frame = [0; 128];
        for _ in 0..BURST {
            match io::Read::read(&mut &*socket, &mut frame) {
                Ok(length) => {
                    if let Some(flow) = frame.get(..length).and_then(parse_frame) {
                        self.count(flow, now_us());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn count(&mut self, flow: Flow, now_us: u64) {
        let flows = &mut self.0;
        let key = if flows.len() >= FLOWS_MAX && !flows.contains_key(&flow) {
            Flow { source_port: 0, destination_port: 0, ..flow }
        } else {
            flow
        };
        let seen = flows.entry(key).or_insert(Seen { first_us: now_us, last_us: now_us, packets: 0 });
        seen.last_us = now_us;
        seen.packets += 1;
    }
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The flow of an Ethernet frame that arrives at the outside host; `None` for anything else.
fn parse_frame(frame: &[u8]) -> Option<Flow> {
    let packet = frame.get(ETHERNET_HEADER..)?;
    let (protocol, source, destination, ports_at) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header_length = usize::from(*packet.first()? & 0x0f) * 4;
            let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            let fragment_offset = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x1fff;
            // Later fragments have no ports.
            let ports_at = if fragment_offset == 0 { header_length } else { usize::MAX };
            let addresses = (IpAddr::from(Ipv4Addr::from(source)), IpAddr::from(Ipv4Addr::from(destination)));
            (*packet.get(9)?, addresses.0, addresses.1, ports_at)
        }
        [0x86, 0xdd] => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            let addresses = (IpAddr::from(Ipv6Addr::from(source)), IpAddr::from(Ipv6Addr::from(destination)));
            (*packet.get(6)?, addresses.0, addresses.1, 40)
        }
        _ => return None,
    };
    if destination != IpAddr::V4(OUTSIDE_V4) && destination != IpAddr::V6(OUTSIDE_V6) {
        return None;
    }
    let has_ports = matches!(protocol, 6 | 17 | 132 | 136);
    let port = |offset: usize| -> u16 {
        let from = ports_at.saturating_add(offset);
        let bytes = packet.get(from..from.saturating_add(2)).and_then(|bytes| bytes.try_into().ok());
        bytes.filter(|_| has_ports).map(u16::from_be_bytes).unwrap_or(0)
    };
    Some(Flow { protocol, source, source_port: port(0), destination_port: port(2) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn udp_frame() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 6, 0, 12]);
        frame.extend(OUTSIDE_V4.octets());
        frame.extend([0x12, 0x34, 0x1f, 0x91, 0, 12, 0, 0]);
        frame
    }

    #[test]
    fn an_arriving_datagram_is_told_by_its_addresses_and_ports() {
        let flow = parse_frame(&udp_frame()).expect("a datagram to the outside host");
        assert_eq!(flow.source.to_string(), "10.6.0.12");
        assert_eq!((flow.protocol, flow.source_port, flow.destination_port), (17, 0x1234, 8081));
    }

    #[test]
    fn what_the_outside_host_sends_is_not_counted() {
        let mut frame = udp_frame();
        frame[26..30].copy_from_slice(&OUTSIDE_V4.octets());
        frame[30..34].copy_from_slice(&[10, 6, 0, 12]);
        assert_eq!(parse_frame(&frame), None);
    }

    mod fuzz {
        use super::*;

        proptest! {
            #![proptest_config(fuzzing::config())]
            #[test]
            fn any_frame_is_a_flow_or_none(frame in fuzzing::mutated(vec![udp_frame()])) {
                let _ = parse_frame(&frame);
            }
        }
    }
}
