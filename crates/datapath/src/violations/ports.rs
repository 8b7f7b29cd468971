//! Who holds which port of an EIP, on the way out and on the way back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::EipPair;
use model::pool::Family;

use super::Violation;
use super::read::{Tables, address, port, width};
use crate::compile::names;
use crate::view::{LeaseRole, NodeView, SourceEip};

/// A block: EIP, first port, size, holder.
type Held = (IpAddr, u16, u32, Option<String>);

pub(super) fn judge(view: &NodeView, tables: &Tables<'_>, family: Family, found: &mut BTreeSet<Violation>) {
    let by_tunnel = |tunnel: IpAddr| {
        let has = |peer: &crate::view::Peer| {
            peer.ipv4.map(IpAddr::V4) == Some(tunnel) || peer.ipv6.map(IpAddr::V6) == Some(tunnel)
        };
        view.peers.iter().find(|(_, peer)| has(peer)).map(|(name, _)| name.clone())
    };
    let by_mac = |mac: &[u8]| {
        view.peers.iter().find(|(_, peer)| peer.mac.0.as_slice() == mac).map(|(name, _)| name.clone())
    };
    let mut back: BTreeSet<Held> = BTreeSet::new();
    for (size, name) in tables.by_size(names::REPLY, family) {
        for (key, data) in tables.elements(name) {
            if let (Some((eip, first)), Some(tunnel)) = (block(key, family), address(data)) {
                back.insert((eip, first, size, by_tunnel(tunnel)));
            }
        }
    }
    for (size, name) in tables.by_size(names::OWN, family) {
        for (key, _) in tables.elements(name) {
            if let Some((eip, first)) = block(key, family) {
                back.insert((eip, first, size, Some(view.node.clone())));
            }
        }
    }
    let mut out: BTreeSet<Held> = BTreeSet::new();
    for (size, name) in tables.by_size(names::LEASED, family) {
        for (key, _) in tables.elements(name) {
            let (Some(mac), Some(rest)) = (key.get(..6), key.get(8..)) else { continue };
            if let Some((eip, first)) = block(rest, family) {
                out.insert((eip, first, size, by_mac(mac)));
            }
        }
    }
    two_holders(&back, found);
    two_holders(&out, found);
    for (eip, first, ..) in out.difference(&back) {
        found.insert(Violation::OneWayLease { eip: *eip, port: *first });
    }
    // What comes back to a peer went out from it.
    let own = Some(view.node.clone());
    for held in back.difference(&out).filter(|held| held.3 != own) {
        found.insert(Violation::OneWayLease { eip: held.0, port: held.1 });
    }
    // As a gateway, the node gets the replies to what it translates itself.
    let gateway: BTreeSet<IpAddr> = view.gateway_eips.keys().flat_map(|eip| eip.addresses()).collect();
    for (eip, first, last) in tables.snat(family).into_values() {
        let held = back.iter().any(|(other, start, size, holder)| {
            *other == eip && *holder == own && *start <= first && u32::from(last) < u32::from(*start) + size
        });
        let by_another = (first, last) == OVERFLOW;
        if gateway.contains(&eip) && !held && !by_another {
            found.insert(Violation::OneWayLease { eip, port: first });
        }
    }
}

/// Ports that any gateway translates once more.
const OVERFLOW: (u16, u16) = (49152, 65535);

/// The ports that new flows of an EIP may leave with: its block, or what this node has as a gateway, or those of
/// whichever gateway carries it, but never its own, which would let them out as they are.
pub(super) fn of_new_flows(view: &NodeView, eip: &EipPair, source: &SourceEip) -> Option<(u16, u16)> {
    if source.node_address {
        return Some((1024, 65535));
    }
    if let Some(block) = source.block {
        return Some((block.first(), block.last()));
    }
    for lease in view.gateway_eips.get(eip).into_iter().flat_map(|own| &own.leases) {
        if lease.node == view.node && lease.role == LeaseRole::Overflow && !lease.draining {
            return Some((lease.block.first(), lease.block.last()));
        }
    }
    let at_home = source.carrier.as_ref() == Some(&view.node);
    if source.overflow && !at_home { Some(OVERFLOW) } else { None }
}

/// What an EIP's new flows are translated to. For one that stands for a node's own address that is a tunnel address, and at
/// home the uplink's.
pub(super) fn source(view: &NodeView, source: &SourceEip, eip: IpAddr) -> Option<IpAddr> {
    if !source.node_address {
        return Some(eip);
    }
    let (v4, v6) = if source.carrier.as_ref() == Some(&view.node) {
        view.uplink.as_ref().map(|uplink| (uplink.ipv4, uplink.ipv6))?
    } else {
        view.tunnel.as_ref().map(|tunnel| (tunnel.ipv4, tunnel.ipv6))?
    };
    if eip.is_ipv4() { v4.map(IpAddr::V4) } else { v6.map(IpAddr::V6) }
}

fn block(key: &[u8], family: Family) -> Option<(IpAddr, u16)> {
    let (eip, first) = key.split_at_checked(width(family))?;
    Some((address(eip)?, port(first.get(..2)?)?))
}

fn two_holders(held: &BTreeSet<Held>, found: &mut BTreeSet<Violation>) {
    // In order of EIP and port; a block may reach over more than its neighbour.
    let mut last: Option<(&Held, u32)> = None;
    for block in held {
        let (eip, first, size, holder) = block;
        let end = u32::from(*first) + size;
        if let Some((before, reach)) = last
            && before.0 == *eip
            && reach > u32::from(*first)
            && before.3 != *holder
        {
            found.insert(Violation::SharedPort { eip: *eip, port: *first });
        }
        match last {
            Some((before, reach)) if before.0 == *eip && reach > end => {}
            _ => last = Some((block, end)),
        }
    }
}
