//! Where in an object one is, without a text for it until somebody asks.

use std::fmt;

/// A path as a chain of steps on the stack; most walks never print it.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Root,
    /// The status, judged on its own.
    Status,
    Key(&'a Place<'a>, &'a str),
    /// A value in a map, whose keys are data.
    Entry(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl Place<'_> {
    pub(super) fn is_root(&self) -> bool {
        matches!(self, Self::Root)
    }

    /// The path from where the judgement began, as texts of errors have it.
    pub(super) fn inner(&self) -> impl fmt::Display {
        Shown { place: self, from_root: false }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown { place: self, from_root: true }.fmt(f)
    }
}

struct Shown<'a> {
    place: &'a Place<'a>,
    from_root: bool,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, from_root } = *self;
        let is_start = |parent: &Place<'_>| match parent {
            Place::Root => true,
            Place::Status => !from_root,
            _ => false,
        };
        match place {
            Place::Root => Ok(()),
            Place::Status if from_root => f.write_str("status"),
            Place::Status => Ok(()),
            Place::Key(parent, key) if is_start(parent) => f.write_str(key),
            Place::Key(parent, key) => write!(f, "{}.{key}", Shown { place: parent, from_root }),
            Place::Entry(parent, key) => write!(f, "{}[{key}]", Shown { place: parent, from_root }),
            Place::Index(parent, index) => write!(f, "{}[{index}]", Shown { place: parent, from_root }),
        }
    }
}
