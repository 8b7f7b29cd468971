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
    calico_pool, cilium_node, cilium_pool, cluster_info, cluster_info_problems, control_plane_ranges,
    networks, node, pod, pod_key, service_addresses, service_ranges, spider_coordinator, spider_pool,
};
pub use gateway::{gateway, read_gateway};
pub use policy::{cluster_policy, policy, read_cluster_policy, read_policy};
pub use port_lease::{eip_lease_statuses, idle_blocks, lease_name, port_lease, port_lease_spec};
pub use tunnel::{claim, conflict, mark, tunnel};

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

/// So many problems of an object are told; whoever has more has made one mistake many times.
const PROBLEMS_MAX: usize = 32;

/// All that is wrong with an object.
#[derive(Debug, Default)]
struct Problems(Vec<Reason>);

impl Problems {
    /// The value, unless it is one more problem.
    fn sort<T>(&mut self, read: Result<T, Reason>) -> Option<T> {
        read.map_err(|reason| self.add(reason)).ok()
    }

    fn add(&mut self, reason: Reason) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(reason);
        }
    }

    /// What was read, unless there are problems.
    fn unless<T>(self, read: Option<T>) -> Result<T, Vec<Reason>> {
        match read {
            Some(read) if self.0.is_empty() => Ok(read),
            _ => Err(self.0),
        }
    }
}

/// Of several problems the first one.
fn first<T>(read: Result<T, Vec<Reason>>) -> Result<T, Reason> {
    let unnamed = || Reason::invalid_field("spec", "can't be read");
    read.map_err(|problems| problems.into_iter().next().unwrap_or_else(unnamed))
}

/// Reads a selector; an absent one is the empty one.
fn selector(field: &str, wire: Option<&WireSelector>) -> Result<LabelSelector, Reason> {
    let Some(wire) = wire else {
        return Ok(LabelSelector::default());
    };
    let mut selector = LabelSelector::equal_to(wire.match_labels.clone().unwrap_or_default());
    for (index, requirement) in wire.match_expressions.iter().flatten().enumerate() {
        let values = requirement.values.as_deref().unwrap_or_default();
        selector.and(&requirement.key, &requirement.operator, values).map_err(|error| {
            Reason::invalid_field(format!("{field}.matchExpressions[{index}]"), error.to_string())
        })?;
    }
    Ok(selector)
}

fn optional_v4(field: &str, text: &str) -> Result<Option<Ipv4Addr>, Reason> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| Reason::invalid_value(field, text, "is not an IPv4 address; write one like 10.6.1.55"))
}

fn optional_v6(field: &str, text: &str) -> Result<Option<Ipv6Addr>, Reason> {
    if text.is_empty() {
        return Ok(None);
    }
    let address: Option<Ipv6Addr> = text.parse().ok();
    match address.filter(|address| address.to_ipv4_mapped().is_none()) {
        Some(address) => Ok(Some(address)),
        None => Err(Reason::invalid_value(field, text, "is not an IPv6 address; write one like fd00::55")),
    }
}

/// Reads networks that must be CIDRs.
fn cidrs(field: &str, entries: &[String], problems: &mut Problems) -> BTreeSet<IpNet> {
    let parsed = entries.iter().enumerate().map(|(index, entry)| {
        entry.parse().map(|net: IpNet| net.trunc()).map_err(|_| {
            let fix = match entry.parse::<IpAddr>() {
                Ok(address) => format!("write `{}`", IpNet::from(address)),
                Err(_) => "write one like 192.0.2.0/24 or 2001:db8::/32".to_owned(),
            };
            Reason::invalid_value(format!("{field}[{index}]"), entry, format!("is not a CIDR; {fix}"))
        })
    });
    parsed.filter_map(|read| problems.sort(read)).collect()
}

/// Reads networks; a plain address is a network of one.
fn networks_or_addresses(field: &str, entries: &[String], problems: &mut Problems) -> BTreeSet<IpNet> {
    let parsed = entries.iter().enumerate().map(|(index, entry)| {
        network(entry).ok_or_else(|| {
            let problem = "is neither an address nor a CIDR; write one like 10.0.0.0/16 or 10.0.0.7";
            Reason::invalid_value(format!("{field}[{index}]"), entry, problem)
        })
    });
    parsed.filter_map(|read| problems.sort(read)).collect()
}

/// A CIDR, or an address as a network of one; host bits are cut off.
fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>().ok().map(|net| net.trunc()).or_else(address)
}

#[cfg(test)]
mod tests;
