//! Node-local numbers: stable for as long as anybody in the kernel may still hold them.
//!
//! Numbers are never sent to other nodes. They live in connection marks, packet marks, routing tables and names of
//! maps, so a number that changed its meaning would send a living flow elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::EipPair;
use model::mark::{EgressId, EipNumber, PeerNumber, Slot};

use crate::class::{ClassKey, classes};
use crate::view::NodeView;

mod recover;

/// The id that no EIP ever gets: what a policy without EIP marks, and what has no way out.
pub const PENDING_MARK: u32 = model::mark::BASE | EgressId::MAX;

/// The id that stands for an EIP that is being chosen: new connections with it wait.
pub const HOLD_MARK: u32 = model::mark::BASE | (EgressId::MAX - 1);

/// The connection mark of flows that left as if no policy selected them, by
/// [`NoGatewayAction::Direct`](crate::view::NoGatewayAction::Direct). They stay so.
pub const DIRECT_MARK: u32 = model::mark::BASE;

/// The packet mark of what shall be refused: number 0, which is neither a slot nor an EIP.
pub const REFUSE_MARK: u32 = model::mark::BASE;

/// All numbers in use on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbering {
    ids: BTreeMap<EipPair, EgressId>,
    slots: BTreeMap<String, Slot>,
    eip_numbers: BTreeMap<EipPair, EipNumber>,
    classes: BTreeMap<ClassKey, u32>,
    peers: BTreeMap<String, PeerNumber>,
}

/// Something got no number, because all are in use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Exhausted {
    /// The node's pods use more EIPs than there are ids; traffic to this one is refused.
    #[error("no egress id is left for EIP {0}; its traffic is refused")]
    EgressId(EipPair),
    /// The node's pods use more gateways than there are slots; traffic to this one is refused.
    #[error("no slot is left for gateway `{0}`; spread EIPs over fewer gateways (at most 255 per node)")]
    Slot(String),
    /// The gateway carries more EIPs than there are numbers; replies to this one are dropped.
    #[error("no number is left for EIP {0}; a gateway carries at most 7936 EIPs")]
    EipNumber(EipPair),
    /// The gateway has more peers than there are numbers; it does not translate for this one.
    #[error("no number is left for node `{0}`; a gateway translates for at most 16383 nodes")]
    Peer(String),
}

impl Numbering {
    /// Number of an EIP on this node as a source.
    #[must_use]
    pub fn id(&self, eip: &EipPair) -> Option<EgressId> {
        self.ids.get(eip).copied()
    }

    /// The EIP of an id, for what was read from conntrack.
    #[must_use]
    pub fn eip_of(&self, id: EgressId) -> Option<EipPair> {
        self.ids.iter().find(|(_, own)| **own == id).map(|(eip, _)| *eip)
    }

    /// Slot of a gateway node.
    #[must_use]
    pub fn slot(&self, node: &str) -> Option<Slot> {
        self.slots.get(node).copied()
    }

    /// Gateway nodes and their slots.
    pub fn slots(&self) -> impl Iterator<Item = (&str, Slot)> {
        self.slots.iter().map(|(node, slot)| (node.as_str(), *slot))
    }

    /// Number of an EIP on this node as a gateway.
    #[must_use]
    pub fn eip_number(&self, eip: &EipPair) -> Option<EipNumber> {
        self.eip_numbers.get(eip).copied()
    }

    /// Number of another node on this node as a gateway that translates for it.
    #[must_use]
    pub fn peer(&self, node: &str) -> Option<PeerNumber> {
        self.peers.get(node).copied()
    }

    /// Number of the class of these policies.
    #[must_use]
    pub fn class(&self, policies: &ClassKey) -> Option<u32> {
        self.classes.get(policies).copied()
    }

    /// Gives a number to all that needs one, lowest free first, and frees those of what is gone. `held` are the ids that
    /// conntrack still has flows of: they are neither freed nor given to another EIP, even if their EIP is unknown.
    pub fn update(&mut self, view: &NodeView, held: &BTreeSet<EgressId>) -> Vec<Exhausted> {
        let mut exhausted = Vec::new();

        self.ids.retain(|eip, id| view.eips.contains_key(eip) || held.contains(id));
        let mut taken: BTreeSet<u32> = self.ids.values().chain(held).map(|id| id.number()).collect();
        for eip in view.eips.keys().filter(|eip| !self.ids.contains_key(eip)).copied().collect::<Vec<_>>() {
            match lowest_free(&taken, 1, EgressId::MAX - 2).and_then(EgressId::new) {
                Some(id) => {
                    taken.insert(id.number());
                    self.ids.insert(eip, id);
                }
                None => exhausted.push(Exhausted::EgressId(eip)),
            }
        }

        let gateways: BTreeSet<&String> = view
            .eips
            .values()
            .flat_map(|eip| eip.carrier.iter().chain(&eip.candidates))
            .filter(|node| **node != view.node)
            .collect();
        self.slots.retain(|node, _| gateways.contains(node));
        let mut taken: BTreeSet<u32> = self.slots.values().map(|slot| slot.number().into()).collect();
        for node in gateways {
            if self.slots.contains_key(node) {
                continue;
            }
            let slot = lowest_free(&taken, 1, 255).and_then(|n| u8::try_from(n).ok()).and_then(Slot::new);
            match slot {
                Some(slot) => {
                    taken.insert(slot.number().into());
                    self.slots.insert(node.clone(), slot);
                }
                None => exhausted.push(Exhausted::Slot(node.clone())),
            }
        }

        self.eip_numbers.retain(|eip, _| view.gateway_eips.contains_key(eip));
        let mut taken: BTreeSet<u32> = self.eip_numbers.values().map(|n| n.number().into()).collect();
        for eip in view.gateway_eips.keys() {
            if self.eip_numbers.contains_key(eip) {
                continue;
            }
            let number = lowest_free(&taken, EipNumber::MIN.into(), EipNumber::MAX.into())
                .and_then(|n| u16::try_from(n).ok())
                .and_then(EipNumber::new);
            match number {
                Some(number) => {
                    taken.insert(number.number().into());
                    self.eip_numbers.insert(*eip, number);
                }
                None => exhausted.push(Exhausted::EipNumber(*eip)),
            }
        }

        let translated: BTreeSet<&String> =
            view.peers.keys().filter(|node| view.translates() && **node != view.node).collect();
        self.peers.retain(|node, _| translated.contains(node));
        let mut taken: BTreeSet<u32> = self.peers.values().map(|peer| peer.number().into()).collect();
        for node in translated {
            if self.peers.contains_key(node) {
                continue;
            }
            let number = lowest_free(&taken, 1, PeerNumber::MAX.into())
                .and_then(|n| u16::try_from(n).ok())
                .and_then(PeerNumber::new);
            match number {
                Some(number) => {
                    taken.insert(number.number().into());
                    self.peers.insert(node.clone(), number);
                }
                None => exhausted.push(Exhausted::Peer(node.clone())),
            }
        }

        let classes = classes(view);
        self.classes.retain(|key, _| classes.contains_key(key));
        let mut taken: BTreeSet<u32> = self.classes.values().copied().collect();
        for key in classes.into_keys() {
            if self.classes.contains_key(&key) {
                continue;
            }
            // As many classes as pods at most, so there is always a free number.
            if let Some(number) = lowest_free(&taken, 1, u32::MAX) {
                taken.insert(number);
                self.classes.insert(key, number);
            }
        }
        exhausted
    }
}

fn lowest_free(taken: &BTreeSet<u32>, first: u32, last: u32) -> Option<u32> {
    let mut next = first;
    for number in taken.range(first..=last) {
        if *number > next {
            break;
        }
        next = number.checked_add(1)?;
    }
    (next <= last).then_some(next)
}

/// The pair among these that has the address.
fn pair_with<'a>(pairs: impl IntoIterator<Item = &'a EipPair>, address: IpAddr) -> Option<EipPair> {
    pairs.into_iter().find(|pair| pair.contains(address)).copied()
}
