//! `cargo xtask real-cluster`: a lab on Kubernetes' own API server, controllers and scheduler, built from source.

mod programs;

use std::path::Path;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::steps::{self, Outcome};
use programs::{Programs, find_go};

/// Name of the lab that `up` starts.
const NAME: &str = "real";
/// Says to the lab, and to tests that start one, where Kubernetes' programs are.
const PROGRAMS_VARIABLE: &str = "EGRESSGATEWAY_KUBERNETES";
/// Says to tests which API server their lab is to have.
const SERVER_VARIABLE: &str = "EGRESSGATEWAY_LAB_API_SERVER";

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the programs and say where they are
    Build {
        /// Also those that only tests need: kubectl and Helm
        #[arg(long)]
        clients: bool,
    },
    /// Start a lab on them; it goes on in the background
    Up,
    /// End that lab
    Down,
    /// Run the tests that need a cluster on it
    Test {
        /// Only those whose name contains this
        filter: Option<String>,
    },
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    match &options.command {
        Command::Build { clients } => with_programs(root, *clients, |programs| {
            println!("{}", programs.directory().display());
            Ok(())
        }),
        Command::Up => with_programs(root, false, |programs| up(root, programs)),
        Command::Down => egressgateway(root, &["lab", "down", "--name", NAME], &[]),
        Command::Test { filter } => {
            with_programs(root, false, |programs| test(root, programs, filter.as_deref()))
        }
    }
}

/// The same tests as a step of `cargo xtask test`.
pub(crate) fn test_step(root: &Path) -> Result<Outcome> {
    let Some(go) = find_go() else { return Ok(Outcome::Skipped(NO_GO.to_owned())) };
    let programs = Programs::build(root, &go, false)?;
    test(root, &programs, None)?;
    Ok(Outcome::Passed(format!("on Kubernetes {}", programs.version())))
}

/// Why nothing was done, and what helps.
const NO_GO: &str =
    "Go is neither in PATH nor in /usr/local/go, and Kubernetes is built from source: https://go.dev/dl";

fn with_programs(root: &Path, clients: bool, then: impl FnOnce(&Programs) -> Result<()>) -> Result<()> {
    let Some(go) = find_go() else {
        println!("SKIP: {NO_GO}");
        return Ok(());
    };
    then(&Programs::build(root, &go, clients)?)
}

fn up(root: &Path, programs: &Programs) -> Result<()> {
    let arguments = ["lab", "up", "--name", NAME, "--api-server", "real"];
    egressgateway(root, &arguments, &[(PROGRAMS_VARIABLE, &programs.path())])
}

fn test(root: &Path, programs: &Programs, filter: Option<&str>) -> Result<()> {
    let mut arguments = vec!["test", "--package", "egressgateway", "--test", "e2e", "--"];
    arguments.extend(filter);
    let path = programs.path();
    steps::run(root, "cargo", &arguments, &[(SERVER_VARIABLE, "real"), (PROGRAMS_VARIABLE, &path)])
}

fn egressgateway(root: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let mut all = vec!["run", "--quiet", "--package", "egressgateway", "--"];
    all.extend(arguments);
    steps::run(root, "cargo", &all, env)
}
