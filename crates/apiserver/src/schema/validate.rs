//! Judging values, in the words of Kubernetes.

use serde_json::{Map, Value};

use crate::schema::formats::{number_has_format, text_has_format};
use crate::schema::place::Place;
use crate::schema::{Bound, Checks, Kind, ListType, Node, cel_rules};
use crate::status_error::{FieldError, FieldProblem, show_value};

pub(super) fn validate_root(root: &Node, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    Validator { errors: &mut errors }.value(root, new, old, &Place::Root);
    // Expressions could fail for reasons that are reported already.
    let fundamental = |error: &FieldError| {
        use FieldProblem::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
        matches!(error.problem, TypeInvalid | Required | NotSupported | TooLong | TooMany)
    };
    if !errors.iter().any(fundamental) {
        cel_rules::evaluate(root, new, old, &mut errors);
    }
    errors
}

struct Validator<'a> {
    errors: &'a mut Vec<FieldError>,
}

impl Validator<'_> {
    fn value(&mut self, node: &Node, value: &Value, old: Option<&Value>, path: &Place<'_>) {
        // What was stored before the schema became stricter may stay as long as nobody touches it.
        if old == Some(value) {
            return;
        }
        if value.is_null() && node.nullable {
            return;
        }
        if !self.type_fits(node, value, path) {
            return;
        }
        self.checks(node, value, path);
        match value {
            Value::Object(map) => self.object(node, map, old.and_then(Value::as_object), path),
            Value::Array(list) => self.list(node, list, old.and_then(Value::as_array), path),
            _ => {}
        }
    }

    fn type_fits(&mut self, node: &Node, value: &Value, path: &Place<'_>) -> bool {
        if node.int_or_string {
            let fits = value.is_string() || Kind::Integer.accepts(value);
            if !fits {
                self.wrong_type(path, "integer,string", value);
            }
            return fits;
        }
        match node.kind {
            Some(kind) if !kind.accepts(value) => {
                self.wrong_type(path, kind.name(), value);
                false
            }
            _ => true,
        }
    }

    fn wrong_type(&mut self, path: &Place<'_>, wanted: &str, value: &Value) {
        let found = json_type(value);
        let detail = format!("{path} in body must be of type {wanted}: {found:?}");
        self.errors.push(
            FieldError::new(path.to_string(), FieldProblem::TypeInvalid, detail)
                .with_value(format!("{found:?}")),
        );
    }

    fn object(
        &mut self,
        node: &Node,
        map: &Map<String, Value>,
        old: Option<&Map<String, Value>>,
        path: &Place<'_>,
    ) {
        if node.embedded {
            for key in ["apiVersion", "kind"] {
                if map.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
                    self.errors
                        .push(FieldError::required(Place::Key(path, key).to_string(), "must not be empty"));
                }
            }
        }
        for key in &node.checks.required {
            if !map.contains_key(key) {
                self.errors.push(FieldError::required(Place::Key(path, key).to_string(), ""));
            }
        }
        for (key, value) in map {
            // Metadata is ObjectMeta, which has rules of its own.
            if path.is_root() && key == "metadata" {
                continue;
            }
            if let Some(property) = node.properties.get(key).or(node.additional.as_ref()) {
                self.value(property, value, old.and_then(|old| old.get(key)), &Place::Key(path, key));
            }
        }
    }

    fn list(&mut self, node: &Node, list: &[Value], old: Option<&Vec<Value>>, path: &Place<'_>) {
        match &node.list_type {
            ListType::Atomic => {}
            ListType::Set => self.unique(list, path, Clone::clone),
            ListType::Map(keys) => self.unique(list, path, |item| keys_of(item, keys)),
        }
        let Some(items) = &node.items else { return };
        for (index, item) in list.iter().enumerate() {
            let before = match &node.list_type {
                ListType::Map(keys) => {
                    let wanted = keys_of(item, keys);
                    old.and_then(|old| old.iter().find(|candidate| keys_of(candidate, keys) == wanted))
                }
                _ => old.and_then(|old| old.get(index)),
            };
            self.value(items, item, before, &Place::Index(path, index));
        }
    }

    fn unique(&mut self, list: &[Value], path: &Place<'_>, identity: impl Fn(&Value) -> Value) {
        let mut seen = std::collections::BTreeSet::new();
        for (index, item) in list.iter().enumerate() {
            let identity = identity(item);
            if !seen.insert(identity.to_string()) {
                self.errors.push(FieldError::duplicate(format!("{path}[{index}]"), &identity));
            }
        }
    }

    fn invalid(&mut self, path: &Place<'_>, value: &Value, must: impl std::fmt::Display) {
        self.errors.push(FieldError::invalid(path.to_string(), value, format!("{path} in body {must}")));
    }

    fn checks(&mut self, node: &Node, value: &Value, path: &Place<'_>) {
        let checks = &node.checks;
        match value {
            Value::String(text) => self.text(node, text, value, path),
            Value::Number(number) => self.number(node, number, value, path),
            Value::Array(list) => self.count(checks.min_items, checks.max_items, list.len(), "items", path),
            Value::Object(map) => {
                self.count(checks.min_properties, checks.max_properties, map.len(), "properties", path);
            }
            _ => {}
        }
        if !checks.choices.is_empty() && !checks.choices.contains(value) {
            let texts: Vec<String> = checks
                .choices
                .iter()
                .map(|choice| choice.as_str().map_or_else(|| choice.to_string(), str::to_owned))
                .collect();
            self.errors.push(FieldError::not_supported(
                path.to_string(),
                value,
                texts.iter().map(String::as_str),
            ));
        }
        self.combinations(checks, value, path);
    }

    fn text(&mut self, node: &Node, text: &str, value: &Value, path: &Place<'_>) {
        let checks = &node.checks;
        let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        if let Some(max) = checks.max_length.filter(|max| length > *max) {
            let detail = format!("may not be more than {max} bytes");
            self.errors.push(FieldError::new(path.to_string(), FieldProblem::TooLong, detail));
        }
        if let Some(min) = checks.min_length.filter(|min| length < *min) {
            self.invalid(path, value, format_args!("should be at least {min} chars long"));
        }
        if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.invalid(path, value, format_args!("should match '{pattern}'"));
        }
        if !node.format.is_empty() && !text_has_format(text, &node.format) {
            self.invalid(path, value, format_args!("must be of type {}: {value}", node.format));
        }
    }

    fn number(&mut self, node: &Node, number: &serde_json::Number, value: &Value, path: &Place<'_>) {
        let checks = &node.checks;
        let as_float = number.as_f64().unwrap_or(f64::NAN);
        let limit = |bound: &Bound| bound.value.as_f64().unwrap_or(f64::NAN);
        if let Some(bound) = &checks.minimum
            && (as_float < limit(bound) || bound.exclusive && as_float <= limit(bound))
        {
            let or_equal = if bound.exclusive { "" } else { " or equal to" };
            self.invalid(path, value, format_args!("should be greater than{or_equal} {}", bound.value));
        }
        if let Some(bound) = &checks.maximum
            && (as_float > limit(bound) || bound.exclusive && as_float >= limit(bound))
        {
            let or_equal = if bound.exclusive { "" } else { " or equal to" };
            self.invalid(path, value, format_args!("should be less than{or_equal} {}", bound.value));
        }
        if let Some(step) = checks.multiple_of {
            let ratio = as_float / step;
            if (ratio - ratio.round()).abs() > 1e-9 {
                self.invalid(path, value, format_args!("should be a multiple of {step}"));
            }
        }
        if !number_has_format(number, &node.format) {
            self.invalid(path, value, format_args!("must be of type {}: {value}", node.format));
        }
    }

    fn count(&mut self, min: Option<u64>, max: Option<u64>, length: usize, what: &str, path: &Place<'_>) {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        if let Some(max) = max.filter(|max| length > *max) {
            let plural = if max == 1 { "item" } else { "items" };
            let detail = format!("must have at most {max} {plural}");
            self.errors.push(
                FieldError::new(path.to_string(), FieldProblem::TooMany, detail)
                    .with_value(length.to_string()),
            );
        }
        if let Some(min) = min.filter(|min| length < *min) {
            self.invalid(path, &Value::from(length), format_args!("should have at least {min} {what}"));
        }
    }

    /// The errors of combinations carry no field in Kubernetes, only the path in the text.
    fn combination(&mut self, text: String) {
        self.errors.push(FieldError::invalid("<nil>", &Value::from(""), text));
    }

    fn combinations(&mut self, checks: &Checks, value: &Value, path: &Place<'_>) {
        for schema in &checks.all_of {
            Validator { errors: self.errors }.value(schema, value, None, path);
        }
        let fits = |schema: &Node| {
            let mut errors = Vec::new();
            Validator { errors: &mut errors }.value(schema, value, None, path);
            errors.is_empty()
        };
        if !checks.any_of.is_empty() && !checks.any_of.iter().any(|schema| fits(schema)) {
            self.combination(format!("\"{path}\" must validate at least one schema (anyOf)"));
        }
        if !checks.one_of.is_empty() {
            match checks.one_of.iter().filter(|schema| fits(schema)).count() {
                1 => {}
                0 => self.combination(format!(
                    "\"{path}\" must validate one and only one schema (oneOf). Found none valid"
                )),
                n => self.combination(format!(
                    "\"{path}\" must validate one and only one schema (oneOf). Found {n} valid alternatives"
                )),
            }
        }
        if checks.not.as_ref().is_some_and(|schema| fits(schema)) {
            self.combination(format!("\"{path}\" must not validate the schema (not)"));
        }
    }
}

/// The map of an item's keys.
fn keys_of(item: &Value, keys: &[String]) -> Value {
    let pairs = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
    Value::Object(pairs.collect())
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// How a value is shown in the errors of expressions: only its type if it is compound.
pub(super) fn show_briefly(value: &Value) -> String {
    match value {
        Value::Array(_) => "\"array\"".to_owned(),
        Value::Object(_) => "\"object\"".to_owned(),
        plain => show_value(plain),
    }
}
