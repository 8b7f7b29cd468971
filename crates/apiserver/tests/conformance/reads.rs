//! Gets and lists.

use serde_json::json;

use crate::answer::names;
use crate::target::{Target, config_map, version};

async fn five(t: &Target) {
    for index in 0..5 {
        let mut object = config_map(&format!("m{index}"), json!({}));
        object["metadata"]["labels"] = json!({"set": "five", "even": (index % 2 == 0).to_string()});
        t.post(&t.core("configmaps"), &object).await.expect(201);
    }
}

#[tokio::test]
async fn case_8_lists_have_a_version_even_if_empty() {
    let t = Target::case(8).await;
    let empty = t.get(&t.core("endpoints")).await.expect(200);
    assert!(names(&empty).is_empty());
    let first: u64 = version(&empty).parse().expect("a number");
    five(&t).await;
    let list = t.get(&t.core("configmaps?labelSelector=set=five")).await.expect(200);
    let whole: u64 = version(&list).parse().expect("a number");
    for item in list["items"].as_array().expect("items") {
        assert!(item.get("kind").is_none(), "items of built-in lists are bare");
        let own: u64 = version(item).parse().expect("a number");
        assert!(first < own && own <= whole);
    }
}

#[tokio::test]
async fn case_9_pages_show_one_state() {
    let t = Target::case(9).await;
    for index in 0..5 {
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": format!("l{index}")}});
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", t.namespace);
        t.post(&path, &lease).await.expect(201);
    }
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases?limit=2", t.namespace);
    let first = t.get(&path).await.expect(200);
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["l0", "l1"], &json!(3)));
    let token =
        |page: &serde_json::Value| page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let second = t.get(&format!("{path}&continue={}", token(&first))).await.expect(200);
    assert_eq!((names(&second), &second["metadata"]["remainingItemCount"]), (vec!["l2", "l3"], &json!(1)));
    let third = t.get(&format!("{path}&continue={}", token(&second))).await.expect(200);
    assert_eq!(names(&third), ["l4"]);
    assert!(third["metadata"].get("remainingItemCount").is_none() && token(&third).is_empty());
    assert_eq!((version(&first), version(&first)), (version(&second), version(&third)));
}

#[tokio::test]
async fn case_10_later_objects_stay_off_later_pages() {
    let t = Target::case(10).await;
    five(&t).await;
    let path = t.core("configmaps?limit=2&labelSelector=set%3Dfive");
    let first = t.get(&path).await.expect(200);
    assert!(first["metadata"].get("remainingItemCount").is_none(), "not counted with a selector");
    let mut late = config_map("m2a", json!({}));
    late["metadata"]["labels"] = json!({"set": "five"});
    t.post(&t.core("configmaps"), &late).await.expect(201);
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = t.get(&format!("{path}&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["m2", "m3"]);
    t.get(&format!("{path}&continue=nonsense")).await.fails(400, "BadRequest");
}

#[tokio::test]
async fn case_11_versions_that_lists_are_asked_for() {
    let t = Target::case(11).await;
    five(&t).await;
    let list = t.get(&t.core("configmaps?resourceVersion=0")).await.expect(200);
    let now = version(&list).to_owned();
    let with = |query: String| t.core(&format!("configmaps?{query}"));
    t.get(&with(format!("resourceVersion={now}&resourceVersionMatch=NotOlderThan"))).await.expect(200);
    let future = "resourceVersion=9999999999999999&resourceVersionMatch=NotOlderThan".to_owned();
    let status = t.get(&with(future)).await.fails(504, "Timeout");
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    t.get(&with("resourceVersion=0&resourceVersionMatch=Exact".to_owned())).await.fails(422, "Invalid");
    t.get(&with("resourceVersionMatch=NotOlderThan".to_owned())).await.fails(422, "Invalid");
}

#[tokio::test]
async fn case_12_label_selectors() {
    let t = Target::case(12).await;
    five(&t).await;
    for (selector, expected) in [
        ("set=five,even==true", &["m0", "m2", "m4"][..]),
        ("set=five,even!=true", &["m1", "m3"]),
        ("set=five,even in (true,false)", &["m0", "m1", "m2", "m3", "m4"]),
        ("set=five,even notin (true)", &["m1", "m3"]),
        ("set,!even", &[]),
        ("set=five,other!=x,even=false", &["m1", "m3"]),
    ] {
        let encoded =
            selector.replace(' ', "%20").replace('!', "%21").replace('(', "%28").replace(')', "%29");
        let list = t.get(&t.core(&format!("configmaps?labelSelector={encoded}"))).await.expect(200);
        assert_eq!(names(&list), expected, "{selector}");
    }
    let status = t.get(&t.core("configmaps?labelSelector=a%3D%3D%3Db")).await.fails(400, "BadRequest");
    assert!(
        status["message"].as_str().is_some_and(|text| text.starts_with("unable to parse requirement")),
        "{status}"
    );
}

#[tokio::test]
async fn case_13_field_selectors() {
    let t = Target::case(13).await;
    five(&t).await;
    let list = t.get(&t.core("configmaps?fieldSelector=metadata.name%3Dm3")).await.expect(200);
    assert_eq!(names(&list), ["m3"]);
    let status = t.get(&t.core("pods?fieldSelector=spec.x%3Dy")).await.fails(400, "BadRequest");
    assert_eq!(status["message"], "field label not supported: spec.x");
    t.define(json!({"type": "object", "properties": {"color": {"type": "string"}, "replicas": {"type": "integer"}}})).await;
    t.post(&t.custom("things"), &t.thing("a", json!({"color": "red"}))).await.expect(201);
    t.post(&t.custom("things"), &t.thing("b", json!({"color": "blue"}))).await.expect(201);
    let list = t.get(&t.custom("things?fieldSelector=spec.color%3Dred")).await.expect(200);
    assert_eq!(names(&list), ["a"]);
    assert_eq!(list["items"][0]["kind"], "Thing", "items of custom lists tell their kind");
    t.get(&t.custom("things?fieldSelector=spec.replicas%3D1")).await.fails(400, "BadRequest");
}
