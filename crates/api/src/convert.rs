//! From objects as they are on the wire to the vocabulary of [`model`], and back.
//!
//! What a user writes is parsed strictly: the error is a [`Reason`] with the path of the field, its value and what to
//! write instead. What a program of ours writes (tunnels, leases) is read leniently: a part that can't be read counts as
//! not there, for the program will write it again.

mod cluster;
mod gateway;
mod policy;
mod port_lease;
mod tunnel;

pub use cluster::{
    calico_pool, cilium_node, cilium_pool, cluster_info, control_plane_ranges, networks, node, pod, pod_key,
    service_addresses, service_ranges, spider_coordinator, spider_pool,
};
pub use gateway::gateway;
pub use policy::{cluster_policy, policy};
pub use port_lease::{eip_lease_statuses, idle_blocks, port_lease, port_lease_spec};
pub use tunnel::{claim, mark, tunnel};

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as WireSelector;
use kube_core::ObjectMeta;
use model::Reason;
use model::selector::LabelSelector;

/// When an object was made, in seconds since the epoch; 0 where it does not say.
pub fn created_at(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Reason {
    Reason::InvalidField { field: field.into(), problem: problem.into() }
}

/// Reads a selector; an absent one is the empty one.
fn selector(field: &str, wire: Option<&WireSelector>) -> Result<LabelSelector, Reason> {
    let Some(wire) = wire else {
        return Ok(LabelSelector::default());
    };
    let mut selector = LabelSelector::equal_to(wire.match_labels.clone().unwrap_or_default());
    for (index, requirement) in wire.match_expressions.iter().flatten().enumerate() {
        let values = requirement.values.as_deref().unwrap_or_default();
        selector
            .and(&requirement.key, &requirement.operator, values)
            .map_err(|error| invalid(format!("{field}.matchExpressions[{index}]"), error.to_string()))?;
    }
    Ok(selector)
}

fn optional_v4(field: &str, text: &str) -> Result<Option<Ipv4Addr>, Reason> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| invalid(field, format!("`{text}` is not an IPv4 address; write one like 10.6.1.55")))
}

fn optional_v6(field: &str, text: &str) -> Result<Option<Ipv6Addr>, Reason> {
    if text.is_empty() {
        return Ok(None);
    }
    let address: Option<Ipv6Addr> = text.parse().ok();
    match address.filter(|address| address.to_ipv4_mapped().is_none()) {
        Some(address) => Ok(Some(address)),
        None => Err(invalid(field, format!("`{text}` is not an IPv6 address; write one like fd00::55"))),
    }
}

/// Reads networks that must be CIDRs.
fn cidrs(field: &str, entries: &[String]) -> Result<BTreeSet<IpNet>, Reason> {
    let parsed = entries.iter().enumerate().map(|(index, entry)| {
        entry.parse().map(|net: IpNet| net.trunc()).map_err(|_| {
            let fix = match entry.parse::<IpAddr>() {
                Ok(address) => format!("write `{}`", IpNet::from(address)),
                Err(_) => "write one like 192.0.2.0/24 or 2001:db8::/32".to_owned(),
            };
            invalid(format!("{field}[{index}]"), format!("`{entry}` is not a CIDR; {fix}"))
        })
    });
    parsed.collect()
}

/// Reads networks; a plain address is a network of one.
fn networks_or_addresses(field: &str, entries: &[String]) -> Result<BTreeSet<IpNet>, Reason> {
    let parsed = entries.iter().enumerate().map(|(index, entry)| {
        network(entry).ok_or_else(|| {
            invalid(
                format!("{field}[{index}]"),
                format!("`{entry}` is neither an address nor a CIDR; write one like 10.0.0.0/16 or 10.0.0.7"),
            )
        })
    });
    parsed.collect()
}

/// A CIDR, or an address as a network of one; host bits are cut off.
fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>().ok().map(|net| net.trunc()).or_else(address)
}

#[cfg(test)]
mod tests;
