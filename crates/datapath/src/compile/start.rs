//! Pods that just started: until the agent knows a pod's address, what it sends outside is not classified, and would leave
//! with the node's address. So new connections of strangers that a pod's device brings are held until then: dropped, and sent again
//! by their sender.
//!
//! It costs the first packet of every pod that is not known in time, selected or not. While no policy exists there is
//! nothing to protect, and nothing of this.

use std::collections::BTreeSet;

use super::Context;
use super::build::*;
use super::family::Family;
use super::names::*;
use crate::class::outside;
use crate::nft::{Load, Statement, Table};

/// The rule for the forward chain, and its sets; `None` while there is nothing to protect.
pub(super) fn guard(context: &Context<'_>, family: Family, table: &mut Table) -> Option<Vec<Statement>> {
    let view = context.view;
    // Without the uplink's name nobody knows which packets come from pods.
    let uplink = view.uplink.as_ref().filter(|_| view.settings.start_guard && !view.policies.is_empty())?;
    let known: BTreeSet<_> = view
        .pods
        .values()
        .flat_map(|pod| &pod.addresses)
        .filter_map(|address| family.bytes(*address))
        .collect();
    add_set(table, family.name(KNOWN_PODS), &[family.field], known);
    let ranges = outside(view, family.of_pool());
    let elements =
        ranges.into_iter().map(|(first, last)| (family.range(first, last), crate::nft::Value::None));
    add(table, family.name(OUTSIDE), &[family.field], None, true, elements.collect());
    let not_from = |device: &str| is_not(Load::InputInterfaceName, interface_name(device));
    let stranger = [
        not_from(&uplink.device),
        not_from(context.tunnel()),
        is(Load::NetworkProtocol, [family.nfproto]),
        without(family.source, family.name(KNOWN_PODS)),
        within(family.destination, family.name(OUTSIDE)),
    ];
    Some(first_packet().into_iter().chain(stranger).chain([counter(DROP_UNKNOWN_POD), drop()]).collect())
}
