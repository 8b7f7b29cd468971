//! Which pods each policy selects, and which of the policies that select a pod another one goes before.
//!
//! Kept up to date pod by pod: a pod asks only the policies of its namespace and labels, however many others there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::cluster::{Pod, PodKey};
use model::policy::{Namespaces, PodSelection, Policy, PolicyKey, Precedence};
use model::selector::Labels;

use crate::snapshot::{ClusterSnapshot, PolicyRecord};

/// Which pods each policy selects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    ways: Ways,
    pods_of: BTreeMap<PolicyKey, BTreeSet<PodKey>>,
    /// How many of the pods are on each node
    nodes_of: BTreeMap<PolicyKey, BTreeMap<String, usize>>,
    overlaps: BTreeMap<PolicyKey, Overlap>,
}

/// The pods of a policy that other policies go before, for some destination at least.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// How many
    pub pods: usize,
    /// Who wins how many of them
    pub winners: BTreeMap<PolicyKey, usize>,
}

/// The way from a pod to the policies that may select it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Ways {
    /// By namespace (empty: of all), and by a label that every match has
    by_label: HashMap<String, HashMap<String, HashMap<String, Vec<PolicyKey>>>>,
    /// By namespace, those that no label leads to
    others: HashMap<String, Vec<PolicyKey>>,
}

impl Selection {
    /// Of everything that is known.
    #[must_use]
    pub fn of(snapshot: &ClusterSnapshot) -> Self {
        let mut selection = Self { ways: Ways::of(snapshot), ..Self::default() };
        for (key, pod) in &snapshot.pods {
            selection.add(snapshot, key, pod);
        }
        selection
    }

    /// The pods of a policy that have, or will have, packets of their own.
    pub fn pods<'a>(&'a self, policy: &PolicyKey) -> impl Iterator<Item = &'a PodKey> + use<'a> {
        self.pods_of.get(policy).into_iter().flatten()
    }

    /// The nodes that a policy's pods are bound to.
    pub fn nodes<'a>(&'a self, policy: &PolicyKey) -> impl Iterator<Item = &'a str> + use<'a> {
        self.nodes_of.get(policy).into_iter().flat_map(|nodes| nodes.keys()).map(String::as_str)
    }

    /// Whether a pod of the policy is bound to the node.
    #[must_use]
    pub fn runs_on(&self, policy: &PolicyKey, node: &str) -> bool {
        self.nodes_of.get(policy).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// How many pods of the policy are bound to the node.
    #[must_use]
    pub fn pods_on(&self, policy: &PolicyKey, node: &str) -> usize {
        self.nodes_of.get(policy).and_then(|nodes| nodes.get(node)).copied().unwrap_or(0)
    }

    /// How many pods a policy selects.
    #[must_use]
    pub fn count(&self, policy: &PolicyKey) -> usize {
        self.pods_of.get(policy).map_or(0, BTreeSet::len)
    }

    /// The policy's pods that other policies go before.
    #[must_use]
    pub fn overlap(&self, policy: &PolicyKey) -> Option<&Overlap> {
        self.overlaps.get(policy)
    }

    /// Takes a pod in. The policies that select it.
    pub fn add(&mut self, snapshot: &ClusterSnapshot, key: &PodKey, pod: &Pod) -> Vec<PolicyKey> {
        let policies = self.ways.policies(snapshot, key, pod);
        for (policy, _) in &policies {
            self.pods_of.entry((*policy).clone()).or_default().insert(key.clone());
            if !pod.node.is_empty() {
                let nodes = self.nodes_of.entry((*policy).clone()).or_default();
                *nodes.entry(pod.node.clone()).or_default() += 1;
            }
        }
        for (loser, winners) in losers(&policies) {
            let overlap = self.overlaps.entry(loser.clone()).or_default();
            overlap.pods += 1;
            for winner in winners {
                *overlap.winners.entry(winner.clone()).or_default() += 1;
            }
        }
        policies.into_iter().map(|(key, _)| key.clone()).collect()
    }

    /// Takes a pod out, as it was when it was taken in. The policies that selected it.
    pub fn remove(&mut self, snapshot: &ClusterSnapshot, key: &PodKey, pod: &Pod) -> Vec<PolicyKey> {
        let policies = self.ways.policies(snapshot, key, pod);
        for (policy, _) in &policies {
            if let Some(pods) = self.pods_of.get_mut(*policy) {
                pods.remove(key);
                if pods.is_empty() {
                    self.pods_of.remove(*policy);
                }
            }
            let Some(nodes) = self.nodes_of.get_mut(*policy) else { continue };
            let left = nodes.get(&pod.node).map_or(0, |count| count.saturating_sub(1));
            if left > 0 {
                nodes.insert(pod.node.clone(), left);
            } else {
                nodes.remove(&pod.node);
                if nodes.is_empty() {
                    self.nodes_of.remove(*policy);
                }
            }
        }
        for (loser, winners) in losers(&policies) {
            let Some(overlap) = self.overlaps.get_mut(loser) else { continue };
            overlap.pods = overlap.pods.saturating_sub(1);
            for winner in winners {
                if let Some(count) = overlap.winners.get_mut(winner) {
                    *count -= 1;
                }
            }
            overlap.winners.retain(|_, count| *count > 0);
            if overlap.pods == 0 {
                self.overlaps.remove(loser);
            }
        }
        policies.into_iter().map(|(key, _)| key.clone()).collect()
    }
}

impl Ways {
    fn of(snapshot: &ClusterSnapshot) -> Self {
        let mut ways = Self::default();
        for (key, record) in &snapshot.policies {
            let Ok(policy) = &record.spec else { continue };
            let namespace = match policy.pods.namespaces() {
                Namespaces::One(own) => own.clone(),
                Namespaces::All | Namespaces::Matching(_) => String::new(),
            };
            let label = match &policy.pods {
                PodSelection::Labels(_, selector) => selector.key_and_values(),
                PodSelection::Subnets(..) => None,
            };
            let Some((label, values)) = label else {
                ways.others.entry(namespace).or_default().push(key.clone());
                continue;
            };
            let of_label = ways.by_label.entry(namespace).or_default().entry(label.to_owned()).or_default();
            for value in values {
                of_label.entry(value.clone()).or_default().push(key.clone());
            }
        }
        ways
    }

    /// The policies that select a pod, in the order of their keys.
    fn policies<'a>(
        &self,
        snapshot: &'a ClusterSnapshot,
        key: &PodKey,
        pod: &Pod,
    ) -> Vec<(&'a PolicyKey, &'a PolicyRecord)> {
        if pod.host_network || pod.finished {
            return Vec::new();
        }
        let labels = snapshot.namespaces.get(&key.namespace);
        let mut found: Vec<_> = self
            .candidates(&key.namespace, &pod.labels)
            .filter_map(|policy| snapshot.policies.get_key_value(policy))
            .filter(|(_, record)| {
                record.spec.as_ref().is_ok_and(|policy| {
                    policy.pods.matches(&pod.labels, &pod.addresses)
                        && policy.pods.namespaces().contain(&key.namespace, labels)
                })
            })
            .collect();
        found.sort_unstable_by_key(|(key, _)| *key);
        found
    }

    fn candidates<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a PolicyKey> {
        let scopes = [namespace, ""].into_iter();
        scopes.flat_map(move |scope| {
            let of_scope = self.by_label.get(scope);
            let labelled = labels.iter().filter_map(move |(key, value)| of_scope?.get(key)?.get(value));
            labelled.flatten().chain(self.others.get(scope).into_iter().flatten())
        })
    }
}

/// Of policies that select one pod those that others go before, and which.
fn losers<'a>(policies: &[(&'a PolicyKey, &'a PolicyRecord)]) -> Vec<(&'a PolicyKey, Vec<&'a PolicyKey>)> {
    if policies.len() < 2 {
        return Vec::new();
    }
    let specs = policies.iter().filter_map(|(key, record)| Some((*key, *record, record.spec.as_ref().ok()?)));
    let ranked: Vec<_> = specs
        .map(|(key, record, policy)| {
            let (priority, created_at) = (policy.priority, record.created_at_s);
            (key, policy, Precedence { priority, created_at, key: key.clone() })
        })
        .collect();
    let beaten = ranked.iter().map(|(key, policy, precedence)| {
        let winners = ranked.iter().filter(|(other, theirs, their_precedence)| {
            other != key && goes_before((theirs, their_precedence), (policy, precedence))
        });
        (*key, winners.map(|(winner, _, _)| *winner).collect::<Vec<_>>())
    });
    beaten.filter(|(_, winners)| !winners.is_empty()).collect()
}

/// Whether a policy has some destination before the other one: by priority, then by the longer prefix, then by
/// [`Precedence`].
fn goes_before(one: (&Policy, &Precedence), other: (&Policy, &Precedence)) -> bool {
    let rank = |policy: &Policy| (policy.priority.is_none(), policy.priority);
    let (mine, theirs) = (nets(one.0), nets(other.0));
    match rank(one.0).cmp(&rank(other.0)) {
        std::cmp::Ordering::Less => within(&mine, &theirs, true) || within(&theirs, &mine, true),
        std::cmp::Ordering::Equal => within(&mine, &theirs, one.1 < other.1),
        std::cmp::Ordering::Greater => false,
    }
}

/// A policy's destinations; all that there is where it names none.
fn nets(policy: &Policy) -> BTreeSet<IpNet> {
    if policy.destinations.is_empty() {
        let all = [IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0), IpNet::new(Ipv6Addr::UNSPECIFIED.into(), 0)];
        return all.into_iter().flatten().collect();
    }
    policy.destinations.clone()
}

/// Whether one of the networks is inside of one of the others, or the same where that counts.
fn within(inner: &BTreeSet<IpNet>, outer: &BTreeSet<IpNet>, or_same: bool) -> bool {
    let lengths: BTreeSet<u8> = outer.iter().map(IpNet::prefix_len).collect();
    inner.iter().any(|net| {
        let shorter = lengths
            .iter()
            .filter(|length| **length < net.prefix_len() || (or_same && **length == net.prefix_len()));
        shorter
            .filter_map(|length| IpNet::new(net.addr(), *length).ok())
            .any(|around| outer.contains(&around.trunc()))
    })
}
