//! TLS to an aggregator: which certificates are trusted, and the pump's own certificate.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{
        PrivateKeyDer,
        pem::{self, PemObject},
    },
};

use crate::tls;

/// The PEM files with certificates and keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The trusted root certificates. `None`: those of the operating system.
    pub roots: Option<PathBuf>,
    /// The certificate chain of the pump, and its key.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or is not a PEM file of the expected kind.
    #[error("reading {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// There is no root certificate, so that no aggregator could be verified.
    #[error("there is no usable root certificate")]
    NoRoots,
    /// The certificate and the key do not match.
    #[error("using the certificate and its key")]
    Unusable(#[from] rustls::Error),
}

/// Builds the TLS configuration.
pub fn config(files: &Files) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = tls::client().with_root_certificates(roots(files.roots.as_deref())?);
    let config = match &files.own {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => {
            let chain = tls::certificates(certificates).map_err(unreadable(certificates))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    Ok(Arc::new(config))
}

fn roots(file: Option<&Path>) -> Result<Arc<RootCertStore>, TlsError> {
    let roots = match file {
        Some(path) => tls::roots_in(path).map_err(unreadable(path))?,
        None => tls::system_roots(),
    };
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

fn unreadable(path: &Path) -> impl FnOnce(pem::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::Unreadable { path, source }
}
