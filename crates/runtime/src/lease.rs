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

/// One time of leading: no two have the same, also of one replica.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(String);

impl Term {
    /// One of this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// What a lease says of its holder's.
    fn of(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let count = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let since = spec.and_then(|spec| spec.acquire_time.as_ref()).map(|time| time.0.as_microsecond());
        Self(format!("{holder}/{count}/{}", since.unwrap_or(0)))
    }

    /// As it is written into objects.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

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

    /// Waits until the lease is ours, for a term that begins now. `None`: the program stops first.
    pub async fn acquire(&self, shutdown: &CancellationToken) -> Option<Term> {
        let mut sighting = Sighting::default();
        let mut reported = false;
        loop {
            match self.try_take(&mut sighting).await {
                Ok(Some(term)) => {
                    info!(lease = self.name, term = term.as_str(), "leading");
                    return Some(term);
                }
                Ok(None) if !reported => {
                    reported = true;
                    info!(lease = self.name, "another replica leads; waiting");
                }
                Ok(None) | Err(WriteError::Conflict { .. }) => {}
                Err(error) => warn!(lease = self.name, error = %error, "can't read or write the lease"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(self.timing.period) => {}
            }
        }
    }

    /// Renews the lease until it is lost, which is an error, or the program stops, and then gives it back.
    pub async fn hold(&self, term: &Term, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.release().await;
                    return Ok(());
                }
                () = tokio::time::sleep(self.timing.period) => {}
            }
            let attempt = tokio::time::timeout(self.timing.renew_deadline, self.renew(term)).await;
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

    async fn try_take(&self, sighting: &mut Sighting) -> Result<Option<Term>, WriteError> {
        let read = self.api.get_opt(&self.name).await.map_err(|error| self.failure(error))?;
        let Some(mut lease) = read else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            let created = self.api.create(&PostParams::default(), &lease).await;
            return created.map(|lease| Some(Term::of(&lease))).map_err(|error| self.failure(error));
        };
        let unchanged_for = sighting.unchanged_for(&lease, Instant::now());
        if decide(&lease, &self.identity, unchanged_for, self.timing.duration) == Move::Wait {
            return Ok(None);
        }
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        self.replace(&lease).await.map(|lease| Some(Term::of(&lease)))
    }

    /// Whether the lease is still of this term, as the API server itself says.
    pub async fn confirm(&self, term: &Term) -> Result<bool, WriteError> {
        let read = self.api.get_opt(&self.name).await.map_err(|error| self.failure(error))?;
        Ok(read.is_some_and(|lease| Term::of(&lease) == *term))
    }

    /// Whether the lease was of this term, and has been renewed.
    async fn renew(&self, term: &Term) -> Result<bool, WriteError> {
        let read = self.api.get_opt(&self.name).await.map_err(|error| self.failure(error))?;
        let Some(mut lease) = read.filter(|lease| Term::of(lease) == *term) else { return Ok(false) };
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
        }
        self.replace(&lease).await?;
        Ok(true)
    }

    /// A term that begins: another one than the last, whoever's that was.
    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::now());
        let transitions = before.map(|spec| spec.lease_transitions.unwrap_or(0).saturating_add(1));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions.unwrap_or(0)),
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

    async fn replace(&self, lease: &Lease) -> Result<Lease, WriteError> {
        let replaced = self.api.replace(&self.name, &PostParams::default(), lease).await;
        replaced.map_err(|error| self.failure(error))
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
    fn no_two_terms_are_the_same() {
        let of = |holder: &str, count: i32, second: i64| {
            let mut lease = lease(holder, "1");
            let spec = lease.spec.as_mut().unwrap();
            spec.lease_transitions = Some(count);
            spec.acquire_time = Some(MicroTime(jiff::Timestamp::from_second(second).unwrap()));
            Term::of(&lease)
        };
        let terms = [of("a", 1, 5), of("b", 1, 5), of("a", 2, 5), of("a", 1, 6)];
        let different: std::collections::BTreeSet<_> = terms.iter().collect();
        assert_eq!(different.len(), terms.len());
        assert_eq!(of("a", 1, 5), of("a", 1, 5));
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
