//! CEL over whole objects, without a schema.

use std::sync::Arc;

use cel::Context;
use serde_json::Value;

use super::Attributes;
use super::review;
use crate::schema::cel_rules;

/// A compiled expression with its text.
pub(crate) struct Expression {
    pub(crate) source: String,
    program: cel::Program,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

impl Expression {
    /// Compiles it; the error says what is wrong.
    pub(crate) fn compile(source: &str) -> Result<Self, String> {
        let program = cel_rules::compile_source(source)?;
        Ok(Self { source: source.trim().to_owned(), program })
    }

    /// Its value.
    pub(crate) fn value(&self, scope: &Scope<'_>) -> Result<cel::Value, String> {
        self.program.execute(&scope.0).map_err(|error| error.to_string())
    }

    /// Its value if that is a truth.
    pub(crate) fn truth(&self, scope: &Scope<'_>) -> Result<bool, String> {
        match self.value(scope)? {
            cel::Value::Bool(truth) => Ok(truth),
            _ => Err("does not evaluate to a bool".to_owned()),
        }
    }
}

/// The variables of an expression.
pub(crate) struct Scope<'a>(Context<'a, 'a>);

impl Scope<'_> {
    /// Those that all expressions of admission have.
    pub(crate) fn of(attributes: &Attributes) -> Self {
        let mut context = cel_rules::context();
        for (name, value) in [
            ("object", &attributes.object),
            ("oldObject", &attributes.old),
            ("namespaceObject", &attributes.namespace_object),
            ("request", &review::request(attributes, "")),
        ] {
            context.add_variable_from_value(name, cel_rules::plain(value));
        }
        Self(context)
    }

    /// Adds or replaces a variable.
    pub(crate) fn set(&mut self, name: &str, value: cel::Value) {
        self.0.add_variable_from_value(name.to_owned(), value);
    }

    /// Adds or replaces a variable.
    pub(crate) fn set_json(&mut self, name: &str, value: &Value) {
        self.set(name, cel_rules::plain(value));
    }

    /// Adds a map of values.
    pub(crate) fn set_map(&mut self, name: &str, entries: &[(String, cel::Value)]) {
        let entries =
            entries.iter().map(|(key, value)| (cel::objects::Key::from(key.clone()), value.clone()));
        self.set(name, cel::Value::Map(cel::objects::Map { map: Arc::new(entries.collect()) }));
    }
}
