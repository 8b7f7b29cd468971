//! `AdmissionReview`: the question to a webhook, and what its answer means.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Attributes;
use crate::limits::Limits;
use crate::patch;
use crate::status_error::{Cause, Details, StatusError};

/// The `request` of a review.
pub(crate) fn request(attributes: &Attributes, uid: &str) -> Value {
    let Attributes { resource, kind, subresource, operation, namespace, name, .. } = attributes;
    let kind = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let resource =
        json!({"group": resource.gvk.group, "version": resource.gvk.version, "resource": resource.plural});
    let mut request = Map::new();
    let mut put = |key: &str, value: Value| {
        request.insert(key.to_owned(), value);
    };
    put("uid", uid.into());
    put("kind", kind.clone());
    put("resource", resource.clone());
    put("requestKind", kind);
    put("requestResource", resource);
    for (key, text) in [
        ("subResource", *subresource),
        ("requestSubResource", *subresource),
        ("name", name.as_str()),
        ("namespace", namespace.as_str()),
    ] {
        if !text.is_empty() {
            put(key, text.into());
        }
    }
    put("operation", operation.name().into());
    put("userInfo", attributes.user.to_json());
    put("object", attributes.object.clone());
    put("oldObject", attributes.old.clone());
    put("dryRun", attributes.dry_run.into());
    put("options", attributes.options.clone());
    Value::Object(request)
}

/// The review of a request.
pub(crate) fn review(attributes: &Attributes, uid: &str) -> Value {
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request(attributes, uid)})
}

/// What a webhook said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The refusal, if it is one.
    pub(crate) denied: Option<StatusError>,
    /// Operations on the object; null if there are none.
    pub(crate) patch: Value,
    pub(crate) warnings: Vec<String>,
}

/// Reads an answer; the error says why it makes no sense.
pub(crate) fn verdict(webhook: &str, uid: &str, answer: &Value) -> Result<Verdict, String> {
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/kind") != "AdmissionReview" || text("/apiVersion") != "admission.k8s.io/v1" {
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind={}",
            text("/apiVersion"),
            text("/kind")
        ));
    }
    let Some(response) = answer.get("response").filter(|response| response.is_object()) else {
        return Err("webhook response was absent".to_owned());
    };
    if text("/response/uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text("/response/uid")));
    }
    let encoded = text("/response/patch");
    let patch = if encoded.is_empty() {
        Value::Null
    } else if text("/response/patchType") == "JSONPatch" {
        let bytes = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())?
    } else {
        return Err(format!("webhook returned response.patchType={:?}", text("/response/patchType")));
    };
    let allowed = response.get("allowed").and_then(Value::as_bool).unwrap_or(false);
    let warnings = response.get("warnings").and_then(Value::as_array).into_iter().flatten();
    Ok(Verdict {
        denied: (!allowed).then(|| denial(webhook, response.get("status").unwrap_or(&Value::Null))),
        patch,
        warnings: warnings.filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}

fn denial(webhook: &str, status: &Value) -> StatusError {
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let by = format!("admission webhook {webhook:?} denied the request");
    let (message, reason) = (text(status, "message"), text(status, "reason"));
    let message = match (message.as_str(), reason.as_str()) {
        ("", "") => format!("{by} without explanation"),
        ("", why) | (why, _) => format!("{by}: {why}"),
    };
    let code = status.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let error =
        StatusError::new(code.filter(|code| (400..600).contains(code)).unwrap_or(400), &reason, message);
    let Some(details) = status.get("details").filter(|details| details.is_object()) else { return error };
    let causes = details.get("causes").and_then(Value::as_array).into_iter().flatten();
    error.with_details(Details {
        name: text(details, "name"),
        group: text(details, "group"),
        kind: text(details, "kind"),
        uid: text(details, "uid"),
        causes: causes
            .map(|cause| Cause {
                reason: text(cause, "reason"),
                message: text(cause, "message"),
                field: text(cause, "field"),
            })
            .collect(),
        retry_after_seconds: details
            .get("retryAfterSeconds")
            .and_then(Value::as_u64)
            .and_then(|seconds| u32::try_from(seconds).ok()),
    })
}

/// The object after a webhook's operations; kind, name and namespace stay what they are.
pub(crate) fn patched(object: &Value, operations: &Value, limits: &Limits) -> Result<Value, String> {
    if operations.is_null() {
        return Ok(object.clone());
    }
    patch::apply_json(object, operations, limits).map_err(|error| error.to_string())
}
