//! The agent shell.

pub mod keys;
pub mod probe;
