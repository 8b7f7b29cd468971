//! The certificate that is served now.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificate that is served now; another one takes effect with the next connection.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    key: RwLock<Option<Arc<CertifiedKey>>>,
}

impl Serving {
    /// Serves this certificate chain from now on, unless it can't be used.
    pub(crate) fn set(&self, certificates_pem: &[u8], key_pem: &[u8]) -> anyhow::Result<()> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates_pem).collect();
        let certificates = certificates.context("the certificate is not PEM")?;
        anyhow::ensure!(!certificates.is_empty(), "there is no certificate");
        let key = PrivateKeyDer::from_pem_slice(key_pem).context("the private key is not PEM")?;
        let key = CertifiedKey::from_der(certificates, key, &default_provider());
        let key = key.context("certificate and private key can't be used")?;
        *self.key.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        Ok(())
    }

    /// How connections are made with it.
    pub(crate) fn config(self: Arc<Self>) -> anyhow::Result<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .context("set up TLS")?
            .with_no_client_auth()
            .with_cert_resolver(self);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
