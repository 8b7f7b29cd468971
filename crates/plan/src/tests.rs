//! Small clusters, planned and applied as the shell would.

mod acceptance;
mod cluster_networks;
mod incremental;
mod lease_writes;
mod leases;
mod moves;
mod node_address;
mod overlap;
mod pool_changes;
mod properties;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use model::cluster::{ClusterInfo, Node, Pod, PodCidrMode, PodKey};
use model::gateway::Gateway;
use model::policy::{EgressChoice, Namespaces, PodSelection, Policy, PolicyKey};
use model::pool::Family;
use model::port_lease::LeaseName;
use model::selector::LabelSelector;
use model::tunnel::Claim;
use model::{EipPair, IpPool, Reason};

use crate::snapshot::{
    ClusterInfoRecord, ClusterSnapshot, Event, GatewayRecord, LeaseRecord, PolicyRecord, TunnelRecord,
};
use crate::{Plan, Settings, plan, violations};

/// A cluster under test.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) snapshot: ClusterSnapshot,
}

pub(crate) fn key(name: &str) -> PolicyKey {
    match name.split_once('/') {
        Some((namespace, name)) => PolicyKey { namespace: Some(namespace.to_owned()), name: name.to_owned() },
        None => PolicyKey { namespace: None, name: name.to_owned() },
    }
}

pub(crate) fn eip(text: &str) -> EipPair {
    text.parse().unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        Self { snapshot: ClusterSnapshot::new(Settings::default()) }
    }

    pub(crate) fn dual_stack() -> Self {
        Self { snapshot: ClusterSnapshot::new(Settings { ipv6: true, ..Settings::default() }) }
    }

    /// A node whose agent is at work; with `gateway` it has the label that the gateways here select.
    pub(crate) fn node(&mut self, name: &str, gateway: bool) -> &mut Self {
        let mut labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), name.to_owned())]);
        if gateway {
            labels.insert("egress".to_owned(), "true".to_owned());
        }
        let number = 1 + self.snapshot.nodes.len();
        let node = Node {
            labels,
            ready: true,
            addresses: BTreeSet::from([format!("10.6.{}.{}", number / 250, number % 250).parse().unwrap()]),
            pod_cidrs: BTreeSet::from([format!("10.{}.{}.0/24", 128 + number / 250, number % 250)
                .parse()
                .unwrap()]),
        };
        self.snapshot.absorb(Event::Node(name.to_owned(), Some(node)));
        self.agent(name, true)
    }

    pub(crate) fn agent(&mut self, name: &str, programmed: bool) -> &mut Self {
        let mut record = self.snapshot.tunnels.get(name).cloned().unwrap_or_default();
        record.tunnel.parent = Some("eth0".to_owned());
        record.tunnel.programmed = Some(programmed);
        self.snapshot.absorb(Event::Tunnel(name.to_owned(), Some(record)));
        self
    }

    pub(crate) fn claim(&mut self, name: &str, eip: EipPair, epoch: i64) -> &mut Self {
        let mut record = self.snapshot.tunnels.get(name).cloned().unwrap_or_default();
        record.tunnel.claims.retain(|claim| claim.eip != eip);
        record.tunnel.claims.push(Claim { eip, epoch });
        self.snapshot.absorb(Event::Tunnel(name.to_owned(), Some(record)));
        self
    }

    pub(crate) fn edit_node(&mut self, name: &str, edit: impl FnOnce(&mut Node)) -> &mut Self {
        let mut node = self.snapshot.nodes.get(name).cloned().unwrap_or_default();
        edit(&mut node);
        self.snapshot.absorb(Event::Node(name.to_owned(), Some(node)));
        self
    }

    pub(crate) fn gateway(&mut self, name: &str, v4: &[&str]) -> &mut Self {
        self.gateway_of(name, v4, &[], |_| {})
    }

    pub(crate) fn gateway_of(
        &mut self,
        name: &str,
        v4: &[&str],
        v6: &[&str],
        edit: impl FnOnce(&mut Gateway),
    ) -> &mut Self {
        let mut gateway = Gateway {
            cluster_default: false,
            nodes: LabelSelector::equal_to([("egress", "true")]),
            pool_v4: IpPool::parse(Family::V4, v4).unwrap(),
            pool_v6: IpPool::parse(Family::V6, v6).unwrap(),
            default_v4: None,
            default_v6: None,
        };
        edit(&mut gateway);
        let before = self.snapshot.gateways.get(name).cloned();
        let created_at_s = i64::try_from(self.snapshot.gateways.len()).unwrap();
        let record = GatewayRecord {
            spec: Ok(gateway),
            created_at_s: before.as_ref().map_or(created_at_s, |record| record.created_at_s),
            deleting: false,
            kept: true,
            moves: Vec::new(),
            status: before.map(|record| record.status).unwrap_or_default(),
        };
        self.snapshot.absorb(Event::Gateway(name.to_owned(), Some(record)));
        self
    }

    pub(crate) fn refused_gateway(&mut self, name: &str, reason: Reason) -> &mut Self {
        self.gateway(name, &[]);
        self.edit_gateway(name, |record| record.spec = Err(reason))
    }

    pub(crate) fn edit_gateway(&mut self, name: &str, edit: impl FnOnce(&mut GatewayRecord)) -> &mut Self {
        let mut record = self.snapshot.gateways.get(name).cloned().unwrap();
        edit(&mut record);
        self.snapshot.absorb(Event::Gateway(name.to_owned(), Some(record)));
        self
    }

    /// `namespace/name`, or a name for a cluster policy; an empty gateway is none.
    pub(crate) fn policy(&mut self, name: &str, gateway: &str, egress: EgressChoice) -> &mut Self {
        let key = key(name);
        let gateway = Some(gateway.to_owned()).filter(|name| !name.is_empty());
        let selector = LabelSelector::equal_to([("app", key.name.as_str())]);
        let namespaces = key.namespace.clone().map_or(Namespaces::All, Namespaces::One);
        let record = PolicyRecord {
            spec: Ok(Policy {
                gateway: gateway.clone(),
                egress,
                pods: PodSelection::Labels(namespaces, selector),
                destinations: BTreeSet::new(),
                priority: None,
            }),
            gateway,
            created_at_s: i64::try_from(self.snapshot.policies.len()).unwrap(),
            uid: format!("uid-of-{name}"),
            status: Default::default(),
        };
        self.snapshot.absorb(Event::Policy(key, Some(record)));
        self
    }

    pub(crate) fn pod(
        &mut self,
        namespace: &str,
        name: &str,
        app: &str,
        edit: impl FnOnce(&mut Pod),
    ) -> &mut Self {
        let number = self.snapshot.pods.len();
        let mut pod = Pod {
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            node: "a".to_owned(),
            addresses: BTreeSet::from([format!("10.244.{}.{}", number / 250, 1 + number % 250)
                .parse()
                .unwrap()]),
            host_network: false,
            finished: false,
        };
        edit(&mut pod);
        let key = PodKey { namespace: namespace.to_owned(), name: name.to_owned() };
        self.snapshot.absorb(Event::Pod(key, Some(pod)));
        self
    }

    pub(crate) fn remove(&mut self, event: Event) -> &mut Self {
        self.snapshot.absorb(event);
        self
    }

    pub(crate) fn cluster_info(&mut self) -> &mut Self {
        let spec = ClusterInfo {
            pod_cidr_mode: PodCidrMode::Auto,
            detect_services: true,
            detect_nodes: true,
            extra: vec!["192.0.2.1".to_owned()],
        };
        let record = ClusterInfoRecord { spec, ..ClusterInfoRecord::default() };
        self.snapshot.absorb(Event::ClusterInfo(Some(record)));
        self
    }

    pub(crate) fn pass_s(&mut self, seconds: i64) -> &mut Self {
        let now_s = self.snapshot.now_s + seconds;
        self.snapshot.absorb(Event::Now(now_s));
        self
    }

    /// Plans, judges, applies, and checks that nothing is left to do.
    #[track_caller]
    pub(crate) fn settle(&mut self) -> Plan {
        let first = self.step();
        let again = self.step();
        assert_eq!(statuses(&first), statuses(&again), "the plan of the applied plan changes something");
        assert_eq!(again.notices, [], "a notice is told twice");
        first
    }

    #[track_caller]
    pub(crate) fn step(&mut self) -> Plan {
        let plan = plan(&self.snapshot);
        assert_eq!(violations(&self.snapshot, &plan), []);
        apply(&mut self.snapshot, &plan);
        plan
    }

    pub(crate) fn node_of(&self, policy: &str) -> Option<&str> {
        self.snapshot.policies.get(&key(policy))?.status.node.as_deref()
    }

    pub(crate) fn eip_of(&self, policy: &str) -> Option<EipPair> {
        self.snapshot.policies.get(&key(policy))?.status.eip
    }

    pub(crate) fn verdict_of(&self, policy: &str) -> String {
        let verdict =
            self.snapshot.policies.get(&key(policy)).and_then(|record| record.status.verdict.clone());
        verdict.map(|verdict| format!("{}: {}", verdict.code, verdict.message)).unwrap_or_default()
    }
}

/// The only part of a node's lease, while it holds few EIPs.
pub(crate) fn whole(node: &str) -> LeaseName {
    LeaseName::new(node, 0)
}

/// The parts of a plan that are about objects, and not about changes or times.
fn statuses(plan: &Plan) -> Plan {
    let mut plan = Plan { notices: Vec::new(), wake_at_s: None, ..plan.clone() };
    for gateway in plan.gateways.values_mut() {
        (gateway.fill_default_v4, gateway.fill_default_v6) = (None, None);
        gateway.moves.ended.clear();
    }
    for policy in plan.policies.values_mut() {
        policy.fill_gateway = None;
    }
    // Objects that are deleted are not planned again.
    plan.leases.retain(|_, lease| lease.is_some());
    plan.gateways.retain(|_, gateway| gateway.keep);
    plan
}

/// What the shell and the API server make of a plan.
pub(crate) fn apply(snapshot: &mut ClusterSnapshot, plan: &Plan) {
    for (name, planned) in &plan.gateways {
        let Some(mut record) = snapshot.gateways.get(name).cloned() else { continue };
        record.status = planned.status.clone();
        record.kept = planned.keep;
        record.moves.retain(|request| planned.moves.waiting.contains(&request.text));
        if let Ok(gateway) = &mut record.spec {
            gateway.default_v4 = gateway.default_v4.or(planned.fill_default_v4);
            gateway.default_v6 = gateway.default_v6.or(planned.fill_default_v6);
        }
        let gone = record.deleting && !planned.keep;
        snapshot.absorb(Event::Gateway(name.clone(), Some(record).filter(|_| !gone)));
    }
    for (key, planned) in &plan.policies {
        let Some(mut record) = snapshot.policies.get(key).cloned() else { continue };
        record.status = planned.status.clone();
        record.gateway = record.gateway.or_else(|| planned.fill_gateway.clone());
        if let Ok(policy) = &mut record.spec {
            policy.gateway = record.gateway.clone();
        }
        snapshot.absorb(Event::Policy(key.clone(), Some(record)));
    }
    let stale: Vec<String> =
        snapshot.tunnels.keys().filter(|name| !plan.tunnels.contains_key(*name)).cloned().collect();
    for name in stale {
        snapshot.absorb(Event::Tunnel(name, None));
    }
    for (name, planned) in &plan.tunnels {
        let mut record: TunnelRecord = snapshot.tunnels.get(name).cloned().unwrap_or_default();
        record.tunnel.ipv4 = planned.ipv4;
        record.tunnel.ipv6 = planned.ipv6;
        record.tunnel.mac = Some(planned.mac);
        record.tunnel.mark = planned.mark;
        record.tunnel.phase = Some(planned.phase);
        record.tunnel.message.clone_from(&planned.message);
        snapshot.absorb(Event::Tunnel(name.clone(), Some(record)));
    }
    for (node, lease) in &plan.leases {
        let before = snapshot.leases.get(node).cloned().unwrap_or_default();
        let record = lease.clone().map(|lease| LeaseRecord { lease, ..before });
        snapshot.absorb(Event::Lease(node.clone(), record));
    }
    let stale: Vec<_> =
        snapshot.slices.keys().filter(|key| !plan.slices.contains_key(*key)).cloned().collect();
    for key in stale {
        snapshot.absorb(Event::Slice(key, None));
    }
    for (key, slice) in &plan.slices {
        snapshot.absorb(Event::Slice(key.clone(), Some(slice.clone())));
    }
    if let (Some(info), Some(networks)) = (snapshot.cluster_info.clone(), &plan.cluster_networks) {
        let info = ClusterInfoRecord { status: networks.clone(), ..info };
        snapshot.absorb(Event::ClusterInfo(Some(info)));
    }
}

/// A plan as a person would sum it up.
pub(crate) fn summary(plan: &Plan) -> String {
    let mut text = String::new();
    for (name, gateway) in &plan.gateways {
        let status = &gateway.status;
        let usage = status.usage;
        let _ = writeln!(
            text,
            "gateway {name}: {} (v4 {}/{} free, v6 {}/{} free){}",
            gateway.reason.code(),
            usage.v4_free,
            usage.v4_total,
            usage.v6_free,
            usage.v6_total,
            if gateway.keep { "" } else { ", let go" },
        );
        let fills = [gateway.fill_default_v4.map(IpAddr::V4), gateway.fill_default_v6.map(IpAddr::V6)];
        for default in fills.into_iter().flatten() {
            let _ = writeln!(text, "  default {default}");
        }
        for (node, entry) in &status.nodes {
            let _ = writeln!(text, "  {node} {}", entry.phase);
            for (eip, policies) in &entry.eips {
                let _ = writeln!(text, "    {eip} {}", names(policies));
            }
            if !entry.lent_to.is_empty() {
                let _ = writeln!(text, "    own address {}", names(&entry.lent_to));
            }
        }
        for (eip, policies) in &status.unplaced {
            let _ = writeln!(text, "  unplaced {eip} {}", names(policies));
        }
    }
    for (key, policy) in &plan.policies {
        let eip = policy.status.eip.map_or("-".to_owned(), |eip| eip.to_string());
        let node = policy.status.node.as_deref().unwrap_or("-");
        let fill = policy.fill_gateway.as_ref().map(|name| format!(" gateway {name}")).unwrap_or_default();
        let _ = writeln!(text, "policy {key}: {eip} {node} {}{fill}", policy.reason.code());
    }
    for (node, tunnel) in &plan.tunnels {
        let v4 = tunnel.ipv4.map_or("-".to_owned(), |address| address.to_string());
        let v6 = tunnel.ipv6.map_or("-".to_owned(), |address| address.to_string());
        let _ =
            writeln!(text, "tunnel {node}: {v4} {v6} {:#010x} {}", tunnel.mark.unwrap_or(0), tunnel.phase);
    }
    for (node, lease) in &plan.leases {
        let Some(lease) = lease else {
            let _ = writeln!(text, "lease {node}: deleted");
            continue;
        };
        let _ = write!(text, "lease {node} #{}:", lease.generation);
        for lease in &lease.leases {
            let blocks: Vec<String> =
                lease.blocks.iter().map(|leased| format!("{} {:?}", leased.block, leased.state)).collect();
            let _ = write!(text, " {} [{}]", lease.eip, blocks.join(", "));
        }
        text.push('\n');
    }
    for notice in &plan.notices {
        let kind = if notice.warning { "Warning" } else { "Normal" };
        let _ = writeln!(text, "{kind} {} {}: {}", notice.subject, notice.code, notice.message);
    }
    text
}

fn names(policies: &BTreeSet<PolicyKey>) -> String {
    policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
