//! No write of a former leader does harm, however late it arrives.
//!
//! Ports and EIPs have one holder each. A write that gives one is decided by what is known of all holders; it would be wrong if
//! another leader's write, decided earlier and done later, gave the same to somebody else. Clocks don't keep the two apart: a
//! request may lie around between its sender and the API server, and a process may stand still between its last look at
//! the clock and its write. What does is the version that each write names, with three rules:
//!
//! 1. What gives or takes ports or EIPs is only written to a version of an object that carries the *stamp* of the own term.
//!    So an object is made empty, with the stamp, and gets what it is to have by a second write; and it is only deleted at a
//!    version that carries it.
//! 2. After a stamp is seen on an object that had none, the leader makes sure from the API server that its term has not
//!    ended, before it writes such a thing again.
//! 3. A leader lists all such objects after its term has begun, and before it first gives anything puts its stamp on each.
//!
//! Suppose a write of an earlier term is under way. By 1 it names a version with the earlier stamp, and by 2 that version was
//! there when the earlier term had not ended. So by 3 the later leader's list has that object, at that version or a later one, and
//! once its own stamp is on it the late write is a conflict. If it was done before, then the stamp was the conflict,
//! and the later leader looks again.
//!
//! A leader that has nothing to give stamps nothing: a change of leaders costs an idle cluster no write.

use std::collections::BTreeSet;

use api::names;
use kube::Resource;
use runtime::lease::Term;

/// A kind of objects of which each thing that they name is in one of them only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exclusive {
    /// EgressPortLeases: ports
    Lease,
    /// Statuses of EgressGateways: EIPs
    Gateway,
}

/// The own term, and which objects carry its stamp.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fence {
    term: Option<Term>,
    /// Objects that are known, by name, and that don't carry the stamp
    open: BTreeSet<(Exclusive, String)>,
    stamped: BTreeSet<(Exclusive, String)>,
    /// Whether all that is stamped was so when the term had not ended
    is_confirmed: bool,
}

impl Fence {
    /// A term begins; no object carries its stamp.
    pub(crate) fn begin(&mut self, term: Term) {
        self.open.append(&mut self.stamped);
        (self.term, self.is_confirmed) = (Some(term), false);
    }

    /// The stamp of the own term.
    pub(crate) fn stamp(&self) -> &str {
        self.term.as_ref().map_or("", Term::as_str)
    }

    /// Whether some object does not carry the stamp.
    pub(crate) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether this one does not.
    pub(crate) fn is_open(&self, kind: Exclusive, name: &str) -> bool {
        self.open.contains(&(kind, name.to_owned()))
    }

    /// Whether writes that give or take may be sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.open.is_empty() && self.is_confirmed
    }

    /// The API server says that the term has not ended: asked for after all that is known was known.
    pub(crate) fn confirm(&mut self) {
        self.is_confirmed = true;
    }

    /// These are all objects of a kind.
    pub(crate) fn look_at_all<'a, K: Resource + 'a>(
        &mut self,
        kind: Exclusive,
        objects: impl Iterator<Item = &'a K>,
    ) {
        let mut gone: BTreeSet<String> = self
            .stamped
            .iter()
            .chain(&self.open)
            .filter(|(other, _)| *other == kind)
            .map(|(_, name)| name.clone())
            .collect();
        for object in objects {
            gone.remove(object.meta().name.as_deref().unwrap_or_default());
            self.look_at(kind, object);
        }
        gone.iter().for_each(|name| self.gone(kind, name));
    }

    /// An object is this now.
    pub(crate) fn look_at<K: Resource>(&mut self, kind: Exclusive, object: &K) {
        let stamp = object.meta().annotations.as_ref().and_then(|all| all.get(names::ANNOTATION_LEADER_TERM));
        let is_own = self.term.is_some() && stamp.is_some_and(|stamp| stamp == self.stamp());
        let key = (kind, object.meta().name.clone().unwrap_or_default());
        if !is_own {
            self.stamped.remove(&key);
            self.open.insert(key);
            return;
        }
        self.open.remove(&key);
        // One that had the stamp has it still: what was confirmed is.
        self.is_confirmed &= !self.stamped.insert(key);
    }

    /// The API server refuses any change of an object. It must not keep all others waiting: for it alone only time keeps leaders
    /// apart, until it has another version.
    pub(crate) fn pass_over(&mut self, kind: Exclusive, name: &str) {
        self.open.remove(&(kind, name.to_owned()));
    }

    /// An object is gone.
    pub(crate) fn gone(&mut self, kind: Exclusive, name: &str) {
        let key = (kind, name.to_owned());
        self.open.remove(&key);
        self.stamped.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1beta1::EgressPortLease;
    use std::collections::BTreeMap;

    fn lease(name: &str, stamp: &str) -> EgressPortLease {
        let mut lease = EgressPortLease::named(name);
        let stamp = (names::ANNOTATION_LEADER_TERM.to_owned(), stamp.to_owned());
        lease.metadata.annotations = Some(BTreeMap::from([stamp]));
        lease
    }

    fn fence(term: &str) -> Fence {
        let mut fence = Fence::default();
        fence.begin(Term::new(term));
        fence
    }

    #[test]
    fn nothing_is_given_before_all_is_stamped_and_confirmed() {
        let mut fence = fence("mine");
        assert!(!fence.is_closed());
        fence.look_at_all(Exclusive::Lease, [lease("a", "mine"), lease("b", "theirs")].iter());
        fence.confirm();
        assert!(fence.is_open(Exclusive::Lease, "b") && !fence.is_open(Exclusive::Lease, "a"));
        assert!(!fence.is_closed());
        // A stamp that is new is not confirmed.
        fence.look_at(Exclusive::Lease, &lease("b", "mine"));
        assert!(!fence.is_closed());
        fence.confirm();
        assert!(fence.is_closed());
        fence.look_at_all(Exclusive::Lease, [lease("a", "mine"), lease("b", "mine")].iter());
        assert!(fence.is_closed(), "nothing has changed");
    }

    #[test]
    fn another_leaders_stamp_opens_it_and_so_does_a_new_object() {
        let mut fence = fence("mine");
        fence.look_at_all(Exclusive::Lease, [lease("a", "mine")].iter());
        fence.confirm();
        fence.look_at(Exclusive::Lease, &lease("a", "theirs"));
        assert!(!fence.is_closed());
        fence.gone(Exclusive::Lease, "a");
        assert!(fence.is_closed());
        fence.look_at(Exclusive::Lease, &lease("a", "mine"));
        assert!(!fence.is_closed(), "made anew: it was not there when the term was confirmed");
    }

    #[test]
    fn what_can_not_be_stamped_keeps_nobody_waiting() {
        let mut fence = fence("mine");
        fence.look_at_all(Exclusive::Lease, [lease("a", "theirs")].iter());
        fence.confirm();
        fence.pass_over(Exclusive::Lease, "a");
        assert!(fence.is_closed());
        fence.look_at(Exclusive::Lease, &lease("a", "others"));
        assert!(!fence.is_closed(), "it is tried again when it has changed");
    }

    #[test]
    fn a_new_term_has_stamped_nothing() {
        let mut fence = fence("first");
        fence.look_at_all(Exclusive::Gateway, [lease("a", "first")].iter());
        fence.confirm();
        fence.begin(Term::new("second"));
        assert!(fence.is_open(Exclusive::Gateway, "a"));
        assert!(!fence.is_closed());
    }
}
