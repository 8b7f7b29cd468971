//! What differs between IPv4 and IPv6.

use std::net::IpAddr;

use model::EipPair;
use model::pool;

use crate::nft::{FieldType, Key, Load, Target};

/// An address family with the offsets and types that rules need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    /// 4 or 6, the suffix of names
    digit: char,
    /// `NFPROTO_*`
    pub(crate) nfproto: u8,
    pub(crate) source: Load,
    pub(crate) destination: Load,
    pub(crate) original_source: Load,
    pub(crate) write_destination: Target,
    pub(crate) field: FieldType,
    /// Protocol number of ICMP
    pub(crate) icmp: u8,
    pub(crate) echo_request: u8,
    pub(crate) echo_reply: u8,
    /// Types that quote a packet
    pub(crate) icmp_errors: &'static [u8],
    /// Bytes of an IP header without options, as ICMP errors quote it
    pub(crate) header: u8,
    /// Offset of the protocol in that header
    pub(crate) protocol_offset: u8,
}

pub(crate) const V4: Family = Family {
    digit: '4',
    nfproto: 2,
    source: Load::Source4,
    destination: Load::Destination4,
    original_source: Load::OriginalSource4,
    write_destination: Target::Destination4,
    field: FieldType::Ipv4,
    icmp: 1,
    echo_request: 8,
    echo_reply: 0,
    // Unreachable, time exceeded, parameter problem
    icmp_errors: &[3, 11, 12],
    header: 20,
    protocol_offset: 9,
};

pub(crate) const V6: Family = Family {
    digit: '6',
    nfproto: 10,
    source: Load::Source6,
    destination: Load::Destination6,
    original_source: Load::OriginalSource6,
    write_destination: Target::Destination6,
    field: FieldType::Ipv6,
    icmp: 58,
    echo_request: 128,
    echo_reply: 129,
    // Unreachable, packet too big, time exceeded, parameter problem
    icmp_errors: &[1, 2, 3, 4],
    header: 40,
    protocol_offset: 6,
};

/// An ICMP header, before the packet that an error quotes.
pub(crate) const ICMP_HEADER: u8 = 8;

impl Family {
    pub(crate) fn is_v6(self) -> bool {
        self.digit == '6'
    }

    /// A name of this family.
    pub(crate) fn name(self, base: &str) -> String {
        format!("{base}{}", self.digit)
    }

    /// A name of this family with a number: a class, or a number of ports.
    pub(crate) fn numbered(self, base: &str, number: u32) -> String {
        format!("{base}{}_{number}", self.digit)
    }

    /// The pool's notion of the same.
    pub(crate) fn of_pool(self) -> pool::Family {
        if self.is_v6() { pool::Family::V6 } else { pool::Family::V4 }
    }

    /// The bytes of an address of this family.
    pub(crate) fn bytes(self, address: IpAddr) -> Option<Vec<u8>> {
        match address {
            IpAddr::V4(address) => (!self.is_v6()).then(|| address.octets().to_vec()),
            IpAddr::V6(address) => self.is_v6().then(|| address.octets().to_vec()),
        }
    }

    /// The address of a pair in this family.
    pub(crate) fn eip(self, pair: &EipPair) -> Option<Vec<u8>> {
        pair.addresses().find_map(|address| self.bytes(address))
    }

    /// One of two addresses, by family.
    pub(crate) fn pick(
        self,
        v4: Option<std::net::Ipv4Addr>,
        v6: Option<std::net::Ipv6Addr>,
    ) -> Option<Vec<u8>> {
        let address = if self.is_v6() { v6.map(IpAddr::V6) } else { v4.map(IpAddr::V4) };
        address.and_then(|address| self.bytes(address))
    }

    /// An interval's key from numbers.
    pub(crate) fn range(self, first: u128, last: u128) -> Key {
        let bytes = |number| self.bytes(pool::from_number(self.of_pool(), number)).unwrap_or_default();
        Key::Range(bytes(first), bytes(last))
    }
}
