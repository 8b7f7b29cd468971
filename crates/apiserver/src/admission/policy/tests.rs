use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::admission::Operation;
use crate::auth::User;
use crate::store::tests::World;

/// A create of a config map by the agent of a node.
fn attributes(node: &str) -> Attributes {
    let mut user = User::new("system:serviceaccount:ns:agent", &[]);
    user.extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec!["n1".to_owned()]);
    let info = World::new().info("configmaps");
    Attributes {
        kind: info.gvk.clone(),
        resource: info,
        subresource: "",
        operation: Operation::Create,
        namespace: "ns".to_owned(),
        name: "c".to_owned(),
        object: json!({"metadata": {"name": "c"}, "data": {"node": node}}),
        old: Value::Null,
        namespace_object: json!({"metadata": {"labels": {"a": "b"}}}),
        user: Arc::new(user),
        dry_run: false,
        options: json!({}),
    }
}

fn policy(spec: &Value) -> Policy {
    let mut spec = spec.clone();
    spec["matchConstraints"] = json!({"resourceRules": [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}]});
    Policy::of(&json!({"metadata": {"name": "p"}, "spec": spec}))
}

fn binding(actions: &[&str]) -> Binding {
    Binding::of(
        &json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": actions}}),
    )
}

#[track_caller]
fn check(
    spec: &Value,
    attributes: &Attributes,
    params: Option<Result<Vec<Value>, String>>,
    expected: Option<&str>,
) {
    let (policy, binding) = (policy(spec), binding(&["Deny"]));
    assert!(is_about(&policy, &binding, attributes));
    let judged = judge(&policy, &binding, attributes, params, &|_| {});
    let text = judged.err().map(|error| error.message.clone());
    let start =
        "configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";
    assert_eq!(text, expected.map(|expected| format!("{start}{expected}")));
}

#[test]
fn an_agent_is_held_to_its_own_node() {
    let own = "request.userInfo.extra['authentication.kubernetes.io/node-name'][0]";
    let spec = json!({
        "variables": [{"name": "own", "expression": own}],
        "validations": [{
            "expression": "object.data.node == variables.own",
            "messageExpression": "'only the agent of ' + object.data.node + ' may'",
        }],
    });
    check(&spec, &attributes("n1"), None, None);
    check(&spec, &attributes("n2"), None, Some("only the agent of n2 may"));
}

#[test]
fn conditions_let_others_through_and_errors_do_not() {
    let spec = |condition: &str, rule: &str, failure: &str| {
        json!({
            "failurePolicy": failure,
            "matchConditions": [{"name": "c", "expression": condition}],
            "validations": [{"expression": rule}],
        })
    };
    check(&spec("request.name == 'other'", "false", "Fail"), &attributes("n1"), None, None);
    check(&spec("true", "1 > 2", "Fail"), &attributes("n1"), None, Some("failed expression: 1 > 2"));
    check(&spec("true", "object.none == 1", "Ignore"), &attributes("n1"), None, None);
    let expected = "expression 'object.none == 1' resulted in error: No such key: none";
    check(&spec("true", "object.none == 1", "Fail"), &attributes("n1"), None, Some(expected));
}

#[test]
fn each_parameter_is_judged_and_missing_ones_are_told() {
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.data.node != params.data.forbidden", "message": "forbidden"}],
    });
    let params = |names: &[&str]| {
        let objects = names.iter().map(|name| json!({"data": {"forbidden": name}}));
        Some(Ok(objects.collect::<Vec<Value>>()))
    };
    check(&spec, &attributes("n1"), params(&["x", "y"]), None);
    check(&spec, &attributes("n1"), params(&["x", "n1"]), Some("forbidden"));
    check(&spec, &attributes("n1"), Some(Err("none found".to_owned())), Some("none found"));
}

#[test]
fn a_binding_may_warn_and_not_deny() {
    let warnings = std::sync::Mutex::new(Vec::new());
    let warn = |warning| warnings.lock().expect("nobody panicked").push(warning);
    let policy = policy(&json!({"validations": [{"expression": "false", "message": "no"}]}));
    assert_eq!(judge(&policy, &binding(&["Warn"]), &attributes("n1"), None, &warn), Ok(()));
    let expected = "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': no";
    assert_eq!(warnings.into_inner().expect("nobody panicked"), [expected]);
}

#[test]
fn reasons_choose_the_code() {
    for (reason, code) in
        [("", 422), ("Forbidden", 403), ("Unauthorized", 401), ("RequestEntityTooLarge", 413)]
    {
        let policy = policy(&json!({"validations": [{"expression": "false", "reason": reason}]}));
        let error =
            judge(&policy, &binding(&["Deny"]), &attributes("n1"), None, &|_| {}).expect_err("denied");
        assert_eq!(error.code, code);
    }
}
