//! The whole thing: a cluster in a box with the real controller, real agents and real packets.
//!
//! One lab serves all scenarios of a family, one after the other; each has a namespace, an EgressGateway with a pool of its own,
//! and a server with ports of its own on the outside host. What the outside host saw at those ports is the judge. Nothing
//! here measures time: conditions are waited for, with deadlines that only a broken program misses.
//!
//! `cargo test --package egressgateway --test e2e [PART OF A NAME]`. Runs as root, or rootless where user namespaces are
//! allowed; says so and does nothing where neither is.

#![expect(clippy::indexing_slicing, reason = "clippy knows no tests without the standard harness")]

mod acceptance;
mod admission;
mod answers;
mod broken;
mod conflicts;
mod destinations;
mod drift;
mod failover;
mod fake_nodes;
mod oracle;
mod overflow;
mod protocols;
mod refusals;
mod removal;
mod restarts;
mod scale;
mod scene;
mod security;
mod selection;
mod traffic;
mod uninstall;
mod views;
mod workloads;
mod world;

use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Uid, getegid, geteuid};

use world::World;

/// Beginning of the name of a directory for users that have none.
const RUNTIME_DIR: &str = "egressgateway-e2e-";

/// Scenarios of a lab whose agents serve both families.
const DUAL_STACK: [&[Scenario]; 3] = [oracle::SCENARIOS, conflicts::SCENARIOS, removal::SCENARIOS];

/// Name and body of a scenario.
type Scenario = (&'static str, fn(&World) -> anyhow::Result<()>);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let scenarios: Vec<Scenario> = [
        selection::SCENARIOS,
        destinations::SCENARIOS,
        protocols::SCENARIOS,
        refusals::SCENARIOS,
        admission::SCENARIOS,
        views::SCENARIOS,
        drift::SCENARIOS,
        restarts::SCENARIOS,
        failover::SCENARIOS,
        overflow::SCENARIOS,
        answers::SCENARIOS,
        acceptance::SCENARIOS,
        workloads::SCENARIOS,
        broken::SCENARIOS,
        scale::SCENARIOS,
        security::SCENARIOS,
        uninstall::SCENARIOS,
    ]
    .concat();
    if arguments.iter().any(|argument| argument == "--list") {
        scenarios
            .iter()
            .chain(DUAL_STACK.into_iter().flatten())
            .for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str()));
    let is_chosen = |(name, _): &&Scenario| wanted(name);
    let dual_stack = DUAL_STACK.concat();
    let labs: [(bool, Vec<&Scenario>); 2] = [
        (false, scenarios.iter().filter(is_chosen).collect()),
        (true, dual_stack.iter().filter(is_chosen).collect()),
    ];
    if labs.iter().all(|(_, chosen)| chosen.is_empty()) {
        return ExitCode::SUCCESS;
    }
    if let Err(reason) = become_privileged() {
        println!("SKIP: all end-to-end tests: {reason}");
        println!("test result: ok. 0 passed; 0 failed");
        return ExitCode::SUCCESS;
    }
    let (mut passed, mut failed) = (0, Vec::new());
    for (ipv6, chosen) in labs.iter().filter(|(_, chosen)| !chosen.is_empty()) {
        passed += play(*ipv6, chosen, &mut failed);
    }
    remove_runtime_dir();
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {} passed; {} failed; {failed:?}", passed, failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays scenarios in one lab, and says how many passed.
fn play(ipv6: bool, chosen: &[&Scenario], failed: &mut Vec<&str>) -> usize {
    let world = match World::up(ipv6) {
        Ok(world) => world,
        Err(error) => {
            println!("test the_lab_comes_up ... FAILED\n{error:#}");
            failed.push("the_lab_comes_up");
            return 0;
        }
    };
    let (mut passed, before) = (0, failed.len());
    for (name, scenario) in chosen {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| scenario(&world)));
        let took = start.elapsed().as_secs_f32();
        match outcome {
            Ok(Ok(())) => {
                println!("test {name} ... ok ({took:.1} s)");
                passed += 1;
            }
            Ok(Err(error)) => {
                println!("test {name} ... FAILED\n  after {took:.1} s: {error:#}");
                failed.push(name);
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                failed.push(name);
            }
        }
    }
    if failed.len() > before {
        world.tell_what_happened();
    }
    if let Err(error) = world.down() {
        println!("test the_lab_goes_down ... FAILED\n{error:#}");
        failed.push("the_lab_goes_down");
    }
    passed
}

/// Becomes root of a user namespace where it is not root, while this process has one thread only.
fn become_privileged() -> Result<(), String> {
    let (user, group) = (geteuid(), getegid());
    if user.is_root() {
        return Ok(());
    }
    ensure_runtime_dir(user)?;
    unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(|errno| format!("neither root nor user namespaces: {errno}"))?;
    let write = |path: &str, text: String| {
        std::fs::write(path, text).map_err(|error| format!("writing {path}: {error}"))
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {user} 1"))?;
    write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// Labs keep their files in a directory that is named after the user where XDG_RUNTIME_DIR names none; in a user namespace
/// that would be root's. So this program is started again with one of its own.
fn ensure_runtime_dir(user: Uid) -> Result<(), String> {
    if std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|directory| !directory.is_empty()) {
        return Ok(());
    }
    let directory = std::env::temp_dir().join(format!("{RUNTIME_DIR}{user}"));
    match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(format!("making {}: {error}", directory.display()));
        }
        _ => {}
    }
    let mut again = Command::new("/proc/self/exe");
    let error = again.args(std::env::args_os().skip(1)).env("XDG_RUNTIME_DIR", directory).exec();
    Err(format!("starting this program again: {error}"))
}

/// Removes what [`ensure_runtime_dir`] made.
fn remove_runtime_dir() {
    let directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).unwrap_or_default();
    if directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(RUNTIME_DIR)) {
        std::fs::remove_dir(directory).ok();
    }
}
