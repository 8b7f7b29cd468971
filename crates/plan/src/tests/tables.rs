//! One situation, one expected answer.

use model::cluster::ControlPlaneRanges;
use model::policy::EgressChoice::{Default, Exactly, NodeAddress, Unshared};
use model::pool::Family;
use model::tunnel::Phase;
use model::{IpPool, Reason};

use super::*;
use crate::endpoint_slices::label_value;

pub(super) fn three_nodes() -> World {
    let mut world = World::new();
    world.node("a", true).node("b", true).node("c", false);
    world
}

/// Acceptance: G00005
#[test]
fn a_policy_gets_the_lowest_address_of_its_gateway_as_default() {
    let mut world = three_nodes();
    world.gateway("default", &["10.6.168.201-10.6.168.205"]).policy("web/test", "default", Default);
    insta::assert_snapshot!(summary(&world.settle()), @r#"
    gateway default: Ready (v4 4/5 free, v6 0/0 free)
      default 10.6.168.201
      a Ready
        10.6.168.201 web/test
      b Ready
    policy web/test: 10.6.168.201 a Assigned
    tunnel a: 172.31.0.1 - 0x26000001 Ready
    tunnel b: 172.31.0.2 - 0x26000002 Ready
    tunnel c: 172.31.0.3 - 0x26000003 Ready
    lease a #1: 10.6.168.201 [4096-8191 Active, 49152-53247 Active]
    lease b #1: 10.6.168.201 [8192-12287 Active, 53248-57343 Active]
    lease c #1: 10.6.168.201 [12288-16383 Active]
    Normal gateway default Ready: ready
    Normal policy web/test Assigned: 10.6.168.201 on node a
    "#);
}

/// Acceptance: X-P1
#[test]
fn policies_with_the_default_share_one_entry() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.5"]).policy("n/p", "g", Default).policy("n/q", "g", Default);
    let plan = world.settle();
    let (eip, _, policies) = plan.gateways["g"].status.eips().next().unwrap();
    assert_eq!((eip, policies.len()), (super::eip("10.6.1.1"), 2));
    assert_eq!(plan.gateways["g"].status.usage.v4_free, 4);
}

#[test]
fn eips_spread_over_the_nodes_with_the_fewest() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.9"]);
    for name in ["n/p", "n/q", "n/r", "n/s"] {
        world.policy(name, "g", Unshared);
    }
    world.settle();
    let nodes: Vec<_> =
        ["n/p", "n/q", "n/r", "n/s"].iter().map(|name| world.node_of(name).unwrap()).collect();
    assert_eq!(nodes, ["a", "b", "a", "b"]);
}

/// Acceptance: R00005
#[test]
fn the_eips_of_a_failed_node_spread_and_stay_when_it_returns() {
    let mut world = three_nodes();
    world.node("d", true).gateway("g", &["10.6.1.1-10.6.1.9"]);
    let policies = ["n/p", "n/q", "n/r", "n/s", "n/t", "n/u"];
    for name in policies {
        world.policy(name, "g", Unshared);
    }
    world.settle();
    world.edit_node("a", |node| node.ready = false);
    let plan = world.settle();
    assert_eq!(plan.gateways["g"].status.nodes["a"].phase, Phase::NodeNotReady);
    assert!(plan.gateways["g"].status.nodes["a"].eips.is_empty());
    assert_eq!(plan.gateways["g"].status.nodes["b"].eips.len(), 3);
    assert_eq!(plan.gateways["g"].status.nodes["d"].eips.len(), 3);
    let before: Vec<_> = policies.iter().map(|name| world.node_of(name).map(str::to_owned)).collect();
    world.edit_node("a", |node| node.ready = true);
    world.settle();
    let after: Vec<_> = policies.iter().map(|name| world.node_of(name).map(str::to_owned)).collect();
    assert_eq!(before, after);
}

/// Acceptance: R00006, G00014c
#[test]
fn with_no_node_ready_policies_are_out_of_force_and_get_the_same_eip_back() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.9"]).policy("n/p", "g", Unshared).policy("n/q", "g", Unshared);
    world.settle();
    let before = (world.eip_of("n/p"), world.eip_of("n/q"));
    world.edit_node("a", |node| node.ready = false).edit_node("b", |node| node.ready = false);
    let plan = world.settle();
    assert_eq!((world.eip_of("n/p"), world.node_of("n/p")), (None, None));
    assert_eq!(plan.gateways["g"].status.unplaced.len(), 2);
    assert_eq!(plan.gateways["g"].status.usage.v4_free, 7);
    assert!(world.verdict_of("n/p").starts_with("NoReadyNode"));
    // The older one goes: what it had must not become the younger one's.
    world.remove(Event::Policy(key("n/p"), None));
    world.edit_node("b", |node| node.ready = true);
    world.settle();
    assert_eq!((world.eip_of("n/q"), world.node_of("n/q")), (before.1, Some("b")));
}

#[test]
fn a_claim_with_a_higher_epoch_is_where_the_eip_is() {
    let mut world = three_nodes();
    let wanted = eip("10.6.1.1");
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    world.claim("a", wanted, 1);
    world.settle();
    assert_eq!(world.node_of("n/p"), Some("a"));
    world.claim("b", wanted, 1);
    world.settle();
    assert_eq!(world.node_of("n/p"), Some("a"), "as new as the current one's");
    world.claim("b", wanted, 2);
    let plan = world.settle();
    assert_eq!(world.node_of("n/p"), Some("b"));
    assert_eq!(plan.notices[0].message, "10.6.1.1 moved from node a to node b");
    world.claim("c", wanted, 9);
    world.settle();
    assert_eq!(world.node_of("n/p"), Some("b"), "c is no gateway");
}

/// Acceptance: G00014a
#[test]
fn a_node_that_no_longer_matches_gives_its_eips_away() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    world.settle();
    assert_eq!(world.node_of("n/p"), Some("a"));
    world.edit_node("a", |node| {
        node.labels.remove("egress");
    });
    world.settle();
    assert_eq!((world.node_of("n/p"), world.eip_of("n/p")), (Some("b"), Some(eip("10.6.1.1"))));
    world.edit_node("b", |node| {
        node.labels.remove("egress");
    });
    world.settle();
    assert_eq!(
        world.verdict_of("n/p"),
        "NoGatewayNode: no node matches spec.nodeSelector of EgressGateway `g`; label one or change the selector"
    );
}

#[test]
fn an_agent_that_could_not_program_its_node_carries_nothing() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default).agent("a", false);
    let plan = world.settle();
    assert_eq!(plan.tunnels["a"].phase, Phase::Failed);
    assert_eq!(world.node_of("n/p"), Some("b"));
}

#[test]
fn each_refusal_says_why() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1-10.6.1.3", "10.6.0.1"]);
    world.policy("n/outside", "g", Exactly(eip("10.6.9.9")));
    world.policy("n/node", "g", Exactly(eip("10.6.0.1")));
    world.policy("n/unknown", "nowhere", Default);
    world.policy("n/nameless", "", Default);
    world.policy("n/nodeip", "g", NodeAddress);
    for name in ["n/r1", "n/r2", "n/r3", "n/r4"] {
        world.policy(name, "g", Unshared);
    }
    world.gateway("empty", &[]).policy("n/empty", "empty", Default);
    world.gateway("overlap", &["10.6.1.2-10.6.1.20"]).policy(
        "n/overlap",
        "overlap",
        Exactly(eip("10.6.1.3")),
    );
    world.policy("n/beside", "overlap", Default);
    let reason = Reason::invalid_field("spec.ippools.ipv4[0]", "wrong");
    world.refused_gateway("refused", reason).policy("n/refused", "refused", Default);
    let plan = world.settle();
    let verdicts = plan.policies.iter().map(|(key, policy)| format!("{key}: {}", policy.reason));
    let gateways = plan.gateways.iter().map(|(name, gateway)| format!("{name}: {}", gateway.reason));
    insta::assert_snapshot!(verdicts.chain(gateways).collect::<Vec<_>>().join("\n"), @r#"
    n/beside: the EIP is in force
    n/empty: EgressGateway `empty` has no pool; add addresses to spec.ippools or set egressIP.useNodeIP
    n/nameless: spec.egressGatewayName: not given, and neither the namespace label spidernet.io/egressgateway-default nor a gateway with clusterDefault names one
    n/node: 10.6.0.1 is the address of node `a`; an EIP must be an address that nobody uses
    n/nodeip: pods leave with the gateway node's own address; unlike with an EIP, connections end when that node fails
    n/outside: spec.egressIP: 10.6.9.9 is in no pool of EgressGateway `g`; add it there or choose another
    n/overlap: spec.ippools: 10.6.1.3 is also in the pool of EgressGateway `g`; take it out of one of them
    n/r1: the EIP is in force
    n/r2: the EIP is in force
    n/r3: the EIP is in force
    n/r4: every IPv4 address of EgressGateway `g` is in use; add addresses to spec.ippools
    n/refused: EgressGateway `refused` is refused itself; see its conditions
    n/unknown: spec.egressGatewayName: EgressGateway `nowhere` does not exist; create it or name another
    empty: ready
    g: ready
    overlap: spec.ippools: 10.6.1.2 is also in the pool of EgressGateway `g`; take it out of one of them
    refused: spec.ippools.ipv4[0]: wrong
    "#);
}

#[test]
fn pools_of_two_families_are_used_in_pairs_of_the_same_number() {
    let mut world = World::dual_stack();
    world.node("a", true).gateway_of("g", &["10.6.1.1-10.6.1.3"], &["fd00::1-fd00::3"], |_| {});
    world.policy("n/p", "g", Default).policy("n/q", "g", Unshared);
    world.policy("n/half", "g", Exactly(eip("10.6.1.1")));
    world.policy("n/single", "g", Exactly(eip("10.6.1.3")));
    world.settle();
    assert_eq!(world.eip_of("n/p"), Some(eip("10.6.1.1+fd00::1")));
    assert_eq!(world.eip_of("n/q"), Some(eip("10.6.1.2+fd00::2")));
    assert!(world.verdict_of("n/half").starts_with("PairedElsewhere"));
    assert_eq!(world.eip_of("n/single"), Some(eip("10.6.1.3")));
    world.gateway_of("h", &["10.6.2.1-10.6.2.3"], &["fd00::11"], |_| {}).policy("n/h", "h", Default);
    let plan = world.settle();
    assert_eq!(plan.gateways["h"].reason, Reason::PoolSizesDiffer { v4: 3, v6: 1 });
    assert!(world.verdict_of("n/h").starts_with("GatewayRefused"));
}

#[test]
fn an_address_has_one_partner_and_the_older_policy_chooses_it() {
    let mut world = World::dual_stack();
    world.node("a", true).gateway_of("g", &["10.6.1.1-10.6.1.4"], &["fd00::1-fd00::4"], |_| {});
    world.policy("n/older", "g", Exactly(eip("10.6.1.2+fd00::3")));
    world.policy("n/younger", "g", Exactly(eip("10.6.1.2+fd00::4")));
    world.policy("n/half", "g", Exactly(eip("fd00::3")));
    world.policy("n/same", "g", Exactly(eip("10.6.1.2+fd00::3")));
    world.settle();
    assert_eq!(world.eip_of("n/older"), Some(eip("10.6.1.2+fd00::3")));
    assert_eq!(world.eip_of("n/same"), world.eip_of("n/older"));
    for name in ["n/younger", "n/half"] {
        assert!(world.verdict_of(name).starts_with("PairedElsewhere"), "{}", world.verdict_of(name));
    }
}

#[test]
fn a_pool_of_a_family_that_is_off_is_refused() {
    let mut world = three_nodes();
    world.gateway_of("g", &["10.6.1.1"], &["fd00::1"], |_| {});
    let plan = world.settle();
    assert_eq!(
        plan.gateways["g"].reason.to_string(),
        "spec.ippools.ipv6: IPv6 is not enabled here; remove the pool, or set feature.enableIPv6"
    );
}

#[test]
fn an_overlap_that_appears_later_takes_nothing_from_who_had_it() {
    let mut world = three_nodes();
    world.gateway("old", &["10.6.1.1"]).gateway("young", &["10.6.2.1"]);
    world.policy("n/p", "young", Default);
    world.settle();
    world.gateway("old", &["10.6.1.1", "10.6.2.1"]).policy("n/q", "old", Exactly(eip("10.6.2.1")));
    world.settle();
    assert_eq!(world.eip_of("n/p"), Some(eip("10.6.2.1")));
    assert!(world.verdict_of("n/q").starts_with("PoolsOverlap"));
}

#[test]
fn huge_overlapping_pools_are_no_work() {
    let mut world = World::dual_stack();
    world.node("a", true);
    world.gateway_of("old", &["0.0.0.0/0"], &[], |_| {}).gateway_of("young", &["0.0.0.0/0"], &[], |_| {});
    world.gateway_of("v6", &[], &["::/0"], |_| {}).gateway_of("w6", &[], &["2000::/3"], |_| {});
    world.policy("n/p", "young", Unshared).policy("n/q", "w6", Default);
    world.settle();
    assert!(world.verdict_of("n/p").starts_with("PoolExhausted"));
    assert!(world.verdict_of("n/q").starts_with("PoolExhausted"));
}

/// Acceptance: G00017a, G00017b
#[test]
fn a_nameless_policy_takes_the_namespaces_gateway_then_the_oldest_cluster_default() {
    let mut world = three_nodes();
    world.gateway("of-namespace", &["10.6.1.1"]);
    world.gateway_of("z-older", &["10.6.2.1"], &[], |gateway| gateway.cluster_default = true);
    world.gateway_of("a-younger", &["10.6.3.1"], &[], |gateway| gateway.cluster_default = true);
    let labels = [(crate::gateways::LABEL_DEFAULT_GATEWAY.to_owned(), "of-namespace".to_owned())].into();
    world.snapshot.absorb(Event::Namespace("n".to_owned(), Some(labels)));
    world.policy("n/p", "", Default).policy("m/q", "", Default).policy("cluster", "", Default);
    let plan = world.settle();
    let fill = |name: &str| plan.policies[&key(name)].fill_gateway.clone().unwrap();
    assert_eq!([fill("n/p"), fill("m/q"), fill("cluster")], ["of-namespace", "z-older", "z-older"]);
}

/// Acceptance: G00020, X-G6
#[test]
fn a_gateway_that_is_used_by_any_kind_of_policy_is_kept() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("cluster", "g", Default);
    world.settle();
    world.edit_gateway("g", |record| record.deleting = true);
    assert!(world.settle().gateways["g"].keep);
    world.remove(Event::Policy(key("cluster"), None));
    assert!(!world.settle().gateways["g"].keep);
}

#[test]
fn tunnel_values_are_kept_unless_another_has_them_or_they_are_outside() {
    let mut world = three_nodes();
    world.settle();
    let before = world.snapshot.tunnels.clone();
    let mut clash = world.snapshot.tunnels["c"].clone();
    clash.tunnel.ipv4 = before["a"].tunnel.ipv4;
    clash.tunnel.mark = Some(7);
    world.snapshot.absorb(Event::Tunnel("c".to_owned(), Some(clash)));
    world.settle();
    assert_eq!(world.snapshot.tunnels, before);
    world.remove(Event::Node("a".to_owned(), None));
    world.settle();
    assert!(!world.snapshot.tunnels.contains_key("a"));
    world.node("d", false);
    world.settle();
    assert_eq!(world.snapshot.tunnels["d"].tunnel.ipv4, before["a"].tunnel.ipv4);
    assert_eq!(world.snapshot.tunnels["b"], before["b"]);
}

#[test]
fn a_full_tunnel_subnet_fails_the_last_node_only() {
    let mut world = World::new();
    world.snapshot.settings.tunnel_subnet_v4 = "172.31.0.0/30".parse().unwrap();
    world.node("a", true).node("b", true).node("c", true);
    let plan = world.settle();
    let phases: Vec<_> = plan.tunnels.values().map(|tunnel| tunnel.phase).collect();
    assert_eq!(phases, [Phase::Ready, Phase::Ready, Phase::Failed]);
    assert_eq!(plan.tunnels["c"].problem, Some(Reason::TunnelSubnetExhausted { family: Family::V4 }));
}

/// Acceptance: X-P11
#[test]
fn slices_list_pods_that_have_packets_of_their_own() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/app", "g", Default);
    world.pod("n", "yes", "app", |_| {});
    world.pod("n", "host", "app", |pod| pod.host_network = true);
    world.pod("n", "done", "app", |pod| pod.finished = true);
    world.pod("n", "new", "app", |pod| pod.addresses.clear());
    world.pod("n", "other", "other", |_| {});
    world.pod("m", "elsewhere", "app", |_| {});
    let plan = world.settle();
    let pods: Vec<_> =
        plan.slices.values().flat_map(|slice| &slice.endpoints).map(|e| e.pod.to_string()).collect();
    assert_eq!(pods, ["n/yes"]);
    assert_eq!(plan.slices.keys().next().unwrap().name, "app-0");
}

#[test]
fn one_pod_more_or_less_changes_one_slice() {
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/app", "g", Default);
    for number in 0..250 {
        world.pod("n", &format!("p{number:03}"), "app", |_| {});
    }
    let before = world.settle().slices;
    assert_eq!(before.values().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
    world.remove(Event::Pod(PodKey { namespace: "n".to_owned(), name: "p000".to_owned() }, None));
    let after = world.settle().slices;
    assert_eq!(before.iter().filter(|(key, slice)| after.get(key) != Some(slice)).count(), 1);
    world.pod("n", "a-new-one", "app", |_| {});
    let again = world.settle().slices;
    assert_eq!(again.values().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [100, 100, 50]);
    assert_eq!(after.iter().filter(|(key, slice)| again.get(key) != Some(slice)).count(), 1);
}

/// Acceptance: X-S4
#[test]
fn long_policy_names_fit_labels_and_objects() {
    let long = "x".repeat(253);
    assert_eq!(label_value("short"), "short");
    assert_eq!(label_value(&long).len(), 63);
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy(&format!("n/{long}"), "g", Default).pod("n", "p", &long, |_| {});
    assert!(world.settle().slices.keys().all(|key| key.name.len() <= 253));
}

/// Acceptance: I00001, X-I2
#[test]
fn the_clusters_networks_are_found_where_they_are_said() {
    let mut world = three_nodes();
    world.cluster_info();
    let service = PodKey { namespace: "default".to_owned(), name: "kubernetes".to_owned() };
    world.snapshot.absorb(Event::Service(service, Some(["10.96.0.1".parse().unwrap()].into())));
    let services = |plan: &Plan| -> Vec<String> {
        let networks = plan.cluster_networks.clone().unwrap();
        networks.services.into_iter().flatten().map(|net| net.to_string()).collect()
    };
    let plan = world.settle();
    assert_eq!(services(&plan), ["10.96.0.1/32"]);
    let networks = plan.cluster_networks.unwrap();
    assert_eq!(networks.pod_cidr_mode, PodCidrMode::Kubernetes);
    assert_eq!((networks.nodes.len(), networks.pods.len(), networks.extra.len()), (3, 3, 1));
    let pod = PodKey { namespace: "kube-system".to_owned(), name: "kcm".to_owned() };
    let ranges = ControlPlaneRanges {
        services: ["10.96.0.0/12".parse().unwrap()].into(),
        pods: ["10.244.0.0/16".parse().unwrap()].into(),
    };
    world.snapshot.absorb(Event::ControlPlane(pod, Some(ranges)));
    assert_eq!(services(&world.settle()), ["10.96.0.0/12"]);
    world
        .snapshot
        .absorb(Event::ServiceCidr("kubernetes".to_owned(), Some(["10.96.0.0/16".parse().unwrap()].into())));
    assert_eq!(services(&world.settle()), ["10.96.0.0/16"]);
}

#[test]
fn events_that_change_nothing_say_so() {
    let mut world = three_nodes();
    let node = world.snapshot.nodes["a"].clone();
    assert!(!world.snapshot.absorb(Event::Node("a".to_owned(), Some(node))));
    assert!(!world.snapshot.absorb(Event::Node("x".to_owned(), None)));
    assert!(!world.snapshot.absorb(Event::Now(5)), "nothing waits for the time");
    assert!(world.snapshot.absorb(Event::Node("a".to_owned(), None)));
}

#[test]
fn the_judge_sees_what_is_wrong() {
    use crate::violations::Violation;
    let mut world = three_nodes();
    world.gateway("g", &["10.6.1.1"]).policy("n/p", "g", Default);
    let good = world.settle();
    let judged = |edit: &dyn Fn(&mut Plan)| {
        let mut plan = good.clone();
        edit(&mut plan);
        violations(&world.snapshot, &plan)
    };
    let twice = judged(&|plan| {
        let lease = plan.leases[&whole("a")].clone();
        plan.leases.insert(whole("b"), lease);
    });
    assert!(twice.iter().any(|violation| matches!(violation, Violation::PortTwice(..))), "{twice:?}");
    let moved = judged(&|plan| {
        let status = &mut plan.gateways.get_mut("g").unwrap().status;
        let eips = std::mem::take(&mut status.nodes.get_mut("a").unwrap().eips);
        status.nodes.get_mut("b").unwrap().eips = eips;
    });
    assert!(
        moved.iter().any(|violation| matches!(violation, Violation::EipMovedWithoutCause(..))),
        "{moved:?}"
    );
    assert!(
        moved.iter().any(|violation| matches!(violation, Violation::PolicyAndGatewayDiffer(..))),
        "{moved:?}"
    );
    let gone = judged(&|plan| {
        plan.leases.insert(whole("a"), None);
    });
    assert!(gone.iter().any(|violation| matches!(violation, Violation::LeaseTakenAway(..))), "{gone:?}");
    let same = judged(&|plan| {
        let mark = plan.tunnels["a"].mark;
        plan.tunnels.get_mut("b").unwrap().mark = mark;
    });
    assert!(same.iter().any(|violation| matches!(violation, Violation::MarkTwice(..))), "{same:?}");
}

#[test]
fn pools_without_the_older_ones_are_what_is_picked_from() {
    let pool = IpPool::parse(Family::V4, &["10.6.1.1-10.6.1.9"]).unwrap();
    assert_eq!(pool.without(&IpPool::parse(Family::V4, &["10.6.1.1-10.6.1.8"]).unwrap()).count(), 1);
}
