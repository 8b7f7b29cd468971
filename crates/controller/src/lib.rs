//! The controller: the shell around [`plan`].
//!
//! ```text
//!   watches -> channel -> State::absorb -> plan() -> violations()? -> writes -> State
//!                                            |                          |
//!                                            +--- notices -> Events     +-- conflict or failure: plan again
//! ```
//!
//! One loop, one owner of all state: drain what is queued, plan once, write what differs. What it wrote it knows at once,
//! and does not wait for the watch to tell it.
//!
//! Invariants: nothing is written before every kind has been listed, by a replica that does not lead, or of a plan that
//! the judge objects to. Port blocks are taken from one node before they are given to another.
//!
//! Deliberately absent: decisions. Which node, address or port is [`plan`]'s business alone.
//!
//! Start reading at [`run()`].

mod clock;
mod events;
mod metrics;
mod record;
mod render;
mod run;
mod state;
mod watches;
mod write;

pub use run::{Options, run, run_with};
