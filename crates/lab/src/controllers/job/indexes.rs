//! Sets of indexes as a Job's status writes them: `0,2-5,9`.

use std::collections::BTreeSet;

/// Reads one; what can't be read is left out.
pub(super) fn read(text: &str) -> BTreeSet<i32> {
    let number = |text: &str| text.trim().parse::<i32>().ok();
    let mut found = BTreeSet::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((first, last)) => {
                if let (Some(first), Some(last)) = (number(first), number(last)) {
                    found.extend(first..=last);
                }
            }
            None => found.extend(number(part)),
        }
    }
    found
}

/// Writes one; two neighbours are written singly.
pub(super) fn write(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let text = |(first, last): (i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.into_iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_are_written_with_their_ends() {
        assert_eq!(write(&BTreeSet::from([0, 2, 3, 4, 5, 9, 10])), "0,2-5,9,10");
        assert_eq!(write(&BTreeSet::new()), "");
        assert_eq!(read("0,2-5,x,7-,9"), BTreeSet::from([0, 2, 3, 4, 5, 9]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(indexes in proptest::collection::btree_set(0..200_i32, 0..60)) {
            prop_assert_eq!(read(&write(&indexes)), indexes);
        }
    }
}
