//! The server under test and a client of it.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apiserver::server::{ApiServer, ApiServerHandle, ServerConfig};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::answer::{Reply, Watch};

pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before looking again.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The cluster to test instead of this crate's server.
const VARIABLE: &str = "CONFORMANCE_KUBECONFIG";

/// A server, and a namespace and an API group that belong to one case.
pub(crate) struct Target {
    client: Client,
    pub(crate) namespace: String,
    pub(crate) group: String,
    /// Kept so that the server runs as long as the case.
    server: Option<ApiServerHandle>,
    config: Config,
}

impl Target {
    /// For the case of this number.
    pub(crate) async fn case(number: u32) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // The test binary has more than one TLS provider to choose from.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (kubeconfig, server) = match std::env::var(VARIABLE) {
            Ok(path) => (Kubeconfig::read_from(path).expect("a readable kubeconfig"), None),
            Err(_) => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
                let url = format!("https://{}", listener.local_addr().expect("an address"));
                let config = ServerConfig { listeners: vec![listener], ..ServerConfig::default() };
                let server = ApiServer::start(config).await.expect("the server starts");
                let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig(&url)).expect("a kubeconfig");
                (kubeconfig, Some(server))
            }
        };
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let mut config = config.expect("a usable kubeconfig");
        config.default_retry = false;
        let client = Client::try_from(config.clone()).expect("a client");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let unique = format!("c{number}-{now:x}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let group = format!("{unique}.conformance.example.com");
        let target = Self { client, namespace: unique, group, server, config };
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": target.namespace}});
        target.post("/api/v1/namespaces", &namespace).await.expect(201);
        // A cluster's controllers make these some moments later; no case is to meet them half way.
        for made in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
            target.until(&target.core(made), |reply| reply.status == 200).await;
        }
        target
    }

    /// Whether this crate's server is tested.
    pub(crate) fn is_own_server(&self) -> bool {
        self.server.is_some()
    }

    /// The same server to somebody who shows nothing.
    pub(crate) async fn without_credentials(&self) -> Self {
        let mut config = self.config.clone();
        config.auth_info = AuthInfo::default();
        Self {
            client: Client::try_from(config.clone()).expect("a client"),
            config,
            namespace: self.namespace.clone(),
            group: self.group.clone(),
            server: self.server.clone(),
        }
    }

    /// The path of a core resource in the case's namespace.
    pub(crate) fn core(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// The path of an `apps/v1` resource in the case's namespace.
    pub(crate) fn apps(&self, rest: &str) -> String {
        format!("/apis/apps/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// The path of a resource of the case's own group.
    pub(crate) fn custom(&self, rest: &str) -> String {
        format!("/apis/{}/v1/namespaces/{}/{rest}", self.group, self.namespace)
    }

    /// Defines `things` in the case's group with this schema of `spec`, and waits until they are served.
    pub(crate) async fn define(&self, spec: Value) {
        self.post(DEFINITIONS, &self.definition(spec)).await.expect(201);
        self.served("things").await;
    }

    /// A definition of `things` with this schema of `spec`.
    pub(crate) fn definition(&self, spec: Value) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("things.{}", self.group)},
            "spec": {
                "group": self.group, "scope": "Namespaced",
                "names": {"plural": "things", "singular": "thing", "kind": "Thing", "shortNames": ["th"]},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "subresources": {"status": {}, "scale": {
                        "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                    "selectableFields": [{"jsonPath": ".spec.color"}],
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                        "spec": spec,
                        "status": {"type": "object", "properties": {
                            "replicas": {"type": "integer"}, "phase": {"type": "string"}}}}}}}],
            },
        })
    }

    /// Waits until a resource of the case's group answers.
    pub(crate) async fn served(&self, plural: &str) {
        let path = self.custom(plural);
        self.until(&path, |reply| reply.status == StatusCode::OK).await;
    }

    /// Waits until a GET is answered so.
    pub(crate) async fn until(&self, path: &str, is_so: impl Fn(&Reply) -> bool) {
        let answers = async {
            while !is_so(&self.get(path).await) {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        timeout(PATIENCE, answers).await.unwrap_or_else(|_| panic!("{path} does not become so in time"));
    }

    /// Waits until another user may GET a path, as a real server learns of roles by a watch.
    pub(crate) async fn until_allowed(&self, path: &str, user: &str) {
        self.until_as(path, user, |reply| reply.status != StatusCode::FORBIDDEN).await;
    }

    /// Waits until a GET by another user is answered so.
    pub(crate) async fn until_as(&self, path: &str, user: &str, is_so: impl Fn(&Reply) -> bool) {
        let headers = [("impersonate-user", user)];
        let answers = async {
            while !is_so(&self.send(Method::GET, path, &headers, Bytes::new()).await) {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        timeout(PATIENCE, answers).await.unwrap_or_else(|_| panic!("{path} is not so for {user} in time"));
    }

    /// Waits until a POST is answered so.
    pub(crate) async fn until_post(&self, path: &str, body: &Value, is_so: impl Fn(&Reply) -> bool) {
        let answers = async {
            while !is_so(&self.post(path, body).await) {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        timeout(PATIENCE, answers).await.unwrap_or_else(|_| panic!("{path} does not become so in time"));
    }

    /// A thing of the case's group.
    pub(crate) fn thing(&self, name: &str, spec: Value) -> Value {
        json!({"apiVersion": format!("{}/v1", self.group), "kind": "Thing", "metadata": {"name": name}, "spec": spec})
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).expect("a request");
        let exchange = async {
            let response = self.client.send(request).await.expect("an answer");
            let (parts, body) = response.into_parts();
            let body = body.collect().await.expect("a whole body").to_bytes();
            Reply { status: parts.status, headers: parts.headers, body }
        };
        timeout(PATIENCE, exchange).await.expect("an answer in time")
    }

    async fn with(&self, method: Method, path: &str, content_type: &str, body: &Value) -> Reply {
        self.send(method, path, &[("content-type", content_type)], body.to_string().into()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.get_as(path, "application/json").await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Reply {
        self.send(Method::GET, path, &[("accept", accept)], Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.with(Method::POST, path, "application/json", body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.with(Method::PUT, path, "application/json", body).await
    }

    pub(crate) async fn patch(&self, path: &str, content_type: &str, body: &Value) -> Reply {
        self.with(Method::PATCH, path, content_type, body).await
    }

    /// Applies as a manager.
    pub(crate) async fn apply(&self, path: &str, manager: &str, config: &Value) -> Reply {
        let separator = if path.contains('?') { '&' } else { '?' };
        self.patch(&format!("{path}{separator}fieldManager={manager}"), APPLY, config).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Reply {
        self.with(Method::DELETE, path, "application/json", options).await
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path_and_query: &str) -> Watch<Body> {
        let request = Request::get(path_and_query).header("accept", "application/json");
        let request = request.body(Body::empty()).expect("a request");
        let response = timeout(PATIENCE, self.client.send(request)).await.expect("an answer in time");
        let response = response.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        Watch::new(response.into_body())
    }
}

/// The definitions of custom kinds.
pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A config map.
pub(crate) fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// A deployment without replicas.
pub(crate) fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}]}}},
    })
}

/// The resource version of an object or list, as it is.
#[track_caller]
pub(crate) fn version(value: &Value) -> &str {
    value["metadata"]["resourceVersion"].as_str().filter(|text| !text.is_empty()).expect("a resource version")
}
