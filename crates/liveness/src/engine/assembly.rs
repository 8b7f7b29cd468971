//! A peer's claims, put together from as many messages as they need.

use std::collections::BTreeMap;

use model::EipPair;

use crate::ownership::Claim;
use crate::wire::Message;

/// The claims of one peer.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    claims: BTreeMap<EipPair, Claim>,
    /// Version of `claims`, when they are complete.
    version: Option<u32>,
    partial: Option<Partial>,
}

/// Claims of a version of which not all have come.
#[derive(Debug)]
struct Partial {
    version: u32,
    total: u16,
    parts: BTreeMap<u16, usize>,
    claims: BTreeMap<EipPair, Claim>,
}

impl Assembly {
    /// All that is known.
    pub(super) fn all(&self) -> &BTreeMap<EipPair, Claim> {
        &self.claims
    }

    /// The claim on one EIP.
    pub(super) fn get(&self, eip: &EipPair) -> Option<&Claim> {
        self.claims.get(eip)
    }

    /// The peer counts its versions anew.
    pub(super) fn restarted(&mut self) {
        self.version = None;
        self.partial = None;
    }

    /// Claims of a notice: new ones, the others stay. Returns whether anything changed.
    pub(super) fn add(&mut self, claims: Vec<(EipPair, Claim)>) -> bool {
        self.version = None;
        let mut changed = false;
        for (eip, claim) in claims {
            changed |= self.claims.insert(eip, claim) != Some(claim);
        }
        changed
    }

    /// Part of all claims, or all. What is missing from a complete set is no longer claimed. Returns whether anything
    /// changed.
    pub(super) fn absorb(&mut self, message: &Message) -> bool {
        let version = message.claims_version;
        if self.version == Some(version) {
            return false;
        }
        let fits = |partial: &Partial| partial.version == version && partial.total == message.claims_total;
        let mut partial = self.partial.take().filter(fits).unwrap_or_else(|| Partial {
            version,
            total: message.claims_total,
            parts: BTreeMap::new(),
            claims: BTreeMap::new(),
        });
        partial.parts.insert(message.claims_offset, message.claims.len());
        partial.claims.extend(message.claims.iter().copied());
        let mut next = 0;
        for (offset, length) in &partial.parts {
            if usize::from(*offset) <= next {
                next = next.max(usize::from(*offset) + length);
            }
        }
        if next >= usize::from(partial.total) {
            let changed = self.claims != partial.claims;
            self.claims = partial.claims;
            self.version = Some(version);
            changed
        } else {
            // A new claim counts at once; an old one until the new set is complete.
            self.partial = Some(partial);
            self.add(message.claims.clone())
        }
    }
}
