//! What a program still waits for, by name, and whether it is alive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Ready when every named guard has been dropped.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    waiting: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// Keeps a program from being ready until it is dropped.
#[derive(Debug)]
pub struct Guard {
    name: String,
    readiness: Readiness,
}

impl Readiness {
    /// A reason not to be ready; gone when the guard is dropped.
    #[must_use]
    pub fn guard(&self, name: &str) -> Guard {
        self.with(|waiting| *waiting.entry(name.to_owned()).or_default() += 1);
        Guard { name: name.to_owned(), readiness: self.clone() }
    }

    /// What is still waited for; empty when ready.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        self.with(|waiting| waiting.keys().cloned().collect())
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, usize>) -> T) -> T {
        act(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.readiness.with(|waiting| {
            if let Some(count) = waiting.get_mut(&self.name) {
                *count -= 1;
                if *count == 0 {
                    waiting.remove(&self.name);
                }
            }
        });
    }
}

/// Beats of a loop; a loop that has not beaten for too long is stuck.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    last: Arc<Mutex<Instant>>,
    deadline: Duration,
}

impl Heartbeat {
    /// A heart that is expected to beat at least that often.
    #[must_use]
    pub fn new(deadline: Duration) -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())), deadline }
    }

    /// The loop is alive.
    pub fn beat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// For how long the loop has been silent, if that is too long.
    #[must_use]
    pub fn silent_for(&self) -> Option<Duration> {
        let silent = self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        (silent > self.deadline).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_guard_is_dropped() {
        let readiness = Readiness::default();
        let (first, second, other) = (readiness.guard("a"), readiness.guard("a"), readiness.guard("b"));
        assert_eq!(readiness.waiting_for(), ["a", "b"]);
        drop(first);
        drop(other);
        assert_eq!(readiness.waiting_for(), ["a"]);
        drop(second);
        assert_eq!(readiness.waiting_for(), Vec::<String>::new());
    }

    #[test]
    fn a_silent_heart_is_noticed() {
        assert!(Heartbeat::new(Duration::MAX).silent_for().is_none());
        let stuck = Heartbeat::new(Duration::ZERO);
        while stuck.silent_for().is_none() {}
        assert!(stuck.silent_for().is_some());
    }
}
