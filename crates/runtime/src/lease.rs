//! One leader at a time, by a Lease of `coordination.k8s.io`.
//!
//! Whoever holds the lease writes its name into it and renews it. Others take it over when it has not changed for its
//! whole duration, as seen on their own clock: clocks of different machines are never compared.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::writer::WriteError;

/// A lease that replicas compete for.
#[derive(Clone, Debug)]
pub struct LeaderLease {
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
}

/// How long a lease lasts, and how often it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Without a renewal for that long it is anybody's
    pub duration: Duration,
    /// The holder gives up if it could not renew for that long; shorter, so that there are never two
    pub renew_deadline: Duration,
    /// How often to renew, or to look whether it is free
    pub period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            period: Duration::from_secs(2),
        }
    }
}

/// The lease as it was last seen, and since when it has been so.
#[derive(Debug, Default)]
struct Sighting {
    version: Option<String>,
    since: Option<Instant>,
}

impl Sighting {
    /// For how long the lease has not changed.
    fn unchanged_for(&mut self, lease: &Lease, now: Instant) -> Duration {
        if self.version != lease.metadata.resource_version || self.since.is_none() {
            self.version.clone_from(&lease.metadata.resource_version);
            self.since = Some(now);
        }
        self.since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

/// What to do about a lease.
#[derive(Debug, PartialEq, Eq)]
enum Move {
    /// It is ours, or anybody's
    Take,
    /// Somebody else has it
    Wait,
}

fn decide(lease: &Lease, identity: &str, unchanged_for: Duration, own_duration: Duration) -> Move {
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let duration =
        spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    let duration = duration.map_or(own_duration, Duration::from_secs);
    if holder.is_empty() || holder == identity || unchanged_for >= duration { Move::Take } else { Move::Wait }
}

impl LeaderLease {
    /// A lease of that name; the identity tells replicas apart.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            timing,
        }
    }

    /// Waits until the lease is ours. `false`: the program stops first.
    pub async fn acquire(&self, shutdown: &CancellationToken) -> bool {
        let mut sighting = Sighting::default();
        let mut reported = false;
        loop {
            match self.try_take(&mut sighting).await {
                Ok(true) => {
                    info!(lease = self.name, identity = self.identity, "leading");
                    return true;
                }
                Ok(false) if !reported => {
                    reported = true;
                    info!(lease = self.name, "another replica leads; waiting");
                }
                Ok(false) | Err(WriteError::Conflict { .. }) => {}
                Err(error) => warn!(lease = self.name, error = %error, "can't read or write the lease"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = tokio::time::sleep(self.timing.period) => {}
            }
        }
    }

    /// Renews the lease until it is lost, which is an error, or the program stops, and then gives it back.
    pub async fn hold(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut renewed = Instant::now();
        let mut sighting = Sighting::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.release().await;
                    return Ok(());
                }
                () = tokio::time::sleep(self.timing.period) => {}
            }
            let attempt =
                tokio::time::timeout(self.timing.renew_deadline, self.try_take(&mut sighting)).await;
            match attempt {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => anyhow::bail!("another replica has taken the lease `{}`", self.name),
                Ok(Err(error)) => debug!(lease = self.name, error = %error, "not renewed"),
                Err(_) => debug!(lease = self.name, "not renewed: no answer"),
            }
            if renewed.elapsed() >= self.timing.renew_deadline {
                anyhow::bail!(
                    "could not renew the lease `{}` for {} s",
                    self.name,
                    renewed.elapsed().as_secs()
                );
            }
        }
    }

    async fn try_take(&self, sighting: &mut Sighting) -> Result<bool, WriteError> {
        let read = self.api.get_opt(&self.name).await.map_err(|error| self.failure(error))?;
        let Some(mut lease) = read else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            self.api.create(&PostParams::default(), &lease).await.map_err(|error| self.failure(error))?;
            return Ok(true);
        };
        let unchanged_for = sighting.unchanged_for(&lease, Instant::now());
        if decide(&lease, &self.identity, unchanged_for, self.timing.duration) == Move::Wait {
            return Ok(false);
        }
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        self.replace(&lease).await?;
        Ok(true)
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::now());
        let is_ours = before.is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let acquired = before.and_then(|spec| spec.acquire_time.clone()).filter(|_| is_ours);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            acquire_time: acquired.or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if is_ours || before.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }
    }

    /// So that the next one need not wait.
    async fn release(&self) {
        let released = async {
            let mut lease = self.api.get(&self.name).await.map_err(|error| self.failure(error))?;
            let Some(spec) = &mut lease.spec else { return Ok(()) };
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                self.replace(&lease).await?;
            }
            Ok::<(), WriteError>(())
        };
        match tokio::time::timeout(Duration::from_secs(2), released).await {
            Ok(Ok(())) => info!(lease = self.name, "gave the lease back"),
            Ok(Err(error)) => warn!(lease = self.name, error = %error, "could not give the lease back"),
            Err(_) => warn!(lease = self.name, "could not give the lease back in time"),
        }
    }

    async fn replace(&self, lease: &Lease) -> Result<(), WriteError> {
        let replaced = self.api.replace(&self.name, &PostParams::default(), lease).await;
        replaced.map(drop).map_err(|error| self.failure(error))
    }

    fn failure(&self, error: kube::Error) -> WriteError {
        WriteError::of(format!("Lease {}", self.name), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_ours_or_forgotten() {
        let (fresh, old, own) = (Duration::from_secs(14), Duration::from_secs(15), Duration::from_secs(15));
        assert_eq!(decide(&lease("", "1"), "me", fresh, own), Move::Take);
        assert_eq!(decide(&lease("me", "1"), "me", fresh, own), Move::Take);
        assert_eq!(decide(&lease("you", "1"), "me", fresh, own), Move::Wait);
        assert_eq!(decide(&lease("you", "1"), "me", old, own), Move::Take);
    }

    #[test]
    fn age_is_counted_from_the_last_change_that_was_seen() {
        let mut sighting = Sighting::default();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(sighting.unchanged_for(&lease("you", "1"), start), Duration::ZERO);
        assert_eq!(sighting.unchanged_for(&lease("you", "1"), later(9)), Duration::from_secs(9));
        assert_eq!(sighting.unchanged_for(&lease("you", "2"), later(10)), Duration::ZERO);
        assert_eq!(sighting.unchanged_for(&lease("you", "2"), later(12)), Duration::from_secs(2));
    }
}
