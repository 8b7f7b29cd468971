//! The store: objects, their history, and every rule of reading and writing them.
//!
//! A plain struct without clock, randomness, sockets and tasks. One writer at a time calls it; whoever serves
//! watches polls [`Store::events_since`] after it was told that something was written.

mod admission;
mod applying;
mod create;
mod delete;
mod history;
mod list;
mod objects;
mod patching;
mod pods;
mod request;
mod scale;
mod update;
mod watch;

pub(crate) use create::{new_suffix, new_uid};
pub use history::{EventType, WatchEvent};
pub(crate) use objects::{ObjectKey, encoded_length};
pub use objects::{Store, StoreOptions};
pub use request::{
    Body, DeleteOptions, DeleteOutcome, FieldValidation, ListRequest, ListResult, PatchType, Propagation,
    Subresource, Target, WatchBatch, WatchCursor, WatchRequest, WatchStart, WriteOptions, Written,
};
pub(crate) use update::may_go;

/// Time and randomness for one call.
pub struct Context<'a> {
    /// The wall clock.
    pub now: jiff::Timestamp,
    /// Source of uids and name suffixes.
    pub rng: &'a mut dyn FnMut() -> u64,
}

#[cfg(test)]
pub(crate) mod tests;
