//! Failures in the exact form of a Kubernetes `Status`; clients branch on `reason` and on the causes.

use std::fmt;
use std::ops::Deref;

use serde_json::{Map, Value, json};

use crate::resource::{Gvk, ResourceInfo};

/// One entry of `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable kind of the cause, such as `FieldValueRequired`.
    pub reason: String,
    /// Text for people, without the field.
    pub message: String,
    /// Path of the field, empty if none.
    pub field: String,
}

/// What a failed request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// API group.
    pub group: String,
    /// Plural of the resource; for `Invalid` the kind.
    pub kind: String,
    /// Uid of the object, where it is known.
    pub uid: String,
    /// Why, field by field.
    pub causes: Vec<Cause>,
    /// When a retry makes sense.
    pub retry_after_seconds: Option<u32>,
}

/// The content of a [`StatusError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: String,
    /// Text for people; kubectl prints it.
    pub message: String,
    /// What it is about.
    pub details: Option<Details>,
    /// A token to go on with an expired list, at the price of consistency.
    pub continue_token: Option<String>,
}

/// A failure that a client sees as a `Status` object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusError(Box<Failure>);

impl Deref for StatusError {
    type Target = Failure;

    fn deref(&self) -> &Failure {
        &self.0
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for StatusError {}

/// What is wrong with one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldProblem {
    /// The value is malformed or out of range.
    Invalid,
    /// The value has the wrong JSON type.
    TypeInvalid,
    /// A needed value is missing.
    Required,
    /// The value may not be given here.
    Forbidden,
    /// The value is none of the supported ones.
    NotSupported,
    /// The value occurs twice.
    Duplicate,
    /// A text is too long.
    TooLong,
    /// A list has too many items.
    TooMany,
    /// Something that is referred to is not there.
    NotFound,
}

impl FieldProblem {
    fn text(self) -> &'static str {
        match self {
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::Required => "Required value",
            Self::Forbidden => "Forbidden",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Required => "FieldValueRequired",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
        }
    }
}

/// One invalid field, printed as `field: Text: value: detail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, such as `spec.ports[0].port`.
    pub field: String,
    /// What is wrong.
    pub problem: FieldProblem,
    /// The bad value as it is printed, where one is.
    pub value: Option<String>,
    /// Explanation, may be empty.
    pub detail: String,
}

impl FieldError {
    /// An error of the given kind that prints no value.
    pub fn new(field: impl Into<String>, problem: FieldProblem, detail: impl Into<String>) -> Self {
        Self { field: field.into(), problem, value: None, detail: detail.into() }
    }

    /// `field: Invalid value: VALUE: detail`.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: impl Into<String>) -> Self {
        Self { value: Some(show_value(value)), ..Self::new(field, FieldProblem::Invalid, detail) }
    }

    /// `field: Required value: detail`.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(field, FieldProblem::Required, detail)
    }

    /// `field: Forbidden: detail`.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(field, FieldProblem::Forbidden, detail)
    }

    /// `field: Duplicate value: VALUE`.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self { value: Some(show_value(value)), ..Self::new(field, FieldProblem::Duplicate, "") }
    }

    /// `field: Unsupported value: VALUE: supported values: "a", "b"`.
    pub fn not_supported<'a>(
        field: impl Into<String>,
        value: &Value,
        supported: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let supported: Vec<String> = supported.into_iter().map(|text| format!("{text:?}")).collect();
        let detail = if supported.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", supported.join(", "))
        };
        Self { value: Some(show_value(value)), ..Self::new(field, FieldProblem::NotSupported, detail) }
    }

    /// `field: Invalid value: VALUE: field is immutable`.
    pub fn immutable(field: impl Into<String>, value: &Value) -> Self {
        Self::invalid(field, value, "field is immutable")
    }

    /// The same error with another detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The same error with this text as the printed value.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// The text after the field.
    pub fn message(&self) -> String {
        let mut text = String::from(self.problem.text());
        for part in self
            .value
            .as_deref()
            .into_iter()
            .chain(Some(self.detail.as_str()))
            .filter(|part| !part.is_empty())
        {
            text.push_str(": ");
            text.push_str(part);
        }
        text
    }

    fn cause(&self) -> Cause {
        Cause { reason: self.problem.reason().to_owned(), message: self.message(), field: self.field.clone() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message())
    }
}

/// How a value is printed in a field error: texts quoted, all else as JSON.
pub fn show_value(value: &Value) -> String {
    value.to_string()
}

impl StatusError {
    /// A failure without details.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Failure {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details: None,
            continue_token: None,
        }))
    }

    /// The same failure with these details.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.0.details = Some(details);
        self
    }

    /// The same failure with one more cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: impl Into<String>) -> Self {
        self.0.details.get_or_insert_default().causes.push(Cause {
            reason: reason.to_owned(),
            message: message.into(),
            field: field.into(),
        });
        self
    }

    /// The same failure with another message.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = message.into();
        self
    }

    /// The same failure with another code and reason.
    #[must_use]
    pub fn with_code(mut self, code: u16, reason: &str) -> Self {
        self.0.code = code;
        reason.clone_into(&mut self.0.reason);
        self
    }

    /// The same failure with `details.retryAfterSeconds`.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.0.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    /// The same failure with `metadata.continue`.
    #[must_use]
    pub fn with_continue(mut self, token: String) -> Self {
        self.0.continue_token = Some(token);
        self
    }

    fn about(self, info: &ResourceInfo, name: &str) -> Self {
        self.with_details(Details {
            name: name.to_owned(),
            group: info.gvk.group.clone(),
            kind: info.plural.clone(),
            ..Details::default()
        })
    }

    /// 404: `R "n" not found`.
    pub fn not_found(info: &ResourceInfo, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", info.qualified())).about(info, name)
    }

    /// 404 of a namespace that a namespaced request names.
    pub fn namespace_not_found(namespace: &str) -> Self {
        Self::new(404, "NotFound", format!("namespaces {namespace:?} not found")).with_details(Details {
            name: namespace.to_owned(),
            kind: "namespaces".to_owned(),
            ..Details::default()
        })
    }

    /// 404 for a path that no handler has; Kubernetes answers it with this Status where it answers with one.
    pub fn page_not_found() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
            .with_details(Details::default())
    }

    /// 409: `R "n" already exists`, with a prefix while the existing one is being deleted.
    pub fn already_exists(info: &ResourceInfo, name: &str, deleting: bool) -> Self {
        let prefix = if deleting { "object is being deleted: " } else { "" };
        Self::new(409, "AlreadyExists", format!("{prefix}{} {name:?} already exists", info.qualified()))
            .about(info, name)
    }

    /// 409: `Operation cannot be fulfilled on R "n": WHY`.
    pub fn conflict(info: &ResourceInfo, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", info.qualified());
        Self::new(409, "Conflict", message).about(info, name)
    }

    /// 409 of a stale `resourceVersion`.
    pub fn modified(info: &ResourceInfo, name: &str) -> Self {
        const WHY: &str =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(info, name, WHY)
    }

    /// 409 of an update that names another uid, in the words of the storage that Kubernetes has.
    pub fn other_uid(info: &ResourceInfo, namespace: &str, name: &str, wanted: &str, found: &str) -> Self {
        let group = if info.builtin { String::new() } else { format!("/{}", info.gvk.group) };
        let namespace = if namespace.is_empty() { String::new() } else { format!("/{namespace}") };
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /registry{group}/{}{namespace}/{name}, ResourceVersion: 0, \
             AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}",
            info.plural
        );
        Self::conflict(info, name, &why)
    }

    /// 409 of a precondition on the uid. Kubernetes names the kind here, not the plural.
    pub fn uid_precondition(info: &ResourceInfo, name: &str, wanted: &str, found: &str) -> Self {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({found}). \
             The object might have been deleted and then recreated"
        );
        Self::precondition(info, name, &why)
    }

    /// 409 of a precondition on the resource version.
    pub fn version_precondition(info: &ResourceInfo, name: &str, wanted: &str, found: &str) -> Self {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
             ({found}). The object might have been modified"
        );
        Self::precondition(info, name, &why)
    }

    fn precondition(info: &ResourceInfo, name: &str, why: &str) -> Self {
        let Gvk { group, kind, .. } = &info.gvk;
        let qualified = if group.is_empty() { kind.clone() } else { format!("{kind}.{group}") };
        let message = format!("Operation cannot be fulfilled on {qualified} {name:?}: {why}");
        Self::new(409, "Conflict", message).with_details(Details {
            name: name.to_owned(),
            group: group.clone(),
            kind: kind.clone(),
            ..Details::default()
        })
    }

    /// 422 of an update that has to name the version it replaces. Kubernetes names the plural here, not the kind.
    pub fn version_required(info: &ResourceInfo, name: &str) -> Self {
        let why = "must be specified for an update";
        let error = FieldError::invalid("metadata.resourceVersion", &Value::from(0), why);
        Self::invalid_kind(&info.gvk.group, &info.plural, name, &[error])
    }

    /// 500 without a reason, as of a version that isn't a number.
    pub fn not_a_version(text: &str) -> Self {
        Self::new(500, "", format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))
    }

    /// 422: `K "n" is invalid: ..` with a cause per field.
    pub fn invalid(info: &ResourceInfo, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_kind(&info.gvk.group, &info.gvk.kind, name, errors)
    }

    /// 422 about a kind that is no served resource, such as `ListOptions` of `meta.k8s.io`.
    pub fn invalid_kind(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut texts: Vec<String> = Vec::with_capacity(errors.len());
        for text in errors.iter().map(ToString::to_string) {
            // Said twice among the causes, once in the text.
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let what = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        Self::new(422, "Invalid", format!("{qualified} {name:?} is invalid: {what}")).with_details(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes: errors.iter().map(FieldError::cause).collect(),
            ..Details::default()
        })
    }

    /// 422 of a patch that parses and cannot be applied.
    pub fn unprocessable_patch() -> Self {
        Self::new(422, "Invalid", "the server rejected our request due to an error in our request")
            .with_details(Details::default())
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 400 of an object in another version than that of the path.
    pub fn other_version(given: &str, expected: &str) -> Self {
        Self::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({expected})"
        ))
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: `R "n" is forbidden: WHY`.
    pub fn forbidden(info: &ResourceInfo, name: &str, why: &str) -> Self {
        let subject =
            if name.is_empty() { info.qualified() } else { format!("{} {name:?}", info.qualified()) };
        Self::new(403, "Forbidden", format!("{subject} is forbidden: {why}")).about(info, name)
    }

    /// 405 of a verb that the resource doesn't have.
    pub fn method_not_allowed(info: &ResourceInfo, verb: &str) -> Self {
        let message = if info.builtin {
            "the server does not allow this method on the requested resource".to_owned()
        } else {
            format!("{verb} is not supported on resources of kind {:?}", info.qualified())
        };
        let error = Self::new(405, "MethodNotAllowed", message);
        if info.builtin { error.with_details(Details::default()) } else { error.about(info, "") }
    }

    /// 406.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 410 Expired, as list error and as the object of a watch's ERROR event.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 410 of a watch or list that starts before what is kept.
    pub fn too_old(requested: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {requested} ({oldest})"))
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 429 with `Retry-After`.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, "TooManyRequests", message).with_retry_after(retry_after_seconds)
    }

    /// 500: `Internal error occurred: WHY`.
    pub fn internal(why: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {why}"))
            .with_details(Details::default())
            .with_cause("", why.to_string(), "")
    }

    /// 503 with `Retry-After`.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message).with_retry_after(1)
    }

    /// 504 of a resource version that is not reached yet; the HTTP side waits before it answers so.
    pub fn version_in_future(requested: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {requested}, current: {current}");
        Self::new(504, "Timeout", message).with_retry_after(1).with_cause(
            "ResourceVersionTooLarge",
            "Too large resource version",
            "",
        )
    }

    /// Whether this is [`StatusError::version_in_future`]: waiting for a write may help.
    pub fn is_version_in_future(&self) -> bool {
        self.details.as_ref().is_some_and(|details| {
            details.causes.iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
        })
    }

    /// The `Status` object.
    pub fn to_json(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".to_owned(), Value::from(token.as_str()));
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if let (false, Some(map)) = (self.reason.is_empty(), status.as_object_mut()) {
            map.insert("reason".to_owned(), Value::from(self.reason.as_str()));
        }
        if let (Some(details), Some(map)) = (&self.details, status.as_object_mut()) {
            map.insert("details".to_owned(), details.to_json());
        }
        status
    }
}

impl Details {
    /// The `details` of a Status; empty parts are left out.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                map.insert(key.to_owned(), Value::from(text.as_str()));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(Cause::to_json).collect();
            map.insert("causes".to_owned(), Value::Array(causes));
        }
        if let Some(seconds) = self.retry_after_seconds {
            map.insert("retryAfterSeconds".to_owned(), Value::from(seconds));
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                map.insert(key.to_owned(), Value::from(text.as_str()));
            }
        }
        Value::Object(map)
    }
}
