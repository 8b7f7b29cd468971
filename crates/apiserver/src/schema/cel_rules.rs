//! `x-kubernetes-validations`: rules in CEL.
//!
//! Rules see integers as CEL's `int` and absent fields as absent. Of the libraries that Kubernetes adds there are those
//! for texts, addresses and networks; quantities and cost limits are not there. Rules that name what doesn't exist fail
//! when they are evaluated and not when the schema is written, since nothing checks their types before.

mod functions;

use std::sync::{Arc, LazyLock};

use cel::objects::{Key, Map, OptionalValue};
use cel::{Context, Env, Program};
use serde_json::Value;

use crate::schema::place::Place;
use crate::schema::validate::show_briefly;
use crate::schema::{Kind, ListType, Node};
use crate::status_error::{FieldError, FieldProblem};

/// Longer rules are refused; real ones are far shorter.
const RULE_BYTES_MAX: usize = 4096;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(functions::environment()));

/// One compiled rule.
pub(crate) struct Rule {
    program: Program,
    source: String,
    message: String,
    message_expression: Option<Program>,
    problem: FieldProblem,
    field_path: String,
    /// Whether the rule compares with what was stored before.
    is_transition: bool,
    /// Whether such a rule is judged on objects that are new as well.
    optional_old: bool,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rule").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Compiles an expression; the error says what is wrong with it.
pub(crate) fn compile_source(source: &str) -> Result<Program, String> {
    if source.len() > RULE_BYTES_MAX {
        return Err(format!("longer than {RULE_BYTES_MAX} bytes"));
    }
    ENVIRONMENT.compile(source).map_err(|error| error.to_string())
}

/// What an expression is evaluated in, without variables yet.
pub(crate) fn context<'a>() -> Context<'a, 'a> {
    Context::with_env(Arc::clone(&ENVIRONMENT))
}

/// A value that has no schema.
pub(crate) fn plain(value: &Value) -> cel::Value {
    to_cel(&Node::default(), value, false)
}

/// Compiles the rules at one place of a schema.
pub(super) fn compile(schema: &Value, path: &str, errors: &mut Vec<FieldError>) -> Vec<Arc<Rule>> {
    let list = schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
    let mut rules = Vec::new();
    for (index, rule) in list.enumerate() {
        match compile_rule(rule, &format!("{path}.x-kubernetes-validations[{index}]")) {
            Ok(rule) => rules.push(Arc::new(rule)),
            Err(error) => errors.push(error),
        }
    }
    rules
}

fn compile_rule(rule: &Value, path: &str) -> Result<Rule, FieldError> {
    let text = |key: &str| rule.get(key).and_then(Value::as_str).unwrap_or_default();
    let program = |key: &str| -> Result<Program, FieldError> {
        let source = text(key);
        let failed = |why: String| {
            FieldError::invalid(
                format!("{path}.{key}"),
                &Value::from(source),
                format!("compilation failed: {why}"),
            )
        };
        compile_source(source).map_err(failed)
    };
    let source = text("rule");
    if source.trim().is_empty() {
        return Err(FieldError::required(format!("{path}.rule"), "rule is not specified"));
    }
    let compiled = program("rule")?;
    let is_transition = compiled.references().has_variable("oldSelf");
    let problem = match text("reason") {
        "" | "FieldValueInvalid" => FieldProblem::Invalid,
        "FieldValueForbidden" => FieldProblem::Forbidden,
        "FieldValueRequired" => FieldProblem::Required,
        "FieldValueDuplicate" => FieldProblem::Duplicate,
        other => {
            let supported =
                ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
            return Err(FieldError::not_supported(format!("{path}.reason"), &Value::from(other), supported));
        }
    };
    Ok(Rule {
        program: compiled,
        source: source.trim().to_owned(),
        message: text("message").trim().to_owned(),
        message_expression: match text("messageExpression") {
            "" => None,
            _ => Some(program("messageExpression")?),
        },
        problem,
        field_path: text("fieldPath").to_owned(),
        is_transition,
        optional_old: rule.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false),
    })
}

/// Judges an object by all rules of its schema.
pub(super) fn evaluate(root: &Node, new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    visit(root, new, old, &Place::Root, errors);
}

/// Whether there is a rule anywhere in a schema.
pub(super) fn has_any(node: &Node) -> bool {
    let children = node.properties.values().chain(&node.additional).chain(&node.items);
    !node.checks.rules.is_empty() || children.into_iter().any(|child| has_any(child))
}

fn visit(node: &Node, new: &Value, old: Option<&Value>, path: &Place<'_>, errors: &mut Vec<FieldError>) {
    for rule in &node.checks.rules {
        errors.extend(rule.judge(node, new, old, path));
    }
    match new {
        Value::Object(map) => {
            for (key, value) in map {
                let (child, place) = match (node.properties.get(key), &node.additional) {
                    (Some(child), _) => (child, Place::Key(path, key)),
                    (None, Some(child)) => (child, Place::Entry(path, key)),
                    (None, None) => continue,
                };
                visit(child, value, old.and_then(|old| old.get(key)), &place, errors);
            }
        }
        Value::Array(list) => {
            let Some(items) = &node.items else { return };
            for (index, item) in list.iter().enumerate() {
                let before =
                    old.and_then(Value::as_array).and_then(|old| counterpart(&node.list_type, old, item));
                visit(items, item, before, &Place::Index(path, index), errors);
            }
        }
        _ => {}
    }
}

/// The earlier item that an item of a keyed list replaces; items of other lists have no past.
fn counterpart<'a>(list_type: &ListType, old: &'a [Value], item: &Value) -> Option<&'a Value> {
    let ListType::Map(keys) = list_type else { return None };
    old.iter().find(|candidate| keys.iter().all(|key| candidate.get(key) == item.get(key)))
}

impl Rule {
    fn judge(&self, node: &Node, new: &Value, old: Option<&Value>, path: &Place<'_>) -> Option<FieldError> {
        let applies = if self.is_transition { old.is_some() || self.optional_old } else { old != Some(new) };
        if !applies {
            return None;
        }
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.add_variable_from_value("self", to_cel(node, new, path.is_root()));
        if self.is_transition {
            let before = old.map(|old| to_cel(node, old, path.is_root()));
            let before = match (before, self.optional_old) {
                (Some(before), true) => cel::Value::Opaque(Arc::new(OptionalValue::of(before))),
                (Some(before), false) => before,
                (None, _) => cel::Value::Opaque(Arc::new(OptionalValue::none())),
            };
            context.add_variable_from_value("oldSelf", before);
        }
        let detail = match self.program.execute(&context) {
            Ok(cel::Value::Bool(true)) => return None,
            Ok(cel::Value::Bool(false)) => self.explanation(&context),
            Ok(_) => format!("rule does not evaluate to a bool: {}", self.source),
            Err(error) => format!("{error} evaluating rule: {}", self.source),
        };
        let field = format!("{path}{}", self.field_path);
        let field = if path.is_root() { field.trim_start_matches('.').to_owned() } else { field };
        // How a path to nowhere is printed.
        let field = if field.is_empty() { "<nil>".to_owned() } else { field };
        let error = FieldError::new(field, self.problem, detail);
        let shown = matches!(self.problem, FieldProblem::Invalid | FieldProblem::Duplicate);
        Some(if shown { error.with_value(show_briefly(new)) } else { error })
    }

    fn explanation(&self, context: &Context<'_, '_>) -> String {
        let computed = self.message_expression.as_ref().and_then(|program| match program.execute(context) {
            Ok(cel::Value::String(text)) if !text.trim().is_empty() => Some(text.trim().to_owned()),
            _ => None,
        });
        match computed {
            Some(text) => text,
            None if self.message.is_empty() => format!("failed rule: {}", self.source),
            None => self.message.clone(),
        }
    }
}

/// The value as rules see it: numbers by the type that the schema gives them, of metadata only the names.
fn to_cel(node: &Node, value: &Value, is_root: bool) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Number(number) => match number.as_i64().filter(|_| node.kind != Some(Kind::Number)) {
            Some(number) => cel::Value::Int(number),
            None => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::Array(list) => {
            let unknown = Node::default();
            let items = node.items.as_deref().unwrap_or(&unknown);
            cel::Value::List(Arc::new(list.iter().map(|item| to_cel(items, item, false)).collect()))
        }
        Value::Object(map) => {
            let unknown = Node::default();
            let entries = map.iter().map(|(key, value)| {
                let child = node.properties.get(key).or(node.additional.as_ref());
                let value = match (is_root && key == "metadata", value.as_object()) {
                    (true, Some(metadata)) => {
                        let names = metadata
                            .iter()
                            .filter(|(key, _)| ["name", "generateName"].contains(&key.as_str()));
                        let names = names.map(|(key, value)| (key.clone(), value.clone())).collect();
                        to_cel(&unknown, &Value::Object(names), false)
                    }
                    _ => to_cel(child.map_or(&unknown, |child| child), value, false),
                };
                (Key::from(key.clone()), value)
            });
            cel::Value::Map(Map { map: Arc::new(entries.collect()) })
        }
    }
}

#[cfg(test)]
mod tests;
