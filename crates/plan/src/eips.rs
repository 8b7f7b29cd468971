//! Which EIP each policy gets.
//!
//! Who has an EIP keeps it. Among those that want the same and can't all have it, the older policy goes first; default
//! and named EIPs go before those that are picked from what is left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use model::policy::{EgressChoice, Policy, PolicyKey};
use model::pool::Family;
use model::{EipPair, Reason};

use crate::gateways::{Gateways, default_eip};
use crate::outcome::TunnelPlan;
use crate::snapshot::{ClusterSnapshot, PolicyRecord};

/// Who gets what.
#[derive(Clone, Debug, Default)]
pub struct Allocation<'a> {
    /// What each policy gets, or why it gets nothing
    pub of_policy: BTreeMap<&'a PolicyKey, Result<Grant, Reason>>,
    /// Gateway and policies of each EIP in use
    pub eips: BTreeMap<EipPair, (&'a str, BTreeSet<&'a PolicyKey>)>,
    /// The default EIP of each usable gateway
    pub defaults: BTreeMap<&'a str, Result<EipPair, Reason>>,
    /// Gateways of which a part of the pool belongs to another, with the reason
    pub overlapping: BTreeMap<&'a str, Reason>,
}

/// What a policy's pods leave with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// This EIP
    Eip(EipPair),
    /// The own address of a node of the gateway
    NodeAddress,
}

/// Gives EIPs to policies.
#[must_use]
pub fn allocate<'a>(
    snapshot: &'a ClusterSnapshot,
    gateways: &Gateways<'a>,
    tunnels: &BTreeMap<String, TunnelPlan>,
) -> Allocation<'a> {
    let mut allocator = Allocator {
        snapshot,
        gateways,
        owners: owners(snapshot, gateways, tunnels),
        pair_of: HashMap::new(),
        unshared: BTreeSet::new(),
        allocation: Allocation::default(),
    };
    allocator.find_overlaps();
    allocator.find_defaults();
    let mut waiting = allocator.refuse_hopeless();
    // Who has what it wants is first in each pass, then by age.
    waiting.sort_by_key(|request| (!request.is_in_force, request.record.created_at_s, request.key));
    for request in &waiting {
        match request.policy.egress {
            EgressChoice::Default | EgressChoice::Exactly(_) => allocator.serve_wanted(request),
            EgressChoice::NodeAddress => allocator.answer(request.key, Ok(Grant::NodeAddress)),
            EgressChoice::Unshared => {}
        }
    }
    for request in waiting.iter().filter(|request| request.policy.egress == EgressChoice::Unshared) {
        allocator.serve_unshared(request);
    }
    allocator.allocation
}

struct Allocator<'a, 'g> {
    snapshot: &'a ClusterSnapshot,
    gateways: &'g Gateways<'a>,
    /// Addresses that something of the cluster has
    owners: HashMap<IpAddr, Owner<'a>>,
    /// The EIP that each address in use is part of
    pair_of: HashMap<IpAddr, EipPair>,
    /// EIPs that were picked for one policy alone
    unshared: BTreeSet<EipPair>,
    allocation: Allocation<'a>,
}

struct Request<'a> {
    key: &'a PolicyKey,
    record: &'a PolicyRecord,
    policy: &'a Policy,
    gateway: &'a str,
    current: Option<EipPair>,
    is_in_force: bool,
}

impl<'a> Allocator<'a, '_> {
    fn find_overlaps(&mut self) {
        if self.gateways.disjoint {
            return;
        }
        for (at, younger) in self.gateways.by_age.iter().enumerate() {
            let Some(Ok(gateway)) = self.gateways.by_name.get(younger).map(|examined| &examined.record.spec)
            else {
                continue;
            };
            for older in self.gateways.by_age.iter().take(at) {
                let Some(Ok(other)) = self.gateways.by_name.get(older).map(|examined| &examined.record.spec)
                else {
                    continue;
                };
                let v4 = gateway.pool_v4.common(&other.pool_v4);
                if let Some(address) = v4.or_else(|| gateway.pool_v6.common(&other.pool_v6)) {
                    let reason = Reason::PoolsOverlap { address, gateway: (*older).to_owned() };
                    self.allocation.overlapping.entry(younger).or_insert(reason);
                }
            }
        }
    }

    fn find_defaults(&mut self) {
        for (name, examined) in &self.gateways.by_name {
            let Ok(gateway) = examined.usable else { continue };
            let default = default_eip(name, gateway, examined, self.snapshot, |address| {
                self.refusal(name, address).is_some()
            });
            self.allocation.defaults.insert(name, default);
        }
    }

    /// Answers the policies that can't have an EIP whatever the others want, and returns the others.
    fn refuse_hopeless(&mut self) -> Vec<Request<'a>> {
        let mut waiting = Vec::new();
        for (key, record) in &self.snapshot.policies {
            match self.request(key, record) {
                Ok(request) => waiting.push(request),
                Err(reason) => self.answer(key, Err(reason)),
            }
        }
        waiting
    }

    fn request(&self, key: &'a PolicyKey, record: &'a PolicyRecord) -> Result<Request<'a>, Reason> {
        let policy = record.spec.as_ref().map_err(Clone::clone)?;
        let gateway = match self.gateways.of_policy.get(key) {
            Some(gateway) => gateway.clone()?,
            None => return Err(Reason::NoDefaultGateway),
        };
        let examined = self.gateways.by_name.get(gateway);
        if examined.is_none_or(|examined| examined.usable.is_err()) {
            return Err(Reason::GatewayRefused { gateway: gateway.to_owned() });
        }
        let reserved = || {
            let status = &examined?.record.status;
            status.eips().find(|(_, _, policies)| policies.contains(key)).map(|(eip, _, _)| eip)
        };
        let current = record.status.eip.or_else(reserved);
        let has_default = policy.egress == EgressChoice::Default && current.is_some();
        let is_in_force =
            has_default || current.is_some() && current == self.wanted(policy, gateway).or(current);
        Ok(Request { key, record, policy, gateway, current, is_in_force })
    }

    /// The EIP that a policy asks for, if it is a certain one.
    fn wanted(&self, policy: &Policy, gateway: &str) -> Option<EipPair> {
        match policy.egress {
            EgressChoice::Exactly(eip) => Some(eip),
            EgressChoice::Default => self.allocation.defaults.get(gateway)?.as_ref().ok().copied(),
            EgressChoice::Unshared | EgressChoice::NodeAddress => None,
        }
    }

    fn serve_wanted(&mut self, request: &Request<'a>) {
        let wanted = match request.policy.egress {
            EgressChoice::Exactly(eip) => self.whole_default(request.gateway, eip),
            _ if self.keeps_former_default(request) => request.current.ok_or(Reason::NoDefaultGateway),
            _ => match self.allocation.defaults.get(request.gateway) {
                Some(default) => default.clone(),
                None => Err(Reason::PoolEmpty { gateway: request.gateway.to_owned() }),
            },
        };
        let answer = wanted.and_then(|eip| self.claim(request.gateway, eip));
        self.grant(request, answer);
    }

    /// Another default is for new policies: nobody's address changes because of it, as long as the pool still has it.
    fn keeps_former_default(&self, request: &Request<'a>) -> bool {
        let (Some(current), Some(Ok(default))) =
            (request.current, self.allocation.defaults.get(request.gateway))
        else {
            return false;
        };
        !default.overlaps(&current) && self.claim(request.gateway, current).is_ok()
    }

    /// A default EIP of two families is used as a pair or not at all.
    fn whole_default(&self, gateway: &str, wanted: EipPair) -> Result<EipPair, Reason> {
        match self.allocation.defaults.get(gateway) {
            Some(Ok(pair)) if pair.overlaps(&wanted) && *pair != wanted && pair.addresses().count() == 2 => {
                Err(Reason::PairedElsewhere { wanted, pair: *pair })
            }
            _ => Ok(wanted),
        }
    }

    fn serve_unshared(&mut self, request: &Request<'a>) {
        let kept = request
            .current
            .filter(|eip| !self.unshared.contains(eip) && self.claim(request.gateway, *eip).is_ok());
        let answer = kept.map_or_else(|| self.pick(request.gateway), Ok);
        if let Ok(eip) = answer {
            self.unshared.insert(eip);
        }
        self.grant(request, answer);
    }

    /// The lowest free address of each pool.
    fn pick(&self, name: &str) -> Result<EipPair, Reason> {
        let examined = self.gateways.by_name.get(name);
        let examined =
            examined.and_then(|examined| examined.usable.as_ref().ok().map(|gateway| (examined, *gateway)));
        let (examined, gateway) =
            examined.ok_or_else(|| Reason::GatewayRefused { gateway: name.to_owned() })?;
        if gateway.has_no_address() {
            return Err(Reason::PoolEmpty { gateway: name.to_owned() });
        }
        let free = |family: Family| {
            if gateway.pool(family).is_empty() {
                return Ok(None);
            }
            let taken =
                |address| self.pair_of.contains_key(&address) || self.refusal(name, address).is_some();
            let free = examined.own_pool(family).first_free(taken);
            free.map(Some).ok_or_else(|| Reason::PoolExhausted { family, gateway: name.to_owned() })
        };
        let v4 =
            free(Family::V4)?.and_then(|address| if let IpAddr::V4(v4) = address { Some(v4) } else { None });
        let v6 =
            free(Family::V6)?.and_then(|address| if let IpAddr::V6(v6) = address { Some(v6) } else { None });
        EipPair::new(v4, v6).ok_or_else(|| Reason::PoolEmpty { gateway: name.to_owned() })
    }

    /// Whether a gateway's policy may have this EIP beside those that are given already.
    fn claim(&self, gateway: &str, eip: EipPair) -> Result<EipPair, Reason> {
        for address in eip.addresses() {
            let examined = self.gateways.by_name.get(gateway);
            let inside =
                examined.is_some_and(|examined| examined.usable.as_ref().is_ok_and(|g| g.contains(address)));
            if !inside {
                return Err(Reason::OutsidePool { address, gateway: gateway.to_owned() });
            }
            if let Some(reason) = self.refusal(gateway, address) {
                return Err(reason);
            }
            if let Some(pair) = self.pair_of.get(&address).filter(|pair| **pair != eip) {
                return Err(Reason::PairedElsewhere { wanted: eip, pair: *pair });
            }
        }
        Ok(eip)
    }

    /// Why an address of a gateway's pool can't be an EIP of that gateway, if it can't.
    fn refusal(&self, gateway: &str, address: IpAddr) -> Option<Reason> {
        if let Some(owner) = self.owners.get(&address) {
            return Some(Reason::AddressInUse { address, owner: owner.to_string() });
        }
        // Of gateways that share an address the one that has it in force keeps it, else it is the oldest's.
        match self.gateways.holder.get(&address) {
            Some(holder) if *holder == gateway => return None,
            Some(holder) => {
                return Some(Reason::PoolsOverlap { address, gateway: (*holder).to_owned() });
            }
            None => {}
        }
        if self.allocation.overlapping.is_empty() {
            return None;
        }
        let first = self.gateways.by_age.iter().find(|name| {
            let spec = self.gateways.by_name.get(*name).map(|examined| &examined.record.spec);
            spec.is_some_and(|spec| spec.as_ref().is_ok_and(|gateway| gateway.contains(address)))
        });
        let first = first.filter(|first| **first != gateway)?;
        Some(Reason::PoolsOverlap { address, gateway: (*first).to_owned() })
    }

    fn grant(&mut self, request: &Request<'a>, answer: Result<EipPair, Reason>) {
        if let Ok(eip) = answer {
            self.pair_of.extend(eip.addresses().map(|address| (address, eip)));
            let entry = self.allocation.eips.entry(eip);
            entry.or_insert_with(|| (request.gateway, BTreeSet::new())).1.insert(request.key);
        }
        self.answer(request.key, answer.map(Grant::Eip));
    }

    fn answer(&mut self, key: &'a PolicyKey, answer: Result<Grant, Reason>) {
        self.allocation.of_policy.insert(key, answer);
    }
}

/// Whom an address belongs to.
enum Owner<'a> {
    Node(&'a str),
    Tunnel(&'a str),
    Service(String),
    Pod(String),
}

impl std::fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node `{name}`"),
            Self::Tunnel(name) => write!(f, "the tunnel of node `{name}`"),
            Self::Service(key) => write!(f, "service `{key}`"),
            Self::Pod(key) => write!(f, "pod `{key}`"),
        }
    }
}

/// Addresses that something of the cluster has, as far as a pool could hold them.
fn owners<'a>(
    snapshot: &'a ClusterSnapshot,
    gateways: &Gateways<'_>,
    tunnels: &BTreeMap<String, TunnelPlan>,
) -> HashMap<IpAddr, Owner<'a>> {
    let in_a_pool = |address: &IpAddr| gateways.any_pool_has(*address);
    let mut owners = HashMap::new();
    for (key, pod) in snapshot.pods.iter().filter(|(_, pod)| pod.is_endpoint()) {
        for address in pod.addresses.iter().filter(|address| in_a_pool(address)) {
            owners.insert(*address, Owner::Pod(key.to_string()));
        }
    }
    for (key, addresses) in &snapshot.services {
        for address in addresses.iter().filter(|address| in_a_pool(address)) {
            owners.insert(*address, Owner::Service(key.to_string()));
        }
    }
    for (name, node) in &snapshot.nodes {
        let tunnel = tunnels.get(name);
        let tunnel = tunnel.map(|tunnel| (tunnel.ipv4.map(IpAddr::V4), tunnel.ipv6.map(IpAddr::V6)));
        let tunnel = tunnel.into_iter().flat_map(|(v4, v6)| v4.into_iter().chain(v6));
        for address in tunnel.filter(in_a_pool) {
            owners.insert(address, Owner::Tunnel(name));
        }
        for address in node.addresses.iter().filter(|address| in_a_pool(address)) {
            owners.insert(*address, Owner::Node(name));
        }
    }
    owners
}
