//! The agent's core: what one node's kernel shall hold, as a pure function of what the node knows.
//!
//! ```text
//! NodeView --compile--> DatapathState --diff against what is there--> Transaction --crate `kernel`--> Linux
//! ```
//!
//! Deliberately absent: Linux, Kubernetes, clocks, async. The same view gives the same state, byte for byte.
//!
//! ```text
//! view        what the node knows               numbering   ids, slots and marks, stable across restarts
//! compile     links, routes, rules, nft table   class       overlapping policies -> disjoint intervals
//! diff        the smallest transaction          violations  an independent judge of any state
//! explain     why a packet leaves as it does
//! fake_kernel executes transactions             trace       walks packets through nodes: oracle of tests
//! ```
//!
//! Invariants:
//! - A packet that a policy selects has its EIP as source when it leaves, or does not leave.
//! - Every table that a mark leads to ends in a route that refuses; ways exist before rules use them and go after them.
//! - A flow keeps its egress id for life; no id or number changes its meaning while the kernel may hold it.
//! - A pod, an EIP's move or a lease costs single elements; a second pass has nothing to do.
//! - Bits of packet marks that belong to others stay (but on replies to EIPs, whose mark is new), and ours end before the
//!   tunnel device.
//!
//! Start with [`view`] and [`compile`](mod@compile), then [`nft`].

pub mod class;
pub mod compile;
pub mod diff;
pub mod explain;
pub mod fake_kernel;
pub mod nft;
pub mod numbering;
pub mod state;
pub mod trace;
pub mod transaction;
pub mod view;
pub mod violations;
