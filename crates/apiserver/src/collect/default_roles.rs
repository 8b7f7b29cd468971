//! The roles and bindings that a cluster has from the start.
//!
//! Left out are those of controllers that no server of this kind comes with.

use serde_json::{Value, json};

use crate::auth::roles::GROUP;

/// API groups, resources (or paths where there are no groups), names, verbs; words are separated by spaces.
type Rule = (&'static str, &'static str, &'static str, &'static str);

struct Role {
    name: &'static str,
    /// Which role gathers its rules.
    gathered_by: Option<&'static str>,
    /// Whether it gathers those that say so.
    gathers: bool,
    rules: &'static [Rule],
}

const fn role(name: &'static str, rules: &'static [Rule]) -> Role {
    Role { name, gathered_by: None, gathers: false, rules }
}

const fn part(name: &'static str, of: &'static str, rules: &'static [Rule]) -> Role {
    Role { name, gathered_by: Some(of), gathers: false, rules }
}

/// The core group among others.
const CORE: &str = "core";
const READ: &str = "get list watch";
const CHANGE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";
const REPORT: &str = "create patch update";

const CLUSTER_ROLES: &[Role] = &[
    role("cluster-admin", &[("*", "*", "", "*"), ("", "*", "", "*")]),
    Role { name: "admin", gathered_by: None, gathers: true, rules: &[] },
    Role { name: "edit", gathered_by: Some("admin"), gathers: true, rules: &[] },
    Role { name: "view", gathered_by: Some("edit"), gathers: true, rules: &[] },
    part(
        "system:aggregate-to-admin",
        "admin",
        &[
            ("authorization.k8s.io", "localsubjectaccessreviews", "", "create"),
            (GROUP, "rolebindings roles", "", ALL),
        ],
    ),
    part(
        "system:aggregate-to-edit",
        "edit",
        &[
            (CORE, "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy", "", READ),
            (CORE, "serviceaccounts", "", "impersonate"),
            (CORE, "pods pods/attach pods/exec pods/portforward pods/proxy", "", CHANGE),
            (CORE, "pods/eviction", "", "create"),
            (
                CORE,
                "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
             serviceaccounts services services/proxy",
                "",
                CHANGE,
            ),
            (CORE, "serviceaccounts/token", "", "create"),
            (
                "apps",
                "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
             statefulsets/scale",
                "",
                CHANGE,
            ),
            ("autoscaling", "horizontalpodautoscalers", "", CHANGE),
            ("batch", "cronjobs jobs", "", CHANGE),
            ("policy", "poddisruptionbudgets", "", CHANGE),
            ("networking.k8s.io", "ingresses networkpolicies", "", CHANGE),
            ("coordination.k8s.io", "leases", "", ALL),
        ],
    ),
    part(
        "system:aggregate-to-view",
        "view",
        &[
            (
                CORE,
                "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers \
             replicationcontrollers/scale serviceaccounts services services/status",
                "",
                READ,
            ),
            (
                CORE,
                "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status \
             resourcequotas resourcequotas/status",
                "",
                READ,
            ),
            (CORE, "namespaces", "", READ),
            ("discovery.k8s.io", "endpointslices", "", READ),
            (
                "apps",
                "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status \
             replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
                "",
                READ,
            ),
            ("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status", "", READ),
            ("batch", "cronjobs cronjobs/status jobs jobs/status", "", READ),
            ("policy", "poddisruptionbudgets poddisruptionbudgets/status", "", READ),
            ("networking.k8s.io", "ingresses ingresses/status networkpolicies", "", READ),
        ],
    ),
    role(
        "system:auth-delegator",
        &[
            ("authentication.k8s.io", "tokenreviews", "", "create"),
            ("authorization.k8s.io", "subjectaccessreviews", "", "create"),
        ],
    ),
    role(
        "system:basic-user",
        &[
            ("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", "", "create"),
            ("authentication.k8s.io", "selfsubjectreviews", "", "create"),
        ],
    ),
    role(
        "system:discovery",
        &[(
            "",
            "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
            "",
            "get",
        )],
    ),
    role("system:public-info-viewer", &[("", "/healthz /livez /readyz /version /version/", "", "get")]),
    role(
        "system:monitoring",
        &[
            ("", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*", "", "get"),
            (CORE, "nodes/metrics", "", "get"),
        ],
    ),
    role(
        "system:service-account-issuer-discovery",
        &[(
            "",
            "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
            "",
            "get",
        )],
    ),
    role("system:kube-dns", &[(CORE, "endpoints services", "", "list watch")]),
    role(
        "system:node",
        &[
            ("authentication.k8s.io", "tokenreviews", "", "create"),
            ("authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews", "", "create"),
            (CORE, "services", "", READ),
            (CORE, "nodes", "", "create get list watch"),
            (CORE, "nodes/status", "", "patch update"),
            (CORE, "nodes", "", "patch update"),
            (CORE, "events", "", REPORT),
            (CORE, "pods", "", READ),
            (CORE, "pods", "", "create delete"),
            (CORE, "pods/status", "", "patch update"),
            (CORE, "pods/eviction", "", "create"),
            (CORE, "configmaps secrets", "", READ),
            (CORE, "persistentvolumeclaims persistentvolumes", "", "get"),
            (CORE, "endpoints", "", "get"),
            ("coordination.k8s.io", "leases", "", "create delete get patch update"),
            (CORE, "serviceaccounts/token", "", "create"),
            (CORE, "serviceaccounts", "", "get"),
        ],
    ),
    role(
        "system:node-proxier",
        &[
            (CORE, "endpoints services", "", "list watch"),
            (CORE, "nodes", "", READ),
            ("core events.k8s.io", "events", "", REPORT),
            ("networking.k8s.io", "servicecidrs", "", "list watch"),
            ("discovery.k8s.io", "endpointslices", "", "list watch"),
        ],
    ),
    role(
        "system:kube-controller-manager",
        &[
            ("core events.k8s.io", "events", "", REPORT),
            ("coordination.k8s.io", "leases", "", "create"),
            ("coordination.k8s.io", "leases", "kube-controller-manager", "get update"),
            (CORE, "secrets serviceaccounts", "", "create"),
            (CORE, "secrets", "", "delete"),
            (CORE, "configmaps namespaces secrets serviceaccounts", "", "get"),
            (CORE, "secrets serviceaccounts", "", "update"),
            ("authentication.k8s.io", "tokenreviews", "", "create"),
            ("authorization.k8s.io", "subjectaccessreviews", "", "create"),
            ("*", "*", "", "list watch"),
            (CORE, "serviceaccounts/token", "", "create"),
        ],
    ),
    role(
        "system:kube-scheduler",
        &[
            ("core events.k8s.io", "events", "", REPORT),
            ("coordination.k8s.io", "leases", "", "create"),
            ("coordination.k8s.io", "leases", "kube-scheduler", "get list update watch"),
            (CORE, "nodes", "", READ),
            (CORE, "pods", "", "delete get list watch"),
            (CORE, "bindings pods/binding", "", "create"),
            (CORE, "pods/status", "", "patch update"),
            (CORE, "replicationcontrollers services", "", READ),
            ("apps", "replicasets statefulsets", "", READ),
            ("policy", "poddisruptionbudgets", "", READ),
            (CORE, "persistentvolumeclaims persistentvolumes", "", READ),
            ("authentication.k8s.io", "tokenreviews", "", "create"),
            ("authorization.k8s.io", "subjectaccessreviews", "", "create"),
            (CORE, "namespaces", "", READ),
            (CORE, "pods/finalizers", "", "update"),
        ],
    ),
];

/// Roles of the cluster with the kind and name of each one's subjects.
const CLUSTER_ROLE_BINDINGS: &[(&str, &[(&str, &str)])] = &[
    ("cluster-admin", &[("Group", "system:masters")]),
    ("system:basic-user", &[("Group", "system:authenticated")]),
    ("system:discovery", &[("Group", "system:authenticated")]),
    ("system:monitoring", &[("Group", "system:monitoring")]),
    ("system:public-info-viewer", &[("Group", "system:authenticated"), ("Group", "system:unauthenticated")]),
    ("system:service-account-issuer-discovery", &[("Group", "system:serviceaccounts")]),
    ("system:kube-dns", &[("ServiceAccount", "kube-dns")]),
    ("system:kube-controller-manager", &[("User", "system:kube-controller-manager")]),
    ("system:kube-scheduler", &[("User", "system:kube-scheduler")]),
    ("system:node", &[]),
    ("system:node-proxier", &[("User", "system:kube-proxy")]),
];

/// All of them: the resource and the object.
pub(super) fn objects() -> impl Iterator<Item = (&'static str, Value)> {
    let roles = CLUSTER_ROLES.iter().map(|role| ("clusterroles", cluster_role(role)));
    let bindings =
        CLUSTER_ROLE_BINDINGS.iter().map(|(role, subjects)| ("clusterrolebindings", binding(role, subjects)));
    roles.chain(bindings)
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
}

fn cluster_role(role: &Role) -> Value {
    let rules: Vec<Value> = role.rules.iter().map(rule).collect();
    let mut object = json!({"metadata": metadata(role.name), "rules": rules});
    let key = |name: &str| format!("{GROUP}/aggregate-to-{name}");
    if let Some(by) = role.gathered_by
        && let Some(labels) = object.pointer_mut("/metadata/labels").and_then(Value::as_object_mut)
    {
        labels.insert(key(by), "true".into());
    }
    if role.gathers
        && let Some(map) = object.as_object_mut()
    {
        let selector = json!({"matchLabels": {key(role.name): "true"}});
        map.insert("aggregationRule".to_owned(), json!({"clusterRoleSelectors": [selector]}));
    }
    object
}

fn rule((groups, resources, names, verbs): &Rule) -> Value {
    let words = |text: &'static str| text.split_whitespace().collect::<Vec<&str>>();
    if groups.is_empty() {
        return json!({"nonResourceURLs": words(resources), "verbs": words(verbs)});
    }
    let groups: Vec<&str> =
        words(groups).into_iter().map(|group| if group == CORE { "" } else { group }).collect();
    let mut rule = json!({"apiGroups": groups, "resources": words(resources), "verbs": words(verbs)});
    if let (false, Some(map)) = (names.is_empty(), rule.as_object_mut()) {
        map.insert("resourceNames".to_owned(), json!(words(names)));
    }
    rule
}

fn binding(role: &str, subjects: &[(&str, &str)]) -> Value {
    let subject = |(kind, name): &(&str, &str)| match *kind {
        "ServiceAccount" => json!({"kind": kind, "name": name, "namespace": "kube-system"}),
        _ => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    };
    let mut object = json!({
        "metadata": metadata(role),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
    });
    if let (false, Some(map)) = (subjects.is_empty(), object.as_object_mut()) {
        map.insert("subjects".to_owned(), subjects.iter().map(subject).collect());
    }
    object
}
