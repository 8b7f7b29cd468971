//! A policy comes into force: make before break.
//!
//! A pod that ran before the policy was made has had another way out until now, and keeps it until the new one is whole: EIP
//! and ports are given, a gateway carries the EIP, and has said that it holds this node's ports. So none of its
//! connections is lost or refused in between. A pod that is not known from before is never let out the old way, and neither is
//! anybody when that takes too long.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use datapath::view::{NodeView, PodKey};
use model::EipPair;
use model::policy::PolicyKey;

/// After this long a policy is in force whether it can be fulfilled or not.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Policies that are not in force yet for some pods.
#[derive(Debug, Default)]
pub struct Activation {
    /// Policies that were seen; `None` before the first pass: what an earlier run left is in force
    seen: Option<BTreeSet<PolicyKey>>,
    waiting: BTreeMap<PolicyKey, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    until: Instant,
    /// Pods that wait, with the addresses that they had
    pods: BTreeMap<PodKey, BTreeSet<IpAddr>>,
}

impl Activation {
    /// Takes pods that wait out of the policies of a view. `before` is the last one; `is_ready` tells whether connections can
    /// leave with an EIP.
    pub fn apply(
        &mut self,
        view: &mut NodeView,
        before: Option<&NodeView>,
        now: Instant,
        is_ready: impl Fn(&EipPair) -> bool,
    ) {
        let keys: BTreeSet<PolicyKey> =
            view.policies.iter().map(|policy| policy.precedence.key.clone()).collect();
        self.waiting.retain(|key, _| keys.contains(key));
        let NodeView { policies, pods, .. } = view;
        for policy in policies {
            let key = &policy.precedence.key;
            let is_new = self.seen.as_ref().is_some_and(|seen| !seen.contains(key));
            if let (true, Some(before)) = (is_new, before) {
                let known = policy.pods.iter().filter_map(|pod| before.pods.get_key_value(pod));
                let pods = known.map(|(key, pod)| (key.clone(), pod.addresses.clone())).collect();
                self.waiting.insert(key.clone(), Waiting { until: now + PATIENCE, pods });
            }
            let Some(waiting) = self.waiting.get(key) else { continue };
            if waiting.until <= now || policy.pods.is_empty() || policy.eip.as_ref().is_some_and(&is_ready) {
                self.waiting.remove(key);
                continue;
            }
            let is_old = |pod: &PodKey| {
                let addresses = pods.get(pod).map(|pod| &pod.addresses);
                addresses.is_some() && waiting.pods.get(pod) == addresses
            };
            policy.is_young = policy.eip.is_none();
            policy.pods.retain(|pod| !is_old(pod));
        }
        self.seen = Some(keys);
    }

    /// When the next policy comes into force, whatever happens.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }
}

#[cfg(test)]
mod tests {
    use datapath::view::{Destinations, Pod, PolicyView};
    use model::policy::Precedence;

    use super::*;

    fn eip() -> EipPair {
        "10.6.168.201".parse().unwrap()
    }

    fn view(pods: &[(&str, [u8; 4])], eip: Option<EipPair>) -> NodeView {
        let key = PolicyKey { namespace: Some("default".into()), name: "p".into() };
        let pod = |address: [u8; 4]| Pod { addresses: [address.into()].into(), interface: None };
        let pods: BTreeMap<_, _> =
            pods.iter().map(|(name, address)| (PodKey::new("default", *name), pod(*address))).collect();
        let policy = PolicyView {
            precedence: Precedence { priority: None, created_at: 0, key },
            pods: pods.keys().cloned().collect(),
            destinations: Destinations::Outside,
            eip,
            is_young: false,
            gateway: String::new(),
        };
        NodeView { pods, policies: vec![policy], ..NodeView::default() }
    }

    fn selected(view: &NodeView) -> Vec<&str> {
        view.policies.iter().flat_map(|policy| &policy.pods).map(|pod| pod.name.as_str()).collect()
    }

    /// A node that knew pod `old` before the policy came.
    fn started(now: Instant) -> (Activation, NodeView) {
        let mut activation = Activation::default();
        let mut before = view(&[("old", [10, 0, 0, 1])], None);
        before.policies.clear();
        activation.apply(&mut before, None, now, |_| false);
        (activation, before)
    }

    #[test]
    fn a_pod_that_was_there_before_waits_for_the_way_to_be_whole_and_a_new_one_does_not() {
        let now = Instant::now();
        let (mut activation, before) = started(now);
        let pods = [("old", [10, 0, 0, 1]), ("new", [10, 0, 0, 2])];
        for (eip, ready, expected) in [
            (None, false, &["new"][..]),
            (Some(eip()), false, &["new"]),
            (Some(eip()), true, &["new", "old"]),
            (Some(eip()), false, &["new", "old"]),
        ] {
            let mut view = view(&pods, eip);
            activation.apply(&mut view, Some(&before), now, |_| ready);
            assert_eq!(selected(&view), expected);
            // What the new pod sends before an EIP is chosen waits for it.
            assert_eq!(view.policies.iter().any(|policy| policy.is_young), eip.is_none());
        }
        assert_eq!(activation.next(), None);
    }

    #[test]
    fn nobody_waits_for_long() {
        let now = Instant::now();
        let (mut activation, before) = started(now);
        let mut wanted = view(&[("old", [10, 0, 0, 1])], None);
        activation.apply(&mut wanted, Some(&before), now, |_| false);
        assert_eq!((selected(&wanted).len(), activation.next()), (0, Some(now + PATIENCE)));
        let mut wanted = view(&[("old", [10, 0, 0, 1])], None);
        activation.apply(&mut wanted, Some(&before), now + PATIENCE, |_| false);
        assert_eq!((selected(&wanted), activation.next()), (vec!["old"], None));
    }

    #[test]
    fn a_pod_that_came_back_with_another_address_does_not_wait() {
        let now = Instant::now();
        let (mut activation, before) = started(now);
        let mut wanted = view(&[("old", [10, 0, 0, 9])], None);
        activation.apply(&mut wanted, Some(&before), now, |_| false);
        assert_eq!(selected(&wanted), ["old"]);
    }

    #[test]
    fn what_an_earlier_run_left_is_in_force() {
        let mut activation = Activation::default();
        let mut wanted = view(&[("old", [10, 0, 0, 1])], None);
        activation.apply(&mut wanted, None, Instant::now(), |_| false);
        assert_eq!(selected(&wanted), ["old"]);
    }
}
