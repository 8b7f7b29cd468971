//! A node's end of the tunnel.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::EipPair;
use crate::tunnel_mac::MacAddress;

/// State of a node's end of the tunnel; only [`Phase::Ready`] nodes are given EIPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// An address, the MAC or the mark is missing.
    #[default]
    Pending,
    /// The agent has not said yet that the node is programmed.
    Init,
    /// The agent could not program the node, or there is no address for it.
    Failed,
    /// The node carries traffic.
    Ready,
    /// The agent has been silent for too long.
    HeartbeatTimeout,
    /// Kubernetes says that the node is not ready.
    NodeNotReady,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Init, Self::Failed, Self::Ready, Self::HeartbeatTimeout, Self::NodeNotReady];

    /// As objects spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Init => "Init",
            Self::Failed => "Failed",
            Self::Ready => "Ready",
            Self::HeartbeatTimeout => "HeartbeatTimeout",
            Self::NodeNotReady => "NodeNotReady",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no phase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a phase of an EgressTunnel")]
pub struct ParsePhaseError(pub String);

impl FromStr for Phase {
    type Err = ParsePhaseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|phase| phase.as_str() == text);
        found.ok_or_else(|| ParsePhaseError(text.to_owned()))
    }
}

/// What an EgressTunnel says about its node. What can't be read counts as not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// Tunnel address, given by the controller.
    pub ipv4: Option<Ipv4Addr>,
    /// Tunnel address, given by the controller.
    pub ipv6: Option<Ipv6Addr>,
    /// Inner MAC address, given by the controller.
    pub mac: Option<MacAddress>,
    /// Packet mark, given by the controller.
    pub mark: Option<u32>,
    /// State as both sides have it.
    pub phase: Option<Phase>,
    /// Why the phase is not [`Phase::Ready`], as the controller says; empty where it is.
    pub message: String,
    /// The interface that carries the tunnel, as the agent says.
    pub parent: Option<String>,
    /// The outer address of the node, as the agent says.
    pub underlay: Option<IpAddr>,
    /// Public key of the agent's probes, 32 bytes in base64 as on the wire.
    pub probe_key: Option<String>,
    /// EIPs that the node answers for, as its agent says.
    pub claims: Vec<Claim>,
    /// Whether the agent has programmed the node; `None` while it has not said.
    pub programmed: Option<bool>,
    /// Addresses of EIPs that somebody else on the node's link has, as its agent says.
    pub conflicts: Vec<Conflict>,
}

impl Tunnel {
    /// Its addresses; `None` while it has none.
    #[must_use]
    pub fn addresses(&self) -> Option<EipPair> {
        EipPair::new(self.ipv4, self.ipv6)
    }
}

/// An address of an EIP that somebody else has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The address
    pub address: IpAddr,
    /// Who has it
    pub mac: MacAddress,
}

/// An EIP that a gateway answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The EIP
    pub eip: EipPair,
    /// Of two claims the one with the higher epoch is the newer
    pub epoch: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_reads_back_as_it_is_written() {
        for phase in Phase::ALL {
            assert_eq!(phase.as_str().parse(), Ok(phase));
        }
        assert!("ready".parse::<Phase>().is_err());
    }
}
