//! The client: talks for a while and prints what it hears, or (`-batch`) checks once which address the server
//! saw and says so by its exit status.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::flags::{FlagError, Flags};
use super::{Protocol, parse_ip, reply};

const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// A TCP answer takes the server two seconds.
const BATCH_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest line that is read.
const LINE_BYTES_MAX: u64 = 4096;
const SEND_PERIOD: Duration = Duration::from_secs(2);

pub(super) const USAGE: &str = "  -addr string      server address
  -protocol string  tcp, udp, web, all or a comma list (default \"tcp\")
  -tcpPort int      (default 8080)
  -udpPort int      (default 8081)
  -webPort int      (default 8082)
  -timeout int      seconds that the run lasts (default 10)
  -batch            check once and tell the result by the exit status
  -eip string       egress IP that the server should see
  -contain          whether the server should see it (default true)";

/// What to talk to, and what to expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    address: IpAddr,
    protocols: Vec<Protocol>,
    tcp_port: u16,
    udp_port: u16,
    web_port: u16,
    lasts: Duration,
    batch: bool,
    expected: Option<IpAddr>,
    contain: bool,
}

impl Options {
    pub(super) fn parse(arguments: &[String]) -> Result<Self, FlagError> {
        let valued = ["addr", "protocol", "tcpPort", "udpPort", "webPort", "timeout", "eip"];
        let flags = Flags::parse(arguments, &valued, &["batch", "contain"])?;
        let ip = |name: &'static str| match flags.text(name, "").as_str() {
            "" => Ok(None),
            text => parse_ip(text).map(Some).ok_or_else(|| FlagError::bad(name, text, "an IP address")),
        };
        let batch = flags.boolean("batch", false)?;
        let expected = ip("eip")?;
        if batch && expected.is_none() {
            return Err(FlagError::Missing("eip"));
        }
        Ok(Self {
            address: ip("addr")?.ok_or(FlagError::Missing("addr"))?,
            protocols: Protocol::parse_list(&flags.text("protocol", "tcp"))?,
            tcp_port: flags.number("tcpPort", 8080)?,
            udp_port: flags.number("udpPort", 8081)?,
            web_port: flags.number("webPort", 8082)?,
            lasts: Duration::from_secs(flags.number("timeout", 10)?),
            batch,
            expected,
            contain: flags.boolean("contain", true)?,
        })
    }

    fn server(&self, protocol: Protocol) -> SocketAddr {
        let port = match protocol {
            Protocol::Tcp => self.tcp_port,
            Protocol::Udp => self.udp_port,
            Protocol::Web => self.web_port,
        };
        SocketAddr::new(self.address, port)
    }

    /// Whether a reply is what was expected; the error says what was not.
    fn judge(&self, reply: &str) -> anyhow::Result<()> {
        let Some(seen) = reply::parse(reply) else { bail!("no address in the reply {reply:?}") };
        let Some(expected) = self.expected else {
            return Ok(());
        };
        match (seen == expected.to_canonical(), self.contain) {
            (true, true) | (false, false) => Ok(()),
            (false, true) => bail!("the server saw {seen}, expected {expected}"),
            (true, false) => bail!("the server saw {seen}, expected any other address"),
        }
    }
}

/// Talks or checks, as the options say.
pub(super) async fn run(options: Options) -> anyhow::Result<()> {
    let mut talks = JoinSet::new();
    for protocol in options.protocols.clone() {
        let options = options.clone();
        talks.spawn(async move {
            let outcome =
                if options.batch { check(&options, protocol).await } else { talk(&options, protocol).await };
            outcome.with_context(|| format!("{protocol:?} {}", options.server(protocol)))
        });
    }
    let mut failures = Vec::new();
    while let Some(ended) = talks.join_next().await {
        if let Err(error) = ended.context("a connection panicked")? {
            failures.push(format!("{error:#}"));
        }
    }
    if failures.is_empty() { Ok(()) } else { bail!(failures.join("\n")) }
}

async fn check(options: &Options, protocol: Protocol) -> anyhow::Result<()> {
    let mut peer = timeout(DIAL_TIMEOUT, Peer::connect(options, protocol)).await.context("connect")??;
    peer.say_hello().await?;
    let reply = timeout(BATCH_READ_TIMEOUT, peer.hear()).await.context("wait for the reply")??;
    print!("{reply}");
    options.judge(&reply)
}

async fn talk(options: &Options, protocol: Protocol) -> anyhow::Result<()> {
    let mut peer = timeout(DIAL_TIMEOUT, Peer::connect(options, protocol)).await.context("connect")??;
    println!("{protocol:?} local address {}", peer.local);
    peer.say_hello().await?;
    let mut heard = 0_u64;
    let conversation = async {
        let mut next = tokio::time::interval_at(tokio::time::Instant::now() + SEND_PERIOD, SEND_PERIOD);
        loop {
            tokio::select! {
                reply = peer.wire.hear() => {
                    let reply = reply?;
                    options.judge(&reply)?;
                    print!("{reply}");
                    heard += 1;
                }
                _ = next.tick() => {
                    let text = format!("{} write data to {} Server... \n", peer.local, peer.wire.name());
                    peer.wire.say(&text).await?;
                }
            }
        }
    };
    match timeout(options.lasts, conversation).await {
        Ok(outcome) => outcome,
        Err(_) if heard == 0 => bail!("no reply in {} s", options.lasts.as_secs()),
        Err(_) => Ok(()),
    }
}

/// A connected server.
struct Peer {
    local: SocketAddr,
    wire: Wire,
}

enum Wire {
    Tcp(BufReader<TcpStream>, Vec<u8>),
    Udp(UdpSocket),
    Web(Box<tokio_tungstenite::WebSocketStream<TcpStream>>),
}

impl Peer {
    async fn connect(options: &Options, protocol: Protocol) -> anyhow::Result<Self> {
        let server = options.server(protocol);
        Ok(match protocol {
            Protocol::Tcp => {
                let stream = TcpStream::connect(server).await?;
                Self { local: stream.local_addr()?, wire: Wire::Tcp(BufReader::new(stream), Vec::new()) }
            }
            Protocol::Udp => {
                let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(server).await?;
                Self { local: socket.local_addr()?, wire: Wire::Udp(socket) }
            }
            Protocol::Web => {
                let stream = TcpStream::connect(server).await?;
                let local = stream.local_addr()?;
                let (socket, _) =
                    tokio_tungstenite::client_async(format!("ws://{server}/ws"), stream).await?;
                Self { local, wire: Wire::Web(Box::new(socket)) }
            }
        })
    }

    async fn say_hello(&mut self) -> anyhow::Result<()> {
        let text = match &self.wire {
            Wire::Web(_) => "Say hello to Web Server... \n".to_string(),
            wire => format!("{} Say hello to {} Server... \n", self.local, wire.name()),
        };
        self.wire.say(&text).await
    }

    async fn hear(&mut self) -> anyhow::Result<String> {
        self.wire.hear().await
    }
}

impl Wire {
    fn name(&self) -> &'static str {
        match self {
            Self::Tcp(..) => "TCP",
            Self::Udp(_) => "UDP",
            Self::Web(_) => "Web",
        }
    }

    async fn say(&mut self, text: &str) -> anyhow::Result<()> {
        match self {
            Self::Tcp(stream, _) => stream.write_all(text.as_bytes()).await?,
            Self::Udp(socket) => drop(socket.send(text.as_bytes()).await?),
            Self::Web(socket) => socket.send(Message::text(text)).await?,
        }
        Ok(())
    }

    async fn hear(&mut self) -> anyhow::Result<String> {
        match self {
            // What has come of a line stays in the buffer when the other branch of a select wins.
            Self::Tcp(stream, line) => {
                if stream.take(LINE_BYTES_MAX).read_until(b'\n', line).await? == 0 {
                    bail!("the server closed the connection");
                }
                Ok(String::from_utf8_lossy(&std::mem::take(line)).into_owned())
            }
            Self::Udp(socket) => {
                let mut datagram = [0; 4096];
                let length = socket.recv(&mut datagram).await?;
                Ok(datagram.get(..length).map(String::from_utf8_lossy).unwrap_or_default().into_owned())
            }
            Self::Web(socket) => loop {
                match socket.next().await.context("the server closed the connection")?? {
                    Message::Text(text) => return Ok(text.as_str().to_string()),
                    Message::Binary(bytes) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                    Message::Close(_) => bail!("the server closed the connection"),
                    _ => {}
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<Options, FlagError> {
        Options::parse(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_missing_address_is_an_error() {
        assert_eq!(options(&[]), Err(FlagError::Missing("addr")));
        assert_eq!(options(&["-addr", "::1", "-batch"]), Err(FlagError::Missing("eip")));
    }

    #[test]
    fn the_expectation_holds_in_both_directions_and_compares_whole_addresses() {
        let reply = reply::write("10.6.1.55:80".parse().expect("address"), "TCP");
        let judge = |eip: &str, contain: &str| {
            options(&["-addr=10.6.168.63", "-eip", eip, contain]).expect("valid").judge(&reply).is_ok()
        };
        assert!(judge("10.6.1.55", "-contain"));
        assert!(!judge("10.6.1.5", "-contain"));
        assert!(judge("10.6.1.5", "-contain=false"));
        assert!(!judge("10.6.1.55", "-contain=false"));
    }
}
