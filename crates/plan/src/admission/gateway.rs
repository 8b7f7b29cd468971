//! EgressGateways.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::gateway::Gateway;
use model::pool::Family;
use model::{IpPool, Reason};

use super::{FieldError, Kind, Operation, Verdict};
use crate::gateways::{self, named_default};
use crate::snapshot::{ClusterSnapshot, GatewayStatus};

/// An EgressGateway as somebody wants it, or as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayDraft {
    /// What it asks for, or all that is wrong with it.
    pub spec: Result<Gateway, Vec<Reason>>,
    /// Whether our finalizer keeps it.
    pub kept: bool,
    /// What its status says.
    pub status: GatewayStatus,
}

/// What somebody wants to do to an EgressGateway.
#[derive(Clone, Copy, Debug)]
pub struct GatewayRequest<'a> {
    /// What is to be done.
    pub operation: Operation,
    /// The gateway's name.
    pub name: &'a str,
    /// As it is stored.
    pub old: Option<&'a GatewayDraft>,
    /// As it is to be.
    pub new: Option<&'a GatewayDraft>,
}

/// What an EgressGateway leaves open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayDefaults {
    /// `spec.ippools.ipv4DefaultEIP`, if it is to be filled.
    pub default_v4: Option<Ipv4Addr>,
    /// `spec.ippools.ipv6DefaultEIP`, if it is to be filled.
    pub default_v6: Option<Ipv6Addr>,
    /// Whether our finalizer is to be added.
    pub finalizer: bool,
}

/// What is to be filled in: a default EIP that was left out stays the one that is stored as long as the pool has it, and else
/// is the lowest address of the pool that no node has.
#[must_use]
pub fn gateway_defaults(snapshot: &ClusterSnapshot, request: GatewayRequest<'_>) -> GatewayDefaults {
    let Some(new) = request.new.filter(|_| request.operation != Operation::Delete) else {
        return GatewayDefaults::default();
    };
    let finalizer = request.operation == Operation::Create && !new.kept;
    let Ok(gateway) = &new.spec else { return GatewayDefaults { finalizer, ..GatewayDefaults::default() } };
    let stored = request.old.and_then(|old| old.spec.as_ref().ok());
    let choose = |family: Family, stored: Option<IpAddr>| {
        let pool = gateway.pool(family);
        let stored = stored.filter(|address| pool.contains(*address));
        stored.or_else(|| pool.first_free(|address| is_a_nodes(snapshot, address)))
    };
    let settings = &snapshot.settings;
    let mut defaults = GatewayDefaults { finalizer, ..GatewayDefaults::default() };
    if settings.ipv4 && gateway.default_v4.is_none() {
        let stored = stored.and_then(|gateway| gateway.default_v4).map(IpAddr::V4);
        if let Some(IpAddr::V4(address)) = choose(Family::V4, stored) {
            defaults.default_v4 = Some(address);
        }
    }
    if settings.ipv6 && gateway.default_v6.is_none() {
        let stored = stored.and_then(|gateway| gateway.default_v6).map(IpAddr::V6);
        if let Some(IpAddr::V6(address)) = choose(Family::V6, stored) {
            defaults.default_v6 = Some(address);
        }
    }
    defaults
}

fn is_a_nodes(snapshot: &ClusterSnapshot, address: IpAddr) -> bool {
    snapshot.nodes.values().any(|node| node.addresses.contains(&address))
}

/// Whether an EgressGateway may be written. It may always be deleted: its finalizer does the waiting.
#[must_use]
pub fn judge_gateway(snapshot: &ClusterSnapshot, request: GatewayRequest<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let Some(new) = request.new.filter(|_| request.operation != Operation::Delete) else { return verdict };
    if request.old.is_some_and(|old| old.spec == new.spec) {
        return verdict;
    }
    let gateway = match &new.spec {
        Ok(gateway) => gateway,
        Err(problems) => {
            problems.iter().for_each(|problem| verdict.refuse(problem));
            return verdict;
        }
    };
    gateways::problems(&snapshot.settings, gateway).iter().for_each(|problem| verdict.refuse(problem));
    for (address, field) in [
        (gateway.default_v4.map(IpAddr::V4), "spec.ippools.ipv4DefaultEIP"),
        (gateway.default_v6.map(IpAddr::V6), "spec.ippools.ipv6DefaultEIP"),
    ] {
        if let Some(Err(problem)) = address.map(|address| named_default(gateway, address, field)) {
            verdict.refuse(&problem);
        }
    }
    let stored = request.old.and_then(|old| old.spec.as_ref().ok());
    others_have_it(snapshot, request.name, gateway, stored, &mut verdict);
    if let (Some(old), Some(stored)) = (request.old, stored) {
        in_use(&old.status, stored, gateway, &mut verdict);
    }
    verdict
}

/// What may be of one gateway only: an address, and to be the default.
fn others_have_it(
    snapshot: &ClusterSnapshot,
    name: &str,
    gateway: &Gateway,
    stored: Option<&Gateway>,
    verdict: &mut Verdict,
) {
    let added = |family: Family| {
        let pool = gateway.pool(family);
        stored.map_or_else(|| pool.clone(), |stored| pool.without(stored.pool(family)))
    };
    let added: [IpPool; 2] = [added(Family::V4), added(Family::V6)];
    let becomes_default = gateway.cluster_default && !stored.is_some_and(|stored| stored.cluster_default);
    let others = snapshot.gateways.iter().filter(|(other, _)| *other != name);
    // One that can't be read has no address to keep from anybody.
    for (other, spec) in others.filter_map(|(other, record)| Some((other, record.spec.as_ref().ok()?))) {
        if becomes_default && spec.cluster_default {
            verdict.refuse(&Reason::AnotherDefault { gateway: other.clone() });
        }
        let common = added.iter().find_map(|pool| pool.common(spec.pool(pool.family())));
        if let Some(address) = common {
            verdict.refuse(&Reason::PoolsOverlap { address, gateway: other.clone() });
        }
    }
}

/// What policies have of the gateway stays theirs.
fn in_use(status: &GatewayStatus, stored: &Gateway, gateway: &Gateway, verdict: &mut Verdict) {
    let held = || status.eips().filter(|(_, _, policies)| !policies.is_empty());
    for (eip, _, policies) in held() {
        let taken_out = |address: &IpAddr| stored.contains(*address) && !gateway.contains(*address);
        for address in eip.addresses().filter(taken_out) {
            let user = policies.first().map_or_else(String::new, ToString::to_string);
            let (field, policies) = (field_of(Family::of(address)), policies.len());
            verdict.error(FieldError::of_value(
                field,
                Kind::Forbidden,
                address,
                format!(
                    "is in use and can't be taken out of the pool; first delete the policies that use it: `{user}`, {policies} in all"
                ),
            ));
        }
    }
    for family in [Family::V4, Family::V6] {
        let is_new = stored.pool(family).is_empty() && !gateway.pool(family).is_empty();
        let in_use = held().next().map(|(eip, _, _)| eip).filter(|_| is_new && !stored.has_no_address());
        if let Some(eip) = in_use {
            verdict.error(FieldError::of_field(
                field_of(family),
                Kind::Forbidden,
                format!(
                    "a first {family} pool can't be added while EIPs are in use ({eip} is): they would become pairs; make a \
                     new gateway with both pools, or delete the policies first"
                ),
            ));
        }
    }
}

fn field_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "spec.ippools.ipv4",
        Family::V6 => "spec.ippools.ipv6",
    }
}
