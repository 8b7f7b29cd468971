//! Creating objects, and the decoding that all writes share.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::auth::access::{self, Action, ResourceAction};
use crate::auth::escalation;
use crate::builtin;
use crate::meta::{self, NameRule};
use crate::ownership::{self, Operation};
use crate::resource::{Gvk, ResourceInfo, api_version, split_api_version};
use crate::schema::go_json_type;
use crate::status_error::{FieldError, StatusError};
use crate::store::admission::Change;
use crate::store::applying::{Author, Owners, set_managed_fields};
use crate::store::objects::{Entry, Store};
use crate::store::{Body, Context, FieldValidation, Subresource, WriteOptions, Written};

/// What generated names may end in: no vowels, so that no words come out.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const GENERATED_PREFIX_MAX: usize = 58;
const GENERATE_TRIES: usize = 8;

/// A random (version 4) uid.
pub(crate) fn new_uid(rng: &mut dyn FnMut() -> u64) -> String {
    let (high, low) = (rng(), rng());
    let high = high & !0xf000 | 0x4000;
    let low = low & !(0b11 << 62) | 0b10 << 62;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// A random suffix as in generated names.
pub(crate) fn new_suffix(ctx: &mut Context<'_>) -> String {
    let mut bits = (ctx.rng)();
    let base = SUFFIX_ALPHABET.len() as u64;
    (0..SUFFIX_LENGTH)
        .map(|_| {
            let digit = usize::try_from(bits % base).unwrap_or(0);
            bits /= base;
            SUFFIX_ALPHABET.get(digit).copied().map_or('x', char::from)
        })
        .collect()
}

/// What decoding a body gave.
pub(super) struct Decoded {
    pub(super) value: Value,
    pub(super) warnings: Vec<String>,
}

/// Checks kind and version, drops unknown fields as the options say, drops nulls and fills in defaults.
pub(super) fn decode(
    info: &ResourceInfo,
    body: Body,
    validation: FieldValidation,
) -> Result<Decoded, StatusError> {
    let Body { mut value, duplicates } = body;
    check_type(info, &mut value)?;
    let mut problems: Vec<String> =
        duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
    let wrong_type = match &info.compiled {
        Some(schema) if info.builtin => schema.wrong_type(&value),
        _ => builtin::schemas::wrong_metadata_type(&value),
    };
    if let Some(problem) = wrong_type {
        return Err(cannot_be_handled(info, &problem));
    }
    if let Some(schema) = &info.compiled {
        problems.extend(schema.prune(&mut value).into_iter().map(|path| format!("unknown field {path:?}")));
    }
    let warnings = match validation {
        FieldValidation::Strict if !problems.is_empty() => {
            return Err(cannot_be_handled(info, &format!("strict decoding error: {}", problems.join(", "))));
        }
        FieldValidation::Warn => problems,
        _ => Vec::new(),
    };
    default(info, &mut value);
    Ok(Decoded { value, warnings })
}

fn cannot_be_handled(info: &ResourceInfo, why: &str) -> StatusError {
    let (kind, version) = (&info.gvk.kind, &info.gvk.version);
    StatusError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

pub(super) fn default(info: &ResourceInfo, value: &mut Value) {
    if let Some(schema) = info.compiled.as_ref().filter(|_| !info.builtin) {
        schema.default(value);
    }
    if info.builtin {
        builtin::default(info, value);
    }
}

fn check_type(info: &ResourceInfo, value: &mut Value) -> Result<(), StatusError> {
    let expected = info.api_version();
    let Some(map) = value.as_object_mut() else {
        return Err(StatusError::bad_request("the body of the request is not an object"));
    };
    if !info.builtin {
        check_custom_type(info, map)?;
    }
    for (key, expected) in [("apiVersion", expected.as_str()), ("kind", info.gvk.kind.as_str())] {
        match map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()) {
            None => {
                map.insert(key.to_owned(), Value::from(expected));
            }
            Some(given) if given == expected => {}
            Some(_) => return Err(other_builtin_kind(info, map)),
        }
    }
    match map.get("metadata") {
        None | Some(Value::Null) => {
            map.insert("metadata".to_owned(), Value::Object(serde_json::Map::new()));
        }
        Some(Value::Object(_)) => {}
        Some(_) => {
            let kind = &info.gvk.kind;
            let field =
                if info.builtin { format!("struct field {kind}.metadata") } else { "value".to_owned() };
            let found = map.get("metadata").map_or("null", go_json_type);
            let why = format!("json: cannot unmarshal {found} into Go {field} of type v1.ObjectMeta");
            return Err(cannot_be_handled(info, &why));
        }
    }
    meta::drop_nulls(meta::metadata_mut(value));
    Ok(())
}

fn check_custom_type(info: &ResourceInfo, map: &Map<String, Value>) -> Result<(), StatusError> {
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default();
    let (expected, given) = (info.api_version(), text("apiVersion"));
    if !given.is_empty() && given != expected {
        return Err(StatusError::other_version(given, &expected));
    }
    let (Gvk { group, kind, .. }, given) = (&info.gvk, text("kind"));
    if !given.is_empty() && given != kind {
        let error = FieldError::invalid("kind", &Value::from(given), format!("must be {kind}"));
        let name = map.get("metadata").and_then(|it| it.get("name")).and_then(Value::as_str);
        return Err(StatusError::invalid_kind(group, given, name.unwrap_or_default(), &[error]));
    }
    Ok(())
}

fn other_builtin_kind(info: &ResourceInfo, map: &Map<String, Value>) -> StatusError {
    let text = |key: &str| map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let expected = info.api_version();
    let (given, version) = (text("kind").unwrap_or(&info.gvk.kind), text("apiVersion").unwrap_or(&expected));
    let short = split_api_version(version).1;
    StatusError::bad_request(format!(
        "{given} in version {short:?} cannot be handled as a {}: no kind {given:?} is registered for version \
         {version:?} in this resource",
        info.gvk.kind
    ))
}

/// Puts the request's namespace into the object, or refuses one that differs.
pub(super) fn settle_namespace(
    info: &ResourceInfo,
    namespace: Option<&str>,
    value: &mut Value,
) -> Result<(), StatusError> {
    let metadata = meta::metadata_mut(value);
    let Some(namespace) = namespace.filter(|_| info.namespaced) else {
        metadata.remove("namespace");
        return Ok(());
    };
    match metadata.get("namespace").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        Some(given) if given != namespace => Err(StatusError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
        _ => {
            metadata.insert("namespace".to_owned(), Value::from(namespace));
            Ok(())
        }
    }
}

impl Store {
    /// Creates an object in the namespace (`None` on cluster-scoped kinds).
    pub fn create(
        &mut self,
        ctx: &mut Context<'_>,
        info: &Arc<ResourceInfo>,
        namespace: Option<&str>,
        body: impl Into<Body>,
        options: &WriteOptions,
    ) -> Result<Written, StatusError> {
        let Decoded { mut value, warnings } = decode(info, body.into(), options.field_validation)?;
        settle_namespace(info, namespace, &mut value)?;
        if !meta::resource_version(&value).is_empty() {
            return Err(StatusError::new(
                500,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let object = self.insert(ctx, info, value, Owners::Changed, options)?;
        Ok(Written { object, warnings, created: true })
    }

    /// Stores a new object, decoded and defaulted.
    pub(super) fn insert(
        &mut self,
        ctx: &mut Context<'_>,
        info: &Arc<ResourceInfo>,
        mut value: Value,
        owners: Owners,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, StatusError> {
        self.check_creatable(info, &value)?;
        drop_system_fields(info, &mut value);
        let entries = match owners {
            Owners::Applied(entries) => entries,
            Owners::Changed => {
                let author = Author::new(info, Subresource::Main, options, ctx.now);
                ownership::of_created(info, &value, &author.writer(Operation::Update))
            }
        };
        let requester = options.requester.as_ref();
        if let Some(mutated) =
            self.mutated(&Change::to(&value, None, info, Subresource::Main, options), requester)?
        {
            value = mutated;
            drop_system_fields(info, &mut value);
        }
        self.settle_name(ctx, info, &mut value)?;
        set_system_fields(ctx, info, &mut value);
        set_managed_fields(&mut value, ownership::encode(entries));
        builtin::prepare_create(info, &mut value, ctx, &self.view());
        self.check_grants(info, &value, None, options)?;
        if let Some(existing) =
            self.entry(&info.group_resource(), meta::namespace(&value), meta::name(&value))
        {
            return Err(StatusError::already_exists(
                info,
                meta::name(&value),
                meta::is_deleting(&existing.object),
            ));
        }
        self.validate(info, Subresource::Main, &value, None)?;
        self.admit(&Change::to(&value, None, info, Subresource::Main, options), requester)?;
        self.check_room(&value, true)?;
        self.service_addresses.allocate(info, &mut value, None, options.dry_run)?;
        Ok(if options.dry_run { Arc::new(value) } else { self.commit(info, value, ctx.now) })
    }

    /// Stores in the storage version, and shows the result in the version of the request.
    pub(super) fn commit(
        &mut self,
        info: &ResourceInfo,
        mut value: Value,
        now: jiff::Timestamp,
    ) -> Arc<Value> {
        if builtin::events::is_converted(info) {
            builtin::events::to_stored(&mut value);
        } else if !info.is_storage_version() {
            let stored = api_version(&info.gvk.group, &info.storage_version);
            meta::map_of(&mut value).insert("apiVersion".to_owned(), Value::from(stored));
        }
        let object = self.put(&info.group_resource(), value, now);
        Self::present(info, &Entry::of(&object))
    }

    fn settle_name(
        &self,
        ctx: &mut Context<'_>,
        info: &ResourceInfo,
        value: &mut Value,
    ) -> Result<(), StatusError> {
        let prefix = meta::text(value, "generateName").to_owned();
        if !meta::name(value).is_empty() || prefix.is_empty() {
            return Ok(());
        }
        let mut cut = prefix.len().min(GENERATED_PREFIX_MAX);
        while !prefix.is_char_boundary(cut) {
            cut -= 1;
        }
        let base = prefix.get(..cut).unwrap_or_default();
        let mut name = String::new();
        for _ in 0..GENERATE_TRIES {
            name = format!("{base}{}", new_suffix(ctx));
            if self.entry(&info.group_resource(), meta::namespace(value), &name).is_none() {
                break;
            }
        }
        meta::metadata_mut(value).insert("name".to_owned(), Value::from(name));
        Ok(())
    }

    fn check_creatable(&self, info: &ResourceInfo, value: &Value) -> Result<(), StatusError> {
        if info.terminating {
            return Err(StatusError::new(
                403,
                "MethodNotAllowed",
                "create not allowed while custom resource definition is terminating",
            ));
        }
        if !info.namespaced {
            return Ok(());
        }
        let namespace = meta::namespace(value);
        let found = self
            .object("", "namespaces", "", namespace)
            .ok_or_else(|| StatusError::namespace_not_found(namespace))?;
        if !meta::is_deleting(found) {
            return Ok(());
        }
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        Err(StatusError::forbidden(info, meta::name(value), &why).with_cause(
            "NamespaceTerminating",
            format!("namespace {namespace} is being terminated"),
            "metadata.namespace",
        ))
    }

    /// Refuses roles and bindings that would give away what the requester lacks.
    pub(super) fn check_grants(
        &self,
        info: &ResourceInfo,
        new: &Value,
        old: Option<&Value>,
        options: &WriteOptions,
    ) -> Result<(), StatusError> {
        let Some(requester) = &options.requester else { return Ok(()) };
        escalation::check(self.roles(), &requester.user, info, new, old)
    }

    /// Refuses a write that would create an object although its requester may only change such objects.
    pub(super) fn check_may_create(
        &self,
        info: &ResourceInfo,
        namespace: Option<&str>,
        name: &str,
        options: &WriteOptions,
    ) -> Result<(), StatusError> {
        let Some(requester) = &options.requester else { return Ok(()) };
        let action = ResourceAction {
            verb: "create".to_owned(),
            group: info.gvk.group.clone(),
            resource: info.plural.clone(),
            namespace: namespace.unwrap_or_default().to_owned(),
            name: name.to_owned(),
            ..ResourceAction::default()
        };
        access::authorize(self.roles(), &requester.user, &Action::Resource(action))
    }

    /// Checks a complete object against the rules of metadata, of its schema and of its kind.
    pub(super) fn validate(
        &self,
        info: &ResourceInfo,
        subresource: Subresource,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), StatusError> {
        let mut errors = meta::validate(new, NameRule::of(&info.gvk.group, &info.plural), &self.limits);
        match &info.compiled {
            _ if info.builtin => errors.extend(builtin::validate(info, new, old, &self.limits)),
            Some(schema) if subresource == Subresource::Status => {
                errors.extend(schema.validate_status(new, old));
            }
            Some(schema) => errors.extend(schema.validate(new, old)),
            None => {}
        }
        if errors.is_empty() { Ok(()) } else { Err(StatusError::invalid(info, meta::name(new), &errors)) }
    }

    /// What the built-in kinds' rules may look at.
    pub(super) fn view(&self) -> builtin::View<'_> {
        builtin::View { store: self }
    }
}

/// Drops what only the server may say.
fn drop_system_fields(info: &ResourceInfo, value: &mut Value) {
    if info.has_status && !builtin::keeps_status_on_create(info) {
        meta::map_of(value).remove("status");
    }
    let metadata = meta::metadata_mut(value);
    for key in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
        "managedFields",
    ] {
        metadata.remove(key);
    }
}

fn set_system_fields(ctx: &mut Context<'_>, info: &ResourceInfo, value: &mut Value) {
    let uid = new_uid(ctx.rng);
    let now = meta::timestamp(ctx.now);
    let metadata = meta::metadata_mut(value);
    metadata.insert("uid".to_owned(), Value::from(uid));
    metadata.insert("creationTimestamp".to_owned(), Value::from(now));
    if info.has_generation {
        metadata.insert("generation".to_owned(), Value::from(1));
    }
}
