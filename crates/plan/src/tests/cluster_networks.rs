//! Networks of pods, from whatever network plug-in there is.

use model::cluster::{ControlPlaneRanges, PoolKind};

use super::tables::three_nodes;
use super::*;

fn pods(plan: &Plan) -> (PodCidrMode, Vec<String>) {
    let networks = plan.cluster_networks.clone().unwrap();
    let pods =
        networks.pods.iter().flat_map(|(name, nets)| nets.iter().map(move |net| format!("{name} {net}")));
    (networks.pod_cidr_mode, pods.collect())
}

fn pool(world: &mut World, kind: PoolKind, name: &str, nets: &[&str]) {
    let nets = nets.iter().map(|net| net.parse().unwrap()).collect();
    world.snapshot.absorb(Event::PodPool(kind, name.to_owned(), Some(nets)));
}

fn mode(world: &mut World, mode: PodCidrMode) {
    let mut info = world.snapshot.cluster_info.clone().unwrap();
    info.spec.pod_cidr_mode = mode;
    world.snapshot.absorb(Event::ClusterInfo(Some(info)));
}

/// I00004 and I00006: the mode decides, and what the objects say is followed.
#[test]
fn i00004_i00006_calicos_pools_are_followed_and_the_mode_is_told() {
    let mut world = three_nodes();
    world.cluster_info();
    let of_nodes =
        vec!["a 10.128.1.0/24".to_owned(), "b 10.128.2.0/24".to_owned(), "c 10.128.3.0/24".to_owned()];
    assert_eq!(pods(&world.settle()), (PodCidrMode::Kubernetes, of_nodes.clone()));
    pool(&mut world, PoolKind::CalicoPool, "default-pool", &["10.233.0.0/16"]);
    assert_eq!(pods(&world.settle()), (PodCidrMode::Calico, vec!["default-pool 10.233.0.0/16".to_owned()]));
    pool(&mut world, PoolKind::CalicoPool, "default-pool", &["10.234.0.0/16"]);
    assert_eq!(pods(&world.settle()).1, ["default-pool 10.234.0.0/16"]);
    mode(&mut world, PodCidrMode::Kubernetes);
    assert_eq!(pods(&world.settle()), (PodCidrMode::Kubernetes, of_nodes.clone()));
    mode(&mut world, PodCidrMode::Off);
    assert_eq!(pods(&world.settle()), (PodCidrMode::Off, vec![]));
    mode(&mut world, PodCidrMode::Calico);
    world.snapshot.absorb(Event::PodPool(PoolKind::CalicoPool, "default-pool".to_owned(), None));
    assert_eq!(pods(&world.settle()), (PodCidrMode::Calico, vec![]));
    mode(&mut world, PodCidrMode::Auto);
    assert_eq!(pods(&world.settle()), (PodCidrMode::Kubernetes, of_nodes));
}

/// I00002 and I00003: what is switched off is empty, what is switched on is filled again.
#[test]
fn i00002_i00003_detection_is_switched_off_and_on() {
    let mut world = three_nodes();
    world.cluster_info();
    let range = Some(["10.96.0.0/16".parse().unwrap()].into());
    world.snapshot.absorb(Event::ServiceCidr("kubernetes".to_owned(), range));
    let mut seen = Vec::new();
    for on in [true, false, true] {
        let mut info = world.snapshot.cluster_info.clone().unwrap();
        (info.spec.detect_nodes, info.spec.detect_services) = (on, on);
        world.snapshot.absorb(Event::ClusterInfo(Some(info)));
        let networks = world.settle().cluster_networks.unwrap();
        seen.push((networks.nodes.len(), networks.services.map(|ranges| ranges.len())));
    }
    assert_eq!(seen, [(3, Some(1)), (0, None), (3, Some(1))]);
}

/// X-I1: Flannel and others have no pools of their own.
#[test]
fn x_i1_without_a_plug_in_that_names_pools_the_nodes_networks_are_taken_and_else_the_clusters() {
    let mut world = three_nodes();
    world.cluster_info();
    assert_eq!(pods(&world.settle()).1.len(), 3);
    for node in ["a", "b", "c"] {
        world.edit_node(node, |node| node.pod_cidrs.clear());
    }
    assert_eq!(pods(&world.settle()).1.len(), 0);
    let ranges = ControlPlaneRanges { pods: ["10.244.0.0/16".parse().unwrap()].into(), ..Default::default() };
    let key = PodKey { namespace: "kube-system".to_owned(), name: "kube-controller-manager-a".to_owned() };
    world.snapshot.absorb(Event::ControlPlane(key, Some(ranges)));
    assert_eq!(pods(&world.settle()).1, ["kube-controller-manager-a 10.244.0.0/16"]);
}

#[test]
fn ciliums_nodes_and_pools_are_taken_and_spiderpools_beside_any() {
    let mut world = three_nodes();
    world.cluster_info();
    pool(&mut world, PoolKind::SpiderPool, "vlan6", &["10.6.200.0/28"]);
    let (mode, nets) = pods(&world.settle());
    assert_eq!((mode, nets.len()), (PodCidrMode::Kubernetes, 4));
    pool(&mut world, PoolKind::CiliumNode, "a", &["10.0.1.0/24"]);
    pool(&mut world, PoolKind::CiliumPool, "blue", &["10.9.0.0/16"]);
    pool(&mut world, PoolKind::SpiderCoordinator, "default", &[]);
    let expected = ["a 10.0.1.0/24", "blue 10.9.0.0/16", "vlan6 10.6.200.0/28"].map(str::to_owned).to_vec();
    assert_eq!(pods(&world.settle()), (PodCidrMode::Cilium, expected));
    super::cluster_networks::mode(&mut world, PodCidrMode::Kubernetes);
    assert_eq!(pods(&world.settle()).1.len(), 3, "only `auto` looks further");
}

/// D16: a network of one address was listed and taken out again by turns.
#[test]
fn x_i3_a_network_of_one_address_stays_whatever_else_changes() {
    let mut world = three_nodes();
    world.cluster_info();
    let mut extra = vec!["1.2.3.4/32".to_owned()];
    for other in ["5.6.7.0/24", "0.0.0.0/0", "fd00::1/128"] {
        extra.push(other.to_owned());
        let mut info = world.snapshot.cluster_info.clone().unwrap();
        info.spec.extra.clone_from(&extra);
        world.snapshot.absorb(Event::ClusterInfo(Some(info)));
        assert_eq!(world.settle().cluster_networks.unwrap().extra, extra);
        assert_eq!(world.settle().cluster_networks.unwrap().extra, extra, "nothing goes by itself");
    }
}

#[test]
fn x_i4_the_addresses_of_nodes_are_followed() {
    let mut world = three_nodes();
    world.cluster_info();
    let nodes = |world: &mut World| world.settle().cluster_networks.unwrap().nodes;
    let before = nodes(&mut world);
    assert_eq!(before.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    let address = "10.9.9.9".parse().unwrap();
    world.edit_node("b", |node| node.addresses = [address].into());
    assert_eq!(nodes(&mut world)["b"], [address].into());
    world.node("d", false);
    assert!(nodes(&mut world).contains_key("d"));
    world.snapshot.absorb(Event::Node("a".to_owned(), None));
    assert_eq!(nodes(&mut world).keys().collect::<Vec<_>>(), ["b", "c", "d"]);
}
