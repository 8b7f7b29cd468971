//! Node-local numbers: stable for as long as anybody in the kernel may still hold them.
//!
//! Numbers are never sent to other nodes. They live in connection marks, packet marks, routing tables and names of
//! maps, so a number that changed its meaning would send a living flow elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use model::EipPair;
use model::mark::{EgressId, EipNumber, PeerNumber, Slot};

use crate::class::{ClassKey, classes};
use crate::view::NodeView;

mod recover;

pub use recover::ids;

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
        let taken = held.iter().map(|id| id.number()).collect();
        let without = allot(
            &mut self.ids,
            view.eips.keys(),
            taken,
            1..=EgressId::MAX - 2,
            EgressId::number,
            EgressId::new,
        );
        exhausted.extend(without.into_iter().map(Exhausted::EgressId));

        let gateways = view.eips.values().flat_map(|eip| eip.carrier.iter().chain(&eip.candidates));
        let gateways: BTreeSet<&String> = gateways.filter(|node| **node != view.node).collect();
        self.slots.retain(|node, _| gateways.contains(node));
        let slot = |number| u8::try_from(number).ok().and_then(Slot::new);
        let without =
            allot(&mut self.slots, gateways, BTreeSet::new(), 1..=255, |slot| slot.number().into(), slot);
        exhausted.extend(without.into_iter().map(Exhausted::Slot));

        self.eip_numbers.retain(|eip, _| view.gateway_eips.contains_key(eip));
        let range = EipNumber::MIN.into()..=EipNumber::MAX.into();
        let number = |number| u16::try_from(number).ok().and_then(EipNumber::new);
        let eips = view.gateway_eips.keys();
        let without =
            allot(&mut self.eip_numbers, eips, BTreeSet::new(), range, |n| n.number().into(), number);
        exhausted.extend(without.into_iter().map(Exhausted::EipNumber));

        let translates = view.translates();
        let translated = view.peers.keys().filter(|node| translates && **node != view.node);
        let translated: BTreeSet<&String> = translated.collect();
        self.peers.retain(|node, _| translated.contains(node));
        let range = 1..=PeerNumber::MAX.into();
        let peer = |number| u16::try_from(number).ok().and_then(PeerNumber::new);
        let without = allot(&mut self.peers, translated, BTreeSet::new(), range, |n| n.number().into(), peer);
        exhausted.extend(without.into_iter().map(Exhausted::Peer));

        let classes = classes(view);
        self.classes.retain(|key, _| classes.contains_key(key));
        // As many classes as pods at most, so there is always a free number.
        allot(&mut self.classes, classes.keys(), BTreeSet::new(), 1..=u32::MAX, |number| number, Some);
        exhausted
    }
}

/// Gives a number of the range, lowest free first, to each key that has none; `taken` are not free either. Returns the keys
/// that got none.
fn allot<'a, K: Ord + Clone + 'a, N: Copy>(
    numbers: &mut BTreeMap<K, N>,
    keys: impl IntoIterator<Item = &'a K>,
    mut taken: BTreeSet<u32>,
    range: RangeInclusive<u32>,
    number_of: impl Fn(N) -> u32,
    of_number: impl Fn(u32) -> Option<N>,
) -> Vec<K> {
    taken.extend(numbers.values().map(|number| number_of(*number)));
    let mut without = Vec::new();
    for key in keys {
        if numbers.contains_key(key) {
            continue;
        }
        match lowest_free(&taken, *range.start(), *range.end()).and_then(&of_number) {
            Some(number) => {
                taken.insert(number_of(number));
                numbers.insert(key.clone(), number);
            }
            None => without.push(key.clone()),
        }
    }
    without
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
