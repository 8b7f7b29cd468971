//! Whole clusters in one thread, on one seed and a virtual clock: no socket, no real time.
//!
//! ```text
//!   people, scheduler, kubelets --+
//!                                 v
//!   controllers --writes--> API server (the real store) --events--> controllers, agents
//!        ^                        |
//!        +------- faults ---------+--> judge, after every write
//! ```
//!
//! The code is the real one: the API server's store, the controllers' snapshots, plans and writes. What is simulated is
//! around it: time, the network, processes, people.
//!
//! First a phase of safety: anything may go wrong, and nothing may be wrong. Then one of liveness: nothing goes wrong any
//! more, and everything must settle within a bounded time, in a state that a controller which knows nothing agrees with.
//!
//! Invariants: the same seed gives the same run, on every machine; a fault is counted when it happens.
//!
//! Start reading at [`cluster`], then [`replica`] and [`judge`].

pub mod agent;
pub mod cluster;
pub mod cold;
pub mod faults;
pub mod feed;
pub mod judge;
pub mod machine;
pub mod many;
pub mod nodes;
pub mod objects;
pub mod packets;
pub mod people;
pub mod random;
pub mod replica;
pub mod server;

pub use cluster::{Failure, Options, Report, run};
