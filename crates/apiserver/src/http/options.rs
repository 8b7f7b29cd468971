//! Options of reads and writes, out of queries.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Call, Query};
use crate::admission::Requester;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status_error::{FieldError, FieldProblem, StatusError};
use crate::store::{DeleteOptions, FieldValidation, ListRequest, Propagation, WatchRequest, WriteOptions};

/// Longest name of a field manager.
const FIELD_MANAGER_BYTES_MAX: usize = 128;

fn owned(query: &Query, name: &str) -> Option<String> {
    query.text(name).map(str::to_owned)
}

/// What a list is about.
pub(super) fn list(call: &Call) -> Result<ListRequest, StatusError> {
    let query = &call.query;
    query.number("timeoutSeconds")?;
    Ok(ListRequest {
        namespace: call.namespace.clone(),
        labels: LabelSelector::parse(query.text("labelSelector").unwrap_or_default())?,
        fields: FieldSelector::parse(query.text("fieldSelector").unwrap_or_default())?,
        limit: query.number("limit")?.map_or(0, |limit| u64::try_from(limit).unwrap_or(0)),
        continue_token: owned(query, "continue"),
        resource_version: owned(query, "resourceVersion"),
        resource_version_match: owned(query, "resourceVersionMatch"),
        send_initial_events: query.optional_flag("sendInitialEvents"),
    })
}

/// What a watch is about.
pub(super) fn watch(call: &Call) -> Result<WatchRequest, StatusError> {
    let list = list(call)?;
    let fields = match &call.name {
        // A watch on an object's own path is a watch of the collection for that name.
        Some(name) => FieldSelector::parse(&format!("metadata.name={name}"))?,
        None => list.fields,
    };
    Ok(WatchRequest {
        namespace: list.namespace,
        labels: list.labels,
        fields,
        resource_version: list.resource_version,
        resource_version_match: list.resource_version_match,
        send_initial_events: list.send_initial_events,
        allow_bookmarks: call.query.flag("allowWatchBookmarks"),
    })
}

/// How something is written; `kind` names the options in errors, such as `CreateOptions`.
pub(super) fn write(call: &Call, kind: &str) -> Result<WriteOptions, StatusError> {
    let query = &call.query;
    let refuse = |error: FieldError| StatusError::invalid_kind("meta.k8s.io", kind, "", &[error]);
    let field_validation = match query.text("fieldValidation") {
        None | Some("Warn") => FieldValidation::Warn,
        Some("Ignore") => FieldValidation::Ignore,
        Some("Strict") => FieldValidation::Strict,
        Some(other) => {
            let supported = ["", "Ignore", "Strict", "Warn"];
            return Err(refuse(FieldError::not_supported("fieldValidation", &Value::from(other), supported)));
        }
    };
    let field_manager = owned(query, "fieldManager");
    if field_manager.as_ref().is_some_and(|manager| manager.len() > FIELD_MANAGER_BYTES_MAX) {
        let why = format!("may not be more than {FIELD_MANAGER_BYTES_MAX} bytes");
        return Err(refuse(FieldError::new("fieldManager", FieldProblem::TooLong, why)));
    }
    if let Some((at, bad)) =
        field_manager.iter().flat_map(|manager| manager.chars().enumerate()).find(|(_, c)| c.is_control())
    {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(bad));
        let manager = Value::from(field_manager.as_deref());
        return Err(refuse(FieldError::invalid("fieldManager", &manager, why)));
    }
    Ok(WriteOptions {
        dry_run: dry_run(query, kind)?,
        field_manager: field_manager.or_else(|| user_agent_manager(call)),
        field_validation,
        force: query.flag("force"),
        requester: Some(requester(call, kind, dry_run(query, kind)?)),
    })
}

/// Who asks, with the options as admission shows them.
fn requester(call: &Call, kind: &str, dry_run: bool) -> Arc<Requester> {
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if let Some(map) = options.as_object_mut() {
        for key in ["fieldManager", "fieldValidation"] {
            if let Some(text) = call.query.text(key) {
                map.insert(key.to_owned(), text.into());
            }
        }
        if dry_run {
            map.insert("dryRun".to_owned(), json!(["All"]));
        }
    }
    Arc::new(Requester::new(Arc::clone(&call.user), options))
}

/// Who writes if the request doesn't say: the program's name in the User-Agent.
fn user_agent_manager(call: &Call) -> Option<String> {
    let agent = call.headers.get(http::header::USER_AGENT)?.to_str().ok()?;
    let program = agent.split('/').next().unwrap_or_default();
    Some(program.chars().take(FIELD_MANAGER_BYTES_MAX).collect())
}

fn dry_run(query: &Query, kind: &str) -> Result<bool, StatusError> {
    let values: Vec<&str> = query.all("dryRun").filter(|value| !value.is_empty()).collect();
    if values.iter().any(|value| *value != "All") {
        let error = FieldError::not_supported("dryRun", &Value::from(values), ["All"]);
        return Err(StatusError::invalid_kind("meta.k8s.io", kind, "", &[error]));
    }
    Ok(!values.is_empty())
}

/// How something is deleted: the body's options, and those of the query only if there is no body.
pub(super) fn delete(call: &Call, body: &Value) -> Result<DeleteOptions, StatusError> {
    let query = &call.query;
    let mut options = DeleteOptions::from_json(body)?;
    options.requester = Some(requester(call, "DeleteOptions", false));
    if !body.is_null() {
        return Ok(options);
    }
    options.dry_run = dry_run(query, "DeleteOptions")?;
    if options.grace_period_seconds.is_none() {
        options.grace_period_seconds = query.number("gracePeriodSeconds")?.map(|seconds| seconds.max(0));
    }
    if options.propagation.is_none() {
        options.propagation = query.text("propagationPolicy").map(Propagation::parse).transpose()?;
        if let (None, Some(orphan)) = (options.propagation, query.optional_flag("orphanDependents")) {
            options.propagation = Some(if orphan { Propagation::Orphan } else { Propagation::Background });
        }
    }
    Ok(options)
}
