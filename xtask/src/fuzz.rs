//! `cargo xtask fuzz`: the fuzz targets, for as long as one likes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;

use crate::steps;

/// Targets are tests in modules of this name.
const TARGETS: &str = "fuzz::";
/// Inputs for each target in the first round, and in any.
const FIRST_CASES: u32 = 10_000;
const CASES_MAX: u32 = 1_000_000;

#[derive(Args)]
pub(crate) struct Options {
    /// How long, compiling included in none of it
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Targets of this crate only
    #[arg(long, value_name = "CRATE")]
    package: Option<String>,
}

/// Runs rounds of new inputs until the time is over; the first failure ends it.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let scope: Vec<&str> = match &options.package {
        Some(package) => vec!["--package", package],
        None => vec!["--workspace"],
    };
    let compile = [&["test", "--profile", "sim", "--lib", "--no-run"], scope.as_slice()].concat();
    steps::run(root, "cargo", &compile, &[])?;
    let arguments =
        [&["test", "--quiet", "--profile", "sim", "--lib"], scope.as_slice(), &["--", TARGETS]].concat();
    let (start, budget) = (Instant::now(), Duration::from_secs(options.minutes * 60));
    let (mut cases, mut total) = (FIRST_CASES, 0_u64);
    while start.elapsed() < budget {
        let round = Instant::now();
        let count = cases.to_string();
        let mut targets = 0_u64;
        let passed = steps::stream(root, "cargo", &arguments, &[("FUZZ_CASES", &count)], |line| {
            targets += passed_in(line);
            if line.contains("panicked") || line.contains("minimal failing input") {
                println!("{line}");
            }
        })?;
        ensure!(passed, "an input was found that a target fails on; it is above");
        ensure!(targets > 0, "there are no targets");
        total += targets * u64::from(cases);
        println!("{targets} targets, {cases} inputs each, {} s", round.elapsed().as_secs());
        cases = next(cases, round.elapsed(), budget.saturating_sub(start.elapsed()));
    }
    println!("{total} inputs in {} s, and nothing found", start.elapsed().as_secs());
    Ok(())
}

/// How many tests passed, if the line is a summary that says so.
fn passed_in(line: &str) -> u64 {
    let count = line.strip_prefix("test result: ok. ").and_then(|rest| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Inputs of the next round: twice as many, but no more than fit into the time.
fn next(cases: u32, took: Duration, left: Duration) -> u32 {
    let took_ms = took.as_millis().max(1);
    let fit = u128::from(cases) * left.as_millis() / took_ms;
    let fit = u32::try_from(fit).unwrap_or(u32::MAX);
    cases.saturating_mul(2).min(fit).clamp(FIRST_CASES, CASES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_grow_while_there_is_time() {
        let seconds = Duration::from_secs;
        assert_eq!(next(10_000, seconds(10), seconds(600)), 20_000);
        assert_eq!(next(100_000, seconds(100), seconds(50)), 50_000);
        assert_eq!(next(100_000, seconds(100), seconds(1)), FIRST_CASES);
        assert_eq!(next(900_000, seconds(1), seconds(600)), CASES_MAX);
    }

    #[test]
    fn what_passed_is_counted_from_the_summaries() {
        assert_eq!(passed_in("test result: ok. 7 passed; 0 failed; 0 ignored"), 7);
        assert_eq!(passed_in("running 7 tests"), 0);
    }
}
