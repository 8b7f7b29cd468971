//! Pods' streams: `exec`, `attach`, `portforward` and `log`.
//!
//! The server speaks the protocols; what runs in a pod is known to whoever implements [`PodStreams`].

pub(crate) mod exec;
pub(crate) mod frames;
pub(crate) mod log;
pub(crate) mod pod;
pub(crate) mod port_forward;
mod spdy;
mod upgrade;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::mpsc;

/// Runs commands in pods and reads their logs.
pub trait PodStreams: Send + Sync + 'static {
    /// Runs a command in a container and answers its exit code.
    ///
    /// The future is dropped when the client goes away; the command should end then. Output counts as complete
    /// when the implementation has dropped its ends of stdout and stderr.
    fn exec(
        &self,
        request: ExecRequest,
        streams: ExecStreams,
    ) -> BoxFuture<'static, Result<i32, StreamError>>;

    /// Connects a client to what a container's program reads and writes, from now on, until the program ends; answers its
    /// exit code. The future is dropped when the client goes away, which does the program no harm.
    fn attach(
        &self,
        request: AttachRequest,
        streams: ExecStreams,
    ) -> BoxFuture<'static, Result<i32, StreamError>>;

    /// Connects to a TCP port at a pod's loopback device.
    fn connect(
        &self,
        request: PortRequest,
    ) -> BoxFuture<'static, Result<Box<dyn PodConnection>, StreamError>>;

    /// Opens the log of a container. The stream ends where the log does, unless `follow` is set: then it goes on
    /// until the container ends.
    fn logs(&self, request: LogRequest) -> BoxFuture<'static, Result<LogStream, StreamError>>;
}

/// Pieces of a log, in order; where one is cut means nothing.
pub type LogStream = BoxStream<'static, std::io::Result<Bytes>>;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Node that the pod is bound to.
    pub node: String,
    /// Container, which the pod is known to have.
    pub container: String,
    /// Program and arguments; at least one.
    pub command: Vec<String>,
    /// Whether the client wants a terminal: then stderr is part of stdout.
    pub tty: bool,
}

/// A container to attach to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Node that the pod is bound to.
    pub node: String,
    /// Container, which the pod is known to have.
    pub container: String,
}

/// A port to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Node that the pod is bound to.
    pub node: String,
    /// TCP port, not 0.
    pub port: u16,
}

/// A connection to a port of a pod.
pub trait PodConnection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PodConnection for T {}

/// The ends of a command's streams; those that the client did not ask for are `None`.
#[derive(Debug)]
pub struct ExecStreams {
    /// Reads what the client sends; ends when the client closes it.
    pub stdin: Option<DuplexStream>,
    /// Takes what the client is to see.
    pub stdout: Option<DuplexStream>,
    /// Takes errors; `None` with a terminal.
    pub stderr: Option<DuplexStream>,
    /// Sizes of the client's terminal, the present one first. The oldest are lost if nobody reads them.
    pub resize: mpsc::Receiver<TerminalSize>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// A log to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Container, which the pod is known to have.
    pub container: String,
    /// Whether the stream goes on with what is logged later.
    pub follow: bool,
    /// Whether the log of the container's last run is wanted.
    pub previous: bool,
    /// Whether each line starts with its RFC 3339 time.
    pub timestamps: bool,
    /// Only that many last lines.
    pub tail_lines: Option<u64>,
    /// Only lines from this moment on.
    pub since: Option<jiff::Timestamp>,
    /// At most that many bytes.
    pub limit_bytes: Option<u64>,
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The pod is in no state for it, or the request makes no sense; the text is shown to the user.
    #[error("{0}")]
    BadRequest(String),
    /// Nothing by that name runs; the text is shown to the user.
    #[error("{0}")]
    NotFound(String),
    /// The command could not be started, or something broke; the text is shown to the user.
    #[error("{0}")]
    Internal(String),
}

/// For servers without nodes: every stream is refused.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPodStreams;

impl PodStreams for NoPodStreams {
    fn exec(&self, _: ExecRequest, _: ExecStreams) -> BoxFuture<'static, Result<i32, StreamError>> {
        Box::pin(std::future::ready(Err(no_pods())))
    }

    fn attach(&self, _: AttachRequest, _: ExecStreams) -> BoxFuture<'static, Result<i32, StreamError>> {
        Box::pin(std::future::ready(Err(no_pods())))
    }

    fn connect(&self, _: PortRequest) -> BoxFuture<'static, Result<Box<dyn PodConnection>, StreamError>> {
        Box::pin(std::future::ready(Err(no_pods())))
    }

    fn logs(&self, _: LogRequest) -> BoxFuture<'static, Result<LogStream, StreamError>> {
        Box::pin(std::future::ready(Err(no_pods())))
    }
}

fn no_pods() -> StreamError {
    StreamError::BadRequest("this server runs no pods".to_owned())
}
