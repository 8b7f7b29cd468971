//! Running a list of named steps, and the report at the end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::test_output::Skip;

/// How a step ended.
pub(crate) enum Outcome {
    /// It holds; the text says what was seen, and may be empty.
    Passed(String),
    /// It could not run here; the text says why.
    Skipped(String),
}

/// What happened so far.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<(String, Duration, Result<Outcome>)>,
    /// Single tests by outcome, over all test programs
    pub(crate) tests: TestCount,
}

/// Single tests by outcome.
#[derive(Clone, Copy, Default)]
pub(crate) struct TestCount {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Report {
    /// Runs one step and notes how it ended.
    pub(crate) fn step(&mut self, name: &str, step: impl FnOnce(&mut TestCount) -> Result<Outcome>) {
        println!("==> {name}");
        let start = Instant::now();
        let outcome = step(&mut self.tests);
        if let Err(error) = &outcome {
            println!("    FAILED: {error:#}");
        }
        self.lines.push((name.to_owned(), start.elapsed(), outcome));
    }

    /// Prints the summary; `true` when nothing failed. The last line has the form `N passed, N failed, N skipped`, in
    /// single tests and, beside them, skipped steps and tests.
    pub(crate) fn print(&self, mut skips: Vec<Skip>) -> bool {
        println!("\nWhat ran:");
        let mut failed = 0;
        for (name, took, outcome) in &self.lines {
            let seconds = took.as_secs_f32();
            match outcome {
                Ok(Outcome::Passed(note)) => println!("  ok      {name:<28} {seconds:>6.1} s  {note}"),
                Ok(Outcome::Skipped(why)) => {
                    println!("  skipped {name:<28} {seconds:>6.1} s  {why}");
                    skips.push(Skip { name: Some(name.clone()), reason: why.clone() });
                }
                Err(error) => {
                    failed += 1;
                    println!("  FAILED  {name:<28} {seconds:>6.1} s  {error:#}");
                }
            }
        }
        if skips.is_empty() {
            println!("Nothing was skipped.");
        } else {
            println!("What was skipped, and why:");
            skips.iter().for_each(|skip| println!("  {skip}"));
        }
        // A failed step that is no test program counts as one failure more.
        let failures = self.tests.failed.max(failed);
        println!("{} passed, {failures} failed, {} skipped", self.tests.passed, skips.len());
        failures == 0
    }
}

/// Runs a program with inherited output; an error when it fails.
pub(crate) fn run(root: &Path, program: &str, arguments: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .envs(env.iter().copied())
        .current_dir(root)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("can't start {program}"))?;
    if !status.success() {
        bail!("`{program} {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Whether a program can be started and answers its probe.
pub(crate) fn has(program: &str, probe: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(probe).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a program, hands each line of its standard output to `line`, and returns whether it succeeded.
pub(crate) fn stream(
    root: &Path,
    program: &str,
    arguments: &[&str],
    env: &[(&str, &str)],
    mut line: impl FnMut(&str),
) -> Result<bool> {
    let mut child = Command::new(program)
        .args(arguments)
        .envs(env.iter().copied())
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {program}"))?;
    let output = child.stdout.take().context("no standard output")?;
    for text in BufReader::new(output).split(b'\n') {
        line(&String::from_utf8_lossy(&text.context("reading output")?));
    }
    Ok(child.wait().context("waiting")?.success())
}
