//! Server-side apply and `managedFields`.

use serde_json::{Value, json};

use crate::target::{JSON_PATCH, MERGE, STRATEGIC, Target, config_map, deployment, version};

/// `manager operation subresource` and fields of each entry.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let name = |entry: &Value| {
        let name = ["manager", "operation", "subresource"].map(|key| text(entry, key)).join(" ");
        name.trim_end().to_owned()
    };
    let mut owners: Vec<_> = entries.iter().map(|entry| (name(entry), entry["fieldsV1"].clone())).collect();
    // Entries of one operation are in the order of their seconds, which depends on when a second ends.
    owners.sort_by(|a, b| a.0.cmp(&b.0));
    owners
}

#[track_caller]
fn assert_owners(object: &Value, expected: &[(&str, Value)]) {
    let expected: Vec<_> =
        expected.iter().map(|(name, fields)| ((*name).to_owned(), fields.clone())).collect();
    assert_eq!(owners(object), expected);
}

fn things() -> Value {
    let text = json!({"type": "string"});
    json!({"type": "object", "properties": {
        "color": text, "replicas": {"type": "integer"}, "depth": {"type": "integer", "default": 3},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": text},
        "plain": {"type": "array", "items": text},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": text},
        "map": {"type": "object", "additionalProperties": text},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "books": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id", "part"],
            "items": {"type": "object", "required": ["id"], "properties": {
                "id": text, "part": {"type": "integer", "default": 1}, "title": text}}},
    }})
}

#[tokio::test]
async fn case_38_apply_creates_and_then_keeps_version_and_time() {
    let t = Target::case(38).await;
    let path = t.core("configmaps/c");
    let made = t.apply(&path, "one", &config_map("c", json!({"a": "1"}))).await.expect(201);
    let again = t.apply(&path, "one", &config_map("c", json!({"a": "1"}))).await.expect(200);
    assert_eq!(made, again);
    assert_owners(&made, &[("one Apply", json!({"f:data": {"f:a": {}}}))]);
}

#[tokio::test]
async fn case_39_equal_values_are_shared_and_unequal_ones_conflict() {
    let t = Target::case(39).await;
    let path = t.core("configmaps/c");
    t.apply(&path, "one", &config_map("c", json!({"a": "1", "b": "1"}))).await.expect(201);
    t.apply(&path, "two", &config_map("c", json!({"a": "1"}))).await.expect(200);
    let refused = t.apply(&path, "two", &config_map("c", json!({"b": "2"}))).await;
    let status =
        refused.says(409, "Conflict", "Apply failed with 1 conflict: conflict with \"one\": .data.b");
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.b"}])
    );
    t.patch(&format!("{path}?fieldManager=m"), MERGE, &json!({"data": {"a": "3"}})).await.expect(200);
    let refused = t.apply(&path, "two", &config_map("c", json!({"a": "2", "b": "2"}))).await;
    refused.says(
        409,
        "Conflict",
        "Apply failed with 2 conflicts: conflicts with \"m\" using v1:\n- .data.a\nconflicts with \"one\":\n- .data.b",
    );
}

#[tokio::test]
async fn case_40_force_takes_fields_and_the_losers_entry_shrinks_or_goes() {
    let t = Target::case(40).await;
    let path = t.core("configmaps/c");
    t.apply(&path, "one", &config_map("c", json!({"a": "1", "b": "1"}))).await.expect(201);
    let forced = format!("{path}?force=true");
    let object = t.apply(&forced, "two", &config_map("c", json!({"a": "2"}))).await.expect(200);
    assert_owners(
        &object,
        &[("one Apply", json!({"f:data": {"f:b": {}}})), ("two Apply", json!({"f:data": {"f:a": {}}}))],
    );
    let object = t.apply(&forced, "two", &config_map("c", json!({"a": "2", "b": "2"}))).await.expect(200);
    assert_owners(&object, &[("two Apply", json!({"f:data": {"f:a": {}, "f:b": {}}}))]);
    let patch = t.patch(&format!("{path}?force=true&fieldManager=m"), MERGE, &json!({})).await;
    patch.says(
        422,
        "Invalid",
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
    );
}

#[tokio::test]
async fn case_41_fields_left_out_are_removed_unless_shared() {
    let t = Target::case(41).await;
    let path = t.core("configmaps/c");
    t.apply(&path, "one", &config_map("c", json!({"a": "1", "b": "1", "c": "1"}))).await.expect(201);
    t.apply(&path, "two", &config_map("c", json!({"b": "1"}))).await.expect(200);
    let object = t.apply(&path, "one", &config_map("c", json!({"a": "1"}))).await.expect(200);
    assert_eq!(object["data"], json!({"a": "1", "b": "1"}));
    let nothing = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let object = t.apply(&path, "one", &nothing).await.expect(200);
    assert_eq!(object["data"], json!({"b": "1"}));
    assert_owners(&object, &[("two Apply", json!({"f:data": {"f:b": {}}}))]);
}

#[tokio::test]
async fn case_42_lists_and_maps_merge_by_their_type_in_built_in_kinds() {
    let t = Target::case(42).await;
    let service = |ports: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"selector": {"a": "b"}, "ports": ports}})
    };
    let path = t.core("services/s");
    t.apply(&path, "one", &service(json!([{"name": "a", "port": 80}]))).await.expect(201);
    let both = service(json!([{"name": "b", "port": 81, "protocol": "UDP"}]));
    let object = t.apply(&path, "two", &both).await.expect(200);
    assert_eq!(object["spec"]["ports"].as_array().map(Vec::len), Some(2));
    let key = "k:{\"port\":80,\"protocol\":\"TCP\"}";
    assert_eq!(
        owners(&object)[0].1["f:spec"]["f:ports"],
        json!({key: {".": {}, "f:name": {}, "f:port": {}}})
    );
    let refused = t.apply(&path, "three", &service(json!([{"name": "x", "port": 80}]))).await;
    refused.says(
        409,
        "Conflict",
        "Apply failed with 1 conflict: conflict with \"one\": .spec.ports[port=80,protocol=\"TCP\"].name",
    );
    let mut other = service(json!([]));
    other["spec"] = json!({"selector": {"c": "d"}});
    let refused = t.apply(&path, "four", &other).await;
    let status = refused.fails(409, "Conflict");
    assert_eq!(status["details"]["causes"][0]["field"], ".spec.selector");
    let with = |finalizers: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "finalizers": finalizers}});
    let path = t.core("configmaps/c");
    t.apply(&path, "one", &with(json!(["x.io/a"]))).await.expect(201);
    let object = t.apply(&path, "two", &with(json!(["x.io/b"]))).await.expect(200);
    assert_eq!(object["metadata"]["finalizers"], json!(["x.io/a", "x.io/b"]));
    assert_eq!(owners(&object)[0].1, json!({"f:metadata": {"f:finalizers": {"v:\"x.io/a\"": {}}}}));
    let object = t.apply(&path, "one", &with(json!([]))).await.expect(200);
    assert_eq!(object["metadata"]["finalizers"], json!(["x.io/b"]));
    assert_owners(&object, &[("two Apply", json!({"f:metadata": {"f:finalizers": {"v:\"x.io/b\"": {}}}}))]);
    t.apply(&path, "two", &with(json!([]))).await.expect(200);
}

#[tokio::test]
async fn case_42_lists_and_maps_merge_by_their_type_in_custom_kinds() {
    let t = Target::case(42).await;
    t.define(things()).await;
    let path = t.custom("things/x");
    let thing = |spec: Value| t.thing("x", spec);
    let first = thing(json!({"set": ["a"], "plain": ["a"], "whole": {"a": "1"}, "map": {"a": "1"},
        "free": {"x": {"y": [1]}}, "books": [{"id": "b", "title": "t"}]}));
    let made = t.apply(&path, "one", &first).await.expect(201);
    assert_owners(
        &made,
        &[(
            "one Apply",
            json!({"f:spec": {
                "f:books": {"k:{\"id\":\"b\",\"part\":1}": {".": {}, "f:id": {}, "f:title": {}}},
                "f:free": {"f:x": {".": {}, "f:y": {}}}, "f:map": {"f:a": {}},
                "f:plain": {}, "f:set": {"v:\"a\"": {}}, "f:whole": {}}}),
        )],
    );
    let second = thing(
        json!({"set": ["b"], "map": {"b": "1"}, "books": [{"id": "b", "part": 2}, {"id": "b", "part": 1}]}),
    );
    let both = t.apply(&path, "two", &second).await.expect(200);
    assert_eq!(both["spec"]["set"], json!(["a", "b"]));
    assert_eq!(both["spec"]["map"], json!({"a": "1", "b": "1"}));
    assert_eq!(both["spec"]["books"], json!([{"id": "b", "part": 2}, {"id": "b", "part": 1, "title": "t"}]));
    for (spec, field) in [
        (json!({"plain": ["b"]}), ".spec.plain"),
        (json!({"whole": {"b": "1"}}), ".spec.whole"),
        (json!({"free": {"x": {"y": [2]}}}), ".spec.free.x.y"),
        (json!({"map": {"a": "2"}}), ".spec.map.a"),
    ] {
        let refused = t.apply(&path, "three", &thing(spec)).await;
        let message = format!("Apply failed with 1 conflict: conflict with \"one\": {field}");
        refused.says(409, "Conflict", &message);
    }
    let less = t.apply(&path, "one", &thing(json!({"plain": ["a"]}))).await.expect(200);
    assert_eq!(
        less["spec"],
        json!({"plain": ["a"], "depth": 3, "set": ["b"], "map": {"b": "1"},
            "books": [{"id": "b", "part": 2}, {"id": "b", "part": 1}]}),
    );
}

#[tokio::test]
async fn case_43_put_takes_over_what_it_changes() {
    let t = Target::case(43).await;
    let path = t.core("configmaps/c");
    let mut object = t.apply(&path, "one", &config_map("c", json!({"a": "1", "b": "1"}))).await.expect(201);
    object["data"]["a"] = json!("2");
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    let put = t.put(&format!("{path}?fieldManager=put"), &object).await.expect(200);
    assert_owners(
        &put,
        &[("one Apply", json!({"f:data": {"f:b": {}}})), ("put Update", json!({"f:data": {"f:a": {}}}))],
    );
    let refused = t.apply(&path, "one", &config_map("c", json!({"a": "1", "b": "1"}))).await;
    refused.says(409, "Conflict", "Apply failed with 1 conflict: conflict with \"put\" using v1: .data.a");
}

#[tokio::test]
async fn case_44_status_has_an_entry_of_its_own() {
    let t = Target::case(44).await;
    t.define(things()).await;
    let path = t.custom("things/x");
    let mut thing = t.thing("x", json!({"depth": 1}));
    thing["status"] = json!({"phase": "Up"});
    let made = t.apply(&path, "one", &thing).await.expect(201);
    assert!(made.get("status").is_none());
    assert_owners(&made, &[("one Apply", json!({"f:spec": {"f:depth": {}}}))]);
    thing["spec"]["depth"] = json!(9);
    thing["metadata"]["labels"] = json!({"a": "b"});
    let told = t.apply(&format!("{path}/status"), "one", &thing).await.expect(200);
    assert_eq!((&told["spec"]["depth"], &told["status"]["phase"]), (&json!(1), &json!("Up")));
    assert!(told["metadata"].get("labels").is_none());
    assert_owners(
        &told,
        &[
            ("one Apply", json!({"f:spec": {"f:depth": {}}})),
            (
                "one Apply status",
                json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:status": {"f:phase": {}}}),
            ),
        ],
    );
    let missing = t.thing("y", json!({}));
    t.apply(&t.custom("things/y/status"), "one", &missing).await.fails(404, "NotFound");
    t.post(&t.apps("deployments"), &deployment("d")).await.expect(201);
    let scale = t.apps("deployments/d/scale");
    t.patch(&format!("{scale}?fieldManager=s"), MERGE, &json!({"spec": {"replicas": 4}})).await.expect(200);
    let scaled = t.get(&t.apps("deployments/d")).await.expect(200);
    let entry = owners(&scaled).into_iter().find(|(name, _)| name == "s Update scale").expect("an entry");
    assert_eq!(entry.1, json!({"f:spec": {"f:replicas": {}}}));
    let refused = t.apply(&t.apps("deployments/d"), "me", &deployment("d")).await;
    refused.says(
        409,
        "Conflict",
        "Apply failed with 1 conflict: conflict with \"s\" with subresource \"scale\" using apps/v1: .spec.replicas",
    );
}

#[tokio::test]
async fn case_45_what_nobody_tracked_goes_to_before_first_apply() {
    let t = Target::case(45).await;
    let path = t.core("configmaps/c");
    t.post(&t.core("configmaps"), &config_map("c", json!({"a": "1"}))).await.expect(201);
    let reset = json!({"metadata": {"managedFields": [{}]}});
    t.patch(&path, MERGE, &reset).await.expect(200);
    let changed = t.patch(&path, MERGE, &json!({"data": {"b": "1"}})).await.expect(200);
    assert_owners(&changed, &[]);
    let refused = t.apply(&path, "m", &config_map("c", json!({"a": "2"}))).await;
    refused.says(
        409,
        "Conflict",
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a",
    );
    let object = t.apply(&path, "m", &config_map("c", json!({"a": "1"}))).await.expect(200);
    assert_owners(
        &object,
        &[
            ("before-first-apply Update", json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}})),
            ("m Apply", json!({"f:data": {"f:a": {}}})),
        ],
    );
}

#[tokio::test]
async fn case_46_what_cannot_be_applied_is_refused() {
    let t = Target::case(46).await;
    let path = t.core("configmaps/c");
    let config = config_map("c", json!({}));
    let nobody = t.patch(&path, crate::target::APPLY, &config).await;
    nobody.says(
        422,
        "Invalid",
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
    );
    let mut unknown = config.clone();
    unknown["x"] = json!(1);
    let message =
        "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .x: field not declared in schema";
    t.apply(&path, "m", &unknown).await.says(500, "", message);
    let mut managed = config.clone();
    managed["metadata"]["managedFields"] = json!([{"manager": "x", "operation": "Apply", "apiVersion": "v1",
        "fieldsType": "FieldsV1", "fieldsV1": {}}]);
    t.apply(&path, "m", &managed).await.says(400, "BadRequest", "metadata.managedFields must be nil");
    let mut uid = config.clone();
    uid["metadata"]["uid"] = json!("u");
    t.apply(&path, "m", &uid).await.fails(409, "Conflict");
    let mut name = config.clone();
    name["metadata"]["name"] = json!("other");
    t.apply(&path, "m", &name).await.fails(400, "BadRequest");
    t.apply(&path, "m", &config).await.expect(201);
    let mut stale = config_map("c", json!({"a": "1"}));
    stale["metadata"]["resourceVersion"] = json!("1");
    t.apply(&path, "m", &stale).await.fails(409, "Conflict");
}

#[tokio::test]
async fn case_47_entries_equal_recorded_ones_and_can_be_reset() {
    let t = Target::case(47).await;
    let path = t.apps("deployments/d");
    let made =
        t.post(&format!("{}?fieldManager=c", t.apps("deployments")), &deployment("d")).await.expect(201);
    let container = json!({
        ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {},
        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
            {".": {}, "f:containerPort": {}, "f:protocol": {}}},
        "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {},
    });
    let spec = json!({
        "f:progressDeadlineSeconds": {}, "f:replicas": {}, "f:revisionHistoryLimit": {}, "f:selector": {},
        "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}},
        "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
            "f:containers": {"k:{\"name\":\"c\"}": container}, "f:dnsPolicy": {}, "f:restartPolicy": {},
            "f:schedulerName": {}, "f:securityContext": {}, "f:terminationGracePeriodSeconds": {}}},
    });
    let labels = json!({"f:labels": {".": {}, "f:app": {}}});
    assert_owners(&made, &[("c Update", json!({"f:metadata": labels, "f:spec": spec}))]);
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!((&entry["apiVersion"], &entry["fieldsType"]), (&json!("apps/v1"), &json!("FieldsV1")));
    assert!(entry["time"].is_string() && entry.get("subresource").is_none());
    let bare = t.patch(&path, STRATEGIC, &json!({"metadata": {"managedFields": [{}]}})).await.expect(200);
    assert!(bare["metadata"].get("managedFields").is_none());
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}]}});
    let made = t.post(&format!("{}?fieldManager=c", t.core("services")), &service).await.expect(201);
    let ports = json!({".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}":
        {".": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}});
    assert_owners(
        &made,
        &[(
            "c Update",
            json!({"f:spec": {"f:internalTrafficPolicy": {}, "f:ports": ports, "f:sessionAffinity": {}, "f:type": {}}}),
        )],
    );
}

#[tokio::test]
async fn case_48_kubectls_own_fields_move_to_server_side_apply() {
    const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let t = Target::case(48).await;
    let path = t.core("configmaps/c");
    let config = config_map("c", json!({"a": "1"}));
    let mut object = config.clone();
    object["metadata"]["annotations"] = json!({LAST: format!("{config}\n")});
    let create = format!("{}?fieldManager=kubectl-client-side-apply", t.core("configmaps"));
    t.post(&create, &object).await.expect(201);
    let next = config_map("c", json!({"a": "2"}));
    t.apply(&path, "else", &next).await.fails(409, "Conflict");
    let moved = t.apply(&path, "kubectl", &next).await.expect(200);
    let last = moved["metadata"]["annotations"][LAST].as_str().expect("a text");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["data"], json!({"a": "2"}));
    t.patch(&format!("{path}?fieldManager=m"), MERGE, &json!({"data": {"b": "1"}})).await.expect(200);
    let refused = t.apply(&path, "kubectl", &config_map("c", json!({"b": "2"}))).await;
    refused.says(409, "Conflict", "Apply failed with 1 conflict: conflict with \"m\" using v1: .data.b");
    // What kubectl does next: it rewrites the entries by a JSON patch with a test of the version.
    let now = t.get(&path).await.expect(200);
    let entry = json!({"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "time": "2024-01-01T00:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}, "f:b": {}}}});
    let patch = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": [entry]},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": version(&now)},
    ]);
    let rewritten = t.patch(&path, JSON_PATCH, &patch).await.expect(200);
    assert_owners(&rewritten, &[("kubectl Apply", json!({"f:data": {"f:a": {}, "f:b": {}}}))]);
    let less = t.apply(&path, "kubectl", &config_map("c", json!({"a": "2"}))).await.expect(200);
    assert_eq!(less["data"], json!({"a": "2"}), "the field that was moved here can be left out");
}
