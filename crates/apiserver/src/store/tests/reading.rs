use proptest::prelude::*;

use super::*;
use crate::limits::Limits;

fn numbered(world: &mut World, count: usize) {
    for index in 0..count {
        world.create("configmaps", config_map(&format!("n{index}")));
    }
}

fn all_of_test() -> ListRequest {
    ListRequest {
        fields: FieldSelector::parse("metadata.name!=kube-root-ca.crt").expect("valid"),
        ..ListRequest::default()
    }
}

#[test]
fn an_empty_list_has_a_version_that_no_item_exceeds() {
    let mut world = World::new();
    let list = world.store.list(&world.info("leases"), &ListRequest::default()).expect("a list");
    assert!(list.items.is_empty() && list.resource_version > 0);
    numbered(&mut world, 3);
    let list = world.store.list(&world.info("configmaps"), &ListRequest::default()).expect("a list");
    for item in &list.items {
        assert!(meta::resource_version(item).parse::<u64>().expect("a number") <= list.resource_version);
    }
}

#[test]
fn pages_show_the_state_of_the_first_one() {
    let mut world = World::new();
    world.create("namespaces", config_map("pages"));
    let info = world.info("configmaps");
    for name in ["a", "b", "c", "d", "e"] {
        world.create("configmaps", json!({"metadata": {"name": name, "namespace": "pages"}}));
    }
    let mut request = ListRequest { namespace: Some("pages".to_owned()), limit: 2, ..ListRequest::default() };
    let mut seen = Vec::new();
    let mut remaining = Vec::new();
    let mut versions = Vec::new();
    loop {
        let page = world.store.list(&info, &request).expect("a page");
        seen.extend(page.items.iter().map(|item| meta::name(item).to_owned()));
        remaining.push(page.remaining);
        versions.push(page.resource_version);
        // Neither a new, a deleted nor a changed object shows on later pages.
        world.create(
            "configmaps",
            json!({"metadata": {"name": format!("c{}", seen.len()), "namespace": "pages"}}),
        );
        let Some(token) = page.continue_token else { break };
        request.continue_token = Some(token);
        if seen.len() == 2 {
            let mut target = world.target("configmaps", "d");
            target.namespace = Some("pages".to_owned());
            world.run(|store, ctx| store.delete(ctx, &target, &DeleteOptions::default())).expect("deleted");
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    assert_eq!(remaining, [Some(3), Some(1), None]);
    assert!(versions.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_forgotten_page_is_expired_and_offers_an_inconsistent_rest() {
    let mut world = World::with(StoreOptions {
        limits: Limits { history_events: 2, ..Limits::default() },
        ..StoreOptions::default()
    });
    let info = world.info("configmaps");
    numbered(&mut world, 4);
    let mut request = ListRequest { limit: 2, ..all_of_test() };
    request.continue_token = world.store.list(&info, &request).expect("a page").continue_token;
    for index in 4..9 {
        world.create("configmaps", config_map(&format!("n{index}")));
    }
    let error = world.store.list(&info, &request).expect_err("forgotten");
    assert_eq!((error.code, error.reason.as_str()), (410, "Expired"));
    request.continue_token = error.continue_token.clone();
    let rest = world.store.list(&info, &ListRequest { limit: 0, ..request }).expect("the rest");
    assert_eq!(rest.items.len(), 7);
}

#[test]
fn list_options_that_contradict_each_other_are_refused() {
    let world = World::new();
    let info = world.info("configmaps");
    let list = |version: &str, matched: &str, token: &str| {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let request = ListRequest {
            resource_version: some(version),
            resource_version_match: some(matched),
            continue_token: some(token),
            ..ListRequest::default()
        };
        world.store.list(&info, &request).err().map(|error| (error.code, error.is_version_in_future()))
    };
    let future = (world.store.resource_version() + 10).to_string();
    assert_eq!(list("0", "", ""), None);
    assert_eq!(list("1", "NotOlderThan", ""), None);
    assert_eq!(list("", "Exact", ""), Some((422, false)));
    assert_eq!(list("0", "Exact", ""), Some((422, false)));
    assert_eq!(list("1", "Exact", ""), Some((410, false)));
    assert_eq!(list("", "", "nonsense"), Some((400, false)));
    assert_eq!(list("x", "", ""), Some((400, false)));
    assert_eq!(list(&future, "NotOlderThan", ""), Some((504, true)));
}

#[test]
fn selectors_choose_objects_and_unknown_fields_are_refused() {
    let mut world = World::new();
    world.create("configmaps", json!({"metadata": {"name": "a", "labels": {"k": "1"}}}));
    world.create("configmaps", config_map("b"));
    assert_eq!(world.names("configmaps", "k", ""), ["a"]);
    assert_eq!(world.names("configmaps", "k!=1", "metadata.name=b"), ["b"]);
    let refused = |plural: &str, selector: &str| {
        let request =
            ListRequest { fields: FieldSelector::parse(selector).expect("valid"), ..ListRequest::default() };
        world.store.list(&world.info(plural), &request).expect_err("unknown").message.clone()
    };
    assert_eq!(refused("pods", "spec.x=1"), "field label not supported: spec.x");
    assert_eq!(
        refused("configmaps", "spec.x=1"),
        "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    );
}

#[test]
fn a_watch_goes_on_where_the_list_ended() {
    let mut world = World::new();
    world.create("configmaps", config_map("before"));
    let version = world.store.resource_version().to_string();
    let request = WatchRequest { resource_version: Some(version), ..WatchRequest::default() };
    let start = world.watch("configmaps", &request);
    assert!(start.events.is_empty());
    let mut cursor = start.cursor.expect("it goes on");
    world.create("configmaps", config_map("a"));
    world.merge("configmaps", "a", json!({"data": {"k": "v"}}));
    let outcome = world.delete("configmaps", "a");
    let batch = world.store.events_since(&mut cursor, 10).expect("events");
    let kinds: Vec<&str> = batch.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED"]);
    let last = batch.events.last().expect("three events");
    assert_eq!(
        meta::resource_version(&last.object),
        last.version.to_string(),
        "a deletion has a version of its own"
    );
    assert_eq!(last.object.pointer("/data/k"), Some(&json!("v")));
    assert_eq!(meta::resource_version(&outcome.object), meta::resource_version(&last.object));
    assert!(world.events(&mut cursor).is_empty(), "nothing comes twice");
    let line = last.json_line();
    assert!(line.starts_with(b"{\"type\":\"DELETED\",\"object\":{") && line.ends_with(b"}\n"));
}

#[test]
fn objects_that_leave_the_selection_are_deleted_with_their_old_content() {
    let mut world = World::new();
    let request = WatchRequest {
        labels: LabelSelector::parse("on=yes").expect("valid"),
        resource_version: Some(world.store.resource_version().to_string()),
        ..WatchRequest::default()
    };
    let mut cursor = world.watch("configmaps", &request).cursor.expect("it goes on");
    world.create("configmaps", json!({"metadata": {"name": "a", "labels": {"on": "yes"}}}));
    world.create("configmaps", config_map("other"));
    let now = world.merge("configmaps", "a", json!({"metadata": {"labels": {"on": "no"}}}));
    let batch = world.store.events_since(&mut cursor, 10).expect("events");
    let left = batch.events.get(1).expect("two events");
    assert_eq!(left.kind.as_str(), "DELETED");
    assert_eq!(meta::label(&left.object, "on"), Some("yes"));
    assert_eq!(meta::resource_version(&left.object), meta::resource_version(&now));
    world.merge("configmaps", "a", json!({"metadata": {"labels": {"on": "yes"}}}));
    assert_eq!(world.events(&mut cursor), ["ADDED a"]);
}

#[test]
fn a_watch_from_before_the_history_gets_one_error_event() {
    let world = World::new();
    let request = WatchRequest { resource_version: Some("1".to_owned()), ..WatchRequest::default() };
    let start = world.watch("configmaps", &request);
    assert!(start.cursor.is_none());
    let [event] = start.events.as_slice() else { panic!("one event") };
    assert_eq!(
        (event.kind.as_str(), event.object["code"].as_u64(), event.object["reason"].as_str()),
        ("ERROR", Some(410), Some("Expired"))
    );
    let message = event.object["message"].as_str().expect("a message");
    assert!(message.starts_with("too old resource version: 1 ("), "{message}");
}

#[test]
fn a_slow_watch_expires_once_its_events_are_forgotten() {
    let mut world = World::new();
    let request = WatchRequest {
        resource_version: Some(world.store.resource_version().to_string()),
        ..WatchRequest::default()
    };
    let mut cursor = world.watch("configmaps", &request).cursor.expect("it goes on");
    numbered(&mut world, 3);
    world.later(Limits::default().history_seconds + 1);
    world.tick();
    assert_eq!(world.store.events_since(&mut cursor, 10).expect_err("forgotten").code, 410);
}

#[test]
fn a_streaming_list_ends_its_initial_events_with_a_bookmark() {
    let mut world = World::new();
    world.create("configmaps", config_map("a"));
    let mut request = WatchRequest {
        fields: FieldSelector::parse("metadata.name!=kube-root-ca.crt").expect("valid"),
        send_initial_events: Some(true),
        resource_version_match: Some("NotOlderThan".to_owned()),
        allow_bookmarks: true,
        ..WatchRequest::default()
    };
    for (plural, expected) in [("configmaps", vec!["ADDED", "BOOKMARK"]), ("leases", vec!["BOOKMARK"])] {
        let start = world.watch(plural, &request);
        let kinds: Vec<&str> = start.events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, expected);
        let bookmark = &start.events.last().expect("the bookmark").object;
        assert_eq!(
            bookmark.pointer("/metadata/annotations/k8s.io~1initial-events-end"),
            Some(&json!("true"))
        );
        assert_eq!(meta::resource_version(bookmark), world.store.resource_version().to_string());
    }
    let mut cursor = world.watch("configmaps", &request).cursor.expect("it goes on");
    world.create("configmaps", config_map("b"));
    assert_eq!(world.events(&mut cursor), ["ADDED b"]);
    request.resource_version_match = None;
    let error = world.store.watch_start(&world.info("configmaps"), &request).expect_err("no match");
    assert_eq!(
        (error.code, error.details.as_ref().map(|details| details.kind.as_str())),
        (422, Some("ListOptions"))
    );
    request.resource_version_match = Some("NotOlderThan".to_owned());
    request.resource_version = Some((world.store.resource_version() + 5).to_string());
    let start = world.watch("configmaps", &request);
    assert_eq!(start.events.first().map(|event| event.object["code"].clone()), Some(json!(504)));
}

#[test]
fn a_watch_from_the_future_is_silent_until_it_is_passed() {
    let mut world = World::new();
    let future = world.store.resource_version() + 2;
    let request = WatchRequest { resource_version: Some(future.to_string()), ..WatchRequest::default() };
    let mut cursor = world.watch("configmaps", &request).cursor.expect("it goes on");
    numbered(&mut world, 2);
    assert!(world.events(&mut cursor).is_empty());
    world.create("configmaps", config_map("later"));
    assert_eq!(world.events(&mut cursor), ["ADDED later"]);
}

#[test]
fn long_batches_are_cut_and_go_on() {
    let mut world = World::new();
    let request = WatchRequest {
        resource_version: Some(world.store.resource_version().to_string()),
        ..WatchRequest::default()
    };
    let mut cursor = world.watch("configmaps", &request).cursor.expect("it goes on");
    numbered(&mut world, 5);
    let first = world.store.events_since(&mut cursor, 3).expect("events");
    assert!(first.more && first.events.len() == 3);
    let rest = world.store.events_since(&mut cursor, 3).expect("events");
    assert!(!rest.more && rest.events.len() == 2);
}

#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    Label(u8, bool),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u8).prop_map(Step::Create),
        (0..6u8, any::<bool>()).prop_map(|(n, on)| Step::Label(n, on)),
        (0..6u8).prop_map(Step::Delete),
    ]
}

fn take(world: &mut World, step: &Step) {
    match step {
        Step::Create(n) => {
            let _ = world.try_create("configmaps", config_map(&format!("n{n}")));
        }
        Step::Label(n, on) => {
            let patch = json!({"metadata": {"labels": {"on": if *on { "yes" } else { "no" }}}});
            let _ = world.try_patch("configmaps", &format!("n{n}"), PatchType::Merge, patch);
        }
        Step::Delete(n) => {
            let _ = world.try_delete("configmaps", &format!("n{n}"), &DeleteOptions::default());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever lists once and follows the events knows exactly what a later list says; and each older state can be
    /// listed as it was.
    #[test]
    fn events_lead_from_each_list_to_each_later_one(before in prop::collection::vec(step(), 0..20), after in prop::collection::vec(step(), 0..20)) {
        let mut world = World::new();
        let info = world.info("configmaps");
        for step in &before {
            take(&mut world, step);
        }
        let request = ListRequest { labels: LabelSelector::parse("on=yes").expect("valid"), ..ListRequest::default() };
        let list = world.store.list(&info, &request).expect("a list");
        let version = list.resource_version;
        let mut known: std::collections::BTreeMap<String, Arc<Value>> =
            list.items.iter().map(|item| (meta::name(item).to_owned(), Arc::clone(item))).collect();
        let watch = WatchRequest {
            labels: request.labels.clone(), resource_version: Some(version.to_string()), ..WatchRequest::default()
        };
        let mut cursor = world.watch("configmaps", &watch).cursor.expect("it goes on");
        for step in &after {
            take(&mut world, step);
        }
        for event in world.store.events_since(&mut cursor, 1000).expect("events").events {
            let name = meta::name(&event.object).to_owned();
            match event.kind.as_str() {
                "ADDED" => prop_assert!(known.insert(name, event.object).is_none()),
                "MODIFIED" => prop_assert!(known.insert(name, event.object).is_some()),
                _ => prop_assert!(known.remove(&name).is_some()),
            }
        }
        let now = world.store.list(&info, &request).expect("a list");
        prop_assert_eq!(known.into_values().collect::<Vec<_>>(), now.items);
        let exact = ListRequest {
            resource_version: Some(version.to_string()), resource_version_match: Some("Exact".to_owned()), ..request
        };
        prop_assert_eq!(world.store.list(&info, &exact).expect("the old state").items, list.items);
    }
}
