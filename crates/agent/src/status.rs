//! What this node tells the API server: its tunnel's status, and which leases it has loaded.
//!
//! The loop says what shall be there whenever that may have changed; the writer writes only what differs from what it wrote
//! last or from what the watch shows, one write at a time, the latest wish only. It never spins: what was refused or undone is
//! tried again after a pause that grows.

use std::collections::BTreeMap;
use std::time::Duration;

use api::names;
use api::v1beta1::{EgressPortLease, EgressPortLeaseStatus, EgressTunnel};
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use model::EipPair;
use model::port_lease::{LeaseName, PortLease};
use model::tunnel::{Conflict, Phase, Tunnel};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::converge::{Converger, Kernel};
use crate::port_use::{EipUse, PortUse};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What the node's objects shall say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// Status of the EgressTunnel; `None` while there is no such object
    pub tunnel: Option<TunnelWish>,
    /// Statuses of EgressPortLeases that do not say that already
    pub leases: BTreeMap<LeaseName, LeaseStatus>,
}

/// What a lease's status shall say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Generation of the lease that is loaded
    pub observed_generation: i64,
    /// Ports in use, by EIP
    pub eips: BTreeMap<EipPair, EipUse>,
}

impl LeaseStatus {
    /// As the object has it; an entry that can't be read counts as not there.
    #[must_use]
    pub fn of(status: &EgressPortLeaseStatus) -> Self {
        let eips = api::convert::eip_lease_statuses(status).filter_map(|(pair, eip)| {
            let in_use = u32::try_from(eip.ports_in_use).ok()?;
            Some((pair, EipUse { in_use, idle: api::convert::idle_blocks(eip).collect() }))
        });
        Self { observed_generation: status.observed_generation, eips: eips.collect() }
    }

    /// The patch that says so.
    #[must_use]
    pub fn patch(&self) -> Value {
        let eips = self.eips.iter().map(|(eip, told)| {
            let mut entry = serde_json::Map::new();
            entry.extend(eip.v4().map(|address| ("ipv4".to_owned(), address.to_string().into())));
            entry.extend(eip.v6().map(|address| ("ipv6".to_owned(), address.to_string().into())));
            entry.insert("portsInUse".to_owned(), told.in_use.into());
            if !told.idle.is_empty() {
                entry.insert("idle".to_owned(), json!(told.idle));
            }
            Value::Object(entry)
        });
        json!({"status": {"observedGeneration": self.observed_generation, "eips": eips.collect::<Vec<_>>()}})
    }
}

/// The agent's part of a tunnel's status, without its times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TunnelWish {
    /// The agent's part of the status
    pub status: TunnelStatus,
    /// Whether the object says that already, as far as the watch knows
    pub told: bool,
}

/// The agent's part of a tunnel's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelStatus {
    /// Name of the uplink
    pub parent: String,
    /// Its IPv4 address
    pub parent_ipv4: String,
    /// Its IPv6 address, where there is no IPv4 one
    pub parent_ipv6: String,
    /// `None` leaves it as it is
    pub phase: Option<Phase>,
    /// Public key of the probes
    pub probe_key: String,
    /// EIP and epoch of what this node answers for; `None` leaves them as they are: it is too early to say
    pub claims: Option<Vec<model::tunnel::Claim>>,
    /// Addresses of EIPs that somebody else has
    pub conflicts: Vec<Conflict>,
    /// Whether the node is programmed, or why it is not; `None` leaves it as it is: it is too early to say, or told already
    pub programmed: Option<Result<(), String>>,
}

impl TunnelStatus {
    /// Whether the object says the same.
    #[must_use]
    pub fn is_told_by(&self, tunnel: &Tunnel) -> bool {
        let underlay = if self.parent_ipv4.is_empty() { &self.parent_ipv6 } else { &self.parent_ipv4 };
        tunnel.parent.as_deref().unwrap_or_default() == self.parent
            && tunnel.underlay == underlay.parse().ok()
            && self.phase.is_none_or(|phase| tunnel.phase == Some(phase))
            && tunnel.probe_key.as_deref().unwrap_or_default() == self.probe_key
            && self.conflicts == tunnel.conflicts
            && self.claims.as_ref().is_none_or(|claims| tunnel.claims == *claims)
            && self.programmed.as_ref().is_none_or(|programmed| tunnel.programmed == Some(programmed.is_ok()))
    }

    /// The patch that says so, at this time, of a node that has been as it is since then.
    #[must_use]
    pub fn patch(&self, now: Timestamp, ready_since: Timestamp) -> Value {
        let mut status = json!({
            "tunnel": {"parent": {
                "name": self.parent, "ipv4": self.parent_ipv4, "ipv6": self.parent_ipv6,
            }},
            "probeKey": self.probe_key,
            "conflicts": self.conflicts.iter().map(api::convert::conflict).collect::<Vec<_>>(),
        });
        if let Some(fields) = status.as_object_mut() {
            if let Some(claims) = &self.claims {
                let claims: Vec<_> = claims.iter().map(api::convert::claim).collect();
                fields.insert("claims".to_owned(), json!(claims));
            }
            if let Some(programmed) = &self.programmed {
                let (status, reason, message) = match programmed {
                    Ok(()) => ("True", "Programmed", "the node's kernel holds what it shall hold"),
                    Err(trouble) => ("False", "NotProgrammed", trouble.as_str()),
                };
                let since = ready_since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let condition = json!([{
                    "type": names::CONDITION_READY, "status": status, "reason": reason, "message": message,
                    "lastTransitionTime": since,
                }]);
                fields.insert("conditions".to_owned(), condition);
            }
            if let Some(phase) = self.phase {
                fields.insert("phase".to_owned(), phase.as_str().into());
            }
            let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            fields.insert("lastHeartbeatTime".to_owned(), now.into());
        }
        json!({"status": status})
    }
}

/// How far the agent has come with its node.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Passes that were made
    pub passes: u64,
    /// Whether the last one left the node complete
    pub is_complete: bool,
    /// Generations of the parts of the own lease that it loaded
    pub own_generations: BTreeMap<LeaseName, i64>,
    /// Whether passes fail
    pub is_failing: bool,
    /// Why they have been failing for so long that it is told
    pub trouble: Option<String>,
    /// Public key of the probes
    pub probe_key: String,
    /// What this node claims, once that is known
    pub claims: Option<Vec<model::tunnel::Claim>>,
}

impl<K: Kernel> Converger<K> {
    /// What the node's objects shall say.
    #[must_use]
    pub fn wish(&self, standing: &Standing) -> Wish {
        let (node, objects) = (self.node(), self.objects());
        let tunnel = objects.tunnels.get(node);
        // What is loaded is another generation for a moment: then it is not told yet.
        let is_loaded = |name: &LeaseName, part: &PortLease| {
            standing.is_complete && standing.own_generations.get(name) == Some(&part.generation)
        };
        let (told, unsaid) = (self.port_use().map(PortUse::told), LeaseStatus::default());
        let leases = objects.leases_of(node).filter(|(name, part)| is_loaded(name, part));
        let leases = leases.filter_map(|(name, part)| {
            let report = objects.reports.get(name).unwrap_or(&unsaid);
            let told = told.unwrap_or(&report.eips);
            let eips = part.leases.iter().map(|lease| lease.eip);
            let eips = eips.filter_map(|eip| Some((eip, told.get(&eip)?.clone()))).collect();
            let status = LeaseStatus { observed_generation: part.generation, eips };
            (*report != status).then(|| (name.clone(), status))
        });
        Wish {
            tunnel: tunnel.and_then(|tunnel| self.tunnel_wish(standing, tunnel)),
            leases: leases.collect(),
        }
    }

    /// Nothing before this run knows anything: what an earlier one told still holds.
    fn tunnel_wish(&self, standing: &Standing, tunnel: &Tunnel) -> Option<TunnelWish> {
        let uplink = self.uplink();
        let ipv4 = uplink.and_then(|uplink| uplink.ipv4);
        let ipv6 = uplink.and_then(|uplink| uplink.ipv6).filter(|_| ipv4.is_none());
        if standing.passes == 0 && standing.trouble.is_none() {
            return None;
        }
        let programmed = match &standing.trouble {
            Some(why) => Some(Err(why.clone())),
            None if standing.is_failing => None,
            None if standing.passes > 0 && uplink.is_none() => {
                Some(Err("no device with an address leads outside; see tunnelDetectMethod".to_owned()))
            }
            None if standing.is_complete && !self.closed_filters().is_empty() => {
                Some(Err(self.closed_filters().join("; ")))
            }
            None => standing.is_complete.then_some(Ok(())),
        };
        let text = |address: Option<std::net::IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        // A condition keeps the time of its last change, which an earlier run may have written.
        let is_programmed = programmed == Some(Ok(()));
        let is_new = !(is_programmed && tunnel.programmed == Some(true));
        let status = TunnelStatus {
            parent: uplink.map(|uplink| uplink.device.clone()).unwrap_or_default(),
            parent_ipv4: text(ipv4.map(Into::into)),
            parent_ipv6: text(ipv6.map(Into::into)),
            phase: phase(tunnel, is_programmed, standing.trouble.is_some()),
            probe_key: standing.probe_key.clone(),
            claims: standing.claims.clone(),
            conflicts: self.conflicts(),
            programmed: programmed.filter(|_| is_new),
        };
        let told = status.is_told_by(tunnel);
        Some(TunnelWish { status, told })
    }
}

/// The phase that the agent gives its tunnel: `Ready` or `Failed` once the controller has given it all it needs, and
/// never over what the controller says of the node.
#[must_use]
pub fn phase(tunnel: &Tunnel, programmed: bool, failing: bool) -> Option<Phase> {
    let addressed =
        tunnel.mac.is_some() && tunnel.mark.is_some() && (tunnel.ipv4.is_some() || tunnel.ipv6.is_some());
    match tunnel.phase {
        _ if !addressed => None,
        Some(Phase::NodeNotReady | Phase::HeartbeatTimeout) => None,
        _ if programmed => Some(Phase::Ready),
        _ if failing => Some(Phase::Failed),
        _ => None,
    }
}

/// Writes wishes.
pub struct Writer {
    node: String,
    tunnels: Api<EgressTunnel>,
    leases: Api<EgressPortLease>,
    ready_since: Timestamp,
    was_ready: Option<bool>,
    written: Option<TunnelStatus>,
    written_leases: BTreeMap<LeaseName, LeaseStatus>,
}

impl Writer {
    /// For this node.
    #[must_use]
    pub fn new(client: Client, node: &str) -> Self {
        Self {
            node: node.to_owned(),
            tunnels: Api::all(client.clone()),
            leases: Api::all(client),
            ready_since: Timestamp::now(),
            was_ready: None,
            written: None,
            written_leases: BTreeMap::new(),
        }
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self, mut wishes: watch::Receiver<Wish>, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        loop {
            let wish = wishes.borrow_and_update().clone();
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.write(&wish) => outcome,
            };
            // What the watch does not show yet was perhaps undone by somebody: look again, but not at once.
            let settled = wish.tunnel.as_ref().is_none_or(|tunnel| tunnel.told) && wish.leases.is_empty();
            let again = match outcome {
                Ok(()) if settled => {
                    pause = FIRST_PAUSE;
                    None
                }
                Ok(()) => Some(pause.max(Duration::from_secs(1))),
                Err(error) => {
                    tracing::warn!(%error, retry_in_ms = pause.as_millis(), "status is not written");
                    Some(pause)
                }
            };
            if again.is_some() {
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wishes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(again.unwrap_or(Duration::MAX)), if again.is_some() => {
                    self.written = None;
                    self.written_leases.clear();
                }
            }
        }
    }

    async fn write(&mut self, wish: &Wish) -> Result<(), Error> {
        if let Some(TunnelWish { status, told }) = &wish.tunnel
            && !told
            && self.written.as_ref() != Some(status)
        {
            let now = Timestamp::now();
            let is_ready = status.programmed.as_ref().map(Result::is_ok);
            if is_ready.is_some() && is_ready != self.was_ready {
                self.ready_since = now;
                self.was_ready = is_ready;
            }
            let patch = status.patch(now, self.ready_since);
            let patched = self.tunnels.patch_status(&self.node, &parameters(), &Patch::Merge(&patch)).await;
            unless_gone(patched.map(drop))?;
            self.written = Some(status.clone());
        }
        self.written_leases.retain(|name, _| wish.leases.contains_key(name));
        for (name, lease) in &wish.leases {
            if self.written_leases.get(name) == Some(lease) {
                continue;
            }
            let (object, patch) = (name.object(), lease.patch());
            let patched = self.leases.patch_status(&object, &parameters(), &Patch::Merge(&patch)).await;
            unless_gone(patched.map(drop))?;
            self.written_leases.insert(name.clone(), lease.clone());
        }
        Ok(())
    }
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some("egressgateway-agent".to_owned()), ..PatchParams::default() }
}

/// An object that is gone needs no status.
fn unless_gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(phase: Option<Phase>) -> Tunnel {
        Tunnel {
            ipv4: "172.31.0.1".parse().ok(),
            mac: "66:00:00:00:00:01".parse().ok(),
            mark: Some(0x2600_0001),
            phase,
            ..Tunnel::default()
        }
    }

    #[test]
    fn the_phase_is_ready_once_programmed_unless_the_controller_knows_better() {
        assert_eq!(phase(&tunnel(Some(Phase::Init)), true, false), Some(Phase::Ready));
        assert_eq!(phase(&tunnel(Some(Phase::HeartbeatTimeout)), true, false), None);
        assert_eq!(phase(&tunnel(Some(Phase::NodeNotReady)), true, false), None);
        assert_eq!(phase(&tunnel(Some(Phase::Init)), false, false), None);
        assert_eq!(phase(&tunnel(Some(Phase::Ready)), false, true), Some(Phase::Failed));
        assert_eq!(phase(&Tunnel::default(), true, false), None);
    }

    #[test]
    fn what_is_written_reads_back_as_told() {
        let status = TunnelStatus {
            parent: "eth0".to_owned(),
            parent_ipv4: "10.6.0.1".to_owned(),
            phase: Some(Phase::Ready),
            probe_key: "key".to_owned(),
            claims: Some(vec![model::tunnel::Claim { eip: "10.6.168.201".parse().unwrap(), epoch: 3 }]),
            conflicts: vec![Conflict {
                address: "fd06::201".parse().unwrap(),
                mac: "02:00:00:00:00:09".parse().unwrap(),
            }],
            ..TunnelStatus::default()
        };
        for programmed in [None, Some(Ok(())), Some(Err("no uplink".to_owned()))] {
            let status = TunnelStatus { programmed, ..status.clone() };
            let patch = status.patch(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
            let object: EgressTunnel = serde_json::from_value(patch).unwrap();
            assert!(status.is_told_by(&api::convert::tunnel(&object)), "{object:?}");
            assert!(!status.is_told_by(&Tunnel::default()));
        }
    }
}
