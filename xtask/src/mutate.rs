//! `cargo xtask mutate`: breaks the code on purpose, one small change at a time, and says which test notices.
//!
//! The changes stand in `xtask/mutations.yaml`. Each is made in a copy of the committed tree, so the working tree is never
//! touched; a change that no test notices is an error, as is one whose text is no longer found. What is built goes to
//! `target/mutants-target`, or where MUTANTS_TARGET_DIR says.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::steps::run;

#[derive(Args)]
pub(crate) struct Options {
    /// Only those whose name contains this
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    /// What is broken, as a sentence
    name: String,
    /// Path from the root
    file: String,
    /// Text that stands there exactly once
    find: String,
    /// What it becomes
    replace: String,
    /// Arguments of `cargo test` that must fail then
    test: Vec<String>,
    /// Whether the test starts the program, which must then be built anew
    #[serde(default)]
    program: bool,
}

pub(crate) fn mutate(root: &Path, options: &Options) -> Result<()> {
    let list = fs::read_to_string(root.join("xtask/mutations.yaml")).context("xtask/mutations.yaml")?;
    let mutations: Vec<Mutation> = serde_saphyr::from_str(&list).context("xtask/mutations.yaml")?;
    let chosen = mutations
        .iter()
        .filter(|mutation| options.name.as_ref().is_none_or(|part| mutation.name.contains(part)));
    let copy = root.join("target/mutants");
    let copy_path = copy.to_str().context("the path of the tree is no UTF-8")?;
    remove_copy(root, &copy);
    run(root, "git", &["worktree", "add", "--detach", "--force", copy_path, "HEAD"], &[])?;
    let mut survivors = Vec::new();
    for mutation in chosen {
        match try_out(&copy, mutation) {
            Ok(test) => println!("caught    {:<60} by {test}", mutation.name),
            Err(error) => {
                println!("SURVIVED  {:<60} {error:#}", mutation.name);
                survivors.push(mutation.name.as_str());
            }
        }
    }
    remove_copy(root, &copy);
    if !survivors.is_empty() {
        bail!("no test notices: {}", survivors.join("; "));
    }
    Ok(())
}

/// Removes the copy and git's note of it; that there is none is fine.
fn remove_copy(root: &Path, copy: &Path) {
    let remove =
        Command::new("git").args(["worktree", "remove", "--force"]).arg(copy).current_dir(root).output();
    drop(remove);
    drop(fs::remove_dir_all(copy));
}

/// The test that fails with the mutation.
fn try_out(copy: &Path, mutation: &Mutation) -> Result<String> {
    let path = copy.join(&mutation.file);
    let original = fs::read_to_string(&path).with_context(|| mutation.file.clone())?;
    let count = original.matches(&mutation.find).count();
    if count != 1 {
        bail!("`{}` stands {count} times in {}, not once", mutation.find, mutation.file);
    }
    fs::write(&path, original.replacen(&mutation.find, &mutation.replace, 1))?;
    let outcome = first_failure(copy, mutation);
    fs::write(&path, original)?;
    outcome
}

fn first_failure(copy: &Path, mutation: &Mutation) -> Result<String> {
    // Not the tree's own: what is built there must not be what was broken here.
    let target = std::env::var_os("MUTANTS_TARGET_DIR")
        .map_or_else(|| copy.with_file_name("mutants-target"), std::path::PathBuf::from);
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(copy).env("CARGO_TARGET_DIR", &target).stdin(Stdio::null());
        command
    };
    let mut builds = vec![[&["test", "--no-run"], strings(&mutation.test).as_slice()].concat()];
    if mutation.program {
        builds.push(vec!["build", "--package", "egressgateway"]);
    }
    for build in builds {
        let built = cargo(&build).output().context("can't start cargo")?;
        if !built.status.success() {
            bail!("it does not even build: {}", String::from_utf8_lossy(&built.stderr));
        }
    }
    let test = [&["test"], strings(&mutation.test).as_slice()].concat();
    let output = cargo(&test).output().context("can't start cargo")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = text.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    failed.map(str::to_owned).context("all tests pass")
}

fn strings(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_still_finds_its_text() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let list = fs::read_to_string(root.join("xtask/mutations.yaml")).unwrap();
        let mutations: Vec<Mutation> = serde_saphyr::from_str(&list).unwrap();
        assert!(mutations.len() >= 10);
        for mutation in mutations {
            let text = fs::read_to_string(root.join(&mutation.file)).unwrap();
            assert_eq!(text.matches(&mutation.find).count(), 1, "{}", mutation.name);
            assert_ne!(mutation.find, mutation.replace, "{}", mutation.name);
        }
    }
}
