//! `pods/N/portforward`: connections from the client's host to ports of a pod.
//!
//! ```text
//!   GET,  WebSocket  v4.channel.k8s.io               ports in the query, channels 2i (data) and 2i+1 (error)
//!   GET,  WebSocket  SPDY/3.1+portforward.k8s.io     SPDY in binary messages
//!   POST, Upgrade    SPDY/3.1                        SPDY itself
//! ```

use std::sync::Arc;

use axum::body::Body;
use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::frames::V4;
use super::spdy::session;
use super::upgrade::in_background;
use super::{PodConnection, PortRequest, StreamError, pod};
use crate::http::{Answer, Call, Connection};
use crate::status_error::StatusError;

const SPDY: &str = "SPDY/3.1";
/// What SPDY's streams mean.
const PROTOCOL: &str = "portforward.k8s.io";
const PROTOCOL_HEADER: &str = "X-Stream-Protocol-Version";
const SPDY_IN_WEBSOCKET: &str = "SPDY/3.1+portforward.k8s.io";
/// Ports of one request: a channel's number is one byte.
const PORTS_MAX: usize = 64;
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that wait between a WebSocket and SPDY.
const PUMP_BYTES: usize = 64 * 1024;
const PIECE_BYTES: usize = 32 * 1024;
/// Pieces that wait for a connection, and messages for the client.
const WAITING_MAX: usize = 16;

/// Connects to a port of the request's pod.
pub(super) type Connect =
    Arc<dyn Fn(u16) -> BoxFuture<'static, Result<Box<dyn PodConnection>, StreamError>> + Send + Sync>;

/// Answers a request for ports by upgrading it.
pub(crate) async fn answer(
    call: Call,
    connection: &Connection,
    name: &str,
    mut parts: Parts,
) -> Result<Answer, StatusError> {
    let found = pod::find(&call, name)?;
    let node = pod::node(&found, name)?;
    let phase = found.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if phase != "Running" {
        let message = format!("unable to forward port because pod is not running. Current status={phase}");
        return Err(StatusError::bad_request(message));
    }
    let (streams, namespace, pod) =
        (Arc::clone(&call.state.streams), call.namespace.clone().unwrap_or_default(), name.to_owned());
    let connect: Connect = Arc::new(move |port| {
        let (namespace, pod, node) = (namespace.clone(), pod.clone(), node.clone());
        streams.connect(PortRequest { namespace, pod, node, port })
    });
    if call.method == "POST" {
        return over_spdy(call, connection, parts, connect);
    }
    let ports = ports(call.query.all("ports"))?;
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|_| StatusError::bad_request("Upgrade request required"))?
        .protocols([SPDY_IN_WEBSOCKET, V4])
        .max_message_size(MESSAGE_BYTES_MAX);
    let spdy = match upgrade.selected_protocol().map(|protocol| protocol.as_bytes()) {
        Some(protocol) => protocol == SPDY_IN_WEBSOCKET.as_bytes(),
        None => {
            let message =
                format!("no known protocol is offered, this server has {SPDY_IN_WEBSOCKET} and {V4}");
            return Err(StatusError::bad_request(message));
        }
    };
    if !spdy && ports.is_empty() {
        return Err(StatusError::bad_request("query parameter \"ports\" is required"));
    }
    let background = in_background(call.state, connection, "port-forward")?;
    Ok(upgrade.on_upgrade(move |socket| {
        background.run(async move {
            if spdy {
                let (near, far) = duplex(PUMP_BYTES);
                tokio::select! {
                    ended = session::serve(far, connect) => ended.map_err(axum::Error::new),
                    ended = pump(socket, near) => ended,
                }
            } else {
                over_channels(socket, ports, connect).await
            }
        })
    }))
}

fn over_spdy(
    call: Call,
    connection: &Connection,
    mut parts: Parts,
    connect: Connect,
) -> Result<Answer, StatusError> {
    let has = |name: &str, wanted: &str| {
        names(&parts.headers, name).any(|value| value.eq_ignore_ascii_case(wanted))
    };
    let on_upgrade = has(UPGRADE.as_str(), SPDY).then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
    let on_upgrade = on_upgrade.ok_or_else(|| StatusError::bad_request("Upgrade request required"))?;
    if !names(&parts.headers, PROTOCOL_HEADER).any(|value| value == PROTOCOL) {
        return Err(StatusError::bad_request(format!("header {PROTOCOL_HEADER} does not offer {PROTOCOL}")));
    }
    let background = in_background(call.state, connection, "port-forward")?;
    tokio::spawn(background.run(async move {
        let upgraded = on_upgrade.await.map_err(axum::Error::new)?;
        session::serve(TokioIo::new(upgraded), connect).await.map_err(axum::Error::new)
    }));
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, SPDY)
        .header(PROTOCOL_HEADER, PROTOCOL)
        .body(Body::empty());
    answer.map_err(|error| StatusError::internal(error.to_string()))
}

/// The values of a header that is a list.
fn names<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// The ports that a query names, in its order: `ports=80,443&ports=8080`.
fn ports<'q>(values: impl Iterator<Item = &'q str>) -> Result<Vec<u16>, StatusError> {
    let ports: Result<Vec<u16>, StatusError> = values
        .flat_map(|value| value.split(','))
        .map(|text| match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(StatusError::bad_request(format!("unable to parse {text:?} as a port"))),
        })
        .collect();
    match ports {
        Ok(ports) if ports.len() > PORTS_MAX => Err(StatusError::bad_request(format!(
            "{} ports; at most {PORTS_MAX} are forwarded at once",
            ports.len()
        ))),
        other => other,
    }
}

/// Connects and passes everything on, until the pod has closed its side; what went wrong comes back as text for the user.
/// `send` takes what the pod says, and answers whether anybody still wants it.
pub(super) async fn transfer<F>(
    connect: &Connect,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    mut send: impl FnMut(Bytes) -> F,
) -> Result<(), String>
where
    F: Future<Output = bool>,
{
    let failed = |error: &dyn std::fmt::Display| format!("error forwarding port {port}: {error}");
    let connected = connect(port).await.map_err(|error| failed(&error))?;
    let (mut read, mut write) = split(connected);
    let up = async {
        while let Some(piece) = input.recv().await {
            write.write_all(&piece).await?;
        }
        write.shutdown().await
    };
    let down = async {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = read.read(&mut piece).await?;
            let said = Bytes::copy_from_slice(piece.get(..count).unwrap_or_default());
            if said.is_empty() || !send(said).await {
                return Ok::<(), std::io::Error>(());
            }
        }
    };
    tokio::pin!(up, down);
    tokio::select! {
        ended = &mut down => ended.map_err(|error| failed(&error)),
        // What the pod has still to say is passed on, whether or not it listens.
        _ = &mut up => down.await.map_err(|error| failed(&error)),
    }
}

/// Binary messages of a WebSocket as one stream of bytes.
async fn pump(socket: WebSocket, bytes: DuplexStream) -> Result<(), axum::Error> {
    let (mut sender, mut receiver) = socket.split();
    let (mut read, mut write) = split(bytes);
    let up = async {
        while let Some(message) = receiver.next().await.transpose()? {
            if let Message::Binary(piece) = message {
                write.write_all(&piece).await.map_err(axum::Error::new)?;
            }
        }
        Ok(())
    };
    let down = async {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = read.read(&mut piece).await.map_err(axum::Error::new)?;
            if count == 0 {
                return sender.send(Message::Close(None)).await;
            }
            let said = Bytes::copy_from_slice(piece.get(..count).unwrap_or_default());
            sender.send(Message::Binary(said)).await?;
        }
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
    }
}

/// A connection for each port, told from each other by the first byte of a message.
async fn over_channels(socket: WebSocket, ports: Vec<u16>, connect: Connect) -> Result<(), axum::Error> {
    let (sender, receiver) = socket.split();
    let (outgoing, messages) = mpsc::channel(WAITING_MAX);
    let mut inputs = Vec::new();
    let mut connections = JoinSet::new();
    for (port, data) in ports.into_iter().zip((0_u8..).step_by(2)) {
        let (input, pieces) = mpsc::channel(WAITING_MAX);
        inputs.push(input);
        connections.spawn(channel(data, port, pieces, outgoing.clone(), Arc::clone(&connect)));
    }
    drop(outgoing);
    tokio::select! {
        // Over when all connections are, each of which holds a sender of messages.
        ended = write_messages(sender, messages) => ended,
        ended = read_messages(receiver, inputs) => ended,
    }
}

async fn channel(
    data: u8,
    port: u16,
    input: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Bytes>,
    connect: Connect,
) {
    let message = |channel: u8, bytes: &[u8]| Bytes::from([&[channel], bytes].concat());
    let send = |message| async { outgoing.send(message).await.is_ok() };
    let error = data + 1;
    for channel in [data, error] {
        send(message(channel, &port.to_le_bytes())).await;
    }
    let outcome = transfer(&connect, port, input, |piece| send(message(data, &piece))).await;
    if let Err(text) = outcome {
        send(message(error, text.as_bytes())).await;
    }
}

async fn write_messages(
    mut sender: SplitSink<WebSocket, Message>,
    mut messages: mpsc::Receiver<Bytes>,
) -> Result<(), axum::Error> {
    while let Some(message) = messages.recv().await {
        sender.send(Message::Binary(message)).await?;
    }
    let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    sender.send(Message::Close(Some(close))).await
}

async fn read_messages(
    mut receiver: SplitStream<WebSocket>,
    inputs: Vec<mpsc::Sender<Bytes>>,
) -> Result<(), axum::Error> {
    while let Some(message) = receiver.next().await.transpose()? {
        let Message::Binary(bytes) = message else { continue };
        let Some(channel) = bytes.first().copied() else { continue };
        let input = inputs.get(usize::from(channel / 2)).filter(|_| channel.is_multiple_of(2));
        if let Some(input) = input {
            // The pod may have closed its side.
            let _ = input.send(bytes.slice(1..)).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_lists_and_may_repeat() {
        assert_eq!(ports(["80,443", "8080"].into_iter()).unwrap(), [80, 443, 8080]);
        for wrong in ["0", "http", "65536", ""] {
            assert!(ports([wrong].into_iter()).is_err(), "{wrong:?}");
        }
        assert!(ports(["1"; PORTS_MAX + 1].into_iter()).is_err());
    }
}
