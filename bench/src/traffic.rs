//! The programs at both ends of measured traffic. They run inside pods and test namespaces, are bounded in time, and
//! print one JSON object.

mod ask;
mod connect;
mod hold;
mod server;
mod stream;
mod udp;

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Serve short connections, streams and UDP counts until standard input closes
    Serve {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Open short connections one after the other, to all ports of the server in turn
    Connect {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
        #[arg(long, default_value_t = 4)]
        parallel: usize,
    },
    /// Send on one TCP connection as fast as it takes it
    Stream {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
    /// Send small datagrams as fast as they go; the server counts what arrives
    Udp {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
    /// Keep connections busy with small echoes; reports the lost ones and the longest silence
    Hold {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 4)]
        seconds: u64,
        #[arg(long, default_value_t = 20)]
        connections: usize,
    },
    /// Ask an HTTP server for the address that it sees, again and again; prints a line per answer
    Ask {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Milliseconds between two questions
        #[arg(long, default_value_t = 1)]
        pause_ms: u64,
        /// Ask no more once this address was seen
        #[arg(long)]
        until: Option<IpAddr>,
    },
}

/// Ports that a server listens on, from the one that it is given on. Short connections go to all of them, because the ports
/// of a node towards one of them would all be in use, or resting, after seconds.
const PORTS: u16 = 64;

/// What a client of `serve` measured.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Connections, bytes or datagrams that arrived, per second
    pub(crate) per_second: f64,
    /// What failed or got lost
    pub(crate) lost: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let measured = match &options.mode {
        Mode::Serve { listen } => return server::run(*listen),
        Mode::Ask { to, seconds, pause_ms, until } => return ask::run(*to, *seconds, *pause_ms, *until),
        Mode::Hold { to, seconds, connections } => return hold::run(*to, *seconds, *connections),
        Mode::Connect { to, seconds, parallel } => connect::run(*to, *seconds, *parallel)?,
        Mode::Stream { to, seconds } => stream::run(*to, *seconds)?,
        Mode::Udp { to, seconds } => udp::run(*to, *seconds)?,
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
