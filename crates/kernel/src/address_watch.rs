//! Who else on the link has an address, or is about to take it: ARP and neighbour discovery as they are on the wire.
//!
//! The kernel tells nobody of another host with an address that is bound to no device, and does not answer ARP probes
//! (RFC 5227: requests of nobody) for proxy entries. So this listens by a packet socket, which a filter in the kernel
//! leaves only ARP, solicitations and advertisements.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use model::tunnel_mac::MacAddress;
use socket2::{SockFilter, Socket};

use crate::error::{Error, Result};
use crate::sys;

const ETHERNET_HEADER: usize = 14;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// Neighbour discovery that came through a router is forged.
const HOP_LIMIT: u8 = 255;
/// Longer frames are cut off: nothing of interest is behind that.
const FRAME_MAX: usize = 256;

/// What somebody on the link says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It has the address
    Has(IpAddr),
    /// It asks whether anybody has, before it takes the address
    Probes(IpAddr),
}

/// Who says what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Ethernet address of whoever has the address, or asks for it
    pub mac: MacAddress,
    /// What it says
    pub word: Word,
}

/// Listens on one device.
#[derive(Debug)]
pub struct AddressWatch {
    socket: Socket,
}

impl AddressWatch {
    /// Opens it on the device with this index, in the calling thread's namespace. Never blocks.
    ///
    /// # Errors
    /// Without the privilege to receive raw frames (CAP_NET_RAW), or when the device is gone.
    pub fn open(index: u32) -> Result<Self> {
        let fail = |source| Error::system(format!("listening for ARP on device {index}"), source);
        let socket = sys::frame_socket().map(Socket::from).map_err(fail)?;
        // Before it is bound it receives nothing: no frame gets past the filter.
        socket.attach_filter(&filter()).map_err(fail)?;
        socket.set_nonblocking(true).map_err(fail)?;
        sys::listen_on(&socket, index).map_err(fail)?;
        Ok(Self { socket })
    }

    /// What was heard since the last call, at most so many; without waiting.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn heard(&mut self, most: usize) -> Result<Vec<Heard>> {
        let mut all = Vec::new();
        let mut frame = [0; FRAME_MAX];
        for _ in 0..most {
            match (&self.socket).read(&mut frame) {
                Ok(length) => all.extend(parse(frame.get(..length).unwrap_or_default())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(source) => return Err(Error::system("hearing ARP", source)),
            }
        }
        Ok(all)
    }
}

impl AsFd for AddressWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// ARP, or IPv6 with ICMPv6 type 135 or 136 right behind the header; classic BPF.
fn filter() -> [SockFilter; 10] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let frame_max = u32::try_from(FRAME_MAX).unwrap_or(u32::MAX);
    [
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(JUMP_EQUAL, 6, 0, 0x0806),
        SockFilter::new(JUMP_EQUAL, 0, 6, 0x86dd),
        SockFilter::new(LOAD_BYTE, 0, 0, 20),
        SockFilter::new(JUMP_EQUAL, 0, 4, ICMPV6.into()),
        SockFilter::new(LOAD_BYTE, 0, 0, 54),
        SockFilter::new(JUMP_EQUAL, 1, 0, SOLICITATION.into()),
        SockFilter::new(JUMP_EQUAL, 0, 1, ADVERTISEMENT.into()),
        SockFilter::new(RETURN, 0, 0, frame_max),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// What a frame says; `None` for any other frame, and for what is malformed.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<Heard> {
    let payload = frame.get(ETHERNET_HEADER..)?;
    match frame.get(12..14)? {
        [0x08, 0x06] => parse_arp(payload),
        [0x86, 0xdd] => parse_discovery(mac_at(frame, 6)?, payload),
        _ => None,
    }
}

fn mac_at(bytes: &[u8], at: usize) -> Option<MacAddress> {
    Some(MacAddress(bytes.get(at..at.checked_add(6)?)?.try_into().ok()?))
}

fn v4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(octets.into())
}

fn v6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at.checked_add(16)?)?.try_into().ok()?;
    Some(octets.into())
}

/// A request or reply; whoever is named as the sender has the address, and nobody is a sender who asks first.
fn parse_arp(packet: &[u8]) -> Option<Heard> {
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    const REQUEST: [u8; 2] = [0, 1];
    const REPLY: [u8; 2] = [0, 2];
    if packet.get(..6)? != ETHERNET_IPV4 {
        return None;
    }
    let operation = packet.get(6..8)?;
    let (mac, sender, target) = (mac_at(packet, 8)?, v4_at(packet, 14)?, v4_at(packet, 24)?);
    let word = match (operation == REQUEST, operation == REPLY) {
        (true, _) if sender.is_unspecified() => Word::Probes(target.into()),
        (true, _) | (_, true) if !sender.is_unspecified() => Word::Has(sender.into()),
        _ => return None,
    };
    Some(Heard { mac, word })
}

/// A solicitation or advertisement (RFC 4861, 7.1). A solicitation of nobody is duplicate address detection (RFC 4862, 5.4).
fn parse_discovery(ether_source: MacAddress, packet: &[u8]) -> Option<Heard> {
    let (next, hop_limit) = (*packet.get(6)?, *packet.get(7)?);
    if next != ICMPV6 || hop_limit != HOP_LIMIT {
        return None;
    }
    let source = v6_at(packet, 8)?;
    let message = packet.get(40..)?;
    let (kind, target) = (*message.first()?, v6_at(message, 8)?);
    if source.is_multicast() || target.is_multicast() || *message.get(1)? != 0 {
        return None;
    }
    let options = message.get(24..)?;
    let says = |wanted| link_address(options, wanted).unwrap_or(ether_source);
    match kind {
        SOLICITATION if source.is_unspecified() => {
            Some(Heard { mac: ether_source, word: Word::Probes(target.into()) })
        }
        SOLICITATION => Some(Heard { mac: says(SOURCE_LINK_ADDRESS), word: Word::Has(source.into()) }),
        ADVERTISEMENT => Some(Heard { mac: says(TARGET_LINK_ADDRESS), word: Word::Has(target.into()) }),
        _ => None,
    }
}

/// The link-layer address among options, which each have a type, and a length in units of eight bytes.
fn link_address(mut options: &[u8], wanted: u8) -> Option<MacAddress> {
    loop {
        let (kind, length) = (*options.first()?, usize::from(*options.get(1)?) * 8);
        if length == 0 {
            return None;
        }
        if kind == wanted {
            return mac_at(options, 2);
        }
        options = options.get(length..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 7]);

    fn says(frame: &[u8]) -> Option<Word> {
        let heard = parse(frame);
        assert!(heard.is_none_or(|heard| heard.mac == MAC));
        heard.map(|heard| heard.word)
    }

    #[test]
    fn what_announcements_and_probes_say_is_understood() {
        for address in ["10.6.168.201", "fd06::201"] {
            let address: IpAddr = address.parse().unwrap();
            for frame in announce::announcements(MAC, address) {
                assert_eq!(says(&frame), Some(Word::Has(address)));
            }
            assert_eq!(says(&announce::probe_frame(MAC, address)), Some(Word::Probes(address)));
            let answer = announce::answer_frame(MAC, address, MacAddress([9; 6]));
            assert_eq!(says(&answer), Some(Word::Has(address)));
        }
    }

    #[test]
    fn discovery_that_came_through_a_router_and_endless_options_say_nothing() {
        let mut frame = announce::announcements(MAC, "fd06::1".parse().unwrap()).remove(0);
        frame[21] = 254;
        assert_eq!(parse(&frame), None);
        frame[21] = 255;
        // An option of length 0: the frame's own source stands in.
        frame[79] = 0;
        assert_eq!(says(&frame), Some(Word::Has("fd06::1".parse().unwrap())));
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;
    use crate::announce;
    use proptest::prelude::*;

    fn corpus() -> Vec<Vec<u8>> {
        let mac = MacAddress([2, 0, 0, 0, 0, 7]);
        let addresses = ["10.6.168.201", "fd06::201"].map(|address| address.parse().unwrap());
        addresses
            .into_iter()
            .flat_map(|address: IpAddr| {
                let mut frames = announce::announcements(mac, address);
                frames
                    .extend([announce::probe_frame(mac, address), announce::answer_frame(mac, address, mac)]);
                frames
            })
            .collect()
    }

    proptest! {
        #![proptest_config(fuzzing::config())]
        #[test]
        fn any_frame_is_read_without_panic(frame in fuzzing::mutated(corpus())) {
            if let Some(heard) = parse(&frame) {
                let (Word::Has(address) | Word::Probes(address)) = heard.word;
                prop_assert!(!address.is_multicast() || address.is_ipv4());
            }
        }
    }
}
