//! Tests of the whole core: views, their rulesets, and what packets do there.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail")]

mod explain;
mod judge;
mod packets;
mod rulesets;
mod transitions;
mod worlds;
