//! What the compiler makes of nodes' views: the kernel takes it, and has it afterwards.

use std::collections::BTreeSet;

use datapath::compile::compile;
use datapath::diff::diff;
use datapath::nft::TableFamily;
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
    ("a_gateway_without_agent_falls_silent", a_gateway_without_agent_falls_silent),
    ("any_view_follows_any_other", any_view_follows_any_other),
];

/// A node that lives through views, as an agent does, with a real kernel.
struct Node {
    kernel: Kernel,
    netns: Netns,
    numbering: Numbering,
    interest: Interest,
    outside: Netns,
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
            outside,
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

fn a_gateway_without_agent_falls_silent() {
    let mut node = Node::new();
    let mut view = worlds::gateway("node-1");
    view.settings.ipv6 = true;
    let own = view.gateway_eips.values().find(|own| own.answers).unwrap().clone();
    view.gateway_eips = [("10.6.168.201+fd06::201".parse().unwrap(), own)].into();
    let addresses = ["10.6.168.201".parse().unwrap(), "fd06::201".parse().unwrap()];
    view.all_eips = view.gateway_eips.keys().copied().collect();
    view.uplink.as_mut().unwrap().ipv6 = Some("fd06::b".parse().unwrap());
    let mut far = RouteSocket::open_in(&node.outside).unwrap();
    let mut near = RouteSocket::open_in(&node.netns).unwrap();
    for (routes, device, v4, v6) in
        [(&mut far, "far", "10.6.0.99/16", "fd06::99/64"), (&mut near, "eth0", "", "fd06::b/64")]
    {
        let index = routes.index_of(device).unwrap();
        for address in [v4, v6].into_iter().filter(|text| !text.is_empty()) {
            routes.add_address(index, address.parse().unwrap()).unwrap();
        }
    }
    node.go(&view).unwrap();
    let state = compile(&view, &node.numbering);
    let far_index = far.index_of("far").unwrap();
    let mut counters = kernel::NftSocket::open_in(&node.netns).unwrap();
    let mut asked = |far: &mut RouteSocket, address: std::net::IpAddr| {
        let id = if address.is_ipv4() { "egressgateway_arp" } else { "egressgateway" };
        let family = if address.is_ipv4() { TableFamily::Arp } else { TableFamily::Inet };
        let id = TableId { family, name: id.to_owned() };
        far.delete_neighbour(far_index, address).unwrap();
        let mut silenced = || counters.counters(&id).unwrap()["drop_silenced"].packets;
        let before = silenced();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            node.outside
                .run(|| {
                    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    // Asks for the link address.
                    let _ = std::net::UdpSocket::bind(any).unwrap().send_to(b"?", (address, 9));
                })
                .unwrap();
            let known = far.neighbours().unwrap();
            let answered = known.iter().any(|entry| entry.address == address && entry.mac.is_some());
            if answered || silenced() > before {
                return answered;
            }
            assert!(std::time::Instant::now() < end, "{address}: neither answered nor silenced");
            std::thread::yield_now();
        }
    };
    for address in addresses {
        assert!(!asked(&mut far, address), "{address} before the agent has said that it lives");
    }
    node.kernel.nft.apply(&datapath::compile::alive::renew(&state, 60_000)).unwrap();
    for address in addresses {
        assert!(asked(&mut far, address), "{address}");
    }
    node.kernel.nft.apply(&datapath::compile::alive::renew(&state, 1)).unwrap();
    for address in addresses {
        // The millisecond may not be over yet.
        let silent = (0..100).any(|_| !asked(&mut far, address));
        assert!(silent, "{address} after the agent's time was over");
    }
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
