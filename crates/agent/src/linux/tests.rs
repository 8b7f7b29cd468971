//! Passes on the real kernel, each test in a network namespace of its own.

use std::time::Duration;

use datapath::view::Settings;
use kernel::Netns;
use kernel::link::{LinkKind, NewLink};
use kernel::route::RouteEntry;
use liveness::Claim;
use serde_json::json;

use super::*;
use crate::converge::{Converger, Outcome};
use crate::probe::Report;
use crate::world::{World, by_app, eip};

/// Runs a test as a node with an uplink `eth0`, whose other end is in the same namespace.
fn on_a_node(test: fn()) {
    let netns = match Netns::new() {
        Ok(netns) => netns,
        Err(error) => {
            println!("SKIP: {error}");
            return;
        }
    };
    let body = || {
        let mut route = RouteSocket::open().unwrap();
        let veth = LinkKind::Veth { peer: "switch", peer_netns: None };
        route.add_link(&NewLink { up: true, ..NewLink::new("eth0", veth) }).unwrap();
        route.set_up("eth0").unwrap();
        route.set_up("switch").unwrap();
        let index = route.index_of("eth0").unwrap();
        route.add_address(index, "10.6.0.1/16".parse().unwrap()).unwrap();
        let next_hop = "10.6.0.254".parse().unwrap();
        route.set_route(&RouteEntry::new("0.0.0.0/0".parse().unwrap(), Some(index), Some(next_hop))).unwrap();
        test();
    };
    netns.run(body).unwrap();
}

fn world() -> World {
    let block =
        |first: u16, role: &str| json!([{"first": first, "size": 1024, "state": "Active", "role": role}]);
    World::cluster()
        .pod("default", "web", "web", "10.21.1.2")
        .policy(by_app())
        .lease("n1", block(4096, "Source"))
        .lease("g1", block(8192, "Source"))
        .lease("g2", block(49152, "Overflow"))
}

fn start(node: &str) -> Converger<Linux> {
    let mut converger =
        Converger::new(node, Settings::default(), Linux::open(UplinkChoice::DefaultRoute, None).unwrap());
    for event in world().events {
        converger.absorb(event);
    }
    converger
}

#[track_caller]
fn pass(converger: &mut Converger<Linux>) -> Outcome {
    converger.kernel_changed();
    converger.pass(std::time::Instant::now()).unwrap()
}

fn carried_by(node: &str, claims: bool) -> Report {
    let claim = Claim { epoch: 1, preferred: false };
    Report {
        carriers: BTreeMap::from([(eip(), Some(node.to_owned()))]),
        claims: claims.then_some((eip(), claim)).into_iter().collect(),
        ..Report::default()
    }
}

#[test]
fn a_second_pass_and_a_restart_find_nothing_to_do() {
    on_a_node(|| {
        for (node, claims) in [("n1", false), ("g2", true)] {
            let mut first = start(node);
            assert!(pass(&mut first).complete);
            first.report(carried_by("g2", claims));
            assert!(pass(&mut first).changes > 0, "{node}");
            assert_eq!(pass(&mut first).changes, 0, "{node}");
            drop(first);
            let mut second = start(node);
            let outcome = pass(&mut second);
            assert_eq!(outcome.changes, 0, "{node}");
            let inheritance = outcome.inheritance.unwrap();
            assert_eq!(inheritance.claims.contains_key(&eip()), claims, "{node}");
            assert_eq!(inheritance.carriers.get(&eip()).map(String::as_str), Some("g2"), "{node}");
        }
    });
}

/// Acceptance: X-R2
#[test]
fn what_others_take_away_is_put_back() {
    on_a_node(|| {
        let mut agent = start("g1");
        pass(&mut agent);
        agent.report(carried_by("g1", true));
        pass(&mut agent);
        let mut route = RouteSocket::open().unwrap();
        let uplink = route.index_of("eth0").unwrap();
        let vandals: [fn(&mut RouteSocket, u32); 4] = [
            |route, _| route.delete_link("egress.vxlan").unwrap(),
            |route, _| route.set_down("egress.vxlan").unwrap(),
            |route, uplink| route.delete_proxy_entry(uplink, [10, 6, 168, 201].into()).unwrap(),
            |route, _| {
                for entry in route.routes_of(datapath::state::ROUTE_PROTOCOL).unwrap() {
                    route.delete_route(&entry).unwrap();
                }
            },
        ];
        for (number, vandal) in vandals.into_iter().enumerate() {
            vandal(&mut route, uplink);
            let outcome = pass(&mut agent);
            assert!(outcome.changes > 0 && outcome.repaired, "vandal {number}");
            assert_eq!(pass(&mut agent).changes, 0, "vandal {number}");
        }
    });
}

#[test]
fn the_monitor_tells_of_what_others_did_and_not_of_our_own_commits() {
    on_a_node(|| {
        let mut agent = start("n1");
        pass(&mut agent);
        let port = agent.kernel().port().unwrap();
        let mut heard = monitor("egress.vxlan", port).unwrap();
        let wait = |heard: &mut watch::Receiver<u64>| {
            let executor = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            executor.block_on(async { tokio::time::timeout(Duration::from_secs(20), heard.changed()).await })
        };
        // Moves an element of a map, and nothing else.
        agent.report(carried_by("g2", false));
        pass(&mut agent);
        RouteSocket::open().unwrap().set_down("egress.vxlan").unwrap();
        wait(&mut heard).unwrap().unwrap();
        let notices = *heard.borrow_and_update();
        assert!(notices >= 1);
        assert!(pass(&mut agent).repaired);
        wait(&mut heard).unwrap().unwrap();
    });
}
