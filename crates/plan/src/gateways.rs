//! Which gateways can be used, which nodes they have, and which EIP is their default.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::gateway::Gateway;
use model::policy::PolicyKey;
use model::pool::Family;
use model::selector::LabelSelector;
use model::{EipPair, IpPool, Reason};

use crate::settings::Settings;
use crate::snapshot::{ClusterSnapshot, GatewayRecord};

/// All gateways, examined.
#[derive(Clone, Debug, Default)]
pub struct Gateways<'a> {
    /// Every gateway by name
    pub by_name: BTreeMap<&'a str, Examined<'a>>,
    /// Names from the oldest to the youngest, without those that are as good as gone
    pub by_age: Vec<&'a str>,
    /// The gateway of each policy, or why it has none
    pub of_policy: BTreeMap<&'a PolicyKey, Result<&'a str, Reason>>,
    /// All addresses of all pools
    pub all_v4: Option<IpPool>,
    /// All addresses of all pools
    pub all_v6: Option<IpPool>,
    /// Whether no two pools share an address
    pub disjoint: bool,
    /// The gateway that each EIP in force is of, as statuses say: the older one where two say so
    pub holder: BTreeMap<IpAddr, &'a str>,
}

/// A gateway that has been looked at.
#[derive(Clone, Debug)]
pub struct Examined<'a> {
    /// As it is recorded
    pub record: &'a GatewayRecord,
    /// What it asks for, or why nothing can use it
    pub usable: Result<&'a Gateway, Reason>,
    /// Nodes that match, by name
    pub nodes: BTreeSet<&'a str>,
    /// Addresses that no older gateway's pool has, to pick from
    pub own_v4: IpPool,
    /// Addresses that no older gateway's pool has, to pick from
    pub own_v6: IpPool,
    /// Whether any policy, of either kind, uses it
    pub used: bool,
    /// The gateway that is the cluster's default though this one says that it is
    pub other_default: Option<&'a str>,
}

impl Gateways<'_> {
    /// Whether any pool has this address.
    #[must_use]
    pub fn any_pool_has(&self, address: IpAddr) -> bool {
        let all = if address.is_ipv4() { &self.all_v4 } else { &self.all_v6 };
        all.as_ref().is_some_and(|all| all.contains(address))
    }
}

impl Examined<'_> {
    /// Addresses of that family that no older gateway's pool has.
    #[must_use]
    pub fn own_pool(&self, family: Family) -> &IpPool {
        match family {
            Family::V4 => &self.own_v4,
            Family::V6 => &self.own_v6,
        }
    }
}

/// Looks at all gateways and at who uses them.
#[must_use]
pub fn examine(snapshot: &ClusterSnapshot) -> Gateways<'_> {
    let mut gateways = Gateways::default();
    let mut nodes = NodeIndex::of(snapshot);
    for (name, record) in &snapshot.gateways {
        let usable = usable(snapshot, record);
        let matching = match &record.spec {
            Ok(gateway) => nodes.matching(&gateway.nodes),
            Err(_) => BTreeSet::new(),
        };
        let pool = |family: Family| {
            let gateway = record.spec.as_ref().ok();
            gateway.map_or_else(|| IpPool::empty(family), |gateway| gateway.pool(family).clone())
        };
        let (own_v4, own_v6) = (pool(Family::V4), pool(Family::V6));
        let examined =
            Examined { record, usable, nodes: matching, own_v4, own_v6, used: false, other_default: None };
        gateways.by_name.insert(name.as_str(), examined);
    }
    gateways.by_age = by_age(snapshot);

    let default = cluster_default(snapshot, &gateways.by_age);
    for (name, examined) in &mut gateways.by_name {
        let claims = examined.record.spec.as_ref().is_ok_and(|gateway| gateway.cluster_default);
        examined.other_default = default.filter(|default| claims && default != name);
    }
    for (key, policy) in &snapshot.policies {
        let chosen = choose(snapshot, &gateways.by_age, key, policy.gateway.as_deref());
        if let Some(examined) = chosen.as_ref().ok().and_then(|name| gateways.by_name.get_mut(*name)) {
            examined.used = true;
        }
        gateways.of_policy.insert(key, chosen);
    }
    // One that is being deleted and that nobody uses is as good as gone: it keeps no address from another.
    gateways.by_age.retain(|name| {
        let examined = gateways.by_name.get(name);
        examined.is_some_and(|examined| examined.used || !examined.record.deleting)
    });
    let pools = |family| pools(snapshot, &gateways.by_age, family);
    let all = [Family::V4, Family::V6].map(|family| IpPool::union(family, pools(family)));
    let sum = |family| pools(family).fold(0_u128, |sum, pool| sum.saturating_add(pool.count()));
    gateways.disjoint = all.iter().all(|all| all.count() == sum(all.family()));
    let [v4, v6] = all;
    (gateways.all_v4, gateways.all_v6) = (Some(v4), Some(v6));

    // Most clusters have none that overlap, and looking at each pair is dear.
    let younger_and_older = if gateways.disjoint { &[] } else { gateways.by_age.as_slice() };
    for (at, younger) in younger_and_older.iter().enumerate() {
        for older in gateways.by_age.iter().take(at) {
            let Some(Ok(older)) = snapshot.gateways.get(*older).map(|record| &record.spec) else {
                continue;
            };
            if let Some(examined) = gateways.by_name.get_mut(younger) {
                if examined.own_v4.common(&older.pool_v4).is_some() {
                    examined.own_v4 = examined.own_v4.without(&older.pool_v4);
                }
                if examined.own_v6.common(&older.pool_v6).is_some() {
                    examined.own_v6 = examined.own_v6.without(&older.pool_v6);
                }
            }
        }
    }

    for name in &gateways.by_age {
        let Some(record) = snapshot.gateways.get(*name) else {
            continue;
        };
        let Ok(gateway) = &record.spec else { continue };
        // What nobody here uses any more is free for another gateway at once.
        let is_used = |policies: &BTreeSet<PolicyKey>| {
            let of_policy = |key| gateways.of_policy.get(key).and_then(|gateway| gateway.as_ref().ok());
            policies.iter().any(|key| of_policy(key) == Some(name))
        };
        let held = record.status.eips().filter(|(_, _, policies)| is_used(policies));
        let held = held.flat_map(|(eip, _, _)| eip.addresses());
        for address in held.filter(|address| gateway.contains(*address)) {
            gateways.holder.entry(address).or_insert(name);
        }
    }
    // A gateway's status may list late what policies have already.
    let mut told: BTreeMap<&str, Vec<EipPair>> = BTreeMap::new();
    for (key, record) in &snapshot.policies {
        if let (Some(Ok(name)), Some(eip)) = (gateways.of_policy.get(key), record.status.eip) {
            told.entry(name).or_default().push(eip);
        }
    }
    for name in &gateways.by_age {
        let Some(Ok(gateway)) = snapshot.gateways.get(*name).map(|record| &record.spec) else { continue };
        let told = told.get(name).into_iter().flatten().flat_map(|eip| eip.addresses());
        for address in told.filter(|address| gateway.contains(*address)) {
            gateways.holder.entry(address).or_insert(name);
        }
    }
    gateways
}

/// Nodes by the labels that selectors ask for: no gateway has to look at every node.
struct NodeIndex<'a> {
    snapshot: &'a ClusterSnapshot,
    by_key: BTreeMap<String, BTreeMap<&'a str, Vec<&'a str>>>,
}

impl<'a> NodeIndex<'a> {
    fn of(snapshot: &'a ClusterSnapshot) -> Self {
        Self { snapshot, by_key: BTreeMap::new() }
    }

    fn matching(&mut self, selector: &LabelSelector) -> BTreeSet<&'a str> {
        let nodes = &self.snapshot.nodes;
        let matches = |name: &&str| nodes.get(*name).is_some_and(|node| selector.matches(&node.labels));
        let Some((key, values)) = selector.key_and_values() else {
            return nodes.keys().map(String::as_str).filter(matches).collect();
        };
        let of_key = self.by_key.entry(key.to_owned()).or_insert_with(|| {
            let mut of_key: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (name, node) in nodes {
                let value = node.labels.get(key).map(String::as_str);
                value.into_iter().for_each(|value| of_key.entry(value).or_default().push(name));
            }
            of_key
        });
        let candidates = values.iter().filter_map(|value| of_key.get(value.as_str())).flatten();
        candidates.copied().filter(matches).collect()
    }
}

fn pools<'a>(
    snapshot: &'a ClusterSnapshot,
    names: &[&'a str],
    family: Family,
) -> impl Iterator<Item = &'a IpPool> {
    let specs = names.iter().filter_map(|name| snapshot.gateways.get(*name)?.spec.as_ref().ok());
    specs.map(move |gateway| gateway.pool(family))
}

fn usable<'a>(snapshot: &ClusterSnapshot, record: &'a GatewayRecord) -> Result<&'a Gateway, Reason> {
    let gateway = record.spec.as_ref().map_err(Clone::clone)?;
    problems(&snapshot.settings, gateway).into_iter().next().map_or(Ok(gateway), Err)
}

/// Why nothing can use a gateway with these settings.
pub(crate) fn problems(settings: &Settings, gateway: &Gateway) -> Vec<Reason> {
    let mut problems = Vec::new();
    for (enabled, pool, field) in [
        (settings.ipv4, &gateway.pool_v4, "spec.ippools.ipv4"),
        (settings.ipv6, &gateway.pool_v6, "spec.ippools.ipv6"),
    ] {
        if !enabled && !pool.is_empty() {
            let problem = format!(
                "{} is not enabled here; remove the pool, or set feature.enable{}",
                pool.family(),
                switch(pool)
            );
            problems.push(Reason::invalid_field(field, problem));
        }
    }
    let (v4, v6) = (gateway.pool_v4.count(), gateway.pool_v6.count());
    if problems.is_empty() && v4 != v6 && v4 != 0 && v6 != 0 {
        problems.push(Reason::PoolSizesDiffer { v4, v6 });
    }
    problems
}

fn switch(pool: &IpPool) -> &'static str {
    match pool.family() {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Names of all gateways from the oldest to the youngest.
pub(crate) fn by_age(snapshot: &ClusterSnapshot) -> Vec<&str> {
    let mut names: Vec<&str> = snapshot.gateways.keys().map(String::as_str).collect();
    names.sort_by_key(|name| (snapshot.gateways.get(*name).map(|record| record.created_at_s), *name));
    names
}

/// The gateway that a policy names, else that of its namespace, else the cluster's: the oldest that says it is.
pub(crate) fn choose<'a>(
    snapshot: &'a ClusterSnapshot,
    by_age: &[&'a str],
    key: &PolicyKey,
    named: Option<&str>,
) -> Result<&'a str, Reason> {
    let labels = key.namespace.as_ref().and_then(|namespace| snapshot.namespaces.get(namespace));
    let of_namespace = labels.and_then(|labels| labels.get(LABEL_DEFAULT_GATEWAY)).map(String::as_str);
    if let Some(name) = named.or(of_namespace.filter(|name| !name.is_empty())) {
        let known = snapshot.gateways.get_key_value(name).map(|(name, _)| name.as_str());
        return known.ok_or_else(|| Reason::UnknownGateway { gateway: name.to_owned() });
    }
    let default = cluster_default(snapshot, by_age);
    default.ok_or(Reason::NoDefaultGateway)
}

/// The oldest gateway that says that it is the cluster's.
fn cluster_default<'a>(snapshot: &ClusterSnapshot, by_age: &[&'a str]) -> Option<&'a str> {
    by_age.iter().copied().find(|name| {
        let record = snapshot.gateways.get(*name);
        record.is_some_and(|record| {
            !record.deleting && record.spec.as_ref().is_ok_and(|gateway| gateway.cluster_default)
        })
    })
}

/// Label of a Namespace that names the gateway of its policies.
pub const LABEL_DEFAULT_GATEWAY: &str = "spidernet.io/egressgateway-default";

/// The default EIP of a gateway, chosen once and for all: what the object names, else the lowest usable address of
/// each pool.
pub fn default_eip(
    name: &str,
    gateway: &Gateway,
    examined: &Examined<'_>,
    snapshot: &ClusterSnapshot,
    mut unusable: impl FnMut(IpAddr) -> bool,
) -> Result<EipPair, Reason> {
    let v4 = match gateway.default_v4.filter(|_| snapshot.settings.ipv4) {
        Some(address) => Some(named_default(gateway, address.into(), "spec.ippools.ipv4DefaultEIP")?),
        None => examined.own_v4.first_free(&mut unusable),
    };
    let v6 = match gateway.default_v6.filter(|_| snapshot.settings.ipv6) {
        Some(address) => Some(named_default(gateway, address.into(), "spec.ippools.ipv6DefaultEIP")?),
        None => examined.own_v6.first_free(&mut unusable),
    };
    let v4 = v4.and_then(|address| if let IpAddr::V4(v4) = address { Some(v4) } else { None });
    let v6 = v6.and_then(|address| if let IpAddr::V6(v6) = address { Some(v6) } else { None });
    EipPair::new(v4, v6).ok_or_else(|| {
        if gateway.has_no_address() {
            Reason::PoolEmpty { gateway: name.to_owned() }
        } else {
            let family = if gateway.pool_v4.is_empty() { Family::V6 } else { Family::V4 };
            Reason::PoolExhausted { family, gateway: name.to_owned() }
        }
    })
}

/// The default EIP that a gateway names, if it is one of its own.
pub(crate) fn named_default(gateway: &Gateway, address: IpAddr, field: &str) -> Result<IpAddr, Reason> {
    if gateway.contains(address) {
        return Ok(address);
    }
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let problem = format!("is not in spec.ippools.{family}; add it there or empty this field");
    Err(Reason::invalid_value(field, &address.to_string(), problem))
}
