//! Typed reads of a YAML document by path, which remember what was wrong and what nobody asked for.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde_json::Value;

pub(super) struct Reader {
    document: Value,
    asked: BTreeSet<String>,
    wrong: Vec<String>,
    idle: Vec<String>,
}

impl Reader {
    pub(super) fn of(text: &str) -> Self {
        let mut wrong = Vec::new();
        let document = if text.trim().is_empty() {
            Value::Null
        } else {
            serde_saphyr::from_str(text).unwrap_or_else(|error| {
                let error = error.to_string();
                wrong.push(format!("CONFIGMAP_PATH: not YAML: {}", error.lines().next().unwrap_or_default()));
                Value::Null
            })
        };
        if !document.is_object() && !document.is_null() {
            wrong.push("CONFIGMAP_PATH: not a list of settings; write `key: value` lines".to_owned());
        }
        Self { document, asked: BTreeSet::new(), wrong, idle: Vec::new() }
    }

    /// What was wrong; and what has no effect: keys that ask for nothing that is done, and keys that nobody asked for.
    pub(super) fn finish(self) -> (Vec<String>, Vec<String>) {
        let mut unknown = Vec::new();
        unasked(&self.document, "", &self.asked, &mut unknown);
        let asked = &self.asked;
        let warnings = unknown.into_iter().map(|path| {
            let meant = asked.iter().find(|known| is_like(known, &path));
            let hint = meant.map(|known| format!("; is `{known}` meant?")).unwrap_or_default();
            format!("conf.yml: {path}: unknown key, ignored{hint}")
        });
        (self.wrong, self.idle.into_iter().chain(warnings).collect())
    }

    pub(super) fn wrong(&mut self, path: &str, problem: &str) {
        self.wrong.push(format!("conf.yml: {path}: {problem}"));
    }

    /// Reads past a key and all below it.
    pub(super) fn accept(&mut self, path: &str) {
        self.asked.insert(path.to_owned());
    }

    /// A key that does nothing. It is said where its value, as JSON, asks for something.
    pub(super) fn idle(&mut self, path: &str, ask_for_nothing: &[&str], why: &str) {
        let Some(value) = self.get(path) else { return };
        if !ask_for_nothing.contains(&value.to_string().as_str()) {
            self.idle.push(format!("conf.yml: {path}: has no effect, for {why}; leave it out"));
        }
    }

    fn get(&mut self, path: &str) -> Option<Value> {
        self.accept(path);
        let found = path.split('.').try_fold(&self.document, |value, key| value.get(key));
        found.filter(|value| !value.is_null()).cloned()
    }

    fn read<T>(&mut self, path: &str, default: T, wanted: &str, read: impl FnOnce(&Value) -> Option<T>) -> T {
        let Some(value) = self.get(path) else { return default };
        read(&value).unwrap_or_else(|| {
            self.wrong(path, &format!("`{}` is not {wanted}", plain(&value)));
            default
        })
    }

    pub(super) fn bool(&mut self, path: &str, default: bool) -> bool {
        self.read(path, default, "true or false", Value::as_bool)
    }

    /// A text; a number counts as one, for YAML makes one of an unquoted `0x26000000`.
    pub(super) fn text(&mut self, path: &str, default: &str) -> String {
        self.read(path, default.to_owned(), "a text", |value| match value {
            Value::String(text) if text.is_empty() => Some(default.to_owned()),
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => number.as_u64().map(|number| format!("{number:#x}")),
            _ => None,
        })
    }

    pub(super) fn ports(&mut self, path: &str, default: &BTreeSet<u16>) -> BTreeSet<u16> {
        self.read(path, default.clone(), "a list of ports from 1 to 65535", |value| {
            let port = |value: &Value| u16::try_from(value.as_u64()?).ok().filter(|port| *port != 0);
            value.as_array()?.iter().map(port).collect()
        })
    }

    pub(super) fn parsed<T: FromStr + Display>(&mut self, path: &str, default: T, wanted: &str) -> T {
        match self.get(path) {
            None => default,
            Some(Value::String(text)) if text.is_empty() => default,
            Some(value) => value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
                self.wrong(path, &format!("`{}` is not {wanted}", plain(&value)));
                default
            }),
        }
    }

    /// A whole number of a range that the type holds.
    pub(super) fn number<T: TryFrom<u64> + Default>(
        &mut self,
        path: &str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> T {
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        let number =
            self.read(path, default, &wanted, |value| value.as_u64().filter(|number| range.contains(number)));
        T::try_from(number).unwrap_or_default()
    }

    pub(super) fn choice<T: Copy + Default>(&mut self, path: &str, choices: &[(&str, T)]) -> T {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let wanted = format!("one of {}", names.join(", "));
        self.read(path, T::default(), &wanted, |value| {
            let text = value.as_str()?;
            let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
            if text.is_empty() { Some(T::default()) } else { found }
        })
    }

    pub(super) fn list<T>(&mut self, path: &str, item: impl Fn(&Value) -> Option<T>) -> Vec<T> {
        let values = self.read(path, Vec::new(), "a list", |value| value.as_array().cloned());
        let mut items = Vec::new();
        for (index, value) in values.iter().enumerate() {
            match item(value) {
                Some(item) => items.push(item),
                None => self.wrong(&format!("{path}[{index}]"), "has not the fields that it should have"),
            }
        }
        items
    }
}

/// Whether two keys differ in the case of letters, or by one letter.
fn is_like(known: &str, written: &str) -> bool {
    let (known, written) = (known.to_lowercase(), written.to_lowercase());
    let (short, long) = if known.len() < written.len() { (&known, &written) } else { (&written, &known) };
    let same = short.chars().zip(long.chars()).take_while(|(a, b)| a == b).count();
    let rest = |text: &str, from: usize| text.chars().skip(from).collect::<String>();
    let (left, more) = (rest(short, same), rest(long, same));
    left == more || left == rest(&more, 1) || rest(&left, 1) == rest(&more, 1)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Paths of values that are neither asked for nor below something that is.
fn unasked(value: &Value, path: &str, asked: &BTreeSet<String>, found: &mut Vec<String>) {
    let Value::Object(fields) = value else { return };
    for (key, value) in fields {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if asked.contains(&path) {
            continue;
        }
        let prefix = format!("{path}.");
        let is_branch = asked.range(prefix.clone()..).next().is_some_and(|other| other.starts_with(&prefix));
        match value {
            Value::Object(_) if is_branch => unasked(value, &path, asked, found),
            _ => found.push(path),
        }
    }
}
