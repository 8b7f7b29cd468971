//! The only crate that talks to Linux: native netlink, no subprocesses, synchronous.
//!
//! Three layers: netlink messages and one socket type, which nobody else sees; one module per kernel object;
//! and [`Kernel`], which reads and applies what crate `datapath` describes.
//!
//! Deliberately absent: Kubernetes, policies, decisions. What is applied was decided elsewhere, and in which order too.
//! A socket belongs to the network namespace in which it was opened; nothing here changes the caller's thread but
//! [`netns::Netns::enter`].

mod apply;
mod ip_bytes;
mod observe;
mod socket;
mod sys;
mod uapi;
mod wire;

pub mod address;
pub mod address_watch;
pub mod announce;
pub mod conntrack;
pub mod error;
pub mod link;
pub mod monitor;
pub mod neighbour;
pub mod netns;
pub mod nft;
pub mod route;
pub mod rtnetlink;
pub mod rule;
pub mod sysctl;
pub mod uplink;

pub use apply::{ApplyError, Failure, Kernel};
pub use error::{Error, Result};
pub use netns::Netns;
pub use nft::NftSocket;
pub use rtnetlink::RouteSocket;
