//! What must never be, looked for after every write, by other means than the code that decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::convert;
use api::v1beta1::{EgressGateway, EgressGatewayStatus, EgressPortLease};
use model::EipPair;
use model::port_lease::BlockState;

use crate::objects::{Key, Kind, Object};
use crate::server::Server;

/// Ports of the smallest block.
const UNIT: u16 = 64;
/// The controller counts whole seconds.
const ROUNDING_MS: u64 = 1_000;

/// What is known of 64 ports of an EIP.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unit {
    /// Who has them, or had them last
    holder: String,
    /// Since when nobody may begin connections with them; `None`: the holder may
    unused_since_ms: Option<u64>,
}

/// Looks at objects, and remembers who held what.
#[derive(Clone, Debug)]
pub struct Judge {
    /// So long ports rest before another gets them
    rest_ms: u64,
    seen: BTreeMap<Kind, usize>,
    units: BTreeMap<(EipPair, u16), Unit>,
    statuses: BTreeMap<Key, Option<EgressGatewayStatus>>,
}

impl Judge {
    /// Of a cluster in which ports rest so long.
    #[must_use]
    pub fn new(rest_s: u64) -> Self {
        Self {
            rest_ms: rest_s * 1000,
            seen: BTreeMap::new(),
            units: BTreeMap::new(),
            statuses: BTreeMap::new(),
        }
    }

    /// What is wrong with what was written since this was asked last.
    pub fn look(&mut self, server: &Server, now_ms: u64) -> Result<(), String> {
        let news = |seen: &mut BTreeMap<Kind, usize>, kind: Kind| {
            let (from, to) = (seen.get(&kind).copied().unwrap_or(0), server.log(kind).len());
            seen.insert(kind, to);
            from..to
        };
        let (nodes, leases) = (news(&mut self.seen, Kind::Node), news(&mut self.seen, Kind::Lease));
        if !nodes.is_empty() || !leases.is_empty() {
            self.ports(server, now_ms)?;
        }
        let gateways = news(&mut self.seen, Kind::Gateway);
        if !gateways.is_empty() {
            for entry in server.log(Kind::Gateway).get(gateways).unwrap_or_default() {
                if let Object::Gateway(gateway) = &*entry.object {
                    self.pool(&entry.key, gateway, entry.is_gone)?;
                }
            }
            eips(server)?;
        }
        Ok(())
    }

    /// No port has two holders, and none has another before it has rested.
    fn ports(&mut self, server: &Server, now_ms: u64) -> Result<(), String> {
        let mut now: BTreeMap<(EipPair, u16), (&str, bool)> = BTreeMap::new();
        let leases: Vec<_> =
            leases(server).map(|(_, lease)| (convert::lease_name(lease).node, lease)).collect();
        for (node, lease) in &leases {
            let has_node = server.all(Kind::Node).contains_key(&(String::new(), node.clone()));
            for held in &convert::port_lease(lease).leases {
                for leased in &held.blocks {
                    let is_used = has_node && leased.state == BlockState::Active;
                    for first in (leased.block.first()..=leased.block.last()).step_by(UNIT.into()) {
                        let other = now.insert((held.eip, first), (node, is_used));
                        if let Some((other, _)) = other.filter(|(other, _)| other != node) {
                            return Err(format!(
                                "ports {first}.. of {} have two holders: {other} and {node}",
                                held.eip
                            ));
                        }
                    }
                }
            }
        }
        for (key, unit) in &mut self.units {
            if !now.contains_key(key) {
                unit.unused_since_ms.get_or_insert(now_ms);
            }
        }
        for (key, (node, is_used)) in now {
            let unused_since_ms = (!is_used).then_some(now_ms);
            let known = self.units.entry(key);
            let known = known.or_insert_with(|| Unit { holder: node.to_owned(), unused_since_ms });
            if known.holder == node {
                known.unused_since_ms =
                    if is_used { None } else { known.unused_since_ms.or(unused_since_ms) };
                continue;
            }
            let rested_ms = known.unused_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
            if rested_ms + ROUNDING_MS < self.rest_ms {
                return Err(format!(
                    "ports {}.. of {} went from {} to {node} after a rest of {rested_ms} ms",
                    key.1, key.0, known.holder
                ));
            }
            *known = Unit { holder: node.to_owned(), unused_since_ms };
        }
        Ok(())
    }

    /// A status that is written has no address that the gateway's pool has not.
    fn pool(&mut self, key: &Key, gateway: &EgressGateway, is_gone: bool) -> Result<(), String> {
        let before = if is_gone {
            self.statuses.remove(key)
        } else {
            self.statuses.insert(key.clone(), gateway.status.clone())
        };
        if is_gone || before.flatten() == gateway.status {
            return Ok(());
        }
        let Ok(spec) = convert::gateway(gateway) else { return Ok(()) };
        match addresses(gateway).into_iter().find(|address| !spec.contains(*address)) {
            Some(address) => {
                Err(format!("status of gateway {} has {address}, which is not in its pool", key.1))
            }
            None => Ok(()),
        }
    }
}

fn leases(server: &Server) -> impl Iterator<Item = (&Key, &EgressPortLease)> {
    server.all(Kind::Lease).iter().filter_map(|(key, object)| match &**object {
        Object::Lease(lease) => Some((key, &**lease)),
        _ => None,
    })
}

/// The addresses that a gateway's status names.
#[must_use]
pub fn addresses(gateway: &EgressGateway) -> Vec<IpAddr> {
    let status = gateway.status.iter();
    let placed = status.clone().flat_map(|status| &status.node_list).flat_map(|node| &node.eips);
    let eips = placed.chain(status.flat_map(|status| &status.unplaced));
    eips.flat_map(|eip| [&eip.ipv4, &eip.ipv6]).filter_map(|text| text.parse().ok()).collect()
}

/// No EIP is on two gateways, or twice on one.
fn eips(server: &Server) -> Result<(), String> {
    let mut seen: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for ((_, name), object) in server.all(Kind::Gateway) {
        let Object::Gateway(gateway) = &**object else { continue };
        for address in addresses(gateway) {
            if let Some(other) = seen.insert(address, name) {
                return Err(format!("{address} is in the status of gateways {other} and {name}"));
            }
        }
    }
    Ok(())
}

/// What must hold once everything is quiet.
pub fn at_rest(
    server: &Server,
    settings: &plan::Settings,
    orders: &mut [crate::random::Random],
) -> Result<(), String> {
    policies(server)?;
    let plans: Vec<plan::Plan> = orders
        .iter_mut()
        .map(|order| crate::cold::plan(server, settings, order))
        .collect::<Result<_, _>>()?;
    let mut rest = plans.iter();
    let Some(first) = rest.next() else { return Ok(()) };
    if rest.any(|plan| plan != first) {
        return Err("the same objects give different plans in another order".to_owned());
    }
    Ok(())
}

/// Every policy that is not in force says why, and every one that is has an EIP that its gateway's status has.
fn policies(server: &Server) -> Result<(), String> {
    let placed: BTreeSet<IpAddr> = server
        .all(Kind::Gateway)
        .values()
        .flat_map(|object| match &**object {
            Object::Gateway(gateway) => addresses(gateway),
            _ => Vec::new(),
        })
        .collect();
    let of = |object: &Object| match object {
        Object::Policy(policy) => policy.status.clone(),
        Object::ClusterPolicy(policy) => policy.status.clone(),
        _ => None,
    };
    let policies = server.all(Kind::Policy).iter().chain(server.all(Kind::ClusterPolicy));
    for ((namespace, name), object) in policies {
        let status = of(object).ok_or_else(|| format!("policy {namespace}/{name} has no status"))?;
        let ready = api::v1beta1::condition(&status.conditions, api::names::CONDITION_READY);
        let ready = ready.ok_or_else(|| format!("policy {namespace}/{name} has no condition"))?;
        if ready.reason.is_empty() || ready.message.is_empty() {
            return Err(format!("policy {namespace}/{name} has no reason"));
        }
        if (ready.status == "True") == status.node.is_empty() {
            return Err(format!("policy {namespace}/{name} is {} on node `{}`", ready.status, status.node));
        }
        let eip: Option<IpAddr> = status.eip.ipv4.parse().ok();
        if eip.is_some_and(|eip| !placed.contains(&eip)) {
            return Err(format!("policy {namespace}/{name} has {}, which no gateway has", status.eip.ipv4));
        }
    }
    Ok(())
}
