//! Notices of what was just taken over: sent at once, and again to those who don't confirm.

use std::collections::BTreeSet;

use model::EipPair;

/// How often a notice is sent to a node that does not confirm it.
const TRIES: u8 = 3;
/// Time between two tries.
const AGAIN_MS: u64 = 60;

/// A notice under way.
#[derive(Debug)]
struct Notice {
    id: u64,
    eips: BTreeSet<EipPair>,
    waiting: BTreeSet<String>,
    sequences: Vec<u64>,
    tries: u8,
    next_ms: u64,
}

/// All notices under way.
#[derive(Debug, Default)]
pub(super) struct Notices {
    open: Vec<Notice>,
    last_id: u64,
}

impl Notices {
    /// Begins to tell these nodes about these EIPs.
    pub(super) fn announce(&mut self, now_ms: u64, eips: BTreeSet<EipPair>, nodes: &BTreeSet<String>) {
        if eips.is_empty() || nodes.is_empty() {
            return;
        }
        self.last_id += 1;
        self.open.push(Notice {
            id: self.last_id,
            eips,
            waiting: nodes.clone(),
            sequences: Vec::new(),
            tries: 0,
            next_ms: now_ms,
        });
    }

    /// What is to be sent now: number, nodes, EIPs.
    pub(super) fn due(&mut self, now_ms: u64) -> Vec<(u64, Vec<String>, BTreeSet<EipPair>)> {
        self.open
            .retain(|notice| !notice.waiting.is_empty() && (notice.tries < TRIES || notice.next_ms > now_ms));
        let due = self.open.iter_mut().filter(|notice| notice.next_ms <= now_ms);
        due.map(|notice| {
            notice.tries += 1;
            notice.next_ms = now_ms + AGAIN_MS;
            (notice.id, notice.waiting.iter().cloned().collect(), notice.eips.clone())
        })
        .collect()
    }

    /// A notice went out with this sequence.
    pub(super) fn sent(&mut self, id: u64, sequence: u64) {
        if let Some(notice) = self.open.iter_mut().find(|notice| notice.id == id) {
            notice.sequences.push(sequence);
        }
    }

    /// A node has confirmed what came with this sequence.
    pub(super) fn acknowledged(&mut self, node: &str, sequence: u64) {
        for notice in &mut self.open {
            if notice.sequences.contains(&sequence) {
                notice.waiting.remove(node);
            }
        }
    }
}
