//! Which requests a rule, a selector or a condition is about.

use serde_json::Value;

use super::expression::{Expression, Scope};
use super::{Attributes, GROUP};
use crate::builtin::text;
use crate::resource::Gvk;
use crate::selector::LabelSelector;

/// Constraints of a webhook, a policy or a binding.
#[derive(Debug, Default)]
pub(crate) struct Constraints {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Whether other versions of a resource count as well.
    equivalent: bool,
    namespaces: Option<LabelSelector>,
    objects: Option<LabelSelector>,
}

#[derive(Debug)]
struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    operations: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    scope: String,
}

impl Rule {
    fn of(rule: &Value) -> Self {
        Self {
            groups: texts(rule, "apiGroups"),
            versions: texts(rule, "apiVersions"),
            operations: texts(rule, "operations"),
            resources: texts(rule, "resources"),
            names: texts(rule, "resourceNames"),
            scope: text(rule, "/scope").to_owned(),
        }
    }

    fn is_about(&self, attributes: &Attributes, any_version: bool) -> bool {
        let Attributes { resource, subresource, operation, name, .. } = attributes;
        // A namespace has no scope of its own for this purpose: it is cluster-scoped.
        let in_scope = match self.scope.as_str() {
            "Namespaced" => resource.namespaced,
            "Cluster" => !resource.namespaced,
            _ => true,
        };
        in_scope
            && has(&self.groups, &resource.gvk.group)
            && (any_version || has(&self.versions, &resource.gvk.version))
            && has(&self.operations, operation.name())
            && (self.names.is_empty() || self.names.contains(name))
            && self.resources.iter().any(|own| names_resource(own, &resource.plural, subresource))
    }
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    let list = value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(texts: &[String], wanted: &str) -> bool {
    texts.iter().any(|own| own == "*" || own == wanted)
}

fn names_resource(own: &str, plural: &str, subresource: &str) -> bool {
    let (resource, part) = own.split_once('/').unwrap_or((own, ""));
    (resource == "*" || resource == plural) && (part == "*" || part == subresource)
}

impl Constraints {
    /// The constraints of an object with `matchPolicy` and selectors; rules are in the list `rules`.
    pub(crate) fn of(value: &Value, rules: &str) -> Self {
        let list = |key: &str| -> Vec<Rule> {
            value.get(key).and_then(Value::as_array).into_iter().flatten().map(Rule::of).collect()
        };
        let selector = |key: &str| value.get(key).and_then(LabelSelector::from_object);
        Self {
            rules: list(rules),
            excluded: list("excludeResourceRules"),
            equivalent: text(value, "/matchPolicy") != "Exact",
            namespaces: selector("namespaceSelector").filter(|selector| !selector.is_empty()),
            objects: selector("objectSelector").filter(|selector| !selector.is_empty()),
        }
    }

    /// Whether they name no resource: then they leave that to somebody else.
    pub(crate) fn names_nothing(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether they are about the resource and the operation.
    pub(crate) fn are_about(&self, attributes: &Attributes) -> bool {
        let any = |rules: &[Rule]| rules.iter().any(|rule| rule.is_about(attributes, self.equivalent));
        attributes.resource.gvk.group != GROUP && any(&self.rules) && !any(&self.excluded)
    }

    /// The version in which the object is to be shown, if not that of the request.
    pub(crate) fn shown_version(&self, attributes: &Attributes, served: &[String]) -> Option<String> {
        let exact = |version: &str| {
            let mut attributes = attributes.clone();
            let mut info = (*attributes.resource).clone();
            info.gvk = Gvk::new(&info.gvk.group, version, &info.gvk.kind);
            attributes.resource = info.into();
            self.rules.iter().any(|rule| rule.is_about(&attributes, false))
        };
        if !self.equivalent || exact(&attributes.resource.gvk.version) {
            return None;
        }
        served.iter().find(|version| exact(version)).cloned()
    }

    /// Whether the selectors choose the object and its namespace.
    pub(crate) fn select(&self, attributes: &Attributes) -> bool {
        let is_namespace = attributes.resource.builtin && attributes.resource.plural == "namespaces";
        let by_namespace = self.namespaces.as_ref().is_none_or(|selector| {
            if is_namespace {
                let own = if attributes.object.is_null() { &attributes.old } else { &attributes.object };
                return selector.matches(own);
            }
            !attributes.resource.namespaced || selector.matches(&attributes.namespace_object)
        });
        let by_object = self.objects.as_ref().is_none_or(|selector| {
            [&attributes.object, &attributes.old]
                .into_iter()
                .any(|object| !object.is_null() && selector.matches(object))
        });
        by_namespace && by_object
    }
}

/// What [`Conditions::hold`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Yes,
    No,
    /// One can't be judged, and none is false.
    Unknown(String),
}

/// `matchConditions`: all have to be true.
#[derive(Debug, Default)]
pub(crate) struct Conditions(Vec<(String, Result<Expression, String>)>);

impl Conditions {
    pub(crate) fn of(value: &Value) -> Self {
        let list = value.get("matchConditions").and_then(Value::as_array).into_iter().flatten();
        let read =
            |one: &Value| (text(one, "/name").to_owned(), Expression::compile(text(one, "/expression")));
        Self(list.map(read).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn hold(&self, scope: &Scope<'_>) -> Held {
        let mut problem = None;
        for (name, expression) in &self.0 {
            let truth = match expression {
                Ok(expression) => expression.truth(scope),
                Err(error) => Err(error.clone()),
            };
            match truth {
                Ok(true) => {}
                Ok(false) => return Held::No,
                Err(error) => problem = problem.or(Some(format!("{name}: {error}"))),
            }
        }
        problem.map_or(Held::Yes, Held::Unknown)
    }
}
