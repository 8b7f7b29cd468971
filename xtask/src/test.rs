//! `cargo xtask test`: the whole of what there is to check.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::steps::{self, Outcome, Report, TestCount};
use crate::test_output::{Skip, TestOutput};
use crate::{acceptance, checks, crds, layering, rbac, real_cluster};

#[derive(Args)]
pub(crate) struct Options {
    /// Leave out what needs no compiled tests to be run again: only the test programs
    #[arg(long)]
    tests_only: bool,
    /// Also run the suites of the control plane on Kubernetes' own API server, built from source the first time
    #[arg(long)]
    real_cluster: bool,
    /// Test programs of this crate only
    #[arg(long, value_name = "CRATE")]
    package: Option<String>,
}

/// Runs it all and prints the report.
pub(crate) fn run(root: &Path, options: &Options) -> ExitCode {
    let mut report = Report::default();
    let mut skips = Vec::new();
    if !options.tests_only {
        let passed = |done: Result<()>| done.map(|()| Outcome::Passed(String::new()));
        report.step("format", |_| passed(steps::run(root, "cargo", &["fmt", "--all", "--check"], &[])));
        report.step("layering", |_| passed(layering::check(root)));
        report.step("CRDs up to date", |_| passed(crds::run(root, true)));
        report.step("roles up to date", |_| passed(rbac::run(root, true)));
        report.step("acceptance up to date", |_| passed(acceptance::run(root, true)));
        report.step("links in documents", |_| checks::links(root));
        report.step("licences and sources", |_| licences(root));
        report.step("clippy", |_| {
            passed(steps::run(
                root,
                "cargo",
                &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
                &[],
            ))
        });
        report.step("API documentation", |_| {
            let arguments = ["doc", "--workspace", "--no-deps", "--document-private-items"];
            passed(steps::run(root, "cargo", &arguments, &[("RUSTDOCFLAGS", "-D warnings")]))
        });
    }
    report.step("build of the programs", |_| {
        steps::run(root, "cargo", &["build", "--workspace", "--bins"], &[])
            .map(|()| Outcome::Passed(String::new()))
    });
    report.step("tests", |count| tests(root, options, count, &mut skips));
    if options.package.is_none() {
        report.step("tests on a real cluster", |count| {
            if !options.real_cluster {
                return Ok(Outcome::Skipped("run only with --real-cluster".to_owned()));
            }
            real_cluster::test_step(root, count, &mut skips)
        });
    }
    if report.print(skips) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn licences(root: &Path) -> Result<Outcome> {
    if !steps::has("cargo", &["deny", "--version"]) {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed: cargo install --locked cargo-deny".to_owned(),
        ));
    }
    steps::run(root, "cargo", &["deny", "--offline", "check", "bans", "licenses", "sources"], &[])?;
    Ok(Outcome::Passed("advisories need their database, which is fetched elsewhere".to_owned()))
}

fn tests(root: &Path, options: &Options, count: &mut TestCount, skips: &mut Vec<Skip>) -> Result<Outcome> {
    let mut arguments = vec!["test", "--no-fail-fast"];
    match &options.package {
        Some(package) => arguments.extend(["--package", package]),
        None => arguments.push("--workspace"),
    }
    arguments.extend(["--", "--show-output"]);
    let mut output = TestOutput::default();
    let succeeded = steps::stream(root, "cargo", &arguments, &[], |line| {
        if output.line(line) {
            println!("{line}");
        }
    })?;
    *count = output.count;
    skips.append(&mut output.skips);
    if !succeeded {
        bail!("{} tests failed (or a test program did not build)", count.failed);
    }
    Ok(Outcome::Passed(format!("{} tests", count.passed)))
}
