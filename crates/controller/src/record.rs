//! From objects to what the plan knows of them.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use api::convert;
use api::names;
use api::v1beta1::{
    self, EgressClusterEndpointSlice, EgressClusterInfo, EgressClusterPolicy, EgressEndpoint,
    EgressEndpointSlice, EgressGateway, EgressPolicy, EgressPolicyStatus, EgressPortLease, EgressTunnel,
    GatewayEip, IpLists, PolicyRef, condition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use model::EipPair;
use model::cluster::{ClusterNetworks, PodCidrMode, PodKey};
use model::gateway::MoveRequest;
use model::policy::PolicyKey;
use plan::snapshot::{
    ClusterInfoRecord, Endpoint, GatewayNode, GatewayRecord, GatewayStatus, LeaseRecord, PolicyRecord,
    PolicyStatus, SliceKey, SliceRecord, TunnelRecord, Usage, Verdict,
};

pub(crate) fn gateway(object: &EgressGateway) -> GatewayRecord {
    GatewayRecord {
        spec: convert::gateway(object),
        created_at_s: convert::created_at(&object.metadata),
        deleting: object.metadata.deletion_timestamp.is_some(),
        kept: object.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER_GATEWAY),
        moves: object
            .annotations()
            .get(names::ANNOTATION_MOVE)
            .map_or_else(Vec::new, |text| MoveRequest::parse_list(text)),
        status: object.status.as_ref().map(gateway_status).unwrap_or_default(),
    }
}

fn gateway_status(status: &v1beta1::EgressGatewayStatus) -> GatewayStatus {
    let nodes = status.node_list.iter().map(|node| {
        let own = |eip: &&GatewayEip| eip.ipv4.is_empty() && eip.ipv6.is_empty();
        let node_status = GatewayNode {
            phase: node.status.parse().unwrap_or_default(),
            eips: node.eips.iter().filter_map(gateway_eip).collect(),
            lent_to: node.eips.iter().filter(own).flat_map(users).collect(),
        };
        (node.name.clone(), node_status)
    });
    let usage = &status.ip_usage;
    let count = |count: i64| u128::try_from(count).unwrap_or(0);
    GatewayStatus {
        nodes: nodes.collect(),
        unplaced: status.unplaced.iter().filter_map(gateway_eip).collect(),
        usage: Usage {
            v4_total: count(usage.ipv4_total),
            v4_free: count(usage.ipv4_free),
            v6_total: count(usage.ipv6_total),
            v6_free: count(usage.ipv6_free),
        },
        verdict: verdict(&status.conditions, names::CONDITION_READY),
        ports: verdict(&status.conditions, names::CONDITION_PORTS),
        whole: degraded(&status.conditions),
    }
}

fn gateway_eip(wire: &GatewayEip) -> Option<(EipPair, BTreeSet<PolicyKey>)> {
    Some((pair(&wire.ipv4, &wire.ipv6)?, users(wire).collect()))
}

fn users(wire: &GatewayEip) -> impl Iterator<Item = PolicyKey> {
    wire.policies.iter().map(|PolicyRef { name, namespace }| PolicyKey {
        namespace: Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
        name: name.clone(),
    })
}

fn pair(v4: &str, v6: &str) -> Option<EipPair> {
    EipPair::new(v4.parse().ok(), v6.parse().ok())
}

fn verdict(conditions: &[Condition], kind: &str) -> Option<Verdict> {
    let found = condition(conditions, kind)?;
    Some(Verdict { ok: found.status == "True", code: found.reason.clone(), message: found.message.clone() })
}

/// A condition that is good while it is not true.
fn degraded(conditions: &[Condition]) -> Option<Verdict> {
    let verdict = verdict(conditions, names::CONDITION_DEGRADED)?;
    Some(Verdict { ok: !verdict.ok, ..verdict })
}

pub(crate) fn policy_key(metadata: &ObjectMeta) -> PolicyKey {
    PolicyKey { namespace: metadata.namespace.clone(), name: metadata.name.clone().unwrap_or_default() }
}

pub(crate) fn policy(object: &EgressPolicy) -> PolicyRecord {
    let spec = convert::policy(object);
    policy_record(&object.metadata, spec, &object.spec.egress_gateway_name, object.status.as_ref())
}

pub(crate) fn cluster_policy(object: &EgressClusterPolicy) -> PolicyRecord {
    let spec = convert::cluster_policy(object);
    policy_record(&object.metadata, spec, &object.spec.egress_gateway_name, object.status.as_ref())
}

fn policy_record(
    metadata: &ObjectMeta,
    spec: Result<model::policy::Policy, model::Reason>,
    gateway: &str,
    status: Option<&EgressPolicyStatus>,
) -> PolicyRecord {
    let status = status.map(|status| PolicyStatus {
        eip: pair(&status.eip.ipv4, &status.eip.ipv6),
        node: Some(status.node.clone()).filter(|node| !node.is_empty()),
        verdict: verdict(&status.conditions, names::CONDITION_READY),
        whole: degraded(&status.conditions),
    });
    PolicyRecord {
        spec,
        gateway: Some(gateway.to_owned()).filter(|name| !name.is_empty()),
        created_at_s: convert::created_at(metadata),
        uid: metadata.uid.clone().unwrap_or_default(),
        status: status.unwrap_or_default(),
    }
}

pub(crate) fn tunnel(object: &EgressTunnel) -> TunnelRecord {
    TunnelRecord { tunnel: convert::tunnel(object), deleting: object.metadata.deletion_timestamp.is_some() }
}

pub(crate) fn lease(object: &EgressPortLease) -> LeaseRecord {
    let status = object.status.clone().unwrap_or_default();
    let eips = || convert::eip_lease_statuses(&status);
    let idle = eips().flat_map(|(pair, eip)| convert::idle_blocks(eip).map(move |first| (pair, first)));
    LeaseRecord {
        lease: convert::port_lease(object),
        observed_generation: status.observed_generation,
        ports_in_use: eips().map(|(pair, eip)| (pair, eip.ports_in_use)).collect(),
        idle: idle.collect(),
    }
}

pub(crate) fn cluster_info(object: &EgressClusterInfo) -> ClusterInfoRecord {
    let status = object.status.clone().unwrap_or_default();
    let pod_cidr_mode = match status.pod_cidr_mode.as_str() {
        "k8s" => PodCidrMode::Kubernetes,
        "calico" => PodCidrMode::Calico,
        "cilium" => PodCidrMode::Cilium,
        _ => PodCidrMode::Off,
    };
    let status = ClusterNetworks {
        pod_cidr_mode,
        nodes: status.node_ip.iter().map(|(name, lists)| (name.clone(), entries(lists))).collect(),
        services: status.cluster_ip.as_ref().map(entries),
        pods: status.pod_cidr.iter().map(|(name, lists)| (name.clone(), entries(lists))).collect(),
        extra: status.extra_cidr,
    };
    ClusterInfoRecord { spec: convert::cluster_info(object), status }
}

/// What can be read of two lists.
fn entries<T: Ord + FromStr>(lists: &IpLists) -> BTreeSet<T> {
    lists.ipv4.iter().chain(&lists.ipv6).filter_map(|text| text.parse().ok()).collect()
}

pub(crate) fn slice(object: &EgressEndpointSlice) -> Option<SliceRecord> {
    slice_record(&object.metadata, &object.endpoints)
}

pub(crate) fn cluster_slice(object: &EgressClusterEndpointSlice) -> Option<SliceRecord> {
    slice_record(&object.metadata, &object.endpoints)
}

pub(crate) fn slice_key(metadata: &ObjectMeta) -> SliceKey {
    SliceKey { namespace: metadata.namespace.clone(), name: metadata.name.clone().unwrap_or_default() }
}

fn slice_record(metadata: &ObjectMeta, endpoints: &[EgressEndpoint]) -> Option<SliceRecord> {
    let none = BTreeMap::new();
    let labels = metadata.labels.as_ref().unwrap_or(&none);
    let annotations = metadata.annotations.as_ref().unwrap_or(&none);
    let whole = annotations.get(names::ANNOTATION_POLICY_NAME);
    let name = whole.or_else(|| labels.get(names::LABEL_POLICY_NAME))?;
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let endpoints = endpoints.iter().map(|endpoint| {
        let texts = endpoint.ipv4.iter().chain(&endpoint.ipv6);
        let mut addresses: Vec<_> = texts.filter_map(|address| address.parse().ok()).collect();
        addresses.sort_unstable();
        let pod = PodKey { namespace: endpoint.ns.clone(), name: endpoint.pod.clone() };
        Endpoint { pod, addresses, node: endpoint.node.clone() }
    });
    Some(SliceRecord {
        policy: PolicyKey { namespace: metadata.namespace.clone(), name: name.clone() },
        owner_uid: owner.map(|owner| owner.uid.clone()).unwrap_or_default(),
        endpoints: endpoints.collect(),
    })
}
