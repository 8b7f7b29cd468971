//! Egress IPs: the stable addresses that the outside sees.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An egress IP as it is allocated, placed and leased: one address, or a fixed pair of an IPv4 and an IPv6 address.
///
/// A pair moves between gateways as one and shares one layout of port blocks. Ordered by IPv4 address, then IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EipPair {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl EipPair {
    /// `None` when both families are absent.
    #[must_use]
    pub fn new(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Option<Self> {
        (v4.is_some() || v6.is_some()).then_some(Self { v4, v6 })
    }

    /// The IPv4 address, if the pair has one.
    #[must_use]
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.v4
    }

    /// The IPv6 address, if the pair has one.
    #[must_use]
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.v6
    }

    /// Every address of the pair, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Whether the pair has this address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses().any(|own| own == address)
    }

    /// Whether the two share an address of any family.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.addresses().any(|address| other.contains(address))
    }
}

impl From<Ipv4Addr> for EipPair {
    fn from(address: Ipv4Addr) -> Self {
        Self { v4: Some(address), v6: None }
    }
}

impl From<Ipv6Addr> for EipPair {
    fn from(address: Ipv6Addr) -> Self {
        Self { v4: None, v6: Some(address) }
    }
}

/// `10.6.1.55`, `fd06::55`, or `10.6.1.55+fd06::55` for a pair.
impl fmt::Display for EipPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.v4, self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4}+{v6}"),
            (Some(v4), None) => write!(f, "{v4}"),
            (None, Some(v6)) => write!(f, "{v6}"),
            (None, None) => unreachable!("a pair has at least one family"),
        }
    }
}

/// The text is not an egress IP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an egress IP; write an IPv4 address, an IPv6 address, or both joined by `+`")]
pub struct ParseEipError(pub String);

impl FromStr for EipPair {
    type Err = ParseEipError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseEipError(text.to_owned());
        if let Some((v4, v6)) = text.split_once('+') {
            let v4 = v4.parse().map_err(|_| fail())?;
            let v6 = v6.parse().map_err(|_| fail())?;
            return Ok(Self { v4: Some(v4), v6: Some(v6) });
        }
        match text.parse().map_err(|_| fail())? {
            IpAddr::V4(v4) => Ok(v4.into()),
            IpAddr::V6(v6) => Ok(v6.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_back_as_it_is_printed() {
        for text in ["10.6.1.55", "fd06::55", "10.6.1.55+fd06::55"] {
            assert_eq!(text.parse::<EipPair>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_text_is_refused() {
        for text in ["", "+", "10.6.1.55+", "fd06::55+10.6.1.55", "10.6.1.55/32", "10.6.1.55+10.6.1.56"] {
            assert!(text.parse::<EipPair>().is_err(), "{text}");
        }
    }
}
