//! Drives what the store does by itself: garbage collection, namespaces, expiry.

use std::sync::Arc;
use std::time::Duration;

use super::state::State;

/// How often time passes for the store when nobody writes.
const IDLE_MS: u64 = 500;
/// How long writes are gathered before the store looks at their consequences.
const GATHER_MS: u64 = 5;

pub(super) async fn run(state: Arc<State>) {
    let mut commits = state.commits();
    let mut pause_ms = GATHER_MS;
    loop {
        tokio::select! {
            () = state.shutdown.cancelled() => return,
            changed = commits.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(GATHER_MS)).await;
            }
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
        }
        // Whatever is written before this line is seen by the tick below; its own writes wake the next round.
        commits.mark_unchanged();
        if !state.outage.is_on() {
            // A tick does a bounded amount of work, so that requests get their turn in between.
            let more = state.write(|store, context| store.tick(context));
            pause_ms = if more { GATHER_MS } else { IDLE_MS };
        }
    }
}
