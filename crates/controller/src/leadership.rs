//! Whether this replica leads, as far as it knows, and as the API server says.

use std::time::Duration;

use runtime::lease::{LeaderLease, Term};
use tokio::sync::watch;
use tracing::warn;

/// A read from the API server itself that takes longer has failed.
pub(crate) const READ_DEADLINE: Duration = Duration::from_secs(10);

/// A term of this replica.
pub(crate) struct Leadership {
    pub(crate) term: Term,
    /// The term that goes on now
    pub(crate) now: watch::Receiver<Option<Term>>,
    /// `None`: it is alone
    pub(crate) lease: Option<LeaderLease>,
}

impl Leadership {
    /// Whether the term goes on, as far as is known here.
    pub(crate) fn goes_on(&self) -> bool {
        self.now.borrow().as_ref() == Some(&self.term)
    }

    /// Whether it has not ended; `None`: the API server does not say.
    pub(crate) async fn confirm(&self) -> Option<bool> {
        let Some(lease) = &self.lease else { return Some(true) };
        match tokio::time::timeout(READ_DEADLINE, lease.confirm(&self.term)).await {
            Ok(Ok(holds)) => Some(holds),
            Ok(Err(error)) => {
                warn!(error = %error, "can't read the leader's lease");
                None
            }
            Err(_) => {
                warn!("no answer to a read of the leader's lease");
                None
            }
        }
    }
}
