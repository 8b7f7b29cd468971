use std::collections::BTreeSet;

use datapath::view::LeaseRole;
use serde_json::{Value, json};

use super::*;
use runtime::watch::Change;

use crate::objects::Event;
use crate::world::{World, by_app, eip, read};

fn local(node: &str) -> Local {
    Local { node: node.to_owned(), ..Local::default() }
}

fn view_of(objects: &Objects, local: &Local) -> NodeView {
    node_view(objects, &Derived::of(objects, &local.node), local)
}

fn topology_of(objects: &Objects, local: &Local) -> Topology {
    topology(objects, &Derived::of(objects, &local.node), local)
}

fn view(world: &World, node: &str) -> NodeView {
    view_of(&world.objects, &local(node))
}

#[track_caller]
fn check_selected(world: &World, expected: &[&str]) {
    let view = view(world, "n1");
    let selected: BTreeSet<String> =
        view.policies.iter().flat_map(|policy| &policy.pods).map(PodKey::to_string).collect();
    assert_eq!(selected.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

fn pods(world: World) -> World {
    world.pod("default", "web", "web", "10.21.1.2").pod("default", "db", "db", "10.21.1.3").pod(
        "other",
        "web",
        "web",
        "10.21.1.4",
    )
}

/// Acceptance: P00007, P00021
#[test]
fn a_policy_selects_pods_of_its_own_namespace_by_label_or_by_subnet() {
    check_selected(&pods(World::cluster()).policy(by_app()), &["default/web"]);
    let subnet =
        json!({"egressGatewayName": "default", "appliedTo": {"podSubnet": ["10.21.1.2/31", "10.21.1.4"]}});
    check_selected(&pods(World::cluster()).policy(subnet), &["default/db", "default/web"]);
}

#[test]
fn a_cluster_policy_selects_pods_of_namespaces_by_their_labels() {
    let policy = |selector: Value| {
        let mut applied = json!({"podSelector": {"matchLabels": {"app": "web"}}});
        if !selector.is_null() {
            applied["namespaceSelector"] = selector;
        }
        json!({"metadata": {"name": "p"}, "spec": {"egressGatewayName": "default", "appliedTo": applied}})
    };
    let world = || {
        pods(World::cluster())
            .with("namespace", json!({"metadata": {"name": "other", "labels": {"team": "x"}}}))
    };
    check_selected(&world().with("cluster policy", policy(Value::Null)), &["default/web", "other/web"]);
    let by_team = policy(json!({"matchLabels": {"team": "x"}}));
    check_selected(&world().with("cluster policy", by_team), &["other/web"]);
}

/// Acceptance: X-P11
#[test]
fn pods_without_packets_of_their_own_are_left_out() {
    let mut world = World::cluster().policy(by_app());
    for (name, extra) in [
        ("host", json!({"spec": {"nodeName": "n1", "hostNetwork": true}})),
        ("done", json!({"status": {"phase": "Succeeded", "podIP": "10.21.1.9"}})),
        ("unborn", json!({"status": {"phase": "Pending"}})),
    ] {
        let mut pod = json!({
            "metadata": {"namespace": "default", "name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "podIP": "10.21.1.9"}
        });
        for (key, value) in extra.as_object().unwrap() {
            pod[key] = value.clone();
        }
        world = world.with("pod", pod);
    }
    check_selected(&world, &[]);
    assert!(view(&world, "n1").pods.is_empty());
}

#[test]
fn a_policy_that_can_t_be_read_harms_only_itself() {
    let mut world = pods(World::cluster()).policy(by_app());
    let broken = json!({"metadata": {"namespace": "default", "name": "broken"},
                        "spec": {"appliedTo": {"podSelector": {"matchLabels": {"app": "db"}}}, "destSubnet": ["nonsense"]}});
    assert!(!world.objects.absorb(Event::Policy(Change::Applied(read(broken)))));
    check_selected(&world, &["default/web"]);
}

#[test]
fn a_source_knows_its_blocks_and_the_gateways_that_may_carry_its_eip() {
    let world = pods(World::cluster()).policy(by_app()).lease(
        "n1",
        json!([{"first": 4096, "size": 1024, "state": "Draining", "role": "Source"},
               {"first": 8192, "size": 1024, "state": "Active", "role": "Source"}]),
    );
    let view = view(&world, "n1");
    let source = &view.eips[&eip()];
    assert_eq!(source.block.map(|block| block.first()), Some(8192));
    assert_eq!(source.draining.iter().map(|block| block.first()).collect::<Vec<_>>(), [4096]);
    assert_eq!(source.carrier.as_deref(), Some("g1"));
    assert_eq!(source.candidates, BTreeSet::from(["g1".to_owned(), "g2".to_owned()]));
    assert!(view.gateway_eips.is_empty());
    assert_eq!(view.policies[0].eip, Some(eip()));
}

#[test]
fn the_carrier_is_whom_liveness_names_or_nobody() {
    let world = pods(World::cluster()).policy(by_app());
    for carrier in [Some("g2".to_owned()), None] {
        let mut local = local("n1");
        local.carriers.insert(eip(), carrier.clone());
        assert_eq!(view_of(&world.objects, &local).eips[&eip()].carrier, carrier);
    }
}

#[test]
fn a_gateway_knows_all_leases_of_its_eips_and_answers_for_what_it_claims() {
    let world = World::cluster()
        .policy(by_app())
        .lease("n1", json!([{"first": 4096, "size": 1024, "state": "Active", "role": "Source"}]))
        .lease("g2", json!([{"first": 49152, "size": 1024, "state": "Active", "role": "Overflow"}]));
    let mut local = local("g2");
    local.claims.insert(eip());
    let view = view_of(&world.objects, &local);
    let gateway = &view.gateway_eips[&eip()];
    assert!(gateway.answers);
    let leases: Vec<_> = gateway.leases.iter().map(|lease| (lease.node.as_str(), lease.role)).collect();
    assert_eq!(leases, [("n1", LeaseRole::Source), ("g2", LeaseRole::Overflow)]);
    assert!(
        !view_of(&world.objects, &Local { node: "g1".to_owned(), ..Local::default() }).gateway_eips[&eip()]
            .answers
    );
}

#[test]
fn liveness_learns_from_the_tunnels_how_high_the_claims_are_and_from_leases_alone_no_preferred_node() {
    let claimed = |node: &str, epoch: i64| {
        json!({"metadata": {"name": node}, "status": {
            "tunnel": {"ipv4": "172.31.0.9", "parent": {"name": "eth0", "ipv4": "10.6.0.9"}},
            "claims": [{"eip": "10.6.168.201", "epoch": epoch}, {"eip": "10.6.168.250", "epoch": 9}],
        }})
    };
    let world =
        World::cluster().policy(by_app()).with("tunnel", claimed("g1", 4)).with("tunnel", claimed("g2", -1));
    // Of an EIP that does not concern the node it need not know anything.
    assert_eq!(topology_of(&world.objects, &local("g2")).told, BTreeMap::from([(eip(), 4)]));

    let blocks = json!([{"first": 4096, "size": 1024, "state": "Active", "role": "Source"}]);
    let leases = json!([{"gateway": "default", "ipv4": "10.6.168.202", "blocks": blocks}]);
    let spec = json!({"generation": 1, "blockCount": 1, "leases": leases});
    let world = world.with("lease", json!({"metadata": {"name": "n1"}, "spec": spec}));
    let group = &topology_of(&world.objects, &local("g2")).eips[&"10.6.168.202".parse().unwrap()];
    assert_eq!((group.nodes.len(), group.preferred.as_deref()), (2, None));
}

#[test]
fn a_policy_with_an_eip_that_no_gateway_names_yet_is_carried_by_the_node_of_its_status() {
    let world = pods(World::cluster()).with(
        "policy",
        json!({"metadata": {"namespace": "default", "name": "new"}, "spec": by_app(),
               "status": {"eip": {"ipv4": "10.6.168.205"}, "node": "g2"}}),
    );
    let view = view(&world, "n1");
    let source = &view.eips[&"10.6.168.205".parse().unwrap()];
    assert_eq!(source.carrier.as_deref(), Some("g2"));
    assert!(view.all_eips.len() == 2);
}

#[test]
fn liveness_hears_of_own_groups_of_used_eips_and_of_keys() {
    let world = pods(World::cluster()).policy(by_app());
    let source = topology_of(&world.objects, &local("n1"));
    assert_eq!(source.used, BTreeSet::from([eip()]));
    assert_eq!(source.nodes.keys().collect::<Vec<_>>(), ["g1", "g2"]);
    assert_eq!(source.nodes["g2"].key, Some([2; 32]));
    assert_eq!(source.eips[&eip()].preferred.as_deref(), Some("g1"));
    let gateway = topology_of(&world.objects, &local("g2"));
    assert_eq!(gateway.eips.len(), 1);
    // Pods are known of this one node only, whatever its name here; a bystander without pods and groups watches nobody.
    let bystander = topology_of(&World::cluster().objects, &local("n9"));
    assert!(bystander.eips.is_empty());
}

#[test]
fn the_tunnel_is_that_of_the_served_families() {
    let view = view(&World::cluster(), "n1");
    assert_eq!(view.tunnel.unwrap().ipv4, Some("172.31.0.1".parse().unwrap()));
    assert_eq!(view.peers.keys().collect::<Vec<_>>(), ["g1", "g2"]);
    let mut local = local("n1");
    local.settings.ipv4 = false;
    local.settings.ipv6 = true;
    assert_eq!(view_of(&World::cluster().objects, &local).tunnel, None);
}

#[test]
fn networks_come_from_the_default_cluster_info_only() {
    let info = |name: &str, cidr: &str| {
        json!({"metadata": {"name": name}, "spec": {"extraCidr": [cidr]},
               "status": {"nodeIP": {"n1": {"ipv4": ["10.6.0.1"]}}, "podCIDR": {"n1": {"ipv4": ["10.21.1.0/24"]}}}})
    };
    let world = World::default()
        .with("info", info("default", "10.99.0.0/16"))
        .with("info", info("other", "10.98.0.0/16"));
    let view = view(&world, "n1");
    let cidrs: Vec<String> = view.cluster_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(cidrs, ["10.6.0.1/32", "10.21.1.0/24", "10.99.0.0/16"]);
    assert!(view.node_addresses.contains(&"10.6.0.1".parse::<IpAddr>().unwrap()));
}

#[test]
fn a_list_replaces_all_that_was_there_and_all_kinds_must_be_listed_first() {
    let mut objects = World::cluster().objects;
    assert!(!objects.in_sync());
    let events = [
        Event::Pod(Change::Replaced(vec![])),
        Event::Namespace(Change::Replaced(vec![])),
        Event::Gateway(Change::Replaced(vec![])),
        Event::Policy(Change::Replaced(vec![])),
        Event::ClusterPolicy(Change::Replaced(vec![])),
        Event::Tunnel(Change::Replaced(vec![])),
        Event::ClusterInfo(Change::Replaced(vec![])),
        Event::Lease(Change::Replaced(vec![])),
    ];
    for event in events {
        assert!(!objects.in_sync());
        assert!(objects.absorb(event));
    }
    assert!(objects.in_sync());
    assert!(objects.gateways.is_empty());
    assert!(!objects.absorb(Event::Lease(Change::Replaced(vec![]))));
}

#[test]
fn a_pod_with_a_veth_of_its_own_is_bound_to_it() {
    let world = pods(World::cluster()).policy(by_app());
    let mut local = local("n1");
    local.pod_interfaces.insert("10.21.1.2".parse().unwrap(), 7);
    let view = view_of(&world.objects, &local);
    let interface = |name: &str| view.pods[&PodKey::new("default", name)].interface;
    assert_eq!((interface("web"), interface("db")), (Some(7), None));
}

/// A policy whose pods leave with the address of g1, as the controller has chosen.
fn of_node(world: World) -> World {
    let mut spec = by_app();
    spec["egressIP"] = json!({"useNodeIP": true});
    world.with(
        "policy",
        json!({"metadata": {"namespace": "default", "name": "p"}, "spec": spec, "status": {"node": "g1"}}),
    )
}

#[test]
fn pods_that_leave_with_a_nodes_address_go_to_the_node_that_was_chosen_and_to_another_one_when_it_dies() {
    let world = of_node(pods(World::cluster()));
    let own = |n: u8| -> EipPair { format!("172.31.0.{n}").parse().unwrap() };
    let mut at = local("n1");
    let view = view_of(&world.objects, &at);
    assert_eq!(view.policies[0].eip, Some(own(2)));
    assert!(view.eips[&own(2)].node_address);
    assert_eq!(view.eips[&own(2)].carrier.as_deref(), Some("g1"));
    assert!(!view.lends_address && view.gateway_eips.is_empty() && !view.all_eips.contains(&own(2)));
    // Both nodes are watched, for either may have to lend its address.
    let topology = topology_of(&world.objects, &at);
    assert_eq!(topology.used, BTreeSet::from([own(2), own(3)]));
    assert_eq!(topology.eips[&own(3)].nodes, BTreeSet::from(["g2".to_owned()]));

    at.carriers = BTreeMap::from([(own(2), None), (own(3), Some("g2".to_owned()))]);
    let view = view_of(&world.objects, &at);
    assert_eq!(view.policies[0].eip, Some(own(3)));
    assert_eq!(view.eips[&own(2)].carrier, None);
}

#[test]
fn a_gateway_lends_its_address_to_policies_that_ask_for_it_and_claims_nothing_for_that() {
    let world = of_node(World::cluster());
    assert!(view(&world, "g1").lends_address && view(&world, "g2").lends_address);
    assert!(!view(&world, "n1").lends_address);
    assert_eq!(topology_of(&world.objects, &local("g1")).used, BTreeSet::new());
    assert!(!view(&World::cluster().policy(by_app()), "g1").lends_address);
}

#[test]
fn an_eip_that_somebody_else_has_is_neither_left_with_nor_answered() {
    let world = World::cluster().pod("default", "web", "web", "10.21.1.2").policy(by_app());
    let address: IpAddr = [10, 6, 168, 201].into();
    let stranger = MacAddress([2, 0, 0, 0, 0, 9]);
    let claiming = |node: &str| Local { claims: BTreeSet::from([eip()]), ..local(node) };
    assert!(view_of(&world.objects, &claiming("g1")).gateway_eips[&eip()].answers);
    let found_out = Local { conflicts: BTreeMap::from([(address, stranger)]), ..claiming("g1") };
    assert_eq!(view_of(&world.objects, &found_out).gateway_eips, BTreeMap::new());
    // It is looked after all the same, or nobody would find out that it is over.
    assert_eq!(charge(&Derived::of(&world.objects, "g1"), &found_out), BTreeMap::from([(address, true)]));

    assert!(view(&world, "n1").eips.contains_key(&eip()));
    let told = |phase: &str| {
        json!({"metadata": {"name": "g1"}, "status": {
            "tunnel": {"ipv4": "172.31.0.2", "mac": "66:00:00:00:00:01", "parent": {"ipv4": "10.6.0.2"}}, "phase": phase,
            "conflicts": [{"address": address.to_string(), "mac": stranger.to_string()}],
        }})
    };
    let carriers = BTreeMap::from([(eip(), Some("g1".to_owned()))]);
    let source = Local { carriers, ..local("n1") };
    let world = world.with("tunnel", told("Ready"));
    assert_eq!(view_of(&world.objects, &source).eips[&eip()].carrier, None);
    let world = world.with("tunnel", told("NodeNotReady"));
    assert_eq!(view_of(&world.objects, &source).eips[&eip()].carrier.as_deref(), Some("g1"));
}
