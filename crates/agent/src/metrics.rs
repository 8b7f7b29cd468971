//! All metrics of the agent. Labels are bounded by the program, not by the cluster, except for the EIPs that pods of this node
//! leave with and the policies that give them: at most as many as selected pods here, or as policies.
//!
//! ```text
//! egress_packets_total{egress_ip}   what left with it            egress_connections{egress_ip}
//! egress_bytes_total{egress_ip}                                  egress_ports_used{egress_ip}
//! policy_info{policy, namespace, egress_ip, gateway} 1           egress_ports_leased{egress_ip}
//! ```
//!
//! Traffic is counted by EIP, for that is what a flow keeps for life; `policy_info` joins it to policies, of which several may
//! share an EIP.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datapath::compile::names;
use datapath::transaction::CounterValue;
use datapath::view::{NodeView, PolicyView};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::port_use::InUse;
use crate::probe::ProbeCounters;

/// What the loop counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Passes that changed something
    pub transactions: Counter,
    /// Passes that failed
    pub errors: Counter,
    /// Passes that mended what somebody else had changed
    pub repairs: Counter,
    /// Duration of passes
    pub pass_seconds: Histogram,
    /// EIPs that this node answers for
    pub answered: Gauge,
    /// EIPs that pods of this node use, and that nobody carries
    pub without_carrier: Gauge,
    /// Policies that are in force on this node
    pub policies: Gauge,
    /// Local pods that a policy selects
    pub selected_pods: Gauge,
    /// Announcements of EIPs
    pub announced: Announced,
    connections: Family<OfEip, Gauge>,
    ports_used: Family<OfEip, Gauge>,
    ports_leased: Family<OfEip, Gauge>,
    policy_info: Family<OfPolicy, Gauge>,
}

/// Announcements by the address that they are about. Requests for EIPs and the answers are the kernel's, and not counted.
#[derive(Clone, Debug, Default)]
pub struct Announced(Family<Ip, Gauge>);

impl Announced {
    /// One more was sent.
    pub fn count(&self, address: IpAddr) {
        self.0.get_or_create(&Ip { ip: address.to_string() }).inc();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ip {
    ip: String,
}

/// An address of an EIP.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEip {
    egress_ip: String,
}

/// A policy and what its pods leave with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPolicy {
    namespace: String,
    policy: String,
    egress_ip: String,
    gateway: String,
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn register(registry: &mut Registry, probe: Arc<ProbeCounters>, kernel: Arc<KernelCounters>) -> Self {
        let metrics = Self {
            transactions: Counter::default(),
            errors: Counter::default(),
            repairs: Counter::default(),
            pass_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            answered: Gauge::default(),
            without_carrier: Gauge::default(),
            policies: Gauge::default(),
            selected_pods: Gauge::default(),
            announced: Announced::default(),
            connections: Family::default(),
            ports_used: Family::default(),
            ports_leased: Family::default(),
            policy_info: Family::default(),
        };
        // The name that dashboards know has no `_total` at its end, which the encoder gives every counter.
        let text = "Unasked announcements of an EIP that this node sent";
        registry.register("egressgateway_layer2_gratuitous_sent", text, metrics.announced.0.clone());
        let agent = registry.sub_registry_with_prefix("egressgateway_agent");
        agent.register("transactions", "Passes that changed the kernel", metrics.transactions.clone());
        agent.register("errors", "Passes that failed", metrics.errors.clone());
        agent.register(
            "drift_repairs",
            "Passes that mended what somebody else had changed",
            metrics.repairs.clone(),
        );
        agent.register("pass_seconds", "Duration of passes", metrics.pass_seconds.clone());
        agent.register("answered_eips", "EIPs that this node answers for", metrics.answered.clone());
        agent.register(
            "eips_without_carrier",
            "EIPs of this node's pods that no live gateway carries",
            metrics.without_carrier.clone(),
        );
        agent.register("policies", "Policies in force", metrics.policies.clone());
        agent.register("selected_pods", "Local pods that a policy selects", metrics.selected_pods.clone());
        agent.register(
            "egress_connections",
            "Connections of local pods that connection tracking holds, by egress IP",
            metrics.connections.clone(),
        );
        agent.register(
            "egress_ports_used",
            "Ports in use towards the busiest destination, by egress IP",
            metrics.ports_used.clone(),
        );
        agent.register(
            "egress_ports_leased",
            "Ports that this node holds for new connections, by egress IP",
            metrics.ports_leased.clone(),
        );
        agent.register(
            "policy_info",
            "1 for each policy that selects local pods, with what they leave with",
            metrics.policy_info.clone(),
        );
        agent.register_collector(Box::new(ProbeCollector(probe)));
        agent.register_collector(Box::new(KernelCollector(kernel)));
        metrics
    }

    /// Tells what local pods use of each address.
    pub fn in_use(&self, all: &BTreeMap<IpAddr, InUse>) {
        for family in [&self.connections, &self.ports_used, &self.ports_leased] {
            family.clear();
        }
        for (address, used) in all {
            let label = OfEip { egress_ip: address.to_string() };
            self.connections.get_or_create(&label).set(used.connections.into());
            self.ports_used.get_or_create(&label).set(used.ports.into());
            self.ports_leased.get_or_create(&label).set(used.leased.into());
        }
    }

    /// Tells which policies select local pods.
    pub fn policies_in_force(&self, view: &NodeView) {
        self.policy_info.clear();
        let selecting = |policy: &&PolicyView| policy.pods.iter().any(|pod| view.pods.contains_key(pod));
        for policy in view.policies.iter().filter(selecting) {
            let key = &policy.precedence.key;
            for address in policy.eip.iter().flat_map(|eip| eip.addresses()) {
                let label = OfPolicy {
                    namespace: key.namespace.clone().unwrap_or_default(),
                    policy: key.name.clone(),
                    egress_ip: address.to_string(),
                    gateway: policy.gateway.clone(),
                };
                self.policy_info.get_or_create(&label).set(1);
            }
        }
    }
}

/// Counters of the kernel by name, read when somebody asks for them.
pub struct KernelCounters {
    read: Box<dyn Fn() -> Vec<(String, CounterValue)> + Send + Sync>,
    by_eip: Box<dyn Fn() -> Vec<(IpAddr, CounterValue)> + Send + Sync>,
}

impl KernelCounters {
    /// Read by these functions, by name and by EIP, which may take some milliseconds.
    pub fn new(
        read: impl Fn() -> Vec<(String, CounterValue)> + Send + Sync + 'static,
        by_eip: impl Fn() -> Vec<(IpAddr, CounterValue)> + Send + Sync + 'static,
    ) -> Self {
        Self { read: Box::new(read), by_eip: Box::new(by_eip) }
    }
}

impl std::fmt::Debug for KernelCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KernelCounters")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Debug)]
struct KernelCollector(Arc<KernelCounters>);

impl Collector for KernelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let read = (self.0.read)();
        let known = |name: &str| names::COUNTERS.iter().any(|(known, _)| *known == name);
        for (metric, help) in [
            ("datapath_packets", "Packets that were refused, dropped or counted, by reason"),
            ("datapath_bytes", "Bytes of packets that were refused, dropped or counted, by reason"),
        ] {
            let family = encoder.encode_descriptor(
                metric,
                help,
                None,
                prometheus_client::metrics::MetricType::Counter,
            );
            let mut family = family?;
            for (reason, value) in read.iter().filter(|(name, _)| known(name)) {
                let labels = Reason { reason: reason.clone() };
                let count = if metric.ends_with("packets") { value.packets } else { value.bytes };
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        // An EIP may have had several numbers.
        let mut by_eip: BTreeMap<IpAddr, CounterValue> = BTreeMap::new();
        for (address, value) in (self.0.by_eip)() {
            let sum = by_eip.entry(address).or_default();
            sum.packets += value.packets;
            sum.bytes += value.bytes;
        }
        for (metric, help) in [
            ("egress_packets", "Packets of local pods that left with this egress IP"),
            ("egress_bytes", "Bytes of packets of local pods that left with this egress IP"),
        ] {
            let counter = prometheus_client::metrics::MetricType::Counter;
            let mut family = encoder.encode_descriptor(metric, help, None, counter)?;
            for (address, value) in &by_eip {
                let labels = OfEip { egress_ip: address.to_string() };
                let count = if metric.ends_with("packets") { value.packets } else { value.bytes };
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct ProbeCollector(Arc<ProbeCounters>);

impl Collector for ProbeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counters: [(&str, &str, &AtomicU64); 5] = [
            ("probe_sent_datagrams", "Probe datagrams sent", &self.0.sent),
            ("probe_received_datagrams", "Probe datagrams taken", &self.0.received),
            (
                "probe_refused_datagrams",
                "Probe datagrams that were malformed or not signed by their node",
                &self.0.refused,
            ),
            ("probe_stalls", "Times that this process was late by itself", &self.0.stalls),
            ("takeovers", "EIPs that this node took", &self.0.taken),
        ];
        for (name, help, counter) in counters {
            let counter = ConstCounter::new(counter.load(Ordering::Relaxed));
            let described = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(described)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_counted_by_address_under_the_name_that_dashboards_know() {
        let mut registry = Registry::default();
        let counters = KernelCounters::new(Vec::new, Vec::new);
        let metrics = Metrics::register(&mut registry, Arc::default(), Arc::new(counters));
        for _ in 0..3 {
            metrics.announced.count(IpAddr::from([10, 6, 168, 201]));
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("egressgateway_layer2_gratuitous_sent{ip=\"10.6.168.201\"} 3\n"), "{text}");
    }
}
