//! Runs a server on loopback until Ctrl-C: `cargo run -p apiserver --example serve -- 6443 /tmp/kubeconfig`.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use anyhow::Context as _;
use apiserver::server::{ApiServer, ServerConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 =
        arguments.next().map_or(Ok(0), |port| port.parse()).context("the first argument is a port")?;
    let kubeconfig = PathBuf::from(arguments.next().unwrap_or_else(|| "kubeconfig".to_owned()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let url = format!("https://{}", listener.local_addr()?);
    let server =
        ApiServer::start(ServerConfig { listeners: vec![listener], ..ServerConfig::default() }).await?;
    std::fs::write(&kubeconfig, server.kubeconfig(&url)).context("the kubeconfig cannot be written")?;
    println!("{url}, export KUBECONFIG={}", kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}
