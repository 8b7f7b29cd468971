//! A Kubernetes cluster in a box: nodes, pods and an outside host as network namespaces of one machine, with an
//! embedded API server, and enough of kubelet, scheduler and controllers that `kubectl` feels at home.
//!
//! ```text
//!   kubectl --> 127.0.0.1:PORT ---+
//!                                 |          +-- controllers (Deployment, StatefulSet, Job, nodes, …)
//!                             API server <---+-- scheduler
//!                                 |          +-- one kubelet per node --> pods' processes
//!   agents, controller ---> 10.6.0.10:6443
//!                                            one network namespace per node, pod, switch and outside host
//! ```
//!
//! Invariants:
//! - The host's network is not touched, but for one listener on loopback. Namespaces have no names: they end
//!   with the processes that hold them, and those end with the lab's first process.
//! - Works without privileges: then all of it lives in a user namespace in which the caller is root.
//! - Agents and the controller are real processes of the same program. This crate knows neither; it starts what
//!   the manifests say, as a kubelet would.
//!
//! Start reading at `sandbox` for the processes, `cluster` for what a lab consists of, `kubelet` for pods.

mod addresses;
pub mod cli;
mod cluster;
mod container;
mod control;
mod control_plane;
mod controllers;
pub mod curl;
mod demo;
mod error;
mod fabric;
mod handle;
mod install;
mod kubelet;
mod launch;
mod masquerade;
mod netns;
pub mod nettools;
mod node;
mod observer;
mod pods;
mod sandbox;
mod state_dir;
mod supervisor;
mod traffic;
mod world;

pub use addresses::{MAX_NODES, OUTSIDE_V4, OUTSIDE_V6};
pub use apiserver::auth::audit::Asked;
pub use cli::inner_main;
pub use control::{Fault, NodeStatus, Status};
pub use control_plane::{ApiServerKind, PROGRAMS_VARIABLE};
pub use error::LabError;
pub use handle::{Lab, LabOptions};
pub use observer::Sighting;
pub use traffic::{ECHO_PORT, PUSH_PORT, Summary as TrafficSummary};
