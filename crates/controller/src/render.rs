//! From the plan to objects as they are on the wire.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::convert;
use api::names;
use api::v1beta1::{
    EgressClusterInfoStatus, EgressEndpoint, EgressGatewayStatus, EgressPolicyStatus, EgressTunnelStatus,
    Eip, GatewayEip, GatewayNode, IpLists, IpUsage, PolicyRef,
};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::ObjectMeta;
use model::cluster::{ClusterNetworks, PodCidrMode};
use model::policy::PolicyKey;
use model::{EipPair, Reason};
use plan::moves::Moves;
use plan::outcome::{GatewayPlan, PolicyPlan, TunnelPlan};
use plan::snapshot::{Endpoint, Usage};

pub(crate) fn gateway_status(
    planned: &GatewayPlan,
    before: &[Condition],
    generation: Option<i64>,
    now: &Time,
) -> EgressGatewayStatus {
    let mut conditions = conditions(before, names::CONDITION_READY, &planned.reason, generation, now);
    if let Some(reason) = &planned.ports {
        conditions = self::conditions(&conditions, names::CONDITION_PORTS, reason, generation, now);
    }
    if let Some(reason) = &planned.whole {
        conditions = degraded(&conditions, reason, generation, now);
    }
    let nodes = planned.status.nodes.iter().map(|(name, node)| GatewayNode {
        name: name.clone(),
        status: node.phase.to_string(),
        eips: node.eips.iter().map(gateway_eip).chain(own_address(&node.lent_to)).collect(),
    });
    EgressGatewayStatus {
        node_list: nodes.collect(),
        unplaced: planned.status.unplaced.iter().map(gateway_eip).collect(),
        ip_usage: usage(planned.status.usage),
        conditions,
    }
}

/// Takes wishes that have ended off an object, and says what became of them.
pub(crate) fn moves(metadata: &mut ObjectMeta, moves: &Moves) {
    if moves.ended.is_empty() {
        return;
    }
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.remove(names::ANNOTATION_MOVE);
    if !moves.waiting.is_empty() {
        annotations.insert(names::ANNOTATION_MOVE.to_owned(), moves.waiting.join(","));
    }
    let results: Vec<String> =
        moves.ended.iter().map(|(text, reason)| format!("{text}: {}: {reason}", reason.code())).collect();
    annotations.insert(names::ANNOTATION_MOVE_RESULT.to_owned(), results.join("\n"));
}

fn gateway_eip((eip, policies): (&EipPair, &BTreeSet<PolicyKey>)) -> GatewayEip {
    let Eip { ipv4, ipv6 } = wire_eip(Some(*eip));
    GatewayEip { ipv4, ipv6, policies: policy_refs(policies) }
}

/// The entry without an address: policies whose pods leave with the node's own.
fn own_address(policies: &BTreeSet<PolicyKey>) -> Option<GatewayEip> {
    (!policies.is_empty()).then(|| GatewayEip { policies: policy_refs(policies), ..GatewayEip::default() })
}

fn policy_refs(policies: &BTreeSet<PolicyKey>) -> Vec<PolicyRef> {
    let refs = policies.iter().map(|key| PolicyRef {
        name: key.name.clone(),
        namespace: key.namespace.clone().unwrap_or_default(),
    });
    refs.collect()
}

fn wire_eip(eip: Option<EipPair>) -> Eip {
    let text = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
    Eip {
        ipv4: text(eip.and_then(|eip| eip.v4()).map(IpAddr::V4)),
        ipv6: text(eip.and_then(|eip| eip.v6()).map(IpAddr::V6)),
    }
}

fn usage(usage: Usage) -> IpUsage {
    let count = |count: u128| i64::try_from(count).unwrap_or(i64::MAX);
    IpUsage {
        ipv4_total: count(usage.v4_total),
        ipv4_free: count(usage.v4_free),
        ipv6_total: count(usage.v6_total),
        ipv6_free: count(usage.v6_free),
    }
}

pub(crate) fn policy_status(
    planned: &PolicyPlan,
    before: &[Condition],
    generation: Option<i64>,
    now: &Time,
) -> EgressPolicyStatus {
    let mut conditions = conditions(before, names::CONDITION_READY, &planned.reason, generation, now);
    if let Some(reason) = &planned.whole {
        conditions = degraded(&conditions, reason, generation, now);
    }
    EgressPolicyStatus {
        eip: wire_eip(planned.status.eip),
        node: planned.status.node.clone().unwrap_or_default(),
        conditions,
    }
}

/// The controller's part of a tunnel's status, the rest as it was.
pub(crate) fn tunnel_status(planned: &TunnelPlan, before: EgressTunnelStatus) -> EgressTunnelStatus {
    let mut status = before;
    status.tunnel.ipv4 = planned.ipv4.map(|address| address.to_string()).unwrap_or_default();
    status.tunnel.ipv6 = planned.ipv6.map(|address| address.to_string()).unwrap_or_default();
    status.tunnel.mac = planned.mac.to_string();
    status.mark = planned.mark.map(convert::mark).unwrap_or_default();
    status.phase = planned.phase.to_string();
    status.message.clone_from(&planned.message);
    status
}

pub(crate) fn cluster_info_status(networks: &ClusterNetworks) -> EgressClusterInfoStatus {
    let mode = match networks.pod_cidr_mode {
        PodCidrMode::Kubernetes => "k8s",
        PodCidrMode::Calico => "calico",
        PodCidrMode::Cilium => "cilium",
        PodCidrMode::Off | PodCidrMode::Auto => "",
    };
    let nodes = networks.nodes.iter().map(|(name, addresses)| {
        let (v4, v6): (Vec<&IpAddr>, Vec<&IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
        (name.clone(), lists(v4, v6))
    });
    let pods = networks.pods.iter().map(|(name, nets)| (name.clone(), net_lists(nets)));
    EgressClusterInfoStatus {
        pod_cidr_mode: mode.to_owned(),
        node_ip: nodes.collect(),
        cluster_ip: networks.services.as_ref().map(net_lists),
        pod_cidr: pods.collect(),
        extra_cidr: networks.extra.clone(),
    }
}

fn net_lists(nets: &BTreeSet<IpNet>) -> IpLists {
    let (v4, v6): (Vec<&IpNet>, Vec<&IpNet>) = nets.iter().partition(|net| net.addr().is_ipv4());
    lists(v4, v6)
}

fn lists<T: ToString>(v4: Vec<&T>, v6: Vec<&T>) -> IpLists {
    let texts = |values: Vec<&T>| values.into_iter().map(ToString::to_string).collect();
    IpLists { ipv4: texts(v4), ipv6: texts(v6) }
}

pub(crate) fn endpoint(endpoint: &Endpoint) -> EgressEndpoint {
    let (v4, v6): (Vec<&IpAddr>, Vec<&IpAddr>) =
        endpoint.addresses.iter().partition(|address| address.is_ipv4());
    let IpLists { ipv4, ipv6 } = lists(v4, v6);
    EgressEndpoint {
        ns: endpoint.pod.namespace.clone(),
        pod: endpoint.pod.name.clone(),
        ipv4,
        ipv6,
        node: endpoint.node.clone(),
    }
}

/// Conditions with one of that type as the reason says; those of others stay. The time is that of the last change of the
/// status.
fn conditions(
    before: &[Condition],
    kind: &str,
    reason: &Reason,
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    with_condition(before, kind, reason.is_ok(), reason, generation, now)
}

/// The condition that is good while it is not true.
fn degraded(before: &[Condition], reason: &Reason, generation: Option<i64>, now: &Time) -> Vec<Condition> {
    with_condition(before, names::CONDITION_DEGRADED, !reason.is_ok(), reason, generation, now)
}

fn with_condition(
    before: &[Condition],
    kind: &str,
    is_true: bool,
    reason: &Reason,
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    let status = if is_true { "True" } else { "False" };
    let mut conditions = before.to_vec();
    let wanted = Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.code().to_owned(),
        message: reason.to_string(),
        observed_generation: generation,
        last_transition_time: now.clone(),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(known) => {
            let since =
                if known.status == wanted.status { known.last_transition_time.clone() } else { now.clone() };
            *known = Condition { last_transition_time: since, ..wanted };
        }
        None => conditions.push(wanted),
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let bad = Reason::NoDefaultGateway;
        let first = conditions(&[], "Ready", &bad, Some(1), &time(1));
        let same = conditions(&first, "Ready", &Reason::SelectsNothing, Some(2), &time(2));
        assert_eq!((same[0].reason.as_str(), &same[0].last_transition_time), ("SelectsNothing", &time(1)));
        let turned = conditions(&same, "Ready", &Reason::Assigned, Some(2), &time(3));
        assert_eq!((turned[0].status.as_str(), &turned[0].last_transition_time), ("True", &time(3)));
    }

    #[test]
    fn conditions_of_others_stay() {
        let foreign = Condition {
            type_: "Foreign".to_owned(),
            status: "True".to_owned(),
            reason: "R".to_owned(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: time(1),
        };
        let both = conditions(std::slice::from_ref(&foreign), "Ready", &Reason::Ready, None, &time(2));
        assert_eq!((both.len(), &both[0]), (2, &foreign));
    }

    #[test]
    fn counts_beyond_the_fields_type_are_the_largest() {
        let huge = Usage { v6_total: u128::MAX, v6_free: 7, ..Usage::default() };
        assert_eq!((super::usage(huge).ipv6_total, super::usage(huge).ipv6_free), (i64::MAX, 7));
    }
}
