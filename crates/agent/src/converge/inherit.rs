//! What an earlier run left in the kernel: numbers, claims and carriers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use datapath::compile::names;
use datapath::nft::{Key, Set, Value};
use datapath::numbering::{Numbering, ids};
use datapath::state::DatapathState;
use datapath::transaction::Found;
use datapath::view::{NodeView, OwnTunnel};
use liveness::Claim;
use model::EipPair;
use model::mark::EgressId;
use model::tunnel::Tunnel;

use super::{Converger, Kernel, PassError, interest};
use crate::probe::Inheritance;

impl<K: Kernel> Converger<K> {
    /// Reads numbers, claims and carriers back, and goes on with them until liveness knows better.
    pub(super) fn recover(&mut self, now: Instant) -> Result<Inheritance, PassError<K::Error>> {
        let wanted = DatapathState::default();
        let found = self.kernel.read(&interest(&wanted, &self.local.settings)).map_err(PassError::Read)?;
        let ids = self.kernel.held_ids().map_err(PassError::Connections)?;
        if let Some(device) = &found.state.tunnel {
            self.tunnel = Some(OwnTunnel { mac: device.mac, ipv4: device.ipv4, ipv6: device.ipv6 });
        }
        let view = self.view_at(now);
        let tunnels = self.objects.tunnels.values().filter_map(Tunnel::addresses).collect();
        self.local.held = held_eips(&found, &ids, &view.all_eips, &tunnels);
        let view = self.view_at(now);
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
    let nodes: BTreeMap<EgressId, IpAddr> = ids(found, names::ID_NODE).collect();
    let of_eips = ids(found, names::ID_EIP).filter(|(id, _)| !nodes.contains_key(id));
    let of_eips = of_eips.filter(|(id, _)| held.contains(id)).filter_map(|(_, address)| {
        all.iter().find(|eip| eip.contains(address)).copied().or_else(|| pair_of(address))
    });
    let of_nodes = nodes.iter().filter(|(id, _)| held.contains(*id));
    let of_nodes =
        of_nodes.filter_map(|(_, address)| tunnels.iter().find(|tunnel| tunnel.contains(*address)).copied());
    of_eips.chain(of_nodes).collect()
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

fn pair_of(address: IpAddr) -> Option<EipPair> {
    match address {
        IpAddr::V4(v4) => EipPair::new(Some(v4), None),
        IpAddr::V6(v6) => EipPair::new(None, Some(v6)),
    }
}
