use std::collections::HashMap;

use http::{HeaderMap, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::access::{self, Action, ResourceAction};
use super::certificate::{Authority, user_of_certificate};
use super::service_account::{ServiceAccountToken, TokenIssuer};
use super::{AUTHENTICATED, Authenticator, LiveObjects, User};
use crate::status_error::StatusError;
use crate::store::{Context, Store, StoreOptions};

struct Objects(HashMap<(&'static str, &'static str), &'static str>);

impl LiveObjects for Objects {
    fn uid(&self, resource: &str, _: Option<&str>, name: &str) -> Option<String> {
        let found = self.0.iter().find(|((own, own_name), _)| *own == resource && *own_name == name);
        found.map(|(_, uid)| (*uid).to_owned())
    }
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a moment")
}

fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn token() -> ServiceAccountToken {
    ServiceAccountToken {
        namespace: "ns".to_owned(),
        name: "agent".to_owned(),
        uid: "u1".to_owned(),
        pod: Some(("p".to_owned(), "u2".to_owned())),
        id: "t1".to_owned(),
        ..ServiceAccountToken::default()
    }
}

fn headers(authorization: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, HeaderValue::try_from(authorization).expect("a header"));
    headers
}

fn authenticator() -> Authenticator {
    let tokens = [("secret".to_owned(), User::new("alice", &["devs"]))];
    Authenticator::new(tokens, TokenIssuer::generate().expect("a key"))
}

fn alive() -> Objects {
    Objects(HashMap::from([(("serviceaccounts", "agent"), "u1"), (("pods", "p"), "u2")]))
}

#[test]
fn a_token_says_what_it_was_issued_for() {
    let issuer = TokenIssuer::generate().expect("a key");
    let jwt = issuer.issue(&token(), now(), 600).expect("a token");
    let verified = issuer.verify(&jwt, later(599)).expect("valid");
    assert_eq!((verified.name.as_str(), verified.uid.as_str()), ("agent", "u1"));
    let user = verified.user();
    assert_eq!(user.name, "system:serviceaccount:ns:agent");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns"]);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
}

#[test]
fn a_token_is_refused_when_it_is_over_or_foreign_or_changed() {
    let issuer = TokenIssuer::generate().expect("a key");
    let jwt = issuer.issue(&token(), now(), 600).expect("a token");
    assert_eq!(issuer.verify(&jwt, later(600)), None);
    assert_eq!(issuer.verify(&jwt, later(-1)), None);
    assert_eq!(TokenIssuer::generate().expect("a key").verify(&jwt, now()), None);
    let other_audience = ServiceAccountToken { audiences: vec!["vault".to_owned()], ..token() };
    let foreign = issuer.issue(&other_audience, now(), 600).expect("a token");
    assert_eq!(issuer.verify(&foreign, now()), None);
    let claims_end = jwt.rfind('.').expect("a signature");
    let mut changed = jwt.into_bytes();
    changed[claims_end - 4] ^= 1;
    assert_eq!(issuer.verify(&String::from_utf8(changed).expect("ASCII"), now()), None);
}

#[test]
fn a_token_dies_with_its_account_and_its_pod() {
    let authenticator = authenticator();
    let jwt = authenticator.issuer().issue(&token(), now(), 600).expect("a token");
    let user = |objects: Objects| authenticator.user_of_token(&jwt, &objects, now()).map(|user| user.name);
    assert_eq!(user(alive()).as_deref(), Some("system:serviceaccount:ns:agent"));
    assert_eq!(user(Objects(HashMap::from([(("serviceaccounts", "agent"), "u1")]))), None);
    let recreated = HashMap::from([(("serviceaccounts", "agent"), "u9"), (("pods", "p"), "u2")]);
    assert_eq!(user(Objects(recreated)), None);
    let pod_recreated = HashMap::from([(("serviceaccounts", "agent"), "u1"), (("pods", "p"), "u9")]);
    assert_eq!(user(Objects(pod_recreated)), None, "another pod of the same name is another pod");
}

#[test]
fn users_come_from_tokens_then_certificates_then_nobody() {
    let authenticator = authenticator();
    let certificate = User::new("bob", &["ops"]);
    let who = |headers: &HeaderMap, certificate: Option<&User>| {
        authenticator.authenticate(headers, certificate, &alive(), now()).map(|user| user.name)
    };
    assert_eq!(who(&headers("Bearer secret"), Some(&certificate)).as_deref(), Ok("alice"));
    assert_eq!(who(&HeaderMap::new(), Some(&certificate)).as_deref(), Ok("bob"));
    assert_eq!(who(&HeaderMap::new(), None).as_deref(), Ok("system:anonymous"));
    for wrong in ["Bearer wrong", "Basic YTpi", "Bearer ", "Bearer a.b.c"] {
        let error = who(&headers(wrong), Some(&certificate)).expect_err(wrong);
        assert_eq!((error.code, error.message.as_str()), (401, "Unauthorized"));
    }
    let alice = authenticator.authenticate(&headers("bearer secret"), None, &alive(), now()).expect("alice");
    assert_eq!(alice.groups, ["devs", AUTHENTICATED]);
}

#[test]
fn a_client_certificate_names_user_and_group() {
    let authority = Authority::generate().expect("an authority");
    let pair = authority.issue_client("carol", Some("system:masters")).expect("a certificate");
    let der = <rustls_pki_types::CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(
        pair.certificate_pem.as_bytes(),
    )
    .expect("PEM");
    assert_eq!(user_of_certificate(&der), Some(User::new("carol", &["system:masters"])));
}

/// A refusal by the roles that a cluster has from the start, if it is one.
fn authorize(user: &User, action: &Action) -> Result<(), StatusError> {
    let store = Store::new(StoreOptions::default(), &mut Context { now: now(), rng: &mut || 7 });
    access::authorize(store.roles(), user, action)
}

#[test]
fn nobody_may_see_health_and_version_and_nothing_else() {
    let nobody = User::anonymous();
    let path = |path: &str, verb: &str| Action::Path { path: path.to_owned(), verb: verb.to_owned() };
    for public in ["/version", "/healthz", "/readyz", "/livez"] {
        assert_eq!(authorize(&nobody, &path(public, "get")), Ok(()), "{public}");
    }
    let error = authorize(&nobody, &path("/openapi/v3", "get")).expect_err("forbidden");
    assert_eq!(error.message, "forbidden: User \"system:anonymous\" cannot get path \"/openapi/v3\"");
    assert!(authorize(&nobody, &path("/version", "post")).is_err());
    assert!(authorize(&nobody, &path("/versions", "get")).is_err());
}

#[test]
fn a_refusal_names_user_verb_resource_and_place() {
    let text = |action: ResourceAction| {
        authorize(&User::anonymous(), &Action::Resource(action)).expect_err("forbidden").message.clone()
    };
    let named = ResourceAction {
        verb: "get".to_owned(),
        resource: "pods".to_owned(),
        namespace: "ns".to_owned(),
        name: "p".to_owned(),
        ..ResourceAction::default()
    };
    let expected = "pods \"p\" is forbidden: User \"system:anonymous\" cannot get resource \"pods\" in API group \"\" \
                    in the namespace \"ns\"";
    assert_eq!(text(named), expected);
    let unnamed = ResourceAction {
        verb: "list".to_owned(),
        group: "apps".to_owned(),
        resource: "deployments".to_owned(),
        subresource: "scale".to_owned(),
        ..ResourceAction::default()
    };
    let expected = "deployments.apps is forbidden: User \"system:anonymous\" cannot list resource \
                    \"deployments/scale\" in API group \"apps\" at the cluster scope";
    assert_eq!(text(unnamed), expected);
}

proptest! {
    #[test]
    fn arbitrary_tokens_never_panic(text in "[a-zA-Z0-9._-]{0,200}") {
        let issuer = TokenIssuer::generate().expect("a key");
        prop_assert_eq!(issuer.verify(&text, now()), None);
    }
}
