//! Webhooks: what they are asked, and what their answers do.
//!
//! They listen on loopback. A cluster that is somewhere else can't reach them: such cases then say so and skip, unless
//! `CONFORMANCE_WEBHOOK_HOST` names the address at which it does.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use apiserver::auth::certificate::{Authority, SubjectName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::target::{MERGE, Target, config_map};

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const HOST_VARIABLE: &str = "CONFORMANCE_WEBHOOK_HOST";

type Decide = Arc<dyn Fn(&Value) -> Value + Send + Sync>;

/// A webhook, and what it was asked.
struct Hook {
    url: String,
    ca_bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
    task: AbortHandle,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hook {
    /// Answers each request by `decide`, whose result is the response but for the uid.
    async fn start(host: IpAddr, decide: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let authority = Authority::generate().expect("an authority");
        let (certificate, key) = authority.issue_server(&[SubjectName::Ip(host)]).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate with its key");
        let listener = tokio::net::TcpListener::bind((host, 0)).await.expect("a port");
        let url = format!("https://{}/hook", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (acceptor, decide, log): (_, Decide, _) =
            (tokio_rustls::TlsAcceptor::from(Arc::new(tls)), Arc::new(decide), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, decide, log) = (acceptor.clone(), Arc::clone(&decide), Arc::clone(&log));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        let (decide, log) = (Arc::clone(&decide), Arc::clone(&log));
                        async move {
                            let body = request.into_body().collect().await?.to_bytes();
                            let review: Value = serde_json::from_slice(&body).unwrap_or_default();
                            let mut response = decide(&review["request"]);
                            log.lock().expect("nobody panicked").push(review.clone());
                            if response == json!("never") {
                                std::future::pending::<()>().await;
                            }
                            if response.get("uid").is_none() {
                                response["uid"] = review["request"]["uid"].clone();
                            }
                            let answer = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
                            let mut answer = Response::new(Full::new(Bytes::from(answer.to_string())));
                            answer
                                .headers_mut()
                                .insert("content-type", "application/json".parse().expect("a header"));
                            Ok::<_, hyper::Error>(answer)
                        }
                    });
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let ca_bundle = STANDARD.encode(authority.certificate_pem());
        Self { url, ca_bundle, asked, task: task.abort_handle() }
    }

    /// The requests since the last look, but for probes.
    fn asked(&self) -> Vec<Value> {
        let asked = std::mem::take(&mut *self.asked.lock().expect("nobody panicked"));
        let requests = asked.into_iter().map(|review| {
            assert_eq!(
                (&review["kind"], &review["apiVersion"]),
                (&json!("AdmissionReview"), &json!("admission.k8s.io/v1"))
            );
            review["request"].clone()
        });
        requests.filter(|request| request["object"]["metadata"]["name"] != "probe").collect()
    }

    /// A configuration's webhook that is about config maps.
    fn config(&self, name: &str) -> Value {
        json!({"name": name, "clientConfig": {"url": self.url, "caBundle": self.ca_bundle},
            "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}]})
    }
}

fn allowed() -> Value {
    json!({"allowed": true})
}

fn patch(operations: &Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())})
}

impl Target {
    /// Where webhooks of a case listen.
    fn webhook_host(&self) -> Option<IpAddr> {
        match std::env::var(HOST_VARIABLE) {
            Ok(host) => Some(host.parse().expect("an address")),
            Err(_) if self.is_own_server() => Some(IpAddr::from([127, 0, 0, 1])),
            Err(_) => {
                println!(
                    "SKIP: the server can't reach webhooks of this test; {HOST_VARIABLE} says where it can"
                );
                None
            }
        }
    }

    /// Configures webhooks for the case's namespace and waits until they are asked.
    async fn configure(&self, resource: &str, hooks: &[Value], probe: &Hook) {
        let kind = if resource.starts_with("mutating") {
            "MutatingWebhookConfiguration"
        } else {
            "ValidatingWebhookConfiguration"
        };
        let mut hooks = hooks.to_vec();
        for hook in &mut hooks {
            hook["namespaceSelector"] =
                json!({"matchLabels": {"kubernetes.io/metadata.name": self.namespace}});
        }
        let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": self.namespace}, "webhooks": hooks});
        self.post(&format!("{ADMISSION}/{resource}"), &configuration).await.expect(201);
        let path = self.core("configmaps?dryRun=All");
        let body = config_map("probe", json!({"probe": "yes"}));
        self.until_post(&path, &body, |_| !probe.asked.lock().expect("nobody panicked").is_empty()).await;
        probe.asked();
    }

    async fn unconfigure(&self, resource: &str) {
        self.delete(&format!("{ADMISSION}/{resource}/{}", self.namespace), &Value::Null).await.expect(200);
    }
}

const MUTATING: &str = "mutatingwebhookconfigurations";
const VALIDATING: &str = "validatingwebhookconfigurations";

#[tokio::test]
async fn case_67_webhooks_are_asked_about_each_kind_of_write() {
    let t = Target::case(67).await;
    let Some(host) = t.webhook_host() else { return };
    let hook = Hook::start(host, |_| allowed()).await;
    t.configure(VALIDATING, &[hook.config("v.example.com")], &hook).await;
    let path = t.core("configmaps/a");
    t.post(&t.core("configmaps?fieldManager=m"), &config_map("a", json!({"k": "1"}))).await.expect(201);
    let [created] = hook.asked().try_into().expect("one question");
    assert_eq!(created["operation"], "CREATE");
    assert_eq!(created["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(created["resource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!(
        (&created["requestKind"], &created["requestResource"]),
        (&created["kind"], &created["resource"])
    );
    assert_eq!((&created["name"], &created["namespace"]), (&json!("a"), &json!(t.namespace)));
    assert_eq!(created["object"]["data"], json!({"k": "1"}));
    assert_eq!(created["object"]["kind"], "ConfigMap");
    assert_eq!((&created["oldObject"], &created["dryRun"]), (&Value::Null, &json!(false)));
    assert!(created["object"]["metadata"]["uid"].is_string(), "validating webhooks see the uid");
    assert_eq!(created["options"]["kind"], "CreateOptions");
    assert_eq!(created["options"]["fieldManager"], "m");
    assert!(created["userInfo"]["username"].is_string() && created["userInfo"]["groups"].is_array());
    t.patch(&path, MERGE, &json!({"data": {"k": "2"}})).await.expect(200);
    let [patched] = hook.asked().try_into().expect("one question");
    assert_eq!(patched["operation"], "UPDATE");
    assert_eq!(
        (&patched["object"]["data"]["k"], &patched["oldObject"]["data"]["k"]),
        (&json!("2"), &json!("1"))
    );
    assert_eq!(patched["options"]["kind"], "UpdateOptions");
    t.apply(&t.core("configmaps/b"), "m", &config_map("b", json!({}))).await.expect(201);
    let [applied] = hook.asked().try_into().expect("one question");
    assert_eq!((&applied["operation"], &applied["name"]), (&json!("CREATE"), &json!("b")));
    assert_eq!(applied["options"]["kind"], "CreateOptions");
    t.delete(&path, &Value::Null).await.expect(200);
    let [deleted] = hook.asked().try_into().expect("one question");
    assert_eq!((&deleted["operation"], &deleted["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!(deleted["oldObject"]["data"]["k"], "2");
    assert_eq!(deleted["options"]["kind"], "DeleteOptions");
    t.post(&t.core("configmaps"), &config_map("c", json!({}))).await.expect(201);
    hook.asked();
    t.delete(&t.core("configmaps?fieldSelector=metadata.name%21%3Dkube-root-ca.crt"), &Value::Null)
        .await
        .expect(200);
    assert_eq!(hook.asked().len(), 2, "once for each object of a collection");
    t.unconfigure(VALIDATING).await;
}

#[tokio::test]
async fn case_68_patches_of_mutating_webhooks_are_stored_in_order() {
    let t = Target::case(68).await;
    let Some(host) = t.webhook_host() else { return };
    let first = Hook::start(host, |request| {
        let again = request["object"]["data"]["second"].is_string();
        let seen = if again { "saw the second" } else { "was first" };
        patch(&json!([{"op": "add", "path": "/data/first", "value": seen}]))
    })
    .await;
    let second = Hook::start(host, |request| {
        let seen = request["object"]["data"]["first"].as_str().unwrap_or("nothing").to_owned();
        patch(&json!([{"op": "add", "path": "/data/second", "value": seen},
            {"op": "add", "path": "/metadata/labels", "value": {"by": "webhook"}}]))
    })
    .await;
    let mut again = first.config("a.example.com");
    again["reinvocationPolicy"] = json!("IfNeeded");
    t.configure(MUTATING, &[again, second.config("b.example.com")], &second).await;
    first.asked();
    let created = t.post(&t.core("configmaps"), &config_map("a", json!({"k": "1"}))).await.expect(201);
    let expected = json!({"k": "1", "first": "saw the second", "second": "was first"});
    assert_eq!(created["data"], expected);
    assert_eq!(created["metadata"]["labels"]["by"], "webhook");
    assert_eq!(t.get(&t.core("configmaps/a")).await.expect(200)["data"], expected);
    let asked = first.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0]["object"]["metadata"]["uid"], Value::Null, "mutating webhooks see no uid yet");
    assert_eq!(second.asked().len(), 1);
    t.unconfigure(MUTATING).await;
}

#[tokio::test]
async fn case_69_denials_and_failures_are_told_in_these_words() {
    let t = Target::case(69).await;
    let Some(host) = t.webhook_host() else { return };
    let hook = Hook::start(host, |request| match request["object"]["data"]["want"].as_str().unwrap_or_default() {
        "message" => json!({"allowed": false, "status": {"message": "not today", "code": 403, "reason": "Forbidden"}}),
        "reason" => json!({"allowed": false, "status": {"reason": "Gone"}}),
        "nothing" => json!({"allowed": false}),
        "warning" => json!({"allowed": true, "warnings": ["look out"]}),
        "uid" => json!({"allowed": true, "uid": "other"}),
        "late" => json!("never"),
        _ => allowed(),
    })
    .await;
    let name = "v.example.com";
    let mut config = hook.config(name);
    config["timeoutSeconds"] = json!(1);
    t.configure(VALIDATING, &[config], &hook).await;
    let post =
        async |want: &str| t.post(&t.core("configmaps"), &config_map(want, json!({"want": want}))).await;
    let denied = format!("admission webhook {name:?} denied the request");
    post("message").await.says(403, "Forbidden", &format!("{denied}: not today"));
    post("reason").await.says(400, "Gone", &format!("{denied}: Gone"));
    post("nothing").await.says(400, "", &format!("{denied} without explanation"));
    let warned = post("warning").await;
    warned.expect(201);
    assert_eq!(warned.header("warning"), "299 - \"look out\"");
    let failed = post("uid").await.fails(500, "InternalError");
    let start = format!(
        "Internal error occurred: failed calling webhook {name:?}: received invalid webhook response: expected response.uid="
    );
    assert!(failed["message"].as_str().is_some_and(|message| message.starts_with(&start)), "{failed}");
    let late = post("late").await.fails(500, "InternalError");
    let expected = format!(
        "Internal error occurred: failed calling webhook {name:?}: failed to call webhook: Post \"{}?timeout=1s\": context \
         deadline exceeded",
        hook.url
    );
    assert_eq!(late["message"], expected);
    t.unconfigure(VALIDATING).await;
}

#[tokio::test]
async fn case_69_what_fails_is_refused_or_ignored_as_the_policy_says() {
    let t = Target::case(69).await;
    let Some(host) = t.webhook_host() else { return };
    let hook = Hook::start(host, |_| allowed()).await;
    let mut untrusted = hook.config("wrong-ca.example.com");
    untrusted["clientConfig"]["caBundle"] =
        json!(STANDARD.encode(Authority::generate().expect("an authority").certificate_pem()));
    untrusted["objectSelector"] = json!({"matchLabels": {"ca": "wrong"}});
    let mut ignored = untrusted.clone();
    ignored["name"] = json!("ignored.example.com");
    ignored["failurePolicy"] = json!("Ignore");
    ignored["objectSelector"] = json!({"matchLabels": {"ca": "ignored"}});
    let mut refused = hook.config("nobody.example.com");
    refused["clientConfig"]["url"] = json!(format!("https://{host}:1/"));
    refused["matchConditions"] =
        json!([{"name": "only", "expression": "has(object.data) && 'nobody' in object.data"}]);
    let mut missing = hook.config("service.example.com");
    missing["clientConfig"] = json!({"caBundle": hook.ca_bundle, "service": {"namespace": t.namespace, "name": "none", "path": "/x"}});
    missing["objectSelector"] = json!({"matchLabels": {"service": "none"}});
    t.configure(VALIDATING, &[hook.config("fine.example.com"), untrusted, ignored, refused, missing], &hook)
        .await;
    let post = async |name: &str, labels: Value, data: Value| {
        let mut object = config_map(name, data);
        object["metadata"]["labels"] = labels;
        t.post(&t.core("configmaps"), &object).await
    };
    let failed = |name: &str, url: &str| {
        format!(
            "Internal error occurred: failed calling webhook \"{name}.example.com\": failed to call webhook: Post \"{url}timeout=5s\": "
        )
    };
    let status = post("a", json!({"ca": "wrong"}), json!({})).await.fails(500, "InternalError");
    let start = failed("wrong-ca", &format!("{}?", hook.url))
        + "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    assert!(status["message"].as_str().is_some_and(|message| message.starts_with(&start)), "{status}");
    post("b", json!({"ca": "ignored"}), json!({})).await.expect(201);
    let status = post("c", json!({}), json!({"nobody": "1"})).await.fails(500, "InternalError");
    let expected = failed("nobody", &format!("https://{host}:1/?"))
        + &format!("dial tcp {host}:1: connect: connection refused");
    assert_eq!(status["message"], expected);
    let status = post("d", json!({"service": "none"}), json!({})).await.fails(500, "InternalError");
    let url = format!("https://none.{}.svc:443/x?", t.namespace);
    assert_eq!(status["message"], failed("service", &url) + "service \"none\" not found");
    post("e", json!({}), json!({})).await.expect(201);
    t.unconfigure(VALIDATING).await;
}

#[tokio::test]
async fn case_70_rules_choose_by_subresource_and_operation() {
    let t = Target::case(70).await;
    let Some(host) = t.webhook_host() else { return };
    let hook = Hook::start(host, |_| allowed()).await;
    let mut config = hook.config("v.example.com");
    config["rules"] = json!([
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]},
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["pods/status"]},
        {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["*/scale"]},
    ]);
    t.configure(VALIDATING, &[config], &hook).await;
    t.post(&t.core("configmaps"), &config_map("a", json!({}))).await.expect(201);
    t.patch(&t.core("configmaps/a"), MERGE, &json!({"data": {"k": "2"}})).await.expect(200);
    assert_eq!(hook.asked().len(), 1, "updates of config maps are not its concern");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "nodeName": "nowhere", "containers": [{"name": "c", "image": "i:1"}]}});
    t.post(&t.core("pods"), &pod).await.expect(201);
    t.patch(&t.core("pods/p/status"), MERGE, &json!({"status": {"message": "m"}})).await.expect(200);
    let [status] = hook.asked().try_into().expect("one question");
    assert_eq!(
        (&status["subResource"], &status["object"]["status"]["message"]),
        (&json!("status"), &json!("m"))
    );
    t.post(&t.apps("deployments"), &crate::target::deployment("d")).await.expect(201);
    t.patch(
        &t.apps("deployments/d/scale"),
        MERGE,
        &json!({"spec": {"replicas": 0}, "metadata": {"labels": {}}}),
    )
    .await
    .expect(200);
    let asked = hook.asked();
    assert_eq!(asked[0]["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(asked[0]["subResource"], "scale");
    t.unconfigure(VALIDATING).await;
}

#[tokio::test]
async fn case_71_a_webhook_with_side_effects_refuses_dry_runs() {
    let t = Target::case(71).await;
    let Some(host) = t.webhook_host() else { return };
    let hook = Hook::start(host, |_| allowed()).await;
    let config = hook.config("v.example.com");
    t.configure(VALIDATING, &[config], &hook).await;
    let headers = [("content-type", "application/json")];
    let body = config_map("a", json!({})).to_string();
    t.send(Method::POST, &t.core("configmaps?dryRun=All"), &headers, body.into()).await.expect(201);
    let [asked] = hook.asked().try_into().expect("one question");
    assert_eq!(asked["dryRun"], true);
    assert_eq!(asked["options"]["dryRun"], json!(["All"]));
    t.get(&t.core("configmaps/a")).await.fails(404, "NotFound");
    t.unconfigure(VALIDATING).await;
}
