//! What test programs print: how many tests passed and failed, and what they left out and why.

use std::fmt;

use crate::steps::TestCount;

/// Tests say `SKIP: reason` on their output when this machine can't run them, or a part of them.
const SKIP: &str = "SKIP: ";

/// Something that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skip {
    /// The test or the step, where its name is known
    pub(crate) name: Option<String>,
    /// Why
    pub(crate) reason: String,
}

impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(formatter, "{name}: {}", self.reason),
            None => formatter.write_str(&self.reason),
        }
    }
}

/// Reads the output of `cargo test -- --show-output`, line by line.
#[derive(Default)]
pub(crate) struct TestOutput {
    pub(crate) count: TestCount,
    pub(crate) skips: Vec<Skip>,
    /// The test whose output this is
    test: Option<String>,
    hidden: bool,
}

impl TestOutput {
    /// Takes a line; `true` if it is worth showing: the output of tests that passed, which `--show-output` prints for the
    /// sake of the skips, is not.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.count.passed += number_before(result, " passed");
            self.count.failed += number_before(result, " failed");
            self.hidden = false;
            self.test = None;
        } else if line == "successes:" || line == "failures:" {
            self.hidden = line == "successes:";
            self.test = None;
        } else if let Some(name) = between(line, "---- ", " stdout ----") {
            self.test = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("test ") {
            // Where one test runs at a time its name comes before its output: `test NAME ...`.
            let open = |(_, rest): &(&str, &str)| rest.is_empty() || rest.contains(SKIP);
            self.test = rest.split_once(" ...").filter(open).map(|(name, _)| name.to_owned());
        }
        if let Some((_, reason)) = line.split_once(SKIP) {
            self.skips.push(Skip { name: self.test.clone(), reason: reason.trim().to_owned() });
        }
        !self.hidden && !line.is_empty()
    }
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    line.strip_prefix(before)?.strip_suffix(after)
}

/// The number that stands right before a word: `12` in `ok. 12 passed; 0 failed`.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (TestOutput, String) {
        let mut output = TestOutput::default();
        let shown: Vec<&str> = text.lines().filter(|line| output.line(line)).collect();
        let shown = shown.join("\n");
        (output, shown)
    }

    fn skip(name: &str, reason: &str) -> Skip {
        Skip { name: Some(name.to_owned()), reason: reason.to_owned() }
    }

    #[test]
    fn counts_are_read_from_a_result_line() {
        let line = "FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.09s";
        assert_eq!((number_before(line, " passed"), number_before(line, " failed")), (12, 3));
    }

    #[test]
    fn counts_of_all_programs_add_up_and_every_skip_keeps_its_test_and_reason() {
        let text = "
running 3 tests
test kubectl::lists ... ok
test access::roles ... SKIP: said by a thread of its own
ok
test broken ... FAILED

successes:

---- kubectl::lists stdout ----
something to read
SKIP: no kubectl on the PATH


successes:
    access::roles
    kubectl::lists

failures:

---- broken stdout ----
SKIP: half of it
it broke

failures:
    broken

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

test the_first ...
  SKIP: this kernel can't
test the_first ... ok
SKIP: said by nobody
test result: ok. 1 passed; 0 failed
";
        let (output, shown) = read(text);
        assert_eq!((output.count.passed, output.count.failed), (3, 1));
        let nobody = |reason: &str| Skip { name: None, reason: reason.to_owned() };
        assert_eq!(
            output.skips,
            [
                skip("access::roles", "said by a thread of its own"),
                skip("kubectl::lists", "no kubectl on the PATH"),
                skip("broken", "half of it"),
                skip("the_first", "this kernel can't"),
                nobody("said by nobody"),
            ]
        );
        assert!(!shown.contains("something to read"), "output of a test that passed: {shown}");
        assert!(shown.contains("it broke") && shown.contains("2 passed; 1 failed"), "{shown}");
    }
}
