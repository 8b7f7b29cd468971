//! `cargo xtask bench`: builds the benchmarks in release mode and runs them.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::steps;

#[derive(Args)]
pub(crate) struct Options {
    /// Benchmarks to run; all of them without any
    names: Vec<String>,
    /// Print one JSON object per figure instead of a table
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    steps::run(root, "cargo", &["build", "--release", "--package", "egressgateway"], &[])?;
    let mut arguments = vec!["run", "--release", "--quiet", "--package", "bench", "--"];
    arguments.extend(options.names.iter().map(String::as_str));
    if options.json {
        arguments.push("--json");
    }
    steps::run(root, "cargo", &arguments, &[])
}
