//! Overflow: nobody waits for ports. A source node without a block of its own leaves with any port of the top quarter, and
//! the gateway that gets it translates once more, with connection tracking, into a block that it holds itself.
//!
//! ```text
//! source   SNAT to EIP:49152-65535                     two nodes may choose the same port
//! gateway  raw: zone of the peer                       so their flows are told apart by where they came from
//!          source4: connection mark = the peer         so an answer finds its way back
//!          translate: SNAT to EIP:own block            answers are unique in zone 0
//! back     connection tracking undoes it; overflow_in4: EIP -> the peer's tunnel address, put back after routing
//! ```
//!
//! Such flows live on their gateway and end with it. Where a gateway itself lacks ports as a source, it takes those of
//! its own overflow block, which needs no second translation.

use model::mark::{BASE, PEER_BIT, PEER_MASK};
use model::{EipPair, PortBlock};

use super::Context;
use super::build::*;
use super::family::Family;
use super::names::*;
use crate::nft::{ChainKind, FieldType, Hook, Load, Statement, Table, Target};
use crate::view::{LeaseRole, SourceEip};

/// First and last port of the range that belongs to the gateways.
const RANGE: (u16, u16) = (model::port_block::FIRST_OVERFLOW_PORT, u16::MAX);

/// The ports that new connections of this node's own pods leave with; `None`: they wait.
pub(super) fn ports(context: &Context<'_>, eip: &EipPair, source: &SourceEip) -> Option<(u16, u16)> {
    if source.node_address {
        return Some(super::node_address::PORTS);
    }
    let block = source.block.or_else(|| own_block(context, eip));
    if let Some(block) = block {
        return Some((block.first(), block.last()));
    }
    // Here at home nobody would translate it once more.
    let leaves_here = source.carrier.as_deref() == Some(context.view.node.as_str());
    (source.overflow && !leaves_here).then_some(RANGE)
}

/// The block that this node, a gateway of the EIP, translates into.
fn own_block(context: &Context<'_>, eip: &EipPair) -> Option<PortBlock> {
    let leases = &context.view.gateway_eips.get(eip)?.leases;
    leases.iter().find(|lease| is_own(context, lease) && !lease.draining).map(|lease| lease.block)
}

fn is_own(context: &Context<'_>, lease: &crate::view::Lease) -> bool {
    lease.role == LeaseRole::Overflow && lease.node == context.view.node
}

/// What stands for "translated here for another node".
fn for_a_peer() -> Statement {
    bits_are(Load::ConnectionMark, PEER_MASK.to_ne_bytes(), (BASE | PEER_BIT).to_ne_bytes())
}

/// Sets, maps and chains.
pub(super) fn compile(context: &Context<'_>, table: &mut Table) {
    if !context.translates {
        return;
    }
    let mut output = Rules::default();
    for family in context.families() {
        tables(context, family, table);
        let mut overflow_in = Rules::default();
        overflow_in.rule(
            "remembers the EIP until after routing",
            [set_from_map(Target::Mark, [whole(family.destination)], family.name(EIP_MARK))],
        );
        overflow_in.rule(
            "to the node that it was translated for",
            [
                set_from_map(
                    family.write_destination,
                    [whole(Load::ConnectionMark)],
                    family.name(PEER_TUNNEL),
                ),
                accept(),
            ],
        );
        overflow_in.rule("the node is gone", [counter(DROP_NO_HOLDER), drop()]);
        overflow_in.regular(table, family.name("overflow_in"));
        output.rule(
            "this host's own answers",
            [is(Load::NetworkProtocol, [family.nfproto])].into_iter().chain(answer(family)),
        );
    }
    output.base(table, "overflow_output", ChainKind::Route, Hook::Output, -95);
    let peers = || {
        let numbered = context.view.peers.iter().map(|(node, peer)| (peer, context.numbering.peer(node)));
        numbered.filter_map(|(peer, number)| Some((join(&[&peer.mac.0]), number?)))
    };
    let zones = peers().map(|(mac, number)| (mac, join(&[&number.zone().to_ne_bytes()])));
    add_map(table, PEER_ZONE, &[FieldType::Mac], &[FieldType::Zone], zones);
    let marks = peers().map(|(mac, number)| (mac, number.ct_mark().to_ne_bytes().to_vec()));
    add_map(table, PEER_MARK, &[FieldType::Mac], &[FieldType::Mark], marks);
}

fn tables(context: &Context<'_>, family: Family, table: &mut Table) {
    let view = context.view;
    let eips = || view.gateway_eips.iter().filter_map(move |(eip, own)| Some((eip, family.eip(eip)?, own)));
    let holds_any = eips().filter(|(_, _, own)| own.leases.iter().any(|lease| is_own(context, lease)));
    add_set(table, family.name(OVERFLOW_EIPS), &[family.field], holds_any.map(|(_, address, _)| address));
    let open: Vec<_> =
        eips().filter_map(|(eip, address, _)| Some((address, own_block(context, eip)?))).collect();
    add_set(
        table,
        family.name(OVERFLOW_OPEN),
        &[family.field],
        open.iter().map(|(address, _)| address.clone()),
    );
    let snat = open.into_iter().map(|(address, block)| {
        let ports = [block.first().to_be_bytes(), block.last().to_be_bytes()];
        let data = join(&[&address, &ports[0], &ports[1]]);
        (address, data)
    });
    let data = [family.field, FieldType::Port, FieldType::Port];
    add_map(table, family.name(OVERFLOW_SNAT), &[family.field], &data, snat);
    let tunnels = view.peers.iter().filter_map(|(node, peer)| {
        let mark = context.numbering.peer(node)?.ct_mark();
        Some((mark.to_ne_bytes().to_vec(), family.pick(peer.ipv4, peer.ipv6)?))
    });
    add_map(table, family.name(PEER_TUNNEL), &[FieldType::Mark], &[family.field], tunnels);
}

/// Matches answers to what was translated here, and sends them on.
fn answer(family: Family) -> [Statement; 3] {
    [is(Load::ConnectionDirection, [1]), for_a_peer(), goto(family.name("overflow_in"))]
}

/// Before connection tracking, at the end of the ways out: what has a port of the range begins in the zone of its peer.
/// `port` is the packet's port, or what stands for it.
pub(super) fn way_out(context: &Context<'_>, family: Family, port: Load, chain: &mut Rules) {
    if !context.translates {
        return;
    }
    // All bits of the range's first port are set in each of its ports.
    let in_range = bits_are(port, RANGE.0.to_be_bytes(), RANGE.0.to_be_bytes());
    chain.rule(
        "translated once more: two nodes may use the same port",
        [
            within(family.source, family.name(OVERFLOW_EIPS)),
            in_range,
            set_from_map(Target::OriginalZone, [whole(Load::EtherSource)], PEER_ZONE),
            accept(),
        ],
    );
}

/// After connection tracking: the first rules of the source chain.
pub(super) fn source_rules(context: &Context<'_>, family: Family, source: &mut Rules) {
    if !context.translates {
        return;
    }
    source.rule("translated here for another node", answer(family));
    let from_peer = || [from_device(context.tunnel()), within(family.source, family.name(EIPS))];
    source.rule(
        "can't be translated",
        from_peer().into_iter().chain([state(INVALID), counter(DROP_NOT_LEASED), drop()]),
    );
    source.rule(
        "remembers who it is translated for",
        from_peer().into_iter().chain(first_packet()).chain([
            within(family.source, family.name(OVERFLOW_OPEN)),
            set_from_map(Target::ConnectionMark, [whole(Load::EtherSource)], PEER_MARK),
            counter(OVERFLOW),
            accept(),
        ]),
    );
    source.rule(
        "no block for new ones",
        from_peer().into_iter().chain(first_packet()).chain([counter(HOLD_NO_LEASE), drop()]),
    );
}

/// The rule of the chain that translates.
pub(super) fn translate(context: &Context<'_>, family: Family, snat: &mut Rules) {
    if !context.translates {
        return;
    }
    let key = vec![whole(family.source)];
    let map = Statement::SnatMap { key, map: family.name(OVERFLOW_SNAT), ipv6: family.is_v6() };
    snat.rule(
        "into this gateway's own block",
        [is(Load::NetworkProtocol, [family.nfproto]), for_a_peer(), map],
    );
}

/// The rule of the guard: such a flow leaves with the EIP that it came with.
pub(super) fn leave(context: &Context<'_>, family: Family, leave: &mut Rules) {
    if !context.translates {
        return;
    }
    leave.rule(
        "translated here for another node",
        [original_direction(), for_a_peer(), within(family.source, family.name(OVERFLOW_EIPS)), accept()],
    );
}
