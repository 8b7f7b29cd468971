use super::*;

/// One manager's apply.
struct Apply<'a> {
    plural: &'a str,
    manager: &'a str,
    force: bool,
    subresource: Subresource,
}

const fn by<'a>(plural: &'a str, manager: &'a str) -> Apply<'a> {
    Apply { plural, manager, force: false, subresource: Subresource::Main }
}

impl World {
    fn try_apply(&mut self, how: &Apply<'_>, mut config: Value) -> Result<Written, StatusError> {
        let target = self.target(how.plural, meta::name(&config));
        let map = meta::map_of(&mut config);
        map.entry("apiVersion").or_insert_with(|| target.resource.api_version().into());
        map.entry("kind").or_insert_with(|| target.resource.gvk.kind.as_str().into());
        let options = WriteOptions {
            field_manager: Some(how.manager.to_owned()),
            force: how.force,
            ..WriteOptions::default()
        };
        self.run(|store, ctx| store.patch(ctx, &target, how.subresource, PatchType::Apply, config, &options))
    }

    #[track_caller]
    fn apply(&mut self, plural: &str, manager: &str, config: Value) -> Arc<Value> {
        match self.try_apply(&by(plural, manager), config) {
            Ok(written) => written.object,
            Err(error) => panic!("{plural}: {error}"),
        }
    }

    #[track_caller]
    fn patch_by(&mut self, plural: &str, name: &str, manager: &str, patch: Value) -> Arc<Value> {
        let target = self.target(plural, name);
        let options = WriteOptions { field_manager: Some(manager.to_owned()), ..WriteOptions::default() };
        self.run(|store, ctx| store.patch(ctx, &target, Subresource::Main, PatchType::Merge, patch, &options))
            .expect("a valid patch")
            .object
    }
}

/// The entries as `manager operation subresource: fieldsV1`.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let name = |entry: &Value| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", text("manager"), text("operation"), text("subresource")).trim_end().to_owned()
    };
    entries.iter().map(|entry| (name(entry), entry["fieldsV1"].clone())).collect()
}

#[track_caller]
fn assert_owners(object: &Value, expected: &[(&str, Value)]) {
    let expected: Vec<(String, Value)> =
        expected.iter().map(|(name, fields)| ((*name).to_owned(), fields.clone())).collect();
    assert_eq!(owners(object), expected);
}

fn data(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

#[test]
fn updates_own_what_they_change_and_others_lose_it() {
    let mut world = World::new();
    let options = WriteOptions { field_manager: Some("creator".to_owned()), ..WriteOptions::default() };
    let made = world
        .create_with("configmaps", data("c", json!({"a": "1", "b": "1"})), &options)
        .expect("created")
        .object;
    assert_owners(&made, &[("creator Update", json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}}))]);
    assert_eq!(
        made["metadata"]["managedFields"][0],
        json!({"manager": "creator", "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {".": {}, "f:a": {}, "f:b": {}}}})
    );
    world.later(1);
    let changed = world.patch_by("configmaps", "c", "other", json!({"data": {"b": "2", "c": "2"}}));
    assert_owners(
        &changed,
        &[
            ("creator Update", json!({"f:data": {".": {}, "f:a": {}}})),
            ("other Update", json!({"f:data": {"f:b": {}, "f:c": {}}})),
        ],
    );
    let removed = world.patch_by("configmaps", "c", "third", json!({"data": {"b": null, "c": null}}));
    assert_owners(&removed, &[("creator Update", json!({"f:data": {".": {}, "f:a": {}}}))]);
    assert_eq!(removed["metadata"]["managedFields"][0]["time"], "2026-01-02T03:04:05Z");
}

#[test]
fn a_created_deployment_has_the_entries_of_a_real_one() {
    let mut world = World::new();
    let made = world.create(
        "deployments",
        json!({"metadata": {"name": "d", "labels": {"a": "b"}}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{
                "name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}]}}}}),
    );
    let (_, fields) = owners(&made).remove(0);
    assert_eq!(
        fields,
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {
                "f:progressDeadlineSeconds": {},
                "f:replicas": {},
                "f:revisionHistoryLimit": {},
                "f:selector": {},
                "f:strategy": {
                    "f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}},
                    "f:type": {},
                },
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                    "f:spec": {
                        "f:containers": {
                            "k:{\"name\":\"c\"}": {
                                ".": {},
                                "f:image": {},
                                "f:imagePullPolicy": {},
                                "f:name": {},
                                "f:ports": {
                                    ".": {},
                                    "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                                        {".": {}, "f:containerPort": {}, "f:protocol": {}},
                                },
                                "f:resources": {},
                                "f:terminationMessagePath": {},
                                "f:terminationMessagePolicy": {},
                            },
                        },
                        "f:dnsPolicy": {},
                        "f:restartPolicy": {},
                        "f:schedulerName": {},
                        "f:securityContext": {},
                        "f:terminationGracePeriodSeconds": {},
                    },
                },
            },
        })
    );
}

#[test]
fn equal_values_are_shared_and_unequal_ones_conflict() {
    let mut world = World::new();
    let first =
        world.try_apply(&by("configmaps", "one"), data("c", json!({"a": "1", "b": "1"}))).expect("applied");
    assert!(first.created);
    world.later(5);
    let again =
        world.try_apply(&by("configmaps", "one"), data("c", json!({"a": "1", "b": "1"}))).expect("applied");
    assert!(!again.created);
    assert_eq!(again.object, first.object, "neither the version nor the time moves");
    let shared = world.apply("configmaps", "two", data("c", json!({"a": "1"})));
    assert_owners(
        &shared,
        &[
            ("one Apply", json!({"f:data": {"f:a": {}, "f:b": {}}})),
            ("two Apply", json!({"f:data": {"f:a": {}}})),
        ],
    );
    let error =
        world.try_apply(&by("configmaps", "two"), data("c", json!({"b": "2"}))).expect_err("a conflict");
    assert_eq!((error.code, error.reason.as_str()), (409, "Conflict"));
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\": .data.b");
    let causes = &error.details.as_ref().expect("details").causes;
    assert_eq!(causes.len(), 1);
    assert_eq!(
        (causes[0].reason.as_str(), causes[0].message.as_str(), causes[0].field.as_str()),
        ("FieldManagerConflict", "conflict with \"one\"", ".data.b")
    );
    world.patch_by("configmaps", "c", "m", json!({"data": {"a": "3"}}));
    let error = world
        .try_apply(&by("configmaps", "two"), data("c", json!({"a": "2", "b": "2"})))
        .expect_err("two conflicts");
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"m\" using v1:\n- .data.a\nconflicts with \"one\":\n- .data.b"
    );
}

#[test]
fn force_takes_fields_and_empty_entries_go() {
    let mut world = World::new();
    world.apply("configmaps", "one", data("c", json!({"a": "1"})));
    let how = Apply { force: true, ..by("configmaps", "two") };
    let taken = world.try_apply(&how, data("c", json!({"a": "2"}))).expect("forced").object;
    assert_eq!(taken["data"], json!({"a": "2"}));
    assert_owners(&taken, &[("two Apply", json!({"f:data": {"f:a": {}}}))]);
}

#[test]
fn fields_left_out_go_unless_another_has_them() {
    let mut world = World::new();
    world.apply("configmaps", "one", data("c", json!({"a": "1", "b": "1", "c": "1"})));
    world.apply("configmaps", "two", data("c", json!({"b": "1"})));
    let less = world.apply("configmaps", "one", data("c", json!({"a": "1"})));
    assert_eq!(less["data"], json!({"a": "1", "b": "1"}));
    let nothing = world.apply("configmaps", "one", json!({"metadata": {"name": "c"}}));
    assert_eq!(nothing["data"], json!({"b": "1"}));
    assert_owners(&nothing, &[("two Apply", json!({"f:data": {"f:b": {}}}))]);
}

fn service(ports: Value) -> Value {
    json!({"metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": ports}})
}

#[test]
fn keyed_lists_merge_by_their_keys_with_defaults() {
    let mut world = World::new();
    world.apply("services", "one", service(json!([{"name": "a", "port": 80}])));
    let both = world.apply("services", "two", service(json!([{"name": "b", "port": 81, "protocol": "UDP"}])));
    let ports = both["spec"]["ports"].as_array().expect("a list");
    assert_eq!(ports.len(), 2);
    assert_eq!((&ports[0]["protocol"], &ports[1]["protocol"]), (&json!("TCP"), &json!("UDP")));
    let key = "k:{\"port\":80,\"protocol\":\"TCP\"}";
    assert_eq!(owners(&both)[0].1["f:spec"]["f:ports"], json!({key: {".": {}, "f:name": {}, "f:port": {}}}));
    let error = world
        .try_apply(&by("services", "three"), service(json!([{"name": "x", "port": 80}])))
        .expect_err("a conflict");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.ports[port=80,protocol=\"TCP\"].name"
    );
    let one =
        world.apply("services", "one", json!({"metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}}}));
    assert_eq!(
        one["spec"]["ports"].as_array().map(Vec::len),
        Some(1),
        "the whole item goes, defaults included"
    );
    let error = world
        .try_apply(&by("services", "one"), service(json!([{"port": 1}, {"port": 1, "protocol": "TCP"}])))
        .expect_err("twice the same");
    assert_eq!(error.code, 500);
    assert!(
        error.message.ends_with(".spec.ports: duplicate entries for key [port=1,protocol=\"TCP\"]"),
        "{error}"
    );
}

#[test]
fn sets_are_shared_by_element_and_atomic_values_as_a_whole() {
    let mut world = World::new();
    let with = |finalizers: Value| json!({"metadata": {"name": "c", "finalizers": finalizers}});
    world.apply("configmaps", "one", with(json!(["x/a"])));
    let both = world.apply("configmaps", "two", with(json!(["x/b"])));
    assert_eq!(both["metadata"]["finalizers"], json!(["x/a", "x/b"]));
    assert_eq!(owners(&both)[0].1, json!({"f:metadata": {"f:finalizers": {"v:\"x/a\"": {}}}}));
    let left = world.apply("configmaps", "one", with(json!([])));
    assert_eq!(left["metadata"]["finalizers"], json!(["x/b"]));
    world.apply("services", "one", service(json!([{"port": 80}])));
    let other = json!({"metadata": {"name": "s"}, "spec": {"selector": {"c": "d"}}});
    let error = world.try_apply(&by("services", "two"), other).expect_err("the selector is one value");
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"one\": .spec.selector");
}

/// A definition of `shelves.lab.example.com` with a list of each type.
fn shelves() -> Value {
    let text = json!({"type": "string"});
    json!({
        "metadata": {"name": "shelves.lab.example.com"},
        "spec": {"group": "lab.example.com", "scope": "Namespaced",
            "names": {"plural": "shelves", "kind": "Shelf"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "status": {"type": "object", "properties": {"phase": text}},
                    "spec": {"type": "object", "properties": {
                        "depth": {"type": "integer", "default": 3},
                        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": text},
                        "plain": {"type": "array", "items": text},
                        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": text},
                        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                        "books": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id", "part"],
                            "items": {"type": "object", "required": ["id"], "properties": {
                                "id": text, "part": {"type": "integer", "default": 1}, "title": text}}},
                    }}}}}}]},
    })
}

fn shelf(spec: Value) -> Value {
    json!({"metadata": {"name": "s"}, "spec": spec})
}

#[test]
fn custom_kinds_merge_as_their_schema_says() {
    let mut world = World::new();
    world.create("customresourcedefinitions", shelves());
    world.tick();
    let made = world.apply(
        "shelves",
        "one",
        shelf(json!({"set": ["a"], "plain": ["a"], "whole": {"a": "1"}, "free": {"x": {"y": [1]}},
            "books": [{"id": "b", "title": "t"}]})),
    );
    assert_eq!(made["spec"]["depth"], 3);
    assert_owners(
        &made,
        &[(
            "one Apply",
            json!({"f:spec": {
                "f:books": {"k:{\"id\":\"b\",\"part\":1}": {".": {}, "f:id": {}, "f:title": {}}},
                "f:free": {"f:x": {".": {}, "f:y": {}}},
                "f:plain": {}, "f:set": {"v:\"a\"": {}}, "f:whole": {}}}),
        )],
    );
    let both = world.apply(
        "shelves",
        "two",
        shelf(json!({"set": ["b"], "books": [{"id": "b", "part": 2}, {"id": "b", "part": 1}]})),
    );
    assert_eq!(both["spec"]["set"], json!(["a", "b"]));
    assert_eq!(both["spec"]["books"], json!([{"id": "b", "part": 2}, {"id": "b", "part": 1, "title": "t"}]));
    for (spec, path) in [
        (json!({"plain": ["b"]}), ".spec.plain"),
        (json!({"whole": {"b": "1"}}), ".spec.whole"),
        (json!({"free": {"x": {"y": [2]}}}), ".spec.free.x.y"),
    ] {
        let error = world.try_apply(&by("shelves", "two"), shelf(spec)).expect_err("a conflict");
        assert_eq!(error.message, format!("Apply failed with 1 conflict: conflict with \"one\": {path}"));
    }
    let error = world.try_apply(&by("shelves", "two"), shelf(json!({"nothing": 1}))).expect_err("unknown");
    assert_eq!(error.code, 500);
    assert_eq!(
        error.message,
        "failed to create typed patch object (/s; lab.example.com/v1, Kind=Shelf): .spec.nothing: \
         field not declared in schema"
    );
}

#[test]
fn status_has_owners_of_its_own() {
    let mut world = World::new();
    world.create("customresourcedefinitions", shelves());
    world.tick();
    let config = json!({"metadata": {"name": "s"}, "spec": {"depth": 1}, "status": {"phase": "Up"}});
    let made = world.apply("shelves", "one", config.clone());
    assert!(made.get("status").is_none());
    assert_owners(&made, &[("one Apply", json!({"f:spec": {"f:depth": {}}}))]);
    let how = Apply { subresource: Subresource::Status, ..by("shelves", "one") };
    let mut other = config;
    other["spec"]["depth"] = json!(9);
    let told = world.try_apply(&how, other).expect("applied").object;
    assert_eq!((&told["spec"]["depth"], &told["status"]["phase"]), (&json!(1), &json!("Up")));
    assert_owners(
        &told,
        &[
            ("one Apply", json!({"f:spec": {"f:depth": {}}})),
            ("one Apply status", json!({"f:status": {"f:phase": {}}})),
        ],
    );
    let missing = Apply { subresource: Subresource::Status, ..by("shelves", "one") };
    let error = world.try_apply(&missing, json!({"metadata": {"name": "x"}})).expect_err("no object");
    assert_eq!(error.code, 404);
}

#[test]
fn scaling_owns_the_replicas_and_apply_conflicts_with_it() {
    let mut world = World::new();
    let config = |replicas: i64| {
        json!({"metadata": {"name": "d"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    world.apply("deployments", "one", config(1));
    let target = world.target("deployments", "d");
    let options = WriteOptions { field_manager: Some("scaler".to_owned()), ..WriteOptions::default() };
    let patch = json!({"spec": {"replicas": 4}});
    world
        .run(|store, ctx| store.patch(ctx, &target, Subresource::Scale, PatchType::Merge, patch, &options))
        .expect("scaled");
    assert_eq!(
        owners(&world.get("deployments", "d")).last(),
        Some(&("scaler Update scale".to_owned(), json!({"f:spec": {"f:replicas": {}}})))
    );
    let error = world.try_apply(&by("deployments", "one"), config(2)).expect_err("a conflict");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    let how = Apply { subresource: Subresource::Scale, force: true, ..by("deployments", "two") };
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 7}});
    let scaled = world.try_apply(&how, scale).expect("applied").object;
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(7)));
}

#[test]
fn what_was_there_before_belongs_to_nobody_in_particular() {
    let mut world = World::new();
    world.create("configmaps", data("c", json!({"a": "1"})));
    for reset in [json!([]), json!([{}])] {
        let kept = world.merge("configmaps", "c", json!({"data": {"b": "1"}}));
        assert!(!owners(&kept).is_empty() || reset == json!([{}]));
        let bare = world.merge("configmaps", "c", json!({"metadata": {"managedFields": reset}}));
        assert!(bare["metadata"].get("managedFields").is_none());
    }
    let untracked = world.merge("configmaps", "c", json!({"data": {"b": "2"}}));
    assert!(owners(&untracked).is_empty());
    let error =
        world.try_apply(&by("configmaps", "m"), data("c", json!({"a": "2"}))).expect_err("a conflict");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
    let applied = world.apply("configmaps", "m", data("c", json!({"a": "1"})));
    assert_owners(
        &applied,
        &[
            ("m Apply", json!({"f:data": {"f:a": {}}})),
            ("before-first-apply Update", json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}})),
        ],
    );
}

#[test]
fn kubectl_moves_from_client_side_to_server_side_apply() {
    const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let mut world = World::new();
    let config =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    let mut object = config.clone();
    object["metadata"]["annotations"] = json!({LAST: format!("{config}\n")});
    let options = WriteOptions {
        field_manager: Some("kubectl-client-side-apply".to_owned()),
        ..WriteOptions::default()
    };
    world.create_with("configmaps", object, &options).expect("created");
    let other =
        world.try_apply(&by("configmaps", "else"), data("c", json!({"a": "2"}))).expect_err("a conflict");
    assert_eq!(other.code, 409);
    let moved = world.apply("configmaps", "kubectl", data("c", json!({"a": "2"})));
    let last: Value =
        serde_json::from_str(moved["metadata"]["annotations"][LAST].as_str().expect("a text")).expect("JSON");
    assert_eq!(last["data"], json!({"a": "2"}));
    world.patch_by("configmaps", "c", "m", json!({"data": {"b": "1"}}));
    let error =
        world.try_apply(&by("configmaps", "kubectl"), data("c", json!({"b": "2"}))).expect_err("m has it");
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"m\" using v1: .data.b");
}

#[test]
fn what_cannot_be_applied_is_refused_in_the_words_of_kubernetes() {
    let mut world = World::new();
    let nobody = world.try_apply(&by("configmaps", ""), data("c", json!({}))).expect_err("no manager");
    assert_eq!(nobody.code, 422);
    assert_eq!(
        nobody.message,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    for (config, code, message) in [
        (json!({"metadata": {"name": "c", "managedFields": []}}), 400, "metadata.managedFields must be nil"),
        (
            json!({"apiVersion": "v2", "metadata": {"name": "c"}}),
            400,
            "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1",
        ),
        (
            json!({"metadata": {"name": "c"}, "x": 1}),
            500,
            "failed to create typed patch object (/c; /v1, Kind=ConfigMap): .x: field not declared in schema",
        ),
        (
            json!({"metadata": {"name": "c", "uid": "u"}}),
            409,
            "Operation cannot be fulfilled on configmaps \"c\": uid mismatch: the provided object specified uid u, and no \
             existing object was found",
        ),
    ] {
        let error = world.try_apply(&by("configmaps", "m"), config).expect_err("refused");
        assert_eq!((error.code, error.message.as_str()), (code, message));
    }
    let made = world.apply("configmaps", "m", data("c", json!({"a": "1"})));
    let stale = json!({"metadata": {"name": "c", "resourceVersion": "1"}, "data": {"a": "2"}});
    assert_eq!(world.try_apply(&by("configmaps", "m"), stale).expect_err("stale").code, 409);
    let dry = WriteOptions { dry_run: true, field_manager: Some("m".to_owned()), ..WriteOptions::default() };
    let target = world.target("configmaps", "c");
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "9"}});
    let shown = world
        .run(|store, ctx| store.patch(ctx, &target, Subresource::Main, PatchType::Apply, config, &dry))
        .expect("applied");
    assert_eq!(shown.object["data"]["a"], "9");
    assert_eq!(world.get("configmaps", "c"), made);
}

#[test]
fn many_writers_are_put_together() {
    let mut world = World::new();
    world.create("configmaps", data("c", json!({})));
    for index in 0..15 {
        world.later(1);
        let patch = json!({"data": {format!("k{index}"): "1"}});
        world.patch_by("configmaps", "c", &format!("m{index}"), patch);
    }
    let owners = owners(&world.get("configmaps", "c"));
    assert_eq!(owners.len(), 10);
    let ancient = owners.iter().find(|(name, _)| name == "ancient-changes Update").expect("an entry");
    assert_eq!(ancient.1["f:data"].as_object().map(serde_json::Map::len), Some(7));
}

#[test]
fn put_takes_over_what_it_changes() {
    let mut world = World::new();
    let made = world.apply("configmaps", "one", data("c", json!({"a": "1", "b": "1"})));
    let mut object = (*made).clone();
    object["data"]["a"] = json!("2");
    meta::metadata_mut(&mut object).remove("managedFields");
    let put = world.try_update("configmaps", Subresource::Main, object).expect("updated").object;
    assert_owners(
        &put,
        &[("one Apply", json!({"f:data": {"f:b": {}}})), ("unknown Update", json!({"f:data": {"f:a": {}}}))],
    );
    let error =
        world.try_apply(&by("configmaps", "one"), data("c", json!({"a": "1", "b": "1"}))).expect_err("lost");
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"unknown\" using v1: .data.a");
}
