//! Who may do what.

use http::Method;
use serde_json::{Value, json};

use crate::answer::Reply;
use crate::target::Target;

impl Target {
    /// A request as another user.
    pub(crate) async fn as_user(
        &self,
        method: Method,
        path: &str,
        user: &str,
        body: Option<&Value>,
    ) -> Reply {
        let headers = [("impersonate-user", user), ("content-type", "application/json")];
        let body = body.map_or_else(Default::default, |body| body.to_string().into());
        self.send(method, path, &headers, body).await
    }

    /// The path of a resource of roles in the case's namespace.
    pub(crate) fn rbac(&self, rest: &str) -> String {
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/{rest}", self.namespace)
    }
}

#[tokio::test]
async fn case_73_whoami() {
    let t = Target::case(73).await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let own = t.post(path, &review).await.expect(201);
    let groups = own["status"]["userInfo"]["groups"].as_array().cloned().unwrap_or_default();
    assert!(groups.contains(&json!("system:authenticated")), "{own}");
    let other = t.as_user(Method::POST, path, "alice", Some(&review)).await.expect(201);
    assert_eq!(other["status"]["userInfo"]["username"], "alice");
}

#[tokio::test]
async fn case_74_roles_allow_by_verb_name_and_subresource() {
    let t = Target::case(74).await;
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": [
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get", "update"]}]});
    t.post(&t.rbac("roles"), &role).await.expect(201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}]});
    t.post(&t.rbac("rolebindings"), &binding).await.expect(201);
    let pods = t.core("pods");
    t.until_allowed(&pods, "alice").await;
    t.as_user(Method::GET, &t.core("pods/none"), "alice", None).await.fails(404, "NotFound");
    t.as_user(Method::GET, &t.core("configmaps/one"), "alice", None).await.fails(404, "NotFound");
    t.as_user(Method::GET, &t.core("configmaps/two"), "alice", None).await.fails(403, "Forbidden");
    t.as_user(Method::GET, &t.core("configmaps"), "alice", None).await.fails(403, "Forbidden");
    t.as_user(Method::DELETE, &t.core("pods/none"), "alice", None).await.fails(403, "Forbidden");
    t.as_user(Method::GET, &pods, "bob", None).await.fails(403, "Forbidden");
    let mut other = binding;
    other["roleRef"]["name"] = json!("other");
    t.put(&t.rbac("rolebindings/b"), &other).await.fails(422, "Invalid");
}

#[tokio::test]
async fn case_75_what_is_forbidden_is_told_in_these_words() {
    let t = Target::case(75).await;
    let start = "User \"alice\" cannot";
    for (method, path, message) in [
        (
            Method::GET,
            t.core("pods/p"),
            format!(
                "pods \"p\" is forbidden: {start} get resource \"pods\" in API group \"\" in the namespace \"{}\"",
                t.namespace
            ),
        ),
        (
            Method::GET,
            t.core("pods"),
            format!(
                "pods is forbidden: {start} list resource \"pods\" in API group \"\" in the namespace \"{}\"",
                t.namespace
            ),
        ),
        (
            Method::GET,
            "/api/v1/nodes".to_owned(),
            format!(
                "nodes is forbidden: {start} list resource \"nodes\" in API group \"\" at the cluster scope"
            ),
        ),
        (Method::GET, "/metrics".to_owned(), format!("forbidden: {start} get path \"/metrics\"")),
    ] {
        t.as_user(method, &path, "alice", None).await.says(403, "Forbidden", &message);
    }
}
