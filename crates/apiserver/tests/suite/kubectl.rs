//! Stock kubectl, where there is one: every verb as a user would type it.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::{CONFIG_MAPS, Cluster, PATIENCE, config_map, version, widget, widget_definition};

/// A kubectl that talks to one server, with a home of its own.
struct Kubectl {
    binary: PathBuf,
    home: TempDir,
    minor_version: u32,
}

/// The oldest kubectl that lets the server validate fields with OpenAPI v3 alone.
const OLDEST: u32 = 29;
/// The oldest kubectl whose exec speaks WebSocket.
const OLDEST_EXEC: u32 = 30;

/// What a run of kubectl printed.
struct Output {
    success: bool,
    stdout: String,
    stderr: String,
}

impl Kubectl {
    /// `None`, said loudly, on a machine without kubectl.
    async fn of(cluster: &Cluster) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let Some(binary) =
            std::env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|path| path.is_file())
        else {
            println!("SKIP: no kubectl on the PATH");
            return None;
        };
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("config"), cluster.server.kubeconfig(&cluster.url()))
            .expect("a kubeconfig");
        let mut kubectl = Self { binary, home, minor_version: 0 };
        let version = kubectl.ok(&["version", "--client", "-o", "json"]).await;
        let version: Value = serde_json::from_str(&version).expect("a version");
        // The fields for major and minor are empty where somebody built it for themselves.
        let version = version["clientVersion"]["gitVersion"].as_str().expect("a version");
        kubectl.minor_version = version.split('.').nth(1).expect("a minor").parse().expect("a number");
        kubectl.is_at_least(OLDEST).then_some(kubectl)
    }

    /// Whether kubectl is new enough, said loudly if not.
    fn is_at_least(&self, minor_version: u32) -> bool {
        let enough = self.minor_version >= minor_version;
        if !enough {
            println!("SKIP: kubectl 1.{} is older than 1.{minor_version}", self.minor_version);
        }
        enough
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, "").await
    }

    async fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        self.finish(self.command(arguments), arguments, input).await
    }

    async fn finish(&self, mut command: Command, arguments: &[&str], input: &str) -> Output {
        let mut child = command.stdin(Stdio::piped()).spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("stdin");
        // Commands that read nothing may be gone already.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = timeout(PATIENCE, child.wait_with_output()).await;
        let output =
            output.unwrap_or_else(|_| panic!("kubectl {arguments:?} takes too long")).expect("output");
        Output {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command that must succeed; answers its output.
    async fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with_input(arguments, "").await
    }

    async fn ok_with_input(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run_with_input(arguments, input).await;
        assert!(output.success, "kubectl {arguments:?}: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Runs a command that must fail; answers what it says.
    async fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(!output.success, "kubectl {arguments:?} succeeds: {}", output.stdout);
        output.stderr
    }

    async fn apply(&self, object: &Value) -> String {
        self.ok_with_input(&["apply", "-f", "-"], &object.to_string()).await
    }
}

fn deployment(replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [
                    { "name": "main", "image": image, "ports": [{ "containerPort": 80 }] },
                    { "name": "side", "image": "side:1", "env": [{ "name": "A", "value": "1" }] },
                ] },
            },
        },
    })
}

/// Plays the Deployment's controller: writes a status in which all replicas are there.
async fn complete(cluster: &Cluster) {
    let client = cluster.client();
    let path = "/apis/apps/v1/namespaces/default/deployments/web";
    let object = client.get(path).await.expect(200);
    let replicas = &object["spec"]["replicas"];
    let status = json!({ "status": {
        "observedGeneration": object["metadata"]["generation"],
        "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
        "conditions": [{ "type": "Available", "status": "True" }],
    } });
    client.patch(&format!("{path}/status"), "application/merge-patch+json", &status).await.expect(200);
}

/// The columns of the first line that begins with this word.
fn row<'a>(table: &'a str, first: &str) -> Vec<&'a str> {
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(first));
    line.unwrap_or_else(|| panic!("no {first} in\n{table}")).split_whitespace().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_verbs_print_what_is_served() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    let versions = kubectl.ok(&["api-versions"]).await;
    assert!(versions.lines().any(|line| line == "apps/v1") && versions.lines().any(|line| line == "v1"));
    let resources = kubectl.ok(&["api-resources"]).await;
    assert_eq!(row(&resources, "pods"), ["pods", "po", "v1", "true", "Pod"]);
    assert_eq!(kubectl.ok(&["get", "--raw", "/readyz"]).await, "ok");
    assert!(kubectl.ok(&["version"]).await.contains("Server Version: v1.36.0"));
    assert!(kubectl.ok(&["explain", "pod.spec.containers"]).await.contains("<string> -required-"));
    kubectl.apply(&widget_definition()).await;
    kubectl
        .ok(&["wait", "--for=condition=Established", "crd/widgets.lab.example.com", "--timeout=15s"])
        .await;
    assert!(kubectl.ok(&["explain", "widget.spec"]).await.contains("How large."));
    // Out of the document that clients from before OpenAPI v3 read.
    let v2 = ["explain", "--output=plaintext-openapiv2"];
    assert!(kubectl.ok(&[v2[0], v2[1], "widget.spec"]).await.contains("How large."));
    assert!(
        kubectl.ok(&[v2[0], v2[1], "pod.spec.containers.image"]).await.contains("FIELD:    image <string>")
    );
    assert!(kubectl.ok(&["cluster-info"]).await.contains("is running at"));
    assert!(kubectl.fails(&["top", "nodes"]).await.contains("Metrics API not available"));
    assert!(kubectl.fails(&["get", "unheards"]).await.contains("the server doesn't have a resource type"));
}

#[tokio::test(flavor = "multi_thread")]
async fn get_prints_tables_objects_and_changes() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    kubectl.apply(&deployment(2, "web:1")).await;
    let table = kubectl.ok(&["get", "deployments", "-o", "wide"]).await;
    assert_eq!(row(&table, "NAME")[..5], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]);
    let cells = row(&table, "web");
    assert_eq!(cells[..4], ["web", "0/2", "0", "0"]);
    assert_eq!(cells[5..], ["main,side", "web:1,side:1", "app=web"]);
    let all = kubectl.ok(&["get", "all"]).await;
    assert!(all.contains("deployment.apps/web") && all.contains("service/kubernetes"), "{all}");
    let yaml = kubectl.ok(&["get", "deploy", "web", "-o", "yaml"]).await;
    assert!(yaml.contains("kind: Deployment"));
    assert_eq!(kubectl.ok(&["get", "deploy", "-A", "-o", "name"]).await, "deployment.apps/web\n");
    let path = ["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(kubectl.ok(&path).await, "2");
    let sorted = kubectl.ok(&["get", "ns", "--sort-by=.metadata.name"]).await;
    assert!(sorted.contains("kube-system"));
    assert!(kubectl.ok(&["get", "pods", "-l", "app=web"]).await.is_empty());
    let missing = kubectl.fails(&["get", "pod", "none"]).await;
    assert_eq!(missing.trim_end(), "Error from server (NotFound): pods \"none\" not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn get_watches_until_it_is_stopped() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    let client = cluster.client();
    client.post(CONFIG_MAPS, &config_map("one", "1")).await.expect(201);
    let watching = async {
        use tokio::io::AsyncBufReadExt as _;
        let mut child =
            kubectl.command(&["get", "cm", "one", "-w", "--no-headers"]).spawn().expect("kubectl starts");
        let mut lines = tokio::io::BufReader::new(child.stdout.take().expect("stdout")).lines();
        let first = lines.next_line().await.expect("output").expect("a line");
        assert!(first.starts_with("one "), "{first}");
        let two = json!({ "data": { "second": "2" } });
        let path = format!("{CONFIG_MAPS}/one");
        client.patch(&path, "application/merge-patch+json", &two).await.expect(200);
        let second = lines.next_line().await.expect("output").expect("a line");
        assert_eq!(second.split_whitespace().take(2).collect::<Vec<_>>(), ["one", "2"]);
        child.kill().await.expect("kubectl ends");
    };
    timeout(PATIENCE, watching).await.expect("a change in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_creates_changes_and_leaves_alone() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    assert_eq!(kubectl.apply(&deployment(2, "web:1")).await, "deployment.apps/web created\n");
    assert_eq!(kubectl.apply(&deployment(2, "web:1")).await, "deployment.apps/web unchanged\n");
    let changed = deployment(2, "web:2").to_string();
    let diff = kubectl.run_with_input(&["diff", "-f", "-"], &changed).await;
    assert!(!diff.success && diff.stdout.contains("+      - image: web:2"), "{}{}", diff.stdout, diff.stderr);
    let dry = kubectl.ok_with_input(&["apply", "--dry-run=server", "-f", "-"], &changed).await;
    assert_eq!(dry, "deployment.apps/web configured (server dry run)\n");
    assert_eq!(kubectl.apply(&deployment(2, "web:2")).await, "deployment.apps/web configured\n");
    let images = ["get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[*].image}"];
    assert_eq!(kubectl.ok(&images).await, "web:2 side:1");
    kubectl.apply(&widget_definition()).await;
    kubectl
        .ok(&["wait", "--for=condition=Established", "crd/widgets.lab.example.com", "--timeout=15s"])
        .await;
    let mut object = widget("w", 1);
    assert_eq!(kubectl.apply(&object).await, "widget.lab.example.com/w created\n");
    assert_eq!(kubectl.apply(&object).await, "widget.lab.example.com/w unchanged\n");
    object["spec"]["size"] = json!(2);
    assert_eq!(kubectl.apply(&object).await, "widget.lab.example.com/w configured\n");
    object["spec"]["size"] = json!(0);
    let wrong = kubectl.run_with_input(&["apply", "-f", "-"], &object.to_string()).await;
    assert!(
        wrong.stderr.contains("spec.size in body should be greater than or equal to 1"),
        "{}",
        wrong.stderr
    );
    let mut typo = deployment(2, "web:2");
    typo["spec"]["replica"] = json!(1);
    let typo = kubectl.run_with_input(&["apply", "-f", "-"], &typo.to_string()).await;
    assert!(typo.stderr.contains("unknown field \"spec.replica\""), "{}", typo.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn create_replace_edit_and_patch_write() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    let mut object = config_map("one", "1");
    let create =
        async |object: &Value| kubectl.run_with_input(&["create", "-f", "-"], &object.to_string()).await;
    assert_eq!(create(&object).await.stdout, "configmap/one created\n");
    assert!(create(&object).await.stderr.contains("(AlreadyExists)"));
    object["data"]["key"] = json!("2");
    let replaced = kubectl.ok_with_input(&["replace", "-f", "-"], &object.to_string()).await;
    assert_eq!(replaced, "configmap/one replaced\n");
    let patch = ["patch", "cm", "one", "--type=json", "-p", r#"[{"op":"add","path":"/data/b","value":"x"}]"#];
    assert_eq!(kubectl.ok(&patch).await, "configmap/one patched\n");
    assert!(kubectl.ok(&["patch", "cm", "one", "-p", r#"{"data":{"b":"x"}}"#]).await.contains("(no change)"));
    let mut edit = kubectl.command(&["edit", "cm", "one"]);
    edit.env("KUBE_EDITOR", "sed -i s/x/edited/");
    let edited = kubectl.finish(edit, &["edit"], "").await;
    assert_eq!(edited.stdout, "configmap/one edited\n", "{}", edited.stderr);
    assert_eq!(kubectl.ok(&["get", "cm", "one", "-o", "jsonpath={.data.b}"]).await, "edited");
    assert_eq!(kubectl.ok(&["label", "cm", "one", "a=b"]).await, "configmap/one labeled\n");
    assert_eq!(kubectl.ok(&["annotate", "cm", "one", "a=b"]).await, "configmap/one annotated\n");
    assert_eq!(kubectl.ok(&["label", "cm", "one", "a-"]).await, "configmap/one unlabeled\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn workload_verbs_change_and_follow_a_deployment() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    kubectl.apply(&deployment(2, "web:1")).await;
    assert_eq!(kubectl.ok(&["scale", "deploy", "web", "--replicas=3"]).await, "deployment.apps/web scaled\n");
    let updated = kubectl.ok(&["set", "image", "deploy/web", "main=web:3"]).await;
    assert_eq!(updated, "deployment.apps/web image updated\n");
    let object = cluster.client().get("/apis/apps/v1/namespaces/default/deployments/web").await.expect(200);
    assert_eq!(object["spec"]["replicas"], 3);
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["image"], "web:3");
    assert_eq!(object["spec"]["template"]["spec"]["containers"][1]["image"], "side:1");
    complete(&cluster).await;
    let status = kubectl.ok(&["rollout", "status", "deploy", "web"]).await;
    assert!(status.contains("successfully rolled out"), "{status}");
    assert_eq!(kubectl.ok(&["rollout", "restart", "deploy", "web"]).await, "deployment.apps/web restarted\n");
    let following = async { kubectl.ok(&["rollout", "status", "deploy", "web", "--timeout=15s"]).await };
    let (status, ()) = tokio::join!(following, complete(&cluster));
    assert!(status.contains("successfully rolled out"), "{status}");
    assert_eq!(
        kubectl
            .ok(&["wait", "deploy/web", "--for=condition=Available", "--timeout=15s"])
            .await
            .lines()
            .count(),
        1
    );
    let described = kubectl.ok(&["describe", "deploy", "web"]).await;
    assert!(described.contains("3 desired | 3 updated | 3 total | 3 available"), "{described}");
    assert_eq!(row(&described, "Image:"), ["Image:", "web:3"]);
    let exposed = kubectl.ok(&["expose", "deploy", "web", "--port=80"]).await;
    assert_eq!(exposed, "service/web exposed\n");
    assert!(kubectl.ok(&["rollout", "history", "deploy", "web"]).await.contains("deployment.apps/web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_sees_a_condition_that_comes_later() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    kubectl.apply(&deployment(1, "web:1")).await;
    let waiting = kubectl.ok(&["wait", "deploy/web", "--for=condition=Available", "--timeout=15s"]);
    let (waited, ()) = tokio::join!(waiting, complete(&cluster));
    assert_eq!(waited, "deployment.apps/web condition met\n");
    let deleting = async { kubectl.ok(&["wait", "deploy/web", "--for=delete", "--timeout=15s"]).await };
    let delete = async { kubectl.ok(&["delete", "deploy", "web", "--wait=false"]).await };
    tokio::join!(deleting, delete);
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_waits_until_the_object_is_gone() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    let client = cluster.client();
    let mut object = config_map("one", "1");
    object["metadata"]["finalizers"] = json!(["lab.example.com/hold"]);
    let created = client.post(CONFIG_MAPS, &object).await.expect(201);
    let release = async {
        let query = format!("watch=true&resourceVersion={}", version(&created));
        let mut watch = client.watch(&format!("{CONFIG_MAPS}?{query}")).await;
        assert_eq!(watch.short().await, "MODIFIED one");
        let patch = json!({ "metadata": { "finalizers": null } });
        let path = format!("{CONFIG_MAPS}/one");
        client.patch(&path, "application/merge-patch+json", &patch).await.expect(200);
    };
    let (deleted, ()) = tokio::join!(kubectl.ok(&["delete", "cm", "one"]), release);
    assert!(deleted.starts_with("configmap \"one\" deleted"), "{deleted}");
    client.get(&format!("{CONFIG_MAPS}/one")).await.fails(404, "NotFound");
    cluster.running_pod("p", &["a"]).await;
    let forced = kubectl.ok(&["delete", "pod", "p", "--force", "--grace-period=0"]).await;
    assert!(forced.contains("\"p\" force deleted"), "{forced}");
    kubectl.apply(&deployment(1, "web:1")).await;
    assert!(kubectl.ok(&["delete", "deploy", "--all"]).await.contains("\"web\" deleted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_exec_reach_the_pod() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    if !kubectl.is_at_least(OLDEST_EXEC) {
        return;
    }
    cluster.running_pod("p", &["a", "b"]).await;
    assert_eq!(kubectl.ok(&["logs", "p", "-c", "b", "--tail=1"]).await, "b line 3\n");
    assert_eq!(kubectl.ok(&["exec", "p", "-c", "a", "--", "echo", "hello"]).await, "hello");
    assert_eq!(kubectl.ok_with_input(&["exec", "-i", "p", "-c", "a", "--", "cat"], "typed").await, "typed");
    let failed = kubectl.fails(&["exec", "p", "-c", "a", "--", "exit", "3"]).await;
    assert!(failed.contains("command terminated with exit code 3"), "{failed}");
    let missing = kubectl.fails(&["exec", "p", "-c", "a", "--", "missing"]).await;
    assert!(missing.contains("no such program"), "{missing}");
    let wrong = kubectl.fails(&["exec", "p", "-c", "z", "--", "cat"]).await;
    assert!(
        wrong.contains("container z is not valid for pod p") || wrong.contains("container z not found"),
        "{wrong}"
    );
    let described = kubectl.ok(&["describe", "pod", "p"]).await;
    assert!(described.contains("Node:") && described.contains("worker-node-1"), "{described}");
    let wide = kubectl.ok(&["get", "pods", "-o", "wide", "--no-headers"]).await;
    assert_eq!(row(&wide, "p")[..4], ["p", "2/2", "Running", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_verbs_mark_a_node() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "worker-node-1" } });
    cluster.client().post("/api/v1/nodes", &node).await.expect(201);
    assert_eq!(kubectl.ok(&["cordon", "worker-node-1"]).await, "node/worker-node-1 cordoned\n");
    let nodes = kubectl.ok(&["get", "nodes"]).await;
    assert!(row(&nodes, "worker-node-1")[1].ends_with(",SchedulingDisabled"), "{nodes}");
    assert_eq!(kubectl.ok(&["uncordon", "worker-node-1"]).await, "node/worker-node-1 uncordoned\n");
    kubectl.ok(&["taint", "node", "worker-node-1", "a=b:NoSchedule"]).await;
    kubectl.ok(&["label", "node", "worker-node-1", "egress=true"]).await;
    assert!(kubectl.ok(&["describe", "node", "worker-node-1"]).await.contains("a=b:NoSchedule"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_and_described() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    cluster.running_pod("p", &["a"]).await;
    let pod = cluster.client().get("/api/v1/namespaces/default/pods/p").await.expect(200);
    let now = jiff::Timestamp::now().to_string();
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "p.1", "namespace": "default" },
        "involvedObject": { "kind": "Pod", "namespace": "default", "name": "p", "uid": pod["metadata"]["uid"] },
        "type": "Normal", "reason": "Started", "message": "Started container a",
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    });
    cluster.client().post("/api/v1/namespaces/default/events", &event).await.expect(201);
    for arguments in [&["events"][..], &["get", "events"], &["describe", "pod", "p"]] {
        let text = kubectl.ok(arguments).await;
        assert!(text.contains("Started container a"), "{arguments:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_with_protobuf_bodies_work() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    kubectl.ok(&["create", "ns", "x"]).await;
    kubectl.ok(&["create", "cm", "c", "-n", "x", "--from-literal=a=b"]).await;
    assert_eq!(kubectl.ok(&["get", "cm", "c", "-n", "x", "-o", "jsonpath={.data.a}"]).await, "b");
    kubectl.ok(&["create", "secret", "generic", "s", "-n", "x", "--from-literal=a=b"]).await;
    assert_eq!(kubectl.ok(&["get", "secret", "s", "-n", "x", "-o", "jsonpath={.data.a}"]).await, "Yg==");
    kubectl.ok(&["create", "sa", "robot", "-n", "x"]).await;
    kubectl.ok(&["create", "deployment", "d", "-n", "x", "--image=i:1", "--replicas=0", "--port=80"]).await;
    let deployment = kubectl.ok(&["get", "deployment", "d", "-n", "x", "-o", "json"]).await;
    let deployment: Value = serde_json::from_str(&deployment).expect("JSON");
    assert_eq!(deployment["spec"]["replicas"], 0);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(container["ports"], json!([{ "containerPort": 80, "protocol": "TCP" }]));
    kubectl.ok(&["create", "service", "clusterip", "web", "-n", "x", "--tcp=80:8080"]).await;
    let port =
        kubectl.ok(&["get", "svc", "web", "-n", "x", "-o", "jsonpath={.spec.ports[0].targetPort}"]).await;
    assert_eq!(port, "8080");
    kubectl.ok(&["create", "role", "reader", "-n", "x", "--verb=get", "--resource=pods"]).await;
    kubectl.ok(&["create", "rolebinding", "b", "-n", "x", "--role=reader", "--serviceaccount=x:robot"]).await;
    kubectl.ok(&["create", "pdb", "p", "-n", "x", "--selector=a=b", "--min-available=1"]).await;
    kubectl.ok(&["create", "priorityclass", "high", "--value=1000"]).await;
    kubectl.ok(&["create", "quota", "q", "-n", "x", "--hard=pods=1"]).await;
    kubectl.ok(&["create", "ingress", "i", "-n", "x", "--rule=a.b/c=web:80"]).await;
    kubectl.ok(&["create", "job", "j", "-n", "x", "--image=i:1"]).await;
    assert_eq!(kubectl.ok(&["get", "job", "j", "-n", "x", "-o", "jsonpath={.spec.backoffLimit}"]).await, "6");
    kubectl.ok(&["create", "cronjob", "cj", "-n", "x", "--image=i:1", "--schedule=* * * * *"]).await;
    let token = kubectl.ok(&["create", "token", "robot", "-n", "x"]).await;
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    assert!(kubectl.ok(&["auth", "whoami"]).await.contains("kubernetes-admin"));
    assert_eq!(kubectl.ok(&["auth", "can-i", "create", "pods"]).await, "yes\n");
    assert!(kubectl.ok(&["auth", "can-i", "--list"]).await.contains("*.*"));
    kubectl.ok(&["delete", "ns", "x", "--wait=false"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_evicts_the_pods_of_a_node() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "worker-node-1" } });
    kubectl.apply(&node).await;
    cluster.running_pod("p", &["a"]).await;
    let client = cluster.client();
    let path = "/api/v1/namespaces/default/pods/p";
    // Kubelet's part: a pod that is to go goes.
    let kubelet = tokio::spawn({
        let client = client.clone();
        async move {
            let mut watch = client.watch("/api/v1/namespaces/default/pods?watch=true").await;
            while let Some(event) = watch.next().await {
                if event["type"] == "MODIFIED" && event["object"]["metadata"]["deletionTimestamp"].is_string()
                {
                    client.delete(&format!("{path}?gracePeriodSeconds=0")).await.expect(200);
                    break;
                }
            }
        }
    });
    let said = kubectl.ok(&["drain", "worker-node-1", "--force", "--timeout=15s"]).await;
    assert!(said.contains("node/worker-node-1 drained"), "{said}");
    kubelet.await.expect("the pod was asked to go");
    client.get(path).await.fails(404, "NotFound");
    assert!(kubectl.ok(&["get", "node", "worker-node-1"]).await.contains("SchedulingDisabled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_merges_conflicts_and_takes_over_from_client_side_apply() {
    let cluster = Cluster::start().await;
    let Some(kubectl) = Kubectl::of(&cluster).await else { return };
    let one = |value: &str| config_map("one", value).to_string();
    let apply = ["apply", "--server-side", "-f", "-"];
    let said = kubectl.ok_with_input(&apply, &one("1")).await;
    assert_eq!(said, "configmap/one serverside-applied\n");
    kubectl.ok(&["patch", "cm", "one", "--type=merge", "-p", r#"{"data":{"key":"2"}}"#]).await;
    let refused = kubectl.run_with_input(&apply, &one("1")).await;
    assert!(!refused.success);
    assert!(
        refused.stderr.contains("conflict with \"kubectl-patch\" using v1: .data.key"),
        "{}",
        refused.stderr
    );
    let diff = ["diff", "--server-side", "--force-conflicts", "-f", "-"];
    let differs = kubectl.run_with_input(&diff, &one("1")).await;
    assert!(differs.stdout.contains("+  key: \"1\""), "{}{}", differs.stdout, differs.stderr);
    kubectl.ok_with_input(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &one("1")).await;
    assert!(kubectl.run_with_input(&diff, &one("1")).await.success, "no difference is left");

    let two = |value: &str| config_map("two", value).to_string();
    kubectl.apply(&config_map("two", "1")).await;
    let said = kubectl.ok_with_input(&apply, &two("2")).await;
    assert_eq!(said, "configmap/two serverside-applied\n");
    let moved = cluster.client().get(&format!("{CONFIG_MAPS}/two")).await.expect(200);
    let entries = moved["metadata"]["managedFields"].as_array().expect("entries");
    let managers: Vec<&Value> = entries.iter().map(|entry| &entry["manager"]).collect();
    assert_eq!(managers, ["kubectl", "kubectl-last-applied"], "{entries:?}");
    let said = kubectl.apply(&config_map("two", "3")).await;
    assert!(said.contains("configured"), "{said}");
    let back = cluster.client().get(&format!("{CONFIG_MAPS}/two")).await.expect(200);
    assert_eq!(back["data"]["key"], "3");
}
