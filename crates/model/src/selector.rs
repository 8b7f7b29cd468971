//! Label selectors, as Kubernetes defines them.

use std::collections::{BTreeMap, BTreeSet};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// One term of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// The key is there and its value is one of these.
    In(String, BTreeSet<String>),
    /// The key is absent or its value is none of these.
    NotIn(String, BTreeSet<String>),
    /// The key is there.
    Exists(String),
    /// The key is absent.
    DoesNotExist(String),
}

/// A conjunction of requirements. Without any it matches everything, as in Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector {
    requirements: BTreeSet<Requirement>,
}

/// A requirement that Kubernetes does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Not one of the four operators.
    #[error("operator `{0}` is unknown; write In, NotIn, Exists or DoesNotExist")]
    Operator(String),
    /// `In` or `NotIn` without a value, or another operator with one.
    #[error("operator {operator} of key `{key}` {}", if *.needs { "needs at least one value" } else { "takes no values" })]
    Values {
        /// The label's key
        key: String,
        /// The operator
        operator: String,
        /// Whether the operator needs values
        needs: bool,
    },
    /// A requirement without a key.
    #[error("a requirement has no key")]
    Key,
}

impl LabelSelector {
    /// A selector that matches these labels exactly.
    pub fn equal_to<K: Into<String>, V: Into<String>>(labels: impl IntoIterator<Item = (K, V)>) -> Self {
        let requirements =
            labels.into_iter().map(|(k, v)| Requirement::In(k.into(), BTreeSet::from([v.into()])));
        Self { requirements: requirements.collect() }
    }

    /// Adds the requirement of one `matchExpressions` entry.
    pub fn and(&mut self, key: &str, operator: &str, values: &[String]) -> Result<(), SelectorError> {
        if key.is_empty() {
            return Err(SelectorError::Key);
        }
        let needs = matches!(operator, "In" | "NotIn");
        let known = needs || matches!(operator, "Exists" | "DoesNotExist");
        if known && needs == values.is_empty() {
            return Err(SelectorError::Values { key: key.to_owned(), operator: operator.to_owned(), needs });
        }
        let (key, set) = (key.to_owned(), values.iter().cloned().collect());
        self.requirements.insert(match operator {
            "In" => Requirement::In(key, set),
            "NotIn" => Requirement::NotIn(key, set),
            "Exists" => Requirement::Exists(key),
            "DoesNotExist" => Requirement::DoesNotExist(key),
            other => return Err(SelectorError::Operator(other.to_owned())),
        });
        Ok(())
    }

    /// Whether there is no requirement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// A key of which every match has one of these values: the way into an index. Of several the one with the fewest values.
    #[must_use]
    pub fn key_and_values(&self) -> Option<(&str, &BTreeSet<String>)> {
        let keys = self.requirements.iter().filter_map(|requirement| match requirement {
            Requirement::In(key, values) => Some((key.as_str(), values)),
            _ => None,
        });
        keys.min_by_key(|(_, values)| values.len())
    }

    /// Whether the labels fulfil every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn each_operator_answers_as_in_kubernetes() {
        let app = labels(&[("app", "web")]);
        let none = labels(&[]);
        for (operator, values, on_app, on_none) in [
            ("In", vec!["web", "db"], true, false),
            ("In", vec!["db"], false, false),
            ("NotIn", vec!["web"], false, true),
            ("NotIn", vec!["db"], true, true),
            ("Exists", vec![], true, false),
            ("DoesNotExist", vec![], false, true),
        ] {
            let mut selector = LabelSelector::default();
            let values: Vec<String> = values.into_iter().map(str::to_owned).collect();
            selector.and("app", operator, &values).unwrap();
            assert_eq!(
                (selector.matches(&app), selector.matches(&none)),
                (on_app, on_none),
                "{operator} {values:?}"
            );
        }
        assert!(LabelSelector::default().matches(&none));
        assert!(LabelSelector::equal_to([("app", "web")]).matches(&app));
        assert!(!LabelSelector::equal_to([("app", "web"), ("tier", "x")]).matches(&app));
    }

    #[test]
    fn an_index_is_entered_by_the_key_with_the_fewest_values() {
        let mut selector = LabelSelector::equal_to([("app", "web")]);
        selector.and("tier", "In", &["a".into(), "b".into()]).unwrap();
        selector.and("zone", "Exists", &[]).unwrap();
        assert_eq!(selector.key_and_values().map(|(key, _)| key), Some("app"));
        assert_eq!(LabelSelector::default().key_and_values(), None);
    }

    #[test]
    fn wrong_requirements_are_refused() {
        let mut selector = LabelSelector::default();
        assert!(matches!(selector.and("app", "Gt", &[]), Err(SelectorError::Operator(_))));
        assert!(matches!(selector.and("app", "In", &[]), Err(SelectorError::Values { needs: true, .. })));
        assert!(matches!(
            selector.and("app", "Exists", &["x".into()]),
            Err(SelectorError::Values { needs: false, .. })
        ));
        assert_eq!(selector.and("", "Exists", &[]), Err(SelectorError::Key));
        assert!(selector.is_empty());
    }
}
