//! Server-side apply, and the owners that other writes leave behind.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::meta;
use crate::ownership::{self, Application, Applied, Conflicts, Entry, Operation, Type, Writer};
use crate::resource::ResourceInfo;
use crate::status_error::{FieldError, StatusError};
use crate::store::create::{Decoded, decode, settle_namespace};
use crate::store::objects::Store;
use crate::store::update::check_name;
use crate::store::{Body, Context, FieldValidation, Subresource, Target, WriteOptions, Written};

/// Who owns the fields after a write.
pub(super) enum Owners {
    /// The writer owns what it changes.
    Changed,
    /// An apply found out.
    Applied(Vec<Entry>),
}

/// Who writes, for entries of `managedFields`.
pub(super) struct Author<'a> {
    manager: &'a str,
    api_version: String,
    time: String,
    subresource: &'static str,
}

impl<'a> Author<'a> {
    pub(super) fn new(
        info: &ResourceInfo,
        subresource: Subresource,
        options: &'a WriteOptions,
        now: jiff::Timestamp,
    ) -> Self {
        Self {
            manager: options.field_manager.as_deref().filter(|name| !name.is_empty()).unwrap_or("unknown"),
            api_version: info.api_version(),
            time: meta::timestamp(now),
            subresource: ownership::subresource_name(subresource),
        }
    }

    pub(super) fn writer(&self, operation: Operation) -> Writer<'_> {
        Writer {
            manager: self.manager,
            operation,
            api_version: &self.api_version,
            subresource: self.subresource,
            time: &self.time,
        }
    }
}

/// The `managedFields` after an update; `given` is what the client sent, which counts if it is whole.
pub(super) fn after_update(
    info: &ResourceInfo,
    old: &Value,
    new: &Value,
    given: Option<Value>,
    author: &Author<'_>,
) -> Option<Value> {
    if given.as_ref().is_some_and(ownership::is_reset) {
        return None;
    }
    let of_old = || ownership::decode(managed_fields(old)?.clone());
    // Objects that nobody keeps book of stay so until they are applied to.
    let mut entries = given.and_then(ownership::decode).or_else(of_old)?;
    ownership::updated(info, old, new, &mut entries, &author.writer(Operation::Update));
    ownership::encode(entries)
}

pub(super) fn managed_fields(object: &Value) -> Option<&Value> {
    meta::metadata(object)?.get("managedFields")
}

pub(super) fn set_managed_fields(object: &mut Value, managed: Option<Value>) {
    let metadata = meta::metadata_mut(object);
    match managed {
        Some(managed) => metadata.insert("managedFields".to_owned(), managed),
        None => metadata.remove("managedFields"),
    };
}

impl Store {
    /// Applies a config; creates the object if there is none.
    pub(super) fn apply(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Target,
        subresource: Subresource,
        body: Body,
        options: &WriteOptions,
    ) -> Result<Written, StatusError> {
        let info = &target.resource;
        if options.field_manager.as_deref().is_none_or(str::is_empty) {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            return Err(StatusError::invalid_kind("meta.k8s.io", "PatchOptions", "", &[error]));
        }
        let author = Author::new(info, subresource, options, ctx.now);
        let live = self.find(target).map(|entry| Self::present(info, entry));
        let mut config = self.config(target, subresource, body, live.as_deref().ok(), options)?;
        match live {
            Ok(live) => self.apply_to(ctx, target, subresource, &live, &config, &author, options),
            Err(missing) if subresource != Subresource::Main => Err(missing),
            Err(_) => {
                self.check_may_create(info, target.namespace.as_deref(), &target.name, options)?;
                if !meta::uid(&config).is_empty() {
                    let why = format!(
                        "uid mismatch: the provided object specified uid {}, and no existing object was found",
                        meta::uid(&config)
                    );
                    return Err(StatusError::conflict(info, &target.name, &why));
                }
                settle_namespace(info, target.namespace.as_deref(), &mut config)?;
                let zero = ownership::zero_value(info);
                let applied = applied(info, &zero, &config, Vec::new(), &author, options.force)?;
                let Decoded { value, warnings } = decode(info, config.into(), FieldValidation::Ignore)?;
                let object = self.insert(ctx, info, value, Owners::Applied(applied.entries), options)?;
                Ok(Written { object, warnings, created: true })
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `apply`, with what it found out")]
    fn apply_to(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Target,
        subresource: Subresource,
        live: &Arc<Value>,
        config: &Value,
        author: &Author<'_>,
        options: &WriteOptions,
    ) -> Result<Written, StatusError> {
        let info = &target.resource;
        let entries = managed_fields(live).cloned().and_then(ownership::decode).unwrap_or_else(|| {
            // Who wrote what is there is unknown, but it is not this manager.
            let manager = ownership::BEFORE_FIRST_APPLY;
            ownership::of_created(
                info,
                live,
                &Writer { manager, subresource: "", ..author.writer(Operation::Update) },
            )
        });
        let Applied { mut object, entries } = applied(info, live, config, entries, author, options.force)?;
        ownership::refresh_last_applied(&mut object, config, author.manager, self.limits.annotation_bytes);
        meta::metadata_mut(&mut object).remove("managedFields");
        let Decoded { mut value, warnings } = decode(info, object.into(), FieldValidation::Ignore)?;
        check_name(target, &mut value)?;
        settle_namespace(info, target.namespace.as_deref(), &mut value)?;
        let object =
            self.replace(ctx, target, subresource, live, value, Owners::Applied(entries), options)?;
        let object = if subresource == Subresource::Scale {
            Arc::new(self.scale_of(target, &object)?)
        } else {
            object
        };
        Ok(Written { object, warnings, created: false })
    }

    /// The config as it can be applied, checked.
    fn config(
        &self,
        target: &Target,
        subresource: Subresource,
        body: Body,
        live: Option<&Value>,
        options: &WriteOptions,
    ) -> Result<Value, StatusError> {
        let info = &target.resource;
        let Body { value: mut config, duplicates } = body;
        if subresource == Subresource::Scale {
            config = self.config_of_scale(target, live, &config)?;
        }
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
        if !config.is_object() || text("kind").is_empty() {
            return Err(StatusError::bad_request("Object 'Kind' is missing in the patch"));
        }
        let (given, expected) = (text("apiVersion"), info.api_version());
        if given != expected {
            return Err(StatusError::bad_request(format!(
                "Incorrect version specified in apply patch. Specified patch version: {given}, expected: {expected}"
            )));
        }
        if text("kind") != info.gvk.kind {
            return Err(StatusError::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}",
                text("kind"),
                info.gvk.version,
                info.gvk.kind
            )));
        }
        if managed_fields(&config).is_some_and(|managed| !managed.is_null()) {
            return Err(StatusError::bad_request("metadata.managedFields must be nil"));
        }
        if options.field_validation == FieldValidation::Strict && !duplicates.is_empty() {
            let problems: Vec<String> =
                duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
            let why = format!("error decoding patch: strict decoding error: {}", problems.join(", "));
            return Err(StatusError::bad_request(why));
        }
        check_name(target, &mut config)?;
        let mut placed = config.clone();
        settle_namespace(info, target.namespace.as_deref(), &mut placed)?;
        ownership::restrict_config(info, subresource, &mut config);
        let errors = ownership::check_config(Type::of(info), &config);
        if !errors.is_empty() {
            let problem = match errors.as_slice() {
                [only] => only.clone(),
                several => format!("errors:\n  {}", several.join("\n  ")),
            };
            let gvk = &info.gvk;
            return Err(StatusError::new(
                500,
                "",
                format!(
                    "failed to create typed patch object ({}/{}; {}/{}, Kind={}): {problem}",
                    meta::namespace(&config),
                    meta::name(&config),
                    gvk.group,
                    gvk.version,
                    gvk.kind
                ),
            ));
        }
        Ok(config)
    }

    /// The config of a `Scale` as one of the object that it belongs to.
    fn config_of_scale(
        &self,
        target: &Target,
        live: Option<&Value>,
        scale: &Value,
    ) -> Result<Value, StatusError> {
        let info = &target.resource;
        if live.is_none() {
            return Err(StatusError::not_found(info, &target.name));
        }
        let given = scale.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        if given != "autoscaling/v1" {
            return Err(StatusError::bad_request(format!(
                "Incorrect version specified in apply patch. Specified patch version: {given}, expected: autoscaling/v1"
            )));
        }
        let mut config = json!({
            "apiVersion": info.api_version(),
            "kind": info.gvk.kind,
            "metadata": scale.get("metadata").cloned().unwrap_or_else(|| json!({})),
        });
        Self::write_replicas(target, &mut config, scale)?;
        Ok(config)
    }
}

/// Applies, by force too if all that stands against it is kubectl's own doing.
fn applied(
    info: &ResourceInfo,
    live: &Value,
    config: &Value,
    entries: Vec<Entry>,
    author: &Author<'_>,
    force: bool,
) -> Result<Applied, StatusError> {
    let apply = |entries: Vec<Entry>, force: bool| {
        let writer = author.writer(Operation::Apply);
        ownership::apply(Application { object: Type::of(info), live, config, entries, writer, force })
    };
    let conflicts = match apply(entries.clone(), force) {
        Ok(applied) => return Ok(applied),
        Err(conflicts) => conflicts,
    };
    let allowed = ownership::allowed_by_last_applied(info, live, author.manager);
    let conflicts = conflicts.without(&allowed);
    if conflicts.is_empty() { apply(entries, true) } else { Err(conflicts) }.map_err(Conflicts::into_error)
}
