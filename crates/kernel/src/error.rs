//! What can go wrong between us and the kernel.

use std::io;

use nix::errno::Errno;

/// A request to the kernel failed. Each variant says what was tried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel understood the request and refused it. [`Error::errno`] says whether trying again can help.
    #[error("{what}: {errno}{}", explain(.message))]
    Refused {
        /// What was tried
        what: String,
        /// Why not
        errno: Errno,
        /// The kernel's own words, where it has any
        message: Option<String>,
    },
    /// A system call failed: no privilege, no memory, no such namespace.
    #[error("{what}: {why}")]
    System {
        /// What was tried
        what: String,
        /// Why not; a part of the message, and so no further link of its chain
        why: io::Error,
    },
    /// The kernel's reply does not have the form that it should have.
    #[error("{what}: the kernel's reply is malformed")]
    Malformed {
        /// What was tried
        what: String,
    },
    /// Messages were lost, because they came faster than they were read. Read the whole state again.
    #[error("{what}: messages of the kernel were lost")]
    Lost {
        /// What was tried
        what: String,
    },
    /// The state kept changing while it was read. Trying again helps.
    #[error("{what}: the state changed while it was read, several times in a row")]
    Unstable {
        /// What was tried
        what: String,
    },
    /// There is no such network device in this namespace.
    #[error("there is no network device `{0}`")]
    NoDevice(String),
    /// The request can't be expressed: a value is too long or not what its place needs.
    #[error("{what}: {why}")]
    Unsupported {
        /// What was tried
        what: String,
        /// Why not
        why: &'static str,
    },
}

fn explain(message: &Option<String>) -> String {
    message.as_ref().map_or_else(String::new, |text| format!(" ({text})"))
}

impl Error {
    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), why: source.into() }
    }

    /// The kernel's error number, if it is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::System { why, .. } => why.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }

    /// Whether what was to be added is there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// Whether what was to be removed or read is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoDevice(_))
            || matches!(
                self.errno(),
                Some(Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::EADDRNOTAVAIL | Errno::ENXIO)
            )
    }
}

/// Result of a request to the kernel.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Turns "is there already" into success.
pub(crate) fn allow_exists(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_exists() => Ok(()),
        other => other,
    }
}

/// Turns "is not there" into success.
pub(crate) fn allow_not_found(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
