//! The source node: which new connections of local pods leave with which EIP.
//!
//! ```text
//! source4 --pod_class4, class_chain4--> class4_N --dest4_N--> marked4 --slot_of_id, slot_chain--> slot_N
//!            address -> class                     ct mark            packet mark
//! ```

use std::collections::{BTreeMap, BTreeSet};

use model::mark::{BASE, Slot};

use super::Context;
use super::build::*;
use super::family::Family;
use super::names::*;
use super::node_address;
use super::overflow;
use crate::class::{ClassDestinations, classes, destinations};
use crate::nft::{ChainKind, DataType, FieldType, Hook, Key, Load, Statement, Table, Target, Value};
use crate::numbering::{DIRECT_MARK, HOLD_MARK};
use crate::view::SourceEip;

/// `RTN_LOCAL` and `RTN_BROADCAST`: what the routing table calls an address of this host and a network's broadcast.
const LOCAL_TYPES: [u32; 2] = [2, 3];

/// The source's sets, maps and chains.
pub(super) fn compile(context: &Context<'_>, table: &mut Table) {
    id_sets(context, table);
    slots(context, table);
    first_chain(context, table);
    let mut source = Rules::default();
    let mut snat = Rules::default();
    for family in context.families() {
        let nfproto = || is(Load::NetworkProtocol, [family.nfproto]);
        source.rule("by family", [nfproto(), jump(family.name("source"))]);
        source_chain(context, family, table);
        pods(context, family, table);
        marked_chain(family, table);
        eips(context, family, table);
        overflow::translate(context, family, &mut snat);
        node_address::translate(context, family, &mut snat);
        let map = Statement::SnatMap {
            key: vec![whole(Load::ConnectionMark)],
            map: family.name(SNAT),
            ipv6: family.is_v6(),
        };
        snat.rule("before others' masquerade: NAT is bound once per connection", [nfproto(), map]);
    }
    source.base(table, "source", ChainKind::Filter, Hook::Prerouting, -95);
    snat.base(table, "translate", ChainKind::Nat, Hook::Postrouting, 99);
}

fn source_chain(context: &Context<'_>, family: Family, table: &mut Table) {
    let stray = || [state(NEW | INVALID), counter(DROP_STRAY), drop()];
    let to_eip = |set| within(family.destination, family.name(set));
    let mut source = Rules::default();
    overflow::source_rules(context, family, &mut source);
    source.rule(
        "a stray would circle between gateway and source",
        [from_device(context.tunnel()), to_eip(EIPS)].into_iter().chain(stray()),
    );
    source.rule("", [from_device(context.tunnel()), accept()]);
    if let Some(uplink) = &context.view.uplink
        && !context.view.gateway_eips.is_empty()
    {
        source.rule("", [from_device(&uplink.device), to_eip(GATEWAY_EIPS)].into_iter().chain(stray()));
    }
    source.rule(
        "or a pod could take its neighbour's EIP",
        [
            within(family.source, family.name(BOUND_PODS)),
            Statement::InSet {
                key: vec![whole(Load::InputInterface), whole(family.source)],
                set: family.name(POD_INTERFACES),
                negate: true,
            },
            counter(DROP_SPOOFED),
            drop(),
        ],
    );
    source.rule("replies of inbound connections", [is(Load::ConnectionDirection, [1]), accept()]);
    source.rule("left as they are for life", [is(Load::ConnectionMark, DIRECT_MARK.to_ne_bytes()), accept()]);
    source.rule("a flow keeps its EIP", [ours(Load::ConnectionMark), goto(family.name("marked"))]);
    source.rule("older than its policy", [state(ESTABLISHED | RELATED), accept()]);
    source.rule(
        "older than its policy, and never answered",
        [state(NEW), any_bit(Load::ConnectionStatus, CONFIRMED.to_ne_bytes()), accept()],
    );
    source.rule(
        "by class of the pod",
        [Statement::MapThenVerdict {
            key: vec![whole(family.source)],
            map: family.name(POD_CLASS),
            verdicts: family.name(CLASS_CHAIN),
        }],
    );
    source.regular(table, family.name("source"));
}

/// Pods' addresses, classes and their destinations.
fn pods(context: &Context<'_>, family: Family, table: &mut Table) {
    let view = context.view;
    let mut pod_class = Vec::new();
    let mut bound = BTreeSet::new();
    let mut interfaces = BTreeSet::new();
    let mut class_chains = Vec::new();
    let mut guard_chains = Vec::new();
    for (class, pods) in classes(view) {
        let Some(number) = context.numbering.class(&class) else {
            continue;
        };
        let value = number.to_ne_bytes().to_vec();
        for pod in pods.into_iter().filter_map(|pod| view.pods.get(pod)) {
            for address in pod.addresses.iter().filter_map(|address| family.bytes(*address)) {
                if let Some(interface) = pod.interface {
                    interfaces.insert(join(&[&interface.to_ne_bytes(), &address]));
                    bound.insert(address.clone());
                }
                pod_class.push((address, value.clone()));
            }
        }
        class_chains.push((value.clone(), family.numbered("class", number)));
        guard_chains.push((value, family.numbered("guard", number)));
        class_chain(family, number, &destinations(view, context.numbering, &class, family.of_pool()), table);
    }
    // Two pods of one address are a moment in the life of a cluster: the first class wins, whoever comes first.
    pod_class.reverse();
    add_map(table, family.name(POD_CLASS), &[family.field], &[FieldType::Mark], pod_class);
    add_set(table, family.name(BOUND_PODS), &[family.field], bound);
    add_set(table, family.name(POD_INTERFACES), &[FieldType::InterfaceIndex, family.field], interfaces);
    add_chain_map(table, family.name(CLASS_CHAIN), &[FieldType::Mark], class_chains);
    add_chain_map(table, family.name(GUARD_CHAIN), &[FieldType::Mark], guard_chains);
}

fn class_chain(family: Family, number: u32, destinations: &ClassDestinations, table: &mut Table) {
    let all = family.numbered(DESTINATIONS, number);
    let named = family.numbered(NAMED_DESTINATIONS, number);
    destination_map(family, &all, &destinations.all.merged(), table);

    let mut class = Rules::default();
    class.rule("", [within(family.destination, family.name(EIPS)), goto(REFUSE_TO_EIP)]);
    let named_ranges = destinations.named.merged();
    if destinations.selects_outside {
        for kind in LOCAL_TYPES {
            let then =
                if named_ranges.is_empty() { accept() } else { goto(family.numbered("class_named", number)) };
            class.rule(
                "addresses of this host only where a policy names them",
                [is(Load::DestinationAddressType, kind.to_ne_bytes()), then],
            );
        }
    }
    classify(family, &all, &mut class);
    class.regular(table, family.numbered("class", number));

    if destinations.selects_outside && !named_ranges.is_empty() {
        destination_map(family, &named, &named_ranges, table);
        let mut class = Rules::default();
        classify(family, &named, &mut class);
        class.regular(table, family.numbered("class_named", number));
    }
}

/// Marks the connection by destination. A packet without connection can't be translated, so it is dropped where it would
/// be marked: the write to its packet mark only stands for "is in the map", which the kernel can't ask of a map.
fn classify(family: Family, map: &str, class: &mut Rules) {
    class.rule(
        "can't be translated",
        [
            state(INVALID | UNTRACKED),
            set_from_map(Target::Mark, [whole(family.destination)], map),
            counter(DROP_UNTRACKED),
            drop(),
        ],
    );
    class.rule(
        "",
        [set_from_map(Target::ConnectionMark, [whole(family.destination)], map), goto(family.name("marked"))],
    );
}

fn destination_map(family: Family, name: &str, ranges: &[(u128, u128, u32)], table: &mut Table) {
    let elements: BTreeMap<Key, Value> = ranges
        .iter()
        .map(|(first, last, mark)| (family.range(*first, *last), Value::Data(mark.to_ne_bytes().to_vec())))
        .collect();
    add(table, name, &[family.field], Some(DataType::Fields(vec![FieldType::Mark])), true, elements);
}

/// From connection mark to packet mark, for every packet of a flow: its gateway may change, its EIP does not.
fn marked_chain(family: Family, table: &mut Table) {
    let mut marked = Rules::default();
    marked.rule("", [without(Load::TransportProtocol, family.name(PROTOCOLS)), goto(REFUSE_PROTOCOL)]);
    marked.rule(
        "of ICMP only pings, and errors about what is known",
        [
            is(Load::TransportProtocol, [family.icmp]),
            state(NEW),
            is_not(Load::IcmpType, [family.echo_request]),
            goto(REFUSE_PROTOCOL),
        ],
    );
    marked.rule("", first_packet().into_iter().chain([jump("first")]));
    marked.rule("leaves by this node's own uplink", [within(Load::ConnectionMark, LOCAL_IDS), accept()]);
    marked.rule(
        "",
        [Statement::MapThenVerdict {
            key: vec![whole(Load::ConnectionMark)],
            map: SLOT_OF_ID.to_owned(),
            verdicts: SLOT_CHAIN.to_owned(),
        }],
    );
    marked.rule("", [goto(REFUSE_NO_GATEWAY)]);
    marked.regular(table, family.name("marked"));
}

/// What happens once per connection.
fn first_chain(context: &Context<'_>, table: &mut Table) {
    let mut first = Rules::default();
    first.rule("", [within(Load::ConnectionMark, UNLEASED_IDS), goto(HOLD_NO_LEASE)]);
    first.rule("", [within(Load::ConnectionMark, OVERFLOW_IDS), counter(OVERFLOW)]);
    super::timeout::rules(context, table, &mut first);
    first.regular(table, "first");
}

/// Where the flows of an id go.
enum Way {
    Local,
    Through(Slot),
    Nowhere,
}

fn way(context: &Context<'_>, eip: &model::EipPair, source: &SourceEip) -> Way {
    match &source.carrier {
        Some(node) if *node == context.view.node => {
            // Only a gateway of the EIP gets its replies.
            let gets_replies = match source.node_address {
                true => context.view.uplink.is_some(),
                false => context.view.gateway_eips.contains_key(eip),
            };
            if gets_replies { Way::Local } else { Way::Nowhere }
        }
        Some(node) => context.numbering.slot(node).map_or(Way::Nowhere, Way::Through),
        None => Way::Nowhere,
    }
}

/// Sets and maps by connection mark, of both families: a pair of addresses has one id.
fn id_sets(context: &Context<'_>, table: &mut Table) {
    let mut local = Vec::new();
    let mut slot_of_id = Vec::new();
    let mut overflowing = Vec::new();
    let mut unleased = vec![HOLD_MARK.to_ne_bytes().to_vec()];
    for (eip, source) in &context.view.eips {
        let Some(id) = context.numbering.id(eip) else {
            continue;
        };
        let mark = id.ct_mark().to_ne_bytes().to_vec();
        match way(context, eip, source) {
            Way::Local => local.push(mark.clone()),
            Way::Through(slot) => slot_of_id.push((mark.clone(), slot.mark().to_ne_bytes().to_vec())),
            Way::Nowhere => {}
        }
        match overflow::ports(context, eip, source) {
            None => unleased.push(mark),
            Some(_) if source.block.is_none() && !source.node_address => overflowing.push(mark),
            Some(_) => {}
        }
    }
    add_set(table, LOCAL_IDS, &[FieldType::Mark], local);
    add_set(table, UNLEASED_IDS, &[FieldType::Mark], unleased);
    add_set(table, OVERFLOW_IDS, &[FieldType::Mark], overflowing);
    add_map(table, SLOT_OF_ID, &[FieldType::Mark], &[FieldType::Mark], slot_of_id);
}

/// One chain per gateway: a map can't set some bits of a mark and keep others'.
fn slots(context: &Context<'_>, table: &mut Table) {
    let mut chains = Vec::new();
    for (_, slot) in context.numbering.slots() {
        let name = format!("slot_{}", slot.number());
        let mut chain = Rules::default();
        chain.rule("", [set_mark(slot.mark()), accept()]);
        chain.regular(table, name.clone());
        chains.push((slot.mark().to_ne_bytes().to_vec(), name));
    }
    add_chain_map(table, SLOT_CHAIN, &[FieldType::Mark], chains);
}

/// What each id is translated to.
fn eips(context: &Context<'_>, family: Family, table: &mut Table) {
    let mut id_eip = Vec::new();
    let mut id_node = Vec::new();
    let mut snat = Vec::new();
    for (eip, source) in &context.view.eips {
        let (Some(id), Some(mut address)) = (context.numbering.id(eip), family.eip(eip)) else {
            continue;
        };
        debug_assert_ne!(id.ct_mark(), BASE);
        let mark = id.ct_mark().to_ne_bytes();
        if source.node_address {
            id_node.push(join(&[&mark, &address]));
            let Some(own) = node_address::source_address(context, family, source) else { continue };
            address = own;
        }
        id_eip.push(join(&[&mark, &address]));
        if let Some((first, last)) = overflow::ports(context, eip, source) {
            let ports = [first.to_be_bytes(), last.to_be_bytes()];
            snat.push((mark.to_vec(), join(&[&address, &ports[0], &ports[1]])));
        }
    }
    add_set(table, family.name(ID_EIP), &[FieldType::Mark, family.field], id_eip);
    // Every packet that leaves with an EIP is looked up here once.
    if let Some(set) = table.sets.get_mut(&family.name(ID_EIP)) {
        set.counting = context.view.settings.counting_sets;
    }
    add_set(table, family.name(ID_NODE), &[FieldType::Mark, family.field], id_node);
    let data = [family.field, FieldType::Port, FieldType::Port];
    add_map(table, family.name(SNAT), &[FieldType::Mark], &data, snat);
}
