//! What roles give, and what nobody may give away.

use http::Method;
use serde_json::{Value, json};

use crate::target::{APPLY, Target, config_map};

const RBAC: &str = "rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const CLUSTER_ROLE_BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

fn role(kind: &str, name: &str, rules: &Value) -> Value {
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": {"name": name}, "rules": rules})
}

fn binding(kind: &str, name: &str, (role_kind, role): (&str, &str), user: &str) -> Value {
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": role_kind, "name": role},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}]})
}

impl Target {
    /// Gives a user these rules in the case's namespace, and waits until they count for reading `probe`.
    async fn grant(&self, user: &str, rules: &Value, probe: &str) {
        self.post(&self.rbac("roles"), &role("Role", user, rules)).await.expect(201);
        let bound = binding("RoleBinding", user, ("Role", user), user);
        self.post(&self.rbac("rolebindings"), &bound).await.expect(201);
        self.until_allowed(probe, user).await;
    }

    /// Whether a user may do something, and why.
    async fn review(&self, user: &str, attributes: &Value) -> Value {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": attributes}});
        self.post(&format!("{REVIEWS}/subjectaccessreviews"), &review).await.expect(201)["status"].clone()
    }
}

#[tokio::test]
async fn case_74_a_role_by_name_allows_lists_and_watches_of_that_name() {
    let t = Target::case(74).await;
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get", "list", "patch"]}]);
    t.grant("nam", &rules, &t.core("configmaps/one")).await;
    let one = t.core("configmaps?fieldSelector=metadata.name%3Done");
    t.as_user(Method::GET, &one, "nam", None).await.expect(200);
    let two = t.core("configmaps?fieldSelector=metadata.name%3Dtwo");
    let refused = t.as_user(Method::GET, &two, "nam", None).await.fails(403, "Forbidden");
    assert_eq!(refused["details"]["name"], "two");
    // An apply that creates needs the right to create.
    let headers = [("impersonate-user", "nam"), ("content-type", APPLY)];
    let path = t.core("configmaps/one?fieldManager=m");
    let body = config_map("one", json!({})).to_string();
    let refused = t.send(Method::PATCH, &path, &headers, body.into()).await.fails(403, "Forbidden");
    let expected = format!(
        "configmaps \"one\" is forbidden: User \"nam\" cannot create resource \"configmaps\" in API group \"\" in the \
         namespace \"{}\"",
        t.namespace
    );
    assert_eq!(refused["message"], expected);
}

#[tokio::test]
async fn case_74_a_cluster_role_counts_where_it_is_bound() {
    let t = Target::case(74).await;
    let bound = binding("RoleBinding", "b", ("ClusterRole", "view"), "vera");
    t.post(&t.rbac("rolebindings"), &bound).await.expect(201);
    t.until_allowed(&t.core("pods"), "vera").await;
    t.as_user(Method::GET, &t.core("secrets"), "vera", None).await.fails(403, "Forbidden");
    t.as_user(Method::GET, "/api/v1/pods", "vera", None).await.fails(403, "Forbidden");
    let attributes = json!({"verb": "get", "resource": "pods", "namespace": t.namespace});
    let status = t.review("vera", &attributes).await;
    let reason = format!(
        "RBAC: allowed by RoleBinding \"b/{}\" of ClusterRole \"view\" to User \"vera\"",
        t.namespace
    );
    assert_eq!(status, json!({"allowed": true, "reason": reason}));
}

#[tokio::test]
async fn case_74_cluster_roles_gather_the_rules_of_others() {
    let t = Target::case(74).await;
    let (whole, part) = (format!("{}-whole", t.namespace), format!("{}-part", t.namespace));
    let mut gathering = role("ClusterRole", &whole, &json!([]));
    gathering["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"part-of": whole}}]});
    t.post(CLUSTER_ROLES, &gathering).await.expect(201);
    let rules = json!([{"apiGroups": ["x.example.com"], "resources": ["things"], "verbs": ["get"]}]);
    let mut gathered = role("ClusterRole", &part, &rules);
    gathered["metadata"]["labels"] = json!({"part-of": whole});
    t.post(CLUSTER_ROLES, &gathered).await.expect(201);
    let path = format!("{CLUSTER_ROLES}/{whole}");
    t.until(&path, |reply| reply.json()["rules"] == rules).await;
    let managed = t.get(&path).await.expect(200)["metadata"]["managedFields"].clone();
    assert_eq!(managed[0]["manager"], "clusterrole-aggregation-controller");
    t.delete(&format!("{CLUSTER_ROLES}/{part}"), &Value::Null).await.expect(200);
    t.until(&path, |reply| reply.json()["rules"].as_array().is_none_or(Vec::is_empty)).await;
    t.delete(&path, &Value::Null).await.expect(200);
}

#[tokio::test]
async fn case_75_nobody_grants_what_they_lack() {
    let t = Target::case(75).await;
    let user = "eve";
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [RBAC], "resources": ["roles", "rolebindings"], "verbs": ["get", "list", "create", "update"]},
    ]);
    t.grant(user, &rules, &t.rbac("roles")).await;
    let create = async |resource: &str, object: &Value| {
        t.as_user(Method::POST, &t.rbac(resource), user, Some(object)).await
    };
    let fine = json!([{"apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"], "verbs": ["get"]}]);
    create("roles", &role("Role", "fine", &fine)).await.expect(201);
    let wanted = json!([
        {"apiGroups": [""], "resources": ["secrets", "pods"], "verbs": ["get", "delete"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["d"], "verbs": ["*"]},
    ]);
    let refused = create("roles", &role("Role", "more", &wanted)).await.fails(403, "Forbidden");
    let expected = "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"eve\" (groups=[\"system:authenticated\"]) is \
                    attempting to grant RBAC permissions not currently held:\n\
                    {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}\n\
                    {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}\n\
                    {APIGroups:[\"apps\"], Resources:[\"deployments\"], ResourceNames:[\"d\"], Verbs:[\"*\"]}";
    assert_eq!(refused["message"], expected);
    create("rolebindings", &binding("RoleBinding", "own", ("Role", "fine"), "mallory")).await.expect(201);
    let refused =
        create("rolebindings", &binding("RoleBinding", "all", ("ClusterRole", "cluster-admin"), user)).await;
    let message = refused.fails(403, "Forbidden")["message"].as_str().unwrap_or_default().to_owned();
    assert!(
        message.ends_with(
            "{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"
        ),
        "{message}"
    );
    create("rolebindings", &binding("RoleBinding", "none", ("Role", "none"), user))
        .await
        .fails(404, "NotFound");
    // Whoever may bind a role, may bind it without what it gives.
    let name = format!("{}-bind", t.namespace);
    let may_bind = json!([{"apiGroups": [RBAC], "resources": ["clusterroles"], "resourceNames": ["view"], "verbs": ["bind", "get"]}]);
    t.post(CLUSTER_ROLES, &role("ClusterRole", &name, &may_bind)).await.expect(201);
    let bound = binding("ClusterRoleBinding", &name, ("ClusterRole", &name), user);
    t.post(CLUSTER_ROLE_BINDINGS, &bound).await.expect(201);
    t.until_allowed(&format!("{CLUSTER_ROLES}/view"), user).await;
    create("rolebindings", &binding("RoleBinding", "view", ("ClusterRole", "view"), "victor"))
        .await
        .expect(201);
    t.delete(&format!("{CLUSTER_ROLE_BINDINGS}/{name}"), &Value::Null).await.expect(200);
    t.delete(&format!("{CLUSTER_ROLES}/{name}"), &Value::Null).await.expect(200);
}

#[tokio::test]
async fn case_75_a_binding_without_its_role_is_named_in_the_refusal() {
    let t = Target::case(75).await;
    let bound = binding("RoleBinding", "b", ("Role", "none"), "dan");
    t.post(&t.rbac("rolebindings"), &bound).await.expect(201);
    let expected = format!(
        "pods is forbidden: User \"dan\" cannot list resource \"pods\" in API group \"\" in the namespace \"{}\": RBAC: \
         role.rbac.authorization.k8s.io \"none\" not found",
        t.namespace
    );
    let path = t.core("pods");
    t.until_as(&path, "dan", |reply| reply.json()["message"] == expected).await;
}

#[tokio::test]
async fn case_75_what_a_user_may_do_is_listed() {
    let t = Target::case(75).await;
    let rules =
        json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get"]}]);
    t.grant("lea", &rules, &t.core("configmaps/one")).await;
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": t.namespace}});
    let path = format!("{REVIEWS}/selfsubjectrulesreviews");
    let status = t.as_user(Method::POST, &path, "lea", Some(&review)).await.expect(201)["status"].clone();
    assert_eq!(status["incomplete"], false);
    let listed = status["resourceRules"].as_array().cloned().unwrap_or_default();
    let own =
        json!({"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"]});
    assert!(listed.contains(&own), "{listed:?}");
    let basic = json!({"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]});
    assert!(listed.contains(&basic), "{listed:?}");
    let paths = status["nonResourceRules"].to_string();
    assert!(paths.contains("/openapi/*") && paths.contains("/healthz"), "{paths}");
    let nowhere =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {}});
    t.post(&path, &nowhere).await.says(400, "BadRequest", "no namespace on request");
}

#[tokio::test]
async fn case_73_acting_as_somebody_else_needs_the_right_to() {
    let t = Target::case(73).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}});
    t.post(&t.core("serviceaccounts"), &account).await.expect(201);
    let token = t.token("a", &json!({})).await;
    let own = format!("system:serviceaccount:{}:a", t.namespace);
    let authorization = format!("Bearer {token}");
    let anonymous = t.without_credentials().await;
    let get = async |extra: &[(&str, &str)]| {
        let mut headers = vec![("authorization", authorization.as_str())];
        headers.extend_from_slice(extra);
        let reply = anonymous.send(Method::GET, &t.core("pods"), &headers, Default::default()).await;
        reply.fails(403, "Forbidden")["message"].as_str().unwrap_or_default().to_owned()
    };
    let cannot = |what: &str, resource: &str, group: &str, place: &str| {
        format!(
            "{what} is forbidden: User {own:?} cannot impersonate resource {resource:?} in API group {group:?} {place}"
        )
    };
    assert_eq!(
        get(&[("impersonate-user", "x")]).await,
        cannot("users \"x\"", "users", "", "at the cluster scope")
    );
    let place = format!("in the namespace {:?}", t.namespace);
    let other = format!("system:serviceaccount:{}:b", t.namespace);
    assert_eq!(
        get(&[("impersonate-user", &other)]).await,
        cannot("serviceaccounts \"b\"", "serviceaccounts", "", &place)
    );
    let name = format!("{}-users", t.namespace);
    let users = json!([{"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]}]);
    t.post(CLUSTER_ROLES, &role("ClusterRole", &name, &users)).await.expect(201);
    let bound = binding("ClusterRoleBinding", &name, ("ClusterRole", &name), &own);
    t.post(CLUSTER_ROLE_BINDINGS, &bound).await.expect(201);
    let acting = format!(
        "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace {:?}",
        t.namespace
    );
    while get(&[("impersonate-user", "x")]).await != acting {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(
        get(&[("impersonate-user", "x"), ("impersonate-group", "g")]).await,
        cannot("groups \"g\"", "groups", "", "at the cluster scope")
    );
    assert_eq!(
        get(&[("impersonate-user", "x"), ("impersonate-uid", "5")]).await,
        cannot("uids.authentication.k8s.io \"5\"", "uids", "authentication.k8s.io", "at the cluster scope")
    );
    assert_eq!(
        get(&[("impersonate-user", "x"), ("impersonate-extra-scopes", "v")]).await,
        cannot(
            "userextras.authentication.k8s.io \"v\"",
            "userextras/scopes",
            "authentication.k8s.io",
            "at the cluster scope"
        )
    );
    t.delete(&format!("{CLUSTER_ROLE_BINDINGS}/{name}"), &Value::Null).await.expect(200);
    t.delete(&format!("{CLUSTER_ROLES}/{name}"), &Value::Null).await.expect(200);
}
