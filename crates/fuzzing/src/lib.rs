//! Bytes as strangers might send them: valid ones with changes that parsers stumble over. For tests only.
//!
//! A fuzz target is a property test in a module `fuzz`, beside its parser: a corpus of valid inputs, [`mutated`], and what must
//! hold of any bytes, which is at least that nothing panics and that the end comes. `cargo test` runs [`CASES`] of each
//! target; `cargo xtask fuzz --minutes N` goes on with new ones for as long as one likes. What fails is made small by
//! proptest and belongs into the corpus, or into a test of its own.

use proptest::prelude::*;
use proptest::sample::Index;

/// Inputs that one run of the tests tries on each target.
pub const CASES: u32 = 3_000;
/// Says how many instead.
const CASES_VARIABLE: &str = "FUZZ_CASES";
/// Most changes to one input.
const CHANGES_MAX: usize = 10;
/// Numbers at which lengths and counts go wrong.
const EDGES: [u32; 12] = [0, 1, 2, 3, 4, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff];

/// Settings of a fuzz target.
#[must_use]
pub fn config() -> ProptestConfig {
    let cases = std::env::var(CASES_VARIABLE).ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 10_000,
        ..ProptestConfig::default()
    }
}

/// One change.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Set(Index, u8),
    /// A number where a length may be
    Number {
        at: Index,
        width: usize,
        value: u32,
        is_big_endian: bool,
    },
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
    /// The end of another input behind the beginning of this one
    Splice(Index, Index),
}

fn any_change() -> impl Strategy<Value = Change> {
    let number = (any::<Index>(), 1usize..=4, proptest::sample::select(&EDGES[..]), any::<bool>());
    prop_oneof![
        3 => (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        3 => number.prop_map(|(at, width, value, is_big_endian)| Change::Number { at, width, value, is_big_endian }),
        1 => (any::<Index>(), proptest::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, more)| Change::Insert(at, more)),
        2 => (any::<Index>(), 1usize..9).prop_map(|(at, length)| Change::Remove(at, length)),
        1 => (any::<Index>(), 1usize..33).prop_map(|(at, length)| Change::Repeat(at, length)),
        2 => any::<Index>().prop_map(Change::Cut),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, at)| Change::Splice(from, at)),
    ]
}

fn change(bytes: &mut Vec<u8>, change: &Change, others: &[Vec<u8>]) {
    let place = |at: &Index| at.index(bytes.len() + 1);
    match change {
        Change::Flip(at, bit) => {
            let at = place(at);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        Change::Set(at, value) => {
            let at = place(at);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = *value;
            }
        }
        Change::Number { at, width, value, is_big_endian } => {
            let (at, whole) = (place(at), value.to_le_bytes());
            let mut number: Vec<u8> = whole.into_iter().take(*width).collect();
            if *is_big_endian {
                number.reverse();
            }
            if let Some(field) = bytes.get_mut(at..at + number.len()) {
                field.copy_from_slice(&number);
            }
        }
        Change::Insert(at, more) => {
            let at = place(at);
            bytes.splice(at..at, more.iter().copied());
        }
        Change::Remove(at, length) => {
            let at = place(at);
            bytes.drain(at..bytes.len().min(at + length));
        }
        Change::Repeat(at, length) => {
            let at = place(at);
            let again: Vec<u8> = bytes.iter().skip(at).take(*length).copied().collect();
            bytes.splice(at..at, again);
        }
        Change::Cut(at) => {
            let at = place(at);
            bytes.truncate(at);
        }
        Change::Splice(from, at) => {
            let at = place(at);
            let Some(other) = others.get(from.index(others.len().max(1))) else { return };
            bytes.truncate(at);
            bytes.extend(other.iter().skip(at));
        }
    }
}

/// An input of the corpus with some changes, or none, or nothing but chance.
pub fn mutated(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec(any_change(), 0..=CHANGES_MAX);
    let chosen = (any::<Index>(), changes).prop_map(move |(which, changes)| {
        let mut bytes = corpus.get(which.index(corpus.len().max(1))).cloned().unwrap_or_default();
        changes.iter().for_each(|one| change(&mut bytes, one, &corpus));
        bytes
    });
    prop_oneof![15 => chosen, 1 => proptest::collection::vec(any::<u8>(), 0..200)]
}

/// An input that a strategy makes, with some changes.
pub fn mutated_from(made: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (made, proptest::collection::vec(any_change(), 0..=CHANGES_MAX)).prop_map(|(mut bytes, changes)| {
        changes.iter().for_each(|one| change(&mut bytes, one, &[]));
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    #[test]
    fn changes_reach_what_is_valid_and_much_that_is_not() {
        let corpus = vec![b"a first valid input".to_vec(), b"and another one".to_vec()];
        let (mut runner, strategy) = (TestRunner::deterministic(), mutated(corpus.clone()));
        let made: BTreeSet<Vec<u8>> =
            (0..2_000).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect();
        assert!(corpus.iter().all(|input| made.contains(input)));
        assert!(made.len() > 1_000);
        assert!(made.iter().any(Vec::is_empty) && made.iter().any(|bytes| bytes.len() > 30));
    }
}
