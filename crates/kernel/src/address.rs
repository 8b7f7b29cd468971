//! Addresses of devices.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::{Result, allow_exists, allow_not_found};
use crate::ip_bytes::{family, from_octets, octets};
use crate::rtnetlink::RouteSocket;
use crate::uapi::{RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR};
use crate::wire::{self, CREATE, Message, Writer};

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const FLAG_SECONDARY: u32 = 0x01;
/// No duplicate address detection: the address is usable at once.
const FLAG_NODAD: u32 = 0x02;
const HEADER: usize = 8;
const SCOPE_UNIVERSE: u8 = 0;

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the device
    pub index: u32,
    /// The address, with the length of its network's prefix
    pub address: IpNet,
    /// Whether others may know it: not link-local, not of this host only
    pub global: bool,
    /// Whether it is not the first of its network
    pub secondary: bool,
}

impl RouteSocket {
    /// All addresses of all devices.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let body = |w: &mut Writer| w.raw(&[0; HEADER]);
        self.socket.dump("listing addresses", RTM_GETADDR, body, |m| parse_address(&m))
    }

    /// Gives a device an address, unless it has it. IPv6 addresses are usable at once.
    ///
    /// # Errors
    /// ENODEV when there is no such device; EACCES when it has no IPv6.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<()> {
        let what = format!("adding the address {address}");
        allow_exists(self.socket.request(&what, RTM_NEWADDR, CREATE, |w| {
            put_address(w, index, address);
            if address.addr().is_ipv6() {
                w.u32(IFA_FLAGS, FLAG_NODAD);
            }
        }))
    }

    /// Takes an address from a device, if it has it.
    ///
    /// # Errors
    /// EPERM without the privilege.
    pub fn delete_address(&mut self, index: u32, address: IpNet) -> Result<()> {
        let what = format!("removing the address {address}");
        allow_not_found(self.socket.request(&what, RTM_DELADDR, 0, |w| put_address(w, index, address)))
    }
}

/// `struct ifaddrmsg` and the address.
fn put_address(w: &mut Writer, index: u32, address: IpNet) {
    w.raw(&[family(address.addr()), address.prefix_len(), 0, SCOPE_UNIVERSE]);
    w.raw(&index.to_ne_bytes());
    w.bytes(IFA_LOCAL, &octets(address.addr()));
    w.bytes(IFA_ADDRESS, &octets(address.addr()));
}

pub(crate) fn parse_address(message: &Message<'_>) -> Option<Address> {
    if message.kind != RTM_NEWADDR && message.kind != RTM_DELADDR {
        return None;
    }
    let prefix = wire::u8_at(message.payload, 1)?;
    let mut flags = u32::from(wire::u8_at(message.payload, 2)?);
    let mut local: Option<IpAddr> = None;
    let mut peer: Option<IpAddr> = None;
    for attribute in wire::attributes_behind(message.payload, HEADER) {
        match attribute.kind {
            IFA_LOCAL => local = from_octets(attribute.payload),
            IFA_ADDRESS => peer = from_octets(attribute.payload),
            IFA_FLAGS => flags = attribute.u32()?,
            _ => {}
        }
    }
    Some(Address {
        index: wire::u32_at(message.payload, 4)?,
        // On point-to-point devices the other attribute is the peer's.
        address: IpNet::new(local.or(peer)?, prefix).ok()?,
        global: wire::u8_at(message.payload, 3)? == SCOPE_UNIVERSE,
        secondary: flags & FLAG_SECONDARY != 0,
    })
}
