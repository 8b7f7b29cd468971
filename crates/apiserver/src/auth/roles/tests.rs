use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::auth::access::{Action, Decision, ResourceAction, allows, decide};
use crate::auth::rules::not_covered;

fn index(objects: &[(&str, Value)]) -> RoleIndex {
    let mut index = RoleIndex::default();
    for (resource, object) in objects {
        index.observe(&GroupResource::new(GROUP, resource), None, Some(object));
    }
    index
}

fn role(name: &str, rules: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns"}, "rules": rules})
}

fn binding(role_kind: &str, role: &str, subject: &Value) -> Value {
    json!({"metadata": {"name": "b", "namespace": "ns"}, "roleRef": {"kind": role_kind, "name": role}, "subjects": [subject]})
}

fn action(verb: &str, resource: &str, name: &str) -> Action {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Action::Resource(ResourceAction {
        verb: verb.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        ..ResourceAction::default()
    })
}

#[test]
fn rules_allow_by_verb_resource_subresource_and_name() {
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods", "pods/log", "*/scale"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["*"]},
    ]);
    let alice = json!({"kind": "User", "name": "alice"});
    let index = index(&[("roles", role("r", &rules)), ("rolebindings", binding("Role", "r", &alice))]);
    let user = User::new("alice", &[]);
    for (verb, resource, name, expected) in [
        ("get", "pods", "p", true),
        ("get", "pods/log", "p", true),
        ("get", "pods/status", "p", false),
        ("get", "deployments/scale", "d", true),
        ("get", "deployments", "d", false),
        ("list", "pods", "", false),
        ("delete", "secrets", "one", true),
        ("delete", "secrets", "two", false),
        ("list", "secrets", "", false),
    ] {
        assert_eq!(
            allows(&index, &user, &action(verb, resource, name)),
            expected,
            "{verb} {resource} {name}"
        );
        assert!(!allows(&index, &User::new("bob", &[]), &action(verb, resource, name)));
    }
}

#[test]
fn bindings_reach_users_groups_and_service_accounts_and_end_when_they_change() {
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let get = action("get", "pods", "p");
    for (subject, user, reason) in [
        (json!({"kind": "User", "name": "a"}), User::new("a", &[]), "User \"a\""),
        (json!({"kind": "Group", "name": "g"}), User::new("a", &["g"]), "Group \"g\""),
        (
            json!({"kind": "ServiceAccount", "name": "s", "namespace": "ns"}),
            User::new("system:serviceaccount:ns:s", &[]),
            "ServiceAccount \"s/ns\"",
        ),
    ] {
        let bound = binding("Role", "r", &subject);
        let mut index = index(&[("roles", role("r", &rules)), ("rolebindings", bound.clone())]);
        let reason = format!("RBAC: allowed by RoleBinding \"b/ns\" of Role \"r\" to {reason}");
        assert_eq!(decide(&index, &user, &get), Decision { allowed: true, reason });
        index.observe(&GroupResource::new(GROUP, "rolebindings"), Some(&bound), None);
        assert!(!allows(&index, &user, &get));
        assert!(index.bindings.is_empty(), "nothing stays behind");
    }
}

#[test]
fn a_binding_without_its_role_allows_nothing_and_says_so() {
    let index =
        index(&[("rolebindings", binding("ClusterRole", "none", &json!({"kind": "User", "name": "a"})))]);
    let decision = decide(&index, &User::new("a", &[]), &action("get", "pods", "p"));
    let reason = "RBAC: clusterrole.rbac.authorization.k8s.io \"none\" not found".to_owned();
    assert_eq!(decision, Decision { allowed: false, reason });
}

#[test]
fn what_is_not_covered_is_told_by_resource_and_name() {
    let rule = |groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]| {
        PolicyRule::of_role(
            &json!({"rules": [{"apiGroups": groups, "resources": resources, "resourceNames": names, "verbs": verbs}]}),
        )
    };
    let texts = |held: &[PolicyRule], wanted: &[PolicyRule]| -> Vec<String> {
        not_covered(held, wanted).iter().map(ToString::to_string).collect()
    };
    let held = rule(&[""], &["pods"], &[], &["get", "list"]);
    assert_eq!(
        texts(&held, &rule(&[""], &["secrets", "pods"], &[], &["get", "list", "delete"])),
        [
            "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}",
            "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\" \"delete\"]}",
        ]
    );
    assert_eq!(
        texts(&held, &rule(&[""], &["secrets"], &["a"], &["get"])),
        ["{APIGroups:[\"\"], Resources:[\"secrets\"], ResourceNames:[\"a\"], Verbs:[\"get\"]}"]
    );
    assert_eq!(texts(&held, &rule(&[""], &["pods"], &["a"], &["get"])), [""; 0]);
}

fn some(texts: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(texts, 1..=texts.len())
        .prop_map(|texts| texts.into_iter().map(str::to_owned).collect())
}

fn some_rule() -> impl Strategy<Value = PolicyRule> {
    let names = prop_oneof![Just(Vec::new()), some(&["n", "m"])];
    (some(&["get", "list", "*"]), some(&["", "apps", "*"]), some(&["pods", "pods/log", "*/log", "*"]), names)
        .prop_map(|(verbs, api_groups, resources, resource_names)| PolicyRule {
            verbs,
            api_groups,
            resources,
            resource_names,
            ..PolicyRule::default()
        })
}

proptest! {
    #[test]
    fn rules_that_cover_others_allow_all_that_those_allow(
        held in proptest::collection::vec(some_rule(), 0..3),
        wanted in proptest::collection::vec(some_rule(), 0..3),
    ) {
        prop_assert!(not_covered(&held, &held).is_empty());
        if not_covered(&held, &wanted).is_empty() {
            for resource in ["pods", "pods/log", "nodes/log", "x"] {
                for (verb, name) in [("get", "n"), ("list", ""), ("watch", "m")] {
                    let action = action(verb, resource, name);
                    let allowed = |rules: &[PolicyRule]| rules.iter().any(|rule| rule.allows(&action));
                    prop_assert!(allowed(&held) || !allowed(&wanted));
                }
            }
        }
    }
}
