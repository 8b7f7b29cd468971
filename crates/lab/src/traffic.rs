//! Traffic that notices every gap: TCP connections that are asked all the time, a stream that the server pushes,
//! and UDP datagrams that show how long the way itself was broken.
//!
//! The server is part of the outside host, the client is run in pods:
//! `egressgateway lab traffic --connections 20`. It goes on until its stdin ends, then says what it saw.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

/// Answers each byte with the same byte, over TCP and UDP.
pub const ECHO_PORT: u16 = 8090;
/// Pushes a byte every `PERIOD`, over TCP.
pub const PUSH_PORT: u16 = 8091;
/// How often something is sent.
const PERIOD: Duration = Duration::from_millis(10);
/// A connection that is silent for so long counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(20);
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// What the client says when everything is connected.
pub(crate) const CONNECTED: &str = "connected";

/// What the client saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Connections that were opened.
    pub connections: usize,
    /// Those that still worked at the end.
    pub alive: usize,
    /// Streams that the server pushed.
    pub streams: usize,
    /// Those that still worked at the end.
    pub streams_alive: usize,
    /// The longest time without a byte on any TCP connection or stream.
    pub longest_silence_ms: u64,
    /// The longest time without an answer to a datagram: how long the way was broken.
    pub longest_outage_ms: u64,
    /// Datagrams that were not answered.
    pub datagrams_lost: u64,
}

/// `traffic-server`: serves until it is killed.
pub(crate) fn server_main() -> anyhow::Result<std::process::ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve())?;
    Ok(std::process::ExitCode::SUCCESS)
}

async fn serve() -> anyhow::Result<()> {
    let any = |port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    let echo = TcpListener::bind(any(ECHO_PORT)).await.context("listen for echo")?;
    let push = TcpListener::bind(any(PUSH_PORT)).await.context("listen for push")?;
    let datagrams = UdpSocket::bind(any(ECHO_PORT)).await.context("listen for datagrams")?;
    let mut callers = JoinSet::new();
    let mut datagram = [0; 2048];
    loop {
        tokio::select! {
            Ok((stream, _)) = echo.accept() => drop(callers.spawn(answer_echo(stream))),
            Ok((stream, _)) = push.accept() => drop(callers.spawn(push_bytes(stream))),
            Ok((length, caller)) = datagrams.recv_from(&mut datagram) => {
                datagrams.send_to(datagram.get(..length).unwrap_or_default(), caller).await.ok();
            }
            Some(_) = callers.join_next(), if !callers.is_empty() => {}
        }
    }
}

async fn answer_echo(stream: TcpStream) {
    stream.set_nodelay(true).ok();
    let (mut read, mut write) = stream.into_split();
    tokio::io::copy(&mut read, &mut write).await.ok();
}

async fn push_bytes(mut stream: TcpStream) {
    stream.set_nodelay(true).ok();
    let mut tick = interval(PERIOD);
    loop {
        tick.tick().await;
        if stream.write_all(b".").await.is_err() {
            return;
        }
    }
}

/// Runs the client until its stdin ends; prints [`CONNECTED`] first and a [`Summary`] as JSON last.
pub(crate) fn client_main(server: IpAddr, connections: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(talk(server, connections))
}

async fn talk(server: IpAddr, connections: usize) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let (reports, mut heard) = mpsc::unbounded_channel();
    let mut talks = JoinSet::new();
    for _ in 0..connections {
        let stream = dial(SocketAddr::new(server, ECHO_PORT)).await?;
        talks.spawn(ask(stream, reports.clone(), stopped.clone()));
    }
    let pushed = dial(SocketAddr::new(server, PUSH_PORT)).await?;
    talks.spawn(listen(pushed, reports.clone(), stopped.clone()));
    talks.spawn(send_datagrams(SocketAddr::new(server, ECHO_PORT), reports, stopped));
    println!("{CONNECTED}");

    let (closed, end_of_input) = oneshot::channel();
    // A read of stdin can't be cancelled, so it has a thread of its own.
    std::thread::spawn(move || {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        closed.send(()).ok();
    });
    end_of_input.await.ok();
    stop.send_replace(true);
    while talks.join_next().await.is_some() {}

    let mut summary = Summary::default();
    while let Some(report) = heard.recv().await {
        summary.add(&report);
    }
    println!("{}", serde_json::to_string(&summary)?);
    Ok(())
}

async fn dial(server: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = timeout(DIAL_TIMEOUT, TcpStream::connect(server)).await;
    let stream = stream.with_context(|| format!("no answer from {server}"))?;
    let stream = stream.with_context(|| format!("connect to {server}"))?;
    stream.set_nodelay(true).ok();
    Ok(stream)
}

enum Report {
    Connection { alive: bool, silence: Duration },
    Stream { alive: bool, silence: Duration },
    Datagrams { lost: u64, outage: Duration },
}

impl Summary {
    fn add(&mut self, report: &Report) {
        let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match report {
            Report::Connection { alive, silence } => {
                self.connections += 1;
                self.alive += usize::from(*alive);
                self.longest_silence_ms = self.longest_silence_ms.max(ms(silence));
            }
            Report::Stream { alive, silence } => {
                self.streams += 1;
                self.streams_alive += usize::from(*alive);
                self.longest_silence_ms = self.longest_silence_ms.max(ms(silence));
            }
            Report::Datagrams { lost, outage } => {
                self.datagrams_lost += lost;
                self.longest_outage_ms = self.longest_outage_ms.max(ms(outage));
            }
        }
    }
}

/// Asks over and over; at the end, one last answer shows that the connection is alive.
async fn ask(mut stream: TcpStream, reports: mpsc::UnboundedSender<Report>, stop: watch::Receiver<bool>) {
    let mut silence = Duration::ZERO;
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let alive = loop {
        let last_round = *stop.borrow();
        let asked = Instant::now();
        let mut byte = *b"?";
        let round = async {
            stream.write_all(&byte).await?;
            stream.read_exact(&mut byte).await.map(drop)
        };
        let answered = matches!(timeout(LOST_AFTER, round).await, Ok(Ok(())));
        silence = silence.max(asked.elapsed());
        if !answered || last_round {
            break answered;
        }
        tick.tick().await;
    };
    reports.send(Report::Connection { alive, silence }).ok();
}

async fn listen(mut stream: TcpStream, reports: mpsc::UnboundedSender<Report>, stop: watch::Receiver<bool>) {
    let mut silence = Duration::ZERO;
    let mut bytes = [0; 256];
    let alive = loop {
        let last_round = *stop.borrow();
        let since = Instant::now();
        let heard =
            matches!(timeout(LOST_AFTER, stream.read(&mut bytes)).await, Ok(Ok(length)) if length > 0);
        silence = silence.max(since.elapsed());
        if !heard || last_round {
            break heard;
        }
    };
    reports.send(Report::Stream { alive, silence }).ok();
}

async fn send_datagrams(
    server: SocketAddr,
    reports: mpsc::UnboundedSender<Report>,
    stop: watch::Receiver<bool>,
) {
    let outcome = exchange_datagrams(server, stop).await;
    let (lost, outage) = outcome.unwrap_or((0, Duration::ZERO));
    reports.send(Report::Datagrams { lost, outage }).ok();
}

async fn exchange_datagrams(
    server: SocketAddr,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<(u64, Duration)> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let (mut sent, mut received) = (0_u64, 0_u64);
    let (mut last, mut outage) = (Instant::now(), Duration::ZERO);
    let mut tick = interval(PERIOD);
    let mut answer = [0; 64];
    let mut drained = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                if *stop.borrow() {
                    // What is still on its way gets a moment.
                    let since = *drained.get_or_insert_with(Instant::now);
                    if since.elapsed() > Duration::from_millis(200) {
                        return Ok((sent - received, outage));
                    }
                } else {
                    // Refused sends (no route for a moment) are lost datagrams too.
                    sent += 1;
                    socket.send(b"?").await.ok();
                }
            }
            heard = socket.recv(&mut answer) => {
                if heard.is_ok() {
                    received += 1;
                    outage = outage.max(last.elapsed());
                    last = Instant::now();
                }
            }
        }
    }
}

/// Reads the client's last line.
pub(crate) fn parse_summary(output: &str) -> anyhow::Result<Summary> {
    match output.lines().rev().find(|line| line.starts_with('{')) {
        Some(line) => serde_json::from_str(line).context("read the traffic's summary"),
        None => bail!("the traffic ended without a summary: {}", output.trim()),
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} of {} connections and {} of {} server-to-pod streams alive",
            self.alive, self.connections, self.streams_alive, self.streams
        )?;
        writeln!(f, "longest silence on a connection: {} ms", self.longest_silence_ms)?;
        write!(f, "longest gap on the way (UDP echo every {} ms): ", PERIOD.as_millis())?;
        writeln!(f, "{} ms, {} datagrams lost", self.longest_outage_ms, self.datagrams_lost)
    }
}
