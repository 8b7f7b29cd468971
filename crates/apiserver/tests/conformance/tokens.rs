//! Tokens of service accounts.

use serde_json::{Value, json};

use crate::answer::Reply;
use crate::target::Target;

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

impl Target {
    async fn request_token(&self, account: &str, spec: &Value) -> Reply {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        self.post(&self.core(&format!("serviceaccounts/{account}/token")), &request).await
    }

    /// A token of a service account.
    pub(crate) async fn token(&self, account: &str, spec: &Value) -> String {
        let answer = self.request_token(account, spec).await.expect(201);
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    async fn token_status(&self, token: &str) -> Value {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        self.post(REVIEWS, &review).await.expect(201)["status"].clone()
    }
}

#[tokio::test]
async fn case_72_a_token_that_is_bound_to_a_pod_names_pod_and_node_and_ends_with_the_pod() {
    let t = Target::case(72).await;
    for name in ["a", "other"] {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        t.post(&t.core("serviceaccounts"), &account).await.expect(201);
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "serviceAccountName": "a", "nodeName": "nowhere", "containers": [{"name": "c", "image": "i:1"}]}});
    let pod = t.post(&t.core("pods"), &pod).await.expect(201);
    let bound =
        |kind: &str, name: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}});
    let token = t.token("a", &bound("Pod", "p")).await;
    let status = t.token_status(&token).await;
    assert_eq!(status["authenticated"], true);
    let user = &status["user"];
    let own = format!("system:serviceaccount:{}:a", t.namespace);
    assert_eq!(user["username"], own.as_str());
    let groups = json!([
        "system:serviceaccounts",
        format!("system:serviceaccounts:{}", t.namespace),
        "system:authenticated"
    ]);
    assert_eq!(user["groups"], groups);
    let extra = |key: &str| &user["extra"][format!("authentication.kubernetes.io/{key}")];
    assert_eq!(extra("pod-name"), &json!(["p"]));
    assert_eq!(extra("pod-uid"), &json!([pod["metadata"]["uid"]]));
    assert_eq!(extra("node-name"), &json!(["nowhere"]));
    assert!(extra("credential-id")[0].as_str().is_some_and(|id| id.starts_with("JTI=")), "{user}");
    t.request_token("other", &bound("Pod", "p")).await.says(
        400,
        "BadRequest",
        "cannot bind token for serviceaccount \"other\" to pod running with different serviceaccount name.",
    );
    t.request_token("a", &bound("Pod", "none")).await.says(404, "NotFound", "pods \"none\" not found");
    t.request_token("a", &bound("ConfigMap", "c")).await.says(
        400,
        "BadRequest",
        "cannot bind token to object of type /v1, Kind=ConfigMap",
    );
    let mut wrong = bound("Pod", "p");
    wrong["boundObjectRef"]["uid"] = json!("1");
    t.request_token("a", &wrong).await.fails(409, "Conflict");
    t.delete(&t.core("pods/p"), &json!({"gracePeriodSeconds": 0})).await.expect(200);
    let gone = async {
        while t.token_status(&token).await["authenticated"] == true {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    // A real server remembers for some seconds that a token was good.
    tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.expect("the token ends");
}

#[tokio::test]
async fn case_72_a_token_that_is_bound_to_a_secret_says_so_to_nobody_but_its_reader() {
    let t = Target::case(72).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}});
    t.post(&t.core("serviceaccounts"), &account).await.expect(201);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    t.post(&t.core("secrets"), &secret).await.expect(201);
    let spec = json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "s"}, "expirationSeconds": 600});
    let token = t.token("a", &spec).await;
    assert_eq!(t.token_status(&token).await["authenticated"], true);
    assert_eq!(t.token_status("a.b.c").await["authenticated"], Value::Null);
    t.request_token("a", &json!({"expirationSeconds": 599})).await.fails(422, "Invalid");
    t.request_token("none", &json!({})).await.fails(404, "NotFound");
}
