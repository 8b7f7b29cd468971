use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;

use super::accept::{Encoding, Form, Offer, negotiate};
use super::path::{ResourcePath, Route};
use super::{Query, action, body};
use crate::auth::access::{Action, ResourceAction};
use crate::limits::Limits;
use crate::store::{Body, PatchType};

/// Group, version, namespace, resource, name and subresource as text, `-` where there is none.
fn shown(path: &str) -> String {
    match Route::parse(path) {
        Route::Resource(ResourcePath { group, version, namespace, resource, name, subresource }) => {
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let group = if group.is_empty() { "-".to_owned() } else { group };
            format!(
                "{group} {version} {} {resource} {} {}",
                or_dash(namespace),
                or_dash(name),
                or_dash(subresource)
            )
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn paths_name_resources_objects_and_their_parts() {
    let cases = [
        ("/api/v1/pods", "- v1 - pods - -"),
        ("/api/v1/namespaces/a/pods", "- v1 a pods - -"),
        ("/api/v1/namespaces/a/pods/p", "- v1 a pods p -"),
        ("/api/v1/namespaces/a/pods/p/log", "- v1 a pods p log"),
        ("/api/v1/namespaces", "- v1 - namespaces - -"),
        ("/api/v1/namespaces/a", "- v1 - namespaces a -"),
        ("/api/v1/namespaces/a/finalize", "- v1 - namespaces a finalize"),
        ("/api/v1/namespaces/a/status", "- v1 - namespaces a status"),
        ("/api/v1/nodes/n", "- v1 - nodes n -"),
        ("/apis/apps/v1/namespaces/a/deployments/d/scale", "apps v1 a deployments d scale"),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "rbac.authorization.k8s.io v1 - clusterroles system:node -",
        ),
        ("/api", "CoreVersions"),
        ("/apis/", "Groups"),
        ("/apis/apps", "Group(\"apps\")"),
        ("/openapi/v3/apis/apps/v1", "OpenApiDocument(\"apis/apps/v1\")"),
        ("/openapi/v2", "OpenApiV2"),
        ("/nothing", "Unknown"),
        ("/api/v1//pods", "Unknown"),
        ("/api/v1/%zz", "Unknown"),
        ("", "Unknown"),
    ];
    for (path, expected) in cases {
        assert_eq!(shown(path), expected, "{path}");
    }
}

#[test]
fn queries_are_decoded_and_empty_values_count_as_absent() {
    let query =
        Query::parse("labelSelector=a%3Db%2Cc+d&command=sh&command=-c&watch&limit=&follow=false&x=%zz");
    assert_eq!(query.text("labelSelector"), Some("a=b,c d"));
    assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c"]);
    assert!(query.flag("watch"));
    assert!(!query.flag("follow"));
    assert_eq!(query.text("limit"), None);
    assert_eq!(query.text("x"), None);
    assert_eq!(Query::parse("limit=5").number("limit"), Ok(Some(5)));
    assert!(Query::parse("limit=five").number("limit").is_err());
}

#[track_caller]
fn check_accept(accept: &str, offer: Offer, expected: Option<Form>) {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::ACCEPT, HeaderValue::try_from(accept).expect("a header"));
    assert_eq!(negotiate(&headers, offer).ok(), expected, "{accept}");
}

#[test]
fn the_first_form_that_can_be_answered_is_chosen() {
    let json = Some(Form::Plain(Encoding::Json));
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    check_accept(table, Offer::Objects, Some(Form::Table));
    check_accept("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Offer::Objects, json);
    check_accept("application/vnd.kubernetes.protobuf,application/json", Offer::Objects, json);
    check_accept("application/vnd.kubernetes.protobuf", Offer::Objects, None);
    check_accept("text/html, */*;q=0.8", Offer::Objects, json);
    check_accept("application/yaml", Offer::Objects, Some(Form::Plain(Encoding::Yaml)));
    check_accept("application/yaml;q=0.5, application/json", Offer::Objects, json);
    check_accept("application/json;q=0", Offer::Objects, None);
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    check_accept(metadata, Offer::Objects, Some(Form::Metadata));
    let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    check_accept(discovery, Offer::Discovery, Some(Form::Discovery("v2")));
    check_accept(discovery, Offer::PlainOnly, json);
}

#[test]
fn requests_are_named_by_verb_and_resource_for_access() {
    let verb = |method: Method, path: &str, query: &str| {
        let Action::Resource(ResourceAction { verb, namespace, .. }) =
            action(&Route::parse(path), &method, path, &Query::parse(query))
        else {
            return "path".to_owned();
        };
        format!("{verb} in {namespace:?}")
    };
    assert_eq!(verb(Method::GET, "/api/v1/namespaces/a/pods", ""), "list in \"a\"");
    assert_eq!(verb(Method::GET, "/api/v1/namespaces/a/pods", "watch=true"), "watch in \"a\"");
    assert_eq!(verb(Method::GET, "/api/v1/namespaces/a", ""), "get in \"a\"");
    assert_eq!(verb(Method::DELETE, "/api/v1/nodes", ""), "deletecollection in \"\"");
    assert_eq!(verb(Method::POST, "/api/v1/namespaces/a/pods/p/eviction", ""), "create in \"a\"");
    assert_eq!(verb(Method::GET, "/version", ""), "path");
}

#[test]
fn protobuf_bodies_are_refused_in_the_exact_form() {
    let error = body::check_object_type("application/vnd.kubernetes.protobuf", false).expect_err("refused");
    assert_eq!((error.code, error.reason.as_str()), (415, "UnsupportedMediaType"));
    let expected = "the body of the request was in an unknown format - accepted media types include: \
                    application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!(error.message, expected);
}

proptest! {
    #[test]
    fn arbitrary_paths_and_queries_never_panic(path in "\\PC{0,60}", wild in "[/%0-9a-f.+&=]{0,60}") {
        for text in [path, wild] {
            let _ = Route::parse(&text);
            let _ = Query::parse(&text);
        }
    }

    #[test]
    fn arbitrary_accept_headers_never_panic(text in "[a-z/*;,=q.0-9 ]{0,80}") {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::ACCEPT, HeaderValue::try_from(text).expect("visible text"));
        let _ = negotiate(&headers, Offer::Objects);
    }

    #[test]
    fn arbitrary_bodies_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = Body::decode(&bytes, "application/json");
        let _ = Body::decode(&bytes, "application/yaml");
        for patch in [PatchType::Json, PatchType::Merge, PatchType::Strategic, PatchType::Apply] {
            let _ = body::decode_patch(&bytes, patch, &Limits::default());
        }
    }

    #[test]
    fn bodies_that_look_like_json_never_panic(text in "[\\[\\]{}:,\"a0 tn.e\\\\u-]{0,120}") {
        let _ = Body::decode(text.as_bytes(), "application/json");
        let _ = Body::decode(text.as_bytes(), "application/yaml");
        let _ = body::decode_patch(text.as_bytes(), PatchType::Json, &Limits::default());
    }

    #[test]
    fn deep_nesting_is_refused_and_overflows_no_stack(depth in 1usize..5000) {
        let text = format!("{}{}", "{\"a\":".repeat(depth), "1");
        let _ = Body::decode(text.as_bytes(), "application/json");
        let list = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let _ = Body::decode(list.as_bytes(), "application/yaml");
        let _ = body::decode_patch(list.as_bytes(), PatchType::Json, &Limits::default());
    }
}
