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
//! [`replica`] says what to do next, [`write`](mod@write) what to write, both without client and clock: the loop around them does it.
//!
//! Start reading at [`run()`].

mod certificates;
mod clock;
mod diagnosis;
mod events;
mod fence;
mod leadership;
mod metrics;
mod pace;
mod record;
mod render;
pub mod replica;
mod run;
pub mod state;
pub mod watches;
mod webhook;
pub mod write;

pub use run::{Options, run, run_with};
pub use webhook::WebhookOptions;
