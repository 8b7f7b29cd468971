//! Classes of pods: those that the same policies select share one map of destinations.
//!
//! Overlapping policies are resolved here, in Rust, into disjoint intervals: the kernel looks a destination up once,
//! however many policies there are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::interval_map::IntervalMap;
use model::policy::PolicyKey;
use model::pool::{Family, to_number};

use crate::numbering::{HOLD_MARK, Numbering, PENDING_MARK};
use crate::view::{Destinations, NodeView, PodKey, PolicyView};

/// What never leaves a link or a host, and so is selected only by a `destSubnet` that names it. Link-local holds node-local
/// DNS and the clouds' metadata service.
const NEVER_OUTSIDE_V4: [&str; 5] =
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"];
const NEVER_OUTSIDE_V6: [&str; 4] = ["::/128", "::1/128", "fe80::/10", "ff00::/8"];

/// What makes two pods of one class: the policies that select them.
pub type ClassKey = BTreeSet<PolicyKey>;

/// All classes with their pods. Pods that nothing selects are left out.
#[must_use]
pub fn classes(view: &NodeView) -> BTreeMap<ClassKey, BTreeSet<&PodKey>> {
    let mut of_pod: BTreeMap<&PodKey, ClassKey> = BTreeMap::new();
    for policy in &view.policies {
        for pod in &policy.pods {
            if let Some((key, _)) = view.pods.get_key_value(pod) {
                of_pod.entry(key).or_default().insert(policy.precedence.key.clone());
            }
        }
    }
    let mut classes: BTreeMap<ClassKey, BTreeSet<&PodKey>> = BTreeMap::new();
    for (pod, key) in of_pod {
        classes.entry(key).or_default().insert(pod);
    }
    classes
}

/// Where the pods of a class are sent, by destination: values are connection marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassDestinations {
    /// By any policy
    pub all: IntervalMap<u32>,
    /// Only by policies that name subnets: these also select addresses of this host and broadcasts
    pub named: IntervalMap<u32>,
    /// Whether a policy of the class selects all that is outside, so that the two differ
    pub selects_outside: bool,
}

/// The destinations of one class in one family.
///
/// Order: priority, then the more specific prefix, then age and name ([`model::policy::Precedence`]). A policy whose EIP has no
/// address of this family does not apply to it.
#[must_use]
pub fn destinations(
    view: &NodeView,
    numbering: &Numbering,
    class: &ClassKey,
    family: Family,
) -> ClassDestinations {
    let outside = outside(view, family);
    let mut result = ClassDestinations::default();
    let mut candidates = Vec::new();
    for policy in view.policies.iter().filter(|policy| class.contains(&policy.precedence.key)) {
        let mark = match &policy.eip {
            Some(eip) if !has_family(eip, family) => continue,
            Some(eip) => numbering.id(eip).map_or(PENDING_MARK, |id| id.ct_mark()),
            None if policy.is_young => HOLD_MARK,
            None => PENDING_MARK,
        };
        match &policy.destinations {
            Destinations::Outside => {
                result.selects_outside = true;
                candidates.push((rank(policy, 0), outside.clone(), mark, false));
            }
            Destinations::Subnets(subnets) => {
                for subnet in subnets.iter().filter(|subnet| family_of(subnet) == family) {
                    let named = names(subnet);
                    result.selects_outside |= !named;
                    let ranges = if named { vec![range_of(subnet)] } else { outside.clone() };
                    candidates.push((rank(policy, subnet.prefix_len()), ranges, mark, named));
                }
            }
        }
    }
    candidates.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    for (_, ranges, mark, named) in candidates {
        for (first, last) in ranges {
            result.all.fill(first, last, &mark);
            if named {
                result.named.fill(first, last, &mark);
            }
        }
    }
    result
}

/// A policy that selects a packet, and by which of its subnets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected<'a> {
    /// The policy
    pub policy: &'a PolicyView,
    /// Its most specific `destSubnet` that holds the destination; `None`: it selects all that is outside
    pub subnet: Option<IpNet>,
}

/// The policies that select a pod's packet to a destination, the one that decides first.
#[must_use]
pub fn ranked<'a>(view: &'a NodeView, pod: &PodKey, destination: IpAddr) -> Vec<Selected<'a>> {
    let of_pod = view.policies.iter().filter(|policy| policy.pods.contains(pod));
    let selecting = of_pod.filter(|policy| selects(view, policy, destination));
    let mut ranked: Vec<Selected<'a>> = selecting
        .map(|policy| {
            let subnet = match &policy.destinations {
                Destinations::Outside => None,
                Destinations::Subnets(subnets) => subnets
                    .iter()
                    .filter(|subnet| names(subnet) && subnet.contains(&destination))
                    .max_by_key(|subnet| subnet.prefix_len())
                    .copied(),
            };
            Selected { policy, subnet }
        })
        .collect();
    let place = |selected: &Selected<'a>| {
        rank(selected.policy, selected.subnet.map_or(0, |subnet| subnet.prefix_len()))
    };
    ranked.sort_by(|a, b| place(a).cmp(&place(b)));
    ranked
}

/// The place of a policy that selects a destination by a prefix of that length: the least decides.
fn rank(policy: &PolicyView, prefix: u8) -> impl Ord {
    let precedence = &policy.precedence;
    (precedence.priority.is_none(), precedence.priority, Reverse(prefix), precedence)
}

/// Whether a policy selects a destination, if it selects the pod and no other one does.
#[must_use]
pub fn selects(view: &NodeView, policy: &PolicyView, destination: IpAddr) -> bool {
    let family = Family::of(destination);
    let applies = policy.eip.as_ref().is_none_or(|eip| has_family(eip, family));
    let is_outside = || {
        let number = to_number(destination);
        outside(view, family).iter().any(|(first, last)| (*first..=*last).contains(&number))
    };
    applies
        && match &policy.destinations {
            Destinations::Outside => is_outside(),
            Destinations::Subnets(subnets) => subnets
                .iter()
                .filter(|subnet| subnet.contains(&destination))
                .any(|subnet| names(subnet) || is_outside()),
        }
}

/// Whether a subnet names addresses. "All addresses" names none: it stands for all that is outside, or a policy for
/// `0.0.0.0/0` would cut its pods off from Services, from each other and from DNS.
fn names(subnet: &IpNet) -> bool {
    subnet.prefix_len() > 0
}

/// All of the family's addresses but the cluster's own and those that never leave.
pub(crate) fn outside(view: &NodeView, family: Family) -> Vec<(u128, u128)> {
    let never: &[&str] = match family {
        Family::V4 => &NEVER_OUTSIDE_V4,
        Family::V6 => &NEVER_OUTSIDE_V6,
    };
    let mut map = IntervalMap::default();
    let never = never.iter().filter_map(|text| text.parse::<IpNet>().ok());
    let nodes = view.node_addresses.iter().map(|address| IpNet::from(*address));
    for net in never.chain(view.cluster_cidrs.iter().copied()).chain(nodes) {
        if family_of(&net) == family {
            let (first, last) = range_of(&net);
            map.fill(first, last, &false);
        }
    }
    map.fill(0, if family == Family::V4 { u32::MAX.into() } else { u128::MAX }, &true);
    map.merged()
        .into_iter()
        .filter(|(_, _, outside)| *outside)
        .map(|(first, last, _)| (first, last))
        .collect()
}

fn has_family(eip: &model::EipPair, family: Family) -> bool {
    eip.addresses().any(|address| Family::of(address) == family)
}

fn family_of(net: &IpNet) -> Family {
    Family::of(net.addr())
}

fn range_of(net: &IpNet) -> (u128, u128) {
    let (first, last): (IpAddr, IpAddr) = match net.trunc() {
        IpNet::V4(net) => (Ipv4Net::network(&net).into(), Ipv4Net::broadcast(&net).into()),
        IpNet::V6(net) => (Ipv6Net::network(&net).into(), Ipv6Net::broadcast(&net).into()),
    };
    (to_number(first), to_number(last))
}
