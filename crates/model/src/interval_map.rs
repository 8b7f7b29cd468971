//! Disjoint intervals of addresses with a value each: what the kernel's interval maps hold.

use std::collections::BTreeMap;

/// Maps inclusive ranges of numbers (addresses as numbers) to values; ranges never overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntervalMap<V> {
    /// first -> (last, value)
    ranges: BTreeMap<u128, (u128, V)>,
}

impl<V> Default for IntervalMap<V> {
    fn default() -> Self {
        Self { ranges: BTreeMap::new() }
    }
}

impl<V: Clone + PartialEq> IntervalMap<V> {
    /// Gives the value to that part of `first..=last` that has none yet: of overlapping ranges the one that was filled
    /// in first wins. An empty range changes nothing.
    pub fn fill(&mut self, first: u128, last: u128, value: &V) {
        if first > last {
            return;
        }
        let before = self.ranges.range(..first).next_back().filter(|(_, (end, _))| *end >= first);
        let mut next = match before {
            Some((_, (end, _))) if *end >= last => return,
            Some((_, (end, _))) => end + 1,
            None => first,
        };
        let inside: Vec<(u128, u128)> =
            self.ranges.range(next..=last).map(|(start, (end, _))| (*start, *end)).collect();
        for (start, end) in inside {
            if start > next {
                self.ranges.insert(next, (start - 1, value.clone()));
            }
            match end.checked_add(1) {
                Some(after) => next = after,
                None => return,
            }
        }
        if next <= last {
            self.ranges.insert(next, (last, value.clone()));
        }
    }

    /// The value at a number.
    #[must_use]
    pub fn get(&self, number: u128) -> Option<&V> {
        let (_, (last, value)) = self.ranges.range(..=number).next_back()?;
        (number <= *last).then_some(value)
    }

    /// All ranges in order, neighbours of equal value joined.
    #[must_use]
    pub fn merged(&self) -> Vec<(u128, u128, V)> {
        let mut merged: Vec<(u128, u128, V)> = Vec::with_capacity(self.ranges.len());
        for (first, (last, value)) in &self.ranges {
            match merged.last_mut() {
                Some((_, end, same)) if same == value && end.checked_add(1) == Some(*first) => *end = *last,
                _ => merged.push((*first, *last, value.clone())),
            }
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn answers_every_number_like_the_first_range_that_holds_it(
            ranges in proptest::collection::vec((0u128..64, 0u128..64, 0u8..4), 0..24),
        ) {
            let mut map = IntervalMap::default();
            for (first, last, value) in &ranges { map.fill(*first, *last, value); }
            for number in 0..64 {
                let naive = ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&number));
                prop_assert_eq!(map.get(number), naive.map(|(_, _, value)| value));
                let merged = map.merged();
                let joined = merged.iter().find(|(first, last, _)| (*first..=*last).contains(&number));
                prop_assert_eq!(joined.map(|(_, _, value)| value), map.get(number));
            }
            prop_assert!(map.merged().windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }

    #[test]
    fn the_ends_of_the_address_space_are_reached() {
        let mut map = IntervalMap::default();
        map.fill(u128::MAX, u128::MAX, &1);
        map.fill(0, u128::MAX, &2);
        assert_eq!(map.merged(), [(0, u128::MAX - 1, 2), (u128::MAX, u128::MAX, 1)]);
    }
}
