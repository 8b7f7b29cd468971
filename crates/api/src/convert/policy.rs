//! EgressPolicy and EgressClusterPolicy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as WireSelector;
use model::policy::{EgressChoice, Namespaces, PodSelection, Policy};
use model::{EipPair, Reason};

use super::{Problems, cidrs, first, networks_or_addresses, optional_v4, optional_v6, selector};
use crate::v1beta1::{EgressClusterPolicy, EgressIp, EgressPolicy};

/// What the policy asks for, or why it can't be had.
pub fn policy(object: &EgressPolicy) -> Result<Policy, Reason> {
    first(read_policy(object))
}

/// What the policy asks for, or why it can't be had.
pub fn cluster_policy(object: &EgressClusterPolicy) -> Result<Policy, Reason> {
    first(read_cluster_policy(object))
}

/// What the policy asks for, or all that is wrong with it.
pub fn read_policy(object: &EgressPolicy) -> Result<Policy, Vec<Reason>> {
    let spec = &object.spec;
    let mut problems = Problems::default();
    let applied_to = spec.applied_to.clone().unwrap_or_default();
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let egress = egress(&spec.egress_ip, &mut problems);
    let pods = pods(
        Namespaces::One(namespace),
        applied_to.pod_selector.as_ref(),
        &applied_to.pod_subnet,
        &mut problems,
    );
    let destinations = cidrs("spec.destSubnet", &spec.dest_subnet, &mut problems);
    let priority = problems.sort(priority(spec.priority)).flatten();
    let gateway = Some(spec.egress_gateway_name.clone()).filter(|name| !name.is_empty());
    let read = egress.zip(pods);
    problems.unless(read.map(|(egress, pods)| Policy { gateway, egress, pods, destinations, priority }))
}

/// What the policy asks for, or all that is wrong with it.
pub fn read_cluster_policy(object: &EgressClusterPolicy) -> Result<Policy, Vec<Reason>> {
    let spec = &object.spec;
    let mut problems = Problems::default();
    let applied_to = spec.applied_to.clone().unwrap_or_default();
    let namespaces = match &applied_to.namespace_selector {
        None => Some(Namespaces::All),
        wire => problems
            .sort(selector("spec.appliedTo.namespaceSelector", wire.as_ref()))
            .map(Namespaces::Matching),
    };
    let egress = egress(&spec.egress_ip, &mut problems);
    let namespaces = namespaces.unwrap_or(Namespaces::All);
    let pods = pods(namespaces, applied_to.pod_selector.as_ref(), &applied_to.pod_subnet, &mut problems);
    let destinations = cidrs("spec.destSubnet", &spec.dest_subnet, &mut problems);
    let priority = problems.sort(priority(spec.priority)).flatten();
    let gateway = Some(spec.egress_gateway_name.clone()).filter(|name| !name.is_empty());
    let read = egress.zip(pods);
    problems.unless(read.map(|(egress, pods)| Policy { gateway, egress, pods, destinations, priority }))
}

fn egress(wire: &EgressIp, problems: &mut Problems) -> Option<EgressChoice> {
    let v4 = problems.sort(optional_v4("spec.egressIP.ipv4", &wire.ipv4))?;
    let v6 = problems.sort(optional_v6("spec.egressIP.ipv6", &wire.ipv6))?;
    let choice = match (EipPair::new(v4, v6), wire.use_node_ip, wire.allocator_policy.as_str()) {
        (Some(_), true, _) => Err(Reason::invalid_field(
            "spec.egressIP",
            "useNodeIP excludes ipv4 and ipv6; remove the addresses or set useNodeIP to false",
        )),
        (None, true, _) => Ok(EgressChoice::NodeAddress),
        (Some(eip), false, _) => Ok(EgressChoice::Exactly(eip)),
        (None, false, "" | "default") => Ok(EgressChoice::Default),
        (None, false, "rr") => Ok(EgressChoice::Unshared),
        (None, false, other) => Err(Reason::invalid_value(
            "spec.egressIP.allocatorPolicy",
            other,
            "is unknown; write `default` or `rr`",
        )),
    };
    problems.sort(choice)
}

fn pods(
    namespaces: Namespaces,
    wire: Option<&WireSelector>,
    subnets: &[String],
    problems: &mut Problems,
) -> Option<PodSelection> {
    let selector = problems.sort(selector("spec.appliedTo.podSelector", wire))?;
    match (selector.is_empty(), subnets.is_empty()) {
        (true, true) => problems.sort(Err(Reason::SelectsNothing)),
        (false, false) => problems.sort(Err(Reason::SelectorAndSubnet)),
        (false, true) => Some(PodSelection::Labels(namespaces, selector)),
        (true, false) => {
            let subnets = networks_or_addresses("spec.appliedTo.podSubnet", subnets, problems);
            Some(PodSelection::Subnets(namespaces, subnets))
        }
    }
}

fn priority(wire: Option<i64>) -> Result<Option<u64>, Reason> {
    let priority = wire.map(u64::try_from).transpose();
    priority.map_err(|_| Reason::invalid_field("spec.priority", "is negative; write 0 or more"))
}
