//! Streams go on after their request was answered: what they hold meanwhile, and what ends them.

use std::fmt::Display;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::http::Connection;
use crate::server::state::State;
use crate::status_error::StatusError;

/// A place for a stream.
pub(super) struct Background {
    what: &'static str,
    state: Arc<State>,
    cut: CancellationToken,
    slot: OwnedSemaphorePermit,
}

/// Takes a place, of which there are only so many.
pub(super) fn in_background(
    state: Arc<State>,
    connection: &Connection,
    what: &'static str,
) -> Result<Background, StatusError> {
    let slot = Arc::clone(&state.watches).try_acquire_owned().map_err(|_| {
        StatusError::too_many_requests("too many streams are open, please try again later", 1)
    })?;
    Ok(Background { what, state, cut: connection.cut.clone(), slot })
}

impl Background {
    /// Runs a stream to its end, or until the connection is cut or the server stops.
    pub(super) async fn run<E: Display>(self, stream: impl Future<Output = Result<(), E>>) {
        let Self { what, state, cut, slot } = self;
        let tasks = state.tasks.clone();
        let running = async {
            tokio::select! {
                ended = stream => {
                    if let Err(error) = ended {
                        tracing::debug!(what, %error, "a stream ended early");
                    }
                }
                () = cut.cancelled() => {}
                () = state.shutdown.cancelled() => {}
            }
        };
        tasks.track_future(running).await;
        drop(slot);
    }
}
