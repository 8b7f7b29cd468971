//! Names that have to fit into less than their own length.

/// The text, or as much of its beginning as fits with a hash of the whole: what differs stays different.
#[must_use]
pub fn shortened(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let hash = format!("-{:016x}", fnv(text));
    let kept: String = text.chars().take(max.saturating_sub(hash.len())).collect();
    format!("{}{hash}", kept.trim_end_matches(['-', '.']))
}

/// FNV-1a: stable across versions and machines.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
