//! Neighbours (ARP and NDP), proxy entries, and forwarding entries of VXLAN devices.

use std::net::IpAddr;

use datapath::state::ROUTE_PROTOCOL;
use model::tunnel_mac::MacAddress;

use crate::error::{Result, allow_not_found};
use crate::ip_bytes::{family, from_octets, octets};
use crate::rtnetlink::RouteSocket;
use crate::uapi::{AF_BRIDGE, AF_UNSPEC, RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH};
use crate::wire::{self, CREATE, Message, REPLACE, Writer};

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_PROTOCOL: u16 = 12;
const HEADER: usize = 12;

const STATE_REACHABLE: u16 = 0x02;
const STATE_STALE: u16 = 0x04;
const STATE_DELAY: u16 = 0x08;
const STATE_PROBE: u16 = 0x10;
const STATE_NOARP: u16 = 0x40;
const STATE_PERMANENT: u16 = 0x80;
const FLAG_SELF: u8 = 0x02;
const FLAG_PROXY: u8 = 0x08;

/// An entry of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the device
    pub index: u32,
    /// Its address
    pub address: IpAddr,
    /// Its Ethernet address, where it is known
    pub mac: Option<MacAddress>,
    /// Whether somebody set it for good
    pub permanent: bool,
    /// Whether the kernel would send to it at once: permanent, or has answered and is not given up
    pub usable: bool,
}

/// A proxy entry: the kernel answers for this address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyEntry {
    /// Index of the device
    pub index: u32,
    /// Address
    pub address: IpAddr,
    /// Whether it carries our protocol number. Kernels before 5.2 don't keep that
    pub ours: bool,
}

/// A forwarding entry of a VXLAN device: frames to this Ethernet address go to this outer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Index of the VXLAN device
    pub index: u32,
    /// Ethernet address
    pub mac: MacAddress,
    /// Outer address
    pub destination: IpAddr,
}

impl RouteSocket {
    /// All neighbours.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        self.dump_neighbours("listing neighbours", AF_UNSPEC, 0, 0, parse_neighbour)
    }

    /// Sets a permanent neighbour, replacing what is there.
    ///
    /// # Errors
    /// ENODEV when there is no such device.
    pub fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: MacAddress) -> Result<()> {
        let what = format!("setting the neighbour {address}");
        self.socket.request(&what, RTM_NEWNEIGH, CREATE | REPLACE, |w| {
            header(w, family(address), index, STATE_PERMANENT, 0);
            w.bytes(NDA_DST, &octets(address));
            w.bytes(NDA_LLADDR, &mac.0);
        })
    }

    /// Removes a neighbour, if it is there.
    ///
    /// # Errors
    /// EPERM without the privilege.
    pub fn delete_neighbour(&mut self, index: u32, address: IpAddr) -> Result<()> {
        let what = format!("removing the neighbour {address}");
        allow_not_found(self.socket.request(&what, RTM_DELNEIGH, 0, |w| {
            header(w, family(address), index, 0, 0);
            w.bytes(NDA_DST, &octets(address));
        }))
    }

    /// All proxy entries.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn proxy_entries(&mut self) -> Result<Vec<ProxyEntry>> {
        self.dump_neighbours("listing proxy entries", AF_UNSPEC, 0, FLAG_PROXY, parse_proxy)
    }

    /// Lets the kernel answer ARP or NDP for an address on a device. Setting it twice is no error.
    ///
    /// # Errors
    /// ENODEV when there is no such device.
    pub fn add_proxy_entry(&mut self, index: u32, address: IpAddr) -> Result<()> {
        let what = format!("adding the proxy entry of {address}");
        self.socket.request(&what, RTM_NEWNEIGH, CREATE | REPLACE, |w| {
            header(w, family(address), index, STATE_PERMANENT, FLAG_PROXY);
            w.bytes(NDA_DST, &octets(address));
            w.u8(NDA_PROTOCOL, ROUTE_PROTOCOL);
        })
    }

    /// Removes a proxy entry, if it is there.
    ///
    /// # Errors
    /// EPERM without the privilege.
    pub fn delete_proxy_entry(&mut self, index: u32, address: IpAddr) -> Result<()> {
        let what = format!("removing the proxy entry of {address}");
        allow_not_found(self.socket.request(&what, RTM_DELNEIGH, 0, |w| {
            header(w, family(address), index, 0, FLAG_PROXY);
            w.bytes(NDA_DST, &octets(address));
        }))
    }

    /// Forwarding entries of a VXLAN device.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn fdb(&mut self, index: u32) -> Result<Vec<FdbEntry>> {
        let mut entries =
            self.dump_neighbours("listing forwarding entries", AF_BRIDGE, index, 0, parse_fdb)?;
        // Older kernels ignore the filter.
        entries.retain(|entry| entry.index == index);
        Ok(entries)
    }

    /// Sets a forwarding entry of a VXLAN device, replacing what is there.
    ///
    /// # Errors
    /// ENODEV when there is no such device; EOPNOTSUPP when it is no VXLAN device.
    pub fn set_fdb(&mut self, entry: FdbEntry) -> Result<()> {
        let what = format!("setting the forwarding entry of {}", entry.mac);
        self.socket.request(&what, RTM_NEWNEIGH, CREATE | REPLACE, |w| put_fdb(w, entry))
    }

    /// Removes a forwarding entry of a VXLAN device, if it is there.
    ///
    /// # Errors
    /// EPERM without the privilege.
    pub fn delete_fdb(&mut self, entry: FdbEntry) -> Result<()> {
        let what = format!("removing the forwarding entry of {}", entry.mac);
        allow_not_found(self.socket.request(&what, RTM_DELNEIGH, 0, |w| put_fdb(w, entry)))
    }

    fn dump_neighbours<T>(
        &mut self,
        what: &str,
        family: u8,
        index: u32,
        flags: u8,
        parse: fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        self.socket.dump(what, RTM_GETNEIGH, |w| header(w, family, index, 0, flags), |m| parse(&m))
    }
}

fn put_fdb(w: &mut Writer, entry: FdbEntry) {
    header(w, AF_BRIDGE, entry.index, STATE_PERMANENT | STATE_NOARP, FLAG_SELF);
    w.bytes(NDA_DST, &octets(entry.destination));
    w.bytes(NDA_LLADDR, &entry.mac.0);
}

/// `struct ndmsg`
fn header(w: &mut Writer, family: u8, index: u32, state: u16, flags: u8) {
    let [low, high] = state.to_ne_bytes();
    w.raw(&[family, 0, 0, 0]);
    w.raw(&index.to_ne_bytes());
    w.raw(&[low, high, flags, 0]);
}

struct Fields {
    index: u32,
    state: u16,
    flags: u8,
    family: u8,
    address: Option<IpAddr>,
    mac: Option<MacAddress>,
    protocol: u8,
}

fn fields(message: &Message<'_>) -> Option<Fields> {
    if message.kind != RTM_NEWNEIGH && message.kind != RTM_DELNEIGH {
        return None;
    }
    let mut fields = Fields {
        index: wire::u32_at(message.payload, 4)?,
        state: wire::u16_at(message.payload, 8)?,
        flags: wire::u8_at(message.payload, 10)?,
        family: wire::u8_at(message.payload, 0)?,
        address: None,
        mac: None,
        protocol: 0,
    };
    for attribute in wire::attributes_behind(message.payload, HEADER) {
        match attribute.kind {
            NDA_DST => fields.address = from_octets(attribute.payload),
            NDA_LLADDR => fields.mac = attribute.payload.try_into().ok().map(MacAddress),
            NDA_PROTOCOL => fields.protocol = attribute.u8()?,
            _ => {}
        }
    }
    Some(fields)
}

pub(crate) fn parse_neighbour(message: &Message<'_>) -> Option<Neighbour> {
    let fields = fields(message)?;
    if fields.family == AF_BRIDGE || fields.flags & FLAG_PROXY != 0 {
        return None;
    }
    let known = STATE_REACHABLE | STATE_STALE | STATE_DELAY | STATE_PROBE | STATE_NOARP | STATE_PERMANENT;
    Some(Neighbour {
        index: fields.index,
        address: fields.address?,
        mac: fields.mac,
        permanent: fields.state & STATE_PERMANENT != 0,
        usable: fields.state & known != 0,
    })
}

/// Index of the device of an entry of any kind.
pub(crate) fn device_of(message: &Message<'_>) -> Option<u32> {
    fields(message).map(|fields| fields.index)
}

fn parse_proxy(message: &Message<'_>) -> Option<ProxyEntry> {
    let fields = fields(message)?;
    (fields.flags & FLAG_PROXY != 0).then_some(())?;
    Some(ProxyEntry {
        index: fields.index,
        address: fields.address?,
        ours: fields.protocol == ROUTE_PROTOCOL,
    })
}

fn parse_fdb(message: &Message<'_>) -> Option<FdbEntry> {
    let fields = fields(message)?;
    (fields.family == AF_BRIDGE).then_some(())?;
    Some(FdbEntry {
        index: fields.index,
        // The all-zero address is a VXLAN device's default destination, no peer.
        mac: fields.mac.filter(|mac| mac.0 != [0; 6])?,
        destination: fields.address?,
    })
}
