//! Where in an object one is, without a text for it until somebody asks.

use std::fmt;

/// A path as a chain of steps on the stack; most walks never print it.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Root,
    Named(&'a str),
    Key(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl Place<'_> {
    pub(super) fn is_root(&self) -> bool {
        matches!(self, Self::Root)
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Named(name) => f.write_str(name),
            Self::Key(parent, key) if parent.is_root() => f.write_str(key),
            Self::Key(parent, key) if super::plain(key) => write!(f, "{parent}.{key}"),
            Self::Key(parent, key) => write!(f, "{parent}[{key}]"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}
