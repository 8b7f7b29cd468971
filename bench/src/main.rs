//! Benchmarks: each prints its figures beside a reference that was measured in the same run, because machines are noisy.
//!
//! Nothing here asserts: a slow machine is no failure. `cargo xtask bench [NAME…] [--json]` builds all in release mode and
//! runs them; `docs/performance.md` keeps results.

mod api_server;
mod failover;
mod figure;
mod lab_up;
mod latency;
mod plain;
mod policies;
mod session;
mod throughput;
mod traffic;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use figure::Figures;

#[derive(Parser)]
#[command(
    name = "bench",
    about = "Measure the project beside a reference",
    args_conflicts_with_subcommands = true
)]
struct Cli {
    /// Benchmarks to run; all without any
    names: Vec<String>,
    /// Print one JSON object per figure
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    tool: Option<Tool>,
}

#[derive(Subcommand)]
enum Tool {
    /// Makes or answers traffic; the benchmarks run it in pods
    #[command(hide = true)]
    Traffic(traffic::Options),
}

type Benchmark = fn(&mut Figures) -> Result<()>;

const BENCHMARKS: &[(&str, Benchmark)] = &[
    ("lab-up", lab_up::run),
    ("api-server", api_server::run),
    ("policies", policies::run),
    ("latency", latency::run),
    ("failover", failover::run),
    ("throughput", throughput::run),
];

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.tool {
        Some(Tool::Traffic(options)) => traffic::run(options),
        None => run(&cli),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let known = || BENCHMARKS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if let Some(name) = cli.names.iter().find(|name| !BENCHMARKS.iter().any(|(known, _)| known == name)) {
        anyhow::bail!("there is no benchmark `{name}`; choose from {}", known());
    }
    let mut failed = Vec::new();
    let mut figures = Figures::new(cli.json);
    for (name, benchmark) in BENCHMARKS {
        if !cli.names.is_empty() && !cli.names.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("running {name} ...");
        figures.begin(name);
        if let Err(error) = benchmark(&mut figures) {
            eprintln!("{name} could not be measured: {error:#}");
            failed.push(*name);
        }
        figures.print();
    }
    if !failed.is_empty() {
        anyhow::bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}
