//! Requests that are wrong, and the words in which they are refused: what a user reads who made a mistake.

use http::Method;
use serde_json::{Value, json};

use crate::answer::Reply;
use crate::target::{JSON_PATCH, MERGE, STRATEGIC, Target, config_map, deployment};

const JSON: &str = "application/json";
const BODY_TYPES: &str = "the body of the request was in an unknown format - accepted media types include: \
                          application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// As little as the definition of things needs.
fn plain_spec() -> Value {
    json!({"type": "object", "properties": {"color": {"type": "string"}, "replicas": {"type": "integer"}}})
}

async fn send(t: &Target, method: Method, path: &str, content_type: &str, body: &str) -> Reply {
    t.send(method, path, &[("content-type", content_type)], body.to_owned().into()).await
}

#[tokio::test]
async fn bodies_that_are_no_object_are_refused_with_what_is_wrong_in_them() {
    let t = Target::case(62).await;
    for (body, why) in [
        ("", "couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"),
        (
            "{hello",
            "couldn't get version/kind; json parse error: invalid character 'h' looking for beginning of object key string \
             ({hello)",
        ),
        (
            "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"data\":{\"a\":1,}}",
            "couldn't get version/kind; json parse error: invalid character '}' looking for beginning of object key string \
             ({\"kind\":\"ConfigMap\",\"apiVersio ...)",
        ),
        (
            "[]",
            "couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type \
             struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" } \
             (5b5d)",
        ),
        (
            "{\"kind\":1}",
            "couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type \
             string ({\"kind\":1})",
        ),
    ] {
        let message = format!("the object provided is unrecognized (must be of type ConfigMap): {why}");
        send(&t, Method::POST, &t.core("configmaps"), JSON, body).await.says(400, "BadRequest", &message);
    }
    let refused = send(&t, Method::POST, &t.core("configmaps"), "text/plain", "x").await;
    refused.says(415, "UnsupportedMediaType", BODY_TYPES);
}

#[tokio::test]
async fn custom_objects_have_to_say_what_they_are() {
    let t = Target::case(62).await;
    t.define(plain_spec()).await;
    let things = t.custom("things");
    let without_kind = format!("{{\"apiVersion\":\"{}/v1\"}}", t.group);
    let message = format!(
        "the object provided is unrecognized (must be of type Thing): Object 'Kind' is missing in '{without_kind}' ({} ...)",
        without_kind.get(..30).unwrap_or_default()
    );
    send(&t, Method::POST, &things, JSON, &without_kind).await.says(400, "BadRequest", &message);
    let expected = format!("does not match the expected API version ({}/v1)", t.group);
    for (thing, shown) in [
        (json!({"kind": "Thing", "metadata": {"name": "x"}}), ""),
        (json!({"apiVersion": "other/v1", "kind": "Thing", "metadata": {"name": "x"}}), "other/v1"),
    ] {
        let message = format!("the API version in the data ({shown}) {expected}");
        t.post(&things, &thing).await.says(400, "BadRequest", &message);
    }
    let mut other = t.thing("x", json!({}));
    other["kind"] = json!("Other");
    let message =
        format!("Other.{} \"x\" is invalid: kind: Invalid value: \"Other\": must be Thing", t.group);
    t.post(&things, &other).await.says(422, "Invalid", &message);
    t.put(&things, &json!({})).await.says(400, "BadRequest", "name must be provided");
    // Built-in kinds are known by their path.
    t.post(&t.core("configmaps"), &json!({"metadata": {"name": "x"}})).await.expect(201);
}

#[tokio::test]
async fn fields_of_a_wrong_type_are_named_as_the_decoder_names_them() {
    let t = Target::case(62).await;
    t.define(plain_spec()).await;
    let unmarshal = |kind: &str, found: &str, field: &str, wanted: &str| {
        format!(
            "{kind} in version \"v1\" cannot be handled as a {kind}: json: cannot unmarshal {found} into Go {field} of \
             type {wanted}"
        )
    };
    for (pointer, value, found, field, wanted) in [
        ("/spec/replicas", json!("x"), "string", "struct field DeploymentSpec.spec.replicas", "int32"),
        ("/spec/replicas", json!(1.5), "number 1.5", "struct field DeploymentSpec.spec.replicas", "int32"),
        ("/spec", json!("x"), "string", "struct field Deployment.spec", "v1.DeploymentSpec"),
        (
            "/spec/template/spec/containers",
            json!("x"),
            "string",
            "struct field PodSpec.spec.template.spec.containers",
            "[]v1.Container",
        ),
        (
            "/spec/template/spec/containers/0/ports/0/containerPort",
            json!("x"),
            "string",
            "struct field ContainerPort.spec.template.spec.containers.ports.containerPort",
            "int32",
        ),
        ("/metadata/labels/app", json!(1), "number", "struct field ObjectMeta.metadata.labels", "string"),
    ] {
        let mut object = deployment("d");
        *object.pointer_mut(pointer).expect("a place in the deployment") = value;
        let message = unmarshal("Deployment", found, field, wanted);
        t.post(&t.apps("deployments"), &object).await.says(400, "BadRequest", &message);
    }
    for (metadata, found, field, wanted) in [
        (json!({"name": 1}), "number", "struct field ObjectMeta.name", "string"),
        (json!({"labels": []}), "array", "struct field ObjectMeta.labels", "map[string]string"),
        (json!("x"), "string", "value", "v1.ObjectMeta"),
    ] {
        let mut thing = t.thing("x", json!({}));
        thing["metadata"] = metadata;
        let message = unmarshal("Thing", found, field, wanted);
        t.post(&t.custom("things"), &thing).await.says(400, "BadRequest", &message);
    }
}

#[tokio::test]
async fn integers_are_exact_and_a_status_is_judged_on_its_own() {
    let t = Target::case(62).await;
    t.define(json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "n": {"type": "integer", "format": "int32"}, "color": {"type": "string"},
        "at": {"type": "string", "format": "date-time"}, "few": {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "integer"}}}}))
        .await;
    let path = t.custom("things");
    let dry = format!("{path}?dryRun=All");
    for fine in [json!({"n": 3_000_000_000_i64}), json!({"n": 1.0}), json!({"n": 9_007_199_254_740_991_i64})]
    {
        t.post(&dry, &t.thing("x", fine)).await.expect(201);
    }
    let of_type = |field: &str, wanted: &str, found: &str| {
        format!("{field}: Invalid value: \"{found}\": {field} in body must be of type {wanted}: \"{found}\"")
    };
    for (spec, message) in [
        (json!({"n": 1e20}), of_type("spec.n", "integer", "number")),
        (json!({"n": 9_223_372_036_854_775_808_u64}), of_type("spec.n", "integer", "number")),
        (json!({"at": "noon"}), of_type("spec.at", "date-time", "noon")),
        (json!({"few": {"a b": "x"}}), of_type("spec.few.a b", "integer", "string")),
    ] {
        let message = format!("Thing.{} \"x\" is invalid: {message}", t.group);
        t.post(&path, &t.thing("x", spec)).await.says(422, "Invalid", &message);
    }
    t.post(&path, &t.thing("x", json!({}))).await.expect(201);
    let status = json!({"status": {"phase": 1}});
    let message = format!(
        "Thing.{} \"x\" is invalid: status.phase: Invalid value: \"integer\": phase in body must be of type string: \"integer\"",
        t.group
    );
    t.patch(&format!("{path}/x/status"), MERGE, &status).await.says(422, "Invalid", &message);
}

#[tokio::test]
async fn patches_that_cannot_be_read_are_told_from_those_that_cannot_be_applied() {
    let t = Target::case(34).await;
    t.post(&t.core("configmaps"), &config_map("c", json!({"a": "b"}))).await.expect(201);
    let path = t.core("configmaps/c");
    const UNPROCESSABLE: &str = "the server rejected our request due to an error in our request";
    const NOT_A_MAP: &str = "json: cannot unmarshal array into Go value of type map[string]interface {}";
    for (content_type, body, code, reason, message) in [
        (MERGE, "{", 400, "BadRequest", "error decoding patch: unexpected end of JSON input"),
        (MERGE, "[]", 400, "BadRequest", &*format!("error decoding patch: {NOT_A_MAP}")),
        (MERGE, "null", 400, "BadRequest", "Invalid JSON Patch"),
        (STRATEGIC, "{", 400, "BadRequest", "unexpected end of JSON input"),
        (STRATEGIC, "[]", 400, "BadRequest", NOT_A_MAP),
        (JSON_PATCH, "[{", 400, "BadRequest", "error decoding patch: unexpected end of JSON input"),
        (
            JSON_PATCH,
            "{}",
            400,
            "BadRequest",
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ),
        (JSON_PATCH, "[{\"op\":\"frob\",\"path\":\"/data\"}]", 422, "Invalid", UNPROCESSABLE),
        (JSON_PATCH, "[{\"op\":\"add\",\"path\":\"data\",\"value\":1}]", 422, "Invalid", UNPROCESSABLE),
        (JSON_PATCH, "[{\"op\":\"remove\",\"path\":\"/data/none\"}]", 422, "Invalid", UNPROCESSABLE),
    ] {
        send(&t, Method::PATCH, &path, content_type, body).await.says(code, reason, message);
    }
    let replace = "[{\"op\":\"replace\",\"path\":\"/data/new\",\"value\":\"x\"}]";
    let patched = send(&t, Method::PATCH, &path, JSON_PATCH, replace).await.expect(200);
    assert_eq!(patched["data"], json!({"a": "b", "new": "x"}));
    let uid = json!({"metadata": {"uid": "x"}});
    let message = "ConfigMap \"c\" is invalid: metadata.uid: Invalid value: \"x\": field is immutable";
    t.patch(&path, MERGE, &uid).await.says(422, "Invalid", message);
}

#[tokio::test]
async fn resource_versions_have_to_be_numbers_and_uids_the_right_ones() {
    let t = Target::case(29).await;
    t.define(plain_spec()).await;
    let (things, maps) = (t.custom("things"), t.core("configmaps"));
    t.post(&maps, &config_map("c", json!({}))).await.expect(201);
    let thing = t.post(&things, &t.thing("x", json!({}))).await.expect(201);
    const SYNTAX: &str = "strconv.ParseUint: parsing \"abc\": invalid syntax";
    for path in [&things, &maps] {
        let message = format!("invalid resource version: resourceVersion: Invalid value: \"abc\": {SYNTAX}");
        t.get(&format!("{path}?resourceVersion=abc")).await.says(400, "BadRequest", &message);
        let message = format!("resourceVersion: Invalid value: \"abc\": {SYNTAX}");
        let watch = t.get(&format!("{path}?watch=1&resourceVersion=abc&timeoutSeconds=1")).await;
        without_reason(watch, &message);
    }
    let with = |key: &str, value: &str| {
        let mut changed = thing.clone();
        changed["metadata"][key] = json!(value);
        changed
    };
    let path = t.custom("things/x");
    without_reason(t.put(&path, &with("resourceVersion", "abc")).await, SYNTAX);
    let message = format!(
        "things.{} \"x\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update",
        t.group
    );
    t.put(&path, &with("resourceVersion", "")).await.says(422, "Invalid", &message);
    let status = t.put(&path, &with("uid", "other")).await.fails(409, "Conflict");
    let message = status["message"].as_str().unwrap_or_default();
    let key = format!("Key: /registry/{}/things/{}/x", t.group, t.namespace);
    assert!(message.contains(&key), "{message}");
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}});
    let status = t.delete(&path, &options).await.fails(409, "Conflict");
    assert_eq!(status["details"], json!({"name": "x", "group": t.group, "kind": "Thing"}));
}

/// Some failures of a real server carry no reason.
#[track_caller]
fn without_reason(reply: Reply, message: &str) {
    assert_eq!(reply.status.as_u16(), 500);
    let status: Value = serde_json::from_slice(&reply.body).expect("a Status");
    assert_eq!((&status["message"], status.get("reason")), (&json!(message), None));
}

#[tokio::test]
async fn selectors_and_options_are_refused_where_they_go_wrong() {
    let t = Target::case(12).await;
    t.define(plain_spec()).await;
    let maps = t.core("configmaps");
    for (selector, message) in [
        ("a+in+b", "unable to parse requirement: found 'b' expected: '('"),
        ("(", "found '(', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a%3Db+c", "found 'c', expected: ',' or 'end of string'"),
    ] {
        t.get(&format!("{maps}?labelSelector={selector}")).await.says(400, "BadRequest", message);
    }
    let things = t.get(&format!("{}?fieldSelector=spec.foo%3Dx", t.custom("things"))).await;
    things.says(400, "BadRequest", "field label not supported: spec.foo");
    let maps_of = t.get(&format!("{maps}?timeoutSeconds=x")).await;
    maps_of.says(400, "BadRequest", "strconv.ParseInt: parsing \"x\": invalid syntax");
    let object = config_map("c", json!({}));
    let long = "a".repeat(129);
    for (query, message) in [
        ("dryRun=Foo", "dryRun: Unsupported value: [\"Foo\"]: supported values: \"All\""),
        (
            "fieldValidation=Foo",
            "fieldValidation: Unsupported value: \"Foo\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        ),
        (&*format!("fieldManager={long}"), "fieldManager: Too long: may not be more than 128 bytes"),
    ] {
        let message = format!("CreateOptions.meta.k8s.io \"\" is invalid: {message}");
        t.post(&format!("{maps}?{query}"), &object).await.says(422, "Invalid", &message);
    }
}

#[tokio::test]
async fn rules_of_built_in_kinds_are_kept() {
    let t = Target::case(80).await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "namespace": "other", "name": "x"}});
    let message = "Event \"e\" is invalid: involvedObject.namespace: Invalid value: \"other\": does not match event.namespace";
    t.post(&t.core("events"), &event).await.says(422, "Invalid", message);
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"leaseDurationSeconds": -1, "leaseTransitions": -1}});
    let message = "Lease.coordination.k8s.io \"l\" is invalid: [spec.leaseDurationSeconds: Invalid value: -1: must be \
                   greater than 0, spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0]";
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", t.namespace);
    t.post(&leases, &lease).await.says(422, "Invalid", message);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"verbs": []}, {"verbs": ["get"], "nonResourceURLs": ["/x"]}]});
    let message = "Role.rbac.authorization.k8s.io \"r\" is invalid: [rules[0].verbs: Required value: verbs must contain at \
                   least one value, rules[0].apiGroups: Required value: resource rules must supply at least one api group, \
                   rules[0].resources: Required value: resource rules must supply at least one resource, \
                   rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs]";
    let roles = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles", t.namespace);
    t.post(&roles, &role).await.says(422, "Invalid", message);
    let mut object = deployment("d");
    object["spec"]["selector"] = json!(null);
    let message = "Deployment.apps \"d\" is invalid: [spec.selector: Required value, spec.template.metadata.labels: \
                   Invalid value: {\"app\":\"d\"}: `selector` does not match template `labels`]";
    t.post(&t.apps("deployments"), &object).await.says(422, "Invalid", message);
    let mut owned = config_map("o", json!({}));
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]);
    let message =
        "ConfigMap \"o\" is invalid: metadata.ownerReferences.uid: Invalid value: \"\": must not be empty";
    t.post(&t.core("configmaps"), &owned).await.says(422, "Invalid", message);
}
