//! Replacing objects and their status.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::builtin;
use crate::meta;
use crate::ownership;
use crate::resource::ResourceInfo;
use crate::status_error::{FieldError, StatusError};
use crate::store::admission::Change;
use crate::store::applying::{Author, Owners, after_update, managed_fields, set_managed_fields};
use crate::store::create::{Decoded, decode, settle_namespace};
use crate::store::objects::{Entry, Key, Store};
use crate::store::{Body, Context, Subresource, Target, WriteOptions, Written};

impl Store {
    /// Replaces an object, its status, its scale or a namespace's finalizers.
    pub fn update(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Target,
        subresource: Subresource,
        body: impl Into<Body>,
        options: &WriteOptions,
    ) -> Result<Written, StatusError> {
        let info = &target.resource;
        let body = body.into();
        if subresource == Subresource::Scale {
            return self.update_scale(ctx, target, &body.value, options);
        }
        let Decoded { mut value, warnings } = decode(info, body, options.field_validation)?;
        check_name(target, &mut value)?;
        settle_namespace(info, target.namespace.as_deref(), &mut value)?;
        let old = match self.find(target) {
            Ok(entry) => Self::present(info, entry),
            Err(_) if info.create_on_update && subresource == Subresource::Main => {
                self.check_may_create(info, target.namespace.as_deref(), &target.name, options)?;
                meta::metadata_mut(&mut value).remove("resourceVersion");
                return self.create(ctx, info, target.namespace.as_deref(), value, options);
            }
            Err(error) => return Err(error),
        };
        let uid = meta::uid(&value);
        if !uid.is_empty() && uid != meta::uid(&old) {
            let (namespace, found) = (meta::namespace(&old), meta::uid(&old));
            return Err(StatusError::other_uid(info, namespace, &target.name, uid, found));
        }
        if meta::resource_version(&value).is_empty() && !info.unconditional_update {
            return Err(StatusError::version_required(info, &target.name));
        }
        let object = self.replace(ctx, target, subresource, &old, value, Owners::Changed, options)?;
        Ok(Written { object, warnings, created: false })
    }

    /// Stores `new` in place of `old`; both in the version of the request, `new` decoded and defaulted.
    #[allow(clippy::too_many_arguments, reason = "all writes of existing objects meet here")]
    pub(super) fn replace(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Target,
        subresource: Subresource,
        old: &Arc<Value>,
        mut new: Value,
        owners: Owners,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, StatusError> {
        let info = &target.resource;
        let given = meta::metadata_mut(&mut new).remove("managedFields").filter(|given| !given.is_null());
        check_preconditions(info, old, &new)?;
        restrict(info, subresource, old, &mut new);
        keep_system_fields(info, old, &mut new);
        if info.builtin {
            builtin::prepare_update(info, subresource, old, &mut new);
        }
        let requester = options.requester.as_ref();
        let before: Option<&Value> = Some(old);
        let mutated = self.mutated(&Change::to(&new, before, info, subresource, options), requester)?;
        let sent = mutated.map(|mutated| std::mem::replace(&mut new, mutated));
        if sent.is_some() {
            meta::metadata_mut(&mut new).remove("managedFields");
            restrict(info, subresource, old, &mut new);
            keep_system_fields(info, old, &mut new);
        }
        check_finalizers(info, old, &new)?;
        if info.has_generation && subresource != Subresource::Status && content_changed(info, old, &new) {
            let generation = meta::generation(old) + 1;
            meta::metadata_mut(&mut new).insert("generation".to_owned(), Value::from(generation));
        }
        let same = same_content(old, &new);
        let known = managed_fields(old);
        if same && matches!(owners, Owners::Changed) && (given.is_none() || given.as_ref() == known) {
            self.admit(&Change::to(old, before, info, subresource, options), requester)?;
            return Ok(Arc::clone(old));
        }
        let managed = match owners {
            Owners::Applied(entries) => ownership::encode(entries),
            Owners::Changed => {
                let author = Author::new(info, subresource, options, ctx.now);
                // What webhooks add belongs to nobody.
                after_update(info, old, sent.as_ref().unwrap_or(&new), given, &author)
            }
        };
        if same && ownership::same_but_for_time(known, managed.as_ref()) {
            self.admit(&Change::to(old, before, info, subresource, options), requester)?;
            return Ok(Arc::clone(old));
        }
        set_managed_fields(&mut new, managed);
        self.check_grants(info, &new, Some(old), options)?;
        self.validate(info, subresource, &new, Some(old))?;
        self.admit(&Change::to(&new, before, info, subresource, options), requester)?;
        self.check_room(&new, false)?;
        self.service_addresses.allocate(info, &mut new, Some(old), options.dry_run)?;
        if options.dry_run {
            return Ok(Arc::new(new));
        }
        if may_go(info, &new) {
            // The write that takes the last finalizer away deletes, and shows as one DELETED event.
            let last = self.remove(&info.group_resource(), &Key::of(old), ctx.now);
            return Ok(last.map_or_else(|| Arc::clone(old), |last| Self::present(info, &Entry::of(&last))));
        }
        Ok(self.commit(info, new, ctx.now))
    }
}

/// Whether nothing keeps an object any more that is being deleted.
pub(crate) fn may_go(info: &ResourceInfo, object: &Value) -> bool {
    if !meta::is_deleting(object) || meta::finalizers(object).next().is_some() {
        return false;
    }
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    let namespace = info.builtin && info.plural == "namespaces" && info.gvk.group.is_empty();
    let held = namespace
        && object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    grace == 0 && !held
}

pub(super) fn check_name(target: &Target, value: &mut Value) -> Result<(), StatusError> {
    match meta::name(value) {
        "" => {
            meta::metadata_mut(value).insert("name".to_owned(), Value::from(target.name.as_str()));
            Ok(())
        }
        given if given == target.name => Ok(()),
        given => Err(StatusError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            target.name
        ))),
    }
}

fn check_preconditions(info: &ResourceInfo, old: &Value, new: &Value) -> Result<(), StatusError> {
    let (version, uid) = (meta::resource_version(new), meta::uid(new));
    if !version.is_empty() && version.parse::<u64>().is_err() {
        return Err(StatusError::not_a_version(version));
    }
    if !uid.is_empty() && uid != meta::uid(old) {
        let error = FieldError::immutable("metadata.uid", &Value::from(uid));
        return Err(StatusError::invalid(info, meta::name(old), &[error.clone(), error]));
    }
    if !version.is_empty() && version != "0" && version != meta::resource_version(old) {
        return Err(StatusError::modified(info, meta::name(old)));
    }
    Ok(())
}

/// Takes over from `old` what the subresource may not change.
fn restrict(info: &ResourceInfo, subresource: Subresource, old: &Value, new: &mut Value) {
    match subresource {
        Subresource::Status => {
            let status = new.get("status").cloned();
            let metadata = new.get("metadata").cloned();
            *new = old.clone();
            let map = meta::map_of(new);
            set_or_remove(map, "status", status);
            if let Some(metadata) = metadata.filter(|_| info.builtin) {
                map.insert("metadata".to_owned(), metadata);
            }
        }
        Subresource::Finalize => {
            let finalizers = new.pointer("/spec/finalizers").cloned();
            *new = old.clone();
            set_or_remove(meta::map_mut(meta::map_of(new), "spec"), "finalizers", finalizers);
        }
        Subresource::Main | Subresource::Scale => {
            if info.has_status {
                set_or_remove(meta::map_of(new), "status", old.get("status").cloned());
            }
        }
    }
}

fn set_or_remove(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            map.insert(key.to_owned(), value);
        }
        None => {
            map.remove(key);
        }
    }
}

fn keep_system_fields(info: &ResourceInfo, old: &Value, new: &mut Value) {
    const KEPT: [&str; 7] = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ];
    let metadata = meta::metadata_mut(new);
    for key in KEPT {
        set_or_remove(metadata, key, meta::metadata(old).and_then(|old| old.get(key)).cloned());
    }
    metadata.remove("selfLink");
    if !info.namespaced {
        metadata.remove("namespace");
    }
}

fn check_finalizers(info: &ResourceInfo, old: &Value, new: &Value) -> Result<(), StatusError> {
    if !meta::is_deleting(old) {
        return Ok(());
    }
    let before: Vec<&str> = meta::finalizers(old).collect();
    let added: Vec<&str> = meta::finalizers(new).filter(|finalizer| !before.contains(finalizer)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers {}",
        Value::from(added)
    );
    Err(StatusError::invalid(info, meta::name(old), &[FieldError::forbidden("metadata.finalizers", detail)]))
}

/// Whether anything but metadata and, where it is a subresource, status differs.
fn content_changed(info: &ResourceInfo, old: &Value, new: &Value) -> bool {
    let counts = |key: &str| key != "metadata" && !(info.has_status && key == "status");
    !same_maps(old.as_object(), new.as_object(), |key, _| counts(key))
}

/// Whether writing would change nothing. Empty maps and lists of metadata count as absent.
fn same_content(old: &Value, new: &Value) -> bool {
    let filled = |key: &str, value: &Value| match value {
        Value::Null => false,
        _ if key == "managedFields" => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    same_maps(old.as_object(), new.as_object(), |key, _| key != "metadata")
        && same_maps(meta::metadata(old), meta::metadata(new), filled)
}

/// Whether two maps agree in those entries that count.
fn same_maps(
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    counts: impl Fn(&str, &Value) -> bool,
) -> bool {
    let relevant = |map: Option<&Map<String, Value>>| {
        map.into_iter().flatten().filter(|(key, value)| counts(key, value)).count()
    };
    let new_entries = new.into_iter().flatten().filter(|(key, value)| counts(key, value));
    let mut same = 0;
    for (key, value) in new_entries {
        if old.and_then(|old| old.get(key)) != Some(value) {
            return false;
        }
        same += 1;
    }
    same == relevant(old)
}
