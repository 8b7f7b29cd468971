//! Refusals: fail closed, counted by reason.
//!
//! Where a chain before routing refuses, it marks the packet, and the forward or input chain answers: kernels before
//! 5.9 can't reject before routing.

use super::Context;
use super::build::*;
use super::names::*;
use super::routing::tunnel_mtu;
use crate::nft::{ChainKind, Compare, Hook, Load, Reject, Statement, Table};
use crate::numbering::{DIRECT_MARK, REFUSE_MARK};
use crate::view::NoGatewayAction;

use model::mark::PACKET_MASK;

const TCP: u8 = 6;
const SYN: u8 = 0x02;
const TCP_HEADER: u32 = 20;

/// The chains that count and refuse, and those that answer.
pub(super) fn compile(context: &Context<'_>, table: &mut Table) {
    let action = context.view.settings.no_gateway_action;
    for (name, action) in
        [(REFUSE_NO_GATEWAY, action), (HOLD_NO_LEASE, without_lease(action)), (REFUSE_PROTOCOL, action)]
    {
        let mut refuse = Rules::default();
        if action == NoGatewayAction::Direct {
            refuse.rule(
                "only new connections can leave as they are, and they stay so",
                first_packet().into_iter().chain([counter(DIRECT), set_ct_mark(DIRECT_MARK), accept()]),
            );
        }
        refuse.rule("", [counter(name), verdict(action)].into_iter().chain(then(action)));
        refuse.regular(table, name);
    }
    let mut to_eip = Rules::default();
    to_eip.rule("", [counter(REFUSE_TO_EIP), verdict(action)].into_iter().chain(then(action)));
    to_eip.regular(table, REFUSE_TO_EIP);

    let refused = || {
        [
            bits_are(Load::Mark, PACKET_MASK.to_ne_bytes(), REFUSE_MARK.to_ne_bytes()),
            Statement::Reject(Reject::AdminProhibited),
        ]
    };
    let mut input = Rules::default();
    input.rule("refused before routing", refused());
    for family in context.families() {
        if let Some(silenced) = super::alive::solicitation(context, family, table) {
            input.rule("the agent is away for long", silenced);
        }
    }
    input.base(table, "input", ChainKind::Filter, Hook::Input, -10);

    let mut forward = Rules::default();
    forward.rule("refused before routing", refused());
    if let Some(mtu) = tunnel_mtu(context.view) {
        for family in context.families() {
            let mss = mtu.saturating_sub(u32::from(family.header) + TCP_HEADER);
            let clamp = |device| {
                [
                    device,
                    is(Load::NetworkProtocol, [family.nfproto]),
                    is(Load::TransportProtocol, [TCP]),
                    any_bit(Load::TcpFlags, [SYN]),
                    Statement::ClampMss(u16::try_from(mss).unwrap_or(u16::MAX)),
                ]
            };
            forward.rule("segments fit into the tunnel", clamp(to_device(context.tunnel())));
            forward.rule("segments fit into the tunnel", clamp(from_device(context.tunnel())));
        }
    }
    for family in context.families() {
        if let Some(answer) = super::node_address::answer(context, family) {
            forward.rule(
                "answers to who left with this node's address",
                [to_device(context.tunnel())].into_iter().chain(answer),
            );
        }
    }
    forward.rule(
        "only marked packets have business in the tunnel",
        [
            to_device(context.tunnel()),
            Statement::Match {
                operand: bits(Load::Mark, model::mark::BASE_MASK.to_ne_bytes()),
                compare: Compare::NotEqual,
                value: model::mark::BASE.to_ne_bytes().to_vec(),
            },
            counter(DROP_TUNNEL_ENTRY),
            drop(),
        ],
    );
    for family in context.families() {
        if let Some(guard) = super::start::guard(context, family, table) {
            forward.rule("a pod that just started", guard);
        }
    }
    forward.base(table, "forward", ChainKind::Filter, Hook::Forward, -10);
}

/// Ports are on their way: the sender tries again, and need not know.
fn without_lease(action: NoGatewayAction) -> NoGatewayAction {
    if action == NoGatewayAction::Reject { NoGatewayAction::Drop } else { action }
}

fn verdict(action: NoGatewayAction) -> Statement {
    match action {
        NoGatewayAction::Drop => drop(),
        NoGatewayAction::Reject | NoGatewayAction::Direct => set_mark(REFUSE_MARK),
    }
}

fn then(action: NoGatewayAction) -> Option<Statement> {
    (action != NoGatewayAction::Drop).then(accept)
}
