//! TLS as a client, with `ring` and the certificates that the operating system trusts. They are read once.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    crypto::ring,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};

/// Some hundred parsed certificates. If the system has none, the list is empty, and connections that need one
/// fail.
static SYSTEM: LazyLock<Arc<RootCertStore>> =
    LazyLock::new(|| store(rustls_native_certs::load_native_certs().certs));

/// The certificates that the operating system trusts. Empty if none of them can be used.
#[must_use]
pub fn system_roots() -> Arc<RootCertStore> {
    Arc::clone(&SYSTEM)
}

/// The root certificates in this PEM file. Empty if none of them can be used.
pub fn roots_in(path: &Path) -> Result<Arc<RootCertStore>, pem::Error> {
    Ok(store(certificates(path)?))
}

/// The certificates of a PEM file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_file_iter(path)?.collect()
}

fn store(certificates: Vec<CertificateDer<'static>>) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    Arc::new(roots)
}

/// The TLS configuration of a client, without roots. The provider is named here, so that no process-wide
/// default is needed, and no order of set-up.
///
/// # Panics
/// Never: `ring` offers rustls' own protocol versions.
#[must_use]
pub fn client() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring offers rustls' own protocol versions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_roots_are_read_once() {
        assert!(Arc::ptr_eq(&system_roots(), &system_roots()));
    }
}
