//! What a leader of the past still has under way harms nobody.

use runtime::writer::{Action, Write};
use serde_json::{Value, json};
use sim::cluster::settings;
use sim::faults::Faults;
use sim::judge::Judge;
use sim::objects::Kind;
use sim::random::Random;
use sim::replica::{Controller, Election, Surroundings};
use sim::server::Server;

/// A seed of those whose nodes get ports when they need them.
const ON_DEMAND: u64 = 1;

struct Cluster {
    server: Server,
    judge: Judge,
    faults: Faults,
    random: Random,
    election: Election,
    now_ms: u64,
}

impl Cluster {
    /// Two nodes, a gateway, and a policy for pods `app: web`.
    fn new() -> Self {
        let mut random = Random::new(1);
        let mut server = Server::new(random.split());
        for name in ["n0", "n1"] {
            let node = json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": {"gateway": "true"}}});
            server.create(Kind::Node, None, node).expect("created");
        }
        let gateway = json!({"apiVersion": api::names::API_VERSION, "kind": "EgressGateway",
            "metadata": {"name": "g"},
            "spec": {"ippools": {"ipv4": ["10.6.100.1"]},
                     "nodeSelector": {"selector": {"matchLabels": {"gateway": "none"}}}}});
        server.create(Kind::Gateway, None, gateway).expect("created");
        let policy = json!({"apiVersion": api::names::API_VERSION, "kind": "EgressPolicy",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"egressGatewayName": "g", "appliedTo": {"podSelector": {"matchLabels": {"app": "web"}}}}});
        server.create(Kind::Policy, Some("default"), policy).expect("created");
        let mut faults = Faults::new(random.split());
        faults.at_peace = true;
        Self { server, judge: Judge::new(20), faults, random, election: Election::default(), now_ms: 0 }
    }

    fn pod(&mut self, name: &str, node: &str) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        self.server.create(Kind::Pod, Some("default"), pod).expect("created");
        self.server.bind("default", name, node);
    }

    /// A controller does something, and nothing is wrong. Whether it did.
    fn turn(&mut self, controller: &mut Controller) -> bool {
        self.now_ms += 1;
        self.server.advance(self.now_ms);
        let mut around = Surroundings {
            server: &mut self.server,
            faults: &mut self.faults,
            late: &mut Vec::new(),
            random: &mut self.random,
            now_ms: self.now_ms,
            is_outage: false,
        };
        let did = controller.turn(&mut self.election, &mut around).expect("no violation");
        self.judge.look(&self.server, self.now_ms).expect("no violation");
        did
    }

    /// Until it has nothing to do any more.
    fn settle(&mut self, controller: &mut Controller) {
        for _ in 0..1_000 {
            self.turn(controller);
            if controller.is_idle(&self.server) && controller.under_way().next().is_none() {
                return;
            }
        }
        panic!("it does not settle");
    }

    /// Until it is about to give ports to a node. Those writes.
    fn gives(&mut self, controller: &mut Controller, node: &str) -> Vec<Write> {
        for _ in 0..1_000 {
            let gives = |write: &&Write| write.name == node && !blocks(write).is_empty();
            let writes: Vec<Write> = controller.under_way().filter(gives).cloned().collect();
            if !writes.is_empty() {
                return writes;
            }
            self.turn(controller);
        }
        panic!("it gives {node} nothing");
    }

    fn controller(&self, index: usize) -> Controller {
        Controller::new(index, settings(ON_DEMAND), self.now_ms)
    }

    fn blocks_of(&self, node: &str) -> Vec<Value> {
        let stored = self.server.stored(Kind::Lease, None, node);
        list(stored.as_deref().and_then(|lease| lease.get("spec")))
    }
}

/// Blocks that a write gives.
fn blocks(write: &Write) -> Vec<Value> {
    if !write.collection.ends_with("egressportleases") {
        return Vec::new();
    }
    match &write.action {
        Action::Create(object) | Action::Patch(_, object) => list(object.get("spec")),
        Action::Delete(_) => Vec::new(),
    }
}

fn list(spec: Option<&Value>) -> Vec<Value> {
    let leases = spec.and_then(|spec| spec.get("leases")).and_then(Value::as_array);
    leases.into_iter().flatten().filter_map(|lease| lease.get("blocks")).cloned().collect()
}

#[test]
fn what_arrives_when_another_replica_leads_gives_nothing() {
    let mut cluster = Cluster::new();
    let mut first = cluster.controller(0);
    cluster.settle(&mut first);
    cluster.pod("a", "n0");
    let late = cluster.gives(&mut first, "n0");
    // Its process dies, and its pod's node gets no ports: the pod is elsewhere before another replica leads.
    drop(first);
    cluster.election.expire();
    cluster.server.delete(Kind::Pod, Some("default"), "a").unwrap();
    cluster.pod("b", "n1");
    let mut second = cluster.controller(1);
    cluster.settle(&mut second);
    let given = cluster.blocks_of("n1");
    assert!(!given.is_empty() && cluster.blocks_of("n0").is_empty());
    for write in &late {
        assert_eq!(blocks(write), given, "both leaders have chosen the same ports");
        drop(cluster.server.write(write));
        cluster.judge.look(&cluster.server, cluster.now_ms).expect("no violation");
    }
    assert!(cluster.blocks_of("n0").is_empty(), "the late write is a conflict");
}

#[test]
fn what_is_made_empty_under_the_last_leader_is_not_filled_under_the_next() {
    let mut cluster = Cluster::new();
    let mut first = cluster.controller(0);
    cluster.settle(&mut first);
    cluster.pod("a", "n0");
    // It stands still before its first write for the node arrives, for longer than its term; its own clock stands still as well.
    for _ in 0..1_000 {
        let is_about_to = first.under_way().any(|write| write.collection.ends_with("egressportleases"));
        if is_about_to {
            break;
        }
        cluster.turn(&mut first);
    }
    assert!(cluster.server.stored(Kind::Lease, None, "n0").is_none());
    cluster.election.expire();
    cluster.server.delete(Kind::Pod, Some("default"), "a").unwrap();
    cluster.pod("b", "n1");
    let mut second = cluster.controller(1);
    cluster.settle(&mut second);
    // It wakes up: what it had begun goes on, one write and one look at its clock after the other.
    for _ in 0..20 {
        cluster.turn(&mut first);
    }
    assert!(!cluster.blocks_of("n1").is_empty());
    assert!(cluster.blocks_of("n0").is_empty());
}

#[test]
fn a_new_leader_with_nothing_to_give_writes_nothing() {
    let mut cluster = Cluster::new();
    let mut first = cluster.controller(0);
    cluster.pod("a", "n0");
    cluster.settle(&mut first);
    let written = cluster.server.writes.clone();
    cluster.election.expire();
    let mut second = cluster.controller(1);
    cluster.settle(&mut second);
    assert_eq!(cluster.server.writes, written);
}
