//! Who is alive, and which gateway carries an EIP.
//!
//! ```text
//!   datagram --> wire::open --> Engine::receive --\
//!   clock ------------------->  Engine::tick ------+--> what to send, own claims, carrier of each EIP
//!   objects ----------------->  Engine::configure -/
//! ```
//!
//! [`wire`] is the format on the network, [`detector`] tells dead peers from slow ones, [`ownership`] decides who carries
//! what, [`engine`] puts the three together for one node.
//!
//! Deliberately absent: sockets, clocks, keys, Kubernetes. Time comes in as milliseconds of any monotonic clock,
//! signatures are made and checked behind two traits.
//!
//! What holds:
//! - Two gateways that hear each other never both keep a claim: of two claims one outranks the other, and both sides
//!   judge by the claims alone, not by what they know of the cluster.
//! - A claim counts only from a gateway of that EIP's group, and only from a message that is signed by its node and newer
//!   than all before.
//! - Nothing moves while it works, but by the controller's wish; then the new gateway claims before the old one gives way.

pub mod detector;
pub mod engine;
pub mod ownership;
pub mod wire;

pub use detector::{Uplink, Verdict};
pub use engine::{Engine, Node, Outgoing, Topology};
pub use ownership::{Claim, EipGroup};
pub use wire::{Kind, Message};
