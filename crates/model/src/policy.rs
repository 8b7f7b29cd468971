//! Policies by name, and the one order in which overlapping ones are asked.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::EipPair;
use crate::selector::{LabelSelector, Labels};

/// Identity of an EgressPolicy (namespaced) or an EgressClusterPolicy (no namespace).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// `None` for an EgressClusterPolicy.
    pub namespace: Option<String>,
    /// Object name.
    pub name: String,
}

/// `namespace/name`, or `name` for a cluster policy.
impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Place of a policy among those that select the same pod: the lesser one wins where their destinations overlap.
///
/// Order: `spec.priority` (lower number first, absent last), EgressPolicy before EgressClusterPolicy, older before
/// younger, then namespace/name. Among equal priorities the more specific destination prefix goes before this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precedence {
    /// `spec.priority`; absent ranks behind every number.
    pub priority: Option<u64>,
    /// Creation time, seconds since the epoch.
    pub created_at: i64,
    /// Last tie-breaker, and tells the two kinds apart.
    pub key: PolicyKey,
}

impl Ord for Precedence {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |p: &Self| (p.priority.is_none(), p.priority, p.key.namespace.is_none(), p.created_at);
        rank(self).cmp(&rank(other)).then_with(|| self.key.cmp(&other.key))
    }
}

impl PartialOrd for Precedence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What an EgressPolicy or EgressClusterPolicy asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The gateway it names, if it does.
    pub gateway: Option<String>,
    /// The address that its pods are to leave with.
    pub egress: EgressChoice,
    /// The pods that it is for.
    pub pods: PodSelection,
    /// Destinations; empty means all outside of the cluster.
    pub destinations: BTreeSet<IpNet>,
    /// `spec.priority`; the lower goes first.
    pub priority: Option<u64>,
}

/// How a policy's address is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressChoice {
    /// The gateway's default EIP.
    Default,
    /// An EIP that no other policy has.
    Unshared,
    /// This EIP.
    Exactly(EipPair),
    /// The gateway node's own address.
    NodeAddress,
}

/// The pods that a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodSelection {
    /// Pods of the namespaces with these labels; the selector is never empty.
    Labels(Namespaces, LabelSelector),
    /// Pods of the namespaces with an address in one of these networks.
    Subnets(Namespaces, BTreeSet<IpNet>),
}

/// The namespaces that a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// Its own.
    One(String),
    /// All.
    All,
    /// Those with such labels.
    Matching(LabelSelector),
}

impl Namespaces {
    /// Whether a namespace is one of them. One whose labels are not known has none.
    #[must_use]
    pub fn contain(&self, name: &str, labels: Option<&Labels>) -> bool {
        match self {
            Self::One(own) => own == name,
            Self::All => true,
            Self::Matching(selector) => {
                labels.map_or_else(|| selector.matches(&Labels::new()), |labels| selector.matches(labels))
            }
        }
    }
}

impl PodSelection {
    /// The namespaces of the pods.
    #[must_use]
    pub fn namespaces(&self) -> &Namespaces {
        match self {
            Self::Labels(namespaces, _) | Self::Subnets(namespaces, _) => namespaces,
        }
    }

    /// Whether a pod of one of the namespaces is selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels, addresses: &BTreeSet<IpAddr>) -> bool {
        match self {
            Self::Labels(_, selector) => selector.matches(labels),
            Self::Subnets(_, subnets) => {
                addresses.iter().any(|address| subnets.iter().any(|subnet| subnet.contains(address)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(priority: Option<u64>, namespace: Option<&str>, created_at: i64, name: &str) -> Precedence {
        let key = PolicyKey { namespace: namespace.map(str::to_owned), name: name.to_owned() };
        Precedence { priority, created_at, key }
    }

    #[test]
    fn policies_have_one_total_order() {
        let order = [
            policy(Some(0), None, 9, "z"),
            policy(Some(7), Some("ns"), 9, "y"),
            policy(None, Some("ns"), 1, "x"),
            policy(None, Some("ns"), 2, "a"),
            policy(None, Some("ns"), 2, "b"),
            policy(None, None, 0, "a"),
        ];
        let mut shuffled = order.clone();
        shuffled.reverse();
        shuffled.sort();
        assert_eq!(shuffled, order);
    }
}
