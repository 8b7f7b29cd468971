//! What a request's path names.

use super::query::percent_decode;

/// Paths with more segments than this name nothing.
const SEGMENTS_MAX: usize = 16;

/// The meaning of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/`
    Index,
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz`, and one check of theirs.
    Health { endpoint: String, check: Option<String> },
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/G`
    Group(String),
    /// `/api/v1`, `/apis/G/V`
    Resources { group: String, version: String },
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/G/V`; the text after `/openapi/v3/`.
    OpenApiDocument(String),
    /// A resource, an object, or a part of one.
    Resource(ResourcePath),
    /// Nothing that is served.
    Unknown,
}

/// The path of a resource, an object, or a part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) resource: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Route {
    /// Parses the path of a URI.
    pub(crate) fn parse(path: &str) -> Self {
        let Some(decoded) = segments(path) else {
            return Self::Unknown;
        };
        let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        match parts.as_slice() {
            [] => Self::Index,
            ["version"] => Self::Version,
            [endpoint @ ("healthz" | "livez" | "readyz")] => {
                Self::Health { endpoint: (*endpoint).to_owned(), check: None }
            }
            [endpoint @ ("healthz" | "livez" | "readyz"), check] => {
                Self::Health { endpoint: (*endpoint).to_owned(), check: Some((*check).to_owned()) }
            }
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group((*group).to_owned()),
            ["api", version] => Self::Resources { group: String::new(), version: (*version).to_owned() },
            ["apis", group, version] => {
                Self::Resources { group: (*group).to_owned(), version: (*version).to_owned() }
            }
            ["openapi", "v2"] => Self::OpenApiV2,
            ["openapi", "v3"] => Self::OpenApiIndex,
            ["openapi", "v3", document @ ..] => Self::OpenApiDocument(document.join("/")),
            ["api", version, rest @ ..] => resource("", version, rest),
            ["apis", group, version, rest @ ..] => resource(group, version, rest),
            _ => Self::Unknown,
        }
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Route {
    // A namespace's own subresources look like resources of the namespace.
    let (namespace, rest) = match rest {
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        _ => (None, rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, None, None),
        [resource, name] => (*resource, Some(*name), None),
        [resource, name, subresource @ ..] => (*resource, Some(*name), Some(subresource.join("/"))),
        [] => return Route::Unknown,
    };
    Route::Resource(ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace,
        resource: resource.to_owned(),
        name: name.map(str::to_owned),
        subresource,
    })
}

/// The decoded segments; `None` for a path that can't name anything.
fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Some(Vec::new());
    }
    let mut segments = Vec::new();
    for segment in path.split('/') {
        let segment = percent_decode(segment, false)?;
        if segment.is_empty() || segments.len() == SEGMENTS_MAX {
            return None;
        }
        segments.push(segment);
    }
    Some(segments)
}
