//! Timeouts of our own flows. A flow holds its port towards its destination for as long as connection tracking keeps it: a
//! resolver that is asked from a new port for each question would use up a block at 34 questions a second and 1,024 ports
//! with the kernel's 30 s.

use std::collections::BTreeMap;

use super::Context;
use super::build::*;
use super::names::SHORT_PORTS;
use crate::nft::{FieldType, Load, Statement, Table, Timeout};

const UDP: u8 = 17;
/// `CTA_TIMEOUT_UDP_UNREPLIED`
const UNREPLIED: u16 = 1;
/// `CTA_TIMEOUT_UDP_REPLIED`
const REPLIED: u16 = 2;

/// The rules for the first packet of a flow of ours.
pub(super) fn rules(context: &Context<'_>, table: &mut Table, first: &mut Rules) {
    let short = &context.view.settings.short_udp;
    if !context.view.settings.timeouts || short.ports.is_empty() {
        return;
    }
    let (unreplied, replied) = (short.unreplied_seconds, short.replied_seconds);
    let name = format!("udp_{unreplied}_{replied}");
    let seconds = BTreeMap::from([(UNREPLIED, unreplied), (REPLIED, replied)]);
    table.timeouts.insert(name.clone(), Timeout { protocol: UDP, seconds });
    let ports = short.ports.iter().map(|port| join(&[&port.to_be_bytes()]));
    add_set(table, SHORT_PORTS, &[FieldType::Port], ports);
    first.rule(
        "question and answer: the port is free again soon",
        [
            is(Load::TransportProtocol, [UDP]),
            within(Load::DestinationPort, SHORT_PORTS),
            Statement::Timeout(name),
        ],
    );
}
