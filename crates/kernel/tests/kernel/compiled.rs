//! What the compiler makes of nodes' views: the kernel takes it, and has it afterwards.

use std::collections::BTreeSet;

use datapath::compile::compile;
use datapath::diff::diff;
use datapath::numbering::Numbering;
use datapath::state::DatapathState;
use datapath::transaction::{Interest, TableId};
use datapath::view::NodeView;
use kernel::link::{LinkKind, NewLink};
use kernel::{Kernel, Netns, RouteSocket};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use crate::Test;

#[allow(dead_code, reason = "the tests next door use more of it")]
#[path = "../../../datapath/tests/datapath/worlds.rs"]
mod worlds;

pub(crate) const TESTS: &[Test] = &[
    ("nodes_of_all_kinds_are_compiled_applied_and_found", nodes_of_all_kinds_are_compiled_applied_and_found),
    ("any_view_follows_any_other", any_view_follows_any_other),
];

/// A node that lives through views, as an agent does, with a real kernel.
struct Node {
    kernel: Kernel,
    netns: Netns,
    numbering: Numbering,
    interest: Interest,
    _outside: Netns,
}

impl Node {
    fn new() -> Self {
        let (netns, outside) = (Netns::new().unwrap(), Netns::new().unwrap());
        let mut routes = RouteSocket::open_in(&netns).unwrap();
        let kind = LinkKind::Veth { peer: "far", peer_netns: Some(&outside) };
        routes.add_link(&NewLink { up: true, ..NewLink::new("eth0", kind) }).unwrap();
        RouteSocket::open_in(&outside).unwrap().set_up("far").unwrap();
        let index = routes.index_of("eth0").unwrap();
        routes.add_address(index, "10.6.0.11/16".parse().unwrap()).unwrap();
        routes.set_up("lo").unwrap();
        Self {
            kernel: Kernel::open_in(&netns).unwrap(),
            netns,
            numbering: Numbering::default(),
            interest: Interest { tunnel: Some("egress.vxlan".into()), ..Interest::default() },
            _outside: outside,
        }
    }

    fn go(&mut self, view: &NodeView) -> Result<(), String> {
        self.numbering.update(view, &BTreeSet::new());
        let wanted = compile(view, &self.numbering);
        let id = |family, name: &str| TableId { family, name: name.to_owned() };
        for table in wanted.tables.values() {
            self.interest.tables.insert(id(table.family, &table.name));
        }
        self.interest.sysctls.extend(wanted.sysctls.keys().cloned());
        let found = self.kernel.read(&self.interest).map_err(|error| error.to_string())?;
        self.kernel.apply(&diff(&found, &wanted)).map_err(|error| error.to_string())?;
        let found = self.kernel.read(&self.interest).map_err(|error| error.to_string())?;
        let rest = diff(&found, &wanted);
        if rest.is_empty() { Ok(()) } else { Err(format!("a second pass wants {rest:?}")) }
    }
}

fn nodes_of_all_kinds_are_compiled_applied_and_found() {
    let mut node = Node::new();
    let mut both = worlds::source();
    both.gateway_eips = worlds::gateway("node-1").gateway_eips;
    for view in [worlds::source(), worlds::gateway("node-1"), both.clone(), NodeView { uplink: None, ..both }]
    {
        node.go(&view).unwrap();
    }
    if std::env::var_os("SHOW_RULESET").is_some() {
        node.go(&worlds::source()).unwrap();
        node.netns
            .run(|| std::process::Command::new("nft").args(["-y", "list", "ruleset"]).status())
            .unwrap()
            .unwrap();
    }
    // A restarted agent finds everything as it should be.
    let view = worlds::gateway("node-1");
    node.go(&view).unwrap();
    node.kernel = Kernel::open_in(&node.netns).unwrap();
    let wanted = compile(&view, &node.numbering);
    let found = node.kernel.read(&node.interest).unwrap();
    assert!(diff(&found, &wanted).is_empty());
    node.go(&worlds::node("node-1")).unwrap();
    node.go(&NodeView::default()).unwrap();
    let left = node.kernel.read(&node.interest).unwrap();
    let nothing = DatapathState { sysctls: left.state.sysctls.clone(), ..DatapathState::default() };
    assert_eq!(left.state, nothing);
}

fn any_view_follows_any_other() {
    let config =
        Config { cases: 24, failure_persistence: None, rng_seed: RngSeed::Fixed(6), ..Config::default() };
    let views = proptest::collection::vec(worlds::any_view(), 1..6);
    TestRunner::new(config)
        .run(&views, |views| {
            let mut node = Node::new();
            views.iter().try_for_each(|view| node.go(view)).map_err(TestCaseError::fail)?;
            node.go(&NodeView::default()).map_err(TestCaseError::fail)
        })
        .unwrap();
}
