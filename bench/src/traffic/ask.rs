//! Which address does the outside see, and when?

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::session::now_us;

/// Prints `<microseconds since 1970> <address or ->` per answer, for a bounded time or until that address is seen; the
/// first line is the time of the first question.
pub(super) fn run(to: SocketAddr, seconds: u64, pause_ms: u64, until: Option<IpAddr>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} -", now_us())?;
    while Instant::now() < end {
        let seen = once(to);
        writeln!(out, "{} {}", now_us(), seen.map_or("-".to_owned(), |address| address.to_string()))?;
        out.flush()?;
        if seen.is_some() && seen == until {
            break;
        }
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    Ok(())
}

fn once(to: SocketAddr) -> Option<IpAddr> {
    let mut connection = TcpStream::connect_timeout(&to, Duration::from_millis(300)).ok()?;
    connection.set_read_timeout(Some(Duration::from_millis(300))).ok()?;
    write!(connection, "GET / HTTP/1.0\r\nHost: {to}\r\n\r\n").ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    let peer = answer.split("Remote IP: ").nth(1)?.trim();
    peer.parse::<SocketAddr>().map(|peer| peer.ip()).or_else(|_| peer.parse()).ok()
}
