//! Tests of the whole core: views, their rulesets, and what packets do there.

mod rulesets;
mod transitions;
mod worlds;
