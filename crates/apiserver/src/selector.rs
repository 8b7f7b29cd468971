//! Label and field selectors: parsing and matching.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use crate::meta::{self, label_name_problem, label_value_problem};
use crate::resource::ResourceInfo;
use crate::status_error::StatusError;

/// A conjunction of requirements on labels. The default one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: LabelTest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelTest {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

impl LabelTest {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|text| text.parse::<i64>().ok());
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::Above(bound) => number().is_some_and(|number| number > *bound),
            Self::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

impl LabelSelector {
    /// Parses the text form, such as `app=web,tier in (a, b),!old`. The empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, StatusError> {
        LabelParser { tokens: tokenize(text), position: 0 }
            .parse()
            .map(|requirements| Self { requirements })
            .map_err(StatusError::bad_request)
    }

    /// Reads a `LabelSelector` object with `matchLabels` and `matchExpressions`; `None` if it is malformed.
    pub fn from_object(object: &Value) -> Option<Self> {
        let mut requirements = Vec::new();
        if let Some(labels) = object.get("matchLabels").filter(|labels| !labels.is_null()) {
            for (key, value) in labels.as_object()? {
                let values = BTreeSet::from([value.as_str()?.to_owned()]);
                requirements.push(Requirement { key: key.clone(), test: LabelTest::In(values) });
            }
        }
        if let Some(expressions) = object.get("matchExpressions").filter(|list| !list.is_null()) {
            for expression in expressions.as_array()? {
                let key = expression.get("key")?.as_str()?.to_owned();
                let values = || -> Option<BTreeSet<String>> {
                    let values = expression.get("values")?.as_array()?;
                    values.iter().map(|value| value.as_str().map(str::to_owned)).collect()
                };
                let test = match expression.get("operator")?.as_str()? {
                    "In" => LabelTest::In(values()?),
                    "NotIn" => LabelTest::NotIn(values()?),
                    "Exists" => LabelTest::Exists,
                    "DoesNotExist" => LabelTest::Absent,
                    _ => return None,
                };
                requirements.push(Requirement { key, test });
            }
        }
        Some(Self { requirements })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the object's labels satisfy all requirements.
    pub fn matches(&self, object: &Value) -> bool {
        if self.requirements.is_empty() {
            return true;
        }
        self.matches_labels(meta::metadata(object).and_then(|metadata| metadata.get("labels")))
    }

    /// Whether this map of labels satisfies all requirements.
    pub fn matches_labels(&self, labels: Option<&Value>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.and_then(|labels| labels.get(&requirement.key)).and_then(Value::as_str);
            requirement.test.holds(value)
        })
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, test }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let list = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(",");
            match test {
                LabelTest::In(values) if values.len() == 1 => write!(f, "{key}={}", list(values))?,
                LabelTest::In(values) => write!(f, "{key} in ({})", list(values))?,
                LabelTest::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", list(values))?,
                LabelTest::NotIn(values) => write!(f, "{key} notin ({})", list(values))?,
                LabelTest::Exists => f.write_str(key)?,
                LabelTest::Absent => write!(f, "!{key}")?,
                LabelTest::Above(bound) => write!(f, "{key}>{bound}")?,
                LabelTest::Below(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::Word(text) | Token::Symbol(text) => text,
        }
    }
}

fn tokenize(text: &str) -> Vec<Token<'_>> {
    const SPECIAL: [char; 7] = ['=', '!', '(', ')', ',', '>', '<'];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, tail) = if SPECIAL.contains(&first) {
            let length = if rest.starts_with("==") || rest.starts_with("!=") { 2 } else { 1 };
            let (symbol, tail) = rest.split_at(length);
            (Token::Symbol(symbol), tail)
        } else {
            let end = rest.find(|c: char| SPECIAL.contains(&c) || c.is_whitespace()).unwrap_or(rest.len());
            let (word, tail) = rest.split_at(end);
            (Token::Word(word), tail)
        };
        tokens.push(token);
        rest = tail.trim_start();
    }
    tokens
}

struct LabelParser<'a> {
    tokens: Vec<Token<'a>>,
    position: usize,
}

impl<'a> LabelParser<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        let token = self.tokens.get(self.position).copied();
        self.position += 1;
        token
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.position).copied()
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        if self.tokens.is_empty() {
            return Ok(requirements);
        }
        loop {
            match self.peek() {
                Some(Token::Word(_) | Token::Symbol("!")) => {}
                token => return Err(unexpected(token, "!, identifier, or 'end of string'")),
            }
            let requirement = self.requirement().map_err(|why| format!("unable to parse requirement: {why}"));
            requirements.push(requirement?);
            match self.next() {
                None => return Ok(requirements),
                Some(Token::Symbol(",")) if self.peek().is_some() => {}
                Some(Token::Symbol(",")) => return Err(unexpected(None, "identifier after ','")),
                token => return Err(unexpected(token, "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek() == Some(Token::Symbol("!"));
        if negated {
            self.position += 1;
        }
        let key = match self.next() {
            Some(Token::Word(word)) => word,
            token => return Err(unexpected(token, "identifier")),
        };
        if let Some(problem) = label_name_problem(key) {
            return Err(format!("<nil>: Invalid value: {key:?}: {problem}"));
        }
        let test = if negated {
            LabelTest::Absent
        } else if matches!(self.peek(), None | Some(Token::Symbol(","))) {
            LabelTest::Exists
        } else {
            self.test(key)?
        };
        Ok(Requirement { key: key.to_owned(), test })
    }

    fn test(&mut self, key: &str) -> Result<LabelTest, String> {
        let operator = self.next();
        match operator.map(Token::text) {
            Some("=" | "==") => Ok(LabelTest::In(BTreeSet::from([self.value(key)?]))),
            Some("!=") => Ok(LabelTest::NotIn(BTreeSet::from([self.value(key)?]))),
            Some("in") => Ok(LabelTest::In(self.values(key)?)),
            Some("notin") => Ok(LabelTest::NotIn(self.values(key)?)),
            Some(">") => Ok(LabelTest::Above(self.number(key)?)),
            Some("<") => Ok(LabelTest::Below(self.number(key)?)),
            _ => Err(unexpected(operator, "in, notin, =, ==, !=, gt, lt")),
        }
    }

    /// A value; nothing before a comma or the end is the empty value.
    fn value(&mut self, key: &str) -> Result<String, String> {
        let value = match self.peek() {
            Some(Token::Word(word)) => {
                self.position += 1;
                word
            }
            None | Some(Token::Symbol(",")) => "",
            token => return Err(unexpected(token, "identifier")),
        };
        checked_value(key, value)
    }

    fn number(&mut self, key: &str) -> Result<i64, String> {
        let text = self.value(key)?;
        text.parse().map_err(|_| {
            format!(
                "values[0]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            )
        })
    }

    fn values(&mut self, key: &str) -> Result<BTreeSet<String>, String> {
        match self.next() {
            Some(Token::Symbol("(")) => {}
            token => {
                let found = token.map(Token::text).unwrap_or_default();
                return Err(format!("found '{found}' expected: '('"));
            }
        }
        let mut values = BTreeSet::new();
        let mut pending = "";
        loop {
            match self.next() {
                Some(Token::Word(word)) if pending.is_empty() => pending = word,
                Some(Token::Symbol(",")) => {
                    values.insert(checked_value(key, std::mem::take(&mut pending))?);
                }
                Some(Token::Symbol(")")) => {
                    values.insert(checked_value(key, pending)?);
                    return Ok(values);
                }
                token => return Err(unexpected(token, "',', ')' or identifier")),
            }
        }
    }
}

fn checked_value(key: &str, value: &str) -> Result<String, String> {
    match label_value_problem(value) {
        Some(problem) => Err(format!("values[0][{key}]: Invalid value: {value:?}: {problem}")),
        None => Ok(value.to_owned()),
    }
}

fn unexpected(token: Option<Token<'_>>, expected: &str) -> String {
    format!("found '{}', expected: {expected}", token.map(Token::text).unwrap_or_default())
}

/// A conjunction of comparisons of fields. The default one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    field: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses `a=b,c!=d`; a backslash takes the next of `\`, `,` and `=` literally.
    pub fn parse(text: &str) -> Result<Self, StatusError> {
        let mut terms = Vec::new();
        for term in split_unescaped(text, ',') {
            if term.is_empty() {
                continue;
            }
            let Some((field, equal, value)) = split_term(term) else {
                return Err(StatusError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            let value = unescape(value)
                .map_err(|why| StatusError::bad_request(format!("invalid field selector: {why}")))?;
            terms.push(FieldTerm { field: field.to_owned(), equal, value });
        }
        Ok(Self { terms })
    }

    /// Refuses fields that this kind cannot be selected by.
    pub fn validate(&self, info: &ResourceInfo) -> Result<(), StatusError> {
        for FieldTerm { field, .. } in &self.terms {
            let known = field == "metadata.name"
                || field == "metadata.namespace" && info.namespaced
                || info.selectable_fields.iter().any(|known| known == field);
            if !known {
                return Err(StatusError::bad_request(if info.builtin && info.selectable_fields.is_empty() {
                    format!(
                        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )
                } else {
                    format!("field label not supported: {field}")
                }));
            }
        }
        Ok(())
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The name, if the selector demands one; a list then needs to look at that name only.
    pub fn exact_name(&self) -> Option<&str> {
        self.exact("metadata.name")
    }

    /// The value that the selector demands of a field.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Whether the object satisfies all comparisons. An absent field is the empty text.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| field_equals(object, &term.field, &term.value) == term.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if term.equal { "=" } else { "!=" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", term.field)?;
        }
        Ok(())
    }
}

fn field_equals(object: &Value, field: &str, wanted: &str) -> bool {
    let mut node = Some(object);
    for step in field.split('.') {
        node = node.and_then(|node| node.get(step));
    }
    match node {
        None | Some(Value::Null) => match default_of_field(field) {
            Some(default) => wanted == default,
            None => wanted.is_empty(),
        },
        Some(Value::String(text)) => text == wanted,
        Some(Value::Bool(true)) => wanted == "true",
        Some(Value::Bool(false)) => wanted == "false",
        Some(Value::Number(number)) => number.to_string() == wanted,
        // `status.podIPs` is a list of addresses, any of which may be asked for.
        Some(Value::Array(items)) => {
            items.iter().any(|item| item.get("ip").and_then(Value::as_str) == Some(wanted))
                || items.is_empty() && wanted.is_empty()
        }
        Some(Value::Object(_)) => field == "source" && event_source(object) == wanted,
    }
}

/// Fields whose absence is selected by a word and not by the empty text.
fn default_of_field(field: &str) -> Option<&'static str> {
    match field {
        "spec.unschedulable" | "spec.hostNetwork" => Some("false"),
        "status.replicas" | "status.successful" => Some("0"),
        _ => None,
    }
}

fn event_source(event: &Value) -> &str {
    let component = event.pointer("/source/component").and_then(Value::as_str).unwrap_or_default();
    if component.is_empty() {
        event.get("reportingComponent").and_then(Value::as_str).unwrap_or_default()
    } else {
        component
    }
}

/// Splits at separators that no backslash precedes.
fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, c) in text.char_indices() {
        if c == separator && !escaped {
            parts.push(text.get(start..index).unwrap_or_default());
            start = index + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

/// Field, whether equality is wanted, and the still escaped value.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
        (false, value)
    } else if let Some(value) = rest.strip_prefix("==") {
        (true, value)
    } else {
        (true, rest.strip_prefix('=')?)
    };
    Some((field, equal, value))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                other => {
                    let sequence: String = ['\\'].into_iter().chain(other).collect();
                    return Err(format!("invalid field selector: invalid escape sequence: {sequence}"));
                }
            },
            ',' | '=' => return Err(format!("unescaped character in value: {}", u32::from(c))),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
