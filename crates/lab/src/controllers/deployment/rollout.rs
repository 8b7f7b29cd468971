//! How many pods each version of a Deployment should have next.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{View, size};

/// A ReplicaSet that should have another size.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scale {
    pub(super) name: Option<String>,
    pub(super) from: i32,
    pub(super) to: i32,
}

/// Which ReplicaSets should change their size now.
pub(super) fn scales(view: &View<'_>, old_pods_left: bool) -> Vec<Scale> {
    let mut scales = Vec::new();
    let mut scale = |set: &ReplicaSet, to: i32| {
        if size(set) != to {
            scales.push(Scale { name: set.metadata.name.clone(), from: size(set), to });
        }
    };
    if recreates(view.deployment) {
        view.old.iter().for_each(|set| scale(set, 0));
        if let Some(current) = view.current.filter(|_| !old_pods_left) {
            scale(current, view.wanted());
        }
        return scales;
    }
    if let Some(current) = view.current {
        let to = grown(view, size(current));
        scale(current, to);
        for (set, to) in shrunk(view, current) {
            scale(set, to);
        }
    }
    scales
}

/// The size that the current version starts with.
pub(super) fn first_size(view: &View<'_>, old_pods_left: bool) -> i32 {
    match recreates(view.deployment) {
        true if old_pods_left => 0,
        true => view.wanted(),
        false => grown(view, 0),
    }
}

/// The current version may grow as long as all versions together stay within wanted + surge.
fn grown(view: &View<'_>, now: i32) -> i32 {
    let wanted = view.wanted();
    if now >= wanted {
        return wanted;
    }
    let others: i32 = view.old.iter().map(|set| size(set)).sum();
    let room = wanted + max_surge(view.deployment) - others - now;
    now + room.clamp(0, wanted - now)
}

/// Old versions shrink as far as enough pods stay available: first those pods that don't work anyway.
fn shrunk<'a>(view: &'a View<'_>, current: &ReplicaSet) -> Vec<(&'a ReplicaSet, i32)> {
    let available =
        |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    let min_available = view.wanted() - max_unavailable(view.deployment);
    let total: i32 = view.all().map(|set| size(set)).sum();
    let current_missing = (size(current) - available(current)).max(0);
    let mut may_go = (total - min_available - current_missing).max(0);
    let all_available: i32 = view.all().map(|set| available(set)).sum();
    let mut may_go_available = (all_available - min_available).max(0);

    let mut oldest_first: Vec<&ReplicaSet> = view.old.iter().map(|set| set.as_ref()).collect();
    oldest_first.sort_by_key(|set| set.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let mut sizes = Vec::new();
    for set in oldest_first {
        let broken = (size(set) - available(set)).clamp(0, may_go);
        may_go -= broken;
        let working = (size(set) - broken).min(may_go).min(may_go_available);
        may_go -= working;
        may_go_available -= working;
        sizes.push((set, size(set) - broken - working));
    }
    sizes
}

fn recreates(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// How many pods there may be beyond what is wanted.
pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    limits(deployment).0
}

/// How many pods may be missing.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    limits(deployment).1
}

fn limits(deployment: &Deployment) -> (i32, i32) {
    let spec = deployment.spec.as_ref();
    let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let rolling =
        spec.and_then(|spec| spec.strategy.as_ref()).and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_string());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    let (surge, unavailable) = (share(surge, wanted, true), share(unavailable, wanted, false));
    // With neither, nothing could ever move.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(wanted)) }
}

/// A number, or a percentage of what is wanted.
pub(crate) fn share(value: &IntOrString, wanted: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i32 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredths = percent.clamp(0, 1000).saturating_mul(wanted.max(0));
            if round_up {
                hundredths.div_euclid(100) + i32::from(hundredths % 100 != 0)
            } else {
                hundredths / 100
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn set(name: &str, spec: i32, available: i32) -> Arc<ReplicaSet> {
        let object = json!({
            "metadata": {"name": name},
            "spec": {"replicas": spec, "selector": {}},
            "status": {"replicas": spec, "availableReplicas": available},
        });
        Arc::new(serde_json::from_value(object).expect("a ReplicaSet"))
    }

    fn deployment(replicas: i32, strategy: Value) -> Deployment {
        let spec = json!({"replicas": replicas, "selector": {}, "strategy": strategy, "template": {}});
        serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": spec})).expect("a Deployment")
    }

    /// Applies what is decided, with all new pods available at once, until nothing changes.
    fn settle(
        deployment: &Deployment,
        mut current: (i32, i32),
        mut old: (i32, i32),
    ) -> (Vec<(i32, i32)>, i32) {
        let mut steps = Vec::new();
        let mut least_available = i32::MAX;
        for _ in 0..50 {
            let (new_set, old_set) = (set("new", current.0, current.1), set("old", old.0, old.1));
            let view = View { deployment, current: Some(&new_set), old: vec![&old_set], hash: String::new() };
            let scales = scales(&view, old.0 > 0);
            if scales.is_empty() && current.0 == current.1 {
                return (steps, least_available);
            }
            for scale in scales {
                let target = if scale.name.as_deref() == Some("new") { &mut current } else { &mut old };
                target.0 = scale.to;
                target.1 = target.1.min(scale.to);
            }
            least_available = least_available.min(current.1 + old.1);
            steps.push((current.0, old.0));
            current.1 = current.0;
        }
        panic!("never settles: {steps:?}");
    }

    #[test]
    fn a_rolling_update_stays_within_surge_and_availability() {
        let deployment = deployment(4, json!({"type": "RollingUpdate"}));
        let (steps, least_available) = settle(&deployment, (0, 0), (4, 4));
        assert_eq!(steps.last(), Some(&(4, 0)));
        assert!(steps.iter().all(|(new, old)| new + old <= 5), "more than wanted + surge: {steps:?}");
        assert!(least_available >= 3, "{least_available} available");
    }

    #[test]
    fn pods_that_never_worked_do_not_hold_up_an_update() {
        let deployment = deployment(2, json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}));
        let (steps, _) = settle(&deployment, (0, 0), (2, 0));
        assert_eq!(steps.last(), Some(&(2, 0)));
    }

    #[test]
    fn recreate_starts_the_new_version_when_the_old_one_is_gone() {
        let deployment = deployment(3, json!({"type": "Recreate"}));
        let (new_set, old_set) = (set("new", 0, 0), set("old", 3, 3));
        let view = View {
            deployment: &deployment,
            current: Some(&new_set),
            old: vec![&old_set],
            hash: String::new(),
        };
        let names: Vec<_> = scales(&view, true).into_iter().map(|scale| (scale.name, scale.to)).collect();
        assert_eq!(names, vec![(Some("old".to_string()), 0)]);
        assert_eq!(settle(&deployment, (0, 0), (3, 3)).0.last(), Some(&(3, 0)));
    }

    #[test]
    fn percentages_of_surge_round_up_and_of_unavailable_down() {
        let quarter = IntOrString::String("25%".to_string());
        assert_eq!((share(&quarter, 3, true), share(&quarter, 3, false)), (1, 0));
        assert_eq!((share(&quarter, 4, true), share(&quarter, 4, false)), (1, 1));
        assert_eq!(share(&IntOrString::String("no number".to_string()), 4, true), 0);
    }
}
