//! No block has two holders, whatever becomes of the writes.
//!
//! A model of the API server beside the snapshot: objects with versions, writes that name the version that they change, and
//! that succeed, are refused, get lost or are late.

use model::policy::EgressChoice;
use model::port_lease::{LeaseName, PortLease, parts_of};
use proptest::prelude::*;

use super::*;
use crate::leases::WRITE_LIFETIME_S;

#[derive(Clone, Debug)]
enum Step {
    Node(u8, bool),
    NodeGone(u8),
    Policy(u8),
    PolicyGone(u8),
    Report(u8, i64),
    Pass(i64),
    /// Plan, and write; how each write ends
    Write(Vec<Fate>),
    /// A late write arrives
    Arrive,
    /// The watch tells what there is of a node
    Watch(u8),
    /// Another controller begins: it reads everything, and has no memory of times
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Lost,
    Late,
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![6 => Just(Fate::Done), 1 => Just(Fate::Lost), 1 => Just(Fate::Late)];
    prop_oneof![
        3 => (0u8..6, any::<bool>()).prop_map(|(node, gateway)| Step::Node(node, gateway)),
        1 => (0u8..6).prop_map(Step::NodeGone),
        2 => (0u8..2).prop_map(Step::Policy),
        1 => (0u8..2).prop_map(Step::PolicyGone),
        3 => (0u8..6, prop_oneof![Just(0), 1i64..20_000]).prop_map(|(node, used)| Step::Report(node, used)),
        2 => prop_oneof![Just(60), Just(121), Just(3601), 1i64..5000].prop_map(Step::Pass),
        6 => proptest::collection::vec(fate, 8).prop_map(Step::Write),
        2 => Just(Step::Arrive),
        2 => (0u8..6).prop_map(Step::Watch),
        1 => Just(Step::Restart),
    ]
}

/// What the API server has, and what is on its way there.
#[derive(Default)]
struct Server {
    objects: BTreeMap<LeaseName, (u64, PortLease)>,
    late: Vec<(i64, LeaseName, Option<u64>, Option<PortLease>)>,
    versions: u64,
}

impl Server {
    fn version(&self, name: &LeaseName) -> Option<u64> {
        self.objects.get(name).map(|(version, _)| *version)
    }

    /// Whether the write was the right one for what there is.
    fn write(&mut self, name: &LeaseName, known: Option<u64>, lease: Option<&PortLease>) -> bool {
        if self.version(name) != known {
            return false;
        }
        self.versions += 1;
        match lease {
            Some(lease) => self.objects.insert(name.clone(), (self.versions, lease.clone())),
            None => self.objects.remove(name),
        };
        true
    }

    /// Two nodes that hold the same port of an EIP.
    fn clash(&self) -> Option<String> {
        let mut seen: Vec<(EipPair, model::PortBlock, &str)> = Vec::new();
        for (name, (_, lease)) in &self.objects {
            for lease in &lease.leases {
                for leased in &lease.blocks {
                    let same = |(eip, block, _): &&(EipPair, model::PortBlock, &str)| {
                        *eip == lease.eip && block.overlaps(&leased.block)
                    };
                    if let Some((_, _, other)) = seen.iter().find(same) {
                        return Some(format!("{} {}: {other} and {name}", lease.eip, leased.block));
                    }
                    seen.push((lease.eip, leased.block, &name.node));
                }
            }
        }
        None
    }
}

struct Controller {
    world: World,
    server: Server,
    /// Versions of the objects as the controller knows them
    known: BTreeMap<LeaseName, u64>,
}

impl Controller {
    /// The watch tells what there is of a node.
    fn see_node(&mut self, node: &str) {
        let names = self.server.objects.keys().chain(self.known.keys());
        let names: BTreeSet<LeaseName> = names.filter(|name| name.node == node).cloned().collect();
        for name in names {
            self.see(&name);
        }
    }

    /// The watch, or an answer, tells what there is of an object.
    fn see(&mut self, name: &LeaseName) {
        let object = self.server.objects.get(name).cloned();
        let version = object.as_ref().map(|(version, _)| *version);
        if version.is_some() && version != self.known.get(name).copied() {
            self.world.snapshot.absorb(Event::UncertainLease(name.clone(), None));
        }
        let before = self.world.snapshot.leases.get(name).cloned().unwrap_or_default();
        let record = object.map(|(_, lease)| LeaseRecord { lease, ..before });
        self.world.snapshot.absorb(Event::Lease(name.clone(), record));
        match version {
            Some(version) => self.known.insert(name.clone(), version),
            None => self.known.remove(name),
        };
    }

    fn write(&mut self, fates: &[Fate]) {
        let plan = plan(&self.world.snapshot);
        assert_eq!(violations(&self.world.snapshot, &plan), []);
        let mut fates = fates.iter().copied().cycle();
        for losing in [true, false] {
            let mut is_complete = true;
            for (name, planned) in &plan.leases {
                let record = self.world.snapshot.leases.get(name).cloned();
                let known = record.as_ref().map(|record| record.lease.clone());
                if known == *planned {
                    continue;
                }
                let blocks = |lease: &Option<PortLease>| -> BTreeSet<(EipPair, model::PortBlock)> {
                    let leases = lease.iter().flat_map(|lease| &lease.leases);
                    leases
                        .flat_map(|lease| lease.blocks.iter().map(|leased| (lease.eip, leased.block)))
                        .collect()
                };
                if blocks(&known).is_subset(&blocks(planned)) == losing {
                    continue;
                }
                let version = self.known.get(name).copied();
                match fates.next().unwrap_or(Fate::Done) {
                    Fate::Done if self.server.write(name, version, planned.as_ref()) => self.see(name),
                    Fate::Done => is_complete = false,
                    fate => {
                        is_complete = false;
                        if fate == Fate::Late {
                            self.server.late.push((
                                self.world.snapshot.now_s,
                                name.clone(),
                                version,
                                planned.clone(),
                            ));
                        }
                        if let Some(lease) = planned {
                            self.world
                                .snapshot
                                .absorb(Event::UncertainLease(name.clone(), Some(lease.clone())));
                        }
                    }
                }
            }
            if losing && !is_complete {
                return;
            }
        }
        // The rest is written without trouble.
        apply(&mut self.world.snapshot, &Plan { leases: BTreeMap::new(), ..plan });
    }

    fn take(&mut self, step: &Step) {
        let name = |node: u8| format!("node-{node}");
        match step.clone() {
            Step::Node(node, gateway) => {
                self.world.node(&name(node), gateway);
            }
            Step::NodeGone(node) => {
                self.world.remove(Event::Node(name(node), None));
            }
            Step::Policy(policy) => {
                self.world.policy(&format!("n/p{policy}"), "g", EgressChoice::Unshared);
            }
            Step::PolicyGone(policy) => {
                self.world.remove(Event::Policy(key(&format!("n/p{policy}")), None));
            }
            Step::Report(node, used) => {
                let node = name(node);
                let parts = parts_of(&self.world.snapshot.leases, &node);
                let parts: Vec<_> = parts.map(|(name, record)| (name.clone(), record.clone())).collect();
                for (name, mut record) in parts {
                    record.observed_generation = record.lease.generation;
                    record.ports_in_use = record.lease.leases.iter().map(|lease| (lease.eip, used)).collect();
                    self.world.snapshot.absorb(Event::Lease(name, Some(record)));
                }
            }
            Step::Pass(seconds) => {
                self.world.pass_s(seconds);
            }
            Step::Write(fates) => self.write(&fates),
            Step::Arrive => {
                let now_s = self.world.snapshot.now_s;
                self.server.late.retain(|(since_s, ..)| now_s - since_s < WRITE_LIFETIME_S);
                if !self.server.late.is_empty() {
                    let (_, node, version, lease) = self.server.late.remove(0);
                    self.server.write(&node, version, lease.as_ref());
                }
            }
            Step::Watch(node) => self.see_node(&name(node)),
            Step::Restart => {
                // A controller begins to lead later than any write of the last one can arrive.
                self.server.late.clear();
                let old = std::mem::replace(&mut self.world.snapshot, ClusterSnapshot::new(settings()));
                for event in super::properties::events(&old) {
                    if !matches!(event, Event::Lease(..)) {
                        self.world.snapshot.absorb(event);
                    }
                }
                self.known.clear();
                for node in self.server.objects.keys().cloned().collect::<Vec<_>>() {
                    self.see(&node);
                }
            }
        }
    }
}

/// Of several EIPs a node has several objects.
fn settings() -> Settings {
    Settings { eips_per_lease: 1, ..Settings::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_block_has_two_holders_whatever_becomes_of_the_writes(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        world.snapshot.settings = settings();
        world.node("node-0", true).node("node-1", false);
        world.gateway("g", &["10.6.0.1-10.6.0.2"]).policy("n/p0", "g", EgressChoice::Unshared);
        let mut controller = Controller { world, server: Server::default(), known: BTreeMap::new() };
        for step in &steps {
            controller.take(step);
            prop_assert_eq!(controller.server.clash(), None);
        }
        // When the trouble ends, so does all uncertainty.
        for _ in 0..4 {
            for node in 0..6 {
                controller.see_node(&format!("node-{node}"));
            }
            controller.write(&[Fate::Done]);
        }
        prop_assert_eq!(controller.server.clash(), None);
        prop_assert!(controller.world.snapshot.uncertain_leases.is_empty());
    }
}
