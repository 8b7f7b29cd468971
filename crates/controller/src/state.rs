//! All that the controller knows: the plan's snapshot, and the objects that it writes as they were last seen.

use std::collections::{BTreeMap, BTreeSet};

use api::convert;
use api::names;
use api::slim::{SlimLease, SlimNamespace, SlimNode, SlimPod, SlimServiceCidr};
use api::v1beta1::{
    EgressClusterEndpointSlice, EgressClusterInfo, EgressClusterPolicy, EgressEndpointSlice, EgressGateway,
    EgressPolicy, EgressPortLease, EgressTunnel,
};
use ipnet::IpNet;
use kube::{Resource, ResourceExt};
use model::cluster::{Node, Pod, PodKey, PoolKind};
use model::policy::PolicyKey;
use model::port_lease::LeaseName;
use plan::snapshot::SliceKey;
use plan::{ClusterSnapshot, Event, Planner, Settings};
use runtime::watch::Change;

use crate::fence::{Exclusive, Fence};
use crate::pace::Pace;
use crate::record;
use crate::watches::{Input, Kind};

/// All that the controller knows.
pub struct State {
    /// The plan, and the snapshot that it is made from
    pub planner: Planner,
    pub(crate) gateways: BTreeMap<String, EgressGateway>,
    pub(crate) policies: BTreeMap<PolicyKey, EgressPolicy>,
    pub(crate) cluster_policies: BTreeMap<PolicyKey, EgressClusterPolicy>,
    pub(crate) tunnels: BTreeMap<String, EgressTunnel>,
    pub(crate) leases: BTreeMap<LeaseName, EgressPortLease>,
    pub(crate) cluster_infos: BTreeMap<String, EgressClusterInfo>,
    pub(crate) slices: BTreeMap<SliceKey, EgressEndpointSlice>,
    pub(crate) cluster_slices: BTreeMap<SliceKey, EgressClusterEndpointSlice>,
    /// When statuses of gateways are written
    pub(crate) pace: Pace,
    /// What of a former leader's could still be under way
    pub(crate) fence: Fence,
    listed: BTreeSet<Kind>,
}

impl State {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            planner: Planner::new(settings),
            gateways: BTreeMap::new(),
            policies: BTreeMap::new(),
            cluster_policies: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            leases: BTreeMap::new(),
            cluster_infos: BTreeMap::new(),
            slices: BTreeMap::new(),
            cluster_slices: BTreeMap::new(),
            pace: Pace::default(),
            fence: Fence::default(),
            listed: BTreeSet::new(),
        }
    }

    /// The kinds that have not been listed yet.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| !self.listed.contains(kind)).collect()
    }

    /// Takes in what a watch says. Whether a plan may change by it, and the kind if it has now been listed.
    pub fn absorb(&mut self, input: Input) -> bool {
        let listed = input.lists();
        let planner = &mut self.planner;
        let changed = match input {
            Input::Node(change) => {
                read(planner, |it| it.nodes.keys().cloned().collect(), change, node, Event::Node)
            }
            Input::Heartbeat(change) => {
                let beat = |it: &SlimLease| (it.spec.holder_identity.clone(), it.spec.renew_time.clone());
                read(planner, ClusterSnapshot::heard, change, beat, Event::Heartbeat)
            }
            Input::Namespace(change) => {
                let named = |it: &SlimNamespace| (it.name_any(), it.labels().clone());
                read(planner, |it| it.namespaces.keys().cloned().collect(), change, named, Event::Namespace)
            }
            Input::Pod(change) => {
                read(planner, |it| it.pods.keys().cloned().collect(), change, pod, Event::Pod)
            }
            Input::Service(change) => {
                let addresses = |it: &_| (namespaced(it), convert::service_addresses(it));
                read(planner, |it| it.services.keys().cloned().collect(), change, addresses, Event::Service)
            }
            Input::ServiceCidr(change) => {
                let ranges = |it: &SlimServiceCidr| (it.name_any(), convert::service_ranges(it));
                let known = |it: &ClusterSnapshot| it.service_cidrs.keys().cloned().collect();
                read(planner, known, change, ranges, Event::ServiceCidr)
            }
            Input::ControlPlane(change) => {
                let ranges = |it: &_| (namespaced(it), convert::control_plane_ranges(it));
                let known = |it: &ClusterSnapshot| it.control_plane_ranges.keys().cloned().collect();
                read(planner, known, change, ranges, Event::ControlPlane)
            }
            Input::CalicoPool(change) => pools(planner, change, PoolKind::CalicoPool, convert::calico_pool),
            Input::CiliumNode(change) => pools(planner, change, PoolKind::CiliumNode, convert::cilium_node),
            Input::CiliumPool(change) => pools(planner, change, PoolKind::CiliumPool, convert::cilium_pool),
            Input::SpiderPool(change) => pools(planner, change, PoolKind::SpiderPool, convert::spider_pool),
            Input::SpiderCoordinator(change) => {
                // While it is not sure, what it last said counts.
                let before = planner.snapshot().pod_pools.clone();
                pools(planner, change, PoolKind::SpiderCoordinator, |object| {
                    let known = || before.get(&(PoolKind::SpiderCoordinator, object.name_any())).cloned();
                    convert::spider_coordinator(object).or_else(known).unwrap_or_default()
                })
            }
            Input::Gateway(change) => {
                let named = Named::of(&change, ResourceExt::name_any);
                let changed = keep(planner, &mut self.gateways, change, ResourceExt::name_any, |name, it| {
                    Some(Event::Gateway(name, it.map(record::gateway)))
                });
                named.look(&mut self.fence, Exclusive::Gateway, &self.gateways);
                changed
            }
            Input::Policy(change) => keep(planner, &mut self.policies, change, key_of, |key, it| {
                Some(Event::Policy(key, it.map(record::policy)))
            }),
            Input::ClusterPolicy(change) => {
                keep(planner, &mut self.cluster_policies, change, key_of, |key, it| {
                    Some(Event::Policy(key, it.map(record::cluster_policy)))
                })
            }
            Input::Tunnel(change) => {
                keep(planner, &mut self.tunnels, change, ResourceExt::name_any, |name, it| {
                    Some(Event::Tunnel(name, it.map(record::tunnel)))
                })
            }
            Input::Lease(change) => {
                // A version that is new to us: no write that names the one before can succeed any more.
                let is_new = |object: &EgressPortLease| {
                    let known = self.leases.get(&convert::lease_name(object));
                    known.is_none_or(|known| known.resource_version() != object.resource_version())
                };
                let settled: Vec<LeaseName> = match &change {
                    Change::Applied(object) => std::slice::from_ref(object),
                    Change::Replaced(objects) => objects.as_slice(),
                    Change::Deleted(_) => &[],
                }
                .iter()
                .filter(|object| is_new(object))
                .map(convert::lease_name)
                .collect();
                let named = Named::of(&change, convert::lease_name);
                let mut changed = false;
                for name in settled {
                    changed |= planner.absorb(Event::UncertainLease(name, None));
                }
                changed |= keep(planner, &mut self.leases, change, convert::lease_name, |name, it| {
                    Some(Event::Lease(name, it.map(record::lease)))
                });
                named.look(&mut self.fence, Exclusive::Lease, &self.leases);
                changed
            }
            Input::ClusterInfo(change) => {
                keep(planner, &mut self.cluster_infos, change, ResourceExt::name_any, |name, it| {
                    // Objects of other names say nothing.
                    (name == names::CLUSTER_INFO).then(|| Event::ClusterInfo(it.map(record::cluster_info)))
                })
            }
            Input::Slice(change) => keep(planner, &mut self.slices, change, slice_key, |key, it| {
                Some(Event::Slice(key, it.and_then(record::slice)))
            }),
            Input::ClusterSlice(change) => {
                keep(planner, &mut self.cluster_slices, change, slice_key, |key, it| {
                    Some(Event::Slice(key, it.and_then(record::cluster_slice)))
                })
            }
        };
        listed.is_some_and(|kind| self.listed.insert(kind)) || changed
    }
}

/// The objects that a change is about.
enum Named<Key> {
    One(Key, String),
    All,
}

impl<Key: Ord> Named<Key> {
    fn of<K: Resource>(change: &Change<K>, key_of: impl Fn(&K) -> Key) -> Self {
        match change {
            Change::Applied(object) | Change::Deleted(object) => Self::One(key_of(object), object.name_any()),
            Change::Replaced(_) => Self::All,
        }
    }

    /// Tells of these objects as they are known now.
    fn look<K: Resource>(&self, fence: &mut Fence, kind: Exclusive, known: &BTreeMap<Key, K>) {
        match self {
            Self::All => fence.look_at_all(kind, known.values()),
            Self::One(key, name) => match known.get(key) {
                Some(object) => fence.look_at(kind, object),
                None => fence.gone(kind, name),
            },
        }
    }
}

/// Takes in what network plug-ins say of pods' networks.
fn pools<K: Resource>(
    planner: &mut Planner,
    change: Change<K>,
    kind: PoolKind,
    convert: impl Fn(&K) -> BTreeSet<IpNet>,
) -> bool {
    let known = |it: &ClusterSnapshot| {
        let of_kind = it.pod_pools.keys().filter(|(known, _)| *known == kind);
        of_kind.map(|(_, name)| name.clone()).collect()
    };
    let event = |name, nets| Event::PodPool(kind, name, nets);
    read(planner, known, change, |object| (object.name_any(), convert(object)), event)
}

fn node(object: &SlimNode) -> (String, Node) {
    (object.name_any(), convert::node(object))
}

fn pod(object: &SlimPod) -> (PodKey, Pod) {
    (convert::pod_key(object), convert::pod(object))
}

fn namespaced<K: Resource>(object: &K) -> PodKey {
    PodKey { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

fn key_of<K: Resource>(object: &K) -> PolicyKey {
    record::policy_key(object.meta())
}

fn slice_key<K: Resource>(object: &K) -> SliceKey {
    record::slice_key(object.meta())
}

/// Takes in objects of a kind that is only read.
fn read<K, Key: Ord + Clone, T>(
    planner: &mut Planner,
    known: impl Fn(&ClusterSnapshot) -> BTreeSet<Key>,
    change: Change<K>,
    convert: impl Fn(&K) -> (Key, T),
    event: impl Fn(Key, Option<T>) -> Event,
) -> bool {
    match change {
        Change::Applied(object) => {
            let (key, value) = convert(&object);
            planner.absorb(event(key, Some(value)))
        }
        Change::Deleted(object) => planner.absorb(event(convert(&object).0, None)),
        Change::Replaced(objects) => {
            let mut gone = known(planner.snapshot());
            let mut changed = false;
            for object in &objects {
                let (key, value) = convert(object);
                gone.remove(&key);
                changed |= planner.absorb(event(key, Some(value)));
            }
            for key in gone {
                changed |= planner.absorb(event(key, None));
            }
            changed
        }
    }
}

/// Takes in objects of a kind that is also written. What is older than what we know, because we wrote it, is passed over.
fn keep<K: Resource, Key: Ord + Clone>(
    planner: &mut Planner,
    store: &mut BTreeMap<Key, K>,
    change: Change<K>,
    key_of: impl Fn(&K) -> Key,
    event: impl Fn(Key, Option<&K>) -> Option<Event>,
) -> bool {
    let mut absorb =
        |key: Key, object: Option<&K>| event(key, object).is_some_and(|event| planner.absorb(event));
    match change {
        Change::Applied(object) => {
            let key = key_of(&object);
            if store.get(&key).is_some_and(|known| is_older(&object, known)) {
                return false;
            }
            let changed = absorb(key.clone(), Some(&object));
            store.insert(key, object);
            changed
        }
        Change::Deleted(object) => {
            let key = key_of(&object);
            // Of a later object of the same name, which we know already, this says nothing.
            if store
                .get(&key)
                .is_some_and(|known| known.meta().uid != object.meta().uid && is_older(&object, known))
            {
                return false;
            }
            store.remove(&key);
            absorb(key, None)
        }
        Change::Replaced(objects) => {
            let mut gone: BTreeSet<Key> = store.keys().cloned().collect();
            let mut changed = false;
            for object in objects {
                let key = key_of(&object);
                gone.remove(&key);
                changed |= absorb(key.clone(), Some(&object));
                store.insert(key, object);
            }
            for key in gone {
                store.remove(&key);
                changed |= absorb(key, None);
            }
            changed
        }
    }
}

fn is_older<K: Resource>(object: &K, known: &K) -> bool {
    let version = |object: &K| {
        object.meta().resource_version.as_deref().and_then(|version| version.parse::<u64>().ok())
    };
    matches!((version(object), version(known)), (Some(new), Some(old)) if new < old)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(name: &str, uid: &str, version: &str, default: bool) -> EgressGateway {
        let mut gateway = EgressGateway::named(name);
        gateway.metadata.uid = Some(uid.to_owned());
        gateway.metadata.resource_version = Some(version.to_owned());
        gateway.spec.cluster_default = default;
        gateway
    }

    fn version(state: &State, name: &str) -> Option<String> {
        state.gateways.get(name).and_then(ResourceExt::resource_version)
    }

    #[test]
    fn what_is_older_than_what_we_wrote_is_passed_over() {
        let mut state = State::new(Settings::default());
        state.absorb(Input::Gateway(Change::Applied(gateway("g", "1", "20", true))));
        assert!(!state.absorb(Input::Gateway(Change::Applied(gateway("g", "1", "9", false)))));
        assert_eq!(version(&state, "g").as_deref(), Some("20"));
        state.absorb(Input::Gateway(Change::Applied(gateway("g", "1", "21", false))));
        assert_eq!(version(&state, "g").as_deref(), Some("21"));
    }

    #[test]
    fn the_end_of_an_earlier_object_says_nothing_of_a_later_one() {
        let mut state = State::new(Settings::default());
        state.absorb(Input::Gateway(Change::Applied(gateway("g", "2", "20", true))));
        assert!(!state.absorb(Input::Gateway(Change::Deleted(gateway("g", "1", "19", true)))));
        assert_eq!(version(&state, "g").as_deref(), Some("20"));
        assert!(state.absorb(Input::Gateway(Change::Deleted(gateway("g", "2", "21", true)))));
        assert!(state.gateways.is_empty() && state.planner.snapshot().gateways.is_empty());
    }

    #[test]
    fn a_new_list_is_all_that_there_is() {
        let mut state = State::new(Settings::default());
        assert_eq!(state.waiting_for().len(), Kind::ALL.len());
        state.absorb(Input::Gateway(Change::Applied(gateway("gone", "1", "20", true))));
        state.absorb(Input::Gateway(Change::Replaced(vec![gateway("g", "2", "5", true)])));
        assert_eq!(state.planner.snapshot().gateways.keys().collect::<Vec<_>>(), ["g"]);
        assert!(!state.waiting_for().contains(&Kind::Gateway));
        // The same list again changes nothing, and one of nothing empties the kind.
        assert!(!state.absorb(Input::Gateway(Change::Replaced(vec![gateway("g", "2", "5", true)]))));
        assert!(state.absorb(Input::Gateway(Change::Replaced(Vec::new()))));
        assert!(state.planner.snapshot().gateways.is_empty());
    }

    #[test]
    fn only_the_cluster_info_of_our_name_counts() {
        let mut state = State::new(Settings::default());
        assert!(!state.absorb(Input::ClusterInfo(Change::Applied(EgressClusterInfo::named("other")))));
        assert!(
            state.absorb(Input::ClusterInfo(Change::Applied(EgressClusterInfo::named(names::CLUSTER_INFO))))
        );
    }
}
