use super::*;
use crate::store::{Body, FieldValidation};

#[test]
fn creating_sets_what_the_server_decides() {
    let mut world = World::new();
    let object = world.create(
        "deployments",
        json!({"metadata": {"name": "d", "uid": "mine", "generation": 9}, "status": {"replicas": 7}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}),
    );
    assert_eq!(object["kind"], "Deployment");
    assert_eq!(object["metadata"]["namespace"], "default");
    assert_eq!(object["metadata"]["generation"], 1);
    assert_eq!(object["metadata"]["creationTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(meta::uid(&object).len(), 36);
    assert_eq!(object["status"], json!({}));
    assert_eq!(
        object["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    let error = world.try_create("configmaps", config_map("kube-root-ca.crt")).expect_err("it exists");
    assert_eq!((error.code, error.message.as_str()), (409, "configmaps \"kube-root-ca.crt\" already exists"));
    let error = world
        .try_create("configmaps", json!({"metadata": {"name": "x", "resourceVersion": "1"}}))
        .expect_err("a version");
    assert_eq!(
        (error.code, error.message.as_str()),
        (500, "resourceVersion should not be set on objects to be created")
    );
}

#[test]
fn generated_names_have_a_suffix_and_no_name_is_refused() {
    let mut world = World::new();
    let object = world.create("configmaps", json!({"metadata": {"generateName": "x-"}}));
    assert_eq!((meta::name(&object).len(), &meta::name(&object)[..2]), (7, "x-"));
    let error = world.try_create("configmaps", json!({})).expect_err("no name");
    assert_eq!(
        error.message,
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required"
    );
}

#[test]
fn namespaces_have_to_fit_and_to_be_there() {
    let mut world = World::new();
    let info = world.info("configmaps");
    let create = |world: &mut World, namespace: &str, object: Value| {
        world.run(|store, ctx| store.create(ctx, &info, Some(namespace), object, &WriteOptions::default()))
    };
    let error = create(&mut world, "default", json!({"metadata": {"name": "a", "namespace": "b"}}))
        .expect_err("differs");
    assert_eq!(
        (error.code, error.message.as_str()),
        (400, "the namespace of the provided object does not match the namespace sent on the request")
    );
    let error = create(&mut world, "none", config_map("a")).expect_err("absent");
    assert_eq!((error.code, error.message.as_str()), (404, "namespaces \"none\" not found"));
}

#[test]
fn updates_need_the_latest_version_if_they_name_one() {
    let mut world = World::new();
    let first = world.create("configmaps", config_map("a"));
    let second = world.merge("configmaps", "a", json!({"data": {"k": "1"}}));
    let stale = world.try_update("configmaps", Subresource::Main, (*first).clone()).expect_err("stale");
    assert_eq!(
        stale.message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));
    let unconditional = world
        .try_update("configmaps", Subresource::Main, json!({"metadata": {"name": "a"}}))
        .expect("no version");
    assert!(unconditional.object.get("data").is_none());
    let mut other = (*second).clone();
    other["metadata"]["uid"] = json!("other");
    assert_eq!(world.try_update("configmaps", Subresource::Main, other).expect_err("other uid").code, 409);
    let target = world.target("configmaps", "a");
    let error = world.run(|store, ctx| {
        store.update(
            ctx,
            &target,
            Subresource::Main,
            json!({"metadata": {"name": "b"}}),
            &WriteOptions::default(),
        )
    });
    assert_eq!(
        error.expect_err("other name").message,
        "the name of the object (b) does not match the name on the URL (a)"
    );
}

#[test]
fn an_equal_write_changes_nothing() {
    let mut world = World::new();
    let object =
        world.create("services", json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}));
    let version = world.store.resource_version();
    let same = world.try_update("services", Subresource::Main, (*object).clone()).expect("equal");
    assert_eq!(same.object, object);
    for (patch_type, patch) in
        [(PatchType::Merge, json!({})), (PatchType::Strategic, json!({})), (PatchType::Json, json!([]))]
    {
        world.try_patch("services", "s", patch_type, patch).expect("empty");
    }
    assert_eq!(world.store.resource_version(), version);
}

#[test]
fn generation_counts_changes_of_the_spec_only() {
    let mut world = World::new();
    world.create("customresourcedefinitions", widgets());
    world.tick();
    let widget = world.create(
        "widgets",
        json!({"metadata": {"name": "w"}, "spec": {"color": "red"}, "status": {"replicas": 3}}),
    );
    assert!(widget.get("status").is_none(), "status comes through its subresource only");
    assert_eq!(meta::generation(&widget), 1);
    let widget = world.merge("widgets", "w", json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(meta::generation(&widget), 1);
    let widget = world.merge("widgets", "w", json!({"spec": {"color": "blue"}, "status": {"replicas": 3}}));
    assert_eq!((meta::generation(&widget), widget.get("status")), (2, None));
    let mut with_status = (*widget).clone();
    with_status["status"] = json!({"replicas": 2, "selector": "a=b"});
    with_status["spec"]["color"] = json!("green");
    with_status["metadata"]["labels"] = json!({"x": "y"});
    let widget = world.try_update("widgets", Subresource::Status, with_status).expect("status").object;
    assert_eq!(meta::generation(&widget), 2);
    assert_eq!(widget["spec"]["color"], "blue");
    assert_eq!(widget["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(widget["status"], json!({"replicas": 2, "selector": "a=b"}));
    let target = world.target("widgets", "w");
    let scale = world.store.get(&target, Subresource::Scale).expect("scale");
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (&json!({"replicas": 1}), &json!({"replicas": 2, "selector": "a=b"}))
    );
    let patch = json!({"spec": {"replicas": 5}});
    let scaled = world.run(|store, ctx| {
        store.patch(ctx, &target, Subresource::Scale, PatchType::Merge, patch, &WriteOptions::default())
    });
    assert_eq!(scaled.expect("scaled").object["spec"]["replicas"], 5);
    let widget = world.get("widgets", "w");
    assert_eq!((&widget["spec"]["replicas"], meta::generation(&widget)), (&json!(5), 3));
}

#[test]
fn custom_resources_are_pruned_defaulted_and_judged() {
    let mut world = World::new();
    let definition = world.create("customresourcedefinitions", widgets());
    assert_eq!(definition["spec"]["names"]["singular"], "widget");
    assert!(world.store.registry().get("lab.example.com", "v1", "widgets").is_none());
    world.tick();
    let definition = world.get("customresourcedefinitions", "widgets.lab.example.com");
    let conditions = definition["status"]["conditions"].as_array().expect("conditions");
    let shown: Vec<String> = conditions
        .iter()
        .map(|it| format!("{} {} {} {}", it["type"], it["status"], it["reason"], it["message"]))
        .collect();
    assert_eq!(
        shown,
        [
            "\"NamesAccepted\" \"True\" \"NoConflicts\" \"no conflicts found\"",
            "\"Established\" \"True\" \"InitialNamesAccepted\" \"the initial names have been accepted\"",
        ]
    );
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    let body = json!({"metadata": {"name": "w"}, "spec": {"color": "red", "size": 3}});
    let written = world.try_create("widgets", body.clone()).expect("created");
    assert_eq!(written.warnings, ["unknown field \"spec.size\""]);
    assert_eq!(written.object["spec"], json!({"color": "red", "replicas": 1}));
    let strict = WriteOptions { field_validation: FieldValidation::Strict, ..WriteOptions::default() };
    let error = world.create_with("widgets", body, &strict).expect_err("strict");
    assert_eq!(
        error.message,
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.size\""
    );
    let error = world
        .try_create("widgets", json!({"metadata": {"name": "v"}, "spec": {"color": "orange"}}))
        .expect_err("too long");
    assert_eq!(
        error.message,
        "Widget.lab.example.com \"v\" is invalid: spec.color: Too long: may not be more than 5 bytes"
    );
    assert_eq!(error.details.as_ref().expect("details").causes[0].reason, "FieldValueTooLong");
    let error = world
        .try_update(
            "widgets",
            Subresource::Main,
            json!({"metadata": {"name": "w"}, "spec": {"color": "red"}}),
        )
        .expect_err("no version");
    assert_eq!(
        error.message,
        "widgets.lab.example.com \"w\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
    let error = world.try_patch("widgets", "w", PatchType::Strategic, json!({})).expect_err("custom");
    assert_eq!(error.code, 415);
    assert_eq!(world.names("widgets", "", "spec.color=red"), ["w"]);
    assert!(world.names("widgets", "", "spec.color=blue").is_empty());
}

#[test]
fn a_changed_schema_holds_at_once_and_defaults_older_objects() {
    let mut world = World::new();
    world.create("customresourcedefinitions", widgets());
    world.tick();
    world.create("widgets", json!({"metadata": {"name": "w"}, "spec": {"color": "red"}}));
    let mut definition = (*world.get("customresourcedefinitions", "widgets.lab.example.com")).clone();
    let generation = world.store.registry().generation();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["shape"] =
        json!({"type": "string", "default": "round"});
    world.try_update("customresourcedefinitions", Subresource::Main, definition).expect("a better schema");
    world.tick();
    assert_ne!(world.store.registry().generation(), generation);
    assert_eq!(world.get("widgets", "w")["spec"]["shape"], "round");
}

#[test]
fn definitions_that_contradict_the_rules_are_refused() {
    let mut world = World::new();
    let check = |world: &mut World, change: &dyn Fn(&mut Value), expected: &str| {
        let mut definition = widgets();
        change(&mut definition);
        let error = world.try_create("customresourcedefinitions", definition).expect_err(expected);
        assert!(error.code == 422 && error.message.contains(expected), "{}", error.message);
    };
    check(
        &mut world,
        &|crd| crd["metadata"]["name"] = json!("x.lab.example.com"),
        "metadata.name: Invalid value",
    );
    check(
        &mut world,
        &|crd| crd["spec"]["versions"][0]["storage"] = json!(false),
        "must have exactly one version marked as storage version",
    );
    check(
        &mut world,
        &|crd| {
            crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
                json!({"properties": {}})
        },
        "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields",
    );
}

#[test]
fn definitions_whose_names_are_taken_wait_for_them() {
    let mut world = World::new();
    world.create("customresourcedefinitions", widgets());
    world.tick();
    let mut other = widgets();
    other["metadata"]["name"] = json!("gadgets.lab.example.com");
    other["spec"]["names"]["plural"] = json!("gadgets");
    world.create("customresourcedefinitions", other);
    world.tick();
    let waiting = world.get("customresourcedefinitions", "gadgets.lab.example.com");
    assert!(!crate::builtin::conditions::is_true(&waiting, "NamesAccepted"));
    world.delete("customresourcedefinitions", "widgets.lab.example.com");
    world.tick();
    assert!(world.store.registry().get("lab.example.com", "v1", "widgets").is_none());
    assert!(world.store.registry().get("lab.example.com", "v1", "gadgets").is_some());
}

#[test]
fn builtin_bodies_of_a_wrong_type_or_with_unknown_fields_are_told() {
    let mut world = World::new();
    let mut object = pod("p");
    object["spec"]["containers"][0]["x"] = json!(1);
    object["spec"]["foo"] = json!(1);
    let strict = WriteOptions { field_validation: FieldValidation::Strict, ..WriteOptions::default() };
    let error = world.create_with("pods", object.clone(), &strict).expect_err("unknown");
    assert_eq!(
        error.message,
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.containers[0].x\", unknown field \"spec.foo\""
    );
    assert_eq!(world.try_create("pods", object).expect("warned").warnings.len(), 2);
    let mut object = pod("q");
    object["spec"]["terminationGracePeriodSeconds"] = json!("long");
    let error = world.try_create("pods", object).expect_err("a text");
    assert_eq!((error.code, error.reason.as_str()), (400, "BadRequest"));
    assert_eq!(
        error.message,
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64"
    );
    let body = Body { value: config_map("dup"), duplicates: vec!["data.a".to_owned()] };
    let info = world.info("configmaps");
    let error = world
        .run(|store, ctx| store.create(ctx, &info, Some("default"), body, &strict))
        .expect_err("duplicate");
    assert!(error.message.ends_with("strict decoding error: duplicate field \"data.a\""));
    let error = world.run(|store, ctx| {
        let target = Target {
            resource: info.clone(),
            namespace: Some("default".to_owned()),
            name: "kube-root-ca.crt".to_owned(),
        };
        store.patch(ctx, &target, Subresource::Main, PatchType::Merge, json!({"x": 1}), &strict)
    });
    let error = error.expect_err("unknown");
    assert_eq!(
        (error.code, error.message.as_str()),
        (
            422,
            " \"\" is invalid: patch: Invalid value: \"{\"x\":1}\": strict decoding error: unknown field \"x\""
        )
    );
}

#[test]
fn pods_get_their_defaults_and_keep_their_spec() {
    let mut world = World::new();
    let object = world.create("pods", pod("p"));
    let spec = &object["spec"];
    assert_eq!(
        (&spec["restartPolicy"], &spec["dnsPolicy"], &spec["serviceAccountName"]),
        (&json!("Always"), &json!("ClusterFirst"), &json!("default"))
    );
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    assert!(spec["volumes"][0]["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-")));
    assert_eq!(object["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    let error = world
        .try_patch("pods", "p", PatchType::Merge, json!({"spec": {"hostNetwork": true}}))
        .expect_err("fixed");
    assert!(
        error.message.starts_with("Pod \"p\" is invalid: spec: Forbidden: pod updates may not change fields"),
        "{}",
        error.message
    );
    let image = json!({"spec": {"containers": [{"name": "c", "image": "other:2"}]}});
    let object = world.try_patch("pods", "p", PatchType::Strategic, image).expect("an image").object;
    assert_eq!(object["spec"]["containers"][0]["image"], "other:2");
    let error = world
        .try_create("pods", json!({"metadata": {"name": "x"}, "spec": {"containers": []}}))
        .expect_err("none");
    assert_eq!(error.message, "Pod \"x\" is invalid: spec.containers: Required value");
}

#[test]
fn binding_puts_a_pod_on_a_node_once() {
    let mut world = World::new();
    world.create("pods", pod("p"));
    let target = world.target("pods", "p");
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    let bind = |world: &mut World| {
        world.run(|store, ctx| store.bind(ctx, &target, &binding, &WriteOptions::default()))
    };
    assert_eq!(bind(&mut world).expect("bound")["status"], "Success");
    let object = world.get("pods", "p");
    assert_eq!(object["spec"]["nodeName"], "n1");
    assert!(crate::builtin::conditions::is_true(&object, "PodScheduled"));
    assert_eq!(bind(&mut world).expect_err("twice").code, 409);
}

#[test]
fn selectors_of_workloads_match_their_template_and_stay() {
    let mut world = World::new();
    let deployment = |label: &str| {
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": label}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    let error = world.try_create("deployments", deployment("c")).expect_err("no match");
    assert_eq!(
        error.message,
        "Deployment.apps \"d\" is invalid: spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"
    );
    world.create("deployments", deployment("b"));
    let error = world.try_patch(
        "deployments",
        "d",
        PatchType::Merge,
        json!({"spec": {"selector": {"matchLabels": {"x": "y"}}}}),
    );
    assert!(error.expect_err("fixed").message.contains(
        "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"x\":\"y\"}}: field is immutable"
    ));
}

#[test]
fn services_get_addresses_of_their_own_and_keep_them() {
    let mut world = World::new();
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "type": "NodePort"}});
    let first = world.create("services", service("a"));
    let second = world.create("services", service("b"));
    assert_ne!(first["spec"]["clusterIP"], second["spec"]["clusterIP"]);
    assert_ne!(first["spec"]["ports"][0]["nodePort"], second["spec"]["ports"][0]["nodePort"]);
    let kept = world.try_update("services", Subresource::Main, service("a")).expect("unconditional").object;
    assert_eq!(kept["spec"], first["spec"]);
    let error =
        world.try_patch("services", "a", PatchType::Merge, json!({"spec": {"clusterIP": "10.96.5.5"}}));
    assert!(error.expect_err("fixed").message.contains("may not change once set"));
    world.delete("services", "a");
    let third = world.create("services", service("c"));
    assert_eq!(third["spec"]["clusterIP"], first["spec"]["clusterIP"]);
    assert_eq!(world.get("services", "kubernetes")["spec"]["clusterIP"], "10.96.0.1");
}

#[test]
fn secrets_merge_their_texts_and_immutable_ones_stay() {
    let mut world = World::new();
    let secret = world.create(
        "secrets",
        json!({"metadata": {"name": "s"}, "stringData": {"k": "text"}, "immutable": true}),
    );
    assert_eq!(
        (&secret["data"], &secret["type"], secret.get("stringData")),
        (&json!({"k": "dGV4dA=="}), &json!("Opaque"), None)
    );
    let error = world
        .try_patch("secrets", "s", PatchType::Merge, json!({"stringData": {"k": "new"}}))
        .expect_err("immutable");
    assert_eq!(
        error.message,
        "Secret \"s\" is invalid: data: Forbidden: field is immutable when `immutable` is set"
    );
}

#[test]
fn leases_are_created_by_updates() {
    let mut world = World::new();
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    assert!(world.try_update("leases", Subresource::Main, lease).expect("created").created);
    assert_eq!(world.get("leases", "l")["spec"]["holderIdentity"], "me");
}

#[test]
fn a_dry_run_answers_and_stores_nothing() {
    let mut world = World::new();
    world.create("configmaps", config_map("a"));
    let version = world.store.resource_version();
    let dry = WriteOptions { dry_run: true, ..WriteOptions::default() };
    assert_eq!(
        world.create_with("configmaps", config_map("b"), &dry).expect("created").object["metadata"]["name"],
        "b"
    );
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}});
    let address =
        world.create_with("services", service.clone(), &dry).expect("created").object["spec"]["clusterIP"]
            .clone();
    let target = world.target("configmaps", "a");
    world
        .run(|store, ctx| {
            store.patch(ctx, &target, Subresource::Main, PatchType::Merge, json!({"data": {"k": "v"}}), &dry)
        })
        .expect("patched");
    world
        .try_delete("configmaps", "a", &DeleteOptions { dry_run: true, ..DeleteOptions::default() })
        .expect("deleted");
    assert_eq!(world.store.resource_version(), version);
    assert_eq!(world.create("services", service)["spec"]["clusterIP"], address, "the address is still free");
}

#[test]
fn what_is_too_large_is_refused() {
    let mut world = World::new();
    let error = world.try_create(
        "configmaps",
        json!({"metadata": {"name": "a"}, "data": {"k": "x".repeat(1024 * 1024 + 1)}}),
    );
    assert_eq!(
        error.expect_err("data").message,
        "ConfigMap \"a\" is invalid: data: Too long: may not be more than 1048576 bytes"
    );
    let options = StoreOptions {
        limits: crate::limits::Limits { objects: world.store.object_count() + 1, ..Default::default() },
        ..StoreOptions::default()
    };
    let mut world = World::with(options);
    world.create("configmaps", config_map("last"));
    assert_eq!(world.try_create("configmaps", config_map("more")).expect_err("full").code, 500);
    world.merge("configmaps", "last", json!({"data": {"k": "v"}}));
}

#[test]
fn equal_calls_give_equal_bytes() {
    let run = || {
        let mut world = World::new();
        world.create("pods", pod("p"));
        world.create("configmaps", json!({"metadata": {"generateName": "x"}}));
        let list = world.store.list(&world.info("pods"), &ListRequest::default()).expect("a list");
        format!("{:?} {:?}", list, world.names("configmaps", "", ""))
    };
    assert_eq!(run(), run());
}

#[test]
fn events_are_the_same_in_both_groups() {
    let mut world = World::new();
    let info = world.store.registry().get("events.k8s.io", "v1", "events").expect("it is served").clone();
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "note": "text", "reason": "R",
        "type": "Normal", "eventTime": "2026-01-02T03:04:05.000000Z", "action": "A", "reportingController": "c", "reportingInstance": "i"});
    let created =
        world.run(|store, ctx| store.create(ctx, &info, Some("default"), event, &WriteOptions::default()));
    let created = created.expect("created").object;
    assert_eq!((&created["apiVersion"], &created["note"]), (&json!("events.k8s.io/v1"), &json!("text")));
    let core = world.store.registry().get("", "v1", "events").expect("it is served").clone();
    let target = |resource: &Arc<ResourceInfo>| Target {
        resource: resource.clone(),
        namespace: Some("default".to_owned()),
        name: "e".to_owned(),
    };
    let stored = world.store.get(&target(&core), Subresource::Main).expect("stored");
    assert_eq!(
        (&stored["apiVersion"], &stored["message"], &stored["involvedObject"]["name"]),
        (&json!("v1"), &json!("text"), &json!("p"))
    );
    let patch = json!({"series": {"count": 2, "lastObservedTime": "2026-01-02T03:05:05.000000Z"}});
    let patched = world.run(|store, ctx| {
        store.patch(ctx, &target(&info), Subresource::Main, PatchType::Merge, patch, &WriteOptions::default())
    });
    assert_eq!(patched.expect("patched").object["series"]["count"], 2);
    let start = world.store.watch_start(&info, &WatchRequest::default()).expect("a watch");
    assert_eq!(start.events[0].object["regarding"]["name"], "p");
}

#[test]
fn metadata_of_custom_resources_has_the_types_of_object_meta() {
    let mut world = World::new();
    world.create("customresourcedefinitions", widgets());
    world.tick();
    let error = world.try_create(
        "widgets",
        json!({"metadata": {"name": "w", "labels": {"a": 1}}, "spec": {"color": "red"}}),
    );
    assert_eq!(
        error.expect_err("a number").message,
        "Widget in version \"v1\" cannot be handled as a Widget: json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string"
    );
}

#[test]
fn all_served_versions_show_all_objects() {
    let mut world = World::new();
    let mut definition = widgets();
    let mut older = definition["spec"]["versions"][0].clone();
    older["name"] = json!("v1beta1");
    older["storage"] = json!(false);
    definition["spec"]["versions"].as_array_mut().expect("a list").push(older);
    world.create("customresourcedefinitions", definition);
    world.tick();
    assert_eq!(
        world
            .store
            .registry()
            .groups()
            .into_iter()
            .find(|(group, _)| group == "lab.example.com")
            .map(|it| it.1),
        Some(vec!["v1".to_owned(), "v1beta1".to_owned()])
    );
    let old = world.store.registry().get("lab.example.com", "v1beta1", "widgets").expect("served").clone();
    let new = world.store.registry().get("lab.example.com", "v1", "widgets").expect("served").clone();
    let object = json!({"metadata": {"name": "w"}, "spec": {"color": "red"}});
    let created =
        world.run(|store, ctx| store.create(ctx, &old, Some("default"), object, &WriteOptions::default()));
    assert_eq!(created.expect("created").object["apiVersion"], "lab.example.com/v1beta1");
    let list = world.store.list(&new, &ListRequest::default()).expect("a list");
    assert_eq!(list.items[0]["apiVersion"], "lab.example.com/v1");
    let mut cursor =
        world.store.watch_start(&old, &WatchRequest::default()).expect("a watch").cursor.expect("it goes on");
    let target = Target { resource: new, namespace: Some("default".to_owned()), name: "w".to_owned() };
    let patch = json!({"spec": {"color": "blue"}});
    world
        .run(|store, ctx| {
            store.patch(ctx, &target, Subresource::Main, PatchType::Merge, patch, &WriteOptions::default())
        })
        .expect("patched");
    let events = world.store.events_since(&mut cursor, 10).expect("events").events;
    assert_eq!(events[0].object["apiVersion"], "lab.example.com/v1beta1");
    let wrong = json!({"apiVersion": "lab.example.com/v1", "kind": "Widget", "metadata": {"name": "v"}});
    let error =
        world.run(|store, ctx| store.create(ctx, &old, Some("default"), wrong, &WriteOptions::default()));
    assert_eq!(
        error.expect_err("other version").message,
        "the API version in the data (lab.example.com/v1) does not match the expected API version (lab.example.com/v1beta1)"
    );
}
