//! Whether a config fits the schema; applying decides by field, so a field that isn't known cannot be let through.

use std::collections::BTreeSet;

use serde_json::Value;

use super::field_set::step_text;
use super::typing::Type;

/// What doesn't fit, each with its path.
pub(crate) fn check_config(object: Type<'_>, config: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    check(object, config, "", &mut errors);
    errors
}

fn check(value: Type<'_>, content: &Value, path: &str, errors: &mut Vec<String>) {
    match content {
        Value::Object(map) => {
            for (key, content) in map {
                let path = format!("{path}.{key}");
                match value.field(key) {
                    Some(field) => check(field.value, content, &path, errors),
                    None => errors.push(format!("{path}: field not declared in schema")),
                }
            }
        }
        Value::Array(list) if value.is_granular_list() => check_items(value, list, path, errors),
        Value::Array(list) => {
            for (index, content) in list.iter().enumerate() {
                check(value.item(), content, &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

fn check_items(value: Type<'_>, list: &[Value], path: &str, errors: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, content) in list.iter().enumerate() {
        let missing = value.keys().iter().find(|key| value.key_of(content, key).is_none());
        if let Some(key) = missing {
            errors.push(format!(
                "{path}: element {index}: associative list with keys has an element that omits key field {key:?} \
                 (and doesn't have default value)"
            ));
            continue;
        }
        let step = value.item_step(content);
        let text = step_text(&step);
        check(value.item(), content, &format!("{path}{text}"), errors);
        if !seen.insert(step) {
            errors.push(format!("{path}: duplicate entries for key {text}"));
        }
    }
}
