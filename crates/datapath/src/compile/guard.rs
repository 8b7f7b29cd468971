//! After all NAT: replies get their EIP back, our marks end, and nothing leaves with a wrong source.
//!
//! The guard asks the same maps again, by the connection's first source: it also sees what was never before routing (IPVS),
//! what others translated, and what lost its connection in mid stream. Better a dead connection than one packet with a
//! pod's or a node's address.

use model::mark::PACKET_MASK;

use super::Context;
use super::build::*;
use super::family::Family;
use super::names::*;
use super::node_address;
use super::overflow;
use crate::class::classes;
use crate::nft::{ChainKind, Hook, Load, Statement, Table, Target};
use crate::numbering::DIRECT_MARK;

/// The chains after NAT.
pub(super) fn compile(context: &Context<'_>, table: &mut Table) {
    let mut postrouting = Rules::default();
    for family in context.families() {
        postrouting
            .rule("by family", [is(Load::NetworkProtocol, [family.nfproto]), jump(family.name("leave"))]);
        leave_chain(context, family, table);
        enter_tunnel_chain(context, family, table);
        for class in classes(context.view).keys() {
            if let Some(number) = context.numbering.class(class) {
                guard_chain(family, number, table);
            }
        }
    }
    postrouting.base(table, "postrouting", ChainKind::Filter, Hook::Postrouting, 300);
}

/// The connection mark and the packet's source, which must belong together.
fn source_is_own_eip(family: Family) -> Statement {
    all_within([whole(Load::ConnectionMark), whole(family.source)], family.name(ID_EIP))
}

fn leave_chain(context: &Context<'_>, family: Family, table: &mut Table) {
    let mut leave = Rules::default();
    leave.rule("", [to_device(context.tunnel()), goto(family.name("enter_tunnel"))]);
    leave.rule(
        "marked for the tunnel, but routed elsewhere",
        [ours(Load::Mark), counter(DROP_GUARD_WAY), drop()],
    );
    node_address::leave(context, family, &mut leave);
    leave.rule("left as they are for life", [is(Load::ConnectionMark, DIRECT_MARK.to_ne_bytes()), accept()]);
    leave.rule(
        "",
        [original_direction(), within(Load::ConnectionMark, LOCAL_IDS), source_is_own_eip(family), accept()],
    );
    overflow::leave(context, family, &mut leave);
    leave.rule("", [original_direction(), ours(Load::ConnectionMark), counter(DROP_GUARD), drop()]);
    leave.rule("replies, and what is older than its policy", [state(ESTABLISHED | RELATED), accept()]);
    leave.rule("", [state(NEW), any_bit(Load::ConnectionStatus, CONFIRMED.to_ne_bytes()), accept()]);
    let by_class = |source| {
        [Statement::MapThenVerdict {
            key: vec![whole(source)],
            map: family.name(POD_CLASS),
            verdicts: family.name(GUARD_CHAIN),
        }]
    };
    leave.rule("of a selected pod, and not classified", by_class(family.original_source));
    leave.rule("of a selected pod, and not tracked", by_class(family.source));
    leave.regular(table, family.name("leave"));
}

/// What is about to leave, was not classified, and goes where the class's policies select, is dropped. The write to the
/// mark only stands for "is in the map".
fn guard_chain(family: Family, number: u32, table: &mut Table) {
    let mut guard = Rules::default();
    let map = family.numbered(DESTINATIONS, number);
    guard.rule(
        "",
        [set_from_map(Target::Mark, [whole(family.destination)], map), counter(DROP_GUARD), drop()],
    );
    guard.regular(table, family.numbered("guard", number));
}

fn enter_tunnel_chain(context: &Context<'_>, family: Family, table: &mut Table) {
    let mut enter = Rules::default();
    enter.rule(
        "on the way out",
        [original_direction(), ours(Load::ConnectionMark), source_is_own_eip(family), clear_mark(), accept()],
    );
    enter.rule("", [original_direction(), ours(Load::ConnectionMark), counter(DROP_GUARD), drop()]);
    if !context.view.gateway_eips.is_empty() {
        enter.rule(
            "on the way back: the EIP is the destination again",
            [
                set_from_map(
                    family.write_destination,
                    [bits(Load::Mark, PACKET_MASK.to_ne_bytes())],
                    family.name(MARK_EIP),
                ),
                clear_mark(),
                accept(),
            ],
        );
    }
    if let Some(answer) = node_address::answer(context, family) {
        enter.rule("answers to who left with this node's address", answer);
    }
    if let Some(own) = context.view.tunnel.as_ref().and_then(|tunnel| family.pick(tunnel.ipv4, tunnel.ipv6)) {
        enter.rule("this node's agent", [is(family.source, own), accept()]);
    }
    if family.is_v6() {
        let prefix = |first: u8| [[first].as_slice(), &[0; 15]].concat();
        enter.rule(
            "the kernel's own multicast has no business here",
            [bits_are(family.destination, prefix(0xff), prefix(0xff)), drop()],
        );
    }
    enter.rule("", [counter(DROP_TUNNEL_ENTRY), drop()]);
    enter.regular(table, family.name("enter_tunnel"));
}
