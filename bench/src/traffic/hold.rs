//! Connections that are kept busy: which survive, and what was the longest silence?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

/// A connection that is silent for longer is lost.
const LOST_AFTER: Duration = Duration::from_secs(15);

pub(super) fn run(to: SocketAddr, seconds: u64, connections: usize) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let holders: Vec<_> = (0..connections).map(|_| std::thread::spawn(move || hold(to, end))).collect();
    let (mut lost, mut longest) = (0, Duration::ZERO);
    for holder in holders {
        match holder.join().ok().context("a thread panicked")? {
            Ok(gap) => longest = longest.max(gap),
            Err(error) => {
                eprintln!("lost: {error}");
                lost += 1;
            }
        }
    }
    println!("{}", json!({"lost": lost, "longest_gap_ms": longest.as_secs_f64() * 1000.0}));
    Ok(())
}

/// Echoes a byte every 10 ms; the longest time between two echoes.
fn hold(to: SocketAddr, end: Instant) -> std::io::Result<Duration> {
    let mut connection = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(LOST_AFTER))?;
    connection.write_all(b"e")?;
    let (mut longest, mut last, mut byte) = (Duration::ZERO, Instant::now(), [0]);
    while Instant::now() < end {
        connection.write_all(b"x")?;
        connection.read_exact(&mut byte)?;
        longest = longest.max(last.elapsed());
        last = Instant::now();
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(longest)
}
