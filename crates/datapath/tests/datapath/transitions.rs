//! From any state to any other: `diff` and the kernel that executes it.

use std::collections::{BTreeMap, BTreeSet};

use datapath::compile::compile;
use datapath::diff::diff;
use datapath::fake_kernel::FakeKernel;
use datapath::numbering::Numbering;
use datapath::state::{DatapathState, RouteTarget};
use datapath::transaction::{NftCommand, RouteChange, Transaction};
use datapath::view::NodeView;
use datapath::violations::violations;
use proptest::prelude::*;

use crate::worlds::*;

fn kernel() -> FakeKernel {
    FakeKernel::new(["eth0", "lo"].map(str::to_owned))
}

/// A node that lives through views, as an agent does.
struct Node {
    kernel: FakeKernel,
    numbering: Numbering,
}

impl Node {
    fn new() -> Self {
        Self { kernel: kernel(), numbering: Numbering::default() }
    }

    /// Goes to the view, checks that it got there, and returns what it took.
    #[track_caller]
    fn go(&mut self, view: &NodeView) -> Transaction {
        self.numbering.update(view, &BTreeSet::new());
        let wanted = compile(view, &self.numbering);
        assert_eq!(violations(view, &wanted), []);
        let transaction = diff(&self.kernel.found(), &wanted);
        self.kernel.apply_observed(&transaction, closed).unwrap();
        same(&self.kernel.state(), &wanted);
        assert!(diff(&self.kernel.found(), &wanted).is_empty(), "a second pass has nothing to do");
        transaction
    }
}

/// Holds at every moment: a rule's table has a default that refuses.
fn closed(kernel: &FakeKernel) {
    let state = kernel.state();
    for rule in &state.rules {
        let refuses = state.routes.iter().any(|route| {
            route.table == rule.table
                && route.target == RouteTarget::Unreachable
                && route.destination.prefix_len() == 0
        });
        assert!(refuses, "{rule:?} leads to the main table");
    }
}

#[track_caller]
fn same(found: &DatapathState, wanted: &DatapathState) {
    // Values that nobody wants any more stay: what was there before is not known.
    let sysctls =
        found.sysctls.clone().into_iter().filter(|(path, _)| wanted.sysctls.contains_key(path)).collect();
    let found = DatapathState { sysctls, ..found.clone() };
    let text = |state: &DatapathState| state.tables.values().map(ToString::to_string).collect::<String>();
    similar(&text(&found), &text(wanted));
    let without_tables = |state: &DatapathState| DatapathState { tables: BTreeMap::new(), ..state.clone() };
    assert_eq!(without_tables(&found), without_tables(wanted));
    assert!(found.tables == wanted.tables, "the tables differ, but not their text");
}

#[track_caller]
fn similar(found: &str, wanted: &str) {
    if let Some((found, wanted)) = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted) {
        panic!("found `{found}`, wanted `{wanted}`");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_view_follows_any_other(views in proptest::collection::vec(any_view(), 1..6)) {
        let mut node = Node::new();
        for view in &views { node.go(view); }
        node.go(&NodeView::default());
    }

    /// Acceptance: X-R1
    #[test]
    fn a_restart_changes_nothing(views in proptest::collection::vec(any_view(), 1..4)) {
        let mut node = Node::new();
        for view in &views { node.go(view); }
        let view = &views[views.len() - 1];
        // What leads nowhere can't be told apart, and need not.
        prop_assume!(view.tunnel.is_some() && view.uplink.is_some());
        let addresses: BTreeSet<_> = view.pods.values().map(|pod| &pod.addresses).collect();
        prop_assume!(addresses.len() == view.pods.len());
        node.numbering = Numbering::recover(&node.kernel.found(), view);
        prop_assert_eq!(node.go(view), Transaction::default());
    }

    #[test]
    fn numbers_stay_while_their_owners_do(views in proptest::collection::vec(any_view(), 2..6)) {
        let mut numbering = Numbering::default();
        for pair in views.windows(2) {
            numbering.update(&pair[0], &BTreeSet::new());
            let before = numbering.clone();
            numbering.update(&pair[1], &BTreeSet::new());
            for eip in pair[1].eips.keys().filter(|eip| pair[0].eips.contains_key(*eip)) {
                prop_assert_eq!(before.id(eip), numbering.id(eip));
            }
            for eip in pair[1].gateway_eips.keys().filter(|eip| pair[0].gateway_eips.contains_key(*eip)) {
                prop_assert_eq!(before.eip_number(eip), numbering.eip_number(eip));
            }
            let ids: Vec<_> = pair[1].eips.keys().filter_map(|eip| numbering.id(eip)).collect();
            prop_assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len());
            prop_assert_eq!(ids.len(), pair[1].eips.len());
        }
    }

    /// Acceptance: X-P7
    #[test]
    fn the_order_of_policies_does_not_matter(view in any_view()) {
        let mut shuffled = view.clone();
        shuffled.policies.reverse();
        prop_assert_eq!(compile(&view, &numbered(&view)), compile(&shuffled, &numbered(&shuffled)));
    }
}

#[test]
fn an_id_that_conntrack_holds_is_not_given_away() {
    let mut numbering = Numbering::default();
    let mut view = source();
    numbering.update(&view, &BTreeSet::new());
    let id = numbering.id(&eip(1)).unwrap();
    let own = view.eips.remove(&eip(1)).unwrap();
    view.eips.insert(eip(2), own);
    numbering.update(&view, &BTreeSet::from([id]));
    assert_ne!(numbering.id(&eip(2)), Some(id));
    assert_eq!(numbering.eip_of(id), Some(eip(1)));

    // After a restart nobody knows whose it was.
    let mut numbering = Numbering::default();
    numbering.update(&view, &BTreeSet::from([id]));
    assert_ne!(numbering.id(&eip(2)), Some(id));
}

/// Commands in a short form: kind and set.
fn elements(transaction: &Transaction) -> Vec<(&'static str, &str, usize)> {
    transaction
        .nft
        .iter()
        .map(|command| match command {
            NftCommand::AddElements { set, elements, .. } => ("add", set.as_str(), elements.len()),
            NftCommand::DeleteElements { set, keys, .. } => ("delete", set.as_str(), keys.len()),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_pod_more_is_one_element() {
    let mut node = Node::new();
    let mut view = source();
    node.go(&view);
    view.pods.insert(pod_key("d"), pod("node-1", 9, None));
    let unselected = node.go(&view);
    assert_eq!(elements(&unselected), [("add", "known_pods4", 1)]);
    assert_eq!((&unselected.before, &unselected.after), (&vec![], &vec![]));
    view.policies[0].pods.insert(pod_key("d"));
    let transaction = node.go(&view);
    assert_eq!(elements(&transaction), [("add", "pod_class4", 1)]);
    assert_eq!((&transaction.before, &transaction.after), (&vec![], &vec![]));
    view.pods.remove(&pod_key("d"));
    assert_eq!(elements(&node.go(&view)), [("delete", "known_pods4", 1), ("delete", "pod_class4", 1)]);
}

#[test]
fn a_pod_that_goes_from_one_class_to_another_is_one_element() {
    let mut node = Node::new();
    let mut view = source();
    view.policies.push(policy("other", &["b"], &["1.1.1.1/32"], Some(eip(1))));
    view.policies[0].pods.insert(pod_key("c"));
    node.go(&view);
    view.policies[1].pods.insert(pod_key("c"));
    let transaction = node.go(&view);
    assert_eq!(elements(&transaction), [("delete", "pod_class4", 1), ("add", "pod_class4", 1)]);
}

#[test]
fn an_eip_that_moves_is_one_element() {
    let mut node = Node::new();
    let mut view = source();
    node.go(&view);
    view.eips.get_mut(&eip(1)).unwrap().carrier = Some("node-4".to_owned());
    let transaction = node.go(&view);
    assert_eq!(elements(&transaction), [("delete", "slot_of_id", 1), ("add", "slot_of_id", 1)]);
    assert_eq!((&transaction.before, &transaction.after), (&vec![], &vec![]));
    view.eips.get_mut(&eip(1)).unwrap().carrier = None;
    assert_eq!(elements(&node.go(&view)), [("delete", "slot_of_id", 1)]);
}

#[test]
fn a_gateway_that_takes_an_eip_gets_one_element_and_one_proxy_entry() {
    let mut node = Node::new();
    let mut view = gateway("node-3");
    node.go(&view);
    view.gateway_eips.get_mut(&eip(2)).unwrap().answers = true;
    let transaction = node.go(&view);
    assert_eq!(elements(&transaction), [("add", "answered4", 1)]);
    assert!(matches!(transaction.after[..], [RouteChange::AddProxyNeighbour(_)]));
    view.gateway_eips.get_mut(&eip(2)).unwrap().answers = false;
    let transaction = node.go(&view);
    assert!(matches!(transaction.before[..], [RouteChange::DeleteProxyNeighbour(_)]), "first of all");
}

#[test]
fn a_lease_is_one_element_of_each_map() {
    let mut node = Node::new();
    let mut view = gateway("node-3");
    node.go(&view);
    view.gateway_eips.get_mut(&eip(2)).unwrap().leases.insert(lease("node-4", 8192, 4096));
    assert_eq!(elements(&node.go(&view)), [("add", "leased4_4096", 1), ("add", "reply4_4096", 1)]);
}

#[test]
fn a_first_block_lets_new_connections_through_in_one_batch() {
    let mut node = Node::new();
    let mut view = source();
    let block = view.eips.get_mut(&eip(1)).unwrap().block.take();
    node.go(&view);
    view.eips.get_mut(&eip(1)).unwrap().block = block;
    assert_eq!(elements(&node.go(&view)), [("delete", "unleased_ids", 1), ("add", "snat4", 1)]);
}

#[test]
fn ways_exist_before_the_rules_that_use_them_and_go_after_them() {
    let mut node = Node::new();
    let up = node.go(&source());
    assert!(up.after.is_empty());
    let position = |wanted: fn(&RouteChange) -> bool| up.before.iter().position(wanted).unwrap();
    let refuse = position(|c| matches!(c, RouteChange::SetRoute(r) if r.target == RouteTarget::Unreachable));
    let rule = position(|c| matches!(c, RouteChange::AddRule(_)));
    let tunnel = position(|c| matches!(c, RouteChange::SetTunnel(_)));
    assert!(tunnel < refuse && refuse < rule);

    let down = node.go(&NodeView::default());
    assert!(down.before.is_empty());
    let position = |wanted: fn(&RouteChange) -> bool| down.after.iter().position(wanted).unwrap();
    let rule = position(|c| matches!(c, RouteChange::DeleteRule(_)));
    let refuse =
        position(|c| matches!(c, RouteChange::DeleteRoute(r) if r.target == RouteTarget::Unreachable));
    assert!(rule < refuse);
}

/// Acceptance: X-R2
#[test]
fn what_others_flush_comes_back_in_one_pass() {
    let mut node = Node::new();
    node.go(&source());
    node.kernel.flush_ruleset();
    let transaction = node.go(&source());
    assert_eq!((&transaction.before, &transaction.after), (&vec![], &vec![]));
}

#[test]
fn a_tunnel_that_is_made_anew_gets_its_peers_and_routes_in_the_same_pass() {
    let mut node = Node::new();
    let mut view = source();
    node.go(&view);
    view.settings.vni = 101;
    let transaction = node.go(&view);
    assert!(transaction.nft.is_empty());
    let peers =
        transaction.before.iter().filter(|change| matches!(change, RouteChange::SetPeer { .. })).count();
    assert_eq!(peers, 3);
}

#[test]
fn the_class_of_a_pod_does_not_hang_on_its_policies_priority() {
    let mut node = Node::new();
    let mut view = source();
    view.policies.push(policy("other", &["a"], &["1.1.1.0/24"], Some(eip(2))));
    view.eips.insert(eip(2), view.eips[&eip(1)].clone());
    node.go(&view);
    view.policies[1].precedence.priority = Some(1);
    view.policies[0].precedence.priority = Some(0);
    let transaction = node.go(&view);
    let changed: BTreeMap<&str, usize> =
        elements(&transaction).into_iter().map(|(_, set, count)| (set, count)).collect();
    assert_eq!(changed, BTreeMap::from([("dest4_1", 1)]));
}
