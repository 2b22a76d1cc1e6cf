//! Whom an aggregator's certificate is believed, and the certificate that a pump shows itself.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

/// PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Who vouches for the aggregator, in place of those that the operating system trusts.
    pub roots: Option<PathBuf>,
    /// The certificate, with those that vouch for it, and its key, that the pump shows.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is not there, or is no PEM file of the kind.
    #[error("reading {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// Nothing to verify an aggregator against.
    #[error("there is no usable root certificate")]
    NoRoots,
    /// The certificate and the key do not go together.
    #[error("using the certificate and its key")]
    Unusable(#[from] rustls::Error),
}

/// How connections are encrypted.
///
/// # Panics
/// Never: ring offers rustls' own protocol versions.
pub fn config(files: &Files) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring offers rustls' own protocol versions")
        .with_root_certificates(roots(files.roots.as_deref())?);
    let config = match &files.own {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
            builder.with_client_auth_cert(read(certificates)?, key)?
        }
    };
    Ok(Arc::new(config))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let certificates = match file {
        Some(path) => read(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(unreadable(path))
}

fn unreadable(path: &Path) -> impl FnOnce(pem::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::Unreadable { path, source }
}
