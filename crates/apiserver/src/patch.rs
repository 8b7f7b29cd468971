//! Patches: JSON (RFC 6902), merge (RFC 7386) and strategic merge.

mod json_patch_ops;
mod merge;
pub mod strategic;

pub use json_patch_ops::apply_json;
pub use merge::apply_merge;
pub use strategic::apply_strategic;

#[cfg(test)]
mod tests;
