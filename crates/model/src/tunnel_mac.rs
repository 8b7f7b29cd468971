//! The MAC address of a node's tunnel device.

use std::fmt;
use std::str::FromStr;

use sha1::{Digest, Sha1};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The tunnel device's address on this node: 0x66 and the first five bytes of SHA-1(node name + `egress`), as the
    /// upstream project derives it, so that both agree on a peer's address while a cluster migrates.
    #[must_use]
    pub fn of_tunnel(node: &str) -> Self {
        let digest = Sha1::new().chain_update(node).chain_update("egress").finalize();
        let mut mac = [0x66; 6];
        for (byte, hash) in mac.iter_mut().skip(1).zip(digest) {
            *byte = hash;
        }
        Self(mac)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address; write six hexadecimal bytes joined by `:`")]
pub struct ParseMacError(pub String);

impl FromStr for MacAddress {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseMacError(text.to_owned());
        let mut parts = text.split(':');
        let mut mac = [0; 6];
        for byte in &mut mac {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(fail)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| fail())?;
        }
        parts.next().is_none().then_some(Self(mac)).ok_or_else(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tunnel_address_is_stable_and_locally_administered() {
        let mac = MacAddress::of_tunnel("worker-node-1");
        assert_eq!(mac, MacAddress::of_tunnel("worker-node-1"));
        assert_ne!(mac, MacAddress::of_tunnel("worker-node-2"));
        assert_eq!(mac.0[0] & 0b11, 0b10);
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }

    #[test]
    fn wrong_text_is_refused() {
        for text in
            ["", "66", "66:66:66:66:66", "66:66:66:66:66:66:66", "66:66:66:66:66:6g", "+1:66:66:66:66:66"]
        {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}
