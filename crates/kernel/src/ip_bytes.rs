//! IP addresses as the kernel writes them: 4 or 16 bytes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::uapi::{AF_INET, AF_INET6};

/// Four or sixteen bytes.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The other way; `None` for any other length.
pub(crate) fn from_octets(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

/// Address family.
pub(crate) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// `0.0.0.0/0` or `::/0`; `None` for other families.
pub(crate) fn default_net(family: u8) -> Option<IpNet> {
    match family {
        AF_INET => IpNet::new(IpAddr::from([0; 4]), 0).ok(),
        AF_INET6 => IpNet::new(IpAddr::from([0; 16]), 0).ok(),
        _ => None,
    }
}
