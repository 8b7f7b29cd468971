//! The time: seconds that only grow for the plan, wall-clock time for what people read.

use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Seconds since the start of the program.
    pub(crate) fn now_s(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_secs()).unwrap_or(i64::MAX)
    }

    /// The time of day, to the second, as objects have it.
    pub(crate) fn wall() -> Time {
        let now = jiff::Timestamp::now();
        Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
    }
}
