//! What the controller counts.

mod admission;
mod tunnel_resources;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use plan::snapshot::Usage;
use plan::{Changed, Plan};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

pub(crate) use self::admission::AdmissionMetrics;
use self::tunnel_resources::TunnelResources;
use crate::write::Outcome;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pool {
    gateway: String,
    family: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Election {
    name: &'static str,
}

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    leading: Gauge,
    plan_seconds: Histogram,
    write_seconds: Histogram,
    writes: Family<WriteResult, Counter>,
    violations: Counter,
    pool_addresses: Family<Pool, Gauge<f64, AtomicU64>>,
    policies: Family<Reason, Gauge>,
    tunnels: Family<Phase, Gauge>,
    port_blocks: Gauge,
    nodes_without_block: Gauge,
    endpoints: Gauge,
    tunnel_resources: TunnelResources,
    leads: Family<Election, Gauge>,
    pub(crate) admission: AdmissionMetrics,
}

impl Metrics {
    /// Metrics, and the registry that shows them.
    pub(crate) fn new() -> (Self, Registry) {
        // From 0.1 ms to 6.5 s.
        let seconds = || Histogram::new(exponential_buckets(0.0001, 4.0, 9));
        let metrics = Self {
            leading: Gauge::default(),
            plan_seconds: seconds(),
            write_seconds: seconds(),
            writes: Family::default(),
            violations: Counter::default(),
            pool_addresses: Family::default(),
            policies: Family::default(),
            tunnels: Family::default(),
            port_blocks: Gauge::default(),
            nodes_without_block: Gauge::default(),
            endpoints: Gauge::default(),
            tunnel_resources: TunnelResources::default(),
            leads: Family::default(),
            admission: AdmissionMetrics::default(),
        };
        let mut root = Registry::default();
        metrics.tunnel_resources.register(&mut root);
        let text = "Whether this replica leads, under the name that controllers commonly give it";
        root.register("leader_election_master_status", text, metrics.leads.clone());
        let registry = root.sub_registry_with_prefix("egressgateway_controller");
        metrics.admission.register(registry);
        registry.register("leading", "Whether this replica leads", metrics.leading.clone());
        registry.register("plan_seconds", "Time to make a plan", metrics.plan_seconds.clone());
        registry.register("write_seconds", "Time to write a plan", metrics.write_seconds.clone());
        registry.register("writes", "Writes to the API server", metrics.writes.clone());
        registry.register("plan_violations", "Plans that the judge refused", metrics.violations.clone());
        registry.register("pool_addresses", "Addresses of a gateway's pools", metrics.pool_addresses.clone());
        registry.register("policies", "Policies by what their condition says", metrics.policies.clone());
        registry.register("tunnels", "Tunnels by phase", metrics.tunnels.clone());
        registry.register("port_blocks", "Leased port blocks", metrics.port_blocks.clone());
        let text = "Pairs of EIP and node that got no block because all ports are leased";
        registry.register("nodes_without_block", text, metrics.nodes_without_block.clone());
        registry.register("endpoints", "Entries of all endpoint slices", metrics.endpoints.clone());
        (metrics, root)
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leading.set(leads.into());
        self.leads.get_or_create(&Election { name: "egressgateway" }).set(leads.into());
    }

    pub(crate) fn refused(&self) {
        self.violations.inc();
    }

    pub(crate) fn planned(&self, plan: &Plan, changed: &Changed, took: Duration) {
        self.plan_seconds.observe(took.as_secs_f64());
        if *changed == Changed::Everything {
            self.counted(plan);
        }
    }

    /// Counts what there is of everything.
    pub(crate) fn counted(&self, plan: &Plan) {
        self.pool_addresses.clear();
        for (name, gateway) in &plan.gateways {
            let Usage { v4_total, v4_free, v6_total, v6_free } = gateway.status.usage;
            for (family, state, count) in [
                ("ipv4", "free", v4_free),
                ("ipv4", "used", v4_total - v4_free),
                ("ipv6", "free", v6_free),
                ("ipv6", "used", v6_total - v6_free),
            ] {
                let pool = Pool { gateway: name.clone(), family, state };
                // A pool of IPv6 is beyond whole numbers.
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a metric of 2^53 addresses need not be exact"
                )]
                self.pool_addresses.get_or_create(&pool).set(count as f64);
            }
        }
        self.policies.clear();
        for policy in plan.policies.values() {
            self.policies.get_or_create(&Reason { reason: policy.reason.code().to_owned() }).inc();
        }
        self.tunnel_resources.planned(&plan.tunnels);
        self.tunnels.clear();
        for tunnel in plan.tunnels.values() {
            self.tunnels.get_or_create(&Phase { phase: tunnel.phase.as_str() }).inc();
        }
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.port_blocks.set(gauge(plan.leases.values().flatten().map(|lease| lease.block_count()).sum()));
        self.nodes_without_block.set(gauge(plan.unleased.len()));
        self.endpoints.set(gauge(plan.slices.values().map(|slice| slice.endpoints.len()).sum()));
    }

    pub(crate) fn written(&self, outcome: Outcome, took: Duration) {
        self.write_seconds.observe(took.as_secs_f64());
        for (result, count) in
            [("written", outcome.written), ("conflict", outcome.conflicts), ("failed", outcome.failed)]
        {
            self.writes.get_or_create(&WriteResult { result }).inc_by(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_encoded_with_our_prefix() {
        let (metrics, registry) = Metrics::new();
        metrics.planned(&Plan::default(), &Changed::Everything, Duration::from_millis(1));
        metrics.written(Outcome { written: 2, ..Outcome::default() }, Duration::from_millis(1));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("egressgateway_controller_writes_total{result=\"written\"} 2"), "{text}");
    }
}
