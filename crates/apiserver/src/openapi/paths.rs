//! The operations of a document.

use serde_json::{Map, Value, json};

use crate::resource::{Gvk, ResourceInfo, SubresourceInfo};

/// What the operations of a resource depend on, as text.
pub(super) fn fingerprint(info: &ResourceInfo) -> String {
    let parts: Vec<String> = info
        .subresources
        .iter()
        .map(|part| format!("{} {:?} {:?}", part.name, part.gvk, part.verbs))
        .collect();
    format!("{} {:?} {} {:?} {parts:?}\n", info.plural, info.gvk, info.namespaced, info.verbs)
}

/// Adds the paths of a resource whose objects have the schema of that name.
pub(super) fn add(
    paths: &mut Map<String, Value>,
    info: &ResourceInfo,
    schema: &str,
    parts: &[(&SubresourceInfo, String)],
) {
    let group_version = super::document_path(&info.gvk.group, &info.gvk.version);
    let scope = if info.namespaced { "namespaces/{namespace}/" } else { "" };
    let collection = format!("/{group_version}/{scope}{}", info.plural);
    let object = format!("{collection}/{{name}}");

    let mut operations = Map::new();
    for (verb, method) in [("list", "get"), ("create", "post"), ("deletecollection", "delete")] {
        if info.serves(verb) {
            operations.insert(method.to_owned(), operation(verb, info, &info.gvk, schema, ""));
        }
    }
    insert(paths, collection, info.namespaced, false, operations);
    if info.namespaced && info.serves("list") {
        let everywhere = format!("/{group_version}/{}", info.plural);
        let list = Map::from_iter([(
            "get".to_owned(),
            operation("list", info, &info.gvk, schema, "ForAllNamespaces"),
        )]);
        insert(paths, everywhere, false, false, list);
    }
    insert(
        paths,
        object.clone(),
        info.namespaced,
        true,
        object_operations(&info.verbs, info, &info.gvk, schema, ""),
    );
    for (part, schema) in parts {
        let path = format!("{object}/{}", part.name);
        let suffix = capitalized(&part.name);
        insert(
            paths,
            path,
            info.namespaced,
            true,
            object_operations(&part.verbs, info, &part.gvk, schema, &suffix),
        );
    }
}

fn object_operations(
    verbs: &[String],
    info: &ResourceInfo,
    gvk: &Gvk,
    schema: &str,
    suffix: &str,
) -> Map<String, Value> {
    let methods =
        [("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete"), ("create", "post")];
    let mut operations = Map::new();
    for (verb, method) in methods {
        // On the object itself there is nothing to POST to; subresources have it.
        let served = verbs.iter().any(|own| own == verb) && (verb != "create" || !suffix.is_empty());
        if served {
            operations.insert(method.to_owned(), operation(verb, info, gvk, schema, suffix));
        }
    }
    operations
}

fn insert(
    paths: &mut Map<String, Value>,
    path: String,
    namespaced: bool,
    named: bool,
    mut operations: Map<String, Value>,
) {
    if operations.is_empty() {
        return;
    }
    let mut parameters = Vec::new();
    if named {
        parameters.push(parameter("name", "path", "string", "name of the object"));
    }
    if namespaced {
        parameters.push(parameter("namespace", "path", "string", "namespace of the object"));
    }
    if !parameters.is_empty() {
        operations.insert("parameters".to_owned(), parameters.into());
    }
    paths.insert(path, Value::Object(operations));
}

fn operation(verb: &str, info: &ResourceInfo, gvk: &Gvk, schema: &str, suffix: &str) -> Value {
    let scope = if info.namespaced { "Namespaced" } else { "" };
    let operation_id = format!(
        "{verb}{}{}{scope}{}{suffix}",
        capitalized(&info.gvk.group),
        capitalized(&info.gvk.version),
        info.gvk.kind
    );
    let reference = json!({ "$ref": format!("#/components/schemas/{schema}") });
    let content = |media_types: &[&str]| -> Value {
        let entries = media_types.iter().map(|media| ((*media).to_owned(), json!({ "schema": reference })));
        Value::Object(entries.collect())
    };
    let mut operation = json!({
        "operationId": operation_id,
        "x-kubernetes-action": verb,
        "x-kubernetes-group-version-kind": { "group": gvk.group, "version": gvk.version, "kind": gvk.kind },
        "parameters": parameters(verb),
        "responses": {
            "200": { "description": "OK", "content": content(&["application/json", "application/yaml"]) },
            "401": { "description": "Unauthorized" },
        },
    });
    let patches = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ];
    let body = match verb {
        "create" | "update" => Some(json!({ "content": content(&["*/*"]), "required": true })),
        "patch" => {
            let entries = patches.iter().filter(|patch| info.builtin || !patch.contains("strategic"));
            let schema =
                json!({ "schema": { "type": "object", "description": "A patch of the named format." } });
            let content: Map<String, Value> =
                entries.map(|patch| ((*patch).to_owned(), schema.clone())).collect();
            Some(json!({ "content": content, "required": true }))
        }
        _ => None,
    };
    if let (Some(body), Some(map)) = (body, operation.as_object_mut()) {
        map.insert("requestBody".to_owned(), body);
    }
    operation
}

fn parameters(verb: &str) -> Vec<Value> {
    let query = |name: &str, value_type: &str, text: &str| parameter(name, "query", value_type, text);
    let mut parameters = Vec::new();
    if matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection") {
        parameters.push(query(
            "dryRun",
            "string",
            "`All`: everything is done but the last step of storing it",
        ));
    }
    if matches!(verb, "create" | "update" | "patch") {
        parameters.push(query("fieldManager", "string", "who owns the fields that this request sets"));
        let text = "what happens with unknown and duplicate fields: Ignore, Warn or Strict";
        parameters.push(query("fieldValidation", "string", text));
    }
    if verb == "patch" {
        parameters.push(query("force", "boolean", "take over fields that others own, on apply"));
    }
    if matches!(verb, "list" | "deletecollection") {
        parameters.push(query("labelSelector", "string", "selects objects by their labels"));
        parameters.push(query("fieldSelector", "string", "selects objects by their fields"));
        parameters.push(query("limit", "integer", "the most objects to answer at once"));
        parameters.push(query("continue", "string", "token of the next page"));
        parameters.push(query("resourceVersion", "string", "state to read"));
        parameters.push(query("resourceVersionMatch", "string", "how resourceVersion is meant"));
    }
    if verb == "list" {
        parameters.push(query("watch", "boolean", "answer the changes, and not the list"));
        parameters.push(query("allowWatchBookmarks", "boolean", "send BOOKMARK events"));
        parameters.push(query("sendInitialEvents", "boolean", "begin a watch with what there is"));
        parameters.push(query("timeoutSeconds", "integer", "when a watch ends"));
    }
    parameters
}

fn parameter(name: &str, place: &str, value_type: &str, description: &str) -> Value {
    json!({
        "name": name,
        "in": place,
        "description": description,
        "required": place == "path",
        "schema": { "type": value_type, "uniqueItems": true },
    })
}

/// `rbac.authorization.k8s.io` as `RbacAuthorizationK8sIo`.
fn capitalized(text: &str) -> String {
    text.split(['.', '-', '/'])
        .map(|word| {
            let mut chars = word.chars();
            chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
        })
        .collect()
}
