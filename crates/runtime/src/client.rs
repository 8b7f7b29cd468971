//! The connection to the API server.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::{Client, Config};

/// A client as the environment says: `KUBECONFIG`, the pod's service account, or `~/.kube/config`.
pub async fn connect(user_agent: &str) -> Result<Client> {
    let config =
        Config::infer().await.context("find the API server: neither a kubeconfig nor a service account")?;
    client(config, user_agent)
}

/// A client that gives up on a dead connection in time; watches have their own limits.
pub fn client(mut config: Config, user_agent: &str) -> Result<Client> {
    config.connect_timeout = Some(Duration::from_secs(5));
    config.write_timeout = Some(Duration::from_secs(10));
    let mut headers = config.headers;
    headers.retain(|(name, _)| name.as_str() != "user-agent");
    if let (Ok(name), Ok(value)) = ("user-agent".parse(), user_agent.parse()) {
        headers.push((name, value));
    }
    config.headers = headers;
    Client::try_from(config).context("set up the client of the API server")
}
