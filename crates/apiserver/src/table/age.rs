//! Durations as people read them: `75s`, `3m17s`, `2d`.

use jiff::Timestamp;

use super::column::UNKNOWN;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// A duration in seconds with as few parts as its size deserves; a part that is zero isn't printed.
pub fn human_duration(seconds: i64) -> String {
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two_parts(seconds, MINUTE, "m", 1, "s"),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two_parts(seconds, HOUR, "h", MINUTE, "m"),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two_parts(seconds, DAY, "d", HOUR, "h"),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two_parts(seconds, YEAR, "y", DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

/// Time from an RFC 3339 moment to `now`: `<unknown>` without one, `<invalid>` for text that isn't one.
pub fn age_cell(since: Option<&str>, now: Timestamp) -> String {
    let Some(since) = since else {
        return UNKNOWN.to_owned();
    };
    match since.parse::<Timestamp>() {
        Ok(since) => human_duration(now.as_second() - since.as_second()),
        Err(_) => "<invalid>".to_owned(),
    }
}

fn two_parts(seconds: i64, unit: i64, name: &str, small_unit: i64, small_name: &str) -> String {
    match (seconds % unit) / small_unit {
        0 => format!("{}{name}", seconds / unit),
        small => format!("{}{name}{small}{small_name}", seconds / unit),
    }
}
