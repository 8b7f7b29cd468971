//! Passes over a made-up kernel, which refuses what Linux refuses.

use datapath::fake_kernel::{FakeKernel, Refusal};
use datapath::state::ProxyNeighbour;
use liveness::Claim;
use runtime::watch::Change;
use serde_json::json;

use super::*;
use crate::world::{World, by_app, eip};

/// What outlives an agent.
#[derive(Default)]
struct Machine {
    fake: FakeKernel,
    held: BTreeSet<EgressId>,
    fails: bool,
    has_uplink: bool,
    ended: Vec<IpAddr>,
    closed: Vec<String>,
    cut: Vec<(IpAddr, IpAddr)>,
    table_reads: usize,
}

#[derive(Debug, thiserror::Error)]
enum MachineError {
    #[error("the test says no")]
    Told,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Kernel for Machine {
    type Error = MachineError;

    fn surroundings(&mut self) -> Result<Surroundings, MachineError> {
        let uplink = Uplink {
            device: "eth0".to_owned(),
            index: 2,
            mtu: 1500,
            ipv4: Some([10, 6, 0, 1].into()),
            ipv6: None,
            next_hop_ipv4: Some([10, 6, 0, 254].into()),
            next_hop_ipv6: None,
        };
        Ok(Surroundings { uplink: self.has_uplink.then_some(uplink), pod_interfaces: BTreeMap::new() })
    }

    fn read(&mut self, interest: &Interest) -> Result<Found, MachineError> {
        self.table_reads += usize::from(!interest.tables.is_empty());
        let tables = self.fake.found().tables.into_iter().filter(|(id, _)| interest.tables.contains(id));
        Ok(Found { tables: tables.collect(), ..self.fake.found() })
    }

    fn generation(&mut self) -> Result<u32, MachineError> {
        Ok(self.fake.found().generation)
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<(), MachineError> {
        if self.fails {
            return Err(MachineError::Told);
        }
        Ok(self.fake.apply(transaction)?)
    }

    fn held_ids(&mut self) -> Result<BTreeSet<EgressId>, MachineError> {
        Ok(self.held.clone())
    }

    fn used_ports(&mut self) -> Result<BTreeSet<UsedPort>, MachineError> {
        Ok(BTreeSet::new())
    }

    fn admit(&mut self, _: &str) -> Result<Vec<String>, MachineError> {
        Ok(self.closed.clone())
    }

    fn end_flows(&mut self, source: IpAddr) -> Result<usize, MachineError> {
        self.ended.push(source);
        Ok(1)
    }

    fn end_other_flows(
        &mut self,
        source: IpAddr,
        is_meant: &dyn Fn(IpAddr) -> bool,
    ) -> Result<usize, MachineError> {
        let to = ["10.6.168.63", "10.6.0.1"].map(|to| to.parse().unwrap());
        let meant: Vec<IpAddr> = to.into_iter().filter(|to| is_meant(*to)).collect();
        self.cut.extend(meant.iter().map(|to| (source, *to)));
        Ok(meant.len())
    }
}

fn machine() -> Machine {
    Machine { fake: FakeKernel::new(["eth0".to_owned()]), has_uplink: true, ..Machine::default() }
}

/// A cluster with a policy, one pod that it selects and leases of everybody.
fn world() -> World {
    let source = json!([{"first": 4096, "size": 1024, "state": "Active", "role": "Source"}]);
    let world = World::cluster().pod("default", "web", "web", "10.21.1.2").policy(by_app());
    world.lease("n1", source)
}

fn start(node: &str, machine: Machine, world: World) -> Converger<Machine> {
    let mut converger = Converger::new(node, Settings::default(), machine);
    converger.objects = world.objects;
    converger
}

#[track_caller]
fn pass(converger: &mut Converger<Machine>) -> Outcome {
    converger.pass(Instant::now()).unwrap()
}

fn report(carrier: Option<&str>, claims: &[EipPair]) -> Report {
    Report {
        carriers: BTreeMap::from([(eip(), carrier.map(str::to_owned))]),
        claims: claims.iter().map(|eip| (*eip, Claim { epoch: 1, preferred: false })).collect(),
        ..Report::default()
    }
}

/// The same node after its agent has started again.
fn restart(node: &str, old: Converger<Machine>, world: World) -> (Converger<Machine>, Outcome) {
    let mut new = start(node, old.kernel, world);
    let outcome = pass(&mut new);
    (new, outcome)
}

#[test]
fn a_second_pass_finds_nothing_to_do() {
    for node in ["n1", "g1", "g2"] {
        let mut converger = start(node, machine(), world());
        let first = pass(&mut converger);
        assert!(first.changes > 0 && first.complete && first.setup.is_some(), "{node}");
        let second = pass(&mut converger);
        assert_eq!((second.changes, second.setup.is_none()), (0, true), "{node}");
    }
}

/// Acceptance: X-R1
#[test]
fn a_restart_changes_nothing_and_goes_on_with_claims_and_carriers() {
    let mut source = start("n1", machine(), world());
    pass(&mut source);
    assert!(source.report(report(Some("g2"), &[])));
    assert!(pass(&mut source).changes > 0);
    let (_, outcome) = restart("n1", source, world());
    assert_eq!(outcome.changes, 0);
    assert_eq!(outcome.inheritance.unwrap().carriers, BTreeMap::from([(eip(), "g2".to_owned())]));

    let mut gateway = start("g2", machine(), world());
    pass(&mut gateway);
    gateway.report(report(Some("g2"), &[eip()]));
    assert_eq!(pass(&mut gateway).newly_answered, BTreeSet::from([eip()]));
    let (_, outcome) = restart("g2", gateway, world());
    assert_eq!(outcome.changes, 0);
    assert!(outcome.newly_answered.is_empty());
    assert_eq!(outcome.inheritance.unwrap().claims.into_keys().collect::<Vec<_>>(), [eip()]);
}

#[test]
fn an_inherited_claim_has_the_epoch_that_was_told_last() {
    let world = || {
        let mut world = world();
        world.objects.tunnels.get_mut("g2").unwrap().claims =
            vec![model::tunnel::Claim { eip: eip(), epoch: 7 }];
        world
    };
    let mut gateway = start("g2", machine(), world());
    pass(&mut gateway);
    gateway.report(report(Some("g2"), &[eip()]));
    pass(&mut gateway);
    let (_, outcome) = restart("g2", gateway, world());
    assert_eq!(outcome.inheritance.unwrap().claims[&eip()].epoch, 7);
}

#[test]
fn moving_an_eip_is_a_few_changes() {
    let mut source = start("n1", machine(), world());
    pass(&mut source);
    source.report(report(Some("g2"), &[]));
    let outcome = pass(&mut source);
    assert!((1..=3).contains(&outcome.changes), "{}", outcome.changes);
    assert!(!outcome.repaired);
    assert!(!source.report(report(Some("g2"), &[])));
}

#[test]
fn what_others_removed_is_put_back_and_counted_as_a_repair() {
    let mut source = start("n1", machine(), world());
    pass(&mut source);
    source.kernel.fake.flush_ruleset();
    // The kernel tells of it.
    source.kernel_changed();
    let outcome = pass(&mut source);
    assert!(outcome.changes > 0 && outcome.repaired);
    assert_eq!(pass(&mut source).changes, 0);
}

#[test]
fn tables_are_read_again_only_after_somebody_else_has_committed() {
    let mut source = start("n1", machine(), world());
    pass(&mut source);
    let reads = source.kernel.table_reads;
    for carrier in ["g2", "g1", "g2"] {
        source.report(report(Some(carrier), &[]));
        assert!(pass(&mut source).changes > 0);
        source.renew_answers().unwrap();
    }
    assert_eq!(source.kernel.table_reads, reads);
    source.kernel.fake.flush_ruleset();
    source.report(report(Some("g1"), &[]));
    assert!(pass(&mut source).changes > 3, "all is put back");
    assert_eq!(source.kernel.table_reads, reads + 1);
}

#[test]
fn a_node_that_gives_an_eip_up_answers_no_more_and_keeps_its_maps() {
    let mut gateway = start("g1", machine(), world());
    pass(&mut gateway);
    gateway.report(report(Some("g1"), &[eip()]));
    pass(&mut gateway);
    let answered = |gateway: &Converger<Machine>| gateway.kernel.fake.state().proxy_neighbours;
    let entry = ProxyNeighbour { device: "eth0".to_owned(), address: [10, 6, 168, 201].into() };
    assert_eq!(answered(&gateway), BTreeSet::from([entry]));
    gateway.report(report(Some("g2"), &[]));
    pass(&mut gateway);
    assert!(answered(&gateway).is_empty());
    assert!(gateway.view().unwrap().gateway_eips.contains_key(&eip()));
}

#[test]
fn a_tunnel_object_that_is_gone_for_a_while_takes_nothing_down() {
    let mut source = start("n1", machine(), world());
    pass(&mut source);
    source.objects.tunnels.remove("n1");
    source.derived = None;
    assert_eq!(pass(&mut source).changes, 0);
    // Nor after a restart in between.
    let mut late = world();
    late.objects.tunnels.remove("n1");
    let (_, outcome) = restart("n1", source, late);
    assert_eq!(outcome.changes, 0);
}

#[test]
fn an_uplink_that_loses_its_address_for_a_while_takes_nothing_down() {
    let mut source = start("n1", machine(), world());
    pass(&mut source);
    source.kernel.has_uplink = false;
    source.kernel_changed();
    assert_eq!(pass(&mut source).changes, 0);
}

#[test]
fn connections_end_with_their_pod() {
    let mut source = start("n1", machine(), world());
    pass(&mut source);
    pass(&mut source);
    assert!(source.kernel.ended.is_empty());
    source.objects.pods.clear();
    source.derived = None;
    pass(&mut source);
    assert_eq!(source.kernel.ended, [IpAddr::from([10, 21, 1, 2])]);
}

#[test]
fn an_eip_stays_while_connections_have_it_and_its_id_is_given_to_no_other() {
    let without_policy = || World::cluster().pod("default", "web", "web", "10.21.1.2");
    let mut source = start("n1", machine(), world());
    pass(&mut source);
    let id = source.numbering.as_ref().unwrap().id(&eip()).unwrap();
    source.kernel.held.insert(id);
    source.objects = without_policy().objects;
    source.derived = None;
    pass(&mut source);
    assert!(source.view().unwrap().eips.contains_key(&eip()));

    let (mut source, outcome) = restart("n1", source, without_policy());
    assert_eq!(outcome.changes, 0);
    assert!(source.view().unwrap().eips.contains_key(&eip()));

    source.kernel.held.clear();
    source.forget_connections();
    pass(&mut source);
    assert!(source.view().unwrap().eips.is_empty());
}

#[test]
fn a_refused_transaction_is_an_error_and_the_next_pass_tries_again() {
    let mut source = start("n1", machine(), world());
    source.kernel.fails = true;
    assert!(matches!(source.pass(Instant::now()), Err(PassError::Apply { source: MachineError::Told, .. })));
    source.kernel.fails = false;
    let outcome = pass(&mut source);
    assert!(outcome.complete && outcome.changes > 0 && !outcome.repaired);
}

#[test]
fn a_bad_object_does_not_keep_the_rest_from_being_programmed() {
    let mut source = start("n1", machine(), world());
    let broken = json!({"metadata": {"name": "x", "namespace": "default"}, "spec": {"destSubnet": ["?"]}});
    source.absorb(Event::Policy(Change::Applied(serde_json::from_value(broken).unwrap())));
    assert!(pass(&mut source).complete);
}

#[test]
fn errors_say_what_was_tried() {
    let error: PassError<std::io::Error> = PassError::Read(std::io::Error::other("broken"));
    assert_eq!(format!("{:#}", anyhow::Error::new(error)), "reading the kernel's state: broken");
}

/// Acceptance: X-P17
#[test]
fn older_connections_are_cut_where_they_shall_be_and_only_once() {
    for (existing_flows, expected) in [(ExistingFlows::Keep, 0), (ExistingFlows::Cut, 1)] {
        let world = || World::cluster().pod("default", "web", "web", "10.21.1.2");
        let settings = Settings { existing_flows, ..Settings::default() };
        let mut converger = Converger::new("n1", settings, machine());
        converger.objects = world().objects;
        pass(&mut converger);
        converger.objects = world().policy(by_app()).objects;
        converger.derived = None;
        pass(&mut converger);
        // It waits for its way to be whole.
        assert_eq!(converger.kernel.cut, []);
        converger.objects = self::world().objects;
        converger.derived = None;
        let whole = Report {
            claimed: BTreeSet::from([eip()]),
            confirmed: BTreeMap::from([("g1".to_owned(), 1)]),
            ..report(Some("g1"), &[])
        };
        assert!(converger.report(whole), "a policy waits for it");
        pass(&mut converger);
        pass(&mut converger);
        assert_eq!(converger.kernel.cut.len(), expected);
        assert!(converger.kernel.cut.iter().all(|(_, to)| to.to_string() == "10.6.168.63"));
    }
}

#[test]
fn a_filter_that_forwards_nothing_is_told() {
    let machine = Machine { closed: vec!["ip filter FORWARD drops".to_owned()], ..machine() };
    let mut converger = start("n1", machine, world());
    pass(&mut converger);
    assert_eq!(converger.closed_filters(), ["ip filter FORWARD drops"]);
    converger.kernel.closed.clear();
    converger.kernel_changed();
    pass(&mut converger);
    assert!(converger.closed_filters().is_empty());
}
