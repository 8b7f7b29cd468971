//! Real sockets on loopback addresses; no privileges are needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use liveness::{EipGroup, Node, Topology, Uplink};
use model::EipPair;

use super::echo::Echo;
use super::{Probe, Report, Setup};
use crate::keys::{Keyring, NodeKey};

/// Long enough for the slowest machine; nothing waits that long when all is well.
const DEADLINE: Duration = Duration::from_secs(30);

struct TestNode {
    name: String,
    key: Arc<NodeKey>,
    probe: Probe,
    reports: Receiver<Report>,
}

impl TestNode {
    fn start(name: &str, port: u16) -> Self {
        let key = Arc::new(NodeKey::load(None, 1).unwrap());
        let (reports, inbox) = channel();
        let probe = Probe::start_on(name, key.clone(), port, Echo::off(), move |report| {
            let _ = reports.send(report);
        });
        Self { name: name.to_owned(), key, probe: probe.unwrap(), reports: inbox }
    }

    /// Waits for a report that fulfils the condition.
    #[track_caller]
    fn wait_for(&self, what: &str, condition: impl Fn(&Report) -> bool) -> Report {
        let end = Instant::now() + DEADLINE;
        let mut last = None;
        while let Ok(report) = self.reports.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if condition(&report) {
                return report;
            }
            last = Some(report);
        }
        panic!("{}: no report of {what}; the last one was {last:?}", self.name);
    }
}

fn eip() -> EipPair {
    std::net::Ipv4Addr::new(10, 6, 168, 201).into()
}

/// A free UDP port on all the test's addresses, most likely.
fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn address(index: usize) -> std::net::IpAddr {
    std::net::Ipv4Addr::new(127, 9, 0, 1 + index as u8).into()
}

fn connect(nodes: &[TestNode], gateways: &[&str], keys: &BTreeMap<String, [u8; 32]>) {
    for (index, node) in nodes.iter().enumerate() {
        let group = EipGroup {
            nodes: gateways.iter().map(|name| (*name).to_owned()).collect(),
            preferred: gateways.first().map(|name| (*name).to_owned()),
        };
        let others = nodes.iter().filter(|other| other.name != node.name);
        let topology = Topology {
            nodes: others
                .map(|other| (other.name.clone(), Node { key: keys.get(&other.name).copied() }))
                .collect(),
            eips: BTreeMap::from([(eip(), group)]),
            used: BTreeSet::from([eip()]),
            ..Topology::default()
        };
        let addresses = nodes.iter().enumerate().map(|(index, node)| (node.name.clone(), address(index)));
        node.probe.setup(Setup {
            topology,
            own: Some(address(index)),
            addresses: addresses.collect(),
            keyring: Keyring::new(keys.clone()),
        });
        node.probe.uplink(Uplink::Proven);
        node.probe.ready(BTreeMap::new());
    }
}

fn keys(nodes: &[TestNode]) -> BTreeMap<String, [u8; 32]> {
    let key = |node: &TestNode| BASE64.decode(node.key.public()).unwrap().try_into().unwrap();
    nodes.iter().map(|node| (node.name.clone(), key(node))).collect()
}

#[test]
fn the_next_gateway_takes_over_and_the_source_follows() {
    let port = free_port();
    let mut nodes: Vec<TestNode> = ["a", "b", "s"].iter().map(|name| TestNode::start(name, port)).collect();
    connect(&nodes, &["a", "b"], &keys(&nodes));
    nodes[0].wait_for("a's claim", |report| report.claims.contains_key(&eip()));
    nodes[2].wait_for("a as carrier", |report| report.carriers[&eip()].as_deref() == Some("a"));
    // `b` must have heard `a`, or it would wait for it.
    nodes[1].wait_for("a as carrier", |report| report.carriers[&eip()].as_deref() == Some("a"));

    drop(nodes.remove(0));
    let report = nodes[0].wait_for("b's claim", |report| report.claims.contains_key(&eip()));
    assert!(report.dead.contains("a"));
    nodes[1].wait_for("b as carrier", |report| report.carriers[&eip()].as_deref() == Some("b"));
}

#[test]
fn a_node_with_another_key_than_its_tunnel_says_is_not_heard() {
    let port = free_port();
    let nodes: Vec<TestNode> = ["a", "s"].iter().map(|name| TestNode::start(name, port)).collect();
    let mut keys = keys(&nodes);
    keys.insert("a".to_owned(), [7; 32]);
    connect(&nodes, &["a"], &keys);
    nodes[1].wait_for("a's silence", |report| report.dead.contains("a") && report.carriers[&eip()].is_none());
    assert!(nodes[1].probe.counters().refused.load(std::sync::atomic::Ordering::Relaxed) > 0);
}
