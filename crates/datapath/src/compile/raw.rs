//! Before connection tracking: tunnel datagrams, and the ways into the gateway's chains.

use std::collections::BTreeSet;

use super::Context;
use super::build::*;
use super::family::Family;
use super::names::*;
use crate::nft::{ChainKind, FieldType, Hook, Load, Statement, Table};
use crate::view::Uplink;

const UDP: u8 = 17;

/// TCP, UDP, SCTP, UDP-Lite
const PORTS: [u8; 4] = [6, UDP, 132, 136];

/// Sets that all chains share, and the chains at priority raw.
pub(super) fn compile(context: &Context<'_>, table: &mut Table) {
    let mut prerouting = Rules::default();
    let mut output = Rules::default();
    for family in context.families() {
        shared_sets(context, family, table);
        let nfproto = || is(Load::NetworkProtocol, [family.nfproto]);
        prerouting.rule("by family", [nfproto(), jump(family.name("raw"))]);
        prerouting_chain(context, family, table);
        tunnel_in_chain(context, family, table);
        output.rule(
            "outer datagrams are not tracked: each inner flow would cost an entry",
            [nfproto()]
                .into_iter()
                .chain(tunnel_datagram(context, family))
                .chain([Statement::Notrack, accept()]),
        );
    }
    add_set(table, PORT_PROTOCOLS, &[FieldType::Protocol], PORTS.map(|protocol| join(&[&[protocol]])));
    prerouting.base(table, "raw_prerouting", ChainKind::Filter, Hook::Prerouting, -300);
    output.base(table, "raw_output", ChainKind::Filter, Hook::Output, -300);
}

fn shared_sets(context: &Context<'_>, family: Family, table: &mut Table) {
    let view = context.view;
    let left_with = view.eips.iter().filter(|(_, source)| !source.node_address).map(|(eip, _)| eip);
    let eips = view.all_eips.iter().chain(left_with).chain(view.gateway_eips.keys());
    let eips: BTreeSet<_> = eips.filter_map(|eip| family.eip(eip)).collect();
    add_set(table, family.name(EIPS), &[family.field], eips);

    let peers = view.peers.values().map(|peer| peer.underlay);
    let own = view.uplink.iter().flat_map(Uplink::addresses);
    let nodes = view.node_addresses.iter().copied().chain(peers).chain(own);
    let nodes: BTreeSet<_> = nodes.filter_map(|address| family.bytes(address)).collect();
    add_set(table, family.name(NODES), &[family.field], nodes);

    let protocols = PORTS.iter().chain([&family.icmp]).map(|protocol| join(&[&[*protocol]]));
    add_set(table, family.name(PROTOCOLS), &[FieldType::Protocol], protocols);
    let types = family.icmp_errors.iter().map(|kind| join(&[&[*kind]]));
    // The kernel knows no type of its own for these here; a protocol is one byte as well.
    add_set(table, family.name(ICMP_ERRORS), &[FieldType::Protocol], types);
}

/// Matches datagrams to any node's tunnel port.
fn tunnel_datagram(context: &Context<'_>, family: Family) -> [Statement; 3] {
    [
        is(Load::TransportProtocol, [UDP]),
        is(Load::DestinationPort, context.view.settings.tunnel_port.to_be_bytes()),
        within(family.destination, family.name(NODES)),
    ]
}

fn prerouting_chain(context: &Context<'_>, family: Family, table: &mut Table) {
    let mut raw = Rules::default();
    if let Some(uplink) = &context.view.uplink {
        let from_node = [from_device(&uplink.device), within(family.source, family.name(NODES))];
        raw.rule(
            "outer datagrams are not tracked: each inner flow would cost an entry",
            tunnel_datagram(context, family)
                .into_iter()
                .chain(from_node)
                .chain([Statement::Notrack, accept()]),
        );
    }
    raw.rule(
        "masqueraded, a pod's datagram would pass for its node's",
        tunnel_datagram(context, family).into_iter().chain([counter(DROP_FORGED), drop()]),
    );
    raw.rule("", [from_device(context.tunnel()), goto(family.name("tunnel_in"))]);
    if let Some(uplink) = &context.view.uplink
        && !context.view.gateway_eips.is_empty()
    {
        raw.rule(
            "replies to EIPs",
            [
                from_device(&uplink.device),
                within(family.destination, family.name(GATEWAY_EIPS)),
                goto(family.name("eip_in")),
            ],
        );
    }
    raw.regular(table, family.name("raw"));
}

/// What comes out of the tunnel: from a source node on its way out, from a gateway on its way back, or from a peer's
/// agent. Anything else would make this node a router for whoever reaches the tunnel.
fn tunnel_in_chain(context: &Context<'_>, family: Family, table: &mut Table) {
    let mut tunnel_in = Rules::default();
    tunnel_in
        .rule("on the way out", [within(family.source, family.name(EIPS)), goto(family.name("eip_out"))]);
    tunnel_in.rule("on the way back", [within(family.destination, family.name(EIPS)), accept()]);
    if let Some(own) = context.view.tunnel.as_ref().and_then(|tunnel| family.pick(tunnel.ipv4, tunnel.ipv6)) {
        tunnel_in.rule("to this node's agent", [is(family.destination, own), accept()]);
    }
    super::node_address::tunnel_in(context, family, &mut tunnel_in);
    tunnel_in.rule("", [counter(DROP_TUNNEL), drop()]);
    tunnel_in.regular(table, family.name("tunnel_in"));
}
