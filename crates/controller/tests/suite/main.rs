//! The controller as a whole, against an API server in this process, over TLS on loopback.

mod admission;
mod behaviour;
mod broken;
mod harness;
mod moves;
mod security;
mod tools;
