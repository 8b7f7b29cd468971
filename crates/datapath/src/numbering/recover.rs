//! Numbers out of the kernel, after a restart of the agent.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::mark::{BASE, BASE_MASK, EgressId, EipNumber, PeerNumber, Slot};

use super::{Numbering, pair_with};
use crate::class::classes;
use crate::compile::names::{ID_EIP, ID_NODE, MARK_EIP, PEER_ZONE, POD_CLASS};
use crate::nft::{Key, Set, Value};
use crate::state::RouteTarget;
use crate::transaction::Found;
use crate::view::NodeView;

impl Numbering {
    /// The numbers that the kernel still uses, as far as their owners are in the view. [`Numbering::update`] follows, as
    /// always; what was recovered stays as it was, so that a restart changes nothing.
    #[must_use]
    pub fn recover(found: &Found, view: &NodeView) -> Self {
        let mut numbering = Self::default();
        let sets: BTreeMap<&str, &Set> = found
            .tables
            .values()
            .flat_map(|table| table.sets.iter().map(|(name, set)| (name.as_str(), set)))
            .collect();
        let set = |base: &str, digit: char| sets.get(format!("{base}{digit}").as_str()).copied();

        // What stands for a node first: its flows have this node's own address, which is no EIP.
        for (id, address) in [ID_NODE, ID_EIP].into_iter().flat_map(|base| ids(found, base)) {
            if let Some(eip) = pair_with(view.eips.keys(), address)
                && !numbering.ids.values().any(|taken| *taken == id)
            {
                numbering.ids.entry(eip).or_insert(id);
            }
        }
        for digit in ['4', '6'] {
            for (key, value) in set(MARK_EIP, digit).into_iter().flat_map(data_elements) {
                let (Some(number), Some(address)) = (eip_number(key), address_of(value)) else {
                    continue;
                };
                if let Some(eip) = pair_with(view.gateway_eips.keys(), address) {
                    numbering.eip_numbers.entry(eip).or_insert(number);
                }
            }
        }
        numbering.recover_slots(found, view);
        for (mac, zone) in sets.get(PEER_ZONE).copied().into_iter().flat_map(data_elements) {
            let zone = zone.get(..2).and_then(|zone| zone.try_into().ok()).map(u16::from_ne_bytes);
            let peer = view.peers.iter().find(|(_, peer)| mac.get(..6) == Some(&peer.mac.0));
            if let (Some(number), Some((node, _))) = (zone.and_then(PeerNumber::of_zone), peer) {
                numbering.peers.entry(node.clone()).or_insert(number);
            }
        }

        // A class has no name in the kernel but its pods: the first of them that is known tells its number.
        let class_of: BTreeMap<IpAddr, u32> = ['4', '6']
            .into_iter()
            .filter_map(|digit| set(POD_CLASS, digit))
            .flat_map(data_elements)
            .filter_map(|(key, value)| Some((address_of(key)?, number(value)?)))
            .collect();
        for (class, pods) in classes(view) {
            let addresses =
                pods.into_iter().filter_map(|pod| view.pods.get(pod)).flat_map(|pod| &pod.addresses);
            let known = addresses.filter_map(|address| class_of.get(address)).copied();
            let mut free = known.filter(|number| !numbering.classes.values().any(|taken| taken == number));
            if let Some(number) = free.next() {
                numbering.classes.insert(class, number);
            }
        }
        numbering
    }

    fn recover_slots(&mut self, found: &Found, view: &NodeView) {
        for route in &found.state.routes {
            let RouteTarget::Device { via: Some(via), .. } = &route.target else {
                continue;
            };
            let Some(slot) = slot(route.table) else { continue };
            let peer = view.peers.iter().find(|(_, peer)| {
                peer.ipv4.map(IpAddr::V4) == Some(*via) || peer.ipv6.map(IpAddr::V6) == Some(*via)
            });
            if let Some((node, _)) = peer
                && !self.slots.values().any(|taken| *taken == slot)
            {
                self.slots.entry(node.clone()).or_insert(slot);
            }
        }
    }
}

/// Egress ids that the kernel holds in the sets of that name, [`ID_EIP`] or [`ID_NODE`], each with an address that it stands
/// for; of both families.
pub fn ids(found: &Found, base: &str) -> impl Iterator<Item = (EgressId, IpAddr)> {
    let names = ['4', '6'].map(|digit| format!("{base}{digit}"));
    let sets = names
        .into_iter()
        .flat_map(|name| found.tables.values().filter_map(move |table| table.sets.get(&name)));
    sets.flat_map(exact_keys).filter_map(|key| {
        let (mark, address) = key.split_at_checked(4)?;
        Some((egress_id(mark)?, address_of(address)?))
    })
}

fn exact_keys(set: &Set) -> impl Iterator<Item = &[u8]> {
    set.elements.keys().filter_map(|key| match key {
        Key::Exact(key) => Some(key.as_slice()),
        Key::Range(..) => None,
    })
}

fn data_elements(set: &Set) -> impl Iterator<Item = (&[u8], &[u8])> {
    set.elements.iter().filter_map(|(key, value)| match (key, value) {
        (Key::Exact(key), Value::Data(value)) => Some((key.as_slice(), value.as_slice())),
        _ => None,
    })
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn egress_id(mark: &[u8]) -> Option<EgressId> {
    let mark = number(mark).filter(|mark| mark & BASE_MASK == BASE)?;
    EgressId::new(mark & !BASE_MASK)
}

fn eip_number(mark: &[u8]) -> Option<EipNumber> {
    let mark = number(mark)?;
    // The inverse of EipNumber::mark, checked by it.
    let number = mark & 0xff | (mark >> 4) & 0x100 | (mark >> 11) & 0x1e00;
    let number = u16::try_from(number).ok().and_then(EipNumber::new)?;
    (number.mark() == mark).then_some(number)
}

fn slot(table: u32) -> Option<Slot> {
    let slot = Slot::new(u8::try_from(table & 0xff).ok()?)?;
    (slot.table() == table).then_some(slot)
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}
