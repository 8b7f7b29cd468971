//! Sets of addresses as users write them: addresses, `a-b` ranges and CIDRs.
//!
//! Kept as merged ranges, never enumerated: a /64 costs as much as a single address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The address as a number, for interval arithmetic inside its own family.
#[must_use]
pub fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The reverse of [`to_number`]; bits above the family's width are cut off.
#[must_use]
pub fn from_number(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(number as u32).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}

/// A set of addresses of one family: sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPool {
    family: Family,
    ranges: Vec<(u128, u128)>,
}

/// An entry of a pool that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Neither an address nor a range nor a CIDR.
    #[error("`{entry}` is not an address, an `a-b` range or a CIDR")]
    Syntax {
        /// As written
        entry: String,
    },
    /// The entry belongs to the other family.
    #[error("`{entry}` is not {family}")]
    WrongFamily {
        /// As written
        entry: String,
        /// What the list holds
        family: Family,
    },
    /// A range whose last address is below its first.
    #[error("`{entry}` is a reversed range: write the lower address first")]
    Reversed {
        /// As written
        entry: String,
    },
}

impl PoolError {
    /// What is wrong and what to write instead, without the entry.
    #[must_use]
    pub fn problem(&self) -> String {
        match self {
            Self::Syntax { .. } => "is not an address, an `a-b` range or a CIDR".to_owned(),
            Self::WrongFamily { family, .. } => format!("is not {family}"),
            Self::Reversed { .. } => "is a reversed range: write the lower address first".to_owned(),
        }
    }
}

impl IpPool {
    /// The empty set.
    #[must_use]
    pub fn empty(family: Family) -> Self {
        Self { family, ranges: Vec::new() }
    }

    /// Reads the entries of a list. The error names the first bad entry and its index.
    ///
    /// Of an IPv4 CIDR with more than two addresses the network and the broadcast address are left out.
    pub fn parse<S: AsRef<str>>(family: Family, entries: &[S]) -> Result<Self, (usize, PoolError)> {
        let mut ranges = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            ranges.push(parse_entry(family, entry.as_ref()).map_err(|error| (index, error))?);
        }
        Ok(Self { family, ranges: merged(ranges) })
    }

    /// The addresses that any of these sets holds; those of the other family are left out.
    #[must_use]
    pub fn union<'a>(family: Family, pools: impl IntoIterator<Item = &'a Self>) -> Self {
        let of_family = pools.into_iter().filter(|pool| pool.family == family);
        let ranges = of_family.flat_map(|pool| pool.ranges.iter().copied()).collect();
        Self { family, ranges: merged(ranges) }
    }

    /// The family of all addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Whether no address is inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Number of addresses; saturates at `u128::MAX` for the whole IPv6 space.
    #[must_use]
    pub fn count(&self) -> u128 {
        self.ranges
            .iter()
            .fold(0, |sum: u128, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// The fewest networks that hold exactly these addresses.
    #[must_use]
    pub fn networks(&self) -> Vec<IpNet> {
        let bits: u32 = if self.family == Family::V4 { 32 } else { 128 };
        let mut networks = Vec::new();
        for (first, last) in &self.ranges {
            let mut from = *first;
            loop {
                let fitting = (last - from).checked_add(1).map_or(128, u128::ilog2);
                let log2 = from.trailing_zeros().min(bits).min(fitting);
                let length = u8::try_from(bits - log2).unwrap_or(u8::MAX);
                networks.extend(IpNet::new(from_number(self.family, from), length));
                match 1_u128.checked_shl(log2).and_then(|size| from.checked_add(size)) {
                    Some(next) if next <= *last => from = next,
                    _ => break,
                }
            }
        }
        networks
    }

    /// The lowest address.
    #[must_use]
    pub fn first(&self) -> Option<IpAddr> {
        self.ranges.first().map(|(first, _)| from_number(self.family, *first))
    }

    /// Whether the address is inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let number = to_number(address);
        let next = self.ranges.partition_point(|(first, _)| *first <= number);
        Family::of(address) == self.family
            && next.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|(_, last)| number <= *last)
    }

    /// The lowest address that `taken` does not hold. Costs one look-up per taken address at most.
    pub fn first_free(&self, mut taken: impl FnMut(IpAddr) -> bool) -> Option<IpAddr> {
        let numbers = self.ranges.iter().flat_map(|(first, last)| *first..=*last);
        numbers.map(|number| from_number(self.family, number)).find(|address| !taken(*address))
    }

    /// The addresses that the other set does not hold.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        if self.family != other.family {
            return self.clone();
        }
        let mut ranges = Vec::with_capacity(self.ranges.len());
        for (first, last) in self.ranges.iter().copied() {
            let mut next = Some(first);
            for (hole_first, hole_last) in other.ranges.iter().copied() {
                let Some(first) = next.filter(|first| *first <= hole_last && hole_first <= last) else {
                    continue;
                };
                if first < hole_first {
                    ranges.push((first, hole_first - 1));
                }
                next = hole_last.checked_add(1);
            }
            if let Some(first) = next.filter(|first| *first <= last) {
                ranges.push((first, last));
            }
        }
        Self { family: self.family, ranges }
    }

    /// An address that both sets hold, if there is any: the lowest.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<IpAddr> {
        if self.family != other.family {
            return None;
        }
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
            let first = a.0.max(b.0);
            if first <= a.1.min(b.1) {
                return Some(from_number(self.family, first));
            }
            if a.1 < b.1 {
                left.next()
            } else {
                right.next()
            };
        }
        None
    }
}

/// Sorted, and without ranges that overlap or touch.
fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if end.checked_add(1).is_none_or(|next| first <= next) => *end = (*end).max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn parse_entry(family: Family, entry: &str) -> Result<(u128, u128), PoolError> {
    let syntax = || PoolError::Syntax { entry: entry.to_owned() };
    let address = |text: &str| -> Result<u128, PoolError> {
        let address: IpAddr = text.parse().map_err(|_| syntax())?;
        if Family::of(address) != family {
            return Err(PoolError::WrongFamily { entry: entry.to_owned(), family });
        }
        Ok(to_number(address))
    };
    if let Some((first, last)) = entry.split_once('-') {
        let (first, last) = (address(first)?, address(last)?);
        return if first <= last {
            Ok((first, last))
        } else {
            Err(PoolError::Reversed { entry: entry.to_owned() })
        };
    }
    if !entry.contains('/') {
        return address(entry).map(|number| (number, number));
    }
    let net: IpNet = entry.parse().map_err(|_| syntax())?;
    if Family::of(net.addr()) != family {
        return Err(PoolError::WrongFamily { entry: entry.to_owned(), family });
    }
    let (first, last) = (to_number(net.network()), to_number(net.broadcast()));
    let inner = family == Family::V4 && last - first > 1;
    Ok(if inner { (first + 1, last - 1) } else { (first, last) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(entries: &[&str]) -> IpPool {
        IpPool::parse(Family::V4, entries).unwrap()
    }

    #[test]
    fn a_pool_is_as_few_networks_as_can_be() {
        let text = |pool: IpPool| pool.networks().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(v4(&["10.6.1.0/31"])), ["10.6.1.0/31"]);
        assert_eq!(
            text(v4(&["10.6.1.1-10.6.1.10"])),
            ["10.6.1.1/32", "10.6.1.2/31", "10.6.1.4/30", "10.6.1.8/31", "10.6.1.10/32"]
        );
        assert_eq!(text(v4(&["0.0.0.0-255.255.255.255"])), ["0.0.0.0/0"]);
        assert_eq!(text(IpPool::parse(Family::V6, &["::/0"]).unwrap()), ["::/0"]);
        assert_eq!(
            text(IpPool::parse(Family::V6, &["fd00::1-fd00::2"]).unwrap()),
            ["fd00::1/128", "fd00::2/128"]
        );
    }

    #[test]
    fn entries_form_one_union_without_duplicates() {
        let pool = v4(&["10.6.1.21", "10.6.1.11-10.6.1.20", "10.6.1.12"]);
        assert_eq!(pool.count(), 11);
        assert_eq!(pool.first(), Some("10.6.1.11".parse().unwrap()));
    }

    #[test]
    fn a_v4_cidr_leaves_out_network_and_broadcast_unless_it_is_tiny() {
        assert_eq!(v4(&["10.6.1.77/28"]).count(), 14);
        assert_eq!(v4(&["10.6.1.0/31"]).count(), 2);
        assert_eq!(v4(&["10.6.1.0/32"]).count(), 1);
        assert!(!v4(&["10.6.1.0/24"]).contains("10.6.1.255".parse().unwrap()));
    }

    #[test]
    fn huge_pools_are_counted_without_being_listed() {
        let count = |entry| IpPool::parse(Family::V6, &[entry]).unwrap().count();
        assert_eq!(count("fd00::/64"), 1 << 64);
        assert_eq!(count("::/0"), u128::MAX);
        assert_eq!(v4(&["0.0.0.0/0"]).count(), (1 << 32) - 2);
    }

    #[test]
    fn nothing_is_left_of_a_set_without_itself() {
        let all = IpPool::parse(Family::V6, &["::/0"]).unwrap();
        assert!(all.without(&all).is_empty());
        assert_eq!(all.without(&IpPool::empty(Family::V6)), all);
    }

    #[test]
    fn bad_entries_are_named_with_their_index() {
        let error = |entry: &str| IpPool::parse(Family::V4, &["10.6.1.1", entry]).unwrap_err();
        assert!(matches!(error("10.6.1.9-10.6.1.2"), (1, PoolError::Reversed { .. })));
        assert!(matches!(error("fd00::1"), (1, PoolError::WrongFamily { .. })));
        for entry in
            ["", "10.6.1", "10.6.1.1/33", "10.6.1.1-", "a-b", "10.6.1.1 - 10.6.1.2", "10.6.1.1-10.6.1.2-3"]
        {
            assert!(matches!(error(entry), (1, PoolError::Syntax { .. })), "{entry}");
        }
    }

    #[test]
    fn overlap_is_found_by_its_lowest_address() {
        let a = v4(&["10.6.1.1-10.6.1.5", "10.6.1.50-10.6.1.60"]);
        assert_eq!(a.common(&v4(&["10.6.1.6-10.6.1.49", "10.6.1.60-10.6.1.99"])), "10.6.1.60".parse().ok());
        assert_eq!(a.common(&v4(&["10.6.1.6-10.6.1.49"])), None);
    }

    proptest! {
        #[test]
        fn membership_equals_the_naive_answer(entries in proptest::collection::vec((0u8..40, 0u8..40), 0..10)) {
            let texts: Vec<String> = entries.iter()
                .map(|(a, b)| format!("10.0.0.{}-10.0.0.{}", a.min(b), a.max(b))).collect();
            let pool = IpPool::parse(Family::V4, &texts).unwrap();
            let inside = |n: u8| entries.iter().any(|(a, b)| (*a.min(b)..=*a.max(b)).contains(&n));
            for n in 0..=255 {
                prop_assert_eq!(pool.contains(Ipv4Addr::new(10, 0, 0, n).into()), inside(n));
            }
            prop_assert_eq!(pool.count(), (0..=255).filter(|n| inside(*n)).count() as u128);
        }

        #[test]
        fn difference_equals_the_naive_answer(
            a in proptest::collection::vec((0u8..40, 0u8..40), 0..6),
            b in proptest::collection::vec((0u8..40, 0u8..40), 0..6),
        ) {
            let pool = |entries: &[(u8, u8)]| {
                let texts: Vec<String> = entries.iter()
                    .map(|(a, b)| format!("10.0.0.{}-10.0.0.{}", a.min(b), a.max(b))).collect();
                IpPool::parse(Family::V4, &texts).unwrap()
            };
            let (a, b) = (pool(&a), pool(&b));
            let difference = a.without(&b);
            let union = IpPool::union(Family::V4, [&a, &b]);
            prop_assert_eq!(a.common(&b).is_none(), union.count() == a.count() + b.count());
            for n in 0..=255 {
                let address = Ipv4Addr::new(10, 0, 0, n).into();
                prop_assert_eq!(union.contains(address), a.contains(address) || b.contains(address));
                prop_assert_eq!(difference.contains(address), a.contains(address) && !b.contains(address));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = IpPool::parse(Family::V4, &[&text]);
            let _ = IpPool::parse(Family::V6, &[&text]);
        }
    }
}
