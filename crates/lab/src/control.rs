//! How commands talk to a lab in the background: one JSON line each way over a Unix socket.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::LabError;

/// Longest request that is read.
pub(crate) const REQUEST_BYTES_MAX: u64 = 64 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What a command asks of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// What the lab consists of and how it is.
    Status,
    /// What `exec` needs to run a command in a node or pod.
    Target {
        /// Name of a node, of a pod (optionally `NAMESPACE/POD`), or `outside`.
        name: String,
    },
    /// Break or repair something.
    Fault(Fault),
    /// What the outside host saw.
    OutsideLog,
    /// What controller and agents have asked of the API server.
    Asked,
    /// End the lab.
    Down,
}

/// Something to break or to repair. The commands of `lab fault` are these, with these texts as their help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, clap::Subcommand)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Cut a node's cable: neither the fabric nor the API server reaches it
    Cut {
        /// The node
        node: String,
    },
    /// Repair a node's cable
    Heal {
        /// The node
        node: String,
    },
    /// Kill the agent of a node, as a crash would; it is started again
    KillAgent {
        /// The node
        node: String,
    },
    /// Cut all connections of the API server and refuse new ones
    StopApiServer,
    /// Let the API server answer again
    StartApiServer,
}

/// A lab's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer<T> {
    /// What was asked for.
    Done(T),
    /// One sentence why not.
    Refused(String),
}

/// What a lab consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The lab's name.
    pub name: String,
    /// Where the API server listens on the host.
    pub api_server: String,
    /// Whether the API server answers.
    pub api_server_running: bool,
    /// Path of an administrator's kubeconfig.
    pub kubeconfig: String,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
    /// Pods as `NAMESPACE/NAME` with their phase.
    pub pods: BTreeMap<String, String>,
    /// Resident memory of the lab's own processes, without the pods' programs, in KiB.
    pub memory_kib: u64,
}

/// A node of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its address on the fabric.
    pub address: IpAddr,
    /// Whether its cable is cut.
    pub cut: bool,
}

/// Where a command is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// Id, in the lab's process namespace, of a process that is there.
    pub(crate) process: i32,
    /// The environment that commands get.
    pub(crate) environment: Vec<(String, String)>,
}

/// Asks a lab and waits for its answer.
pub(crate) fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, LabError> {
    let reply = exchange(socket, request).map_err(|source| LabError::Control { source })?;
    match serde_json::from_str(&reply) {
        Ok(Answer::Done(value)) => Ok(value),
        Ok(Answer::Refused(reason)) => Err(LabError::Refused { reason }),
        Err(error) => Err(LabError::Control { source: io::Error::other(error) }),
    }
}

fn exchange(socket: &Path, request: &Request) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = serde_json::to_string(request).map_err(io::Error::other)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    Ok(reply)
}
