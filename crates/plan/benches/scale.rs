//! How long a plan of a large cluster takes, what an event costs and how much memory it all needs:
//! `cargo bench -p plan --bench scale`.
//!
//! Two sizes in one run, so that growth can be seen: the smaller one is the reference of the larger one.

#![expect(clippy::indexing_slicing, reason = "the keys come from the maps themselves")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use model::IpPool;
use model::cluster::{Node, Pod, PodKey};
use model::gateway::Gateway;
use model::policy::{EgressChoice, Namespaces, PodSelection, Policy, PolicyKey};
use model::pool::Family;
use model::port_lease::{LeaseName, PortLease};
use model::selector::LabelSelector;
use plan::snapshot::{GatewayRecord, LeaseRecord, PolicyRecord, PolicyStatus, TunnelRecord};
use plan::{Changed, Event, Planner, Settings};

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
fn cluster(size: Size) -> Planner {
    let mut snapshot = Planner::new(Settings::default());
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
fn apply(planner: &mut Planner) {
    for name in planner.last().gateways.keys().cloned().collect::<Vec<_>>() {
        let Some(mut record) = planner.snapshot().gateways.get(&name).cloned() else { continue };
        record.status = planner.last().gateways[&name].status.clone();
        planner.absorb(Event::Gateway(name, Some(record)));
    }
    for key in planner.last().policies.keys().cloned().collect::<Vec<_>>() {
        let Some(mut record) = planner.snapshot().policies.get(&key).cloned() else { continue };
        record.status = planner.last().policies[&key].status.clone();
        planner.absorb(Event::Policy(key, Some(record)));
    }
    for name in planner.last().tunnels.keys().cloned().collect::<Vec<_>>() {
        let mut record = planner.snapshot().tunnels.get(&name).cloned().unwrap_or_default();
        let planned = &planner.last().tunnels[&name];
        let tunnel = &mut record.tunnel;
        (tunnel.ipv4, tunnel.mark, tunnel.phase) = (planned.ipv4, planned.mark, Some(planned.phase));
        tunnel.mac = Some(planned.mac);
        planner.absorb(Event::Tunnel(name, Some(record)));
    }
    for name in planner.last().leases.keys().cloned().collect::<Vec<_>>() {
        let lease = planner.last().leases[&name].clone();
        apply_lease(planner, &name, lease);
    }
    for key in planner.last().slices.keys().cloned().collect::<Vec<_>>() {
        let slice = planner.last().slices[&key].clone();
        planner.absorb(Event::Slice(key, Some(slice)));
    }
}

fn apply_lease(planner: &mut Planner, name: &LeaseName, lease: Option<PortLease>) {
    let record = lease.map(|lease| LeaseRecord { lease, ..LeaseRecord::default() });
    planner.absorb(Event::Lease(name.clone(), record));
}

/// Makes a pod, or deletes it, and does all that the controller does for that but the writing. Whether a lease changed.
fn pod_event(planner: &mut Planner, key: &PodKey, pod: Option<Pod>) -> bool {
    planner.absorb(Event::Pod(key.clone(), pod));
    let changed = planner.plan().1;
    assert!(planner.violations(&changed).is_empty(), "the judge objects");
    let Changed::Parts(parts) = changed else { panic!("everything was planned again for one pod") };
    for slice in &parts.slices {
        let planned = planner.last().slices.get(slice).cloned();
        planner.absorb(Event::Slice(slice.clone(), planned));
    }
    for name in &parts.leases {
        let planned = planner.last().leases.get(name).cloned().flatten();
        apply_lease(planner, name, planned);
    }
    !parts.nodes.is_empty()
}

/// How often this thread has lost its core to another.
fn preemptions() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    line.and_then(|line| line.trim().parse().ok()).unwrap_or_default()
}

/// Resident memory of this process, in MiB.
fn resident_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or_default() / 1024
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
        "{:>6} {:>9} {:>9} {:>8}  {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8}",
        "nodes",
        "gateways",
        "policies",
        "pods",
        "cold",
        "judge",
        "again",
        "pod, p50",
        "pod, p99",
        "highest",
        "RSS"
    );
    for size in [small, large] {
        let mut planner = cluster(size);
        let (changed, cold) = timed(|| planner.plan().1);
        let (found, judge) = timed(|| planner.violations(&changed));
        assert!(found.is_empty(), "{} violations, first {:?}", found.len(), found.first());
        apply(&mut planner);
        let (changed, again) = timed(|| planner.plan().1);
        assert!(matches!(changed, Changed::Parts(_)), "what was written is planned again");
        let resident = resident_mib();
        let mut took = Vec::new();
        let mut undisturbed = Vec::new();
        let mut leases = 0;
        for number in 0..10_000 {
            let policy = number * 7919 % size.policies;
            let key = PodKey { namespace: format!("ns-{}", policy / 10), name: format!("new-{number}") };
            let pod = Pod {
                labels: labels("app", policy.to_string()),
                node: format!("node-{:05}", number * 31 % size.nodes),
                addresses: BTreeSet::from([address([40, 0, 0, 0], number).into()]),
                host_network: false,
                finished: false,
            };
            for pod in [Some(pod), None] {
                let before = preemptions();
                let (lease, event) = timed(|| pod_event(&mut planner, &key, pod));
                if preemptions() == before {
                    undisturbed.push(event);
                }
                leases += usize::from(lease);
                took.push(event);
            }
        }
        took.sort_unstable();
        let at = |share: usize| took.get((took.len() - 1) * share / 100).copied().unwrap_or_default();
        println!(
            "{:>6} {:>9} {:>9} {:>8}  {cold:>10.1?} {judge:>10.1?} {again:>10.1?} {:>10.1?} {:>10.1?} {:>10.1?} {resident:>4} MiB",
            size.nodes,
            size.gateways,
            size.policies,
            size.pods,
            at(50),
            at(99),
            at(100)
        );
        println!("       {leases} of {} pod events changed leases", took.len());
        undisturbed.sort_unstable();
        let p99 = undisturbed.get((undisturbed.len() - 1) * 99 / 100).copied().unwrap_or_default();
        println!("       {} ran without losing the core to others: p99 {p99:.1?}", undisturbed.len());
    }
}
