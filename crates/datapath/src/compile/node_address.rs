//! `useNodeIP`: pods leave with the address of a gateway node itself, whose ports others use too. So the source translates to
//! its own tunnel address, and the gateway masquerades what comes from tunnel addresses, as any router would.
//!
//! ```text
//! source   SNAT to its tunnel address      gateway   tunnel_in4: a peer's MAC with its own tunnel address
//!                                                    translate:  masqueraded
//! back     connection tracking undoes it: to the source's tunnel address, by its route
//! ```
//!
//! Such flows live on their gateway and end with it. A gateway's own pods are translated once, to its uplink's address.

use std::collections::BTreeSet;

use super::Context;
use super::build::*;
use super::family::Family;
use super::names::*;
use crate::nft::{FieldType, Load, Statement, Table};
use crate::view::SourceEip;

/// All ports that are not privileged: the source's tunnel address and the uplink's are shared with nobody's blocks.
pub(super) const PORTS: (u16, u16) = (model::port_block::FIRST_PORT, u16::MAX);

/// What the source translates to: its tunnel address, or at home the uplink's.
pub(super) fn source_address(context: &Context<'_>, family: Family, source: &SourceEip) -> Option<Vec<u8>> {
    let view = context.view;
    if source.carrier.as_deref() == Some(view.node.as_str()) {
        let uplink = view.uplink.as_ref()?;
        return family.pick(uplink.ipv4, uplink.ipv6);
    }
    let own = view.tunnel.as_ref()?;
    family.pick(own.ipv4, own.ipv6)
}

/// The sets of a gateway that lends its address.
pub(super) fn compile(context: &Context<'_>, table: &mut Table) {
    if !context.view.lends_address {
        return;
    }
    for family in context.families() {
        let peers = || {
            let peers = context.view.peers.values();
            peers.filter_map(move |peer| Some((peer.mac, family.pick(peer.ipv4, peer.ipv6)?)))
        };
        let addresses: BTreeSet<_> = peers().map(|(_, address)| address).collect();
        add_set(table, family.name(PEER_ADDRESSES), &[family.field], addresses);
        let sources: BTreeSet<_> = peers().map(|(mac, address)| join(&[&mac.0, &address])).collect();
        add_set(table, family.name(PEER_SOURCES), &[FieldType::Mac, family.field], sources);
    }
}

/// Out of the tunnel, before connection tracking.
pub(super) fn tunnel_in(context: &Context<'_>, family: Family, chain: &mut Rules) {
    if context.view.lends_address {
        let from_peer =
            all_within([whole(Load::EtherSource), whole(family.source)], family.name(PEER_SOURCES));
        chain.rule("leaves with this node's own address", [from_peer, accept()]);
    }
}

/// The rule of the chain that translates.
pub(super) fn translate(context: &Context<'_>, family: Family, snat: &mut Rules) {
    if context.view.lends_address {
        snat.rule(
            "leaves with this node's own address",
            [
                is(Load::NetworkProtocol, [family.nfproto]),
                is_not(Load::OutputInterfaceName, interface_name(context.tunnel())),
                within(family.source, family.name(PEER_ADDRESSES)),
                counter(LENT),
                Statement::Masquerade,
            ],
        );
    }
}

/// Matches answers on their way back to the source node.
pub(super) fn answer(context: &Context<'_>, family: Family) -> Option<[Statement; 3]> {
    context.view.lends_address.then(|| {
        [
            is(Load::ConnectionDirection, [1]),
            within(family.destination, family.name(PEER_ADDRESSES)),
            accept(),
        ]
    })
}

/// The rule of the guard: nothing leaves with a tunnel address.
pub(super) fn leave(context: &Context<'_>, family: Family, leave: &mut Rules) {
    if context.view.lends_address {
        leave.rule(
            "a tunnel address was not translated",
            [within(family.source, family.name(PEER_ADDRESSES)), counter(DROP_GUARD), drop()],
        );
    }
}
