//! Logs, exec, attach and port-forward.

use apiserver::streams::{
    AttachRequest, ExecRequest, ExecStreams, LogRequest, LogStream, PodConnection, PodStreams, PortRequest,
    StreamError,
};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::Cluster;

/// Pods whose commands are played: `cat`, `echo TEXT`, `warn TEXT`, `exit N`, `size`, `flood N`, `missing`.
pub(crate) struct EchoPods;

impl PodStreams for EchoPods {
    fn exec(
        &self,
        request: ExecRequest,
        streams: ExecStreams,
    ) -> BoxFuture<'static, Result<i32, StreamError>> {
        Box::pin(async move {
            let ExecStreams { stdin, stdout, stderr, mut resize } = streams;
            let words: Vec<&str> = request.command.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["cat"] => {
                    let (mut from, mut to) = (stdin.expect("stdin"), stdout.expect("stdout"));
                    tokio::io::copy(&mut from, &mut to).await.expect("copied");
                }
                ["echo", text] => stdout.expect("stdout").write_all(text.as_bytes()).await.expect("written"),
                ["warn", text] => stderr.expect("stderr").write_all(text.as_bytes()).await.expect("written"),
                ["exit", code] => return Ok(code.parse().expect("a number")),
                ["size"] => {
                    let size = resize.recv().await.expect("a size");
                    let text = format!("{}x{}", size.width, size.height);
                    stdout.expect("stdout").write_all(text.as_bytes()).await.expect("written");
                }
                ["flood", count] => {
                    let bytes = vec![b'x'; count.parse().expect("a number")];
                    stdout.expect("stdout").write_all(&bytes).await.expect("written");
                }
                other => return Err(StreamError::Internal(format!("no such program: {other:?}"))),
            }
            Ok(0)
        })
    }

    fn attach(
        &self,
        request: AttachRequest,
        streams: ExecStreams,
    ) -> BoxFuture<'static, Result<i32, StreamError>> {
        Box::pin(async move {
            let text = format!("{} says this\n", request.container);
            streams.stdout.expect("stdout").write_all(text.as_bytes()).await.expect("written");
            Ok(0)
        })
    }

    /// Says its port, then what it hears; nobody listens at port 81.
    fn connect(
        &self,
        request: PortRequest,
    ) -> BoxFuture<'static, Result<Box<dyn PodConnection>, StreamError>> {
        Box::pin(async move {
            if request.port == 81 {
                return Err(StreamError::Internal("connection refused".to_owned()));
            }
            let (near, mut far) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                far.write_all(format!("{}:", request.port).as_bytes()).await?;
                let (mut read, mut write) = tokio::io::split(far);
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
            Ok(Box::new(near) as Box<dyn PodConnection>)
        })
    }

    fn logs(&self, request: LogRequest) -> BoxFuture<'static, Result<LogStream, StreamError>> {
        Box::pin(async move {
            let mut lines: Vec<String> =
                (1..=3).map(|line| format!("{} line {line}\n", request.container)).collect();
            if let Some(tail) = request.tail_lines {
                let skip = lines.len().saturating_sub(usize::try_from(tail).expect("small"));
                lines.drain(..skip);
            }
            if request.previous {
                return Err(StreamError::BadRequest("previous terminated container not found".to_owned()));
            }
            let now = futures::stream::iter(lines).map(|line| Ok(Bytes::from(line)));
            if request.follow { Ok(now.chain(futures::stream::pending()).boxed()) } else { Ok(now.boxed()) }
        })
    }
}

const LOG: &str = "/api/v1/namespaces/default/pods/p/log";

#[tokio::test]
async fn a_log_is_plain_text() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    cluster.running_pod("p", &["a"]).await;
    let reply = client.get_as(LOG, "application/json, */*").await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "text/plain"));
    assert_eq!(reply.text(), "a line 1\na line 2\na line 3\n");
    assert_eq!(client.get(&format!("{LOG}?tailLines=1")).await.text(), "a line 3\n");
    assert_eq!(client.get(&format!("{LOG}?limitBytes=12")).await.text(), "a line 1\na l");
    let status = client.get(&format!("{LOG}?previous=true")).await.fails(400, "BadRequest");
    assert_eq!(status["message"], "previous terminated container not found");
    client.get(&format!("{LOG}?tailLines=-1")).await.fails(422, "Invalid");
}

#[tokio::test]
async fn a_log_of_a_wrong_container_says_what_is_wrong() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    cluster.running_pod("p", &["a", "b"]).await;
    let message = async |query: &str| {
        client.get(&format!("{LOG}{query}")).await.fails(400, "BadRequest")["message"].clone()
    };
    assert_eq!(message("").await, "a container name must be specified for pod p, choose one of: [a b]");
    assert_eq!(message("?container=c").await, "container c is not valid for pod p");
    assert_eq!(client.get(&format!("{LOG}?container=b&tailLines=1")).await.text(), "b line 3\n");
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "q" },
        "spec": { "containers": [{ "name": "a", "image": "a:1" }] },
    });
    client.post("/api/v1/namespaces/default/pods", &pod).await.expect(201);
    let reply = client.get("/api/v1/namespaces/default/pods/q/log").await.fails(400, "BadRequest");
    assert_eq!(reply["message"], "container \"a\" in pod \"q\" is waiting to start: ContainerCreating");
    client.get("/api/v1/namespaces/default/pods/none/log").await.fails(404, "NotFound");
}

#[tokio::test]
async fn exec_without_upgrade_and_port_forward_are_refused_with_a_status() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    cluster.running_pod("p", &["a"]).await;
    let pod = "/api/v1/namespaces/default/pods/p";
    client.get(&format!("{pod}/exec?command=ls&stdout=true")).await.fails(400, "BadRequest");
    client.get(&format!("{pod}/exec?command=ls")).await.fails(400, "BadRequest");
    client.get(&format!("{pod}/exec?stdout=true")).await.fails(400, "BadRequest");
    client.get(&format!("{pod}/attach?stdout=true")).await.fails(400, "BadRequest");
    for query in ["", "?ports=80", "?ports=http"] {
        client.get(&format!("{pod}/portforward{query}")).await.fails(400, "BadRequest");
        client
            .post(&format!("{pod}/portforward{query}"), &serde_json::json!({}))
            .await
            .fails(400, "BadRequest");
    }
}

mod by_kube_rs {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
    use kube::Api;
    use kube::api::{AttachParams, AttachedProcess, TerminalSize};

    /// Waits for what must not take long.
    async fn in_time<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(crate::harness::PATIENCE, what).await.expect("an end in time")
    }

    async fn exec(cluster: &Cluster, command: &[&str], params: AttachParams) -> AttachedProcess {
        let client = crate::kube_rs::client(cluster).await;
        let pods: Api<Pod> = Api::namespaced(client, "default");
        in_time(pods.exec("p", command.iter().copied(), &params)).await.expect("the command starts")
    }

    #[tokio::test]
    async fn attach_shows_what_a_program_says() {
        let cluster = Cluster::start().await;
        cluster.running_pod("p", &["a"]).await;
        let pods: Api<Pod> = Api::namespaced(crate::kube_rs::client(&cluster).await, "default");
        let params = AttachParams::default().stderr(false);
        let mut process = in_time(pods.attach("p", &params)).await.expect("the program runs");
        assert_eq!(stdout(&mut process).await, "a says this\n");
        assert_eq!(status(process).await.status.as_deref(), Some("Success"));
    }

    #[tokio::test]
    async fn ports_are_forwarded_together_and_what_fails_is_told() {
        let cluster = Cluster::start().await;
        cluster.running_pod("p", &["a"]).await;
        let pods: Api<Pod> = Api::namespaced(crate::kube_rs::client(&cluster).await, "default");
        let mut forwarder = in_time(pods.portforward("p", &[80, 8080, 81])).await.expect("a connection");
        for port in [80_u16, 8080] {
            let mut stream = forwarder.take_stream(port).expect("a stream");
            let expected = format!("{port}:hello");
            in_time(stream.write_all(b"hello")).await.expect("written");
            let mut heard = vec![0; expected.len()];
            in_time(stream.read_exact(&mut heard)).await.expect("an answer");
            assert_eq!(String::from_utf8_lossy(&heard), expected);
        }
        let error = in_time(forwarder.take_error(81).expect("a way to be told")).await;
        assert_eq!(error.as_deref(), Some("error forwarding port 81: connection refused"));
    }

    async fn stdout(process: &mut AttachedProcess) -> String {
        let mut text = String::new();
        in_time(process.stdout().expect("stdout").read_to_string(&mut text)).await.expect("output");
        text
    }

    async fn status(mut process: AttachedProcess) -> Status {
        let status = in_time(process.take_status().expect("a status")).await.expect("a status");
        in_time(process.join()).await.expect("a clean end");
        status
    }

    #[tokio::test]
    async fn output_and_exit_code_arrive() {
        let cluster = Cluster::start().await;
        cluster.running_pod("p", &["a"]).await;
        let mut process = exec(&cluster, &["echo", "hello"], AttachParams::default()).await;
        assert_eq!(stdout(&mut process).await, "hello");
        assert_eq!(status(process).await.status.as_deref(), Some("Success"));
        let failed = status(exec(&cluster, &["exit", "3"], AttachParams::default()).await).await;
        assert_eq!(failed.reason.as_deref(), Some("NonZeroExitCode"));
        let causes = failed.details.expect("details").causes.expect("causes");
        assert_eq!(causes[0].message.as_deref(), Some("3"));
        let missing = status(exec(&cluster, &["missing"], AttachParams::default()).await).await;
        assert_eq!(missing.reason.as_deref(), Some("InternalError"));
    }

    #[tokio::test]
    async fn input_is_passed_on_until_it_is_closed() {
        const BYTES: usize = 300_000;
        let cluster = Cluster::start().await;
        cluster.running_pod("p", &["a"]).await;
        let mut process = exec(&cluster, &["cat"], AttachParams::default().stdin(true)).await;
        let mut stdin = process.stdin().expect("stdin");
        let writer = tokio::spawn(async move {
            stdin.write_all(&vec![b'y'; BYTES]).await.expect("written");
            stdin.shutdown().await.expect("closed");
        });
        assert_eq!(stdout(&mut process).await.len(), BYTES);
        writer.await.expect("the writer");
        assert_eq!(status(process).await.status.as_deref(), Some("Success"));
    }

    #[tokio::test]
    async fn much_output_arrives_whole_although_the_command_is_over() {
        let cluster = Cluster::start().await;
        cluster.running_pod("p", &["a"]).await;
        let mut process = exec(&cluster, &["flood", "1000000"], AttachParams::default()).await;
        assert_eq!(stdout(&mut process).await.len(), 1_000_000);
    }

    #[tokio::test]
    async fn errors_have_their_own_channel() {
        let cluster = Cluster::start().await;
        cluster.running_pod("p", &["a"]).await;
        let mut process = exec(&cluster, &["warn", "oh"], AttachParams::default()).await;
        let mut text = String::new();
        in_time(process.stderr().expect("stderr").read_to_string(&mut text)).await.expect("output");
        assert_eq!(text, "oh");
    }

    #[tokio::test]
    async fn a_terminal_tells_its_size() {
        let cluster = Cluster::start().await;
        cluster.running_pod("p", &["a"]).await;
        let params = AttachParams::default().stdin(true).stdout(true).stderr(false).tty(true);
        let mut process = exec(&cluster, &["size"], params).await;
        let mut size = process.terminal_size().expect("a terminal");
        size.try_send(TerminalSize { width: 80, height: 24 }).expect("room for a size");
        assert_eq!(stdout(&mut process).await, "80x24");
    }

    #[tokio::test]
    async fn an_outage_cuts_a_running_command() {
        let cluster = Cluster::start().await;
        cluster.running_pod("p", &["a"]).await;
        let process = exec(&cluster, &["cat"], AttachParams::default().stdin(true)).await;
        cluster.server.pause();
        assert!(in_time(process.join()).await.is_err());
    }
}
