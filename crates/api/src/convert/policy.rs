//! EgressPolicy and EgressClusterPolicy.

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as WireSelector;
use model::policy::{EgressChoice, Namespaces, PodSelection, Policy};
use model::{EipPair, Reason};

use super::{cidrs, invalid, networks_or_addresses, optional_v4, optional_v6, selector};
use crate::v1beta1::{EgressClusterPolicy, EgressIp, EgressPolicy};

/// What the policy asks for, or why it can't be had.
pub fn policy(object: &EgressPolicy) -> Result<Policy, Reason> {
    let spec = &object.spec;
    let applied_to = spec.applied_to.clone().unwrap_or_default();
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    Ok(Policy {
        gateway: Some(spec.egress_gateway_name.clone()).filter(|name| !name.is_empty()),
        egress: egress(&spec.egress_ip)?,
        pods: pods(Namespaces::One(namespace), applied_to.pod_selector.as_ref(), &applied_to.pod_subnet)?,
        destinations: destinations(&spec.dest_subnet)?,
        priority: priority(spec.priority)?,
    })
}

/// What the policy asks for, or why it can't be had.
pub fn cluster_policy(object: &EgressClusterPolicy) -> Result<Policy, Reason> {
    let spec = &object.spec;
    let applied_to = spec.applied_to.clone().unwrap_or_default();
    let namespaces = match &applied_to.namespace_selector {
        None => Namespaces::All,
        wire => Namespaces::Matching(selector("spec.appliedTo.namespaceSelector", wire.as_ref())?),
    };
    Ok(Policy {
        gateway: Some(spec.egress_gateway_name.clone()).filter(|name| !name.is_empty()),
        egress: egress(&spec.egress_ip)?,
        pods: pods(namespaces, applied_to.pod_selector.as_ref(), &applied_to.pod_subnet)?,
        destinations: destinations(&spec.dest_subnet)?,
        priority: priority(spec.priority)?,
    })
}

fn egress(wire: &EgressIp) -> Result<EgressChoice, Reason> {
    let v4 = optional_v4("spec.egressIP.ipv4", &wire.ipv4)?;
    let v6 = optional_v6("spec.egressIP.ipv6", &wire.ipv6)?;
    match (EipPair::new(v4, v6), wire.use_node_ip, wire.allocator_policy.as_str()) {
        (Some(_), true, _) => Err(invalid(
            "spec.egressIP",
            "useNodeIP excludes ipv4 and ipv6; remove the addresses or set useNodeIP to false",
        )),
        (None, true, _) => Ok(EgressChoice::NodeAddress),
        (Some(eip), false, _) => Ok(EgressChoice::Exactly(eip)),
        (None, false, "" | "default") => Ok(EgressChoice::Default),
        (None, false, "rr") => Ok(EgressChoice::Unshared),
        (None, false, other) => Err(invalid(
            "spec.egressIP.allocatorPolicy",
            format!("`{other}` is unknown; write `default` or `rr`"),
        )),
    }
}

fn pods(
    namespaces: Namespaces,
    wire: Option<&WireSelector>,
    subnets: &[String],
) -> Result<PodSelection, Reason> {
    let selector = selector("spec.appliedTo.podSelector", wire)?;
    match (selector.is_empty(), subnets.is_empty()) {
        (true, true) => Err(Reason::SelectsNothing),
        (false, false) => Err(Reason::SelectorAndSubnet),
        (false, true) => Ok(PodSelection::Labels(namespaces, selector)),
        (true, false) => {
            Ok(PodSelection::Subnets(namespaces, networks_or_addresses("spec.appliedTo.podSubnet", subnets)?))
        }
    }
}

fn destinations(wire: &[String]) -> Result<BTreeSet<IpNet>, Reason> {
    cidrs("spec.destSubnet", wire)
}

fn priority(wire: Option<i64>) -> Result<Option<u64>, Reason> {
    let priority = wire.map(u64::try_from).transpose();
    priority.map_err(|_| invalid("spec.priority", "is negative; write 0 or more"))
}
