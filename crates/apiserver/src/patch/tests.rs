use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::limits::Limits;
use crate::resource::ResourceInfo;
use crate::schema::tests::any_json;

fn deployments() -> ResourceInfo {
    crate::builtin::resources()
        .into_iter()
        .find(|info| info.plural == "deployments")
        .expect("deployments are built in")
}

fn pod_spec(spec: Value) -> Value {
    json!({"spec": {"template": {"spec": spec}}})
}

#[track_caller]
fn check_strategic(old: Value, patch: Value, expected: Value) {
    let found = apply_strategic(&deployments(), &pod_spec(old), &pod_spec(patch)).expect("a valid patch");
    assert_eq!(found, pod_spec(expected));
}

#[test]
fn keyed_lists_merge_by_key_and_others_are_replaced() {
    check_strategic(
        json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}], "tolerations": [{"key": "k"}]}),
        json!({"containers": [{"name": "a", "image": "2", "args": ["y"]}, {"name": "c"}], "tolerations": [{"key": "l"}]}),
        json!({"containers": [{"name": "a", "image": "2", "args": ["y"]}, {"name": "b"}, {"name": "c"}],
            "tolerations": [{"key": "l"}]}),
    );
}

#[test]
fn items_and_maps_can_be_deleted_and_replaced() {
    check_strategic(
        json!({"containers": [{"name": "a"}, {"name": "b", "env": [{"name": "X", "value": "1"}]}], "nodeSelector": {"a": "b"}}),
        json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "env": [{"$patch": "replace"}, {"name": "Y"}]}],
            "nodeSelector": {"$patch": "replace", "c": "d"}}),
        json!({"containers": [{"name": "b", "env": [{"name": "Y"}]}], "nodeSelector": {"c": "d"}}),
    );
    check_strategic(
        json!({"hostNetwork": true, "dnsPolicy": "x"}),
        json!({"hostNetwork": null}),
        json!({"dnsPolicy": "x"}),
    );
}

#[test]
fn retain_keys_drops_the_other_keys() {
    let old = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    let found = apply_strategic(&deployments(), &old, &patch).expect("a valid patch");
    assert_eq!(found, json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn element_order_sorts_what_was_merged() {
    check_strategic(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [{"name": "c"}]}),
        json!({"containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}]}),
    );
}

#[test]
fn primitive_lists_merge_and_lose_single_values() {
    let old = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"],
        "$setElementOrder/finalizers": ["c", "b"]}});
    let found = apply_strategic(&deployments(), &old, &patch).expect("a valid patch");
    assert_eq!(found, json!({"metadata": {"finalizers": ["c", "b"]}}));
}

#[test]
fn items_without_their_key_are_a_bad_request() {
    let error = apply_strategic(
        &deployments(),
        &pod_spec(json!({})),
        &pod_spec(json!({"containers": [{"image": "x"}]})),
    );
    assert_eq!(error.expect_err("no key").code, 400);
}

#[test]
fn merge_patches_follow_the_examples_of_their_standard() {
    for (document, patch, expected) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        assert_eq!(apply_merge(&document, &patch), Ok(expected));
    }
}

#[test]
fn json_patches_apply_all_or_nothing() {
    let document = json!({"a": 1, "l": [1]});
    let patch = json!([{"op": "test", "path": "/a", "value": 1}, {"op": "add", "path": "/l/-", "value": 2}]);
    assert_eq!(apply_json(&document, &patch, &Limits::default()), Ok(json!({"a": 1, "l": [1, 2]})));
    let failed =
        apply_json(&document, &json!([{"op": "test", "path": "/a", "value": 2}]), &Limits::default())
            .expect_err("test fails");
    assert_eq!(
        (failed.code, failed.message.as_str()),
        (422, "the server rejected our request due to an error in our request")
    );
    assert_eq!(
        apply_json(&document, &json!({"op": "x"}), &Limits::default()).expect_err("no list").code,
        400
    );
    assert_eq!(
        apply_json(&document, &patch, &Limits { json_patch_operations: 1, ..Limits::default() })
            .expect_err("too many")
            .code,
        413
    );
}

#[test]
fn json_patches_can_neither_double_a_document_for_ever_nor_nest_it_for_ever() {
    let document = json!({"a": {"text": "x".repeat(1000)}});
    let doubling: Vec<Value> =
        (0..100).map(|n| json!({"op": "copy", "from": "/a", "path": format!("/a/c{n}")})).collect();
    let error = apply_json(&document, &Value::from(doubling), &Limits::default()).expect_err("too much");
    assert!(error.code == 413 || error.code == 422);
    let nesting: Vec<Value> =
        (0..200).map(|n| json!({"op": "add", "path": "/a".repeat(n + 1), "value": {"a": {}}})).collect();
    let error = apply_json(&document, &Value::from(nesting), &Limits::default()).expect_err("too deep");
    assert_eq!(error.code, 422);
}

proptest! {
    #[test]
    fn no_patch_panics(document in any_json(), patch in any_json()) {
        let info = deployments();
        let _ = apply_json(&document, &patch, &Limits::default());
        let _ = apply_merge(&document, &patch);
        let _ = apply_strategic(&info, &document, &patch);
        let _ = apply_strategic(&info, &pod_spec(document), &pod_spec(patch));
    }

    #[test]
    fn merging_twice_is_merging_once(document in any_json(), patch in any_json()) {
        if let Ok(once) = apply_merge(&document, &patch) {
            prop_assert_eq!(apply_merge(&once, &patch), Ok(once));
        }
    }
}
