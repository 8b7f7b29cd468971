//! The part of JSONPath that printer columns and selectable fields use.
//!
//! `.spec.a`, `.a\.b`, `['a.b']`, `[0]`, `[-1]`, `[*]`, `.*`, `..name` is not, and
//! `[?(@.type=="Ready")]` with `==`, `!=` or the bare existence of a path.

use serde_json::Value;

/// Steps of a path beyond this are refused.
const STEPS_MAX: usize = 64;
/// Longer texts are refused, which bounds how deep filters nest.
const TEXT_BYTES_MAX: usize = 1024;

/// A parsed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

/// The text isn't a path of the supported kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unsupported JSONPath {path:?} at byte {at}")]
pub struct JsonPathError {
    path: String,
    at: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    /// Negative numbers count from the end.
    Index(i64),
    Each,
    Where {
        path: JsonPath,
        test: Test,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Equal(Value),
    NotEqual(Value),
}

impl JsonPath {
    /// Parses a path; surrounding braces and a leading `$` are allowed.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(JsonPathError { path: String::new(), at: TEXT_BYTES_MAX });
        }
        let trimmed = text.trim();
        let inner = trimmed.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(trimmed);
        let inner = inner.strip_prefix('$').unwrap_or(inner);
        let mut parser = Parser { rest: inner };
        let steps = parser.steps().filter(|_| parser.rest.is_empty());
        steps
            .map(|steps| Self { steps })
            .ok_or_else(|| JsonPathError { path: text.to_owned(), at: inner.len() - parser.rest.len() })
    }

    /// The first match, in document order.
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        first(&self.steps, value)
    }
}

fn first<'a>(steps: &[Step], value: &'a Value) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else {
        return Some(value);
    };
    match step {
        Step::Field(name) => first(rest, value.get(name)?),
        Step::Index(index) => {
            let items = value.as_array()?;
            let index = match usize::try_from(*index) {
                Ok(index) => index,
                Err(_) => items.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
            };
            first(rest, items.get(index)?)
        }
        Step::Each => match value {
            Value::Array(items) => items.iter().find_map(|item| first(rest, item)),
            Value::Object(fields) => fields.values().find_map(|item| first(rest, item)),
            _ => None,
        },
        Step::Where { path, test } => {
            let passes = |item: &&Value| match (path.first(item), test) {
                (Some(_), Test::Exists) => true,
                (Some(found), Test::Equal(wanted)) => found == wanted,
                (Some(found), Test::NotEqual(unwanted)) => found != unwanted,
                (None, _) => false,
            };
            value.as_array()?.iter().filter(passes).find_map(|item| first(rest, item))
        }
    }
}

/// Recursive descent; each method returns `None` on text it can't read, with `rest` at the offending place.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn steps(&mut self) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        while steps.len() <= STEPS_MAX {
            if self.eat("[") {
                steps.push(self.bracket()?);
            } else if self.rest.starts_with("..") {
                return None;
            } else if self.eat(".") {
                // A single dot is the whole object.
                if self.rest.is_empty() && steps.is_empty() {
                    return Some(steps);
                }
                if !self.rest.starts_with('[') {
                    steps.push(self.name()?);
                }
            } else {
                return Some(steps);
            }
        }
        None
    }

    fn name(&mut self) -> Option<Step> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, character)) = chars.next() {
            match character {
                '\\' => name.push(chars.next()?.1),
                '.' | '[' | ']' | ')' | '(' | '=' | '!' | '<' | '>' | ' ' | '"' | '\'' | ',' | '{' | '}' => {
                    end = at;
                    break;
                }
                _ => name.push(character),
            }
        }
        self.rest = self.rest.get(end..)?;
        match name.as_str() {
            "" => None,
            "*" => Some(Step::Each),
            _ => Some(Step::Field(name)),
        }
    }

    fn bracket(&mut self) -> Option<Step> {
        let step = if self.eat("*") {
            Step::Each
        } else if self.eat("?(@") {
            let path = Self { rest: self.rest }.steps_until_operator(self)?;
            let test = self.test()?;
            self.spaces();
            self.eat(")").then_some(())?;
            Step::Where { path, test }
        } else if self.rest.starts_with(['\'', '"']) {
            Step::Field(self.quoted()?)
        } else {
            let end = self.rest.find(']')?;
            let (digits, rest) = self.rest.split_at_checked(end)?;
            let index = digits.trim().parse().ok()?;
            self.rest = rest;
            Step::Index(index)
        };
        self.eat("]").then_some(step)
    }

    /// Reads the path of a filter and leaves `outer` after it.
    fn steps_until_operator(mut self, outer: &mut Self) -> Option<JsonPath>
    where
        Self: Sized,
    {
        let steps = self.steps();
        outer.rest = outer.rest.get(outer.rest.len() - self.rest.len()..)?;
        steps.map(|steps| JsonPath { steps })
    }

    fn test(&mut self) -> Option<Test> {
        self.spaces();
        if self.rest.starts_with(')') {
            return Some(Test::Exists);
        }
        let equal = if self.eat("==") {
            true
        } else if self.eat("!=") {
            false
        } else {
            return None;
        };
        self.spaces();
        let literal = self.literal()?;
        Some(if equal { Test::Equal(literal) } else { Test::NotEqual(literal) })
    }

    fn literal(&mut self) -> Option<Value> {
        if self.rest.starts_with(['\'', '"']) {
            return self.quoted().map(Value::String);
        }
        let end = self.rest.find([')', ' ']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        let literal = match word {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            number => Value::Number(number.parse().ok()?),
        };
        self.rest = rest;
        Some(literal)
    }

    fn quoted(&mut self) -> Option<String> {
        let mut chars = self.rest.char_indices();
        let (_, quote) = chars.next()?;
        let mut text = String::new();
        while let Some((at, character)) = chars.next() {
            match character {
                '\\' => text.push(chars.next()?.1),
                _ if character == quote => {
                    self.rest = self.rest.get(at + character.len_utf8()..)?;
                    return Some(text);
                }
                _ => text.push(character),
            }
        }
        None
    }

    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }
}
