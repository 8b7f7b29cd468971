//! `AdmissionReview`: from a question to its answer, without any I/O.

use std::collections::BTreeSet;

use api::convert;
use api::names;
use api::v1beta1::{EgressClusterInfo, EgressClusterPolicy, EgressGateway, EgressPolicy};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::policy::PolicyKey;
use plan::ClusterSnapshot;
use plan::admission::{
    ClusterInfoRequest, FieldError, GatewayDraft, GatewayRequest, Operation, PolicyDraft, PolicyRequest,
    Verdict, gateway_defaults, judge_cluster_info, judge_gateway, judge_policy, policy_defaults,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::draft;

/// The only version of reviews that there is.
const API_VERSION: &str = "admission.k8s.io/v1";

/// Which webhook is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// `/validate`
    Validate,
    /// `/mutate`
    Mutate,
}

impl Path {
    /// As metrics name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Mutate => "mutate",
        }
    }
}

/// The question.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Request,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: Gvk,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct Gvk {
    #[serde(default)]
    group: String,
    kind: String,
}

impl Review {
    /// Reads the body of a request; the error says why it can't be read.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let review: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if review.api_version != API_VERSION || review.kind != "AdmissionReview" {
            return Err(format!("not an AdmissionReview of {API_VERSION}"));
        }
        Ok(review)
    }
}

impl Request {
    /// The name is not in the request where the API server is yet to make it.
    fn name(&self) -> String {
        let in_object = || self.object.pointer("/metadata/name").and_then(Value::as_str);
        if self.name.is_empty() { in_object().unwrap_or_default().to_owned() } else { self.name.clone() }
    }
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// Why not; `None`: it is allowed.
    pub(super) refusal: Option<Refusal>,
    /// Operations of a JSON patch.
    pub(super) patch: Vec<Value>,
    pub(super) warnings: Vec<String>,
    /// Gateways that a refusal rests on.
    pub(super) gateways: BTreeSet<String>,
    /// Whether a default gateway was looked for and not found.
    pub(super) misses_default: bool,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    /// What a user reads.
    pub(super) message: String,
    errors: Vec<FieldError>,
}

impl Answer {
    /// The answer as it goes to the API server.
    pub(super) fn to_review(&self, review: &Review) -> Value {
        let request = &review.request;
        let mut response = json!({"uid": request.uid, "allowed": self.refusal.is_none()});
        let mut put = |key: &str, value: Value| {
            if let Some(response) = response.as_object_mut() {
                response.insert(key.to_owned(), value);
            }
        };
        if let Some(refusal) = &self.refusal {
            let causes = refusal.errors.iter().map(|error| {
                json!({"reason": error.kind.reason(), "message": error.detail(), "field": error.field})
            });
            put(
                "status",
                json!({
                    "status": "Failure", "code": 403, "reason": "Forbidden", "message": refusal.message,
                    "details": {
                        "name": request.name(), "group": request.kind.group, "kind": request.kind.kind,
                        "causes": causes.collect::<Vec<_>>(),
                    },
                }),
            );
        }
        if !self.patch.is_empty() {
            put("patchType", "JSONPatch".into());
            put("patch", STANDARD.encode(Value::from(self.patch.clone()).to_string()).into());
        }
        if !self.warnings.is_empty() {
            put("warnings", self.warnings.clone().into());
        }
        json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
    }

    fn of(request: &Request, verdict: Verdict) -> Self {
        let refusal = (!verdict.is_allowed())
            .then(|| Refusal { message: message(request, &verdict.errors), errors: verdict.errors });
        let Verdict { warnings, gateways, misses_default, .. } = verdict;
        Self { refusal, patch: Vec::new(), warnings, gateways, misses_default }
    }
}

fn message(request: &Request, errors: &[FieldError]) -> String {
    let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let list = if let [one] = list.as_slice() { one.clone() } else { format!("[{}]", list.join(", ")) };
    let what = format!("{}.{} {:?}", request.kind.kind, request.kind.group, request.name());
    if request.operation == "DELETE" {
        format!("{what}: {list}")
    } else {
        format!("{what} is invalid: {list}")
    }
}

/// Answers a review. What is none of our business is allowed.
pub(super) fn answer(path: Path, review: &Review, snapshot: &ClusterSnapshot) -> Answer {
    let request = &review.request;
    let operation = match request.operation.as_str() {
        "CREATE" => Operation::Create,
        "UPDATE" => Operation::Update,
        "DELETE" => Operation::Delete,
        _ => return Answer::default(),
    };
    if request.kind.group != names::GROUP || !request.sub_resource.is_empty() {
        return Answer::default();
    }
    let answered = match request.kind.kind.as_str() {
        "EgressGateway" => gateway(path, request, operation, snapshot),
        "EgressPolicy" => policy::<EgressPolicy>(path, request, operation, snapshot, draft::policy),
        "EgressClusterPolicy" => {
            policy::<EgressClusterPolicy>(path, request, operation, snapshot, draft::cluster_policy)
        }
        "EgressClusterInfo" => cluster_info(path, request, operation),
        _ => Ok(Answer::default()),
    };
    match (answered, path) {
        (Ok(answer), _) => answer,
        // The API server judges the types of fields next, and has the better words.
        (Err(_), Path::Mutate) => Answer::default(),
        (Err(problem), Path::Validate) => {
            let error = FieldError::of_field("spec", plan::admission::Kind::Invalid, problem);
            let errors = vec![error];
            Answer {
                refusal: Some(Refusal { message: message(request, &errors), errors }),
                ..Answer::default()
            }
        }
    }
}

/// The objects of a request; of a deletion only the old one is there.
fn objects<K: DeserializeOwned, T>(
    request: &Request,
    read: impl Fn(&K) -> T,
) -> Result<(Option<T>, Option<T>), String> {
    let parse = |value: &Value| (!value.is_null()).then(|| K::deserialize(value)).transpose();
    let new = parse(&request.object).map_err(|error| format!("can't be read: {error}"))?;
    // What is stored and can't be read may be mended.
    let old = parse(&request.old_object).ok().flatten();
    Ok((old.as_ref().map(&read), new.as_ref().map(&read)))
}

fn gateway(
    path: Path,
    request: &Request,
    operation: Operation,
    snapshot: &ClusterSnapshot,
) -> Result<Answer, String> {
    let (old, new): (Option<GatewayDraft>, _) = objects::<EgressGateway, _>(request, draft::gateway)?;
    let name = request.name();
    let judged = GatewayRequest { operation, name: &name, old: old.as_ref(), new: new.as_ref() };
    if path == Path::Validate {
        return Ok(Answer::of(request, judge_gateway(snapshot, judged)));
    }
    let defaults = gateway_defaults(snapshot, judged);
    let mut patch = Vec::new();
    if let Some(address) = defaults.default_v4 {
        patch.push(add("/spec/ippools/ipv4DefaultEIP", address.to_string()));
    }
    if let Some(address) = defaults.default_v6 {
        patch.push(add("/spec/ippools/ipv6DefaultEIP", address.to_string()));
    }
    if defaults.finalizer {
        let has_some = request.object.pointer("/metadata/finalizers").is_some_and(Value::is_array);
        patch.push(if has_some {
            add("/metadata/finalizers/-", names::FINALIZER_GATEWAY)
        } else {
            add("/metadata/finalizers", vec![names::FINALIZER_GATEWAY])
        });
    }
    Ok(Answer { patch, ..Answer::default() })
}

fn policy<K: DeserializeOwned>(
    path: Path,
    request: &Request,
    operation: Operation,
    snapshot: &ClusterSnapshot,
    read: impl Fn(&K) -> PolicyDraft,
) -> Result<Answer, String> {
    let (old, new) = objects(request, read)?;
    let namespace = Some(request.namespace.clone()).filter(|namespace| !namespace.is_empty());
    let key = PolicyKey { namespace, name: request.name() };
    let judged = PolicyRequest { operation, key: &key, old: old.as_ref(), new: new.as_ref() };
    if path == Path::Validate {
        return Ok(Answer::of(request, judge_policy(snapshot, judged)));
    }
    let defaults = policy_defaults(snapshot, judged);
    let names_none = new.as_ref().is_some_and(|new| new.fields.gateway.is_empty());
    let misses_default = operation == Operation::Create && names_none && defaults.gateway.is_none();
    let mut patch = Vec::new();
    // Without a spec there is nothing to fill, and the API server refuses the object.
    if request.object.get("spec").is_some_and(Value::is_object) {
        if let Some(gateway) = defaults.gateway {
            patch.push(add("/spec/egressGatewayName", gateway));
        }
        if defaults.egress_ip {
            patch.push(add("/spec/egressIP", json!({"allocatorPolicy": "default"})));
        }
    }
    Ok(Answer { patch, misses_default, ..Answer::default() })
}

fn cluster_info(path: Path, request: &Request, operation: Operation) -> Result<Answer, String> {
    if path == Path::Mutate {
        return Ok(Answer::default());
    }
    let (old, new) = objects(request, EgressClusterInfo::clone)?;
    let problems = new.as_ref().map(convert::cluster_info_problems).unwrap_or_default();
    let is_unchanged = old.is_some() && old.map(|old| old.spec) == new.map(|new| new.spec);
    let judged = ClusterInfoRequest { operation, name: &request.name(), is_unchanged, problems: &problems };
    Ok(Answer::of(request, judge_cluster_info(judged)))
}

fn add(path: &str, value: impl Into<Value>) -> Value {
    json!({"op": "add", "path": path, "value": value.into()})
}
