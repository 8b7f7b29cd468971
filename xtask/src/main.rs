//! Everything about the project that has an `if` in it and is not the program itself.
//!
//! `cargo xtask test` is the one command that CI runs; `cargo xtask --help` lists the rest.

mod acceptance;
mod bench;
mod checks;
mod crds;
mod fuzz;
mod generated;
mod layering;
mod mutate;
mod rbac;
mod real_cluster;
mod steps;
mod test;
mod test_output;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, check and measure the project")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check and every test there is; says at the end what ran and what was skipped, and why
    Test(test::Options),
    /// Write the CRD manifests into the chart
    Crds {
        /// Only compare, and fail when they differ
        #[arg(long)]
        check: bool,
    },
    /// Write which test shows which acceptance case
    Acceptance {
        /// Only compare, and fail when it differs
        #[arg(long)]
        check: bool,
    },
    /// Write the roles of controller and agent from what their code asks for
    Rbac {
        /// Only compare, and fail when they differ
        #[arg(long)]
        check: bool,
    },
    /// Check that the arrows between crates point down and that pure crates are pure
    CheckLayering,
    /// Break the code on purpose, in a copy, and check that a test notices each time
    Mutate(mutate::Options),
    /// A lab on Kubernetes' own API server, controllers and scheduler, built from source
    RealCluster(real_cluster::Options),
    /// Run simulated clusters, each on one seed and a virtual clock; `--help` after `--` tells more
    Sim {
        /// Arguments of the simulation: `--seeds N`, `--start S`, `--seed X`, `--steps N`, `--verbose`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Try damaged inputs on every parser of what strangers send, for longer than the tests do
    Fuzz(fuzz::Options),
    /// Run benchmarks and print them as a table beside their reference
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let root = root();
    let done = match Cli::parse().command {
        Command::Test(options) => return test::run(&root, &options),
        Command::Crds { check } => crds::run(&root, check),
        Command::Acceptance { check } => acceptance::run(&root, check),
        Command::Rbac { check } => rbac::run(&root, check),
        Command::CheckLayering => layering::check(&root),
        Command::Mutate(options) => mutate::mutate(&root, &options),
        Command::RealCluster(options) => real_cluster::run(&root, &options),
        Command::Sim { arguments } => {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let run = ["run", "--quiet", "--package", "sim", "--profile", "sim", "--"];
            steps::run(&root, "cargo", &[run.as_slice(), &arguments].concat(), &[])
        }
        Command::Fuzz(options) => fuzz::run(&root, &options),
        Command::Bench(options) => bench::run(&root, &options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
