//! Flags as Go programs take them: `-x v`, `-x=v`, `--x v`, and booleans that need no value.

use std::collections::BTreeMap;

/// What is wrong with the arguments.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FlagError {
    /// Help was asked for.
    #[error("help")]
    Help,
    /// There is no such flag.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// The flag needs a value.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// Not a flag.
    #[error("unexpected argument {0:?}")]
    Unexpected(String),
    /// The value makes no sense.
    #[error("invalid value {value:?} for flag -{name}: expected {expected}")]
    BadValue {
        /// The flag.
        name: String,
        /// What was given.
        value: String,
        /// What would do.
        expected: String,
    },
    /// A flag without which nothing works.
    #[error("flag -{0} must be given")]
    Missing(&'static str),
}

impl FlagError {
    pub(super) fn bad(name: &str, value: &str, expected: &str) -> Self {
        Self::BadValue { name: name.to_string(), value: value.to_string(), expected: expected.to_string() }
    }
}

/// Flags by name, as they were given.
#[derive(Debug, Default)]
pub(super) struct Flags(BTreeMap<String, String>);

impl Flags {
    /// Reads arguments; `valued` and `boolean` are the flags that exist.
    pub(super) fn parse(arguments: &[String], valued: &[&str], boolean: &[&str]) -> Result<Self, FlagError> {
        let mut flags = BTreeMap::new();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                return Err(FlagError::Unexpected(argument.clone()));
            };
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (flag, None),
            };
            if name == "h" || name == "help" {
                return Err(FlagError::Help);
            }
            let value = if boolean.contains(&name) {
                inline.unwrap_or_else(|| "true".to_string())
            } else if valued.contains(&name) {
                let value = inline.or_else(|| rest.next().cloned());
                value.ok_or_else(|| FlagError::NoValue(name.to_string()))?
            } else {
                return Err(FlagError::Unknown(name.to_string()));
            };
            flags.insert(name.to_string(), value);
        }
        Ok(Self(flags))
    }

    pub(super) fn text(&self, name: &str, default: &str) -> String {
        self.0.get(name).cloned().unwrap_or_else(|| default.to_string())
    }

    pub(super) fn number<N: std::str::FromStr + Copy>(&self, name: &str, default: N) -> Result<N, FlagError> {
        let parse = |value: &String| value.parse().map_err(|_| FlagError::bad(name, value, "a number"));
        self.0.get(name).map_or(Ok(default), parse)
    }

    pub(super) fn boolean(&self, name: &str, default: bool) -> Result<bool, FlagError> {
        match self.0.get(name).map(|value| value.to_ascii_lowercase()).as_deref() {
            None => Ok(default),
            Some("1" | "t" | "true") => Ok(true),
            Some("0" | "f" | "false") => Ok(false),
            Some(other) => Err(FlagError::bad(name, other, "true or false")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Flags, FlagError> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Flags::parse(&arguments, &["addr", "tcpPort"], &["batch", "contain"])
    }

    #[test]
    fn all_go_spellings_of_a_flag_are_the_same() {
        for spelling in [&["-addr", "::1"][..], &["-addr=::1"], &["--addr=::1"], &["--addr", "::1"]] {
            assert_eq!(parse(spelling).expect("valid").text("addr", ""), "::1");
        }
        let flags = parse(&["-batch", "-contain=false"]).expect("valid");
        assert_eq!((flags.boolean("batch", false), flags.boolean("contain", true)), (Ok(true), Ok(false)));
    }

    #[test]
    fn wrong_flags_say_what_is_wrong() {
        let error = |arguments: &[&str]| parse(arguments).expect_err("invalid").to_string();
        assert_eq!(error(&["-x"]), "flag provided but not defined: -x");
        assert_eq!(error(&["-addr"]), "flag needs an argument: -addr");
        assert_eq!(error(&["here"]), "unexpected argument \"here\"");
        let port = parse(&["-tcpPort=many"]).expect("valid").number("tcpPort", 1_u16).expect_err("no number");
        assert_eq!(port.to_string(), "invalid value \"many\" for flag -tcpPort: expected a number");
    }
}
