//! Network devices.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use model::tunnel_mac::MacAddress;

use crate::error::{Error, Result, allow_not_found};
use crate::ip_bytes::{from_octets, octets};
use crate::netns::Netns;
use crate::rtnetlink::RouteSocket;
use crate::uapi::{AF_INET6, AF_UNSPEC, RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK};
use crate::wire::{self, Attribute, CREATE, EXCLUSIVE, Message, Writer};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_CARRIER: u16 = 33;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_BRIDGE: u32 = 4;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

const IFF_UP: u32 = 1;
const HEADER: usize = 16;
/// The kernel's limit of a device name is 16 bytes with the closing zero.
const NAME_MAX: usize = 15;

/// A device as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index
    pub index: u32,
    /// Name
    pub name: String,
    /// Kind, as `ip -d link` prints it (`veth`, `vxlan`); `None` for hardware and loopback
    pub kind: Option<String>,
    /// Ethernet address
    pub mac: Option<MacAddress>,
    /// Bytes
    pub mtu: u32,
    /// Whether somebody set it up
    pub up: bool,
    /// Whether its wire is connected
    pub carrier: bool,
    /// Bridge or bond that it is part of
    pub master: Option<u32>,
    /// Index of the device below it; of a veth, its other end
    pub lower: Option<u32>,
    /// What only a VXLAN device has
    pub vxlan: Option<Vxlan>,
}

/// Configuration of a VXLAN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier
    pub vni: u32,
    /// UDP port
    pub port: u16,
    /// Index of the underlay device
    pub parent: Option<u32>,
    /// Outer source address
    pub local: Option<IpAddr>,
    /// Whether it learns peers from received packets
    pub learning: bool,
}

/// What kind of device is made.
#[derive(Clone, Copy, Debug)]
pub enum LinkKind<'a> {
    /// Swallows what is sent
    Dummy,
    /// Switch without spanning tree and without multicast snooping
    Bridge,
    /// Cable; both ends are made at once
    Veth {
        /// Name of the other end
        peer: &'a str,
        /// Namespace of the other end; the same if not given
        peer_netns: Option<&'a Netns>,
    },
    /// VXLAN
    Vxlan(Vxlan),
    /// Macvlan in bridge mode
    Macvlan {
        /// Index of the device below
        parent: u32,
    },
    /// 802.1Q
    Vlan {
        /// Index of the device below
        parent: u32,
        /// VLAN
        id: u16,
    },
}

/// A device to be made. Made down, unless `up` is set.
#[derive(Clone, Copy, Debug)]
pub struct NewLink<'a> {
    /// Name, at most 15 bytes
    pub name: &'a str,
    /// Kind
    pub kind: LinkKind<'a>,
    /// Ethernet address; the kernel draws one if not given
    pub mac: Option<MacAddress>,
    /// Bytes; the kernel's default if not given
    pub mtu: Option<u32>,
    /// Namespace to make it in; the socket's if not given
    pub netns: Option<&'a Netns>,
    /// Whether it is set up at once
    pub up: bool,
}

impl<'a> NewLink<'a> {
    /// A device with the kernel's defaults.
    #[must_use]
    pub fn new(name: &'a str, kind: LinkKind<'a>) -> Self {
        Self { name, kind, mac: None, mtu: None, netns: None, up: false }
    }
}

/// What is changed of a device. `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkChange<'a> {
    /// Up or down
    pub up: Option<bool>,
    /// Bytes
    pub mtu: Option<u32>,
    /// Ethernet address
    pub mac: Option<MacAddress>,
    /// Bridge to join; 0 to leave
    pub master: Option<u32>,
    /// New name; the device must be down on older kernels
    pub name: Option<&'a str>,
    /// Namespace to move to
    pub netns: Option<&'a Netns>,
    /// Whether IPv6 makes no link-local address
    pub no_link_local: bool,
}

impl RouteSocket {
    /// All devices.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.socket.dump("listing network devices", RTM_GETLINK, |w| header(w, 0, 0, 0), |m| parse_link(&m))
    }

    /// The device of this name, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        check_name(name)?;
        self.find_link(0, Some(name))
    }

    /// The device of this index, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses or its reply makes no sense.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>> {
        self.find_link(index, None)
    }

    /// Index of the device of this name.
    ///
    /// # Errors
    /// [`Error::NoDevice`] when there is none.
    pub fn index_of(&mut self, name: &str) -> Result<u32> {
        self.link(name)?.map(|link| link.index).ok_or_else(|| Error::NoDevice(name.to_owned()))
    }

    /// Makes a device.
    ///
    /// # Errors
    /// EEXIST when the name is taken; EOPNOTSUPP when the kernel lacks the kind.
    pub fn add_link(&mut self, link: &NewLink<'_>) -> Result<()> {
        check_name(link.name)?;
        if let LinkKind::Veth { peer, .. } = link.kind {
            check_name(peer)?;
        }
        let what = format!("making the device {}", link.name);
        let flags = if link.up { IFF_UP } else { 0 };
        self.socket.request(&what, RTM_NEWLINK, CREATE | EXCLUSIVE, |w| {
            header(w, 0, flags, flags);
            w.text(IFLA_IFNAME, link.name);
            put_common(w, link.mac, link.mtu, link.netns);
            if let LinkKind::Macvlan { parent } | LinkKind::Vlan { parent, .. } = link.kind {
                w.u32(IFLA_LINK, parent);
            }
            w.nest(IFLA_LINKINFO, |w| put_kind(w, &link.kind));
        })
    }

    /// Changes a device.
    ///
    /// # Errors
    /// ENODEV when there is none of this index; EBUSY, EINVAL when the change is not possible.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        if let Some(name) = change.name {
            check_name(name)?;
        }
        let flags = if change.up == Some(true) { IFF_UP } else { 0 };
        let mask = if change.up.is_some() { IFF_UP } else { 0 };
        self.socket.request(&format!("changing device {index}"), RTM_NEWLINK, 0, |w| {
            header(w, index, flags, mask);
            put_common(w, change.mac, change.mtu, change.netns);
            if let Some(name) = change.name {
                w.text(IFLA_IFNAME, name);
            }
            if let Some(master) = change.master {
                w.u32(IFLA_MASTER, master);
            }
            if change.no_link_local {
                w.nest(IFLA_AF_SPEC, |w| {
                    w.nest(u16::from(AF_INET6), |w| w.u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE));
                });
            }
        })
    }

    /// Sets a device up.
    ///
    /// # Errors
    /// [`Error::NoDevice`] when there is none of this name.
    pub fn set_up(&mut self, name: &str) -> Result<()> {
        let index = self.index_of(name)?;
        self.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })
    }

    /// Sets a device down. IPv6 addresses and all routes through it are lost.
    ///
    /// # Errors
    /// [`Error::NoDevice`] when there is none of this name.
    pub fn set_down(&mut self, name: &str) -> Result<()> {
        let index = self.index_of(name)?;
        self.change_link(index, &LinkChange { up: Some(false), ..LinkChange::default() })
    }

    /// Moves a device to another namespace. It is down there and has lost its addresses.
    ///
    /// # Errors
    /// [`Error::NoDevice`] when there is none of this name; EEXIST when the name is taken there.
    pub fn move_link(&mut self, name: &str, netns: &Netns) -> Result<()> {
        let index = self.index_of(name)?;
        self.change_link(index, &LinkChange { netns: Some(netns), ..LinkChange::default() })
    }

    /// Removes a device, if it is there.
    ///
    /// # Errors
    /// EOPNOTSUPP when it is not of a kind that can be removed.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        check_name(name)?;
        allow_not_found(self.socket.request(&format!("removing the device {name}"), RTM_DELLINK, 0, |w| {
            header(w, 0, 0, 0);
            w.text(IFLA_IFNAME, name);
        }))
    }

    fn find_link(&mut self, index: u32, name: Option<&str>) -> Result<Option<Link>> {
        let what = "reading a network device";
        let mut found = None;
        let outcome = self.socket.query(
            what,
            RTM_GETLINK,
            |w| {
                header(w, index, 0, 0);
                if let Some(name) = name {
                    w.text(IFLA_IFNAME, name);
                }
            },
            |message| found = parse_link(&message),
        );
        match outcome {
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
            Ok(()) => found.map(Some).ok_or_else(|| Error::Malformed { what: what.to_owned() }),
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains(['\0', '/']) {
        return Err(Error::Unsupported {
            what: format!("device name `{name}`"),
            why: "a name has 1 to 15 bytes",
        });
    }
    Ok(())
}

/// `struct ifinfomsg`
fn header(w: &mut Writer, index: u32, flags: u32, mask: u32) {
    w.raw(&[AF_UNSPEC, 0, 0, 0]);
    w.raw(&index.to_ne_bytes());
    w.raw(&flags.to_ne_bytes());
    w.raw(&mask.to_ne_bytes());
}

fn put_common(w: &mut Writer, mac: Option<MacAddress>, mtu: Option<u32>, netns: Option<&Netns>) {
    if let Some(mac) = mac {
        w.bytes(IFLA_ADDRESS, &mac.0);
    }
    if let Some(mtu) = mtu {
        w.u32(IFLA_MTU, mtu);
    }
    if let Some(netns) = netns {
        w.u32(IFLA_NET_NS_FD, netns.as_fd().as_raw_fd().cast_unsigned());
    }
}

fn put_kind(w: &mut Writer, kind: &LinkKind<'_>) {
    let name = match kind {
        LinkKind::Dummy => "dummy",
        LinkKind::Bridge => "bridge",
        LinkKind::Veth { .. } => "veth",
        LinkKind::Vxlan(_) => "vxlan",
        LinkKind::Macvlan { .. } => "macvlan",
        LinkKind::Vlan { .. } => "vlan",
    };
    w.text(IFLA_INFO_KIND, name);
    w.nest(IFLA_INFO_DATA, |w| match kind {
        LinkKind::Dummy => {}
        LinkKind::Bridge => w.u8(IFLA_BR_MCAST_SNOOPING, 0),
        LinkKind::Veth { peer, peer_netns } => w.nest(VETH_INFO_PEER, |w| {
            header(w, 0, 0, 0);
            w.text(IFLA_IFNAME, peer);
            put_common(w, None, None, *peer_netns);
        }),
        LinkKind::Vxlan(vxlan) => put_vxlan(w, vxlan),
        LinkKind::Macvlan { .. } => w.u32(IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE),
        LinkKind::Vlan { id, .. } => w.u16(IFLA_VLAN_ID, *id),
    });
}

fn put_vxlan(w: &mut Writer, vxlan: &Vxlan) {
    w.u32(IFLA_VXLAN_ID, vxlan.vni);
    w.u16_be(IFLA_VXLAN_PORT, vxlan.port);
    w.u8(IFLA_VXLAN_LEARNING, u8::from(vxlan.learning));
    if let Some(parent) = vxlan.parent {
        w.u32(IFLA_VXLAN_LINK, parent);
    }
    match vxlan.local {
        Some(local @ IpAddr::V4(_)) => w.bytes(IFLA_VXLAN_LOCAL, &octets(local)),
        Some(local @ IpAddr::V6(_)) => w.bytes(IFLA_VXLAN_LOCAL6, &octets(local)),
        None => {}
    }
}

pub(crate) fn parse_link(message: &Message<'_>) -> Option<Link> {
    if message.kind != RTM_NEWLINK && message.kind != RTM_DELLINK {
        return None;
    }
    let mut link = Link {
        index: wire::u32_at(message.payload, 4)?,
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        up: wire::u32_at(message.payload, 8)? & IFF_UP != 0,
        carrier: false,
        master: None,
        lower: None,
        vxlan: None,
    };
    for attribute in wire::attributes_behind(message.payload, HEADER) {
        match attribute.kind {
            IFLA_ADDRESS => link.mac = attribute.payload.try_into().ok().map(MacAddress),
            IFLA_IFNAME => link.name = attribute.text()?,
            IFLA_MTU => link.mtu = attribute.u32()?,
            IFLA_LINK => link.lower = attribute.u32().filter(|index| *index != 0),
            IFLA_MASTER => link.master = attribute.u32().filter(|index| *index != 0),
            IFLA_CARRIER => link.carrier = attribute.u8()? != 0,
            IFLA_LINKINFO => parse_info(&mut link, attribute),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn parse_info(link: &mut Link, info: Attribute<'_>) {
    link.kind = info.nested().find(|a| a.kind == IFLA_INFO_KIND).and_then(Attribute::text);
    let data = info.nested().find(|a| a.kind == IFLA_INFO_DATA);
    if let (Some("vxlan"), Some(data)) = (link.kind.as_deref(), data) {
        let mut vxlan = Vxlan { vni: 0, port: 0, parent: None, local: None, learning: false };
        for attribute in data.nested() {
            match attribute.kind {
                IFLA_VXLAN_ID => vxlan.vni = attribute.u32().unwrap_or_default(),
                IFLA_VXLAN_LINK => vxlan.parent = attribute.u32().filter(|index| *index != 0),
                IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => {
                    vxlan.local = from_octets(attribute.payload).filter(|local| !local.is_unspecified());
                }
                IFLA_VXLAN_LEARNING => vxlan.learning = attribute.u8().unwrap_or_default() != 0,
                IFLA_VXLAN_PORT => vxlan.port = attribute.u16_be().unwrap_or_default(),
                _ => {}
            }
        }
        link.vxlan = Some(vxlan);
    }
}
