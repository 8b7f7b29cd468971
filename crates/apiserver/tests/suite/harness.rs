//! A server on loopback and a client that shows every byte.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use apiserver::auth::User;
use apiserver::auth::certificate::CertificateAndKey;
use apiserver::server::{ApiServer, ApiServerHandle, ServerConfig};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::answer::{Reply, Watch};
use crate::streams::EchoPods;

/// Nothing here may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running server.
pub(crate) struct Cluster {
    pub(crate) server: ApiServerHandle,
    pub(crate) address: SocketAddr,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(ServerConfig::default()).await
    }

    /// Starts a server with these settings and a listener on loopback.
    pub(crate) async fn start_with(mut config: ServerConfig) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let address = listener.local_addr().expect("an address");
        config.listeners.push(listener);
        config.tokens.push(("alice-token".to_owned(), User::new("alice", &["devs"])));
        config.streams = Arc::new(EchoPods);
        let server = ApiServer::start(config).await.expect("the server starts");
        Self { server, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A client that may do all.
    pub(crate) fn client(&self) -> Client {
        self.client_with(Some(self.server.admin_token()), None)
    }

    /// A client with this token, or with this certificate, or with nothing.
    pub(crate) fn client_with(&self, token: Option<&str>, certificate: Option<&CertificateAndKey>) -> Client {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.server.ca_pem().as_bytes()).expect("the CA is PEM");
        roots.add(ca).expect("the CA is a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let certificate =
                    CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(vec![certificate], key).expect("a certificate and its key")
            }
        };
        Client { address: self.address, tls: Arc::new(config), token: token.map(str::to_owned) }
    }

    /// Creates a pod that is bound to a node and runs, with containers of these names.
    pub(crate) async fn running_pod(&self, name: &str, containers: &[&str]) {
        let client = self.client();
        let containers: Vec<Value> =
            containers.iter().map(|name| json!({ "name": name, "image": "image:1" })).collect();
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name },
            "spec": { "nodeName": "worker-node-1", "containers": containers },
        });
        client.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
        let statuses: Vec<Value> = containers
            .iter()
            .map(|container| json!({ "name": container["name"], "ready": true, "state": { "running": {} } }))
            .collect();
        let status = json!({ "status": { "phase": "Running", "containerStatuses": statuses } });
        let path = format!("/api/v1/namespaces/default/pods/{name}/status");
        client.patch(&path, "application/merge-patch+json", &status).await.expect(200);
    }
}

/// Creates the definition of `widgets.lab.example.com`, and waits until it is served.
pub(crate) async fn define_widgets(client: &Client) {
    let created = client.post(DEFINITIONS, &widget_definition()).await.expect(201);
    let query = format!("watch=true&resourceVersion={}", version(&created));
    let mut watch = client.watch(&format!("{DEFINITIONS}?{query}")).await;
    let mut established = false;
    while !established {
        let event = watch.next().await.expect("an event");
        let conditions = event["object"]["status"]["conditions"].as_array();
        established = conditions.into_iter().flatten().any(|condition| condition["type"] == "Established");
    }
}

/// A definition of `widgets.lab.example.com`.
pub(crate) fn widget_definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.lab.example.com" },
        "spec": {
            "group": "lab.example.com",
            "scope": "Namespaced",
            "names": { "plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"] },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    { "name": "Size", "type": "integer", "jsonPath": ".spec.size" },
                    { "name": "Phase", "type": "string", "jsonPath": ".status.phase" },
                ],
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object",
                            "description": "What is wanted.",
                            "required": ["size"],
                            "properties": {
                                "size": { "type": "integer", "minimum": 1, "description": "How large." },
                                "color": { "type": "string", "default": "red" },
                            },
                        },
                        "status": { "type": "object", "properties": { "phase": { "type": "string" } } },
                    },
                } },
            }],
        },
    })
}

/// A widget of `lab.example.com/v1`.
pub(crate) fn widget(name: &str, size: i64) -> Value {
    json!({
        "apiVersion": "lab.example.com/v1",
        "kind": "Widget",
        "metadata": { "name": name },
        "spec": { "size": size },
    })
}

/// A config map with one key.
pub(crate) fn config_map(name: &str, value: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "key": value } })
}

pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const WIDGETS: &str = "/apis/lab.example.com/v1/namespaces/default/widgets";
pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// An HTTP/1.1 client that opens a connection per request.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    token: Option<String>,
}

impl Client {
    /// A TLS connection without anything on it yet.
    pub(crate) async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await
    }

    /// Sends a request; an error is one of the connection.
    pub(crate) async fn try_send(&self, request: Request<Bytes>) -> Result<http::Response<Incoming>, String> {
        let mut request = request;
        let headers = request.headers_mut();
        headers.insert("host", self.address.to_string().parse().expect("a header"));
        if let (Some(token), false) = (&self.token, headers.contains_key("authorization")) {
            headers.insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        }
        let stream = self.connect().await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request.map(Full::new)).await.map_err(|error| error.to_string())
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Reply {
        let exchange = async {
            let response = self.try_send(request).await.expect("an answer");
            let (parts, body) = response.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            Reply { status: parts.status, headers: parts.headers, body }
        };
        timeout(PATIENCE, exchange).await.expect("an answer in time")
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.get_as(path, "application/json").await
    }

    /// GET with this Accept header.
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Reply {
        self.send(request(Method::GET, path, &[("accept", accept)], Bytes::new())).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.with_body(Method::POST, path, "application/json", body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.with_body(Method::PUT, path, "application/json", body).await
    }

    pub(crate) async fn patch(&self, path: &str, content_type: &str, body: &Value) -> Reply {
        self.with_body(Method::PATCH, path, content_type, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send(request(Method::DELETE, path, &[], Bytes::new())).await
    }

    pub(crate) async fn with_body(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Reply {
        self.send(request(method, path, &[("content-type", content_type)], body.to_string().into())).await
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path_and_query: &str) -> Watch<Incoming> {
        self.watch_as(path_and_query, "application/json").await
    }

    /// Opens a watch with this Accept header.
    pub(crate) async fn watch_as(&self, path_and_query: &str, accept: &str) -> Watch<Incoming> {
        let opening =
            self.try_send(request(Method::GET, path_and_query, &[("accept", accept)], Bytes::new()));
        let response = timeout(PATIENCE, opening).await.expect("an answer in time").expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        Watch::new(response.into_body())
    }
}

/// A request with these headers.
pub(crate) fn request(method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Request<Bytes> {
    let mut builder = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body).expect("a request")
}

/// The resource version of an object or list.
#[track_caller]
pub(crate) fn version(value: &Value) -> u64 {
    value["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .expect("a resource version")
}
