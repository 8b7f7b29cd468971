//! CustomResourceDefinitions: defaults, rules, status, and the resources that they define.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::builtin::conditions;
use crate::builtin::kinds::storage_version_hash;
use crate::meta;
use crate::resource::{Gvk, PrinterColumn, ResourceInfo, ScalePaths, SubresourceInfo};
use crate::schema::{Schema, structural_errors};
use crate::status_error::FieldError;

/// Keeps a definition until its resources are gone.
pub(crate) const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVAL: &str = "api-approved.kubernetes.io";
const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// The names in a definition.
pub(crate) struct Names {
    pub(crate) group: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
}

impl Names {
    pub(crate) fn of(definition: &Value) -> Self {
        let text = |pointer: &str| {
            definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let kind = text("/spec/names/kind");
        let or = |text: String, other: String| if text.is_empty() { other } else { text };
        Self {
            group: text("/spec/group"),
            plural: text("/spec/names/plural"),
            singular: or(text("/spec/names/singular"), kind.to_lowercase()),
            list_kind: or(text("/spec/names/listKind"), format!("{kind}List")),
            kind,
            short_names: texts(definition.pointer("/spec/names/shortNames")),
            categories: texts(definition.pointer("/spec/names/categories")),
        }
    }
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn versions(definition: &Value) -> &[Value] {
    definition.pointer("/spec/versions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn storage_version(definition: &Value) -> Option<&str> {
    versions(definition).iter().find(|version| flag(version, "storage")).map(|version| text(version, "name"))
}

/// Fills in names and the conversion strategy.
pub(super) fn default(definition: &mut Value) {
    let names = Names::of(definition);
    let spec = meta::map_mut(meta::map_of(definition), "spec");
    let conversion = meta::map_mut(spec, "conversion");
    conversion.entry("strategy").or_insert_with(|| Value::from("None"));
    let map = meta::map_mut(spec, "names");
    for (key, value) in [("singular", names.singular), ("listKind", names.list_kind)] {
        if map.get(key).and_then(Value::as_str).is_none_or(str::is_empty) && !value.is_empty() {
            map.insert(key.to_owned(), Value::from(value));
        }
    }
}

/// A new definition is not served yet.
pub(super) fn prepare_create(definition: &mut Value) {
    let stored: Vec<String> = storage_version(definition).map(str::to_owned).into_iter().collect();
    let status =
        json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored});
    meta::map_of(definition).insert("status".to_owned(), status);
}

/// The storage version joins the list of those that were ever stored.
pub(super) fn prepare_update(_old: &Value, new: &mut Value) {
    let Some(storage) = storage_version(new).map(str::to_owned) else {
        return;
    };
    let status = meta::map_mut(meta::map_of(new), "status");
    let stored = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(list) = stored.as_array_mut()
        && !list.iter().any(|version| version.as_str() == Some(&storage))
    {
        list.push(Value::from(storage));
    }
}

/// Takes note of the deletion in the status, and holds the definition until its resources are gone.
pub(super) fn mark_deleting(definition: &mut Value, now: Timestamp) {
    if conditions::get(definition, "Terminating").is_some() {
        return;
    }
    let mut finalizers = texts(definition.pointer("/metadata/finalizers"));
    if !finalizers.iter().any(|finalizer| finalizer == CLEANUP_FINALIZER) {
        finalizers.push(CLEANUP_FINALIZER.to_owned());
    }
    meta::metadata_mut(definition).insert("finalizers".to_owned(), Value::from(finalizers));
    let condition = json!({
        "type": "Terminating",
        "status": "True",
        "reason": "InstanceDeletionPending",
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    });
    conditions::set(meta::map_mut(meta::map_of(definition), "status"), condition, now);
}

/// The status of a definition that is served, or that can't be because of its names.
pub(crate) fn established_status(definition: &Value, problem: Option<&str>, now: Timestamp) -> Value {
    let mut status = definition.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
    let names = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let condition = |kind: &str, ok: bool, reason: &str, message: &str| {
        let state = if ok { "True" } else { "False" };
        json!({"type": kind, "status": state, "reason": reason, "message": message})
    };
    match problem {
        None => {
            status.insert("acceptedNames".to_owned(), names);
            let accepted = condition("NamesAccepted", true, "NoConflicts", "no conflicts found");
            conditions::set(&mut status, accepted, now);
            let message = "the initial names have been accepted";
            conditions::set(
                &mut status,
                condition("Established", true, "InitialNamesAccepted", message),
                now,
            );
        }
        Some(problem) => {
            conditions::set(&mut status, condition("NamesAccepted", false, "NameConflict", problem), now);
            let message = "not all names are accepted";
            conditions::set(&mut status, condition("Established", false, "NotAccepted", message), now);
        }
    }
    status.entry("storedVersions").or_insert_with(|| json!(storage_version(definition)));
    Value::Object(status)
}

/// The resources that a definition's served versions make; `since` tells from when on each one's schema holds.
pub(crate) fn resources(
    definition: &Value,
    terminating: bool,
    since: impl Fn(&ResourceInfo) -> u64,
) -> Vec<ResourceInfo> {
    let names = Names::of(definition);
    let namespaced = definition.pointer("/spec/scope").and_then(Value::as_str) == Some("Namespaced");
    let storage = storage_version(definition).unwrap_or_default().to_owned();
    let served = versions(definition).iter().filter(|version| flag(version, "served"));
    let mut infos: Vec<ResourceInfo> = served
        .map(|version| {
            let mut info = resource(&names, namespaced, &storage, version);
            info.terminating = terminating;
            info.schema_since = since(&info);
            info
        })
        .collect();
    infos.sort_by_key(ResourceInfo::gvr);
    infos
}

fn resource(names: &Names, namespaced: bool, storage: &str, version: &Value) -> ResourceInfo {
    let gvk = Gvk::new(&names.group, text(version, "name"), &names.kind);
    let schema = version.pointer("/schema/openAPIV3Schema").cloned();
    let compiled = schema.as_ref().and_then(|schema| Schema::compile(schema).ok()).map(Arc::new);
    let status = version.pointer("/subresources/status").is_some_and(|status| !status.is_null());
    let scale =
        version.pointer("/subresources/scale").filter(|scale| scale.is_object()).map(|scale| ScalePaths {
            spec_replicas: text(scale, "specReplicasPath").to_owned(),
            status_replicas: text(scale, "statusReplicasPath").to_owned(),
            selector: scale.get("labelSelectorPath").and_then(Value::as_str).map(str::to_owned),
        });
    let verbs = |verbs: &[&str]| verbs.iter().map(|verb| (*verb).to_owned()).collect::<Vec<_>>();
    let mut subresources = Vec::new();
    let mut subresource = |name: &str, gvk: Gvk| {
        let verbs = verbs(&["get", "patch", "update"]);
        subresources.push(SubresourceInfo { name: name.to_owned(), gvk, verbs });
    };
    if scale.is_some() {
        subresource("scale", Gvk::new("autoscaling", "v1", "Scale"));
    }
    if status {
        subresource("status", gvk.clone());
    }
    let deprecated = flag(version, "deprecated").then(|| {
        let warning = text(version, "deprecationWarning");
        let own = format!("{} {} is deprecated", gvk.api_version(), gvk.kind);
        if warning.is_empty() { own } else { warning.to_owned() }
    });
    let fields = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
    ResourceInfo {
        list_kind: names.list_kind.clone(),
        plural: names.plural.clone(),
        singular: names.singular.clone(),
        short_names: names.short_names.clone(),
        categories: names.categories.clone(),
        namespaced,
        verbs: verbs(&VERBS),
        has_status: status,
        has_generation: true,
        unconditional_update: false,
        create_on_update: false,
        scale,
        subresources,
        printer_columns: columns(version),
        schema: schema.map(Arc::new),
        compiled,
        builtin: false,
        storage_version: storage.to_owned(),
        storage_version_hash: storage_version_hash(&Gvk::new(&gvk.group, storage, &gvk.kind)),
        selectable_fields: fields
            .map(|field| text(field, "jsonPath").trim_start_matches('.').to_owned())
            .collect(),
        schema_since: 0,
        terminating: false,
        deprecation_warning: deprecated,
        gvk,
    }
}

fn columns(version: &Value) -> Vec<PrinterColumn> {
    let columns = version.get("additionalPrinterColumns").and_then(Value::as_array).into_iter().flatten();
    columns
        .map(|column| PrinterColumn {
            name: text(column, "name").to_owned(),
            kind: text(column, "type").to_owned(),
            json_path: text(column, "jsonPath").to_owned(),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            description: text(column, "description").to_owned(),
            format: text(column, "format").to_owned(),
        })
        .collect()
}

/// What is invalid in a definition.
pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let names = Names::of(new);
    let expected = format!("{}.{}", names.plural, names.group);
    if meta::name(new) != expected {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &Value::from(meta::name(new)), why));
    }
    validate_group(new, &names, &mut errors);
    validate_names(&names, &mut errors);
    match new.pointer("/spec/scope").and_then(Value::as_str) {
        Some("Namespaced" | "Cluster") => {}
        None | Some("") => errors.push(FieldError::required("spec.scope", "")),
        Some(other) => {
            let supported = ["Cluster", "Namespaced"];
            errors.push(FieldError::not_supported("spec.scope", &Value::from(other), supported));
        }
    }
    validate_versions(new, &mut errors);
    if let Some(old) = old {
        validate_change(new, old, &mut errors);
    }
    errors
}

fn validate_group(new: &Value, names: &Names, errors: &mut Vec<FieldError>) {
    let group = Value::from(names.group.as_str());
    if names.group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if let Some(problem) = meta::subdomain_problem(&names.group) {
        errors.push(FieldError::invalid("spec.group", &group, problem));
    } else if !names.group.contains('.') {
        errors.push(FieldError::invalid("spec.group", &group, "should be a domain with at least one dot"));
    }
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| names.group == *domain || names.group.ends_with(&format!(".{domain}")));
    let approved = new.pointer("/metadata/annotations").and_then(|map| map.get(APPROVAL)).is_some();
    if protected && !approved {
        let why = format!(
            "protected groups must have approval annotation {APPROVAL:?}, see \
             https://github.com/kubernetes/enhancements/pull/1111"
        );
        errors.push(FieldError::required(format!("metadata.annotations[{APPROVAL}]"), why));
    }
}

fn validate_names(names: &Names, errors: &mut Vec<FieldError>) {
    let lower = [("plural", &names.plural), ("singular", &names.singular)];
    for (key, name) in lower {
        if name.is_empty() {
            errors.push(FieldError::required(format!("spec.names.{key}"), ""));
        } else if let Some(problem) = meta::rfc1035_label_problem(name) {
            errors.push(FieldError::invalid(
                format!("spec.names.{key}"),
                &Value::from(name.as_str()),
                problem,
            ));
        }
    }
    for (index, name) in names.short_names.iter().enumerate() {
        if let Some(problem) = meta::rfc1035_label_problem(name) {
            let field = format!("spec.names.shortNames[{index}]");
            errors.push(FieldError::invalid(field, &Value::from(name.as_str()), problem));
        }
    }
    if names.kind.is_empty() {
        errors.push(FieldError::required("spec.names.kind", ""));
    } else if let Some(problem) = meta::rfc1035_label_problem(&names.kind.to_lowercase()) {
        errors.push(FieldError::invalid("spec.names.kind", &Value::from(names.kind.as_str()), problem));
    }
    if !names.list_kind.is_empty() && names.list_kind == names.kind {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid("spec.names.listKind", &Value::from(names.list_kind.as_str()), why));
    }
}

fn validate_versions(new: &Value, errors: &mut Vec<FieldError>) {
    let list = versions(new);
    if list.iter().filter(|version| flag(version, "storage")).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        let value = Value::Array(list.iter().map(|version| Value::from(text(version, "name"))).collect());
        errors.push(FieldError::invalid("spec.versions", &value, why));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, version) in list.iter().enumerate() {
        let path = format!("spec.versions[{index}]");
        let name = text(version, "name");
        if let Some(problem) = meta::rfc1035_label_problem(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &Value::from(name), problem));
        }
        if !seen.insert(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), &Value::from(name), "must be unique"));
        }
        match version.pointer("/schema/openAPIV3Schema") {
            None | Some(Value::Null) => {
                errors.push(FieldError::required(format!("{path}.schema.openAPIV3Schema"), ""));
            }
            Some(schema) => {
                let path = match list {
                    [_] => "spec.validation.openAPIV3Schema".to_owned(),
                    _ => format!("{path}.schema.openAPIV3Schema"),
                };
                errors.extend(structural_errors(schema, &path));
            }
        }
        validate_columns(version, &path, errors);
    }
}

fn validate_columns(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (index, column) in columns(version).iter().enumerate() {
        let at = |key: &str| format!("{path}.additionalPrinterColumns[{index}].{key}");
        if column.name.is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        }
        let kinds = ["boolean", "date", "integer", "number", "string"];
        if !kinds.contains(&column.kind.as_str()) {
            let value = Value::from(column.kind.as_str());
            errors.push(FieldError::not_supported(at("type"), &value, kinds));
        }
        if column.json_path.is_empty() {
            errors.push(FieldError::required(at("jsonPath"), "JSONPath is required"));
        }
    }
}

fn validate_change(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    for field in ["spec.group", "spec.scope", "spec.names.plural", "spec.names.kind"] {
        let pointer = format!("/{}", field.replace('.', "/"));
        let value = new.pointer(&pointer).unwrap_or(&Value::Null);
        if old.pointer(&pointer) != Some(value) {
            errors.push(FieldError::immutable(field, value));
        }
    }
    for (index, stored) in texts(new.pointer("/status/storedVersions")).iter().enumerate() {
        if !versions(new).iter().any(|version| text(version, "name") == stored) {
            let why = format!(
                "missing from spec.versions; {stored} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {stored} and removes {stored} from \
                 status.storedVersions"
            );
            let field = format!("status.storedVersions[{index}]");
            errors.push(FieldError::invalid(field, &Value::from(stored.as_str()), why));
        }
    }
}
