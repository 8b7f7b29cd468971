//! Deleting: preconditions, grace, finalizers and propagation.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::builtin;
use crate::collect::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER};
use crate::meta;
use crate::resource::ResourceInfo;
use crate::status_error::StatusError;
use crate::store::admission::Change;
use crate::store::objects::{Key, Store};
use crate::store::update::may_go;
use crate::store::{
    Context, DeleteOptions, DeleteOutcome, ListRequest, ListResult, Propagation, Subresource, Target,
};

/// Namespaces that the cluster itself needs.
const PROTECTED_NAMESPACES: [&str; 3] = ["default", "kube-system", "kube-public"];

impl DeleteOptions {
    /// Reads a `DeleteOptions` body.
    pub fn from_json(body: &Value) -> Result<Self, StatusError> {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let grace_period_seconds = match body.get("gracePeriodSeconds") {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.as_i64().filter(|seconds| *seconds >= 0).ok_or_else(|| {
                StatusError::bad_request("gracePeriodSeconds must be a non-negative number of seconds")
            })?),
        };
        let policy = text("/propagationPolicy").map(|policy| Propagation::parse(&policy)).transpose()?;
        let orphan = body.get("orphanDependents").and_then(Value::as_bool);
        let by_orphan =
            orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background });
        Ok(Self {
            dry_run: body.get("dryRun").and_then(Value::as_array).is_some_and(|list| !list.is_empty()),
            grace_period_seconds,
            propagation: policy.or(by_orphan),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            requester: None,
        })
    }
}

impl Propagation {
    /// Reads a `propagationPolicy`.
    pub fn parse(text: &str) -> Result<Self, StatusError> {
        match text {
            "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            "Orphan" => Ok(Self::Orphan),
            other => {
                let supported = ["Foreground", "Background", "Orphan", "nil"].map(|text| format!("{text:?}"));
                let error = crate::status_error::FieldError::not_supported(
                    "propagationPolicy",
                    &Value::from(other),
                    [],
                )
                .with_detail(format!("supported values: {}", supported.join(", ")));
                Err(StatusError::invalid_kind("meta.k8s.io", "DeleteOptions", "", &[error]))
            }
        }
    }
}

/// How an object looks once its deletion was asked for.
struct Marked {
    object: Value,
    changed: bool,
}

impl Store {
    /// Deletes an object, or marks it if finalizers or a grace period keep it.
    pub fn delete(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<DeleteOutcome, StatusError> {
        let info = &target.resource;
        let entry = self.find(target)?;
        let stored = Arc::clone(&entry.object);
        let shown = Self::present(info, entry);
        check_allowed(info, &stored)?;
        check_preconditions(info, &stored, options)?;
        let change = Change {
            info,
            subresource: Subresource::Main,
            new: None,
            old: Some(&shown),
            dry_run: options.dry_run,
        };
        self.mutated(&change, options.requester.as_ref())?;
        self.admit(&change, options.requester.as_ref())?;
        let marked = mark(info, &shown, options, ctx.now);
        if may_go(info, &marked.object) {
            if options.dry_run {
                return Ok(DeleteOutcome { object: shown, gone: true });
            }
            let last = self.remove(&info.group_resource(), &Key::of(&stored), ctx.now);
            let object = last.unwrap_or(stored);
            return Ok(DeleteOutcome { object, gone: true });
        }
        let object = match marked.changed {
            false => shown,
            true if options.dry_run => Arc::new(marked.object),
            true => self.commit(info, marked.object, ctx.now),
        };
        Ok(DeleteOutcome { object, gone: false })
    }

    /// Deletes all objects that the request selects; the answer is the list of them.
    pub fn delete_collection(
        &mut self,
        ctx: &mut Context<'_>,
        info: &Arc<ResourceInfo>,
        request: &ListRequest,
        options: &DeleteOptions,
    ) -> Result<ListResult, StatusError> {
        let mut result = self.list(info, request)?;
        let mut deleted = Vec::with_capacity(result.items.len());
        for object in std::mem::take(&mut result.items) {
            let target = Target {
                resource: Arc::clone(info),
                namespace: info.namespaced.then(|| meta::namespace(&object).to_owned()),
                name: meta::name(&object).to_owned(),
            };
            match self.delete(ctx, &target, options) {
                Ok(outcome) => deleted.push(outcome.object),
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        result.items = deleted;
        Ok(result)
    }
}

fn check_allowed(info: &ResourceInfo, object: &Value) -> Result<(), StatusError> {
    let name = meta::name(object);
    let namespace = info.builtin && info.gvk.group.is_empty() && info.plural == "namespaces";
    if namespace && PROTECTED_NAMESPACES.contains(&name) {
        return Err(StatusError::forbidden(info, name, "this namespace may not be deleted"));
    }
    Ok(())
}

fn check_preconditions(
    info: &ResourceInfo,
    object: &Value,
    options: &DeleteOptions,
) -> Result<(), StatusError> {
    let name = meta::name(object);
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != meta::uid(object)) {
        return Err(StatusError::uid_precondition(info, name, uid, meta::uid(object)));
    }
    let found = meta::resource_version(object);
    if let Some(version) = options.resource_version.as_deref().filter(|version| *version != found) {
        return Err(StatusError::version_precondition(info, name, version, found));
    }
    Ok(())
}

fn mark(info: &ResourceInfo, old: &Value, options: &DeleteOptions, now: Timestamp) -> Marked {
    let first = !meta::is_deleting(old);
    let mut object = old.clone();
    set_propagation(&mut object, options.propagation);
    let grace = builtin::grace_seconds(info, old, options.grace_period_seconds);
    let before = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    if first || grace < before {
        let at = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
        let metadata = meta::metadata_mut(&mut object);
        metadata.insert("deletionTimestamp".to_owned(), Value::from(meta::timestamp(at)));
        metadata.insert("deletionGracePeriodSeconds".to_owned(), Value::from(grace));
    }
    if first && info.has_generation {
        let generation = meta::generation(old) + 1;
        meta::metadata_mut(&mut object).insert("generation".to_owned(), Value::from(generation));
    }
    builtin::mark_deleting(info, &mut object, now);
    let changed = object != *old;
    Marked { object, changed }
}

fn set_propagation(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers: Vec<String> = meta::finalizers(object)
        .filter(|finalizer| ![FOREGROUND_FINALIZER, ORPHAN_FINALIZER].contains(finalizer))
        .map(str::to_owned)
        .collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND_FINALIZER.to_owned()),
        Propagation::Orphan => finalizers.push(ORPHAN_FINALIZER.to_owned()),
    }
    let metadata = meta::metadata_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), Value::from(finalizers));
    }
}
