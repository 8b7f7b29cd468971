use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::age::human_duration;
use super::{IncludeObject, JsonPath, Printer};
use crate::resource::PrinterColumn;

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a moment")
}

/// The cells that a built-in kind prints for an object given as YAML.
fn cells(group: &str, kind: &str, object: &str) -> Vec<Value> {
    let object: Value = serde_saphyr::from_str(object).expect("YAML");
    let row = Printer::builtin(group, kind).row(&object, IncludeObject::None, now());
    row["cells"].as_array().expect("cells").clone()
}

#[track_caller]
fn check(group: &str, kind: &str, object: &str, expected: Value) {
    assert_eq!(Value::from(cells(group, kind, object)), expected);
}

#[test]
fn ages_have_as_few_parts_as_their_size_deserves() {
    const DAY: i64 = 86_400;
    let cases = [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (197, "3m17s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (9 * 3600 + 60, "9h"),
        (2 * DAY, "2d"),
        (3 * DAY + 3600, "3d1h"),
        (8 * DAY + 3600, "8d"),
        (2 * 365 * DAY, "2y"),
        (3 * 365 * DAY + DAY, "3y1d"),
        (9 * 365 * DAY + DAY, "9y"),
    ];
    for (seconds, text) in cases {
        assert_eq!(human_duration(seconds), text, "{seconds} s");
    }
}

#[test]
fn a_running_pod_shows_ready_containers_and_the_last_restart() {
    let pod = r#"
metadata: {name: p, creationTimestamp: "2026-03-01T11:58:00Z"}
spec: {nodeName: worker-node-1, containers: [{name: a}, {name: b}]}
status:
  phase: Running
  podIP: 10.1.0.5
  containerStatuses:
  - {name: a, ready: true, restartCount: 3, state: {running: {}}, lastState: {terminated: {finishedAt: "2026-03-01T11:55:00Z"}}}
  - {name: b, ready: false, restartCount: 0, state: {running: {}}}
"#;
    let expected =
        json!(["p", "1/2", "Running", "3 (5m ago)", "2m", "10.1.0.5", "worker-node-1", "<none>", "<none>"]);
    check("", "Pod", pod, expected);
}

/// The Ready, Status and Restarts cells of a pod with this status.
fn pod_story(spec: &str, status: &str) -> String {
    let pod = format!("metadata: {{name: p}}\nspec: {spec}\nstatus: {status}\n");
    let cells = cells("", "Pod", &pod);
    [1, 2, 3].map(|index| cells[index].as_str().expect("text").to_owned()).join(" ")
}

#[test]
fn the_first_container_with_a_reason_decides_the_status_of_a_pod() {
    let two = "{containers: [{name: a}, {name: b}]}";
    let story = pod_story(
        two,
        "{phase: Running, containerStatuses: [{state: {waiting: {reason: CrashLoopBackOff}}, restartCount: 2}, \
         {state: {waiting: {reason: ImagePullBackOff}}}]}",
    );
    assert_eq!(story, "0/2 CrashLoopBackOff 2");
}

#[test]
fn a_terminated_container_without_reason_shows_its_exit_code_or_signal() {
    let one = "{containers: [{name: a}]}";
    let story = |terminated: &str| {
        let status =
            format!("{{phase: Failed, containerStatuses: [{{state: {{terminated: {terminated}}}}}]}}");
        pod_story(one, &status)
    };
    assert_eq!(story("{exitCode: 3}"), "0/1 ExitCode:3 0");
    assert_eq!(story("{exitCode: 137, signal: 9}"), "0/1 Signal:9 0");
    assert_eq!(story("{exitCode: 1, reason: OOMKilled}"), "0/1 OOMKilled 0");
}

#[test]
fn a_pod_whose_init_container_is_not_done_shows_how_far_it_is() {
    let spec = "{initContainers: [{name: i}, {name: j}], containers: [{name: a}]}";
    let story = pod_story(
        spec,
        "{phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 0}}}, \
         {name: j, state: {running: {}}}], containerStatuses: [{state: {waiting: {reason: PodInitializing}}}]}",
    );
    assert_eq!(story, "0/1 Init:1/2 0");
    let failed = "{phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 1}}}]}";
    assert_eq!(pod_story(spec, failed), "0/1 Init:ExitCode:1 0");
}

#[test]
fn completed_containers_beside_running_ones_leave_the_pod_running_or_not_ready() {
    let spec = "{containers: [{name: a}, {name: b}]}";
    let statuses = "containerStatuses: [{state: {terminated: {reason: Completed}}}, \
                    {state: {running: {}}, ready: true}]";
    let ready = format!("{{phase: Running, conditions: [{{type: Ready, status: \"True\"}}], {statuses}}}");
    assert_eq!(pod_story(spec, &ready), "1/2 Running 0");
    assert_eq!(pod_story(spec, &format!("{{phase: Running, {statuses}}}")), "1/2 NotReady 0");
}

#[test]
fn a_pod_that_is_being_deleted_is_terminating_unless_it_is_over() {
    let pod = |phase: &str| {
        let text = format!(
            "metadata: {{name: p, deletionTimestamp: \"2026-03-01T11:00:00Z\"}}\nstatus: {{phase: {phase}}}\n"
        );
        cells("", "Pod", &text)[2].clone()
    };
    assert_eq!(pod("Running"), "Terminating");
    assert_eq!(pod("Succeeded"), "Succeeded");
}

#[test]
fn a_deployment_shows_counts_and_the_wide_columns_of_its_template() {
    let deployment = r#"
metadata: {name: d, creationTimestamp: "2026-03-01T11:00:00Z"}
spec:
  replicas: 2
  selector: {matchLabels: {app: d}, matchExpressions: [{key: tier, operator: In, values: [a, b]}]}
  template: {spec: {containers: [{name: x, image: "x:1"}, {name: z, image: "z:2"}]}}
status: {readyReplicas: 1, updatedReplicas: 2, availableReplicas: 1}
"#;
    let expected = json!(["d", "1/2", 2, 1, "60m", "x,z", "x:1,z:2", "app=d,tier in (a,b)"]);
    check("apps", "Deployment", deployment, expected);
}

#[test]
fn a_daemon_set_shows_its_node_selector() {
    let daemon_set = r#"
metadata: {name: d, creationTimestamp: "2026-03-01T11:59:00Z"}
spec: {selector: {matchLabels: {app: d}}, template: {spec: {nodeSelector: {role: gateway}, containers: [{name: x, image: i}]}}}
status: {desiredNumberScheduled: 3, currentNumberScheduled: 3, numberReady: 2, updatedNumberScheduled: 3, numberAvailable: 2}
"#;
    check(
        "apps",
        "DaemonSet",
        daemon_set,
        json!(["d", 3, 3, 2, 3, 2, "role=gateway", "60s", "x", "i", "app=d"]),
    );
}

#[test]
fn a_node_shows_readiness_roles_and_addresses() {
    let node = r#"
metadata:
  name: n1
  creationTimestamp: "2026-03-01T11:59:00Z"
  labels: {node-role.kubernetes.io/worker: "", node-role.kubernetes.io/control-plane: ""}
spec: {unschedulable: true}
status:
  addresses: [{type: InternalIP, address: 10.6.0.1}]
  conditions: [{type: Ready, status: "False"}]
  nodeInfo: {kubeletVersion: v1.36.0, osImage: Lab}
"#;
    let expected = json!([
        "n1",
        "NotReady,SchedulingDisabled",
        "control-plane,worker",
        "60s",
        "v1.36.0",
        "10.6.0.1",
        "<none>",
        "Lab",
        "<unknown>",
        "<unknown>"
    ]);
    check("", "Node", node, expected);
    assert_eq!(cells("", "Node", "metadata: {name: n1}")[1], "Unknown");
}

#[test]
fn a_service_shows_its_addresses_and_ports() {
    let service = r#"
metadata: {name: s, creationTimestamp: "2026-03-01T11:59:00Z"}
spec: {type: LoadBalancer, clusterIP: 10.96.0.9, selector: {app: s}, ports: [{port: 80, protocol: TCP}, {port: 53, nodePort: 30053, protocol: UDP}]}
"#;
    let expected =
        json!(["s", "LoadBalancer", "10.96.0.9", "<pending>", "80/TCP,53:30053/UDP", "60s", "app=s"]);
    check("", "Service", service, expected);
    let headless = "metadata: {name: s}\nspec: {type: ClusterIP, clusterIP: None}";
    check(
        "",
        "Service",
        headless,
        json!(["s", "ClusterIP", "None", "<none>", "<none>", "<unknown>", "<none>"]),
    );
}

#[test]
fn an_endpoint_slice_shows_three_endpoints_and_counts_the_others() {
    let slice = r#"
metadata: {name: e}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}]
"#;
    let expected = json!(["e", "IPv4", "80", "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...", "<unknown>"]);
    check("discovery.k8s.io", "EndpointSlice", slice, expected);
}

#[test]
fn an_event_shows_what_happened_to_whom() {
    let event = r#"
metadata: {name: p.1}
type: Normal
reason: Scheduled
message: "Successfully assigned\n"
involvedObject: {kind: Pod, name: p}
source: {component: scheduler}
firstTimestamp: "2026-03-01T11:50:00Z"
lastTimestamp: "2026-03-01T11:59:00Z"
count: 4
"#;
    let expected = json!([
        "60s",
        "Normal",
        "Scheduled",
        "pod/p",
        "",
        "scheduler",
        "Successfully assigned",
        "10m",
        4,
        "p.1"
    ]);
    check("", "Event", event, expected);
}

#[test]
fn small_kinds_show_their_counts() {
    let age = "creationTimestamp: \"2026-03-01T11:59:00Z\"";
    let with = |rest: &str| format!("metadata: {{name: o, {age}}}\n{rest}");
    check("", "ConfigMap", &with("data: {a: b}\nbinaryData: {c: ZA==}"), json!(["o", 2, "60s"]));
    check("", "Secret", &with("type: Opaque\ndata: {a: Yg==}"), json!(["o", "Opaque", 1, "60s"]));
    check("", "ServiceAccount", &with(""), json!(["o", 0, "60s"]));
    check("", "Namespace", &with("status: {phase: Active}"), json!(["o", "Active", "60s"]));
    check("coordination.k8s.io", "Lease", &with("spec: {holderIdentity: h}"), json!(["o", "h", "60s"]));
    check("rbac.authorization.k8s.io", "Role", &with(""), json!(["o", "2026-03-01T11:59:00Z"]));
    let binding = "roleRef: {kind: ClusterRole, name: admin}\nsubjects: [{kind: User, name: u}, {kind: ServiceAccount, namespace: ns, name: s}]";
    let expected = json!(["o", "ClusterRole/admin", "60s", "u", "", "ns/s"]);
    check("rbac.authorization.k8s.io", "RoleBinding", &with(binding), expected);
    check("example.com", "Unheard", &with(""), json!(["o", "60s"]));
}

fn column(name: &str, kind: &str, json_path: &str) -> PrinterColumn {
    PrinterColumn {
        name: name.to_owned(),
        kind: kind.to_owned(),
        json_path: json_path.to_owned(),
        priority: 0,
        description: String::new(),
        format: String::new(),
    }
}

#[test]
fn custom_columns_print_what_their_paths_find() {
    let columns = [
        column("S", "string", ".spec.s"),
        column("I", "integer", ".spec.i"),
        column("B", "boolean", ".spec.b"),
        column("D", "date", ".metadata.creationTimestamp"),
        column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
        column("All", "string", ".spec.list[*]"),
        column("Map", "string", ".spec.map"),
        column("Missing", "string", ".spec.missing"),
        column("Wrong", "integer", ".spec.s"),
        column("Bad", "string", ".spec["),
    ];
    let object = json!({
        "metadata": { "name": "w", "creationTimestamp": "2026-03-01T11:59:00Z" },
        "spec": { "s": "text", "i": 3, "b": true, "list": ["a", "b"], "map": { "k": 1 } },
        "status": { "conditions": [{ "type": "Other", "status": "x" }, { "type": "Ready", "status": "True" }] },
    });
    let row = Printer::custom(&columns).row(&object, IncludeObject::Metadata, now());
    let expected = json!(["w", "text", 3, true, "60s", "True", "a", "{\"k\":1}", null, null, null]);
    assert_eq!(row["cells"], expected);
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row["object"]["metadata"]["name"], "w");
}

#[test]
fn a_custom_kind_without_columns_has_name_and_age() {
    let definitions = Printer::custom(&[]).column_definitions();
    let names: Vec<&Value> =
        definitions.as_array().expect("a list").iter().map(|column| &column["name"]).collect();
    assert_eq!(names, ["Name", "Age"]);
    assert_eq!(definitions[0]["format"], "name");
}

#[test]
fn every_printer_makes_as_many_cells_as_it_has_columns() {
    let kinds = [
        ("", "Pod"),
        ("apps", "Deployment"),
        ("apps", "ReplicaSet"),
        ("apps", "DaemonSet"),
        ("apps", "StatefulSet"),
        ("batch", "Job"),
        ("", "Node"),
        ("", "Namespace"),
        ("", "Secret"),
        ("", "ConfigMap"),
        ("", "ServiceAccount"),
        ("", "Service"),
        ("", "Event"),
        ("discovery.k8s.io", "EndpointSlice"),
        ("coordination.k8s.io", "Lease"),
        ("rbac.authorization.k8s.io", "Role"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ];
    for (group, kind) in kinds {
        let printer = Printer::builtin(group, kind);
        let table = printer.table(json!({}), [&json!({})], IncludeObject::None, now());
        let columns = table["columnDefinitions"].as_array().expect("columns").len();
        assert_eq!(table["rows"][0]["cells"].as_array().expect("cells").len(), columns, "{kind}");
    }
}

#[track_caller]
fn check_path(path: &str, expected: Value) {
    let object = json!({
        "a": { "b.c": "dotted", "list": [10, 20, { "name": "x", "v": 1 }, { "name": "y", "v": 2 }] },
    });
    let found = JsonPath::parse(path).expect(path).first(&object).cloned().unwrap_or(Value::Null);
    assert_eq!(found, expected, "{path}");
}

#[test]
fn paths_find_fields_items_and_filtered_items() {
    check_path(".a.b\\.c", json!("dotted"));
    check_path("$.a['b.c']", json!("dotted"));
    check_path("{.a.list[1]}", json!(20));
    check_path(".a.list[-1].name", json!("y"));
    check_path(".a.list[*].name", json!("x"));
    check_path(".a.list[?(@.name=='y')].v", json!(2));
    check_path(".a.list[?(@.v!=1)].name", json!("y"));
    check_path(".a.list[?(@.v == 1)].name", json!("x"));
    check_path(".a.list[?(@.v)].name", json!("x"));
    check_path(".a.nothing", Value::Null);
}

#[test]
fn paths_of_other_kinds_are_refused() {
    for path in ["a..b", "..a", ".a[", ".a[x]", ".a[?(@.b>1)]", ".a]", &"[?(@".repeat(400)] {
        assert!(JsonPath::parse(path).is_err(), "{path}");
    }
}

proptest! {
    #[test]
    fn arbitrary_paths_never_panic(path in "\\PC{0,40}", wild in "[.\\[\\]?(@)='\"*a0\\\\{}$! -]{0,40}") {
        let object = json!({ "a": [{ "a": 0 }] });
        for text in [path, wild] {
            if let Ok(path) = JsonPath::parse(&text) {
                let _ = path.first(&object);
            }
        }
    }
}
