//! Watch streams: events of the store as lines of JSON, sent as soon as they are committed.
//!
//! ```text
//!   commit -> woken task -> events_since(cursor) -> lines -> bounded channel -> response body
//! ```
//!
//! Goals, and where they pull apart: an event should reach an idle watch at once, and a hundred watches of a busy
//! kind should not cost a hundred wake-ups per write. So a task that has just delivered pauses for [`GATHER_MS`]
//! before it looks again, and takes all that happened meanwhile as one batch. The encoded line of an event is shared
//! by all watches that see it in the same form. The channel holds few chunks, and a consumer that takes none for
//! [`STALL_SECONDS_MAX`] is cut off; its cursor, not a queue, is what it lags behind with.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use crate::http::Answer;
use crate::meta;
use crate::server::state::State;
use crate::status_error::StatusError;
use crate::store::{EventType, WatchCursor, WatchEvent, WatchStart};
use crate::table::{IncludeObject, Printer, partial_object_metadata};

/// Pause after a delivery, in which further events gather.
const GATHER_MS: u64 = 3;
/// A chunk is sent once it has this size.
const CHUNK_BYTES: usize = 32 * 1024;
/// Chunks that wait for the socket.
const CHUNKS_MAX: usize = 4;
/// How long a consumer may take nothing.
const STALL_SECONDS_MAX: u64 = 30;
/// How often a watch that asked for bookmarks gets one.
const BOOKMARK_SECONDS: u64 = 60;
/// How long before its end a watch gets a last bookmark.
const LAST_BOOKMARK_SECONDS: u64 = 2;
/// A watch without a timeout of its own ends after this, and up to as much again.
const TIMEOUT_SECONDS_DEFAULT: u64 = 30 * 60;

/// How the events of a watch look.
pub(crate) enum Rendering {
    /// Whole objects.
    Objects,
    /// `PartialObjectMetadata`.
    Metadata,
    /// A table of one row per event.
    Table(Box<Printer>, IncludeObject),
}

/// What a client asked for beside the selection.
pub(crate) struct Settings {
    pub(crate) rendering: Rendering,
    pub(crate) bookmarks: bool,
    /// When the stream ends; a default applies if absent.
    pub(crate) timeout: Option<Duration>,
}

/// Opens the stream. The head of the answer is sent at once, whether there are events or not.
pub(crate) fn open(
    state: Arc<State>,
    start: WatchStart,
    settings: Settings,
    slot: OwnedSemaphorePermit,
) -> Answer {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let tasks = state.tasks.clone();
    tasks.spawn(async move {
        let mut stream = Stream { state, sender, settings, columns_sent: false };
        // However it ends, the client sees a clean end of the body and watches again from where it was.
        let _ = stream.run(start).await;
        drop(slot);
    });
    let mut answer = Response::new(Body::from_stream(ReceiverStream::new(receiver)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer
}

/// The stream is over: its client is gone or doesn't read, or there is nothing more to come.
struct Over;

struct Stream {
    state: Arc<State>,
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    settings: Settings,
    columns_sent: bool,
}

impl Stream {
    async fn run(&mut self, start: WatchStart) -> Result<(), Over> {
        self.deliver(&start.events).await?;
        let mut cursor = start.cursor.ok_or(Over)?;
        drop(start.events);
        let mut commits = self.state.commits();
        let shutdown = self.state.shutdown.clone();
        let sender = self.sender.clone();
        let deadline = Instant::now() + self.timeout();
        let mut bookmark = next_bookmark(deadline);
        loop {
            let committed = *commits.borrow_and_update();
            if committed > cursor.resource_version() && self.deliver_since(&mut cursor).await? {
                sleep(Duration::from_millis(GATHER_MS)).await;
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return Err(Over),
                () = sender.closed() => return Err(Over),
                changed = commits.changed() => changed.map_err(|_| Over)?,
                () = sleep_until(deadline) => return Ok(()),
                () = sleep_until(bookmark), if self.settings.bookmarks => {
                    let event = self.state.read(|store| store.bookmark(&cursor));
                    self.deliver(&[event]).await?;
                    bookmark = next_bookmark(deadline);
                }
            }
        }
    }

    fn timeout(&self) -> Duration {
        let spread =
            Duration::from_secs(TIMEOUT_SECONDS_DEFAULT + self.state.draw() % TIMEOUT_SECONDS_DEFAULT);
        self.settings.timeout.unwrap_or(spread)
    }

    /// Delivers all that happened since the cursor; says whether there was anything.
    async fn deliver_since(&mut self, cursor: &mut WatchCursor) -> Result<bool, Over> {
        let mut some = false;
        loop {
            let limit = self.state.limits.watch_batch_events;
            match self.state.read(|store| store.events_since(cursor, limit)) {
                Ok(batch) => {
                    some |= !batch.events.is_empty();
                    self.deliver(&batch.events).await?;
                    // Only an empty batch tells that the kind is still served: its last events come before its end.
                    if batch.events.is_empty() && !batch.more {
                        return Ok(some);
                    }
                }
                // The kind isn't served any more.
                Err(error) if error.code == 404 => return Err(Over),
                Err(error) => {
                    self.deliver(&[error_event(&error)]).await?;
                    return Err(Over);
                }
            }
        }
    }

    async fn deliver(&mut self, events: &[WatchEvent]) -> Result<(), Over> {
        let mut chunk = BytesMut::new();
        for event in events {
            chunk.extend_from_slice(&self.line(event));
            if chunk.len() >= CHUNK_BYTES {
                self.send(chunk.split().freeze()).await?;
            }
        }
        if chunk.is_empty() { Ok(()) } else { self.send(chunk.freeze()).await }
    }

    async fn send(&self, chunk: Bytes) -> Result<(), Over> {
        let patience = Duration::from_secs(STALL_SECONDS_MAX);
        self.sender.send_timeout(Ok(chunk), patience).await.map_err(|error| {
            if let mpsc::error::SendTimeoutError::Timeout(_) = error {
                tracing::warn!("a watch is cut off, its client does not read");
            }
            Over
        })
    }

    /// The event as a line of JSON in the form that the client asked for.
    fn line(&mut self, event: &WatchEvent) -> Bytes {
        let object = match (&self.settings.rendering, event.kind) {
            (Rendering::Objects, _) | (_, EventType::Error) => return event.json_line(),
            (Rendering::Metadata, _) => partial_object_metadata(&event.object),
            (Rendering::Table(printer, include), kind) => {
                let row = (kind != EventType::Bookmark).then_some(&*event.object);
                let metadata = json!({ "resourceVersion": meta::resource_version(&event.object) });
                let mut table = printer.table(metadata, row, *include, Timestamp::now());
                if let (true, Some(map)) = (self.columns_sent, table.as_object_mut()) {
                    // Clients know the columns from the first event on.
                    map.insert("columnDefinitions".to_owned(), Value::Null);
                }
                self.columns_sent = true;
                table
            }
        };
        let mut line = BytesMut::new().writer();
        // Writing to memory can't fail, and the values here have text keys only.
        let _ = serde_json::to_writer(&mut line, &json!({ "type": event.kind.as_str(), "object": object }));
        let mut line = line.into_inner();
        line.put_u8(b'\n');
        line.freeze()
    }
}

fn error_event(error: &StatusError) -> WatchEvent {
    WatchEvent::new(EventType::Error, Arc::new(error.to_json()), 0)
}

/// A minute from now, but in time before the end.
fn next_bookmark(deadline: Instant) -> Instant {
    let regular = Instant::now() + Duration::from_secs(BOOKMARK_SECONDS);
    match deadline.checked_sub(Duration::from_secs(LAST_BOOKMARK_SECONDS)) {
        Some(last) if last > Instant::now() => regular.min(last),
        // The last one was sent; what is left is shorter than any regular interval.
        _ => regular,
    }
}

#[cfg(test)]
mod tests;
