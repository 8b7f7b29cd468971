//! Reads meaning out of sets and maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::pool::Family;

use crate::compile::names;
use crate::nft::{Key, Set, Value};

/// The sets and maps of our table.
pub(super) struct Tables<'a>(pub(super) &'a BTreeMap<String, Set>);

/// A name of a family.
pub(super) fn named(base: &str, family: Family) -> String {
    format!("{base}{}", if family == Family::V4 { 4 } else { 6 })
}

/// Bytes of an address.
pub(super) fn width(family: Family) -> usize {
    if family == Family::V4 { 4 } else { 16 }
}

impl<'a> Tables<'a> {
    /// Exact keys and their data (empty in a plain set).
    pub(super) fn elements(&self, name: &str) -> Vec<(&'a [u8], &'a [u8])> {
        let set = self.0.get(name);
        set.into_iter()
            .flat_map(|set| &set.elements)
            .filter_map(|(key, value)| match (key, value) {
                (Key::Exact(key), Value::Data(data)) => Some((key.as_slice(), data.as_slice())),
                (Key::Exact(key), Value::None) => Some((key.as_slice(), [].as_slice())),
                _ => None,
            })
            .collect()
    }

    pub(super) fn keys_u32(&self, name: &str) -> BTreeSet<u32> {
        self.elements(name).into_iter().filter_map(|(key, _)| number(key)).collect()
    }

    pub(super) fn map_u32(&self, name: &str) -> BTreeMap<u32, u32> {
        self.elements(name)
            .into_iter()
            .filter_map(|(key, data)| Some((number(key)?, number(data)?)))
            .collect()
    }

    /// Connection marks with the only source that their flows may have.
    pub(super) fn id_eip(&self, family: Family) -> Vec<(u32, IpAddr)> {
        self.ids(&named(names::ID_EIP, family))
    }

    /// Connection marks with the tunnel address of the node whose own address they stand for.
    pub(super) fn id_node(&self, family: Family) -> Vec<(u32, IpAddr)> {
        self.ids(&named(names::ID_NODE, family))
    }

    fn ids(&self, name: &str) -> Vec<(u32, IpAddr)> {
        let elements = self.elements(name);
        elements
            .into_iter()
            .filter_map(|(key, _)| {
                let (mark, eip) = key.split_at_checked(4)?;
                Some((number(mark)?, address(eip)?))
            })
            .collect()
    }

    /// Connection mark to address, first and last port.
    pub(super) fn snat(&self, family: Family) -> BTreeMap<u32, (IpAddr, u16, u16)> {
        let elements = self.elements(&named(names::SNAT, family));
        elements
            .into_iter()
            .filter_map(|(key, data)| {
                let (eip, ports) = data.split_at_checked(width(family))?;
                Some((number(key)?, (address(eip)?, port(ports.get(..2)?)?, port(ports.get(4..6)?)?)))
            })
            .collect()
    }

    pub(super) fn eip_marks(&self, family: Family) -> BTreeMap<IpAddr, u32> {
        let elements = self.elements(&named(names::EIP_MARK, family));
        elements.into_iter().filter_map(|(key, data)| Some((address(key)?, number(data)?))).collect()
    }

    pub(super) fn mark_eips(&self, family: Family) -> BTreeMap<u32, IpAddr> {
        let elements = self.elements(&named(names::MARK_EIP, family));
        elements.into_iter().filter_map(|(key, data)| Some((number(key)?, address(data)?))).collect()
    }

    /// Sets of one kind by block size: `reply4_64` and so on.
    pub(super) fn by_size(&self, base: &str, family: Family) -> Vec<(u32, &'a str)> {
        let prefix = format!("{}_", named(base, family));
        self.0
            .keys()
            .filter_map(|name| Some((name.strip_prefix(&prefix)?.parse().ok()?, name.as_str())))
            .collect()
    }
}

pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

pub(super) fn port(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_be_bytes)
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
