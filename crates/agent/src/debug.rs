//! Answers to people on the node: what the kernel shall hold and holds, and why a packet leaves as it does.
//!
//! The agent listens on an abstract Unix socket, which exists once per network namespace, so once per node; only its own
//! user is answered. One line of JSON is a question, the answer is text.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Name of the socket, in the abstract namespace.
const SOCKET: &str = "egressgateway-agent";
/// Longest question in bytes.
const QUESTION_MAX: u64 = 4096;
/// Longest wait for a question, and for the loop's answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to get the socket's name.
const RETRY: Duration = Duration::from_secs(1);

/// What somebody wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Question {
    /// What this node knows: pods, policies, EIPs, gateways
    State,
    /// What the kernel shall hold as nft text, with routes, rules and neighbours
    Ruleset,
    /// How what the kernel holds differs from that
    Diff,
    /// Why a pod's packet leaves as it does
    #[serde(rename_all = "camelCase")]
    Why {
        /// Address of the pod, or its `namespace/name`
        pod: String,
        /// Where to
        destination: IpAddr,
        /// Protocol number
        protocol: u8,
        /// Destination port
        port: u16,
    },
}

/// A question and where its answer goes.
pub type Asked = (Question, oneshot::Sender<String>);

fn address() -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(SOCKET)
}

/// Answers until the process ends, on a thread of its own, one after the other. While the socket's name is taken, by an agent
/// that has not quite ended, it is tried again.
///
/// # Errors
/// When no thread can be started.
pub fn listen(questions: mpsc::Sender<Asked>) -> Result<()> {
    let serve = move || {
        let mut is_told = false;
        let listener = loop {
            match address().and_then(|address| UnixListener::bind_addr(&address)) {
                Ok(listener) => break listener,
                Err(error) if !is_told => {
                    tracing::warn!(%error, "`egressgateway debug` gets no answers yet");
                    is_told = true;
                }
                Err(_) => {}
            }
            std::thread::sleep(RETRY);
        };
        for stream in listener.incoming().flatten() {
            if let Err(error) = answer(&stream, &questions) {
                tracing::debug!(error = format!("{error:#}"), "a question was not answered");
            }
        }
    };
    std::thread::Builder::new().name("debug".to_owned()).spawn(serve).context("starting a thread")?;
    Ok(())
}

fn answer(stream: &UnixStream, questions: &mpsc::Sender<Asked>) -> Result<()> {
    let asker = getsockopt(stream, PeerCredentials)?.uid();
    if asker != geteuid().as_raw() {
        bail!("user {asker} asked");
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(QUESTION_MAX)).read_line(&mut line)?;
    let text = match serde_json::from_str(&line) {
        Ok(question) => {
            let (reply, answered) = oneshot::channel();
            questions.blocking_send((question, reply)).context("the loop has ended")?;
            answered.blocking_recv().context("the loop has ended")?
        }
        Err(error) => format!("error: no question of this version: {error}\n"),
    };
    let mut stream = stream;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Both)?;
    Ok(())
}

/// Asks the agent of this node.
///
/// # Errors
/// When none runs in this network namespace, or it does not answer.
pub fn ask(question: &Question) -> Result<String> {
    let mut stream = UnixStream::connect_addr(&address()?).context(
        "no agent answers here; run this in an agent's pod, or in the network namespace of its node",
    )?;
    stream.set_read_timeout(Some(2 * PATIENCE))?;
    stream.write_all(serde_json::to_string(question)?.as_bytes())?;
    stream.write_all(b"\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("the agent's answer")?;
    if text.is_empty() {
        bail!("the agent answers only to its own user");
    }
    Ok(text)
}
