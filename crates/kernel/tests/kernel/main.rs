//! Tests against the real kernel, each in network namespaces of its own.
//!
//! Runs as root, or rootless where user namespaces are allowed; says so and does nothing where neither is.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy knows no tests without the standard harness"
)]

mod compiled;
mod every_statement;
mod packets;
mod routing;
mod ruleset;
mod transactions;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Name and body of a test.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let tests: Vec<Test> =
        [routing::TESTS, ruleset::TESTS, packets::TESTS, transactions::TESTS, compiled::TESTS].concat();
    if arguments.iter().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if let Err(reason) = enter_private_namespaces() {
        println!("SKIP: all kernel tests: {reason}");
        println!("test result: ok. 0 passed; 0 failed");
        return ExitCode::SUCCESS;
    }
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in tests.iter().filter(|(name, _)| wanted(name)) {
        println!("test {name} ...");
        match catch_unwind(AssertUnwindSafe(test)) {
            Ok(()) => {
                println!("test {name} ... ok");
                passed += 1;
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                failed.push(*name);
            }
        }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {} failed; {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Leaves the host's network, while this process has one thread only.
fn enter_private_namespaces() -> Result<(), String> {
    let (user, group) = (geteuid(), getegid());
    if user.is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|errno| format!("neither root nor user namespaces: {errno}"))?;
    let write = |path: &str, text: String| {
        std::fs::write(path, text).map_err(|error| format!("writing {path}: {error}"))
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {user} 1"))?;
    write("/proc/self/gid_map", format!("0 {group} 1"))
}
