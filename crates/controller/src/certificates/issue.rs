//! New certificates.

use anyhow::Context;
use jiff::tz::Offset;
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use super::rotation::{Issued, LIFETIME_S};

/// Clocks of API servers may be behind.
const BACKDATED_DAYS: i64 = 1;

/// A certificate for a Service, signed by an authority that signs nothing else.
pub(super) fn issue(service: &str, namespace: &str, now_s: i64) -> anyhow::Result<Issued> {
    let from = day(now_s, -BACKDATED_DAYS)?;
    let expires_at_s = now_s + LIFETIME_S;
    let until = day(expires_at_s, 0)?;
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params
    };
    let mut authority = params("egressgateway webhook authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().context("make a key")?;
    let authority = CertifiedIssuer::self_signed(authority, key).context("make an authority")?;

    let names = [
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
        format!("{service}.{namespace}"),
    ];
    // A common name holds 64 characters, and nobody reads it.
    let mut server = params("egressgateway webhook");
    for name in names {
        let name = name.as_str().try_into().with_context(|| format!("`{name}` is no DNS name"))?;
        server.subject_alt_names.push(SanType::DnsName(name));
    }
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().context("make a key")?;
    let certificate = server.signed_by(&key, &authority).context("sign a certificate")?;
    Ok(Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        authority: authority.pem(),
        expires_at_s: midnight_before(expires_at_s),
    })
}

/// Certificates end at midnight, UTC.
fn midnight_before(at_s: i64) -> i64 {
    at_s - at_s.rem_euclid(86_400)
}

/// Year, month and day.
fn day(at_s: i64, more_days: i64) -> anyhow::Result<(i32, u8, u8)> {
    let at = Timestamp::from_second(at_s).context("a time")?;
    let date =
        Offset::UTC.to_datetime(at).date().checked_add(Span::new().days(more_days)).context("a date")?;
    let part = |number: i8| u8::try_from(number).context("a date");
    Ok((date.year().into(), part(date.month())?, part(date.day())?))
}
