//! `agent cleanup`: takes everything off a node that agents have put there, once there is no agent any more.
//!
//! An agent that ends leaves the kernel as it is, so that its successor goes on with it; only people know that none will
//! come. Nothing is asked of the API server, which may have forgotten us already.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use datapath::diff::diff;
use datapath::state::DatapathState;
use datapath::transaction::{Found, Interest, TableId};
use kernel::conntrack::ConntrackSocket;
use runtime::config::Config;

use crate::linux::{self, ours, unless_absent};
use crate::run::STATE_DIR;
use crate::sysctl_record::SysctlRecord;

/// What was there, and is no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// The tunnel device
    pub tunnel: Option<String>,
    /// Tables of nf_tables
    pub tables: Vec<String>,
    /// Policy routing rules
    pub rules: usize,
    /// Routes
    pub routes: usize,
    /// Addresses that the kernel answered for
    pub proxy_neighbours: usize,
    /// Connections that had an EIP
    pub connections: usize,
    /// Values under /proc/sys/net that are what they were
    pub sysctls: usize,
}

impl std::fmt::Display for Removed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::default() {
            return f.write_str("there was nothing to remove");
        }
        let tunnel = self.tunnel.as_deref().unwrap_or("none");
        let tables = if self.tables.is_empty() { "none".to_owned() } else { self.tables.join(", ") };
        write!(
            f,
            "removed: device {tunnel}; tables {tables}; {} rules, {} routes, {} proxy entries, {} connections; {} values restored",
            self.rules, self.routes, self.proxy_neighbours, self.connections, self.sysctls
        )
    }
}

/// Takes everything off this node.
///
/// # Errors
/// When an agent runs here, or the kernel refuses.
pub fn cleanup() -> Result<Removed> {
    let (config, _) = Config::load()?;
    let state_dir = std::env::var_os(STATE_DIR).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    take_off(&config.feature.vxlan.name, config.feature.vxlan.id, state_dir.as_deref())
}

/// Takes everything off the calling thread's network namespace: with this tunnel device, and what agents have kept of values
/// under /proc/sys/net in this directory.
///
/// # Errors
/// When an agent runs here, or the kernel refuses.
pub fn take_off(tunnel: &str, vni: u32, state_dir: Option<&Path>) -> Result<Removed> {
    let mut kernel = kernel::Kernel::open().context("opening the kernel")?;
    let interest =
        Interest { tables: linux::tables(), tunnel: Some(tunnel.to_owned()), ..Interest::default() };
    let found = kernel.read(&interest).context("reading the kernel's state")?;
    if found.tables.values().any(|table| table.owned) {
        bail!("an agent runs on this node, for our tables have an owner: delete the agents' DaemonSet first");
    }
    kernel.adopt(&interest).context("taking over what the last agent has left")?;
    kernel.apply(&diff(&found, &DatapathState::default())).context("removing what agents have made")?;
    // A device that is not as an agent leaves it is reported as missing.
    let device = kernel.route.link(tunnel).context("looking for the tunnel device")?;
    let left_over = device.filter(|device| device.vxlan.is_some_and(|it| it.vni == vni));
    if let Some(device) = &left_over {
        kernel.route.delete_link(&device.name).context("removing the tunnel device")?;
    }
    let mut removed = removed(&found);
    removed.tunnel = removed.tunnel.or(left_over.map(|device| device.name));
    let mut connections = ConntrackSocket::open().context("opening connection tracking")?;
    removed.connections =
        unless_absent(connections.delete_matching(&ours())).context("ending connections")?;
    removed.sysctls = state_dir.map(SysctlRecord::load).transpose()?.map_or(Ok(0), SysctlRecord::restore)?;
    Ok(removed)
}

fn removed(found: &Found) -> Removed {
    let name = |id: &TableId| format!("{} {}", id.family, id.name);
    Removed {
        tunnel: found.state.tunnel.as_ref().map(|tunnel| tunnel.name.clone()),
        tables: found.tables.keys().map(name).collect(),
        rules: found.state.rules.len(),
        routes: found.state.routes.len(),
        proxy_neighbours: found.state.proxy_neighbours.len(),
        connections: 0,
        sysctls: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_told_in_one_line() {
        assert_eq!(Removed::default().to_string(), "there was nothing to remove");
        let removed = Removed {
            tunnel: Some("egress.vxlan".to_owned()),
            tables: vec!["inet egressgateway".to_owned()],
            rules: 2,
            ..Removed::default()
        };
        let text = "removed: device egress.vxlan; tables inet egressgateway; 2 rules, 0 routes, 0 proxy entries, 0 connections; 0 values restored";
        assert_eq!(removed.to_string(), text);
    }
}
