//! Policies in CEL.

use http::Method;
use serde_json::{Value, json};

use crate::answer::Reply;
use crate::target::{MERGE, Target, config_map};

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

impl Target {
    /// Puts a policy on config maps of the case's namespace in force, named as the namespace; `probe` is what it denies.
    async fn police(&self, spec: &Value, binding: &Value, probe: &Value) {
        self.police_quietly(spec, binding).await;
        let path = self.core("configmaps?dryRun=All");
        let counts = |reply: &Reply| reply.status.is_client_error() || reply.headers.contains_key("warning");
        self.until_post(&path, probe, counts).await;
    }

    /// The same, without waiting for it to count.
    async fn police_quietly(&self, spec: &Value, binding: &Value) {
        let name = self.namespace.as_str();
        let mut spec = spec.clone();
        spec["matchConstraints"] = json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
            "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}]});
        let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name}, "spec": spec});
        self.post(&format!("{ADMISSION}/validatingadmissionpolicies"), &policy).await.expect(201);
        let mut spec = json!({"policyName": name, "validationActions": ["Deny"]});
        for (key, value) in binding.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name}, "spec": spec});
        self.post(&format!("{ADMISSION}/validatingadmissionpolicybindings"), &binding).await.expect(201);
    }

    async fn unpolice(&self) {
        for resource in ["validatingadmissionpolicybindings", "validatingadmissionpolicies"] {
            self.delete(&format!("{ADMISSION}/{resource}/{}", self.namespace), &Value::Null)
                .await
                .expect(200);
        }
    }

    /// The text of a refusal by the case's policy.
    fn denied(&self, name: &str, why: &str) -> String {
        let own = &self.namespace;
        format!(
            "configmaps {name:?} is forbidden: ValidatingAdmissionPolicy '{own}' with binding '{own}' denied request: {why}"
        )
    }
}

#[tokio::test]
async fn case_69_a_policy_denies_in_these_words() {
    let t = Target::case(69).await;
    let spec = json!({
        "matchConditions": [{"name": "not-free", "expression": "!request.name.startsWith('free')"}],
        "variables": [{"name": "data", "expression": "request.operation == 'DELETE' || !has(object.data) ? {} : object.data"}],
        "validations": [
            {"expression": "!('bad' in variables.data)", "message": "no bad"},
            {"expression": "!('worse' in variables.data)", "messageExpression": "'worse is ' + variables.data.worse", "reason": "Forbidden"},
            {"expression": "request.operation != 'DELETE' || oldObject.metadata.name != 'keep'"},
            {"expression": "request.operation != 'UPDATE' || object.data.n == oldObject.data.n", "message": "n stays"},
        ],
    });
    t.police(&spec, &json!({}), &config_map("probe", json!({"bad": "1"}))).await;
    let path = t.core("configmaps");
    let refused = t.post(&path, &config_map("a", json!({"bad": "1"}))).await;
    let refused = refused.says(422, "Invalid", &t.denied("a", "no bad"));
    let why = t.denied("a", "no bad").split_once(": ").map(|(_, why)| why.to_owned());
    assert_eq!(refused["details"]["causes"], json!([{"message": why}]));
    t.post(&path, &config_map("a", json!({"worse": "x"}))).await.says(
        403,
        "Forbidden",
        &t.denied("a", "worse is x"),
    );
    t.post(&path, &config_map("free", json!({"bad": "1"}))).await.expect(201);
    t.post(&path, &config_map("keep", json!({"n": "1"}))).await.expect(201);
    let change = t.patch(&t.core("configmaps/keep"), MERGE, &json!({"data": {"n": "2"}})).await;
    change.says(422, "Invalid", &t.denied("keep", "n stays"));
    t.patch(&t.core("configmaps/keep"), MERGE, &json!({"data": {"m": "2"}})).await.expect(200);
    let kept = "failed expression: request.operation != 'DELETE' || oldObject.metadata.name != 'keep'";
    t.delete(&t.core("configmaps/keep"), &Value::Null).await.says(422, "Invalid", &t.denied("keep", kept));
    let applied = t.apply(&t.core("configmaps/b"), "m", &config_map("b", json!({"bad": "1"}))).await;
    applied.says(422, "Invalid", &t.denied("b", "no bad"));
    t.unpolice().await;
}

#[tokio::test]
async fn case_69_a_policy_warns_where_its_binding_says_so() {
    let t = Target::case(69).await;
    let spec =
        json!({"validations": [{"expression": "object.metadata.name == 'fine'", "message": "not fine"}]});
    t.police(&spec, &json!({"validationActions": ["Warn", "Audit"]}), &config_map("probe", json!({}))).await;
    let warned = t.post(&t.core("configmaps"), &config_map("a", json!({}))).await;
    warned.expect(201);
    let own = &t.namespace;
    let expected = format!(
        "299 - \"Validation failed for ValidatingAdmissionPolicy '{own}' with binding '{own}': not fine\""
    );
    assert_eq!(warned.header("warning"), expected);
    t.unpolice().await;
}

#[tokio::test]
async fn case_69_a_policy_takes_its_parameters_from_an_object() {
    let t = Target::case(69).await;
    // Of a kind of its own: a real server that has once forgotten a built-in kind of parameters finds none any more.
    t.define(
        json!({"type": "object", "properties": {"color": {"type": "string"}, "max": {"type": "integer"}}}),
    )
    .await;
    t.post(&t.custom("things"), &t.thing("limits", json!({"max": 3}))).await.expect(201);
    let spec = json!({
        "paramKind": {"apiVersion": format!("{}/v1", t.group), "kind": "Thing"},
        "validations": [{"expression": "request.operation == 'DELETE' || size(object.data) <= params.spec.max",
            "messageExpression": "'at most ' + string(params.spec.max)"}]});
    let binding =
        json!({"paramRef": {"name": "limits", "namespace": t.namespace, "parameterNotFoundAction": "Deny"}});
    let four = json!({"a": "", "b": "", "c": "", "d": ""});
    t.police(&spec, &binding, &config_map("probe", four.clone())).await;
    let path = t.core("configmaps");
    // A real server learns of the parameters later than of the policy.
    let few = config_map("few", json!({"a": ""}));
    t.until_post(&t.core("configmaps?dryRun=All"), &few, |reply| reply.status == http::StatusCode::CREATED)
        .await;
    t.post(&path, &few).await.expect(201);
    t.post(&path, &config_map("many", four)).await.says(422, "Invalid", &t.denied("many", "at most 3"));
    t.unpolice().await;
}

#[tokio::test]
async fn case_69_an_agent_may_write_only_what_belongs_to_its_node() {
    let t = Target::case(69).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent"}});
    t.post(&t.core("serviceaccounts"), &account).await.expect(201);
    let user = format!("system:serviceaccount:{}:agent", t.namespace);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "agent"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": t.namespace}]});
    t.post(&t.rbac("rolebindings"), &role).await.expect(201);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "serviceAccountName": "agent", "nodeName": "n1", "containers": [{"name": "c", "image": "i:1"}]}});
    t.post(&t.core("pods"), &pod).await.expect(201);
    let token =
        t.token("agent", &json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}})).await;
    let key = "authentication.kubernetes.io/node-name";
    let spec = json!({
        "matchConditions": [{"name": "agent", "expression": format!("request.userInfo.username == '{user}'")}],
        "variables": [
            {"name": "known", "expression": format!("has(request.userInfo.extra) && '{key}' in request.userInfo.extra")},
            {"name": "node", "expression": format!("variables.known ? request.userInfo.extra['{key}'][0] : ''")}],
        "validations": [
            {"expression": "variables.known", "message": "this token names no node"},
            {"expression": "object.data.node == variables.node",
                "messageExpression": "'belongs to ' + object.data.node + ' and not to ' + variables.node"}]});
    // In force once a token of the same user without a node is refused; the administrator is not its concern.
    let other = t.token("agent", &json!({})).await;
    let nobody = t.without_credentials().await;
    let post = async |token: &str, name: &str, node: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        let body = config_map(name, json!({"node": node})).to_string();
        nobody.send(Method::POST, &t.core("configmaps"), &headers, body.into()).await
    };
    t.police_quietly(&spec, &json!({})).await;
    for round in 0.. {
        let refused = post(&other, &format!("probe-{round}"), "n1").await;
        if refused.status.as_u16() == 422 {
            refused.says(422, "Invalid", &t.denied(&format!("probe-{round}"), "this token names no node"));
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    post(&token, "own", "n1").await.expect(201);
    post(&token, "foreign", "n2").await.says(
        422,
        "Invalid",
        &t.denied("foreign", "belongs to n2 and not to n1"),
    );
    t.post(&t.core("configmaps"), &config_map("admin", json!({"node": "n2"}))).await.expect(201);
    t.unpolice().await;
}

#[tokio::test]
async fn case_69_policies_are_defaulted_and_checked() {
    let t = Target::case(69).await;
    let policies = format!("{ADMISSION}/validatingadmissionpolicies?dryRun=All");
    let policy = |spec: Value| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": t.namespace}, "spec": spec})
    };
    let constraints = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]});
    let fine = policy(json!({"matchConstraints": constraints, "validations": [{"expression": "true"}]}));
    let stored = t.post(&policies, &fine).await.expect(201);
    assert_eq!(stored["spec"]["failurePolicy"], "Fail");
    let constraints_ = &stored["spec"]["matchConstraints"];
    assert_eq!(
        (&constraints_["matchPolicy"], &constraints_["namespaceSelector"]),
        (&json!("Equivalent"), &json!({}))
    );
    assert_eq!(constraints_["resourceRules"][0]["scope"], "*");
    let causes = |status: &Value| -> Vec<String> {
        let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
        causes.iter().map(|cause| cause["field"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let empty = t.post(&policies, &policy(json!({}))).await.fails(422, "Invalid");
    assert_eq!(causes(&empty), ["spec.matchConstraints", "spec.validations", "spec.auditAnnotations"]);
    let broken =
        policy(json!({"matchConstraints": constraints, "validations": [{"expression": "object.a ==== 1"}]}));
    let broken = t.post(&policies, &broken).await.fails(422, "Invalid");
    assert_eq!(causes(&broken), ["spec.validations[0].expression"]);
    assert!(
        broken["message"].as_str().is_some_and(|message| message.contains("compilation failed: ")),
        "{broken}"
    );
    let bindings = format!("{ADMISSION}/validatingadmissionpolicybindings?dryRun=All");
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": t.namespace}, "spec": {}});
    let empty = t.post(&bindings, &binding).await.fails(422, "Invalid");
    assert_eq!(causes(&empty), ["spec.policyName", "spec.validationActions"]);
}
