//! Which EIP a pod leaves with, for every address at the edge of anything.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use model::pool::{Family, from_number, to_number};

use super::read::{Tables, named, number};
use super::{Selection, Violation};
use crate::compile::names;
use crate::nft::{Key, Source, Statement, Table, Target, Value, Verdict};
use crate::view::{Destinations, NodeView, Pod, PodKey, PolicyView};

pub(super) fn judge(
    view: &NodeView,
    table: Option<&Table>,
    tables: &Tables<'_>,
    family: Family,
    found: &mut BTreeSet<Violation>,
) {
    let Some(table) = table else { return };
    let destinations = edges(view, family);
    for (key, pod) in &view.pods {
        for address in pod.addresses.iter().filter(|address| Family::of(**address) == family) {
            // Of two pods with one address, either is right.
            if view.pods.values().filter(|other| other.addresses.contains(address)).count() > 1 {
                continue;
            }
            for destination in &destinations {
                let wanted = wanted(view, key, *destination, family);
                let maps = by_maps(table, tables, *address, *destination, family);
                if wanted != maps {
                    let (pod, destination) = (*address, *destination);
                    found.insert(Violation::WrongEip { pod, destination, wanted, found: maps });
                }
            }
        }
    }
    // Nobody else is classified.
    for (bytes, _) in tables.elements(&named(names::POD_CLASS, family)) {
        let of =
            |pod: &Pod| pod.addresses.iter().any(|address| super::read::address(bytes) == Some(*address));
        let selected =
            view.policies.iter().flat_map(|policy| &policy.pods).filter_map(|key| view.pods.get(key));
        if let (false, Some(pod)) = (selected.into_iter().any(of), super::read::address(bytes)) {
            let (wanted, maps) = (Selection::Untouched, Selection::Refused);
            found.insert(Violation::WrongEip { pod, destination: pod, wanted, found: maps });
        }
    }
}

/// What the policies say, one after the other.
fn wanted(view: &NodeView, pod: &PodKey, to: IpAddr, family: Family) -> Selection {
    let of_family = |policy: &&PolicyView| {
        policy.eip.is_none_or(|eip| eip.addresses().any(|address| Family::of(address) == family))
    };
    let selecting = view.policies.iter().filter(|policy| policy.pods.contains(pod)).filter(of_family);
    let mut best: Option<(&PolicyView, u8)> = None;
    for policy in selecting {
        let Some(prefix) = specificity(view, policy, to) else { continue };
        let better = best.is_none_or(|(other, other_prefix)| {
            let priority = |policy: &PolicyView| policy.precedence.priority.map_or(u128::MAX, u128::from);
            match priority(policy).cmp(&priority(other)) {
                std::cmp::Ordering::Equal if prefix == other_prefix => policy.precedence < other.precedence,
                std::cmp::Ordering::Equal => prefix > other_prefix,
                order => order.is_lt(),
            }
        });
        if better {
            best = Some((policy, prefix));
        }
    }
    match best {
        None => Selection::Untouched,
        Some((policy, _)) => {
            let eip = policy.eip.filter(|eip| view.eips.contains_key(eip));
            let address = eip.and_then(|eip| eip.addresses().find(|address| Family::of(*address) == family));
            address.map_or(Selection::Refused, Selection::Eip)
        }
    }
}

/// Length of the prefix by which a policy selects the address.
fn specificity(view: &NodeView, policy: &PolicyView, to: IpAddr) -> Option<u8> {
    let inside = view.cluster_cidrs.iter().any(|net| net.contains(&to)) || view.node_addresses.contains(&to);
    let outside = (!inside && !stays_on_link(to)).then_some(0);
    match &policy.destinations {
        Destinations::Subnets(nets) => {
            let longest = nets.iter().filter(|net| net.contains(&to)).map(IpNet::prefix_len).max();
            longest.and_then(|length| if length > 0 { Some(length) } else { outside })
        }
        Destinations::Outside => outside,
    }
}

fn stays_on_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.octets().starts_with(&[0])
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast()
        }
    }
}

/// What the kernel would find: class of the pod, its chain, and the map that the chain marks by.
fn by_maps(table: &Table, tables: &Tables<'_>, pod: IpAddr, to: IpAddr, family: Family) -> Selection {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let get = |name: &str, key: Vec<u8>| table.sets.get(&named(name, family))?.elements.get(&Key::Exact(key));
    let Some(Value::Data(class)) = get(names::POD_CLASS, bytes(pod)) else { return Selection::Untouched };
    let Some(Value::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain))) =
        get(names::CLASS_CHAIN, class.clone())
    else {
        return Selection::Untouched;
    };
    let maps =
        table.chains.get(chain).into_iter().flat_map(|chain| &chain.rules).flat_map(|rule| &rule.statements);
    let map = maps.filter_map(|statement| match statement {
        Statement::Set { target: Target::ConnectionMark, source: Source::Map { map, .. } } => {
            table.sets.get(map)
        }
        _ => None,
    });
    let to = bytes(to);
    let mark = map.flat_map(|set| &set.elements).find_map(|(key, value)| match (key, value) {
        (Key::Range(first, last), Value::Data(mark)) if *first <= to && to <= *last => number(mark),
        _ => None,
    });
    match mark {
        None => Selection::Untouched,
        Some(mark) => {
            let ids = tables.id_node(family).into_iter().chain(tables.id_eip(family));
            let eip = ids.into_iter().find(|(id, _)| *id == mark);
            eip.map_or(Selection::Refused, |(_, address)| Selection::Eip(address))
        }
    }
}

/// First and last address of all networks that anybody mentions, and their neighbours.
fn edges(view: &NodeView, family: Family) -> BTreeSet<IpAddr> {
    let named = view.policies.iter().filter_map(|policy| match &policy.destinations {
        Destinations::Subnets(nets) => Some(nets),
        Destinations::Outside => None,
    });
    let fixed: &[&str] = match family {
        Family::V4 => {
            &["0.0.0.0/0", "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"]
        }
        Family::V6 => &["::/0", "::1/128", "fe80::/10", "ff00::/8"],
    };
    let nets = named.flatten().copied().chain(view.cluster_cidrs.iter().copied());
    let nets = nets.chain(view.node_addresses.iter().copied().map(IpNet::from));
    let nets = nets.chain(fixed.iter().filter_map(|net| net.parse().ok()));
    let end = if family == Family::V4 { u128::from(u32::MAX) } else { u128::MAX };
    nets.filter(|net| Family::of(net.addr()) == family)
        .flat_map(|net| {
            let (first, last) = (to_number(net.network()), to_number(net.broadcast()));
            [Some(first), Some(last), first.checked_sub(1), last.checked_add(1)]
        })
        .flatten()
        .filter(|number| *number <= end)
        .map(|number| from_number(family, number))
        .collect()
}
