//! Custom kinds.

use serde_json::{Value, json};

use crate::target::{DEFINITIONS, MERGE, Target};

#[tokio::test]
async fn case_3_a_definition_is_discovered_and_documented() {
    let t = Target::case(3).await;
    t.define(json!({"type": "object", "properties": {"color": {"type": "string"}, "replicas": {"type": "integer"}}})).await;
    let list = t.get(&format!("/apis/{}/v1", t.group)).await.expect(200);
    let names: Vec<&str> = list["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .filter_map(|item| item["name"].as_str())
        .collect();
    for name in ["things", "things/status", "things/scale"] {
        assert!(names.contains(&name), "{names:?}");
    }
}

#[tokio::test]
async fn case_59_an_established_definition_says_so() {
    let t = Target::case(59).await;
    t.define(json!({"type": "object", "properties": {"color": {"type": "string"}, "replicas": {"type": "integer"}}})).await;
    let definition = t.get(&format!("{DEFINITIONS}/things.{}", t.group)).await.expect(200);
    let condition = |kind: &str| -> Value {
        let conditions = definition["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found =
            conditions.into_iter().find(|condition| condition["type"] == kind).expect("the condition");
        json!({"status": found["status"], "reason": found["reason"], "message": found["message"]})
    };
    assert_eq!(
        condition("NamesAccepted"),
        json!({"status": "True", "reason": "NoConflicts", "message": "no conflicts found"})
    );
    assert_eq!(
        condition("Established"),
        json!({"status": "True", "reason": "InitialNamesAccepted", "message": "the initial names have been accepted"})
    );
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(definition["status"]["acceptedNames"]["listKind"], "ThingList");
}

#[tokio::test]
async fn case_60_bad_definitions_are_refused() {
    let t = Target::case(60).await;
    let good = t.definition(json!({"type": "object", "properties": {"color": {"type": "string"}, "replicas": {"type": "integer"}}}));
    let mut unstructured = good.clone();
    unstructured["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["x"] =
        json!({});
    t.post(DEFINITIONS, &unstructured).await.fails(422, "Invalid");
    let mut twice = good.clone();
    let mut second = good["spec"]["versions"][0].clone();
    second["name"] = json!("v2");
    twice["spec"]["versions"].as_array_mut().expect("versions").push(second);
    t.post(DEFINITIONS, &twice).await.fails(422, "Invalid");
    let mut named = good;
    named["metadata"]["name"] = json!(format!("others.{}", t.group));
    t.post(DEFINITIONS, &named).await.fails(422, "Invalid");
}

#[tokio::test]
async fn case_61_pruning_and_defaults() {
    let t = Target::case(61).await;
    t.define(json!({"type": "object", "properties": {
        "color": {"type": "string", "default": "red"}, "replicas": {"type": "integer"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}))
        .await;
    let spec = json!({"unknown": 1, "free": {"any": 1}, "color": null});
    let made = t.post(&t.custom("things"), &t.thing("x", spec)).await.expect(201);
    assert_eq!(made["spec"], json!({"free": {"any": 1}, "color": "red"}));
}

#[tokio::test]
async fn case_62_what_is_invalid_is_told_in_these_words() {
    let t = Target::case(62).await;
    t.define(json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string"}, "color": {"type": "string", "enum": ["a", "b"]}, "replicas": {"type": "integer"}, "n": {"type": "integer", "minimum": 1},
        "p": {"type": "string", "pattern": "^a$"}, "s": {"type": "string", "maxLength": 5},
        "l": {"type": "array", "maxItems": 2, "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}}}})).await;
    for (spec, message) in [
        (
            json!({"a": "", "n": "x"}),
            "spec.n: Invalid value: \"string\": spec.n in body must be of type integer: \"string\"",
        ),
        (
            json!({"a": "", "n": 0}),
            "spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1",
        ),
        (json!({"a": "", "p": "b"}), "spec.p: Invalid value: \"b\": spec.p in body should match '^a$'"),
        (json!({}), "spec.a: Required value"),
        (
            json!({"a": "", "color": "x"}),
            "spec.color: Unsupported value: \"x\": supported values: \"a\", \"b\"",
        ),
        (json!({"a": "", "s": "123456"}), "spec.s: Too long: may not be more than 5 bytes"),
        (json!({"a": "", "l": ["1", "2", "3"]}), "spec.l: Too many: 3: must have at most 2 items"),
        (json!({"a": "", "l": ["1", "1"]}), "spec.l[1]: Duplicate value: \"1\""),
        (
            json!({"a": "", "m": [{"name": "1"}, {"name": "1"}]}),
            "spec.m[1]: Duplicate value: {\"name\":\"1\"}",
        ),
    ] {
        let refused = t.post(&t.custom("things"), &t.thing("x", spec)).await;
        refused.says(422, "Invalid", &format!("Thing.{} \"x\" is invalid: {message}", t.group));
    }
}

#[tokio::test]
async fn case_63_rules() {
    let t = Target::case(63).await;
    t.define(
        json!({"type": "object", "properties": {"color": {"type": "string"}, "replicas": {"type": "integer"}},
        "x-kubernetes-validations": [
            {"rule": "!has(self.replicas) || self.replicas < 5", "message": "too many"},
            {"rule": "!has(oldSelf.color) || self.color == oldSelf.color"}]}),
    )
    .await;
    let start = format!("Thing.{} \"x\" is invalid: spec: Invalid value: ", t.group);
    let refused = t.post(&t.custom("things"), &t.thing("x", json!({"replicas": 9}))).await;
    let status = refused.fails(422, "Invalid");
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.starts_with(&start) && message.ends_with(": too many"), "{message}");
    t.post(&t.custom("things"), &t.thing("x", json!({"color": "red"}))).await.expect(201);
    let changed = t.patch(&t.custom("things/x"), MERGE, &json!({"spec": {"color": "blue"}})).await;
    let status = changed.fails(422, "Invalid");
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.contains("failed rule: !has(oldSelf.color)"), "{message}");
}

#[tokio::test]
async fn case_64_int_or_string_embedded_resources_and_two_versions() {
    let t = Target::case(64).await;
    let mut definition = t.definition(json!({"type": "object", "properties": {
        "color": {"type": "string"}, "replicas": {"type": "integer"},
        "port": {"x-kubernetes-int-or-string": true},
        "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}));
    let mut second = definition["spec"]["versions"][0].clone();
    second["name"] = json!("v2");
    second["storage"] = json!(false);
    definition["spec"]["versions"].as_array_mut().expect("versions").push(second);
    t.post(DEFINITIONS, &definition).await.expect(201);
    t.served("things").await;
    for port in [json!(80), json!("http")] {
        let name = format!("p{}", port.to_string().trim_matches('"'));
        t.post(&t.custom("things"), &t.thing(&name, json!({"port": port}))).await.expect(201);
    }
    t.post(&t.custom("things"), &t.thing("bad", json!({"port": 1.5}))).await.fails(422, "Invalid");
    let template = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "foo": "y"}, "data": {"a": "b"}});
    let made = t.post(&t.custom("things"), &t.thing("e", json!({"template": template}))).await.expect(201);
    assert_eq!(made["spec"]["template"]["metadata"], json!({"name": "x"}));
    assert_eq!(made["spec"]["template"]["data"], json!({"a": "b"}));
    let path = format!("/apis/{}/v2/namespaces/{}/things/p80", t.group, t.namespace);
    let other = t.get(&path).await.expect(200);
    assert_eq!(
        (&other["apiVersion"], &other["spec"]["port"]),
        (&json!(format!("{}/v2", t.group)), &json!(80))
    );
}

#[tokio::test]
async fn case_66_a_definition_goes_when_its_objects_are_gone() {
    let t = Target::case(66).await;
    let definition = format!("{DEFINITIONS}/things.{}", t.group);
    let text = json!({"type": "object", "properties": {"color": {"type": "string"}, "replicas": {"type": "integer"}}});
    t.define(text).await;
    let mut thing = t.thing("x", json!({"color": "red"}));
    thing["metadata"]["finalizers"] = json!(["x.io/a"]);
    t.post(&t.custom("things"), &thing).await.expect(201);
    t.delete(&definition, &json!({})).await.expect(200);
    t.until(&t.custom("things/x"), |reply| reply.text().contains("deletionTimestamp")).await;
    let terminating = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Terminating" && condition["status"] == "True")
    };
    assert!(terminating(&t.get(&definition).await.expect(200)));
    t.patch(&t.custom("things/x"), MERGE, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    t.until(&definition, |reply| reply.status == 404).await;
    t.until(&t.custom("things"), |reply| reply.status == 404).await;
    t.define(json!({"type": "object", "properties": {"color": {"type": "integer"}, "replicas": {"type": "integer"}}})).await;
    t.post(&t.custom("things"), &t.thing("y", json!({"color": "red"}))).await.fails(422, "Invalid");
}
