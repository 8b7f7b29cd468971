//! The controller as a whole, against an API server of its own, over TLS on loopback: the embedded one, in this process, or
//! with `EGRESSGATEWAY_LAB_API_SERVER=real` Kubernetes' own (`cargo xtask real-cluster test` does that, in a network
//! namespace where 198.18.0.0/15 leads to loopback).

mod admission;
mod behaviour;
mod broken;
mod harness;
mod moves;
mod security;
mod server;
mod tools;
