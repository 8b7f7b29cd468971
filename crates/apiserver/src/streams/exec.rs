//! `pods/N/exec` and `pods/N/attach` over WebSocket.

use std::future::pending;
use std::sync::Arc;

use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use bytes::{Buf as _, Bytes};
use futures::future::BoxFuture;
use http::request::Parts;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use super::frames::{self, Frame, Output, V4, V5};
use super::upgrade::in_background;
use super::{AttachRequest, ExecRequest, ExecStreams, StreamError, TerminalSize, log, pod};
use crate::http::{Answer, Call, Connection, Query};
use crate::status_error::StatusError;

/// Bytes of each stream that wait for the other side.
const STREAM_BYTES_MAX: usize = 64 * 1024;
/// Largest piece of output in one message.
const PIECE_BYTES: usize = 32 * 1024;
/// Largest message of a client.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Sizes of the terminal that wait to be read.
const RESIZES_MAX: usize = 8;

/// Answers a request for a command by upgrading it.
pub(crate) async fn answer(
    call: Call,
    connection: &Connection,
    name: &str,
    parts: Parts,
) -> Result<Answer, StatusError> {
    let (request, wanted) = prepare(&call, name)?;
    let pods = Arc::clone(&call.state.streams);
    let start = move |streams| pods.exec(request, streams);
    upgrade(call, connection, parts, wanted, "exec", start).await
}

/// Answers a request for a running program by upgrading it.
pub(crate) async fn attach(
    call: Call,
    connection: &Connection,
    name: &str,
    parts: Parts,
) -> Result<Answer, StatusError> {
    let (place, wanted) = place(&call, name, "attach to")?;
    let Place { namespace, node, container } = place;
    let request = AttachRequest { namespace, pod: name.to_owned(), node, container };
    let pods = Arc::clone(&call.state.streams);
    let start = move |streams| pods.attach(request, streams);
    upgrade(call, connection, parts, wanted, "attach", start).await
}

async fn upgrade<S>(
    call: Call,
    connection: &Connection,
    mut parts: Parts,
    wanted: Wanted,
    what: &'static str,
    start: S,
) -> Result<Answer, StatusError>
where
    S: FnOnce(ExecStreams) -> Ending + Send + 'static,
{
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|_| StatusError::bad_request("Upgrade request required"))?
        .protocols([V5, V4])
        .max_message_size(MESSAGE_BYTES_MAX);
    if upgrade.selected_protocol().is_none() {
        return Err(StatusError::bad_request(format!(
            "no known protocol is offered, this server has {V5} and {V4}"
        )));
    }
    let background = in_background(call.state, connection, what)?;
    Ok(upgrade.on_upgrade(move |socket| background.run(Session::run(socket, wanted, start))))
}

/// How a command ends.
type Ending = BoxFuture<'static, Result<i32, StreamError>>;

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Wanted {
    fn parse(query: &Query) -> Result<Self, StatusError> {
        // A terminal has one output.
        let stderr = query.flag("stderr") && !query.flag("tty");
        let wanted = Self { stdin: query.flag("stdin"), stdout: query.flag("stdout"), stderr };
        if wanted.stdin || wanted.stdout || wanted.stderr {
            Ok(wanted)
        } else {
            Err(StatusError::bad_request("you must specify at least 1 of stdin, stdout, stderr"))
        }
    }
}

/// A container that runs.
struct Place {
    namespace: String,
    node: String,
    container: String,
}

/// Finds the container; `action` says in the refusal what can't be done.
fn place(call: &Call, name: &str, action: &str) -> Result<(Place, Wanted), StatusError> {
    let found = pod::find(call, name)?;
    let container = pod::container(&found, name, call.query.text("container"))?;
    let node = pod::node(&found, name)?;
    let phase = found.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        let message = format!("cannot {action} a container in a completed pod; current phase is {phase}");
        return Err(StatusError::bad_request(message));
    }
    let wanted = Wanted::parse(&call.query)?;
    Ok((Place { namespace: call.namespace.clone().unwrap_or_default(), node, container }, wanted))
}

fn prepare(call: &Call, name: &str) -> Result<(ExecRequest, Wanted), StatusError> {
    let (place, wanted) = place(call, name, "exec into")?;
    let command: Vec<String> = call.query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(StatusError::bad_request("you must specify a command for the container"));
    }
    let tty = call.query.flag("tty");
    let Place { namespace, node, container } = place;
    Ok((ExecRequest { namespace, pod: name.to_owned(), node, container, command, tty }, wanted))
}

/// The server's ends of a running command's streams.
struct Session {
    socket: WebSocket,
    stdin: Option<DuplexStream>,
    /// Input that the command has not taken yet; nothing more is read from the client before it has.
    input: Bytes,
    resize: mpsc::Sender<TerminalSize>,
}

impl Session {
    async fn run(
        socket: WebSocket,
        wanted: Wanted,
        start: impl FnOnce(ExecStreams) -> Ending,
    ) -> Result<(), axum::Error> {
        let pipe = |wanted: bool| wanted.then(|| tokio::io::duplex(STREAM_BYTES_MAX)).unzip();
        let (stdin, their_stdin) = pipe(wanted.stdin);
        let (mut stdout, their_stdout) = pipe(wanted.stdout);
        let (mut stderr, their_stderr) = pipe(wanted.stderr);
        let (resize, their_resize) = mpsc::channel(RESIZES_MAX);
        let streams = ExecStreams {
            stdin: their_stdin,
            stdout: their_stdout,
            stderr: their_stderr,
            resize: their_resize,
        };
        let mut session = Self { socket, stdin, input: Bytes::new(), resize };
        let mut command = start(streams);
        let mut result = None;
        let mut pieces = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
        // Over when the command has ended and all that it wrote was sent.
        while result.is_none() || stdout.is_some() || stderr.is_some() {
            tokio::select! {
                ended = &mut command, if result.is_none() => {
                    result = Some(ended);
                    session.stdin = None;
                    session.input.clear();
                }
                message = session.socket.recv(), if session.input.is_empty() => match message.transpose()? {
                    Some(message) => session.take(message),
                    None => return Ok(()),
                },
                written = write(&mut session.stdin, &session.input), if !session.input.is_empty() => {
                    session.advance_input(written);
                }
                read = read(&mut stdout, &mut pieces.0) => {
                    session.forward(Output::Stdout, read, &pieces.0, &mut stdout).await?;
                }
                read = read(&mut stderr, &mut pieces.1) => {
                    session.forward(Output::Stderr, read, &pieces.1, &mut stderr).await?;
                }
            }
        }
        let status = match result {
            Some(Ok(code)) => frames::exit_status(code),
            Some(Err(error)) => log::status_of(&error).to_json(),
            None => return Ok(()),
        };
        session.finish(&status).await
    }

    /// Takes a message of the client; pings are answered by the socket itself.
    fn take(&mut self, message: Message) {
        let Message::Binary(bytes) = message else { return };
        match frames::parse(&bytes) {
            Frame::Stdin(data) if self.stdin.is_some() => self.input = bytes.slice_ref(data),
            Frame::CloseStdin => self.stdin = None,
            Frame::Resize(size) => {
                // Whoever reads sizes wants the next one, not all of them.
                let _ = self.resize.try_send(size);
            }
            Frame::Stdin(_) | Frame::Unknown => {}
        }
    }

    fn advance_input(&mut self, written: std::io::Result<usize>) {
        match written {
            Ok(count) if count > 0 => self.input.advance(count.min(self.input.len())),
            // The command doesn't read any more, which is its business.
            _ => {
                self.input.clear();
                self.stdin = None;
            }
        }
    }

    async fn forward(
        &mut self,
        output: Output,
        read: std::io::Result<usize>,
        piece: &[u8],
        stream: &mut Option<DuplexStream>,
    ) -> Result<(), axum::Error> {
        match read {
            Ok(count) if count > 0 => {
                let data = piece.get(..count).unwrap_or_default();
                self.socket.send(Message::Binary(frames::output(output, data).into())).await
            }
            _ => {
                *stream = None;
                Ok(())
            }
        }
    }

    async fn finish(mut self, status: &Value) -> Result<(), axum::Error> {
        self.socket.send(Message::Binary(frames::ending(status).into())).await?;
        let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        self.socket.send(Message::Close(Some(close))).await?;
        // The client answers the close; whatever else it still sends is of no use any more.
        while let Some(Ok(_)) = self.socket.recv().await {}
        Ok(())
    }
}

/// Reads from a stream that is still open; never ready for one that isn't.
async fn read(stream: &mut Option<DuplexStream>, piece: &mut [u8]) -> std::io::Result<usize> {
    match stream {
        Some(stream) => stream.read(piece).await,
        None => pending().await,
    }
}

/// Writes to a stream that is still open; never done with one that isn't.
async fn write(stream: &mut Option<DuplexStream>, input: &[u8]) -> std::io::Result<usize> {
    match stream {
        Some(stream) => stream.write(input).await,
        None => pending().await,
    }
}
