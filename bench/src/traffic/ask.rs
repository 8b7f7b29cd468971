//! Which address does the outside see, and when?

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;

/// Prints `<microseconds since 1970> <address or ->` per question, for a bounded time.
pub(super) fn run(to: SocketAddr, seconds: u64, pause_ms: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut out = std::io::stdout().lock();
    while Instant::now() < end {
        let seen = once(to).map_or("-".to_owned(), |address| address.to_string());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        writeln!(out, "{now} {seen}")?;
        out.flush()?;
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
