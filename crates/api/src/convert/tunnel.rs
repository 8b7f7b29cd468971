//! EgressTunnel.

use model::tunnel::{Claim, Conflict, Tunnel};

use crate::names;
use crate::v1beta1::{self, EgressTunnel, condition};

/// What the tunnel's object says; what can't be read counts as not there.
pub fn tunnel(object: &EgressTunnel) -> Tunnel {
    let Some(status) = &object.status else {
        return Tunnel::default();
    };
    let parent = &status.tunnel.parent;
    let programmed = condition(&status.conditions, names::CONDITION_READY);
    let claims = status
        .claims
        .iter()
        .filter_map(|claim| Some(Claim { eip: claim.eip.parse().ok()?, epoch: claim.epoch }));
    let conflicts = status.conflicts.iter().filter_map(|told| {
        Some(Conflict { address: told.address.parse().ok()?, mac: told.mac.parse().ok()? })
    });
    Tunnel {
        ipv4: status.tunnel.ipv4.parse().ok(),
        ipv6: status.tunnel.ipv6.parse().ok(),
        mac: status.tunnel.mac.parse().ok(),
        mark: parse_mark(&status.mark),
        phase: status.phase.parse().ok(),
        message: status.message.clone(),
        parent: Some(parent.name.clone()).filter(|name| !name.is_empty()),
        underlay: parent.ipv4.parse().or_else(|_| parent.ipv6.parse()).ok(),
        probe_key: Some(status.probe_key.clone()).filter(|key| !key.is_empty()),
        claims: claims.collect(),
        programmed: programmed.map(|condition| condition.status == "True"),
        conflicts: conflicts.collect(),
    }
}

/// A conflict as the agent writes it.
pub fn conflict(conflict: &Conflict) -> v1beta1::Conflict {
    v1beta1::Conflict { address: conflict.address.to_string(), mac: conflict.mac.to_string() }
}

/// A claim as the agent writes it.
pub fn claim(claim: &Claim) -> v1beta1::Claim {
    v1beta1::Claim { eip: claim.eip.to_string(), epoch: claim.epoch }
}

/// A mark as objects spell it: `0x26000001`.
pub fn mark(mark: u32) -> String {
    format!("{mark:#010x}")
}

fn parse_mark(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
