//! The agent: the shell around `datapath` and `liveness` on every node.
//!
//! ```text
//!   watches --events--> control loop --one pass--> kernel
//!                         ^    |
//!                 report  |    | setup, uplink           status --patches--> API server
//!                         |    v                            ^
//!                       probe thread <--UDP--> peers        | wishes (from the loop)
//! ```
//!
//! Deliberately absent: decisions. What the kernel shall hold is `datapath`'s, who carries an EIP is `liveness`'.
//!
//! What holds:
//! - Nothing is done before all lists are complete, and nothing is flushed: a start that finds all as it should be changes
//!   nothing.
//! - The probe thread blocks on nothing. The way from its verdict to the kernel passes no API server.
//! - At the end the kernel is left as it is.
//!
//! Start with [`control_loop`] and [`converge`].

pub mod activation;
pub mod announcer;
mod cleanup;
pub mod control_loop;
pub mod converge;
pub mod debug;
pub mod defence;
mod files;
mod heartbeat;
pub mod keys;
pub mod linux;
pub mod metrics;
pub mod node_view;
pub mod objects;
pub mod port_use;
pub mod probe;
pub mod run;
pub mod snapshot;
pub mod status;
pub mod sysctl_record;
pub mod watches;
#[cfg(test)]
mod world;

pub use cleanup::{Removed, cleanup, take_off};
pub use run::run;
