//! Bytes per second of one TCP connection, as counted at the far end.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Measured;

pub(super) fn run(to: SocketAddr, seconds: u64) -> Result<Measured> {
    let mut connection = TcpStream::connect_timeout(&to, Duration::from_secs(5)).context("connecting")?;
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    connection.write_all(b"s")?;
    let chunk = vec![0x5a; 256 * 1024];
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) {
        connection.write_all(&chunk).context("sending")?;
    }
    connection.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    connection.read_exact(&mut count).context("reading the far end's count")?;
    Ok(Measured { per_second: u64::from_be_bytes(count) as f64 / start.elapsed().as_secs_f64(), lost: 0 })
}
