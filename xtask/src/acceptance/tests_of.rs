//! Finds tests, and the cases that they say they show, in the source text.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where a test lives, which says what it runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// A decision, without any server
    Core,
    /// The controller's own suite
    Suite,
    /// A lab
    EndToEnd,
    /// Something else of one crate
    Part,
}

impl Level {
    pub(super) const ALL: [Self; 4] = [Self::Core, Self::Suite, Self::EndToEnd, Self::Part];

    fn of(file: &str) -> Self {
        let is_core =
            ["crates/plan/", "crates/model/", "crates/datapath/", "crates/liveness/", "crates/sim/"];
        if file.starts_with("crates/controller/tests/") {
            Self::Suite
        } else if file.starts_with("crates/egressgateway/tests/e2e/") {
            Self::EndToEnd
        } else if is_core.iter().any(|start| file.starts_with(start)) {
            Self::Core
        } else {
            Self::Part
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Suite => "controller",
            Self::EndToEnd => "end to end",
            Self::Part => "part",
        }
    }

    pub(super) fn meaning(self) -> &'static str {
        match self {
            Self::Core => "a decision, made by the pure code that makes it; no server takes part.",
            Self::Suite => "the whole controller, with its own permissions, on the embedded API server.",
            Self::EndToEnd => {
                "controller, agents and packets in a lab: on the embedded API server, and on Kubernetes' own by \
                 `cargo xtask real-cluster test`."
            }
            Self::Part => "one piece of another crate by itself; no server takes part.",
        }
    }
}

/// That a test shows a case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shown {
    /// The case
    pub(super) id: String,
    /// Where the test lives
    pub(super) level: Level,
    /// Its file, from the root of the workspace
    pub(super) file: String,
    /// Its name
    pub(super) test: String,
}

/// Everything that tests of the workspace show, sorted.
pub(super) fn all(root: &Path, ids: &[&str]) -> Result<Vec<Shown>> {
    let mut files = Vec::new();
    rust_files(&root.join("crates"), &mut files)?;
    let mut found = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let file = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        found.extend(shown_by(&file, &text, ids));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// What the tests of one file show.
fn shown_by(file: &str, text: &str, ids: &[&str]) -> Vec<Shown> {
    let scenarios = scenarios(text);
    let mut found = Vec::new();
    // What stands above the next function: cases, and whether it is a test.
    let (mut claimed, mut is_test) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        if let Some(list) = line.strip_prefix("/// Acceptance:") {
            let names = list.split(',').map(|id| id.trim().trim_end_matches('.').to_owned());
            claimed.extend(names);
        } else if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        } else if let Some(function) = function_name(line) {
            let scenario = scenarios.iter().find(|(_, body)| body == function).map(|(name, _)| name.as_str());
            let name = scenario.or_else(|| is_test.then_some(function));
            if let Some(test) = name {
                claimed.extend(named(test, ids));
                found.extend(claimed.drain(..).map(|id| Shown {
                    id,
                    level: Level::of(file),
                    file: file.to_owned(),
                    test: test.to_owned(),
                }));
            }
            (claimed, is_test) = (Vec::new(), false);
        } else if !line.starts_with("///") && !line.starts_with("//") {
            (claimed, is_test) = (Vec::new(), false);
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}

/// Name and function of every scenario of a table `("name", function)`.
fn scenarios(text: &str) -> Vec<(String, String)> {
    let Some(table) = text.split("SCENARIOS: &[Scenario]").nth(1) else { return Vec::new() };
    let table = table.split(';').next().unwrap_or_default();
    let mut parts = table.split('"').skip(1);
    let mut found = Vec::new();
    while let (Some(name), Some(rest)) = (parts.next(), parts.next()) {
        let function = rest.trim_start_matches([',', ' ', '\n']);
        let end = function.find(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
        found.push((
            name.to_owned(),
            function.get(..end.unwrap_or(function.len())).unwrap_or_default().to_owned(),
        ));
    }
    found
}

/// The cases that a test's name begins with; one without its letter stands for all its letters.
fn named(test: &str, ids: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = test;
    loop {
        let matches = |id: &&&str| {
            let wanted = id.to_lowercase().replace('-', "_");
            let family = wanted.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
            let is_family = family.ends_with(|letter: char| letter.is_ascii_digit());
            [Some(wanted.as_str()), Some(family).filter(|_| is_family)]
                .into_iter()
                .flatten()
                .any(|start| rest.strip_prefix(start).is_some_and(|more| more.starts_with('_')))
        };
        let these: Vec<&str> = ids.iter().filter(matches).copied().collect();
        let Some(first) = these.first() else { return found };
        let whole = first.to_lowercase().replace('-', "_");
        let length = if rest.starts_with(&format!("{whole}_")) { whole.len() } else { whole.len() - 1 };
        found.extend(these.iter().map(|id| (*id).to_owned()));
        rest = rest.get(length + 1..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 8] = ["G00012", "G00014a", "G00014b", "X-P1", "X-P10", "R00008", "G-usage", "P-v6only"];

    #[test]
    fn a_name_begins_with_its_cases() {
        for (name, expected) in [
            ("g00012_addresses_are_counted", vec!["G00012"]),
            ("g00014_the_eip_goes_along", vec!["G00014a", "G00014b"]),
            ("g00014b_nothing_matches", vec!["G00014b"]),
            ("r00008_x_p10_policies_wait", vec!["R00008", "X-P10"]),
            ("x_p1_two_policies", vec!["X-P1"]),
            ("g_usage_counts", vec!["G-usage"]),
            ("p_v6only_a_gateway", vec!["P-v6only"]),
            ("a_gateway", vec![]),
        ] {
            assert_eq!(named(name, &IDS), expected, "{name}");
        }
    }

    #[test]
    fn tests_and_scenarios_are_found_and_helpers_are_not() {
        let text = r#"
            pub(crate) const SCENARIOS: &[Scenario] = &[("it_leaves_with_the_eip", leaves), ("x_p1_two", two)];
            /// A pod leaves.
            /// Acceptance: X-P10, G00012
            fn leaves(world: &World) -> Result<()> {}
            fn two(world: &World) -> Result<()> {}
            /// Acceptance: R00008
            fn helper() {}
            /// Acceptance: G-usage
            #[tokio::test(flavor = "multi_thread")]
            async fn it_counts() {}
            fn x_p1_helper() {}
            #[test]
            fn r00008_twice() {}
        "#;
        let found = shown_by("crates/egressgateway/tests/e2e/x.rs", text, &IDS);
        let found: Vec<_> = found.iter().map(|shown| (shown.id.as_str(), shown.test.as_str())).collect();
        let expected = [
            ("X-P10", "it_leaves_with_the_eip"),
            ("G00012", "it_leaves_with_the_eip"),
            ("X-P1", "x_p1_two"),
            ("G-usage", "it_counts"),
            ("R00008", "r00008_twice"),
        ];
        assert_eq!(found, expected);
    }
}
