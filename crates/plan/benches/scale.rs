//! How long a plan of a large cluster takes: `cargo bench -p plan --bench scale`.
//!
//! Two sizes in one run, so that growth can be seen: the smaller one is the reference of the larger one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use model::IpPool;
use model::cluster::{Node, Pod, PodKey};
use model::gateway::Gateway;
use model::policy::{EgressChoice, Namespaces, PodSelection, Policy, PolicyKey};
use model::pool::Family;
use model::selector::LabelSelector;
use plan::snapshot::{GatewayRecord, LeaseRecord, PolicyRecord, PolicyStatus, TunnelRecord};
use plan::{ClusterSnapshot, Event, Plan, Settings, plan, violations};

#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    gateway_nodes: usize,
    gateways: usize,
    policies: usize,
    pods: usize,
}

fn address(base: [u8; 4], number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + u32::try_from(number).unwrap_or_default())
}

fn labels(key: &str, value: String) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value)])
}

/// A cluster of that size: policies spread over namespaces of ten each, one EIP per policy.
fn cluster(size: Size) -> ClusterSnapshot {
    let mut snapshot = ClusterSnapshot::new(Settings::default());
    for number in 0..size.nodes {
        let group = if number < size.gateway_nodes { number % size.gateways } else { usize::MAX };
        let node = Node {
            labels: labels("group", group.to_string()),
            ready: true,
            addresses: BTreeSet::from([address([10, 0, 0, 1], number).into()]),
            pod_cidrs: BTreeSet::new(),
        };
        let name = format!("node-{number:05}");
        let mut tunnel = TunnelRecord::default();
        (tunnel.tunnel.parent, tunnel.tunnel.programmed) = (Some("eth0".to_owned()), Some(true));
        snapshot.absorb(Event::Node(name.clone(), Some(node)));
        snapshot.absorb(Event::Tunnel(name, Some(tunnel)));
    }
    let of_gateway = size.policies.div_ceil(size.gateways);
    for number in 0..size.gateways {
        let (first, last) = (number * of_gateway, (number + 1) * of_gateway - 1);
        let pool = format!("{}-{}", address([20, 0, 0, 0], first), address([20, 0, 0, 0], last));
        let gateway = Gateway {
            cluster_default: false,
            nodes: LabelSelector::equal_to([("group", number.to_string())]),
            pool_v4: IpPool::parse(Family::V4, &[pool]).unwrap_or_else(|_| IpPool::empty(Family::V4)),
            pool_v6: IpPool::empty(Family::V6),
            default_v4: None,
            default_v6: None,
        };
        let record = GatewayRecord {
            spec: Ok(gateway),
            created_at_s: 0,
            deleting: false,
            kept: true,
            moves: Vec::new(),
            status: Default::default(),
        };
        snapshot.absorb(Event::Gateway(format!("gateway-{number:04}"), Some(record)));
    }
    for number in 0..size.policies {
        let namespace = format!("ns-{}", number / 10);
        let gateway = Some(format!("gateway-{:04}", number / of_gateway));
        let selector = LabelSelector::equal_to([("app", number.to_string())]);
        let record = PolicyRecord {
            spec: Ok(Policy {
                gateway: gateway.clone(),
                egress: EgressChoice::Unshared,
                pods: PodSelection::Labels(Namespaces::One(namespace.clone()), selector),
                destinations: BTreeSet::new(),
                priority: None,
            }),
            gateway,
            created_at_s: 0,
            uid: number.to_string(),
            status: PolicyStatus::default(),
        };
        let key = PolicyKey { namespace: Some(namespace), name: format!("policy-{number}") };
        snapshot.absorb(Event::Policy(key, Some(record)));
    }
    for number in 0..size.pods {
        let policy = number % size.policies;
        let pod = Pod {
            labels: labels("app", policy.to_string()),
            node: format!("node-{:05}", number % size.nodes),
            addresses: BTreeSet::from([address([30, 0, 0, 0], number).into()]),
            host_network: false,
            finished: false,
        };
        let key = PodKey { namespace: format!("ns-{}", policy / 10), name: format!("pod-{number}") };
        snapshot.absorb(Event::Pod(key, Some(pod)));
    }
    snapshot
}

/// What a plan leaves behind once it is written.
fn apply(snapshot: &mut ClusterSnapshot, plan: &Plan) {
    for (name, planned) in &plan.gateways {
        let Some(mut record) = snapshot.gateways.get(name).cloned() else { continue };
        record.status = planned.status.clone();
        snapshot.absorb(Event::Gateway(name.clone(), Some(record)));
    }
    for (key, planned) in &plan.policies {
        let Some(mut record) = snapshot.policies.get(key).cloned() else { continue };
        record.status = planned.status.clone();
        snapshot.absorb(Event::Policy(key.clone(), Some(record)));
    }
    for (name, planned) in &plan.tunnels {
        let mut record = snapshot.tunnels.get(name).cloned().unwrap_or_default();
        let tunnel = &mut record.tunnel;
        (tunnel.ipv4, tunnel.mark, tunnel.phase) = (planned.ipv4, planned.mark, Some(planned.phase));
        snapshot.absorb(Event::Tunnel(name.clone(), Some(record)));
    }
    for (node, lease) in &plan.leases {
        let record = lease.clone().map(|lease| LeaseRecord { lease, ..LeaseRecord::default() });
        snapshot.absorb(Event::Lease(node.clone(), record));
    }
    for (key, slice) in &plan.slices {
        snapshot.absorb(Event::Slice(key.clone(), Some(slice.clone())));
    }
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = act();
    (done, start.elapsed())
}

fn main() {
    let small = Size { nodes: 500, gateway_nodes: 100, gateways: 100, policies: 1_000, pods: 10_000 };
    let large = Size { nodes: 5_000, gateway_nodes: 1_000, gateways: 1_000, policies: 10_000, pods: 100_000 };
    println!(
        "{:>6} {:>9} {:>9} {:>8}  {:>10} {:>10} {:>10}",
        "nodes", "gateways", "policies", "pods", "first", "again", "judge"
    );
    for size in [small, large] {
        let mut snapshot = cluster(size);
        let (first, first_took) = timed(|| plan(&snapshot));
        apply(&mut snapshot, &first);
        let (again, again_took) = timed(|| plan(&snapshot));
        let (found, judge_took) = timed(|| violations(&snapshot, &again));
        assert!(found.is_empty(), "{} violations, first {:?}", found.len(), found.first());
        assert!(again.notices.is_empty(), "the second plan changes something");
        println!(
            "{:>6} {:>9} {:>9} {:>8}  {first_took:>10.1?} {again_took:>10.1?} {judge_took:>10.1?}",
            size.nodes, size.gateways, size.policies, size.pods
        );
    }
}
