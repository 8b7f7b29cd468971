//! Which addresses of ours somebody else on the link has, and what to say about it: RFC 5227 for IPv4, and the same for IPv6
//! beside what RFC 4862 asks of it.
//!
//! ```text
//!             probes, unanswered                  said once: defended        said again within 10 s, or while new
//!   claimed ----------------------> checked ---------------------> defended ---------------------> in conflict
//!      ^                             | probed again every 10 s                                          |
//!      +------------------------------------ nobody has said so for 5 s, though asked every second -----+
//! ```
//!
//! Taking an EIP over does not wait for the probes: a gateway of the same group may just have died. What another gateway
//! of ours says is no conflict.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kernel::address_watch::{Heard, Word};
use model::tunnel_mac::MacAddress;

/// Probes for an EIP that was just taken, and the time between them. RFC 5227 waits longer, and for it.
const FIRST_PROBES: u8 = 3;
const FIRST_PAUSE_MS: u64 = 150;
/// What somebody says so soon after the EIP was taken is no mistake that a defence would end.
const NEW_FOR_MS: u64 = 1_000;
/// Between two looks for a holder that keeps silent.
const LOOK_EVERY_MS: u64 = 10_000;
/// Another claim within this time ends the defence (RFC 5227, 2.4: DEFEND_INTERVAL).
const DEFEND_FOR_MS: u64 = 10_000;
/// Between two looks while there is doubt: after a defence, and in conflict.
const DOUBT_EVERY_MS: u64 = 1_000;
/// A conflict is over when nobody has claimed the address for so long.
const OVER_AFTER_MS: u64 = 5_000;
/// Most probes in one turn: a gateway of many EIPs must not flood its link.
const PROBES_MAX: usize = 32;

/// What is to be said on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask whether anybody has it
    Probe(IpAddr),
    /// Tell this one, who asked, that it is here
    Answer(IpAddr, MacAddress),
    /// Tell everybody that it is here
    Defend(IpAddr),
}

/// One address of an EIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Address {
    /// Whether this node is to answer for it, unless somebody else has it
    claimed: bool,
    claimed_ms: u64,
    first_probes: u8,
    next_probe_ms: u64,
    defended_ms: Option<u64>,
    /// Who has it, and when that was heard last
    conflict: Option<(MacAddress, u64)>,
}

/// What is known of all addresses of this gateway's EIPs.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    own: Option<MacAddress>,
    /// Addresses of nodes, and where they are
    nodes: BTreeMap<IpAddr, Option<MacAddress>>,
    addresses: BTreeMap<IpAddr, Address>,
}

impl Judge {
    /// Takes over whom to know: the uplink's own Ethernet address, addresses of nodes, and EIPs, with whether this node is to
    /// answer for them. Where nodes are is remembered for as long as they are nodes.
    pub fn configure(
        &mut self,
        now_ms: u64,
        own: Option<MacAddress>,
        nodes: &BTreeSet<IpAddr>,
        eips: &BTreeMap<IpAddr, bool>,
    ) {
        self.own = own;
        self.nodes.retain(|address, _| nodes.contains(address));
        for address in nodes {
            self.nodes.entry(*address).or_default();
        }
        self.addresses.retain(|address, _| eips.contains_key(address));
        for (address, claimed) in eips {
            let known = self.addresses.entry(*address).or_default();
            if *claimed && !known.claimed {
                known.claimed_ms = now_ms;
                known.first_probes = FIRST_PROBES;
                known.next_probe_ms = now_ms;
                known.defended_ms = None;
            }
            known.claimed = *claimed;
        }
    }

    /// A node was found at this Ethernet address.
    pub fn found(&mut self, node: IpAddr, mac: MacAddress) {
        if let Some(known) = self.nodes.get_mut(&node) {
            *known = Some(mac);
        }
    }

    /// Whether this is us, or another node.
    #[must_use]
    pub fn is_ours(&self, mac: MacAddress) -> bool {
        self.own == Some(mac) || self.nodes.values().any(|known| *known == Some(mac))
    }

    /// Whether this is about an EIP, and by a stranger.
    #[must_use]
    pub fn concerns(&self, heard: &Heard) -> bool {
        let (Word::Has(address) | Word::Probes(address)) = heard.word;
        self.addresses.contains_key(&address) && !self.is_ours(heard.mac)
    }

    /// Somebody on the link has said something.
    pub fn hear(&mut self, now_ms: u64, heard: &Heard) -> Option<Action> {
        if let Word::Has(address) = heard.word {
            self.found(address, heard.mac);
        }
        if !self.concerns(heard) {
            return None;
        }
        match heard.word {
            Word::Has(address) => self.claim(now_ms, address, heard.mac),
            Word::Probes(address) => {
                let known = self.addresses.get(&address)?;
                (known.claimed && known.conflict.is_none()).then_some(Action::Answer(address, heard.mac))
            }
        }
    }

    fn claim(&mut self, now_ms: u64, address: IpAddr, mac: MacAddress) -> Option<Action> {
        // One that another gateway of ours carries is that one's to look after: it may have been heard of only here.
        let known =
            self.addresses.get_mut(&address).filter(|known| known.claimed || known.conflict.is_some())?;
        let since = |at_ms: u64| now_ms.saturating_sub(at_ms);
        let is_new = since(known.claimed_ms) < NEW_FOR_MS;
        let was_defended = known.defended_ms.is_some_and(|at_ms| since(at_ms) < DEFEND_FOR_MS);
        let is_lost = known.conflict.is_some() || is_new;
        // The answers to one probe are one claim.
        if known.defended_ms.is_some_and(|at_ms| since(at_ms) < DOUBT_EVERY_MS / 2) && !is_lost {
            return None;
        }
        if is_lost || was_defended {
            known.conflict = Some((mac, now_ms));
            known.next_probe_ms = known.next_probe_ms.min(now_ms + DOUBT_EVERY_MS);
            return None;
        }
        known.defended_ms = Some(now_ms);
        known.next_probe_ms = now_ms + DOUBT_EVERY_MS;
        Some(Action::Defend(address))
    }

    /// What is due by now.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Action> {
        let mut due = Vec::new();
        for (address, known) in &mut self.addresses {
            if known.conflict.is_some_and(|(_, at_ms)| now_ms.saturating_sub(at_ms) >= OVER_AFTER_MS) {
                // As if it had just been taken: whoever has it may only have been cut off.
                *known = Address {
                    claimed: known.claimed,
                    claimed_ms: now_ms,
                    first_probes: FIRST_PROBES,
                    next_probe_ms: now_ms,
                    ..Address::default()
                };
            }
            let is_asked_for = known.claimed || known.conflict.is_some();
            if !is_asked_for || now_ms < known.next_probe_ms || due.len() >= PROBES_MAX {
                continue;
            }
            let pause_ms = if known.conflict.is_some() {
                DOUBT_EVERY_MS
            } else if known.first_probes > 1 {
                FIRST_PAUSE_MS
            } else {
                LOOK_EVERY_MS
            };
            known.first_probes = known.first_probes.saturating_sub(1);
            known.next_probe_ms = now_ms + pause_ms;
            due.push(Action::Probe(*address));
        }
        due
    }

    /// When [`Self::tick`] has something to do; `None`: never.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        let asked_for = self.addresses.values().filter(|known| known.claimed || known.conflict.is_some());
        asked_for
            .map(|known| {
                let over = known.conflict.map_or(u64::MAX, |(_, at_ms)| at_ms + OVER_AFTER_MS);
                known.next_probe_ms.min(over)
            })
            .min()
    }

    /// EIPs that somebody else has, and who.
    #[must_use]
    pub fn conflicts(&self) -> BTreeMap<IpAddr, MacAddress> {
        let known = self.addresses.iter();
        known.filter_map(|(address, known)| Some((*address, known.conflict?.0))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const PEER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
    const STRANGER: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

    fn eips() -> [IpAddr; 2] {
        ["10.6.168.201", "fd06::201"].map(|address| address.parse().unwrap())
    }

    fn peer() -> IpAddr {
        [10, 6, 0, 12].into()
    }

    fn judge(now_ms: u64, claimed: bool) -> Judge {
        let mut judge = Judge::default();
        configure(&mut judge, now_ms, claimed);
        judge.found(peer(), PEER);
        judge
    }

    fn configure(judge: &mut Judge, now_ms: u64, claimed: bool) {
        let eips = eips().map(|address| (address, claimed)).into();
        judge.configure(now_ms, Some(OWN), &BTreeSet::from([peer()]), &eips);
    }

    fn has(mac: MacAddress, address: IpAddr) -> Heard {
        Heard { mac, word: Word::Has(address) }
    }

    #[test]
    fn an_eip_is_probed_for_when_it_is_taken_and_then_now_and_then() {
        let mut judge = judge(0, true);
        let mut probes = Vec::new();
        for now_ms in 0..21_000 {
            probes.extend(judge.tick(now_ms).into_iter().map(|action| (now_ms, action)));
        }
        let of = |address| -> Vec<u64> {
            let mine = probes.iter().filter(|(_, action)| *action == Action::Probe(address));
            mine.map(|(at_ms, _)| *at_ms).collect()
        };
        for address in eips() {
            assert_eq!(of(address), [0, 150, 300, 10_300, 20_300]);
        }
    }

    #[test]
    fn whoever_answers_while_it_is_new_has_it() {
        for address in eips() {
            let mut judge = judge(0, true);
            judge.tick(0);
            assert_eq!(judge.hear(20, &has(STRANGER, address)), None);
            assert_eq!(judge.conflicts(), BTreeMap::from([(address, STRANGER)]));
        }
    }

    #[test]
    fn another_gateway_and_this_one_itself_are_no_conflict() {
        let mut judge = judge(0, true);
        for mac in [OWN, PEER] {
            assert_eq!(judge.hear(20, &has(mac, eips()[0])), None);
            let probes = Heard { mac, word: Word::Probes(eips()[0]) };
            assert_eq!(judge.hear(20, &probes), None);
        }
        // One that has a new card tells so by its own address.
        judge.hear(30, &has(STRANGER, peer()));
        judge.hear(40, &has(STRANGER, eips()[0]));
        assert!(judge.conflicts().is_empty());
    }

    #[test]
    fn a_stranger_is_told_once_and_believed_the_second_time() {
        let mut judge = judge(0, true);
        let [eip, _] = eips();
        assert_eq!(judge.hear(5_000, &has(STRANGER, eip)), Some(Action::Defend(eip)));
        // Its second word on the same occasion.
        assert_eq!(judge.hear(5_001, &has(STRANGER, eip)), None);
        assert!(judge.conflicts().is_empty());
        assert!(judge.tick(6_000).contains(&Action::Probe(eip)), "it is asked whether it insists");
        assert_eq!(judge.hear(6_010, &has(STRANGER, eip)), None);
        assert_eq!(judge.conflicts(), BTreeMap::from([(eip, STRANGER)]));
    }

    #[test]
    fn a_stranger_that_gives_way_is_defended_against_again_much_later() {
        let mut judge = judge(0, true);
        let [eip, _] = eips();
        for now_ms in [5_000, 15_000, 25_000] {
            assert_eq!(judge.hear(now_ms, &has(STRANGER, eip)), Some(Action::Defend(eip)));
        }
    }

    #[test]
    fn who_probes_is_answered_by_the_one_that_claims_it() {
        let probes = Heard { mac: STRANGER, word: Word::Probes(eips()[0]) };
        assert_eq!(judge(0, true).hear(10, &probes), Some(Action::Answer(eips()[0], STRANGER)));
        assert_eq!(judge(0, false).hear(10, &probes), None);
        let mut lost = judge(0, true);
        lost.hear(10, &has(STRANGER, eips()[0]));
        assert_eq!(lost.hear(20, &probes), None);
    }

    #[test]
    fn a_conflict_ends_when_nobody_answers_any_more() {
        let mut judge = judge(0, true);
        let [eip, _] = eips();
        judge.hear(10, &has(STRANGER, eip));
        for now_ms in (1_010..20_000).step_by(1_000) {
            assert!(judge.tick(now_ms).contains(&Action::Probe(eip)), "{now_ms}");
            judge.hear(now_ms + 1, &has(STRANGER, eip));
        }
        for now_ms in 20_000..24_011 {
            judge.tick(now_ms);
            assert!(!judge.conflicts().is_empty(), "{now_ms}");
        }
        judge.tick(24_011);
        assert!(judge.conflicts().is_empty());
        // It was only cut off.
        judge.hear(24_500, &has(STRANGER, eip));
        assert_eq!(judge.conflicts(), BTreeMap::from([(eip, STRANGER)]));
    }

    #[test]
    fn one_that_is_not_claimed_is_not_asked_for_and_nobodys_conflict() {
        let mut judge = judge(0, false);
        assert_eq!((judge.tick(0), judge.next_ms()), (Vec::new(), None));
        judge.hear(10, &has(STRANGER, eips()[0]));
        assert!(judge.conflicts().is_empty());
        configure(&mut judge, 20, true);
        judge.hear(30, &has(STRANGER, eips()[0]));
        configure(&mut judge, 40, false);
        assert_eq!(judge.conflicts().len(), 1, "giving it up is no reason to forget");
    }

    #[test]
    fn many_eips_are_asked_for_a_few_at_a_time() {
        let mut judge = Judge::default();
        let eips: BTreeMap<IpAddr, bool> = (0..100).map(|n| ([10, 6, 168, n].into(), true)).collect();
        judge.configure(0, Some(OWN), &BTreeSet::new(), &eips);
        let turns: Vec<usize> = (0..5).map(|now_ms| judge.tick(now_ms).len()).collect();
        assert_eq!(turns, [32, 32, 32, 4, 0]);
    }
}
