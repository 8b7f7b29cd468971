//! What to do with the certificates that there are, at this time. Pure.

/// How long a certificate is good for.
pub(crate) const LIFETIME_S: i64 = 90 * DAY_S;
/// The next one is made when that much is left.
pub(crate) const RENEW_S: i64 = 30 * DAY_S;
/// So long everybody has both authorities before the certificate changes, and after: more than an API server or a replica
/// takes to see a change.
pub(crate) const OVERLAP_S: i64 = 3600;
const DAY_S: i64 = 86_400;

/// A certificate, its key, and the authority that signed it, all as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) authority: String,
    /// When it ends, in seconds since the epoch
    pub(crate) expires_at_s: i64,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issued(until {})", self.expires_at_s)
    }
}

/// What the Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Is served
    pub(crate) current: Issued,
    /// Will be served, and since when it is here
    pub(crate) next: Option<(Issued, i64)>,
    /// Authority of the certificate that was served before, and until when
    pub(crate) former: Option<(String, i64)>,
}

impl Held {
    /// All authorities that a certificate of any replica may be signed by.
    pub(crate) fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|(next, _)| next.authority.as_str());
        let former = self.former.as_ref().map(|(authority, _)| authority.as_str());
        let all = [Some(self.current.authority.as_str()), next, former];
        all.into_iter().flatten().map(|pem| format!("{}\n", pem.trim_end())).collect()
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing before that time.
    Wait { until_s: i64 },
    /// There is nothing that can be served: make a certificate.
    Issue,
    /// Make the next certificate; go on serving the current one.
    Prepare,
    /// Serve the next certificate.
    Promote,
    /// Forget the former authority.
    Forget,
}

/// What to do at this time. `is_published`: every webhook configuration that there is has the whole bundle.
pub(crate) fn step(held: Option<&Held>, now_s: i64, is_published: bool) -> Step {
    let Some(held) = held.filter(|held| now_s < held.current.expires_at_s) else {
        return Step::Issue;
    };
    if let Some((_, since_s)) = &held.next {
        let due_s = since_s + OVERLAP_S;
        return match is_published {
            true if now_s >= due_s => Step::Promote,
            // Whoever publishes asks again at once.
            _ => Step::Wait { until_s: due_s.max(now_s + 60).min(held.current.expires_at_s) },
        };
    }
    if let Some((_, until_s)) = &held.former {
        let due_s = until_s + OVERLAP_S;
        return if now_s >= due_s { Step::Forget } else { Step::Wait { until_s: due_s } };
    }
    let renew_at_s = held.current.expires_at_s - RENEW_S;
    if now_s >= renew_at_s { Step::Prepare } else { Step::Wait { until_s: renew_at_s } }
}

/// The Secret after a step, with a certificate that was made for it where the step needs one.
pub(crate) fn apply(held: Option<&Held>, step: Step, now_s: i64, issued: Option<Issued>) -> Option<Held> {
    match (step, held, issued) {
        // Other replicas may serve the old one until they see this.
        (Step::Issue, held, Some(current)) => {
            let former = held.map(|held| (held.current.authority.clone(), now_s));
            Some(Held { current, next: None, former })
        }
        (Step::Prepare, Some(held), Some(next)) => Some(Held { next: Some((next, now_s)), ..held.clone() }),
        (Step::Promote, Some(held), _) => {
            let (next, _) = held.next.clone()?;
            let former = Some((held.current.authority.clone(), now_s));
            Some(Held { current: next, next: None, former })
        }
        (Step::Forget, Some(held), _) => Some(Held { former: None, ..held.clone() }),
        _ => None,
    }
}
