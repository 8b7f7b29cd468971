//! What a lab could leave on the machine, and what it must not touch.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the tools say of the network, and the words after which a line tells of time.
const NETWORK: [(&str, &[&str]); 6] = [
    ("ip", &["-o", "link"]),
    ("ip", &["rule"]),
    ("ip", &["-6", "rule"]),
    ("ip", &["route", "show", "table", "all"]),
    ("ip", &["-6", "route", "show", "table", "all"]),
    ("nft", &["--stateless", "list", "ruleset"]),
];
const TIMES: [&str; 1] = ["expires"];

/// What the lab must not touch: links, addresses, routes, rules and the rule set of the process' own network namespace, its
/// named namespaces and its mounts.
pub(crate) fn host_state() -> BTreeSet<String> {
    let mut state = BTreeSet::new();
    for file in ["/proc/net/route", "/proc/net/if_inet6", "/proc/net/fib_trie", "/proc/self/mounts"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        state.extend(text.lines().map(|line| format!("{file}: {line}")));
    }
    for (tool, arguments) in NETWORK {
        let Ok(output) = Command::new(tool).args(arguments).output() else {
            println!(
                "SKIP: whether `{tool} {}` stays the same: {tool} is not installed",
                arguments.join(" ")
            );
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        state.extend(text.lines().map(|line| format!("{tool} {}: {}", arguments.join(" "), timeless(line))));
    }
    state.extend(names_in("/sys/class/net").map(|name| format!("link {name}")));
    state.extend(names_in("/run/netns").map(|name| format!("netns {name}")));
    state
}

/// A line without words that change by themselves.
fn timeless(line: &str) -> String {
    let mut words = Vec::new();
    let mut all = line.split_whitespace();
    while let Some(word) = all.next() {
        if TIMES.contains(&word) {
            all.next();
        } else {
            words.push(word);
        }
    }
    words.join(" ")
}

fn names_in(directory: impl AsRef<Path>) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Command lines of processes that belong to the lab in this directory.
pub(crate) fn processes_of(directory: &Path) -> Vec<String> {
    let needle = directory.display().to_string();
    processes().filter_map(|process| command_line(&process)).filter(|line| line.contains(&needle)).collect()
}

fn processes() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path())
}

/// `None` for one that is over and only waits for its parent to hear of it.
fn command_line(process: &Path) -> Option<String> {
    let line = fs::read(process.join("cmdline")).ok().filter(|line| !line.is_empty())?;
    Some(String::from_utf8_lossy(&line).replace('\0', " "))
}

/// A lab as it can be recognised after its end.
pub(crate) struct Footprint {
    name: String,
    directory: PathBuf,
    /// The process namespace that everything of the lab runs in
    process_namespace: PathBuf,
}

impl Footprint {
    /// That of the lab that runs with this directory; `None` while it is starting.
    pub(crate) fn of(directory: &Path) -> Option<Self> {
        let pid = fs::read_to_string(directory.join("pid")).ok()?;
        let pid = pid.split_whitespace().next()?;
        let process_namespace = fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?;
        let name = directory.file_name()?.to_string_lossy().into_owned();
        Some(Self { name, directory: directory.to_path_buf(), process_namespace })
    }

    /// What is still there of it.
    pub(crate) fn traces(&self) -> Vec<String> {
        let inside = |process: &PathBuf| {
            fs::read_link(process.join("ns/pid")).is_ok_and(|namespace| namespace == self.process_namespace)
        };
        let orphans = processes().filter(inside).filter_map(|process| command_line(&process));
        let mut found: Vec<String> = orphans.chain(processes_of(&self.directory)).collect();
        let base = self.directory.parent().map(Path::to_path_buf);
        let places = ["/dev/shm", "/run", "/run/netns", "/tmp", "/var/tmp"].map(PathBuf::from);
        for place in places.into_iter().chain(base).chain([std::env::temp_dir()]) {
            let left = names_in(&place).filter(|name| name.contains(&self.name));
            found.extend(left.map(|name| place.join(name).display().to_string()));
        }
        found
    }
}
