//! What a helper process is told to start. Travels as one JSON argument.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A program with its arguments and environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Name and arguments; the name is looked up in the search path.
    pub(crate) argv: Vec<String>,
    /// The whole environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Where it starts.
    pub(crate) working_directory: Option<PathBuf>,
}

/// A container to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerSpec {
    /// Path of the network namespace to enter.
    pub(crate) network_namespace: PathBuf,
    /// The host name that the program sees.
    pub(crate) hostname: String,
    /// An empty directory to build the root directory on.
    pub(crate) root: PathBuf,
    /// Text of `/etc/hosts`.
    pub(crate) hosts: String,
    /// What is mounted where.
    pub(crate) mounts: Vec<VolumeMount>,
    /// What runs.
    pub(crate) program: Program,
}

/// A directory or file of the lab that a container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeMount {
    /// Where it is.
    pub(crate) source: PathBuf,
    /// Where the container sees it.
    pub(crate) target: PathBuf,
    /// Whether the container may only read it.
    pub(crate) read_only: bool,
}

/// A running process' namespaces to enter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EnterSpec {
    /// Paths of the namespaces, in the order in which they are to be entered.
    pub(crate) namespaces: Vec<PathBuf>,
    /// A path that leads to the root directory to change to.
    pub(crate) root: Option<PathBuf>,
    /// The terminal to control, if any.
    pub(crate) terminal: Option<PathBuf>,
    /// Whether the program gets a session of its own.
    pub(crate) new_session: bool,
    /// What runs.
    pub(crate) program: Program,
}
