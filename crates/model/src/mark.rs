//! Firewall marks: which bits of a packet's and a connection's mark are ours, and what they say.
//!
//! ```text
//! bit   31........24 23..20 19.......13 12 11.........8 7........0
//!       base 0x26    number  others      n  others        number
//! ```
//!
//! Others own the rest of a *packet's* mark: Calico 19..16, kubelet and kube-proxy 15 and 14, portmap 13, Cilium 11..8.
//! The number has 13 bits. On a source node it is a gateway **slot** (low byte only), on a gateway an **EIP number** (some
//! higher bit set): a node that is both must not take a reply on its way to the tunnel for a request to a slot.
//!
//! The *connection* mark is ours alone on flows that we translate: base and a 23-bit **egress id** on the source, or, with
//! the highest bit set, the **peer number** of the source on a gateway that translates for it (overflow).

/// Base of every mark, in the top byte. The upstream project's default.
pub const BASE: u32 = 0x2600_0000;
/// The bits that hold the base.
pub const BASE_MASK: u32 = 0xff00_0000;
/// The bits of a packet mark that hold a number.
pub const NUMBER_MASK: u32 = 0x00f0_10ff;
/// The bits of a packet mark that are ours.
pub const PACKET_MASK: u32 = BASE_MASK | NUMBER_MASK;
/// The bits of a packet mark that belong to others, and which we never set.
pub const FOREIGN_MASK: u32 = CALICO | KUBERNETES | PORTMAP | CILIUM;

const CALICO: u32 = 0x000f_0000;
const KUBERNETES: u32 = 0x0000_c000;
const PORTMAP: u32 = 0x0000_2000;
const CILIUM: u32 = 0x0000_0f00;

const _: () = assert!(PACKET_MASK & FOREIGN_MASK == 0, "a bit that somebody else owns is ours");
const _: () = assert!(PACKET_MASK | FOREIGN_MASK == u32::MAX, "a bit has no owner");
const _: () = assert!(BASE & !BASE_MASK == 0, "the base leaves its byte");

/// Number of a gateway on a source node: 1 to 255. It names a routing table and a rule there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// `None` for 0.
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        (number != 0).then_some(Self(number))
    }

    /// 1 to 255.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// The packet mark that leads to this gateway.
    #[must_use]
    pub fn mark(self) -> u32 {
        BASE | u32::from(self.0)
    }

    /// The routing table that leads to this gateway: a number far from those that people and other agents use.
    #[must_use]
    pub fn table(self) -> u32 {
        BASE | u32::from(self.0)
    }
}

/// Number of an EIP on a gateway, 256 to 8191: with a bit above the low byte, so never a slot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EipNumber(u16);

impl EipNumber {
    /// Lowest number.
    pub const MIN: u16 = 256;
    /// Highest number.
    pub const MAX: u16 = 0x1fff;

    /// `None` outside 256..=8191.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (Self::MIN..=Self::MAX).contains(&number).then_some(Self(number))
    }

    /// 256 to 8191.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// The packet mark of a reply to this EIP between its two rewrites: bits 7..0 of the number stay, bit 8 goes to
    /// bit 12, bits 12..9 go to bits 23..20.
    #[must_use]
    pub fn mark(self) -> u32 {
        let number = u32::from(self.0);
        BASE | number & 0xff | (number & 0x100) << 4 | (number & 0x1e00) << 11
    }
}

/// Number of an EIP on a source node: 1 to 2^23 - 1. Lives in the connection mark only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EgressId(u32);

impl EgressId {
    /// Highest id.
    pub const MAX: u32 = PEER_BIT - 1;

    /// `None` outside 1..=2^23-1.
    #[must_use]
    pub fn new(id: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&id).then_some(Self(id))
    }

    /// 1 to 2^23 - 1.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// The connection mark of flows with this id.
    #[must_use]
    pub fn ct_mark(self) -> u32 {
        BASE | self.0
    }
}

/// The bit of a connection mark that tells a peer's number from an egress id.
pub const PEER_BIT: u32 = 0x0080_0000;

/// The bits of a connection mark that tell that a gateway translates the flow for another node.
pub const PEER_MASK: u32 = BASE_MASK | PEER_BIT;

/// Number of another node on a gateway that translates for it, 1 to 16383. It names a zone of connection tracking, so that
/// two nodes may use the same ports, and is in the connection mark, so that answers find their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerNumber(u16);

impl PeerNumber {
    /// Highest number.
    pub const MAX: u16 = 0x3fff;
    /// Zones begin behind this one: far from the low numbers that people and other agents use.
    const ZONES: u16 = 0x2600;

    /// `None` outside 1..=16383.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    /// The number that a zone belongs to.
    #[must_use]
    pub fn of_zone(zone: u16) -> Option<Self> {
        zone.checked_sub(Self::ZONES).and_then(Self::new)
    }

    /// 1 to 16383.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// The zone of connection tracking that the node's flows begin in.
    #[must_use]
    pub fn zone(self) -> u16 {
        Self::ZONES + self.0
    }

    /// The connection mark of flows that are translated for the node.
    #[must_use]
    pub fn ct_mark(self) -> u32 {
        BASE | PEER_BIT | u32::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_numbers_share_a_mark_and_none_touches_foreign_bits() {
        let slots = (1..=255).filter_map(Slot::new).map(Slot::mark);
        let eips = (EipNumber::MIN..=EipNumber::MAX).filter_map(EipNumber::new).map(EipNumber::mark);
        let marks: Vec<u32> = slots.chain(eips).collect();
        assert_eq!(marks.len(), 255 + 8192 - 256);
        assert!(marks.iter().all(|mark| mark & FOREIGN_MASK == 0 && mark & BASE_MASK == BASE));
        assert_eq!(marks.iter().collect::<BTreeSet<_>>().len(), marks.len());
    }

    #[test]
    fn a_peer_is_never_taken_for_an_egress_id_and_its_zone_leads_back_to_it() {
        for number in [1, 2, 4095, PeerNumber::MAX] {
            let peer = PeerNumber::new(number).unwrap();
            assert_eq!(PeerNumber::of_zone(peer.zone()), Some(peer));
            assert_eq!(EgressId::new(peer.ct_mark() & !BASE_MASK), None);
        }
        assert!(EgressId::new(EgressId::MAX).is_some_and(|id| id.ct_mark() & PEER_BIT == 0));
        assert_eq!((PeerNumber::new(0), PeerNumber::new(0x4000), PeerNumber::of_zone(0)), (None, None, None));
    }
}
