//! One client's connections to ports of a pod, over one SPDY connection.
//!
//! The client opens two streams for each: one for errors, then one for data, with one `requestid`. The port is in the headers.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::super::port_forward::{Connect, transfer};
use super::frame::{self, Frame, Malformed, REFUSED_STREAM};
use super::headers;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 128;
/// Frames that wait for the client.
const OUTGOING_MAX: usize = 64;
/// Pieces that wait for one connection to the pod; after that nothing more is read from the client.
const INCOMING_MAX: usize = 16;

/// A connection's two streams.
#[derive(Clone, Copy)]
struct Pair {
    data: u32,
    error: u32,
}

struct Open {
    /// What the client sends; `None` once it has said that nothing more comes.
    input: Option<mpsc::Sender<Bytes>>,
    task: AbortHandle,
}

struct Session {
    connect: Connect,
    headers: headers::Reader,
    replies: headers::Writer,
    outgoing: mpsc::Sender<Vec<u8>>,
    /// Error streams whose data stream is yet to come, by request.
    errors: HashMap<String, u32>,
    /// By data stream.
    open: HashMap<u32, Open>,
    connections: JoinSet<u32>,
}

/// Serves until the client goes away.
pub(in super::super) async fn serve<S>(socket: S, connect: Connect) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut read, mut write) = split(socket);
    let (outgoing, mut frames) = mpsc::channel::<Vec<u8>>(OUTGOING_MAX);
    let mut session = Session {
        connect,
        headers: headers::Reader::new(),
        replies: headers::Writer::new(),
        outgoing,
        errors: HashMap::new(),
        open: HashMap::new(),
        connections: JoinSet::new(),
    };
    let writing = async {
        while let Some(frame) = frames.recv().await {
            write.write_all(&frame).await?;
        }
        Ok(())
    };
    let reading = async {
        let mut buffer = BytesMut::new();
        loop {
            while let Some(frame) = frame::take(&mut buffer).map_err(std::io::Error::other)? {
                session.take(frame).await.map_err(std::io::Error::other)?;
            }
            if read.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = writing => ended,
        ended = reading => ended,
    }
}

impl Session {
    async fn take(&mut self, frame: Frame) -> Result<(), Malformed> {
        while let Some(ended) = self.connections.try_join_next() {
            if let Ok(data) = ended {
                self.open.remove(&data);
            }
        }
        match frame {
            Frame::Open { stream, headers, last } => {
                let headers = self.headers.read(&headers)?;
                self.open(stream, &headers, last).await;
            }
            Frame::Data { stream, data, last } => {
                let Some(open) = self.open.get_mut(&stream) else { return Ok(()) };
                if let Some(input) = open.input.as_ref().filter(|_| !data.is_empty()) {
                    // The pod may have closed its side; then the rest is of no use.
                    let _ = input.send(data).await;
                }
                if last {
                    open.input = None;
                }
            }
            Frame::Reset { stream } => {
                if let Some(open) = self.open.remove(&stream) {
                    open.task.abort();
                }
            }
            Frame::Ping { number } => self.send(frame::ping(number)).await,
            Frame::Other => {}
        }
        Ok(())
    }

    async fn open(&mut self, stream: u32, headers: &BTreeMap<String, String>, last: bool) {
        let header = |name: &str| headers.get(name).map(String::as_str);
        let port = header("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
        let kind = header("streamtype");
        let too_many = self.open.len().max(self.errors.len()) >= CONNECTIONS_MAX;
        let (Some(port), Some("data" | "error"), false) = (port, kind, too_many) else {
            return self.send(frame::reset(stream, REFUSED_STREAM)).await;
        };
        let reply = frame::reply(stream, &self.replies.none());
        if kind == Some("error") {
            // Clients that do not number requests open the data stream next.
            let request = header("requestid").map_or_else(|| (stream + 2).to_string(), str::to_owned);
            self.errors.insert(request, stream);
            return self.send(reply).await;
        }
        let request = header("requestid").map_or_else(|| stream.to_string(), str::to_owned);
        let Some(error) = self.errors.remove(&request) else {
            return self.send(frame::reset(stream, REFUSED_STREAM)).await;
        };
        self.send(reply).await;
        let (sender, input) = mpsc::channel(INCOMING_MAX);
        let pair = Pair { data: stream, error };
        let task =
            self.connections.spawn(forward(pair, port, input, self.outgoing.clone(), self.connect.clone()));
        self.open.insert(stream, Open { input: (!last).then_some(sender), task });
    }

    async fn send(&self, frame: Vec<u8>) {
        // Nobody takes it any more when the connection is about to end.
        let _ = self.outgoing.send(frame).await;
    }
}

/// One connection, from its beginning to its end.
async fn forward(
    pair: Pair,
    port: u16,
    input: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Vec<u8>>,
    connect: Connect,
) -> u32 {
    let send = |frame| async { outgoing.send(frame).await.is_ok() };
    let outcome = transfer(&connect, port, input, |piece| send(frame::data(pair.data, &piece, false))).await;
    if let Err(message) = outcome {
        send(frame::data(pair.error, message.as_bytes(), false)).await;
    }
    send(frame::data(pair.data, &[], true)).await;
    send(frame::data(pair.error, &[], true)).await;
    pair.data
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::duplex;

    use super::super::headers::tests::ClientWriter;
    use super::*;
    use crate::streams::{PodConnection, StreamError};

    /// A pod that says what it hears, on every port but 81.
    fn echo(port: u16) -> Result<Box<dyn PodConnection>, StreamError> {
        if port == 81 {
            return Err(StreamError::Internal("connection refused".to_owned()));
        }
        let (near, far) = duplex(16);
        tokio::spawn(async move {
            let (mut read, mut write) = split(far);
            tokio::io::copy(&mut read, &mut write).await.ok();
        });
        Ok(Box::new(near))
    }

    fn syn(stream: u32, headers: &[u8]) -> Vec<u8> {
        let body = [&stream.to_be_bytes()[..], &[0; 6], headers].concat();
        let length = u32::try_from(body.len()).unwrap();
        [&0x8003_0001_u32.to_be_bytes()[..], &length.to_be_bytes(), &body].concat()
    }

    /// What the server says to this, by stream, once it has said `ends` last words.
    async fn answers(port: &str, data: &[u8]) -> BTreeMap<u32, Vec<u8>> {
        let (client, server) = duplex(64);
        let connect: Connect = Arc::new(|port| Box::pin(std::future::ready(echo(port))));
        let serving = tokio::spawn(serve(server, connect));
        let (mut read, mut write) = split(client);
        let mut headers = ClientWriter::new();
        let mut common = |kind| headers.write(&[("streamtype", kind), ("port", port), ("requestid", "0")]);
        let mut bytes = syn(1, &common("error"));
        bytes.extend(frame::data(1, &[], true));
        bytes.extend(syn(3, &common("data")));
        for piece in data.chunks(7) {
            bytes.extend(frame::data(3, piece, false));
        }
        bytes.extend(frame::data(3, &[], true));
        let writing = tokio::spawn(async move { write.write_all(&bytes).await });
        let (mut buffer, mut heard, mut ended) = (BytesMut::new(), BTreeMap::new(), 0);
        while ended < 2 {
            read.read_buf(&mut buffer).await.unwrap();
            while let Some(frame) = frame::take(&mut buffer).unwrap() {
                let Frame::Data { stream, data, last } = frame else { continue };
                heard.entry(stream).or_insert_with(Vec::new).extend_from_slice(&data);
                ended += u32::from(last);
            }
        }
        writing.await.unwrap().unwrap();
        drop(read);
        serving.abort();
        heard
    }

    #[tokio::test]
    async fn data_goes_to_the_pod_and_back_and_the_end_of_one_side_reaches_the_other() {
        let text = b"all of this comes back, in whatever pieces".repeat(9);
        assert_eq!(answers("80", &text).await, BTreeMap::from([(1, Vec::new()), (3, text)]));
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told_in_the_error_stream() {
        let heard = answers("81", b"hello").await;
        assert_eq!(heard[&1], b"error forwarding port 81: connection refused");
        assert!(heard[&3].is_empty());
    }
}
