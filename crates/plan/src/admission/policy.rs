//! EgressPolicies and EgressClusterPolicies.

use std::net::IpAddr;

use model::policy::{EgressChoice, Policy, PolicyKey};
use model::pool::Family;
use model::{EipPair, Reason};

use super::{FieldError, Kind, Operation, Verdict};
use crate::gateways::{by_age, choose};
use crate::snapshot::{ClusterSnapshot, GatewayRecord};

/// A policy as somebody wants it, or as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDraft {
    /// What it asks for, or all that is wrong with it.
    pub spec: Result<Policy, Vec<Reason>>,
    /// What stays as it was when the policy was made.
    pub fields: EgressFields,
}

/// Fields as they are written; empty where they are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressFields {
    /// `spec.egressGatewayName`
    pub gateway: String,
    /// `spec.egressIP.useNodeIP`
    pub use_node_ip: bool,
    /// `spec.egressIP.ipv4`
    pub ipv4: String,
    /// `spec.egressIP.ipv6`
    pub ipv6: String,
    /// `spec.egressIP.allocatorPolicy`
    pub allocator_policy: String,
}

/// What somebody wants to do to a policy.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRequest<'a> {
    /// What is to be done.
    pub operation: Operation,
    /// The policy's name.
    pub key: &'a PolicyKey,
    /// As it is stored.
    pub old: Option<&'a PolicyDraft>,
    /// As it is to be.
    pub new: Option<&'a PolicyDraft>,
}

/// What a policy leaves open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyDefaults {
    /// `spec.egressGatewayName`, if it is to be filled.
    pub gateway: Option<String>,
    /// Whether `spec.egressIP` says nothing at all and is to be what the CRD's default is.
    pub egress_ip: bool,
}

/// What is to be filled in. The gateway of a policy that names none is the one that is stored; a new policy's is that of
/// its namespace, else the cluster's.
#[must_use]
pub fn policy_defaults(snapshot: &ClusterSnapshot, request: PolicyRequest<'_>) -> PolicyDefaults {
    let Some(new) = request.new.filter(|_| request.operation != Operation::Delete) else {
        return PolicyDefaults::default();
    };
    let stored = request.old.map(|old| old.fields.gateway.clone()).filter(|name| !name.is_empty());
    let chosen = || match choose(snapshot, &by_age(snapshot), request.key, None) {
        Ok(name) => Some(name.to_owned()),
        // What the namespace names is what its user wants, though it is not there.
        Err(Reason::UnknownGateway { gateway }) => Some(gateway),
        Err(_) => None,
    };
    let fields = &new.fields;
    PolicyDefaults {
        gateway: fields.gateway.is_empty().then(|| stored.or_else(chosen)).flatten(),
        egress_ip: *fields == EgressFields { gateway: fields.gateway.clone(), ..EgressFields::default() },
    }
}

/// Whether a policy may be written. It may always be deleted.
#[must_use]
pub fn judge_policy(snapshot: &ClusterSnapshot, request: PolicyRequest<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let Some(new) = request.new.filter(|_| request.operation != Operation::Delete) else { return verdict };
    if request.old.is_some_and(|old| old == new) {
        return verdict;
    }
    if let Err(problems) = &new.spec {
        problems.iter().for_each(|problem| verdict.refuse(problem));
    }
    if let Some(old) = request.old {
        unchanged(&old.fields, &new.fields, &mut verdict);
    }
    if new.fields.gateway.is_empty() && request.old.is_none() {
        verdict.refuse(&Reason::NoDefaultGateway);
    } else if let (Operation::Create, Ok(policy)) = (request.operation, &new.spec) {
        fits_gateway(snapshot, &new.fields.gateway, policy, &mut verdict);
    }
    verdict
}

/// Connections rely on these: another address needs another policy.
fn unchanged(old: &EgressFields, new: &EgressFields, verdict: &mut Verdict) {
    let mut compare = |field: &str, old: &str, new: &str, same: bool| {
        if !same {
            let problem = format!("is immutable, and was {old:?}; delete the policy and make it anew");
            verdict.error(FieldError::of_value(field, Kind::Invalid, new, problem));
        }
    };
    // The controller fills it where no webhook has.
    let filled = old.gateway.is_empty() || old.gateway == new.gateway;
    compare("spec.egressGatewayName", &old.gateway, &new.gateway, filled);
    let [before, after] = [old.use_node_ip, new.use_node_ip].map(|flag| flag.to_string());
    compare("spec.egressIP.useNodeIP", &before, &after, before == after);
    let same = |old: &str, new: &str| {
        let address = |text: &str| text.parse::<IpAddr>().ok();
        old == new || address(old).is_some_and(|old| address(new) == Some(old))
    };
    compare("spec.egressIP.ipv4", &old.ipv4, &new.ipv4, same(&old.ipv4, &new.ipv4));
    compare("spec.egressIP.ipv6", &old.ipv6, &new.ipv6, same(&old.ipv6, &new.ipv6));
    let allocator = |text: &str| if text.is_empty() { "default".to_owned() } else { text.to_owned() };
    let [before, after] = [&old.allocator_policy, &new.allocator_policy].map(|text| allocator(text));
    compare("spec.egressIP.allocatorPolicy", &before, &after, before == after);
}

/// Whether the gateway can give what the policy asks for.
fn fits_gateway(snapshot: &ClusterSnapshot, name: &str, policy: &Policy, verdict: &mut Verdict) {
    let unknown = || Reason::UnknownGateway { gateway: name.to_owned() };
    let Some(record) = snapshot.gateways.get(name) else {
        if policy.egress == EgressChoice::NodeAddress {
            verdict.warnings.push(unknown().to_string());
        } else {
            verdict.refuse(&unknown());
        }
        return;
    };
    let Ok(gateway) = &record.spec else {
        verdict.warnings.push(Reason::GatewayRefused { gateway: name.to_owned() }.to_string());
        return;
    };
    if policy.egress != EgressChoice::NodeAddress && gateway.has_no_address() {
        return verdict.refuse(&Reason::PoolEmpty { gateway: name.to_owned() });
    }
    let EgressChoice::Exactly(wanted) = policy.egress else { return };
    for address in wanted.addresses() {
        let settings = &snapshot.settings;
        let (family, enabled, field) = match Family::of(address) {
            Family::V4 => ("IPv4", settings.ipv4, "spec.egressIP.ipv4"),
            Family::V6 => ("IPv6", settings.ipv6, "spec.egressIP.ipv6"),
        };
        if !enabled {
            let problem =
                format!("{family} is not enabled here; leave it out, or set feature.enable{family}");
            verdict.error(FieldError::of_value(field, Kind::Forbidden, address, problem));
        } else if !gateway.contains(address) {
            verdict.refuse(&Reason::OutsidePool { address, gateway: name.to_owned() });
        }
    }
    if let Some(pair) = partner(record, gateway.named_default(), wanted).filter(|_| verdict.is_allowed()) {
        verdict.gateways.insert(name.to_owned());
        verdict.refuse(&Reason::PairedElsewhere { wanted, pair });
    }
}

/// The pair that an address of the wanted EIP is part of already, if that is another one.
fn partner(record: &GatewayRecord, default: Option<EipPair>, wanted: EipPair) -> Option<EipPair> {
    let default = default.filter(|pair| pair.addresses().count() == 2);
    let in_use = record.status.eips().map(|(eip, _, _)| eip);
    default.into_iter().chain(in_use).find(|pair| pair.overlaps(&wanted) && *pair != wanted)
}
