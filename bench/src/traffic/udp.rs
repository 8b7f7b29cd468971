//! Small datagrams per second, as counted at the far end.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Measured;

/// Bytes of payload; a small voice or DNS packet.
const PAYLOAD_BYTES: usize = 64;

pub(super) fn run(to: SocketAddr, seconds: u64) -> Result<Measured> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    arrived(to)?;
    let payload = [0x5a; PAYLOAD_BYTES];
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..64 {
            sent += u64::from(socket.send(&payload).is_ok());
        }
    }
    let took = start.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_millis(200)); // what is under way may arrive
    let arrived = arrived(to)?;
    Ok(Measured { per_second: arrived as f64 / took, lost: sent.saturating_sub(arrived) })
}

/// Datagrams that arrived since the last time this was asked.
fn arrived(to: SocketAddr) -> Result<u64> {
    let mut connection = TcpStream::connect_timeout(&to, Duration::from_secs(5)).context("connecting")?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(b"u")?;
    let mut count = [0; 8];
    connection.read_exact(&mut count).context("asking for the count")?;
    Ok(u64::from_be_bytes(count))
}
