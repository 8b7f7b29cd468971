//! What can go wrong before a lab runs: one clear sentence each, and what helps.

use std::io;
use std::path::PathBuf;

/// Why a lab could not be started, found or stopped.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The name can't be part of a path.
    #[error("{name:?} is no name for a lab: use up to 32 of a-z, 0-9 and '-', not beginning with '-'")]
    BadName {
        /// The name that was given.
        name: String,
    },
    /// A lab of that name runs.
    #[error(
        "a lab named {name:?} is running already: stop it with `egressgateway lab down --name {name}`, or choose another --name"
    )]
    NameInUse {
        /// The name.
        name: String,
    },
    /// No lab of that name runs.
    #[error("no lab named {name:?} is running: start one with `egressgateway lab up --name {name}`")]
    NotRunning {
        /// The name.
        name: String,
    },
    /// Too many nodes, or none.
    #[error("a lab has 1 to {max} nodes, not {nodes}")]
    BadNodeCount {
        /// What was asked for.
        nodes: usize,
        /// The most that is possible.
        max: usize,
    },
    /// The state directory can't be used.
    #[error("the lab's directory {} can't be used", path.display())]
    StateDir {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A process of the lab would not die.
    #[error("process {pid} of the lab did not end")]
    Kill {
        /// Its id.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Neither privileges nor user namespaces.
    #[error("it needs root, or a kernel that lets {who} make user namespaces ({hint})")]
    NoPrivileges {
        /// Who asked.
        who: String,
        /// Which setting probably forbids it.
        hint: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel lacks something that the lab can't do without.
    #[error("this kernel has no {feature}: {hint}")]
    MissingKernelFeature {
        /// What is missing.
        feature: &'static str,
        /// What helps.
        hint: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The lab's own process ended or said that it failed.
    #[error("the lab did not start: {reason}")]
    Start {
        /// Its last words.
        reason: String,
    },
    /// The lab answered something else than expected, or nothing.
    #[error("the lab did not answer")]
    Control {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The lab refused a command.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
}
