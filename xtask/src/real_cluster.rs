//! `cargo xtask real-cluster`: a lab on Kubernetes' own API server, controllers and scheduler, built from source.

mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};

use crate::steps::{self, Outcome, TestCount};
use crate::test_output::{Skip, TestOutput};
use programs::{Programs, find_go};

/// The program under test, as an argument of cargo.
const RUN: [&str; 5] = ["run", "--quiet", "--package", "egressgateway", "--"];
/// Name of the lab that `up` starts.
const NAME: &str = "real";
/// Name of the lab that tests start.
const TEST_NAME: &str = "real-test";
/// Says to the conformance tests which cluster to run on.
const CONFORMANCE_VARIABLE: &str = "CONFORMANCE_KUBECONFIG";
/// Says to the conformance tests where the server can call them.
const WEBHOOK_HOST_VARIABLE: &str = "CONFORMANCE_WEBHOOK_HOST";
/// The node on which they run, its address, and where it finds the API server, as in every lab.
const NODE: &str = "controller-node-1";
const NODE_ADDRESS: &str = "10.6.0.11";
const SERVER_ADDRESS: &str = "https://10.6.0.10:6443";
/// Addresses that lead to loopback where the controller's tests run, for Kubernetes calls no webhook on 127.0.0.1.
const LOOPBACK: &str = "198.18.0.1/15";
/// Says to the lab, and to tests that start one, where Kubernetes' programs are.
const PROGRAMS_VARIABLE: &str = "EGRESSGATEWAY_KUBERNETES";
/// Says to tests which API server their lab is to have.
const SERVER_VARIABLE: &str = "EGRESSGATEWAY_LAB_API_SERVER";

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
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
    match &options.action {
        Action::Build { clients } => with_programs(root, *clients, |programs| {
            println!("{}", programs.directory().display());
            Ok(())
        }),
        Action::Up => with_programs(root, false, |programs| up(root, programs)),
        Action::Down => egressgateway(root, &["lab", "down", "--name", NAME], &[]),
        Action::Test { filter } => with_programs(root, true, |programs| {
            test(root, programs, filter.as_deref(), &mut TestOutput::default())
        }),
    }
}

/// The same tests as a step of `cargo xtask test`.
pub(crate) fn test_step(root: &Path, count: &mut TestCount, skips: &mut Vec<Skip>) -> Result<Outcome> {
    let Some(go) = find_go() else { return Ok(Outcome::Skipped(NO_GO.to_owned())) };
    let programs = Programs::build(root, &go, true)?;
    let mut output = TestOutput::default();
    let tested = test(root, &programs, None, &mut output);
    count.passed += output.count.passed;
    count.failed += output.count.failed;
    skips.append(&mut output.skips);
    tested?;
    Ok(Outcome::Passed(format!("{} tests on Kubernetes {}", output.count.passed, programs.version())))
}

/// Why nothing was done, and what helps.
const NO_GO: &str =
    "no Go 1.24 or newer in PATH or /usr/local/go, and Kubernetes is built from source: https://go.dev/dl";

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

fn test(root: &Path, programs: &Programs, filter: Option<&str>, output: &mut TestOutput) -> Result<()> {
    // Each suite of tests says by itself what it missed; the others run even if one fails.
    let conformance = conformance(root, programs, filter, output);
    let controller = controller(root, programs, filter, output);
    let path = programs.path();
    let environment = [(SERVER_VARIABLE, "real"), (PROGRAMS_VARIABLE, path.as_str())];
    let end_to_end = cargo_test(root, "egressgateway", "e2e", filter, &environment, output);
    conformance.and(controller).and(end_to_end).and(clients(root, programs, filter, output))
}

/// kubectl of the cluster's own release on our API server, and Helm on either.
fn clients(root: &Path, programs: &Programs, filter: Option<&str>, output: &mut TestOutput) -> Result<()> {
    let path = programs.path();
    let search = std::env::var("PATH").unwrap_or_default();
    let search = format!("{path}:{search}");
    let kubectl = filter.or(Some("kubectl::"));
    cargo_test(root, "apiserver", "suite", kubectl, &[("PATH", &search)], output)?;
    let helm = filter.or(Some("helm::"));
    for server in ["embedded", "real"] {
        let environment = [(SERVER_VARIABLE, server), (PROGRAMS_VARIABLE, path.as_str())];
        cargo_test(root, "lab", "lab", helm, &environment, output)?;
    }
    Ok(())
}

/// The API server's contract, on a cluster with nothing in it.
fn conformance(
    root: &Path,
    programs: &Programs,
    filter: Option<&str>,
    output: &mut TestOutput,
) -> Result<()> {
    let path = programs.path();
    let up = ["lab", "up", "--name", TEST_NAME, "--api-server", "real", "--nodes", "1", "--no-install"];
    egressgateway(root, &up, &[(PROGRAMS_VARIABLE, &path)])?;
    let outcome = conformance_inside(root, filter, output);
    outcome.and(egressgateway(root, &["lab", "down", "--name", TEST_NAME], &[]))
}

/// The controller's own suite. Each of its tests starts servers by itself, and webhooks at addresses that Kubernetes calls.
fn controller(root: &Path, programs: &Programs, filter: Option<&str>, output: &mut TestOutput) -> Result<()> {
    let up = ["lab", "up", "--name", TEST_NAME, "--nodes", "1", "--no-install"];
    egressgateway(root, &up, &[])?;
    let outcome = controller_inside(root, programs, filter, output);
    outcome.and(egressgateway(root, &["lab", "down", "--name", TEST_NAME], &[]))
}

fn controller_inside(
    root: &Path,
    programs: &Programs,
    filter: Option<&str>,
    output: &mut TestOutput,
) -> Result<()> {
    let suite = ["--package", "controller", "--test", "suite"];
    steps::run(root, "cargo", &[&["test", "--no-run"], suite.as_slice()].concat(), &[])?;
    let enter = [RUN.as_slice(), &["lab", "exec", "--name", TEST_NAME, NODE, "--"]].concat();
    let addresses = ["ip", "address", "add", LOOPBACK, "dev", "lo"];
    steps::run(root, "cargo", &[enter.as_slice(), &addresses].concat(), &[])
        .context("give the tests addresses that lead to loopback")?;
    let mut environment = environment_inside(root)?;
    environment.push(format!("{SERVER_VARIABLE}=real"));
    environment.push(format!("{PROGRAMS_VARIABLE}={}", programs.path()));
    // The lab's own /tmp has no room for the files of an etcd.
    let scratch = root.join("target/real-cluster");
    fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
    environment.push(format!("TMPDIR={}", scratch.display()));
    let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
    let test = [&["cargo", "test", "--offline"], suite.as_slice()].concat();
    let mut arguments = [enter.as_slice(), &["env"], &environment, &test, &["--", "--show-output"]].concat();
    arguments.extend(filter);
    stream_tests(root, &arguments, &[], "controller", output)
}

/// A server that has seen all of its cluster's life remembers every version; one that was restarted refuses old ones, as
/// any does that is in use.
fn forget_the_past(root: &Path) -> Result<()> {
    for fault in ["stop-api-server", "start-api-server"] {
        egressgateway(root, &["lab", "fault", "--name", TEST_NAME, fault], &[])?;
    }
    Ok(())
}

/// The suite runs on a node of the lab, where the API server can call its webhooks.
fn conformance_inside(root: &Path, filter: Option<&str>, output: &mut TestOutput) -> Result<()> {
    forget_the_past(root)?;
    let kubeconfig = write_kubeconfig(root)?;
    let file = kubeconfig.to_str().context("the path of the tree is no UTF-8")?;
    let suite = ["--package", "apiserver", "--test", "conformance"];
    // There is no network inside, and nothing to be built.
    steps::run(root, "cargo", &[&["test", "--no-run"], suite.as_slice()].concat(), &[])?;
    let mut environment = environment_inside(root)?;
    environment.push(format!("{CONFORMANCE_VARIABLE}={file}"));
    environment.push(format!("{WEBHOOK_HOST_VARIABLE}={NODE_ADDRESS}"));
    let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
    let enter = [RUN.as_slice(), &["lab", "exec", "--name", TEST_NAME, NODE, "--", "env"]].concat();
    let test = [&["cargo", "test", "--offline"], suite.as_slice()].concat();
    let mut arguments = [enter.as_slice(), &environment, &test, &["--", "--show-output"]].concat();
    arguments.extend(filter);
    stream_tests(root, &arguments, &[], "conformance", output)
}

/// What a program inside needs of this one's environment, as arguments of `env`.
fn environment_inside(root: &Path) -> Result<Vec<String>> {
    let root = root.to_str().context("the path of the tree is no UTF-8")?;
    let kept = ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"];
    let kept = kept.into_iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    let own = ["-C".to_owned(), root.to_owned()];
    Ok(own.into_iter().chain(kept).collect())
}

/// The lab keeps its own copy where only it knows. This one has the address at which nodes reach the server.
fn write_kubeconfig(root: &Path) -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(RUN).args(["lab", "kubeconfig", "--name", TEST_NAME]);
    let output = command.current_dir(root).output().context("can't start cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8(output.stdout).context("read the kubeconfig")?;
    let text = at_address(&text, SERVER_ADDRESS);
    let path = root.join("target/real-cluster.kubeconfig");
    fs::create_dir_all(root.join("target")).and_then(|()| fs::write(&path, text))?;
    path.canonicalize().context("find the kubeconfig")
}

/// A kubeconfig with another address of the server.
fn at_address(kubeconfig: &str, address: &str) -> String {
    let replaced = kubeconfig.lines().map(|line| match line.split_once("server: ") {
        Some((indent, _)) => format!("{indent}server: {address}\n"),
        None => format!("{line}\n"),
    });
    replaced.collect()
}

fn cargo_test(
    root: &Path,
    package: &str,
    suite: &str,
    filter: Option<&str>,
    environment: &[(&str, &str)],
    output: &mut TestOutput,
) -> Result<()> {
    let mut arguments = vec!["test", "--package", package, "--test", suite, "--", "--show-output"];
    arguments.extend(filter);
    stream_tests(root, &arguments, environment, suite, output)
}

fn stream_tests(
    root: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
    suite: &str,
    output: &mut TestOutput,
) -> Result<()> {
    let succeeded = steps::stream(root, "cargo", arguments, environment, |line| {
        if output.line(line) {
            println!("{line}");
        }
    })?;
    ensure!(succeeded, "{suite} failed on a real cluster");
    Ok(())
}

fn egressgateway(root: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Result<()> {
    steps::run(root, "cargo", &[RUN.as_slice(), arguments].concat(), env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_of_the_server_is_replaced() {
        let text = "clusters:\n- cluster:\n    server: https://127.0.0.1:3333\n  name: lab\n";
        let expected = "clusters:\n- cluster:\n    server: https://10.6.0.10:6443\n  name: lab\n";
        assert_eq!(at_address(text, SERVER_ADDRESS), expected);
    }
}
