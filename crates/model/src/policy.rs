//! Policies by name, and the one order in which overlapping ones are asked.

use std::cmp::Ordering;
use std::fmt;

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
        let rank = |p: &Self| {
            (
                p.priority.is_none(),
                p.priority,
                p.key.namespace.is_none(),
                p.created_at,
            )
        };
        rank(self)
            .cmp(&rank(other))
            .then_with(|| self.key.cmp(&other.key))
    }
}

impl PartialOrd for Precedence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(priority: Option<u64>, namespace: Option<&str>, created_at: i64, name: &str) -> Precedence {
        let key = PolicyKey {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        };
        Precedence {
            priority,
            created_at,
            key,
        }
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
