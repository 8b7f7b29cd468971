//! Views for tests: a small cluster like the lab's, and random ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use datapath::numbering::Numbering;
use datapath::view::*;
use model::policy::{PolicyKey, Precedence};
use model::tunnel_mac::MacAddress;
use model::{EipPair, PortBlock};
use proptest::prelude::*;

pub(crate) const NODES: [&str; 4] = ["node-1", "node-2", "node-3", "node-4"];

/// Number of a node, from 1.
pub(crate) fn number(node: &str) -> u8 {
    node.rsplit('-').next().unwrap().parse().unwrap()
}

pub(crate) fn underlay(node: &str) -> Ipv4Addr {
    Ipv4Addr::new(10, 6, 0, 10 + number(node))
}

pub(crate) fn tunnel4(node: &str) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, 0, number(node))
}

pub(crate) fn tunnel6(node: &str) -> Ipv6Addr {
    Ipv6Addr::new(0xfd11, 0, 0, 0, 0, 0, 0, number(node).into())
}

pub(crate) fn mac(node: &str) -> MacAddress {
    MacAddress::of_tunnel(node)
}

pub(crate) fn eip(n: u8) -> EipPair {
    Ipv4Addr::new(10, 6, 168, 200 + n).into()
}

pub(crate) fn block(first: u16, size: u32) -> PortBlock {
    PortBlock::from_size(first, size).unwrap()
}

pub(crate) fn pod_key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

/// Address of the n-th pod of a node.
pub(crate) fn pod_address(node: &str, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, number(node), n)
}

/// A node of a cluster of four, without pods and policies.
pub(crate) fn node(name: &str) -> NodeView {
    NodeView {
        node: name.to_owned(),
        uplink: Some(Uplink {
            device: "eth0".to_owned(),
            index: 2,
            mtu: 1500,
            ipv4: Some(underlay(name)),
            ipv6: None,
            next_hop_ipv4: Some(Ipv4Addr::new(10, 6, 0, 1)),
            next_hop_ipv6: None,
        }),
        tunnel: Some(OwnTunnel { mac: mac(name), ipv4: Some(tunnel4(name)), ipv6: Some(tunnel6(name)) }),
        peers: NODES
            .iter()
            .filter(|peer| **peer != name)
            .map(|peer| {
                let (mac, ipv4, ipv6) = (mac(peer), Some(tunnel4(peer)), Some(tunnel6(peer)));
                ((*peer).to_owned(), Peer { mac, underlay: underlay(peer).into(), ipv4, ipv6 })
            })
            .collect(),
        cluster_cidrs: ["10.244.0.0/16", "10.96.0.0/12", "fd00::/48"].map(|net| net.parse().unwrap()).into(),
        node_addresses: NODES.map(|node| underlay(node).into()).into(),
        ..NodeView::default()
    }
}

pub(crate) fn policy(name: &str, pods: &[&str], destinations: &[&str], eip: Option<EipPair>) -> PolicyView {
    let destinations: BTreeSet<_> = destinations.iter().map(|net| net.parse().unwrap()).collect();
    PolicyView {
        precedence: Precedence {
            priority: None,
            created_at: 0,
            key: PolicyKey { namespace: Some("default".to_owned()), name: name.to_owned() },
        },
        pods: pods.iter().map(|pod| pod_key(pod)).collect(),
        destinations: if destinations.is_empty() {
            Destinations::Outside
        } else {
            Destinations::Subnets(destinations)
        },
        eip,
        is_young: false,
        gateway: "default".to_owned(),
    }
}

pub(crate) fn pod(node: &str, n: u8, interface: Option<u32>) -> Pod {
    Pod { addresses: BTreeSet::from([IpAddr::V4(pod_address(node, n))]), interface }
}

/// A source node: two pods, one policy, its EIP carried by node-3.
pub(crate) fn source() -> NodeView {
    let mut view = node("node-1");
    view.pods = BTreeMap::from([
        (pod_key("a"), pod("node-1", 5, Some(7))),
        (pod_key("b"), pod("node-1", 6, None)),
        (pod_key("c"), pod("node-1", 7, None)),
    ]);
    view.policies = vec![policy("test", &["a", "b"], &[], Some(eip(1)))];
    view.all_eips = BTreeSet::from([eip(1), eip(2)]);
    view.eips = BTreeMap::from([(
        eip(1),
        SourceEip {
            carrier: Some("node-3".to_owned()),
            candidates: BTreeSet::from(["node-3".to_owned(), "node-4".to_owned()]),
            block: Some(block(4096, 4096)),
            draining: BTreeSet::new(),
            overflow: false,
            node_address: false,
        },
    )]);
    view
}

pub(crate) fn lease(node: &str, first: u16, size: u32) -> Lease {
    Lease { block: block(first, size), node: node.to_owned(), role: LeaseRole::Source, draining: false }
}

/// A gateway that answers one of its two EIPs.
pub(crate) fn gateway(name: &str) -> NodeView {
    let mut view = node(name);
    view.all_eips = BTreeSet::from([eip(1), eip(2), eip(3)]);
    view.gateway_eips = BTreeMap::from([
        (
            eip(1),
            GatewayEip {
                answers: true,
                leases: BTreeSet::from([
                    lease("node-1", 4096, 4096),
                    lease("node-2", 8192, 4096),
                    lease("node-3", 12288, 4096),
                    lease("node-4", 16384, 4096),
                ]),
            },
        ),
        (
            eip(2),
            GatewayEip {
                answers: false,
                leases: BTreeSet::from([lease("node-1", 1024, 64), lease("node-2", 4096, 4096)]),
            },
        ),
    ]);
    view
}

/// Numbers for a view that stands alone.
pub(crate) fn numbered(view: &NodeView) -> Numbering {
    let mut numbering = Numbering::default();
    assert_eq!(numbering.update(view, &BTreeSet::new()), []);
    numbering
}

fn any_subset(of: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(of, 0..=of.len())
}

const PODS: [&str; 4] = ["a", "b", "c", "d"];
const SUBNETS: [&str; 7] =
    ["0.0.0.0/0", "1.0.0.0/8", "1.1.0.0/16", "1.1.1.1/32", "10.6.0.0/16", "169.254.169.254/32", "fd99::/64"];

fn any_eip() -> impl Strategy<Value = EipPair> {
    (1u8..4, any::<bool>()).prop_map(|(n, pair)| {
        let v6 = Ipv6Addr::new(0xfd06, 0, 0, 0, 0, 0, 0, n.into());
        let v4 = Ipv4Addr::new(10, 6, 168, if pair { 210 } else { 200 } + n);
        EipPair::new(Some(v4), pair.then_some(v6)).unwrap()
    })
}

fn any_policy() -> impl Strategy<Value = PolicyView> {
    let order = (proptest::option::of(0u64..2), 0i64..2, 0u8..6, any::<bool>());
    (order, any_subset(&PODS), any_subset(&SUBNETS), proptest::option::weighted(0.9, any_eip())).prop_map(
        |((priority, created_at, name, cluster), pods, subnets, eip)| {
            let mut policy = policy(&format!("p{name}"), &pods, &subnets, eip);
            policy.precedence.priority = priority;
            policy.precedence.created_at = created_at;
            if cluster {
                policy.precedence.key.namespace = None;
            }
            policy
        },
    )
}

fn any_node() -> impl Strategy<Value = String> {
    proptest::sample::select(&NODES).prop_map(str::to_owned)
}

/// Blocks that never overlap: node n holds the n-th of its size.
fn any_block(node: &str) -> impl Strategy<Value = PortBlock> + use<> {
    let n = u16::from(number(node));
    prop_oneof![Just(block(4096 * n, 4096)), Just(block(1024 + 64 * n, 64))]
}

fn any_source_eip(node: &str) -> impl Strategy<Value = SourceEip> + use<> {
    let carrier = proptest::option::weighted(0.8, any_node());
    let candidates = proptest::collection::btree_set(any_node(), 0..3);
    (carrier, candidates, proptest::option::weighted(0.7, any_block(node)), any::<bool>()).prop_map(
        |(carrier, candidates, block, overflow)| SourceEip {
            carrier,
            candidates,
            block,
            draining: BTreeSet::new(),
            overflow,
            node_address: false,
        },
    )
}

fn any_gateway_eip() -> impl Strategy<Value = GatewayEip> {
    let leases = NODES.map(|node| {
        proptest::option::of(any_block(node).prop_map(move |block| Lease {
            block,
            node: node.to_owned(),
            role: LeaseRole::Source,
            draining: false,
        }))
    });
    // Node n of four has the n-th part of the range.
    let overflow = NODES.map(|node| {
        let first = 49152 + 4096 * (u16::from(number(node)) - 1);
        let lease = move |draining| Lease { draining, role: LeaseRole::Overflow, ..lease(node, first, 1024) };
        proptest::option::of(proptest::bool::weighted(0.2).prop_map(lease))
    });
    (any::<bool>(), leases, overflow).prop_map(|(answers, leases, overflow)| GatewayEip {
        answers,
        leases: leases.into_iter().chain(overflow).flatten().collect(),
    })
}

/// Any view of node-1, consistent or not.
pub(crate) fn any_view() -> impl Strategy<Value = NodeView> {
    let pods = proptest::collection::btree_map(
        proptest::sample::select(&PODS),
        (1u8..5, proptest::option::of(3u32..9)),
        0..4,
    );
    let policies = proptest::collection::btree_map(0..6, any_policy(), 0..5);
    let eips = proptest::collection::btree_map(any_eip(), any_source_eip("node-1"), 0..4);
    let gateways = proptest::collection::btree_map(any_eip(), any_gateway_eip(), 0..3);
    let state = (
        prop_oneof![
            Just(NoGatewayAction::Reject),
            Just(NoGatewayAction::Drop),
            Just(NoGatewayAction::Direct)
        ],
        proptest::bool::weighted(0.3),
        proptest::bool::weighted(0.9),
        proptest::bool::weighted(0.9),
        proptest::collection::btree_set(any_eip(), 0..4),
        (proptest::option::of((any_node(), any::<bool>())), any::<bool>()),
    );
    (pods, policies, eips, gateways, state).prop_map(
        |(pods, policies, eips, gateway_eips, (action, ipv6, tunnel, uplink, all_eips, (lender, lends)))| {
            let mut view = node("node-1");
            view.pods = pods
                .into_iter()
                .map(|(name, (n, interface))| {
                    let mut pod = pod("node-1", n, interface);
                    pod.addresses.insert(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, n.into()).into());
                    (pod_key(name), pod)
                })
                .collect();
            // Names are unique, as the API server has it.
            let unique: BTreeMap<_, _> =
                policies.into_values().map(|policy| (policy.precedence.key.clone(), policy)).collect();
            view.policies = unique.into_values().collect();
            view.eips = eips;
            view.lends_address = lends;
            if let Some((node, lives)) = lender {
                let own = EipPair::new(Some(tunnel4(&node)), Some(tunnel6(&node))).unwrap();
                if let Some(policy) = view.policies.first_mut() {
                    policy.eip = Some(own);
                }
                let carrier = lives.then(|| node.clone());
                let candidates = BTreeSet::from([node]);
                let source = SourceEip { carrier, candidates, node_address: true, ..SourceEip::default() };
                view.eips.insert(own, source);
            }
            view.gateway_eips = gateway_eips;
            view.all_eips = all_eips;
            view.settings.no_gateway_action = action;
            view.settings.ipv6 = ipv6;
            if !tunnel {
                view.tunnel = None;
            }
            if !uplink {
                view.uplink = None;
            }
            view
        },
    )
}
