//! Short connections per second.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Measured, PORTS};

pub(super) fn run(to: SocketAddr, seconds: u64, parallel: usize) -> Result<Measured> {
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let workers: Vec<_> = (0..parallel).map(|_| std::thread::spawn(move || work(to, end))).collect();
    let mut total = (0, 0);
    for worker in workers {
        let (done, lost) = worker.join().ok().context("a worker panicked")?;
        total = (total.0 + done, total.1 + lost);
    }
    Ok(Measured { per_second: total.0 as f64 / start.elapsed().as_secs_f64(), lost: total.1 })
}

fn work(to: SocketAddr, end: Instant) -> (u64, u64) {
    let (mut done, mut lost) = (0, 0);
    for number in (0..PORTS).cycle() {
        if Instant::now() >= end {
            break;
        }
        match once(SocketAddr::new(to.ip(), to.port() + number)) {
            Ok(()) => done += 1,
            Err(_) => lost += 1,
        }
    }
    (done, lost)
}

fn once(to: SocketAddr) -> std::io::Result<()> {
    let mut connection = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    connection.set_read_timeout(Some(Duration::from_secs(3)))?;
    connection.write_all(b"c")?;
    // Reading to the end lets the server close first, so that the client's ports are free again at once.
    connection.read_to_end(&mut Vec::new()).map(drop)
}
