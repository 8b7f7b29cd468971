//! The agent shell.

pub mod keys;
pub mod node_view;
pub mod objects;
pub mod probe;
