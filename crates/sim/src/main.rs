//! Runs simulated clusters: `cargo xtask sim`.

use std::process::ExitCode;

use clap::Parser;
use sim::cluster::STEPS;
use sim::many::run_many;
use sim::{Options, run};

/// Runs whole clusters, each on one seed and a virtual clock
#[derive(Parser)]
struct Arguments {
    /// How many seeds
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first one
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Only this one
    #[arg(long)]
    seed: Option<u64>,
    /// Steps with faults of each
    #[arg(long, default_value_t = STEPS)]
    steps: u64,
    /// Print all that happens
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let Arguments { seeds, start, seed, steps, verbose } = Arguments::parse();
    if let Some(seed) = seed {
        return match run(Options { seed, steps, verbose }) {
            Ok(report) => {
                println!("{report:#?}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("{failure}");
                ExitCode::FAILURE
            }
        };
    }
    let every = (seeds / 20).max(1);
    let total = run_many(start, seeds, steps, |total, failure| {
        if let Some(failure) = failure {
            println!(
                "{failure}\nreplay: cargo xtask sim --seed {} --steps {steps} --verbose\n",
                failure.seed
            );
        }
        if total.seeds.is_multiple_of(every) {
            println!("{:>8} seeds, {} failed", total.seeds, total.failures.len());
        }
    });
    println!("{total}");
    for missing in total.missing() {
        println!("never happened: {missing}");
    }
    if total.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
