//! The Secret as it is stored.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::rotation::{Held, Issued};

/// As cert-manager and Kubernetes name them.
const CURRENT: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
const NEXT: [&str; 3] = ["next-tls.crt", "next-tls.key", "next-ca.crt"];
const FORMER_AUTHORITY: &str = "former-ca.crt";
const EXPIRES_AT: &str = "egressgateway.spidernet.io/expires-at";
const NEXT_EXPIRES_AT: &str = "egressgateway.spidernet.io/next-expires-at";
const NEXT_SINCE: &str = "egressgateway.spidernet.io/next-since";
const FORMER_UNTIL: &str = "egressgateway.spidernet.io/former-until";

/// What the Secret holds; `None` where there is no certificate whose end is known.
pub(super) fn read(secret: &Secret) -> Option<Held> {
    let current = issued(secret, CURRENT, EXPIRES_AT)?;
    let next = issued(secret, NEXT, NEXT_EXPIRES_AT).zip(time(secret, NEXT_SINCE));
    let former = text(secret, FORMER_AUTHORITY).zip(time(secret, FORMER_UNTIL));
    Some(Held { current, next, former })
}

fn issued(secret: &Secret, [certificate, key, authority]: [&str; 3], expires_at: &str) -> Option<Issued> {
    Some(Issued {
        certificate: text(secret, certificate)?,
        key: text(secret, key)?,
        authority: text(secret, authority)?,
        expires_at_s: time(secret, expires_at)?,
    })
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

fn time(secret: &Secret, annotation: &str) -> Option<i64> {
    let text = secret.metadata.annotations.as_ref()?.get(annotation)?;
    Some(text.parse::<jiff::Timestamp>().ok()?.as_second())
}

/// Puts it into a Secret, whose other annotations and labels stay.
pub(super) fn write(secret: &mut Secret, held: &Held) {
    let mut data = BTreeMap::new();
    let mut times = BTreeMap::new();
    let mut put = |[certificate, key, authority]: [&str; 3], issued: &Issued| {
        for (key, text) in
            [(certificate, &issued.certificate), (key, &issued.key), (authority, &issued.authority)]
        {
            data.insert(key.to_owned(), ByteString(text.clone().into_bytes()));
        }
    };
    put(CURRENT, &held.current);
    times.insert(EXPIRES_AT, held.current.expires_at_s);
    if let Some((next, since_s)) = &held.next {
        put(NEXT, next);
        times.insert(NEXT_EXPIRES_AT, next.expires_at_s);
        times.insert(NEXT_SINCE, *since_s);
    }
    if let Some((authority, until_s)) = &held.former {
        data.insert(FORMER_AUTHORITY.to_owned(), ByteString(authority.clone().into_bytes()));
        times.insert(FORMER_UNTIL, *until_s);
    }
    secret.data = Some(data);
    let annotations = secret.metadata.annotations.get_or_insert_default();
    for ours in [EXPIRES_AT, NEXT_EXPIRES_AT, NEXT_SINCE, FORMER_UNTIL] {
        annotations.remove(ours);
    }
    for (name, at_s) in times {
        let at = jiff::Timestamp::from_second(at_s).unwrap_or_default();
        annotations.insert(name.to_owned(), at.to_string());
    }
}
