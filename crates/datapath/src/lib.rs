//! The agent's core: what one node's kernel shall hold, as a pure function of what the node knows.
//!
//! ```text
//! NodeView --compile--> DatapathState --diff against what is there--> Transaction --crate `kernel`--> Linux
//! ```
//!
//! Deliberately absent: Linux, Kubernetes, clocks, async. The same view gives the same state, byte for byte.
//!
//! Start with [`state`], then [`nft`].

pub mod class;
pub mod compile;
pub mod diff;
pub mod fake_kernel;
pub mod nft;
pub mod numbering;
pub mod state;
pub mod trace;
pub mod transaction;
pub mod view;
pub mod violations;
