//! The server: TCP, UDP, WebSocket and HTTP, each of which tells the caller's address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use axum::routing::{any, get};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::flags::{FlagError, Flags};
use super::{Protocol, as_written, parse_ip, reply};

/// How long a TCP caller waits for each answer.
const TCP_REPLY_DELAY: Duration = Duration::from_secs(2);
/// After that many answers the server closes a TCP connection.
const TCP_REPLIES_MAX: usize = 101;
/// Longest line that is read.
const LINE_BYTES_MAX: u64 = 64 * 1024;
const DATAGRAM_BYTES_MAX: usize = 4096;
/// More callers than that wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 10_000;

pub(super) const USAGE: &str = "  -addr string      listen address (default all)
  -protocol string  tcp, udp, web, all or a comma list (default \"tcp\")
  -tcpPort int      (default 8080)
  -udpPort int      (default 8081)
  -webPort int      (default 8082)";

/// What to serve where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    address: IpAddr,
    protocols: Vec<Protocol>,
    tcp_port: u16,
    udp_port: u16,
    web_port: u16,
}

impl Options {
    pub(super) fn parse(arguments: &[String]) -> Result<Self, FlagError> {
        let flags = Flags::parse(arguments, &["addr", "protocol", "tcpPort", "udpPort", "webPort"], &[])?;
        let address = flags.text("addr", "");
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        Ok(Self {
            address: match address.as_str() {
                "" => any,
                text => parse_ip(text).ok_or_else(|| FlagError::bad("addr", text, "an IP address"))?,
            },
            protocols: Protocol::parse_list(&flags.text("protocol", "tcp"))?,
            tcp_port: flags.number("tcpPort", 8080)?,
            udp_port: flags.number("udpPort", 8081)?,
            web_port: flags.number("webPort", 8082)?,
        })
    }
}

/// Serves until the process is stopped.
pub(super) async fn serve(options: Options) -> anyhow::Result<()> {
    let mut servers = JoinSet::new();
    for protocol in &options.protocols {
        let port = match protocol {
            Protocol::Tcp => options.tcp_port,
            Protocol::Udp => options.udp_port,
            Protocol::Web => options.web_port,
        };
        let address = SocketAddr::new(options.address, port);
        let listen = || format!("listen on {address}");
        match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind(address).await.with_context(listen)?;
                servers.spawn(serve_tcp(listener));
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(address).await.with_context(listen)?;
                servers.spawn(serve_udp(socket));
            }
            Protocol::Web => {
                let listener = TcpListener::bind(address).await.with_context(listen)?;
                servers.spawn(serve_web(listener));
            }
        }
        println!("{protocol:?} server listens on {address}");
    }
    match servers.join_next().await {
        Some(ended) => ended.context("a server panicked")?,
        None => Ok(()),
    }
}

async fn serve_tcp(listener: TcpListener) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut callers = JoinSet::new();
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.context("no more connections")?;
        while callers.try_join_next().is_some() {}
        let (stream, caller) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The caller went away, or descriptors ran out: neither is the end of the service.
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        callers.spawn(async move {
            let caller = as_written(caller);
            println!("A client connected :{caller}");
            answer_lines(stream, caller).await.ok();
            println!("A client disconnected :{caller}");
            drop(slot);
        });
    }
}

async fn answer_lines(stream: TcpStream, caller: SocketAddr) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    for _ in 0..TCP_REPLIES_MAX {
        line.clear();
        if (&mut read).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        print!("{}", String::from_utf8_lossy(&line));
        tokio::time::sleep(TCP_REPLY_DELAY).await;
        write.write_all(reply::write(caller, "TCP").as_bytes()).await?;
    }
    write.shutdown().await
}

async fn serve_udp(socket: UdpSocket) -> anyhow::Result<()> {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // An ICMP error of an earlier answer shows up here; it concerns nobody else.
        let Ok((length, caller)) = socket.recv_from(&mut datagram).await else {
            continue;
        };
        let text = datagram.get(..length).map(String::from_utf8_lossy).unwrap_or_default();
        print!("{text}");
        socket.send_to(reply::write(as_written(caller), "UDP").as_bytes(), caller).await.ok();
    }
}

async fn serve_web(listener: TcpListener) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let router = Router::new().route("/ws", get(upgrade)).fallback(any(remote_ip)).with_state(slots);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).await.context("web server")
}

async fn remote_ip(ConnectInfo(caller): ConnectInfo<SocketAddr>) -> String {
    format!("Remote IP: {}\n", as_written(caller))
}

async fn upgrade(
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
    State(slots): State<Arc<Semaphore>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    upgrade.on_upgrade(move |socket| async move {
        if let Ok(_slot) = slots.try_acquire() {
            answer_messages(socket, as_written(caller)).await;
        }
    })
}

async fn answer_messages(mut socket: WebSocket, caller: SocketAddr) {
    while let Some(Ok(message)) = socket.recv().await {
        let text = reply::write(caller, "WebSocket");
        let answer = match message {
            Message::Text(_) => Message::Text(text.into()),
            Message::Binary(_) => Message::Binary(text.into_bytes().into()),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        if socket.send(answer).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let options = Options::parse(&[]).expect("no flags");
        assert_eq!((options.tcp_port, options.udp_port, options.web_port), (8080, 8081, 8082));
        assert_eq!(options.protocols, vec![Protocol::Tcp]);
    }
}
