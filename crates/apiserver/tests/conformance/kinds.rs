//! Rules of single kinds: defaults, pods, namespaces, and what follows an owner.

use serde_json::{Value, json};

use crate::target::{MERGE, Target, config_map, deployment};

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": "no-such-node", "containers": [{"name": "c", "image": "i:1"}]}})
}

/// Waits for the service account that pods run as.
async fn accounts(t: &Target) {
    t.until(&t.core("serviceaccounts/default"), |reply| reply.status == 200).await;
}

#[tokio::test]
async fn case_52_pods_have_grace_that_only_shrinks() {
    let t = Target::case(52).await;
    accounts(&t).await;
    let path = t.core("pods/p");
    t.post(&t.core("pods"), &pod("p")).await.expect(201);
    let grace = |object: &Value| object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    assert_eq!(grace(&t.delete(&path, &json!({})).await.expect(200)), Some(30));
    assert_eq!(grace(&t.delete(&path, &json!({"gracePeriodSeconds": 5})).await.expect(200)), Some(5));
    assert_eq!(grace(&t.delete(&path, &json!({"gracePeriodSeconds": 20})).await.expect(200)), Some(5));
    t.delete(&path, &json!({"gracePeriodSeconds": 0})).await.expect(200);
    t.get(&path).await.fails(404, "NotFound");
}

#[tokio::test]
async fn case_54_dependents_follow_their_owner_or_are_orphaned() {
    let t = Target::case(54).await;
    for (owner, policy) in [("a", "Background"), ("b", "Foreground"), ("c", "Orphan")] {
        let made = t.post(&t.core("configmaps"), &config_map(owner, json!({}))).await.expect(201);
        let mut dependent = config_map(&format!("{owner}-child"), json!({}));
        dependent["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner,
            "uid": made["metadata"]["uid"], "blockOwnerDeletion": true}]);
        t.post(&t.core("configmaps"), &dependent).await.expect(201);
        t.delete(&t.core(&format!("configmaps/{owner}")), &json!({"propagationPolicy": policy}))
            .await
            .expect(200);
        t.until(&t.core(&format!("configmaps/{owner}")), |reply| reply.status == 404).await;
        let child = t.core(&format!("configmaps/{owner}-child"));
        if policy == "Orphan" {
            let left = t.get(&child).await.expect(200);
            assert!(left["metadata"].get("ownerReferences").is_none());
        } else {
            t.until(&child, |reply| reply.status == 404).await;
        }
    }
}

#[tokio::test]
async fn case_55_a_namespace_ends_with_its_content() {
    let t = Target::case(55).await;
    let mut held = config_map("held", json!({}));
    held["metadata"]["finalizers"] = json!(["x.io/a"]);
    t.post(&t.core("configmaps"), &held).await.expect(201);
    let path = format!("/api/v1/namespaces/{}", t.namespace);
    let ending = t.delete(&path, &json!({})).await.expect(200);
    assert_eq!(ending["status"]["phase"], "Terminating");
    let status = t.post(&t.core("configmaps"), &config_map("late", json!({}))).await.fails(403, "Forbidden");
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
    assert_eq!(
        status["message"],
        format!(
            "configmaps \"late\" is forbidden: unable to create new content in namespace {} because it is being terminated",
            t.namespace
        )
    );
    t.until(&t.core("configmaps/held"), |reply| reply.text().contains("deletionTimestamp")).await;
    t.patch(&t.core("configmaps/held"), MERGE, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    t.until(&path, |reply| reply.status == 404).await;
    let kept = t.delete("/api/v1/namespaces/default", &json!({})).await;
    kept.says(403, "Forbidden", "namespaces \"default\" is forbidden: this namespace may not be deleted");
}

#[tokio::test]
async fn case_78_eviction_and_binding() {
    let t = Target::case(78).await;
    accounts(&t).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "p"}}}});
    t.post(&format!("/apis/policy/v1/namespaces/{}/poddisruptionbudgets", t.namespace), &budget)
        .await
        .expect(201);
    t.post(&t.core("pods"), &pod("p")).await.expect(201);
    t.patch(
        &t.core("pods/p/status"),
        MERGE,
        &json!({"status": {"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True"}]}}),
    )
    .await
    .expect(200);
    let evict =
        |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let status = t.post(&t.core("pods/p/eviction"), &evict("p")).await.fails(429, "TooManyRequests");
    assert_eq!(status["details"]["causes"][0]["reason"], "DisruptionBudget");
    let mut free = pod("q");
    free["spec"]["nodeName"] = json!("");
    // A cluster's own scheduler leaves it alone then.
    free["spec"]["schedulerName"] = json!("nobody");
    t.post(&t.core("pods"), &free).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "q"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "no-such-node"}});
    assert_eq!(t.post(&t.core("pods/q/binding"), &binding).await.expect(201)["status"], "Success");
    assert_eq!(t.get(&t.core("pods/q")).await.expect(200)["spec"]["nodeName"], "no-such-node");
    t.post(&t.core("pods/q/binding"), &binding).await.fails(409, "Conflict");
    assert_eq!(t.post(&t.core("pods/q/eviction"), &evict("q")).await.expect(201)["status"], "Success");
}

#[tokio::test]
async fn case_80_defaults_and_immutable_fields() {
    let t = Target::case(80).await;
    accounts(&t).await;
    let made = t.post(&t.apps("deployments"), &deployment("d")).await.expect(201);
    let spec = &made["spec"];
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    assert_eq!((&spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]), (&json!(10), &json!(600)));
    let pod_spec = &spec["template"]["spec"];
    assert_eq!(
        pod_spec["containers"][0],
        json!({"name": "c", "image": "i:1", "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent"})
    );
    assert_eq!(
        (&pod_spec["restartPolicy"], &pod_spec["dnsPolicy"]),
        (&json!("Always"), &json!("ClusterFirst"))
    );
    let change = json!({"spec": {"selector": {"matchLabels": {"app": "other"}},
        "template": {"metadata": {"labels": {"app": "other"}}}}});
    let status = t.patch(&t.apps("deployments/d"), MERGE, &change).await.fails(422, "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.selector");
    assert!(status["message"].as_str().is_some_and(|text| text.ends_with("field is immutable")), "{status}");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}]}});
    let service = t.post(&t.core("services"), &service).await.expect(201);
    let spec = &service["spec"];
    assert_eq!((&spec["type"], &spec["sessionAffinity"]), (&json!("ClusterIP"), &json!("None")));
    assert_eq!(spec["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}});
    let secret = t.post(&t.core("secrets"), &secret).await.expect(201);
    assert_eq!((&secret["type"], &secret["data"]), (&json!("Opaque"), &json!({"a": "Yg=="})));
    let made = t.post(&t.core("pods"), &pod("p")).await.expect(201);
    assert_eq!(
        (&made["status"]["phase"], &made["status"]["qosClass"]),
        (&json!("Pending"), &json!("BestEffort"))
    );
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
}
