//! The server's certificate authority, and users that prove themselves with a certificate of it.

mod der;

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::User;

/// A key or certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate")]
pub struct CertificateError(#[from] rcgen::Error);

/// A name or address that a certificate is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectName {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// A certificate with its private key, both as PEM.
#[derive(Clone)]
pub struct CertificateAndKey {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key.
    pub key_pem: String,
}

impl std::fmt::Debug for CertificateAndKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificateAndKey(..)")
    }
}

/// A certificate authority whose key never leaves the process.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority.
    pub fn generate() -> Result<Self, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name("kubernetes", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// The authority's certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        self.issuer.pem()
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A serving certificate for these names.
    pub fn issue_server(
        &self,
        names: &[SubjectName],
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), CertificateError> {
        let (certificate, key) = self.server_certificate(names)?;
        Ok((certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }

    /// A serving certificate for these names, for a program that reads it from files.
    pub fn issue_server_pem(&self, names: &[SubjectName]) -> Result<CertificateAndKey, CertificateError> {
        let (certificate, key) = self.server_certificate(names)?;
        Ok(CertificateAndKey { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    fn server_certificate(&self, names: &[SubjectName]) -> Result<(Certificate, KeyPair), CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name("kube-apiserver", None);
        for name in names {
            params.subject_alt_names.push(match name {
                SubjectName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                SubjectName::Ip(address) => SanType::IpAddress(*address),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate, key))
    }

    /// A client certificate: the user's name is the common name, the group its organisation.
    pub fn issue_client(
        &self,
        name: &str,
        group: Option<&str>,
    ) -> Result<CertificateAndKey, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(name, group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(CertificateAndKey { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn distinguished_name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// The user that a verified certificate names: common name and organisations. `None` without a common name.
pub fn user_of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let subject = der::subject(certificate)?;
    Some(User { name: subject.common_name?, groups: subject.organizations, ..User::default() })
}
