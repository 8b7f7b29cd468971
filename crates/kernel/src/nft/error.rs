//! Why the kernel refused a batch.

use nix::errno::Errno;

use crate::error::Error;

/// A batch was refused. Nothing of it was done.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// One command or the whole batch was refused.
    #[error("{}: {errno}{}", place(.command), words(.message))]
    Refused {
        /// The first command that was refused, by index and in words; `None` if it was the batch as a whole
        command: Option<(usize, String)>,
        /// Why
        errno: Errno,
        /// The kernel's own words, where it has any
        message: Option<String>,
        /// How many more commands were refused
        others: usize,
    },
    /// Somebody changed the ruleset since the given generation. Read again, then try again.
    #[error("the ruleset was changed by somebody else meanwhile")]
    Stale,
    /// The batch is larger than the socket's send buffer, which only privileged processes may raise beyond
    /// `net.core.wmem_max`.
    #[error("a batch of {bytes} bytes is more than the kernel takes of this process at once")]
    TooLarge {
        /// Size of the batch
        bytes: usize,
    },
    /// The batch could not be made or sent.
    #[error(transparent)]
    Kernel(#[from] Error),
}

/// What kind of refusal it is, and so what can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Something that the batch needs or removes is not there: read again
    NotFound,
    /// Something that the batch makes is there in another form: read again
    Exists,
    /// Something that the batch removes is in use
    Busy,
    /// A set is full, or there is no memory
    NoRoom,
    /// The table belongs to another process, or the privilege is missing
    NotAllowed,
    /// The kernel lacks something that the batch uses
    Unsupported,
    /// The ruleset or the kernel's state changed meanwhile: try again
    Changed,
    /// Anything else
    Other,
}

impl BatchError {
    /// What kind of refusal it is.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let errno = match self {
            Self::Stale => return Refusal::Changed,
            Self::TooLarge { .. } => return Refusal::NoRoom,
            Self::Refused { errno, .. } => Some(*errno),
            Self::Kernel(error) => error.errno(),
        };
        match errno {
            Some(Errno::ENOENT) => Refusal::NotFound,
            Some(Errno::EEXIST) => Refusal::Exists,
            Some(Errno::EBUSY) => Refusal::Busy,
            Some(Errno::ENOSPC | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => Refusal::NoRoom,
            Some(Errno::EPERM | Errno::EACCES) => Refusal::NotAllowed,
            Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT) => Refusal::Unsupported,
            Some(Errno::EINTR | Errno::EAGAIN | Errno::ERESTART) => Refusal::Changed,
            _ => Refusal::Other,
        }
    }
}

fn place(command: &Option<(usize, String)>) -> String {
    match command {
        Some((index, text)) => format!("command {index} of the batch, {text}"),
        None => "the batch".to_owned(),
    }
}

fn words(message: &Option<String>) -> String {
    message.as_ref().map_or_else(String::new, |text| format!(" ({text})"))
}
