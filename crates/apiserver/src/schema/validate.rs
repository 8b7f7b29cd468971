//! Judging values, in the words of Kubernetes.

use serde_json::{Map, Value};

use crate::schema::formats::text_has_format;
use crate::schema::place::Place;
use crate::schema::{Bound, Checks, Kind, ListType, Node, cel_rules};
use crate::status_error::{FieldError, FieldProblem, show_value};

pub(super) fn validate_root(root: &Node, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    Validator { errors: &mut errors }.value(root, new, old, &Place::Root);
    judge_by_rules(root, new, old, &mut errors);
    errors
}

/// Texts of errors then have paths that start inside the status.
pub(super) fn validate_status(root: &Node, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let (Some(node), Some(status)) = (root.properties.get("status"), new.get("status")) {
        let old = old.and_then(|old| old.get("status"));
        Validator { errors: &mut errors }.value(node, status, old, &Place::Status);
    }
    judge_by_rules(root, new, old, &mut errors);
    errors
}

fn judge_by_rules(root: &Node, new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    // Expressions could fail for reasons that are reported already.
    let fundamental = |error: &FieldError| {
        use FieldProblem::{NotSupported, Required, TooLong, TooMany, TypeInvalid};
        matches!(error.problem, TypeInvalid | Required | NotSupported | TooLong | TooMany)
    };
    if !errors.iter().any(fundamental) {
        cel_rules::evaluate(root, new, old, errors);
    } else if cel_rules::has_any(root) {
        let why = "some validation rules were not checked because the object was invalid; \
                   correct the existing errors to complete validation";
        errors.push(FieldError::invalid("<nil>", &Value::Null, why));
    }
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
        match value {
            Value::Object(map) => {
                self.checks(node, value, path);
                self.object(node, map, old.and_then(Value::as_object), path);
            }
            Value::Array(list) => {
                self.items(node, list, old.and_then(Value::as_array), path);
                self.checks(node, value, path);
                self.identities(node, list, path);
            }
            _ => self.checks(node, value, path),
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
        let found = format!("{:?}", json_type(value));
        self.not_of_type(path, wanted, found);
    }

    fn not_of_type(&mut self, path: &Place<'_>, wanted: &str, found: String) {
        let detail = format!("{} in body must be of type {wanted}: {found}", path.inner());
        self.errors
            .push(FieldError::new(path.to_string(), FieldProblem::TypeInvalid, detail).with_value(found));
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

    fn identities(&mut self, node: &Node, list: &[Value], path: &Place<'_>) {
        match &node.list_type {
            ListType::Atomic => {}
            ListType::Set => self.unique(list, path, Clone::clone),
            ListType::Map(keys) => self.unique(list, path, |item| keys_of(item, keys)),
        }
    }

    fn items(&mut self, node: &Node, list: &[Value], old: Option<&Vec<Value>>, path: &Place<'_>) {
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
        self.errors.push(FieldError::invalid(
            path.to_string(),
            value,
            format!("{} in body {must}", path.inner()),
        ));
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
        self.bounds_of_text(&node.checks, text, value, path);
        if !node.format.is_empty() && !text_has_format(text, &node.format) {
            self.not_of_type(path, &node.format, value.to_string());
        }
    }

    /// Only the first of them that fails is reported.
    fn bounds_of_text(&mut self, checks: &Checks, text: &str, value: &Value, path: &Place<'_>) {
        let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
        if let Some(max) = checks.max_length.filter(|max| length > *max) {
            let detail = format!("may not be more than {max} bytes");
            self.errors.push(FieldError::new(path.to_string(), FieldProblem::TooLong, detail));
        } else if let Some(min) = checks.min_length.filter(|min| length < *min) {
            self.invalid(path, value, format_args!("should be at least {min} chars long"));
        } else if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.invalid(path, value, format_args!("should match '{pattern}'"));
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
        Value::Number(number) if !number.is_i64() => "number",
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
