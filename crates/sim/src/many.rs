//! Many seeds at once, and what came of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cluster::{Failure, Options, Report, run};
use crate::faults::Fault;
use crate::packets::Counts;
use crate::people::Operation;

/// Reports of many seeds, added up.
#[derive(Debug, Default)]
pub struct Total {
    /// Seeds that were run
    pub seeds: u64,
    /// Steps
    pub steps: u64,
    /// Time that passed in the clusters
    pub virtual_ms: u64,
    /// What the slowest took to settle
    pub slowest_ms: u64,
    /// Writes
    pub writes: u64,
    /// Times that another controller led
    pub leaders: u64,
    /// How often each fault happened
    pub faults: BTreeMap<Fault, u64>,
    /// What became of packets
    pub packets: Counts,
    /// How often people did each thing
    pub operations: BTreeMap<Operation, u64>,
    /// What went wrong
    pub failures: Vec<Failure>,
}

impl Total {
    fn add(&mut self, outcome: Result<Report, Box<Failure>>) {
        self.seeds += 1;
        match outcome {
            Ok(report) => {
                self.steps += report.steps;
                self.virtual_ms += report.virtual_ms;
                self.slowest_ms = self.slowest_ms.max(report.settled_ms);
                self.writes += report.writes.values().sum::<u64>();
                self.leaders += report.leaders;
                self.packets.add(&report.packets);
                for (fault, count) in report.faults {
                    *self.faults.entry(fault).or_default() += count;
                }
                for (operation, count) in report.operations {
                    *self.operations.entry(operation).or_default() += count;
                }
            }
            Err(failure) => self.failures.push(*failure),
        }
    }

    /// Faults and deeds that did not happen once.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let faults = Fault::ALL.iter().filter(|fault| !self.faults.contains_key(fault));
        let operations = Operation::ALL.iter().filter(|operation| !self.operations.contains_key(operation));
        faults.map(ToString::to_string).chain(operations.map(|operation| format!("{operation:?}"))).collect()
    }
}

/// A table of figures.
impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:>10}", "seeds", self.seeds)?;
        writeln!(f, "{:<20} {:>10}", "steps", self.steps)?;
        writeln!(f, "{:<20} {:>10}", "writes", self.writes)?;
        writeln!(f, "{:<20} {:>10}", "changes of leaders", self.leaders)?;
        writeln!(f, "{:<20} {:>10.1} h", "virtual time", self.virtual_ms as f64 / 3.6e6)?;
        writeln!(f, "{:<20} {:>10.1} s", "slowest to settle", self.slowest_ms as f64 / 1e3)?;
        writeln!(f, "{:<20} {:>10}", "packets with an EIP", self.packets.with_eip)?;
        writeln!(f, "{:<20} {:>10}", "with a node's", self.packets.with_lent_address)?;
        writeln!(f, "{:<20} {:>10}", "held back", self.packets.held)?;
        writeln!(f, "{:<20} {:>10}", "not selected", self.packets.others)?;
        for (fault, count) in &self.faults {
            writeln!(f, "{:<20} {count:>10}", fault.to_string())?;
        }
        for (operation, count) in &self.operations {
            writeln!(f, "{:<20} {count:>10}", format!("{operation:?}"))?;
        }
        Ok(())
    }
}

/// Runs so many seeds from the first one on, on all processors. `progress` is told of each, in the order in which they end, and
/// what is wrong with it.
pub fn run_many(
    first: u64,
    seeds: u64,
    steps: u64,
    progress: impl Fn(&Total, Option<&Failure>) + Sync,
) -> Total {
    let next = AtomicU64::new(first);
    let total = Mutex::new(Total::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first.saturating_add(seeds) {
                        return;
                    }
                    let outcome = run(Options { seed, steps, verbose: false });
                    let Ok(mut total) = total.lock() else { return };
                    let is_wrong = outcome.is_err();
                    total.add(outcome);
                    progress(&total, total.failures.last().filter(|_| is_wrong));
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    total.failures.sort_by_key(|failure| failure.seed);
    total
}
