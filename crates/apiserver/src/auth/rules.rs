//! Rules of roles: what one says, what it allows, and which rules cover others.

use std::fmt;

use serde_json::{Map, Value, json};

use super::access::{Action, ResourceAction};

/// What stands for everything.
const ALL: &str = "*";

/// One rule of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// Verbs, `*` for all.
    pub verbs: Vec<String>,
    /// API groups, `*` for all.
    pub api_groups: Vec<String>,
    /// Resources, with their subresource if it is one; `*` for all.
    pub resources: Vec<String>,
    /// Names; all if empty.
    pub resource_names: Vec<String>,
    /// Paths that are no resource; `*` at the end for all that start so.
    pub non_resource_urls: Vec<String>,
}

impl PolicyRule {
    /// The rules of a role object.
    pub fn of_role(role: &Value) -> Vec<Self> {
        let rules = role.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        rules.iter().map(Self::from_json).collect()
    }

    fn from_json(rule: &Value) -> Self {
        let texts = |key: &str| -> Vec<String> {
            let list = rule.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            verbs: texts("verbs"),
            api_groups: texts("apiGroups"),
            resources: texts("resources"),
            resource_names: texts("resourceNames"),
            non_resource_urls: texts("nonResourceURLs"),
        }
    }

    /// The rule as reviews show it.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("verbs".to_owned(), json!(self.verbs));
        for (key, texts) in [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ] {
            if !texts.is_empty() {
                map.insert(key.to_owned(), json!(texts));
            }
        }
        Value::Object(map)
    }

    /// Whether the rule allows an action.
    pub fn allows(&self, action: &Action) -> bool {
        match action {
            Action::Resource(action) => {
                has(&self.verbs, &action.verb)
                    && has(&self.api_groups, &action.group)
                    && self.resources.iter().any(|own| names_resource(own, action))
                    && (self.resource_names.is_empty() || self.resource_names.contains(&action.name))
            }
            Action::Path { path, verb } => {
                has(&self.verbs, verb) && self.non_resource_urls.iter().any(|own| covers_path(own, path))
            }
        }
    }

    /// The rules for one verb of one resource, of one name or path each, that together say the same.
    fn split(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut parts = Vec::new();
        for path in &self.non_resource_urls {
            let verbs = self.verbs.iter();
            parts.extend(verbs.map(|verb| Self {
                verbs: one(verb),
                non_resource_urls: one(path),
                ..Self::default()
            }));
        }
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let part = Self {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        parts.push(part);
                    } else {
                        let names = self.resource_names.iter();
                        parts.extend(names.map(|name| Self { resource_names: one(name), ..part.clone() }));
                    }
                }
            }
        }
        parts
    }

    /// Whether the rule allows all that a rule of one verb and one resource allows.
    fn covers(&self, part: &Self) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|wanted| has(own, wanted));
        if !all(&self.verbs, &part.verbs) {
            return false;
        }
        if !part.non_resource_urls.is_empty() {
            let mut wanted = part.non_resource_urls.iter();
            return wanted.all(|path| self.non_resource_urls.iter().any(|own| covers_path(own, path)));
        }
        let named = self.resource_names.is_empty()
            || !part.resource_names.is_empty()
                && part.resource_names.iter().all(|name| self.resource_names.contains(name));
        all(&self.api_groups, &part.api_groups)
            && part
                .resources
                .iter()
                .all(|wanted| self.resources.iter().any(|own| covers_resource(own, wanted)))
            && named
    }
}

fn has(texts: &[String], wanted: &str) -> bool {
    texts.iter().any(|own| own == ALL || own == wanted)
}

fn covers_path(own: &str, path: &str) -> bool {
    own == ALL || own == path || own.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

fn names_resource(own: &str, action: &ResourceAction) -> bool {
    if own == ALL {
        return true;
    }
    match own.split_once('/') {
        None => action.subresource.is_empty() && own == action.resource,
        Some((resource, subresource)) => {
            subresource == action.subresource && (resource == ALL || resource == action.resource)
        }
    }
}

fn covers_resource(own: &str, wanted: &str) -> bool {
    let parts = own.strip_prefix("*/").zip(wanted.split_once('/'));
    own == ALL || own == wanted || parts.is_some_and(|(own, (_, wanted))| own == wanted)
}

/// What `held` does not cover of `wanted`, one rule for each resource and name, in the order of their texts.
pub fn not_covered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let parts = wanted.iter().flat_map(PolicyRule::split);
    let mut missing: Vec<PolicyRule> = Vec::new();
    for part in parts.filter(|part| !held.iter().any(|own| own.covers(part))) {
        let same = |other: &&mut PolicyRule| {
            let PolicyRule { verbs: _, api_groups, resources, resource_names, non_resource_urls } = other;
            *api_groups == part.api_groups
                && *resources == part.resources
                && *resource_names == part.resource_names
                && *non_resource_urls == part.non_resource_urls
        };
        match missing.iter_mut().find(same) {
            Some(other) if other.verbs.iter().any(|verb| part.verbs.contains(verb)) => {}
            Some(other) => other.verbs.extend(part.verbs),
            None => missing.push(part),
        }
    }
    missing.sort_by_cached_key(ToString::to_string);
    missing
}

/// The rule as refusals show it: `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        f.write_str("{")?;
        for (index, (key, texts)) in parts.into_iter().filter(|(_, texts)| !texts.is_empty()).enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{key}:{}", super::access::quoted(texts))?;
        }
        f.write_str("}")
    }
}
