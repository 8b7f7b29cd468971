//! The time: seconds that only grow for the plan, wall-clock time for what people read.

use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// What has passed since the start of the program.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The time of day, to the second, as objects have it.
    pub(crate) fn wall() -> Time {
        let now = jiff::Timestamp::now();
        Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
    }
}
