//! The far end: answers short connections, swallows streams, counts datagrams.
//!
//! The first byte of a connection says what it wants: `c` is echoed and the connection closed, `e` echoes for as long
//! as the client wants, `s` is a stream whose bytes
//! are counted and reported at its end, `u` asks how many datagrams came since the last such question.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use super::PORTS;

pub(super) fn run(listen: SocketAddr) -> Result<()> {
    let udp = UdpSocket::bind(listen).with_context(|| format!("listening on {listen}"))?;
    let datagrams = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&datagrams);
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while udp.recv(&mut buffer).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    for port in (0..PORTS).map(|number| listen.port() + number) {
        let address = SocketAddr::new(listen.ip(), port);
        let tcp = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
        let datagrams = Arc::clone(&datagrams);
        std::thread::spawn(move || {
            for connection in tcp.incoming().flatten() {
                serve(connection, &datagrams);
            }
        });
    }
    println!("ready");
    // Ends with the program that started it, however that ends.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
        .context("waiting for the end of standard input")?;
    Ok(())
}

fn serve(mut connection: TcpStream, datagrams: &AtomicU64) {
    let _ = connection.set_read_timeout(Some(Duration::from_secs(30)));
    let mut first = [0];
    if connection.read_exact(&mut first).is_err() {
        return;
    }
    match first {
        // What lasts would hold up the short connections behind it.
        [b'e'] => drop(std::thread::spawn(move || echo(&mut connection))),
        [b's'] => drop(std::thread::spawn(move || swallow(&mut connection))),
        [b'u'] => report(&mut connection, datagrams.swap(0, Ordering::Relaxed)),
        other => drop(connection.write_all(&other)),
    }
}

fn echo(connection: &mut TcpStream) {
    let _ = connection.set_nodelay(true);
    let mut byte = [0];
    while connection.read_exact(&mut byte).is_ok() && connection.write_all(&byte).is_ok() {}
}

fn swallow(connection: &mut TcpStream) {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0;
    while let Ok(read @ 1..) = connection.read(&mut buffer) {
        total += read as u64;
    }
    report(connection, total);
}

fn report(connection: &mut TcpStream, count: u64) {
    // The client sees a closed connection if that fails, and says so.
    let _ = connection.write_all(&count.to_be_bytes());
}
