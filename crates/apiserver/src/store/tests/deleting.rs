use super::*;
use crate::store::Propagation;

fn policy(propagation: Propagation) -> DeleteOptions {
    DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() }
}

/// A ConfigMap owned by another one.
fn owned(world: &World, name: &str, owner: &str, blocks: bool) -> Value {
    let uid = meta::uid(&world.get("configmaps", owner)).to_owned();
    json!({"metadata": {"name": name, "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid, "blockOwnerDeletion": blocks}]}})
}

#[test]
fn most_kinds_answer_a_delete_with_a_status_and_pods_with_the_object() {
    let mut world = World::new();
    let object = world.create("configmaps", config_map("a"));
    let info = world.info("configmaps");
    let response = world.delete("configmaps", "a").response(&info);
    assert_eq!(
        response,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": "a", "kind": "configmaps", "uid": meta::uid(&object)}})
    );
    let error = world.try_delete("configmaps", "a", &DeleteOptions::default()).expect_err("gone");
    assert_eq!((error.code, error.message.as_str()), (404, "configmaps \"a\" not found"));
    world.create("pods", pod("p"));
    let info = world.info("pods");
    assert_eq!(world.delete("pods", "p").response(&info)["kind"], "Pod");
}

#[test]
fn finalizers_keep_an_object_until_they_are_gone() {
    let mut world = World::new();
    world.create("configmaps", json!({"metadata": {"name": "a", "finalizers": ["x/y"]}}));
    let outcome = world.delete("configmaps", "a");
    assert!(!outcome.gone);
    assert_eq!(outcome.object["metadata"]["deletionTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(outcome.object["metadata"]["deletionGracePeriodSeconds"], 0);
    let error = world.try_create("configmaps", config_map("a")).expect_err("there");
    assert_eq!(error.message, "object is being deleted: configmaps \"a\" already exists");
    let error = world.try_patch(
        "configmaps",
        "a",
        PatchType::Merge,
        json!({"metadata": {"finalizers": ["x/y", "z/z"]}}),
    );
    assert_eq!(error.expect_err("no new ones").code, 422);
    world.merge("configmaps", "a", json!({"metadata": {"finalizers": null}}));
    assert!(!world.exists("configmaps", "a"));
}

#[test]
fn preconditions_protect_another_object_of_the_same_name() {
    let mut world = World::new();
    let object = world.create("configmaps", config_map("a"));
    let options = DeleteOptions { uid: Some("other".to_owned()), ..DeleteOptions::default() };
    let error = world.try_delete("configmaps", "a", &options).expect_err("other uid");
    assert_eq!(
        error.message,
        format!(
            "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (other) does not match the UID in record ({}). The object might have been deleted and then recreated",
            meta::uid(&object)
        )
    );
    let options = DeleteOptions { resource_version: Some("1".to_owned()), ..DeleteOptions::default() };
    assert_eq!(world.try_delete("configmaps", "a", &options).expect_err("other version").code, 409);
}

#[test]
fn running_pods_get_their_grace_and_later_deletes_only_shorten_it() {
    let mut world = World::new();
    let mut object = pod("p");
    object["spec"]["nodeName"] = json!("n");
    world.create("pods", object);
    let grace = |seconds| DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() };
    let outcome = world.delete("pods", "p");
    assert!(!outcome.gone);
    assert_eq!(outcome.object["metadata"]["deletionTimestamp"], "2026-01-02T03:04:35Z");
    let outcome = world.try_delete("pods", "p", &grace(60)).expect("asked again");
    assert_eq!(outcome.object["metadata"]["deletionGracePeriodSeconds"], 30);
    let outcome = world.try_delete("pods", "p", &grace(5)).expect("sooner");
    assert_eq!(outcome.object["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(world.try_delete("pods", "p", &grace(0)).expect("now").gone);
}

#[test]
fn collections_are_deleted_by_selector() {
    let mut world = World::new();
    for (name, label) in [("a", "1"), ("b", "1"), ("c", "2")] {
        world.create("configmaps", json!({"metadata": {"name": name, "labels": {"k": label}}}));
    }
    let info = world.info("configmaps");
    let request = ListRequest {
        namespace: Some("default".to_owned()),
        labels: LabelSelector::parse("k=1").expect("valid"),
        ..ListRequest::default()
    };
    let deleted =
        world.run(|store, ctx| store.delete_collection(ctx, &info, &request, &DeleteOptions::default()));
    assert_eq!(deleted.expect("deleted").items.len(), 2);
    assert_eq!(world.names("configmaps", "k", ""), ["c"]);
}

#[test]
fn dependents_are_collected_in_the_background() {
    let mut world = World::new();
    world.create("configmaps", config_map("owner"));
    let object = owned(&world, "child", "owner", false);
    world.create("configmaps", object);
    let object = owned(&world, "grandchild", "child", false);
    world.create("configmaps", object);
    world.tick();
    assert!(world.exists("configmaps", "grandchild"));
    assert!(world.delete("configmaps", "owner").gone);
    world.tick();
    assert!(!world.exists("configmaps", "child") && !world.exists("configmaps", "grandchild"));
}

#[test]
fn a_second_owner_keeps_a_dependent_and_the_dangling_reference_goes() {
    let mut world = World::new();
    world.create("configmaps", config_map("one"));
    world.create("configmaps", config_map("two"));
    let mut object = owned(&world, "child", "one", false);
    let second = owned(&world, "child", "two", false)["metadata"]["ownerReferences"][0].clone();
    object["metadata"]["ownerReferences"].as_array_mut().expect("a list").push(second);
    world.create("configmaps", object);
    world.delete("configmaps", "one");
    world.tick();
    let child = world.get("configmaps", "child");
    let owners: Vec<&Value> = meta::owner_references(&child).iter().map(|owner| &owner["name"]).collect();
    assert_eq!(owners, ["two"]);
}

#[test]
fn in_the_foreground_the_owner_waits_for_those_that_block_it() {
    let mut world = World::new();
    world.create("configmaps", config_map("owner"));
    let mut object = owned(&world, "slow", "owner", true);
    object["metadata"]["finalizers"] = json!(["x/y"]);
    world.create("configmaps", object);
    let outcome = world.try_delete("configmaps", "owner", &policy(Propagation::Foreground)).expect("marked");
    assert!(!outcome.gone);
    assert_eq!(outcome.object["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    world.tick();
    assert!(meta::is_deleting(&world.get("configmaps", "slow")) && world.exists("configmaps", "owner"));
    world.merge("configmaps", "slow", json!({"metadata": {"finalizers": null}}));
    world.tick();
    assert!(!world.exists("configmaps", "slow") && !world.exists("configmaps", "owner"));
}

#[test]
fn orphans_stay_without_their_reference() {
    let mut world = World::new();
    world.create("configmaps", config_map("owner"));
    let object = owned(&world, "child", "owner", true);
    world.create("configmaps", object);
    world.try_delete("configmaps", "owner", &policy(Propagation::Orphan)).expect("marked");
    world.tick();
    assert!(!world.exists("configmaps", "owner"));
    assert!(meta::owner_references(&world.get("configmaps", "child")).is_empty());
}

#[test]
fn objects_of_an_owner_that_never_was_are_collected_and_those_of_unknown_kinds_stay() {
    let mut world = World::new();
    let owner = |kind: &str| json!([{"apiVersion": "v1", "kind": kind, "name": "x", "uid": "none"}]);
    world.create("configmaps", json!({"metadata": {"name": "a", "ownerReferences": owner("Pod")}}));
    world.create("configmaps", json!({"metadata": {"name": "b", "ownerReferences": owner("Unheard")}}));
    world.tick();
    assert!(!world.exists("configmaps", "a") && world.exists("configmaps", "b"));
}

#[test]
fn a_namespace_takes_its_content_along() {
    let mut world = World::new();
    let namespace = world.create("namespaces", config_map("n"));
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
    assert_eq!(
        (&namespace["spec"], &namespace["status"]),
        (&json!({"finalizers": ["kubernetes"]}), &json!({"phase": "Active"}))
    );
    world.tick();
    let inside = |name: &str, finalizers: Value| json!({"metadata": {"name": name, "namespace": "n", "finalizers": finalizers}});
    world.create("configmaps", inside("a", json!([])));
    world.create("configmaps", inside("held", json!(["x/y"])));
    let outcome = world.delete("namespaces", "n");
    assert_eq!((outcome.gone, &outcome.object["status"]["phase"]), (false, &json!("Terminating")));
    let error = world.try_create("configmaps", inside("b", json!([]))).expect_err("terminating");
    assert_eq!(
        error.message,
        "configmaps \"b\" is forbidden: unable to create new content in namespace n because it is being terminated"
    );
    assert_eq!(error.details.as_ref().expect("details").causes[0].reason, "NamespaceTerminating");
    world.tick();
    assert!(world.exists("namespaces", "n"));
    let mut target = world.target("configmaps", "held");
    target.namespace = Some("n".to_owned());
    let patch = json!({"metadata": {"finalizers": null}});
    world
        .run(|store, ctx| {
            store.patch(ctx, &target, Subresource::Main, PatchType::Merge, patch, &WriteOptions::default())
        })
        .expect("released");
    world.tick();
    assert!(!world.exists("namespaces", "n"));
    let error = world.try_delete("namespaces", "default", &DeleteOptions::default()).expect_err("protected");
    assert_eq!(error.message, "namespaces \"default\" is forbidden: this namespace may not be deleted");
}

#[test]
fn each_namespace_has_its_service_account_and_certificate() {
    let mut world = World::new();
    assert!(world.exists("serviceaccounts", "default") && world.exists("configmaps", "kube-root-ca.crt"));
    world.delete("serviceaccounts", "default");
    world.tick();
    assert!(world.exists("serviceaccounts", "default"));
}

#[test]
fn a_definition_takes_its_resources_along_and_ends_their_watches() {
    let mut world = World::new();
    world.create("customresourcedefinitions", widgets());
    world.tick();
    world.create(
        "widgets",
        json!({"metadata": {"name": "held", "finalizers": ["x/y"]}, "spec": {"color": "red"}}),
    );
    let request = WatchRequest {
        resource_version: Some(world.store.resource_version().to_string()),
        ..WatchRequest::default()
    };
    let mut cursor = world.watch("widgets", &request).cursor.expect("it goes on");
    assert!(!world.delete("customresourcedefinitions", "widgets.lab.example.com").gone);
    world.tick();
    let error = world
        .try_create("widgets", json!({"metadata": {"name": "v"}, "spec": {"color": "red"}}))
        .expect_err("ending");
    assert_eq!(error.message, "create not allowed while custom resource definition is terminating");
    world.merge("widgets", "held", json!({"metadata": {"finalizers": null}}));
    world.tick();
    assert!(!world.exists("customresourcedefinitions", "widgets.lab.example.com"));
    assert_eq!(world.events(&mut cursor), ["MODIFIED held", "DELETED held"]);
    assert_eq!(world.store.events_since(&mut cursor, 10).expect_err("ended").code, 404);
}

#[test]
fn evictions_respect_the_budget() {
    let mut world = World::new();
    let mut object = pod("p");
    object["metadata"]["labels"] = json!({"a": "b"});
    object["spec"]["nodeName"] = json!("n");
    let mut object = (*world.create("pods", object)).clone();
    object["status"]["phase"] = json!("Running");
    world.try_update("pods", Subresource::Status, object).expect("running");
    let budget = world.create(
        "poddisruptionbudgets",
        json!({"metadata": {"name": "b"}, "spec": {"selector": {"matchLabels": {"a": "b"}}}}),
    );
    let target = world.target("pods", "p");
    let evict = |world: &mut World| {
        world.run(|store, ctx| store.evict(ctx, &target, &json!({}), &WriteOptions::default()))
    };
    let error = evict(&mut world).expect_err("no disruption allowed");
    assert_eq!(
        (error.code, error.message.as_str()),
        (429, "Cannot evict pod as it would violate the pod's disruption budget.")
    );
    let mut budget = (*budget).clone();
    budget["status"]["disruptionsAllowed"] = json!(1);
    world.try_update("poddisruptionbudgets", Subresource::Status, budget).expect("allowed");
    evict(&mut world).expect("evicted");
    assert!(meta::is_deleting(&world.get("pods", "p")));
    assert_eq!(world.get("poddisruptionbudgets", "b")["status"]["disruptionsAllowed"], 0);
}

#[test]
fn old_events_go() {
    let mut world = World::new();
    let event = |name: &str, time: &str| json!({"metadata": {"name": name}, "lastTimestamp": time, "involvedObject": {"kind": "Pod"}});
    world.create("events", event("old", "2026-01-02T03:00:00Z"));
    world.create("events", event("new", "2026-01-02T04:00:00Z"));
    world.later(3600);
    world.tick();
    assert_eq!(world.names("events", "", ""), ["new"]);
}
