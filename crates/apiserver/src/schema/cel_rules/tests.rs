use proptest::prelude::*;
use serde_json::{Value, json};

use crate::schema::{Schema, structural_errors};

fn schema_with(rule: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {
        "type": "object",
        "x-kubernetes-validations": [rule],
        "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"}, "ratio": {"type": "number"},
            "name": {"type": "string"}, "list": {"type": "array", "items": {"type": "string"}},
        },
    }}})
}

#[track_caller]
fn check(rule: Value, spec: Value, old: Option<Value>, expected: &[&str]) {
    let schema = schema_with(rule);
    assert_eq!(structural_errors(&schema, ""), []);
    let schema = Schema::compile(&schema).expect("a structural schema");
    let old = old.map(|spec| json!({"spec": spec}));
    let errors = schema.validate(&json!({"spec": spec}), old.as_ref());
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
}

#[test]
fn rules_judge_what_they_are_written_for() {
    let rule = json!({"rule": "self.min <= self.max"});
    check(rule.clone(), json!({"min": 1, "max": 2}), None, &[]);
    check(
        rule,
        json!({"min": 3, "max": 2}),
        None,
        &["spec: Invalid value: \"object\": failed rule: self.min <= self.max"],
    );
    for (rule, fine) in [
        ("!has(self.max) || self.max > 0", true),
        ("self.list.all(item, item.startsWith('a'))", false),
        ("self.list.exists(item, item == 'b') && size(self.list) == 2", true),
        ("self.ratio > 0.5 && self.min == 1", true),
        ("self.name.matches('^[a-z]+$')", true),
        ("isIP(self.name)", false),
        ("cidr('10.0.0.0/8').containsIP('10.1.2.3') && ip('::1').family() == 6", true),
        ("cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.0.0.0/8').prefixLength() == 8", true),
        ("self.name.lowerAscii() == 'abc'", true),
    ] {
        let spec = json!({"min": 1, "ratio": 1, "name": "abc", "list": ["a", "b"]});
        let failed = format!("spec: Invalid value: \"object\": failed rule: {rule}");
        let expected: &[&str] = if fine { &[] } else { &[failed.as_str()] };
        check(json!({"rule": rule}), spec, None, expected);
    }
}

#[test]
fn messages_reasons_and_paths_are_those_of_the_rule() {
    let spec = json!({"min": 3});
    check(
        json!({"rule": "self.min < 2", "message": "too much"}),
        spec.clone(),
        None,
        &["spec: Invalid value: \"object\": too much"],
    );
    check(
        json!({"rule": "self.min < 2", "messageExpression": "'min is ' + string(self.min)", "fieldPath": ".min", "reason": "FieldValueForbidden"}),
        spec.clone(),
        None,
        &["spec.min: Forbidden: min is 3"],
    );
    check(
        json!({"rule": "self.none == 1"}),
        spec,
        None,
        &["spec: Invalid value: \"object\": No such key: none evaluating rule: self.none == 1"],
    );
}

#[test]
fn transition_rules_are_judged_on_updates_only() {
    let rule = json!({"rule": "self.min >= oldSelf.min", "message": "may not shrink"});
    check(rule.clone(), json!({"min": 1}), None, &[]);
    check(rule.clone(), json!({"min": 2}), Some(json!({"min": 1})), &[]);
    check(
        rule,
        json!({"min": 1}),
        Some(json!({"min": 2})),
        &["spec: Invalid value: \"object\": may not shrink"],
    );
    let optional = json!({"rule": "oldSelf.hasValue() || self.min == 0", "optionalOldSelf": true, "message": "starts at 0"});
    check(optional.clone(), json!({"min": 1}), None, &["spec: Invalid value: \"object\": starts at 0"]);
    check(optional, json!({"min": 1}), Some(json!({"min": 0})), &[]);
}

#[test]
fn rules_wait_for_more_fundamental_errors() {
    check(
        json!({"rule": "self.min < 2"}),
        json!({"min": "x"}),
        None,
        &[
            "spec.min: Invalid value: \"string\": spec.min in body must be of type integer: \"string\"",
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; \
             correct the existing errors to complete validation",
        ],
    );
}

#[test]
fn rules_that_do_not_parse_are_refused_with_their_schema() {
    let errors = structural_errors(&schema_with(json!({"rule": "self.min <"})), "s");
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].field, "s.properties[spec].x-kubernetes-validations[0].rule");
    assert!(errors[0].detail.starts_with("compilation failed: "), "{}", errors[0].detail);
}

proptest! {
    #[test]
    fn no_rule_panics(rule in "[a-z0-9_.()!<>=&|'\"\\[\\]{},?:+* -]{0,60}") {
        let schema = schema_with(json!({"rule": rule}));
        if let Ok(schema) = Schema::compile(&schema) {
            let _ = schema.validate(&json!({"spec": {"min": 1, "list": ["a"]}}), None);
        }
    }
}
