//! Which kinds are built in, and how they are served.

use crate::resource::{Gvk, ResourceInfo, ScalePaths, SubresourceInfo};

const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// One row of the table of built-in kinds.
struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    traits: &'static [Trait],
    fields: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trait {
    /// There is a status subresource.
    Status,
    /// Writes count `metadata.generation`.
    Generation,
    /// The kind is in category `all`.
    All,
    /// There is a scale subresource.
    Scale,
    /// A PUT has to carry a resource version.
    Conditional,
    /// A PUT of a missing object creates it.
    Upsert,
    /// The kind is in category `api-extensions`.
    Extension,
    /// The kind is answered and not stored: it can be created and nothing else.
    Review,
}

use Trait::{All, Conditional, Extension, Generation, Review, Scale, Status, Upsert};

const RBAC: &str = "rbac.authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];
const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const NEW_EVENT_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "reason",
    "reportingController",
    "type",
];

const fn row(
    (group, version): (&'static str, &'static str),
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    traits: &'static [Trait],
    fields: &'static [&'static str],
) -> Row {
    Row { group, version, kind, plural, short, namespaced, traits, fields }
}

const ROWS: &[Row] = &[
    row(("", "v1"), "Namespace", "namespaces", &["ns"], false, &[Status], &["status.phase"]),
    row(("", "v1"), "Node", "nodes", &["no"], false, &[Status], &["spec.unschedulable"]),
    row(("", "v1"), "Pod", "pods", &["po"], true, &[Status, Generation, All], POD_FIELDS),
    row(("", "v1"), "ConfigMap", "configmaps", &["cm"], true, &[], &[]),
    row(("", "v1"), "Secret", "secrets", &[], true, &[], &["type"]),
    row(("", "v1"), "ServiceAccount", "serviceaccounts", &["sa"], true, &[], &[]),
    row(("", "v1"), "Service", "services", &["svc"], true, &[Status, All], &["spec.clusterIP", "spec.type"]),
    row(("", "v1"), "Endpoints", "endpoints", &["ep"], true, &[], &[]),
    row(("", "v1"), "Event", "events", &["ev"], true, &[], EVENT_FIELDS),
    row(("events.k8s.io", "v1"), "Event", "events", &["ev"], true, &[], NEW_EVENT_FIELDS),
    row(
        ("apps", "v1"),
        "Deployment",
        "deployments",
        &["deploy"],
        true,
        &[Status, Generation, All, Scale],
        &[],
    ),
    row(
        ("apps", "v1"),
        "ReplicaSet",
        "replicasets",
        &["rs"],
        true,
        &[Status, Generation, All, Scale],
        &["status.replicas"],
    ),
    row(("apps", "v1"), "DaemonSet", "daemonsets", &["ds"], true, &[Status, Generation, All], &[]),
    row(
        ("apps", "v1"),
        "StatefulSet",
        "statefulsets",
        &["sts"],
        true,
        &[Status, Generation, All, Scale],
        &[],
    ),
    row(("batch", "v1"), "Job", "jobs", &[], true, &[Status, Generation, All], &["status.successful"]),
    row(("batch", "v1"), "CronJob", "cronjobs", &["cj"], true, &[Status, Generation, All], &[]),
    row(("networking.k8s.io", "v1"), "Ingress", "ingresses", &["ing"], true, &[Status, Generation], &[]),
    row(
        ("networking.k8s.io", "v1"),
        "NetworkPolicy",
        "networkpolicies",
        &["netpol"],
        true,
        &[Generation],
        &[],
    ),
    row(("", "v1"), "ResourceQuota", "resourcequotas", &["quota"], true, &[Status], &[]),
    row(("", "v1"), "LimitRange", "limitranges", &["limits"], true, &[], &[]),
    row(("apps", "v1"), "ControllerRevision", "controllerrevisions", &[], true, &[], &[]),
    row(("discovery.k8s.io", "v1"), "EndpointSlice", "endpointslices", &[], true, &[Generation], &[]),
    row(("coordination.k8s.io", "v1"), "Lease", "leases", &[], true, &[Conditional, Upsert], &[]),
    row(
        ("policy", "v1"),
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        &["pdb"],
        true,
        &[Status, Generation],
        &[],
    ),
    row(("scheduling.k8s.io", "v1"), "PriorityClass", "priorityclasses", &["pc"], false, &[Generation], &[]),
    row((RBAC, "v1"), "Role", "roles", &[], true, &[], &[]),
    row((RBAC, "v1"), "RoleBinding", "rolebindings", &[], true, &[], &[]),
    row((RBAC, "v1"), "ClusterRole", "clusterroles", &[], false, &[], &[]),
    row((RBAC, "v1"), "ClusterRoleBinding", "clusterrolebindings", &[], false, &[], &[]),
    row(
        ("apiextensions.k8s.io", "v1"),
        "CustomResourceDefinition",
        "customresourcedefinitions",
        &["crd", "crds"],
        false,
        &[Status, Generation, Conditional, Extension],
        &[],
    ),
    row(
        (ADMISSION, "v1"),
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        &[],
        false,
        &[Generation, Conditional, Extension],
        &[],
    ),
    row(
        (ADMISSION, "v1"),
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        &[],
        false,
        &[Generation, Conditional, Extension],
        &[],
    ),
    row(
        (ADMISSION, "v1"),
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        &[],
        false,
        &[Status, Generation, Extension],
        &[],
    ),
    row(
        (ADMISSION, "v1"),
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        &[],
        false,
        &[Generation, Extension],
        &[],
    ),
    row((AUTHENTICATION, "v1"), "SelfSubjectReview", "selfsubjectreviews", &[], false, &[Review], &[]),
    row((AUTHENTICATION, "v1"), "TokenReview", "tokenreviews", &[], false, &[Review], &[]),
    row(
        (AUTHORIZATION, "v1"),
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        &[],
        true,
        &[Review],
        &[],
    ),
    row(
        (AUTHORIZATION, "v1"),
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        &[],
        false,
        &[Review],
        &[],
    ),
    row(
        (AUTHORIZATION, "v1"),
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        &[],
        false,
        &[Review],
        &[],
    ),
    row((AUTHORIZATION, "v1"), "SubjectAccessReview", "subjectaccessreviews", &[], false, &[Review], &[]),
];

/// Subresources that only some kinds have: plural, name, kind that they answer, verbs.
type Extra =
    (&'static str, &'static str, (&'static str, &'static str, &'static str), &'static [&'static str]);

const EXTRA_SUBRESOURCES: &[Extra] = &[
    ("pods", "attach", ("", "v1", "PodAttachOptions"), &["create", "get"]),
    ("pods", "binding", ("", "v1", "Binding"), &["create"]),
    ("pods", "eviction", ("policy", "v1", "Eviction"), &["create"]),
    ("pods", "exec", ("", "v1", "PodExecOptions"), &["create", "get"]),
    ("pods", "log", ("", "v1", "Pod"), &["get"]),
    ("pods", "portforward", ("", "v1", "PodPortForwardOptions"), &["create", "get"]),
    ("namespaces", "finalize", ("", "v1", "Namespace"), &["update"]),
    ("serviceaccounts", "token", (AUTHENTICATION, "v1", "TokenRequest"), &["create"]),
];

/// `storageVersionHash` of legacy discovery: equal as long as the storage version is.
pub(crate) fn storage_version_hash(gvk: &Gvk) -> String {
    use base64::Engine as _;
    let text = format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind);
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest.as_ref().get(..8).unwrap_or_default())
}

/// All built-in resources, without their schemas.
pub(super) fn resources() -> Vec<ResourceInfo> {
    ROWS.iter().map(info).collect()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn info(row: &Row) -> ResourceInfo {
    let has = |wanted: Trait| row.traits.contains(&wanted);
    let gvk = Gvk::new(row.group, row.version, row.kind);
    // Namespaces are not deleted by collection.
    let verbs = ALL_VERBS
        .iter()
        .filter(|verb| row.plural != "namespaces" || **verb != "deletecollection")
        .filter(|verb| !has(Review) || **verb == "create");
    let categories = [(All, "all"), (Extension, "api-extensions")];
    ResourceInfo {
        list_kind: format!("{}List", row.kind),
        plural: row.plural.to_owned(),
        singular: row.kind.to_lowercase(),
        short_names: owned(row.short),
        categories: categories
            .iter()
            .filter(|(wanted, _)| has(*wanted))
            .map(|(_, name)| (*name).to_owned())
            .collect(),
        namespaced: row.namespaced,
        verbs: verbs.map(|verb| (*verb).to_owned()).collect(),
        has_status: has(Status),
        has_generation: has(Generation),
        unconditional_update: !has(Conditional),
        create_on_update: has(Upsert),
        scale: has(Scale).then(|| ScalePaths {
            spec_replicas: ".spec.replicas".to_owned(),
            status_replicas: ".status.replicas".to_owned(),
            selector: Some(".spec.selector".to_owned()),
        }),
        subresources: subresources(row, &gvk),
        printer_columns: Vec::new(),
        schema: None,
        compiled: None,
        builtin: true,
        storage_version: row.version.to_owned(),
        storage_version_hash: storage_version_hash(&gvk),
        selectable_fields: owned(row.fields),
        schema_since: 0,
        terminating: false,
        deprecation_warning: None,
        gvk,
    }
}

fn subresources(row: &Row, gvk: &Gvk) -> Vec<SubresourceInfo> {
    let mut all = Vec::new();
    let written = owned(&["get", "patch", "update"]);
    if row.group.is_empty() {
        for (_, name, (group, version, kind), verbs) in
            EXTRA_SUBRESOURCES.iter().filter(|extra| extra.0 == row.plural)
        {
            let gvk = Gvk::new(group, version, kind);
            all.push(SubresourceInfo { name: (*name).to_owned(), gvk, verbs: owned(verbs) });
        }
    }
    if row.traits.contains(&Scale) {
        let gvk = Gvk::new("autoscaling", "v1", "Scale");
        all.push(SubresourceInfo { name: "scale".to_owned(), gvk, verbs: written.clone() });
    }
    if row.traits.contains(&Status) {
        all.push(SubresourceInfo { name: "status".to_owned(), gvk: gvk.clone(), verbs: written });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}
