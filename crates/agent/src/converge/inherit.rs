//! What an earlier run left in the kernel: numbers, claims and carriers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use datapath::compile::names;
use datapath::nft::{Key, Set, Value};
use datapath::numbering::Numbering;
use datapath::state::DatapathState;
use datapath::transaction::Found;
use datapath::view::{NodeView, OwnTunnel};
use liveness::Claim;
use model::EipPair;
use model::mark::{BASE_MASK, EgressId};

use super::{Converger, Kernel, PassError, interest};
use crate::probe::Inheritance;

impl<K: Kernel> Converger<K> {
    /// Reads numbers, claims and carriers back, and goes on with them until liveness knows better.
    pub(super) fn recover(&mut self) -> Result<Inheritance, PassError<K::Error>> {
        let wanted = DatapathState::default();
        let found = self.kernel.read(&interest(&wanted, &self.local.settings)).map_err(PassError::Read)?;
        let ids = self.kernel.held_ids().map_err(PassError::Connections)?;
        if let Some(device) = &found.state.tunnel {
            self.tunnel = Some(OwnTunnel { mac: device.mac, ipv4: device.ipv4, ipv6: device.ipv6 });
        }
        let view = self.view_now();
        let tunnels = self.objects.tunnels.values();
        let tunnels = tunnels.filter_map(|tunnel| EipPair::new(tunnel.ipv4, tunnel.ipv6)).collect();
        self.local.held = held_eips(&found, &ids, &view.all_eips, &tunnels);
        let view = self.view_now();
        let numbering = Numbering::recover(&found, &view);
        let inheritance =
            Inheritance { claims: self.claims(&found, &view), carriers: carriers(&found, &view, &numbering) };
        self.local.claims = inheritance.claims.keys().copied().collect();
        let carriers = inheritance.carriers.iter();
        self.local.carriers = carriers.map(|(eip, node)| (*eip, Some(node.clone()))).collect();
        // What is answered already needs no announcement.
        self.answered = self.local.claims.clone();
        self.held_ids = ids;
        self.numbered = view.eips.keys().copied().collect();
        self.numbering = Some(numbering);
        Ok(inheritance)
    }

    /// EIPs that the kernel answers for, with the epoch that this node told the API server last.
    fn claims(&self, found: &Found, view: &NodeView) -> BTreeMap<EipPair, Claim> {
        let addresses: BTreeSet<IpAddr> =
            found.state.proxy_neighbours.iter().map(|entry| entry.address).collect();
        let told = self.objects.tunnels.get(&self.local.node).map(|tunnel| tunnel.claims.as_slice());
        let answered =
            view.gateway_eips.keys().filter(|eip| eip.addresses().any(|own| addresses.contains(&own)));
        answered
            .map(|eip| {
                let told = told.unwrap_or_default().iter().find(|claim| claim.eip == *eip);
                let epoch = told.and_then(|claim| u64::try_from(claim.epoch).ok()).unwrap_or_default();
                (*eip, Claim { epoch, preferred: false })
            })
            .collect()
    }
}

fn sets<'a>(found: &'a Found, name: &'a str) -> impl Iterator<Item = &'a Set> {
    found.tables.values().filter_map(move |table| table.sets.get(name))
}

fn mark(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// EIPs of connections that live, as far as the kernel still says which EIP their id means.
fn held_eips(
    found: &Found,
    held: &BTreeSet<EgressId>,
    all: &BTreeSet<EipPair>,
    tunnels: &BTreeSet<EipPair>,
) -> BTreeSet<EipPair> {
    let mut eips = BTreeSet::new();
    for digit in ['4', '6'] {
        let nodes = ids(found, names::ID_NODE, digit);
        let of_eips = ids(found, names::ID_EIP, digit);
        for (id, address) in of_eips.into_iter().filter(|(id, _)| !nodes.contains_key(id)) {
            if held.contains(&id) {
                let known = all.iter().find(|eip| eip.contains(address)).copied();
                eips.extend(known.or_else(|| pair_of(address)));
            }
        }
        for (id, address) in nodes {
            if held.contains(&id) {
                eips.extend(tunnels.iter().find(|tunnel| tunnel.contains(address)).copied());
            }
        }
    }
    eips
}

/// Ids with an address that each stands for.
fn ids(found: &Found, base: &str, digit: char) -> BTreeMap<EgressId, IpAddr> {
    let name = format!("{base}{digit}");
    let keys = sets(found, &name).flat_map(|set| set.elements.keys());
    keys.filter_map(|key| {
        let Key::Exact(key) = key else { return None };
        let (id, address) = key.split_at_checked(4)?;
        Some((mark(id).and_then(|mark| EgressId::new(mark & !BASE_MASK))?, address_of(address)?))
    })
    .collect()
}

/// Who carried each EIP.
fn carriers(found: &Found, view: &NodeView, numbering: &Numbering) -> BTreeMap<EipPair, String> {
    let mut carriers = BTreeMap::new();
    for eip in view.eips.keys() {
        let Some(id) = numbering.id(eip) else { continue };
        let key = Key::Exact(id.ct_mark().to_ne_bytes().to_vec());
        if sets(found, names::LOCAL_IDS).any(|set| set.elements.contains_key(&key)) {
            carriers.insert(*eip, view.node.clone());
        }
        for value in sets(found, names::SLOT_OF_ID).filter_map(|set| set.elements.get(&key)) {
            let Value::Data(value) = value else { continue };
            let slot = mark(value);
            let node = numbering.slots().find(|(_, own)| Some(own.mark()) == slot);
            carriers.extend(node.map(|(node, _)| (*eip, node.to_owned())));
        }
    }
    carriers
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

fn pair_of(address: IpAddr) -> Option<EipPair> {
    match address {
        IpAddr::V4(v4) => EipPair::new(Some(v4), None),
        IpAddr::V6(v6) => EipPair::new(None, Some(v6)),
    }
}
