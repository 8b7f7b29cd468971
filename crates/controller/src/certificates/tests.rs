//! Rotation as a table, the Secret both ways, and certificates that a client accepts.

use api::webhooks::ValidatingWebhooks;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::rotation::{Held, Issued, LIFETIME_S, OVERLAP_S, RENEW_S, Step, apply, step};
use super::{issue, keeper, secret};

fn issued(name: &str, expires_at_s: i64) -> Issued {
    let text = |what: &str| format!("{what} {name}");
    Issued { certificate: text("certificate"), key: text("key"), authority: text("authority"), expires_at_s }
}

fn held(expires_at_s: i64) -> Held {
    Held { current: issued("a", expires_at_s), next: None, former: None }
}

#[test]
fn each_state_has_one_next_step() {
    let end = 10 * LIFETIME_S;
    let fresh = held(end);
    let prepared = Held { next: Some((issued("b", end + 9), 1000)), ..fresh.clone() };
    let promoted = Held { former: Some(("authority z".to_owned(), 1000)), ..fresh.clone() };
    for (case, held, now_s, is_published, expected) in [
        ("nothing", None, 5, true, Step::Issue),
        ("expired", Some(&fresh), end, true, Step::Issue),
        ("fresh", Some(&fresh), 5, true, Step::Wait { until_s: end - RENEW_S }),
        ("fresh and not published", Some(&fresh), 5, false, Step::Wait { until_s: end - RENEW_S }),
        ("old", Some(&fresh), end - RENEW_S, true, Step::Prepare),
        ("prepared just now", Some(&prepared), 1001, true, Step::Wait { until_s: 1000 + OVERLAP_S }),
        ("prepared and known", Some(&prepared), 1000 + OVERLAP_S, true, Step::Promote),
        ("prepared, some don't know", Some(&prepared), 9000, false, Step::Wait { until_s: 9060 }),
        ("prepared, and the current one has ended", Some(&prepared), end, false, Step::Issue),
        ("promoted just now", Some(&promoted), 1001, true, Step::Wait { until_s: 1000 + OVERLAP_S }),
        ("promoted long ago", Some(&promoted), 1000 + OVERLAP_S, false, Step::Forget),
    ] {
        assert_eq!(step(held, now_s, is_published), expected, "{case}");
    }
}

/// Through ten lifetimes: whatever is served is signed by an authority that was published an hour before, and is valid.
#[test]
fn renewal_has_no_gap() {
    let (mut held, mut now_s, mut number, mut promotions): (Option<Held>, i64, u32, u32) = (None, 0, 0, 0);
    // When each authority first was in the bundle.
    let mut published = std::collections::BTreeMap::new();
    while now_s < 10 * LIFETIME_S {
        let next = step(held.as_ref(), now_s, true);
        if let Step::Wait { until_s } = next {
            assert!(until_s > now_s, "it never ends");
            let state = held.as_ref().expect("something is held");
            assert!(state.current.expires_at_s > now_s);
            for pem in state.bundle().lines() {
                published.entry(pem.to_owned()).or_insert(now_s);
            }
            now_s = until_s;
            continue;
        }
        let made = matches!(next, Step::Issue | Step::Prepare).then(|| {
            number += 1;
            issued(&number.to_string(), now_s + LIFETIME_S)
        });
        if next == Step::Promote {
            let (coming, _) = held.as_ref().and_then(|held| held.next.clone()).expect("a next one");
            assert!(now_s - published[&coming.authority] >= OVERLAP_S);
            promotions += 1;
        }
        assert_eq!(next == Step::Issue, held.is_none(), "only the first one is made in a hurry");
        held = apply(held.as_ref(), next, now_s, made);
        assert!(held.as_ref().is_some_and(|held| held.bundle().contains(&held.current.authority)));
    }
    assert!(promotions >= 14, "{promotions} promotions");
}

#[test]
fn a_secret_reads_back_as_it_is_written_and_keeps_what_is_not_ours() {
    let full = Held {
        current: issued("a", 86_400),
        next: Some((issued("b", 172_800), 7)),
        former: Some(("authority z".to_owned(), 9)),
    };
    let mut object = Secret::default();
    object.metadata.annotations = Some([("mine".to_owned(), "stays".to_owned())].into());
    for held in [full.clone(), held(86_400), full] {
        secret::write(&mut object, &held);
        assert_eq!(secret::read(&object), Some(held));
    }
    assert_eq!(object.metadata.annotations.as_ref().unwrap()["mine"], "stays");
    // One of others, whose end nobody knows, is none of ours.
    object.metadata.annotations = None;
    assert_eq!(secret::read(&object), None);
    assert_eq!(secret::read(&Secret::default()), None);
}

#[test]
fn a_certificate_is_accepted_by_who_trusts_its_authority_and_by_nobody_else() {
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    let now_s = 1_800_000_000;
    let (one, other) = (issue::issue("svc", "ns", now_s).unwrap(), issue::issue("svc", "ns", now_s).unwrap());
    let check = |authorities: &str, name: &str, at_s: i64| {
        let mut roots = rustls::RootCertStore::empty();
        for pem in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            roots.add(pem.unwrap()).unwrap();
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .unwrap();
        let certificate = CertificateDer::from_pem_slice(one.certificate.as_bytes()).unwrap();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at_s.unsigned_abs()));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&certificate, &[], &name, &[], at).is_ok()
    };
    assert!(check(&one.authority, "svc.ns.svc", now_s));
    assert!(check(&format!("{}{}", other.authority, one.authority), "svc.ns.svc.cluster.local", now_s));
    assert!(
        check(&one.authority, "svc.ns.svc", one.expires_at_s - 1) && one.expires_at_s > now_s + RENEW_S * 2
    );
    assert!(!check(&one.authority, "svc.ns.svc", one.expires_at_s + 86_400));
    assert!(!check(&other.authority, "svc.ns.svc", now_s));
    assert!(!check(&one.authority, "svc.other.svc", now_s));
    crate::webhook::Serving::default().set(one.certificate.as_bytes(), one.key.as_bytes()).unwrap();
    let mixed = crate::webhook::Serving::default().set(one.certificate.as_bytes(), other.key.as_bytes());
    assert!(mixed.is_err(), "a key of another certificate");
}

#[test]
fn a_bundle_is_written_where_it_differs_and_nothing_else_is() {
    let configuration = |bundles: [Option<&str>; 2]| -> ValidatingWebhooks {
        let hook = |bundle: Option<&str>| json!({"name": "h", "new-field": 1, "clientConfig": {"service": {"name": "s"}, "caBundle": bundle.map(|it| STANDARD.encode(it))}});
        let metadata = json!({"name": "c", "resourceVersion": "7"});
        serde_json::from_value(json!({"metadata": metadata, "webhooks": bundles.map(hook)})).unwrap()
    };
    assert_eq!(keeper::bundle_patch(&configuration([Some("x"), Some("x")]), "x"), None);
    let patch = keeper::bundle_patch(&configuration([None, Some("x")]), "x").unwrap();
    assert_eq!(patch["metadata"], json!({"resourceVersion": "7"}));
    for hook in patch["webhooks"].as_array().unwrap() {
        assert_eq!(
            (&hook["clientConfig"]["caBundle"], &hook["new-field"]),
            (&json!(STANDARD.encode("x")), &json!(1))
        );
    }
    let mut injected = configuration([None, None]);
    injected.metadata.annotations =
        Some([("cert-manager.io/inject-ca-from".to_owned(), "n/c".to_owned())].into());
    assert_eq!(keeper::bundle_patch(&injected, "x"), None);
}

#[tokio::test]
async fn certificates_of_others_are_followed_and_a_broken_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    assert!(!super::files::are_there(directory.path()));
    let one = issue::issue("svc", "ns", 1_800_000_000).unwrap();
    std::fs::write(directory.path().join("tls.crt"), &one.certificate).unwrap();
    std::fs::write(directory.path().join("tls.key"), &one.key).unwrap();
    assert!(super::files::are_there(directory.path()));
    let serving = crate::webhook::Serving::default();
    let (first, is_first) = tokio::sync::oneshot::channel();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let told = || {
        first.send(()).ok();
    };
    let follow = super::files::follow(directory.path().to_owned(), &serving, told, shutdown.clone());
    let stop = async {
        is_first.await.unwrap();
        shutdown.cancel();
    };
    let (followed, ()) = tokio::join!(follow, stop);
    followed.unwrap();
}
