//! The vocabulary of the project: plain values that every other crate speaks in.
//!
//! A value of these types is valid by construction (parse, don't validate): a [`PortBlock`] is aligned and inside
//! 1024..=65535, an [`IpPool`] is sorted and free of overlaps, an [`EipPair`] has at least one family.
//!
//! Deliberately absent: Kubernetes wire types, Linux, clocks, randomness, async. Everything here is deterministic, so
//! that two nodes that know the same facts come to the same answer ([`gateway_order`] depends on it).
//!
//! Start with [`eip`], [`port_block`] and [`mark`].

pub mod cluster;
pub mod eip;
pub mod flow;
pub mod gateway;
pub mod gateway_order;
pub mod interval_map;
pub mod mark;
pub mod policy;
pub mod pool;
pub mod port_block;
pub mod port_lease;
pub mod reason;
pub mod selector;
pub mod short_name;
pub mod tunnel;
pub mod tunnel_mac;

pub use eip::EipPair;
pub use pool::IpPool;
pub use port_block::{PortBlock, PortSpace};
pub use reason::Reason;
