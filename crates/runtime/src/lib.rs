//! What the controller and the agent have in common as programs: tasks, configuration, logs, watches, writes.
//!
//! ```text
//!   Supervisor   owns every task; the first one that ends ends the program, and a signal ends it in order
//!   watch        a kind of objects -> a channel of changes, for ever, whatever the API server does
//!   writer       merge patches with a version, conflicts told apart from refusals
//!   lease        one leader at a time
//!   admin        /healthz /readyz /metrics
//! ```
//!
//! Invariants: no task is detached; no channel is unbounded; configuration is read once and then is a value.
//!
//! Deliberately absent: everything about egress but the names of settings.

pub mod admin;
pub mod client;
pub mod config;
pub mod lease;
pub mod readiness;
pub mod supervisor;
pub mod telemetry;
pub mod watch;
pub mod writer;
