//! Tells the neighbourhood that an address is here now: gratuitous ARP, unsolicited neighbour advertisements. Asks it whether
//! somebody else has it: ARP probes, duplicate address detection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use model::tunnel_mac::MacAddress;

use crate::error::{Error, Result};
use crate::netns::Netns;
use crate::sys;

const BROADCAST: [u8; 6] = [0xff; 6];
/// Ethernet address of all IPv6 nodes of a link.
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ICMPV6: u8 = 58;

/// Sends announcements in one network namespace.
#[derive(Debug)]
pub struct Announcer {
    socket: OwnedFd,
}

impl Announcer {
    /// Opens it for the calling thread's namespace.
    ///
    /// # Errors
    /// Without the privilege to send raw frames (CAP_NET_RAW).
    pub fn open() -> Result<Self> {
        let socket =
            sys::frame_socket().map_err(|source| Error::system("opening a packet socket", source))?;
        Ok(Self { socket })
    }

    /// Opens it for another namespace.
    ///
    /// # Errors
    /// When the namespace can't be entered, or without the privilege.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Self::open)?
    }

    /// Says on a device that `address` is at `mac`: gratuitous ARP as request and as reply, since hosts differ in which
    /// one they believe; or a neighbour advertisement that overrides what hosts remember.
    ///
    /// # Errors
    /// When the device is gone or down.
    pub fn announce(&self, index: u32, mac: MacAddress, address: IpAddr) -> Result<()> {
        announcements(mac, address).iter().try_for_each(|frame| self.send(index, frame))
    }

    /// Asks whether anybody has `address`, without saying that anybody is about to take it: an ARP probe (RFC 5227, 2.1.1),
    /// or a solicitation as for duplicate address detection (RFC 4862, 5.4.2).
    ///
    /// # Errors
    /// When the device is gone or down.
    pub fn probe(&self, index: u32, mac: MacAddress, address: IpAddr) -> Result<()> {
        self.send(index, &probe_frame(mac, address))
    }

    /// Tells whoever has probed for `address` that it is at `mac`.
    ///
    /// # Errors
    /// When the device is gone or down.
    pub fn answer_probe(&self, index: u32, mac: MacAddress, address: IpAddr, to: MacAddress) -> Result<()> {
        self.send(index, &answer_frame(mac, address, to))
    }

    /// Asks for the next hop with `address` as the sender, which makes the next hop, whatever it thinks of gratuitous
    /// ARP, remember where `address` is.
    ///
    /// # Errors
    /// When the device is gone or down.
    pub fn ask_next_hop(
        &self,
        index: u32,
        mac: MacAddress,
        address: Ipv4Addr,
        next_hop: Ipv4Addr,
    ) -> Result<()> {
        self.send(index, &arp(REQUEST, mac, address, [0; 6], next_hop))
    }

    fn send(&self, index: u32, frame: &[u8]) -> Result<()> {
        sys::send_frame(&self.socket, index, frame)
            .map_err(|source| Error::system(format!("announcing on device {index}"), source))
    }
}

/// The frames of [`Announcer::announce`].
pub(crate) fn announcements(mac: MacAddress, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => {
            vec![arp(REQUEST, mac, address, [0; 6], address), arp(REPLY, mac, address, BROADCAST, address)]
        }
        IpAddr::V6(address) => vec![advertisement(mac, address)],
    }
}

/// The frame of [`Announcer::probe`].
pub(crate) fn probe_frame(mac: MacAddress, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(REQUEST, mac, Ipv4Addr::UNSPECIFIED, [0; 6], address),
        IpAddr::V6(address) => solicitation(mac, address),
    }
}

/// The frame of [`Announcer::answer_probe`]; IPv6 is answered to all, for who asks has no address yet.
pub(crate) fn answer_frame(mac: MacAddress, address: IpAddr, to: MacAddress) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => {
            let mut frame = arp(REPLY, mac, address, to.0, Ipv4Addr::UNSPECIFIED);
            if let Some(destination) = frame.get_mut(..6) {
                destination.copy_from_slice(&to.0);
            }
            frame
        }
        IpAddr::V6(address) => advertisement(mac, address),
    }
}

fn ethernet(destination: [u8; 6], source: MacAddress, kind: u16) -> Vec<u8> {
    [&destination[..], &source.0, &kind.to_be_bytes()].concat()
}

fn arp(operation: u8, mac: MacAddress, sender: Ipv4Addr, target_mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let mut frame = ethernet(BROADCAST, mac, 0x0806);
    frame.extend(ETHERNET_IPV4);
    frame.extend([0, operation]);
    frame.extend(mac.0);
    frame.extend(sender.octets());
    frame.extend(target_mac);
    frame.extend(target.octets());
    frame
}

fn advertisement(mac: MacAddress, address: Ipv6Addr) -> Vec<u8> {
    const ADVERTISEMENT: u8 = 136;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_ADDRESS: u8 = 2;
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend([TARGET_LINK_ADDRESS, 1]);
    message.extend(mac.0);
    discovery(ALL_NODES_MAC, mac, address, ALL_NODES, message)
}

/// Duplicate address detection: of nobody, to the address' own multicast group.
fn solicitation(mac: MacAddress, address: Ipv6Addr) -> Vec<u8> {
    const SOLICITATION: u8 = 135;
    let [.., a, b, c] = address.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address.octets());
    discovery([0x33, 0x33, 0xff, a, b, c], mac, Ipv6Addr::UNSPECIFIED, group, message)
}

fn discovery(
    to: [u8; 6],
    mac: MacAddress,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    mut message: Vec<u8>,
) -> Vec<u8> {
    const HOP_LIMIT: u8 = 255;
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    let parts: [&[u8]; 6] =
        [&source.octets(), &destination.octets(), &[0, 0], &len, &[0, 0, 0, ICMPV6], &message];
    let sum = checksum(&parts);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    let mut frame = ethernet(to, mac, 0x86dd);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(len);
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(message);
    frame
}

/// The Internet checksum of parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for pair in parts.concat().chunks(2) {
        if let [high, low] = pair {
            sum += u32::from(u16::from_be_bytes([*high, *low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_has_a_valid_checksum() {
        let frame = advertisement(MacAddress([1; 6]), "fd06::1".parse().unwrap());
        assert_eq!(frame.len(), 14 + 40 + 32);
        let (source_and_destination, message) = (&frame[22..54], &frame[54..]);
        assert_eq!(checksum(&[source_and_destination, &[0, 0, 0, 32, 0, 0, 0, ICMPV6], message]), 0);
    }

    #[test]
    fn a_gratuitous_request_names_the_address_twice() {
        let frame =
            arp(REQUEST, MacAddress([2; 6]), Ipv4Addr::new(10, 0, 0, 1), [0; 6], Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(
            (frame.len(), &frame[28..32], &frame[38..42]),
            (42, &[10, 0, 0, 1][..], &[10, 0, 0, 1][..])
        );
    }
}
