//! Tunnel addresses and marks that are given to nodes and come back, under the names that existing dashboards know.
//!
//! Those names have no `_total` at their end, which the encoder gives every counter: so they are gauges that only grow.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use plan::outcome::TunnelPlan;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    version: &'static str,
}

/// Addresses and mark of a node.
type Held = (Option<Ipv4Addr>, Option<Ipv6Addr>, Option<u32>);

/// Counts what the plan gives to nodes and takes back.
#[derive(Debug, Default)]
pub(super) struct TunnelResources {
    addresses_given: Family<Version, Gauge>,
    addresses_back: Family<Version, Gauge>,
    marks_given: Gauge,
    marks_back: Gauge,
    held: Mutex<BTreeMap<String, Held>>,
}

impl TunnelResources {
    pub(super) fn register(&self, registry: &mut Registry) {
        let text = "Tunnel addresses given to nodes, those that were found at the start included";
        registry.register("egress_ip_allocate_next_restore_calls", text, self.addresses_given.clone());
        let text = "Tunnel addresses that nodes have given back";
        registry.register("egress_ip_allocate_release_calls", text, self.addresses_back.clone());
        let text = "Marks given to nodes, those that were found at the start included";
        registry.register("egress_mark_allocate_next_calls", text, self.marks_given.clone());
        registry.register(
            "egress_mark_release_calls",
            "Marks that nodes have given back",
            self.marks_back.clone(),
        );
    }

    /// Counts what differs from the plan before.
    pub(super) fn planned(&self, tunnels: &BTreeMap<String, TunnelPlan>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (node, planned) in tunnels {
            let now = (planned.ipv4, planned.ipv6, planned.mark);
            match held.get_mut(node) {
                Some(before) if *before == now => {}
                Some(before) => self.count(std::mem::replace(before, now), now),
                None => {
                    held.insert(node.clone(), now);
                    self.count((None, None, None), now);
                }
            }
        }
        if held.len() > tunnels.len() {
            held.retain(|node, before| {
                let stays = tunnels.contains_key(node);
                if !stays {
                    self.count(*before, (None, None, None));
                }
                stays
            });
        }
    }

    fn count(&self, before: Held, now: Held) {
        let version = |version| Version { version };
        if before.0 != now.0 {
            changed(
                before.0,
                now.0,
                || self.addresses_given.get_or_create_owned(&version("ipv4")),
                || self.addresses_back.get_or_create_owned(&version("ipv4")),
            );
        }
        if before.1 != now.1 {
            changed(
                before.1,
                now.1,
                || self.addresses_given.get_or_create_owned(&version("ipv6")),
                || self.addresses_back.get_or_create_owned(&version("ipv6")),
            );
        }
        if before.2 != now.2 {
            changed(before.2, now.2, || self.marks_given.clone(), || self.marks_back.clone());
        }
    }
}

/// Something was given back, or given, or both.
fn changed<T>(before: Option<T>, now: Option<T>, given: impl Fn() -> Gauge, back: impl Fn() -> Gauge) {
    if before.is_some() {
        back().inc();
    }
    if now.is_some() {
        given().inc();
    }
}

#[cfg(test)]
mod tests {
    use model::tunnel::Phase;
    use model::tunnel_mac::MacAddress;

    use super::*;

    fn tunnels(nodes: &[(&str, u8)]) -> BTreeMap<String, TunnelPlan> {
        let plan = |(node, last): &(&str, u8)| {
            let plan = TunnelPlan {
                message: String::new(),
                ipv4: Some(Ipv4Addr::new(172, 31, 0, *last)),
                ipv6: None,
                mac: MacAddress::of_tunnel(node),
                mark: Some(0x2600_0000 + u32::from(*last)),
                phase: Phase::Ready,
                problem: None,
            };
            ((*node).to_owned(), plan)
        };
        nodes.iter().map(plan).collect()
    }

    #[test]
    fn what_is_given_and_what_comes_back_is_counted_once_and_under_the_known_names() {
        let counted = TunnelResources::default();
        let mut registry = Registry::default();
        counted.register(&mut registry);
        for nodes in [&[("a", 1), ("b", 2)][..], &[("a", 1), ("b", 2)], &[("a", 1)], &[("a", 3)]] {
            counted.planned(&tunnels(nodes));
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "egress_ip_allocate_next_restore_calls{version=\"ipv4\"} 3\n",
            "egress_ip_allocate_release_calls{version=\"ipv4\"} 2\n",
            "egress_mark_allocate_next_calls 3\n",
            "egress_mark_release_calls 2\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
