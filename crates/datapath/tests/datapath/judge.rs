//! The judge and the packets notice when a state is broken.

use datapath::compile::compile;
use datapath::nft::{Key, Set, Table, Value};
use datapath::state::{DatapathState, RouteTarget};
use datapath::view::NodeView;
use datapath::violations::{Violation, violations};

use crate::worlds::*;

fn table(state: &mut DatapathState) -> &mut Table {
    state.tables.get_mut("egressgateway").unwrap()
}

fn set<'a>(state: &'a mut DatapathState, name: &str) -> &'a mut Set {
    table(state).sets.get_mut(name).unwrap()
}

/// Breaks what was compiled from a view and expects a verdict.
#[track_caller]
fn noticed(view: &NodeView, expected: fn(&Violation) -> bool, damage: fn(&mut DatapathState)) {
    let mut state = compile(view, &numbered(view));
    assert_eq!(violations(view, &state), []);
    damage(&mut state);
    let found = violations(view, &state);
    assert!(found.iter().any(expected), "{found:?}");
}

fn value(bytes: &[u8]) -> Value {
    Value::Data(bytes.to_vec())
}

fn first_key(set: &Set) -> Key {
    set.elements.keys().next().unwrap().clone()
}

#[test]
fn damage_to_a_source_is_noticed() {
    let view = source();
    noticed(
        &view,
        |v| matches!(v, Violation::WrongEip { .. }),
        |state| set(state, "pod_class4").elements.clear(),
    );
    noticed(
        &view,
        |v| matches!(v, Violation::WrongEip { .. }),
        |state| {
            let class = set(state, "pod_class4").elements.values().next().unwrap().clone();
            set(state, "pod_class4").elements.insert(Key::Exact(vec![10, 244, 1, 7]), class);
        },
    );
    noticed(
        &view,
        |v| matches!(v, Violation::WrongEip { .. }),
        |state| {
            let key = first_key(set(state, "dest4_1"));
            set(state, "dest4_1").elements.remove(&key);
        },
    );
    noticed(
        &view,
        |v| matches!(v, Violation::WrongEip { .. }),
        |state| set(state, "id_eip4").elements.clear(),
    );
    noticed(
        &view,
        |v| matches!(v, Violation::WrongPorts { .. }),
        |state| set(state, "snat4").elements.clear(),
    );
    noticed(
        &view,
        |v| matches!(v, Violation::WrongWay { .. }),
        |state| set(state, "slot_of_id").elements.clear(),
    );
    noticed(
        &view,
        |v| matches!(v, Violation::WrongWay { .. }),
        |state| {
            let other = first_key(set(state, "slot_chain"));
            let Key::Exact(_) = other else { return };
            let mark = (model::mark::BASE | 2).to_ne_bytes();
            set(state, "slot_of_id").elements.values_mut().for_each(|slot| *slot = value(&mark));
        },
    );
    noticed(&view, |v| matches!(v, Violation::WrongWay { .. }), |state| state.rules.clear());
    noticed(
        &view,
        |v| matches!(v, Violation::OpenTable { .. }),
        |state| {
            state.routes.retain(|route| route.target != RouteTarget::Unreachable);
        },
    );
    noticed(
        &view,
        |v| matches!(v, Violation::NoChain { .. }),
        |state| {
            table(state).chains.remove("postrouting");
        },
    );
    noticed(
        &view,
        |v| matches!(v, Violation::NoChain { .. }),
        |state| {
            let chain = table(state).chains.get_mut("translate").unwrap();
            chain.hook.as_mut().unwrap().priority = 101;
        },
    );
    noticed(
        &view,
        |v| matches!(v, Violation::ForeignBits { .. }),
        |state| {
            let mark = (model::mark::BASE | 0x8001).to_ne_bytes();
            set(state, "slot_of_id").elements.values_mut().for_each(|slot| *slot = value(&mark));
        },
    );
}

#[test]
fn damage_to_a_gateway_is_noticed() {
    let view = gateway("node-3");
    noticed(
        &view,
        |v| matches!(v, Violation::OneWayLease { .. }),
        |state| {
            let key = first_key(set(state, "reply4_4096"));
            set(state, "reply4_4096").elements.remove(&key);
        },
    );
    noticed(
        &view,
        |v| matches!(v, Violation::OneWayLease { .. }),
        |state| {
            let key = first_key(set(state, "leased4_4096"));
            set(state, "leased4_4096").elements.remove(&key);
        },
    );
    noticed(
        &view,
        |v| matches!(v, Violation::SharedPort { .. }),
        |state| {
            // Ports 4096 to 4159 of EIP 1 for node-2 as well.
            let key = [10, 6, 168, 201, 0x10, 0, 0, 0].to_vec();
            set(state, "reply4_64").elements.insert(Key::Exact(key), value(&tunnel4("node-2").octets()));
        },
    );
    noticed(
        &view,
        |v| matches!(v, Violation::SharedNumber { .. }),
        |state| {
            set(state, "mark_eip4").elements.values_mut().for_each(|eip| *eip = value(&[10, 6, 168, 201]));
        },
    );
    noticed(&view, |v| matches!(v, Violation::WrongAnswer { .. }), |state| state.proxy_neighbours.clear());
    noticed(
        &view,
        |v| matches!(v, Violation::NoHostRoute { .. }),
        |state| {
            state.routes.retain(|route| matches!(&route.target, RouteTarget::Device { via: Some(_), .. }));
        },
    );
}

#[test]
fn a_port_that_was_leased_twice_is_noticed() {
    let mut view = gateway("node-3");
    view.gateway_eips.get_mut(&eip(1)).unwrap().leases.insert(lease("node-2", 4096, 64));
    let found = violations(&view, &compile(&view, &numbered(&view)));
    assert!(found.iter().any(|v| matches!(v, Violation::SharedPort { port: 4096, .. })), "{found:?}");
}

#[test]
fn strangers_that_pass_for_pods_are_noticed() {
    let wrong: fn(&Violation) -> bool = |v| matches!(v, Violation::WrongStrangers { .. });
    noticed(&source(), wrong, |state| set(state, "known_pods4").elements.clear());
    noticed(&source(), wrong, |state| table(state).chains.get_mut("forward").unwrap().rules.clear());
    noticed(&source(), wrong, |state| {
        set(state, "known_pods4").elements.insert(Key::Exact(vec![10, 244, 1, 99]), Value::None);
    });
}
